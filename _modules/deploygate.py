"""
The gate's one rule: may this run change this minion?

.. versionadded:: 0.1.0

A run of states passes if somebody holds the deploy token and the run carries the ref of that hold:

.. code-block:: bash

    salt 'docs' state.apply pillar='{"deploytoken": {"ref": "f9c2a1b0"}}'

Two places ask the rule, because neither sees every run. The executor ``deploygate`` asks before each function of
``state`` that is published to the minion or called on it. The state :py:func:`deploygate.passed
<saltext.deploytoken.states.deploygate.passed>`, first in the top file, asks for what the minion starts by itself
(schedule, start-up). ``docs/gate.md`` says how to install both.

What a run says of itself comes with the run, under the pillar key ``deploytoken``. What the *token* says must not come
that way: ``pillar=`` on a command line overrides the pillar that the run's states see, external pillars included
(measured on 3006.28 and 3008.3). So the rule compiles the pillar once more, without any override, and with a nonce.
The external pillar ``deploytoken`` answers under the same key, and must echo the nonce: an answer out of a cache
cannot know it. Without an answer, or with a late, stale or malformed one, the gate is closed.

``deploygate`` sets how strict the rule is on a minion: in the minion's configuration or, failing that, in pillar. It
is read from that same fresh pillar, so a run cannot switch its own gate off.

``enforce``
    The default. A run that is not allowed is refused.
``warn``
    The run passes. The log, an event ``deploytoken/gate/warned`` and a warning of the gate's state say that it would
    have been refused.
``off``
    Every run passes, and nothing is asked.

In an emergency, ``pillar='{"deploytoken": {"break_glass": "why", "by": "Alice"}}'`` opens the gate. It raises an event
``deploytoken/gate/broken``, and the master keeps a record for the History entry of the next release.

This file depends on Salt alone, because it travels to the minions without the rest of this extension.
"""

import logging
import os
import secrets
import time

import salt.exceptions
import salt.pillar
import salt.state
import salt.utils.args
import salt.utils.dictupdate
import salt.utils.state
import salt.utils.url

log = logging.getLogger(__name__)

MODES = ("enforce", "warn", "off")
# The gate's own state, by which it asks for the run in which it stands.
GATE_STATE = "deploygate.passed"
# The gate's state may use the executor's answer for the same run for so many seconds.
FRESH = 3
# These only show, test or stop a run. Every other function of `state`, also one of a later Salt, counts as changing
# the minion.
HARMLESS = (
    "state.check_request",
    "state.clear_cache",
    "state.clear_request",
    "state.disable",
    "state.enable",
    "state.event",
    "state.get_pauses",
    "state.graph",
    "state.graph_highstate",
    "state.id_exists",
    "state.list_disabled",
    "state.pause",
    "state.request",
    "state.running",
    "state.show_highstate",
    "state.show_low_sls",
    "state.show_lowstate",
    "state.show_sls",
    "state.show_state_usage",
    "state.show_states",
    "state.show_top",
    "state.sls_exists",
    "state.soft_kill",
    "state.test",
)
# These honour `test=True`. Others (state.low, state.template, …) take the argument and change things all the same.
HONOUR_TEST = (
    GATE_STATE,
    "state.apply",
    "state.high",
    "state.highstate",
    "state.pkg",
    "state.single",
    "state.sls",
    "state.sls_id",
    "state.top",
)
# These functions of SUSE's module for transactional systems run states. The gate ignores its others.
TRANSACTIONAL = (
    "transactional_update.apply",
    "transactional_update.highstate",
    "transactional_update.single",
    "transactional_update.sls",
)

# What a minion needs of each folder: an environment that has these has this extension. No later version may drop one
# of these names, or the gate of this version would refuse the sync that brings it.
SYNCED = (
    "_executors/deploygate.py",
    "_modules/busy.py",
    "_modules/deploygate.py",
    "_output/busy.py",
    "_states/busy.py",
    "_states/deploygate.py",
)
# The same of what a masterless minion needs to compile its own pillar.
MASTERLESS = ("_pillar/deploytoken.py", "_utils/saltext/deploytoken/__init__.py")
# These run a highstate if no SLS is named. `state.test` and `state.request` do so with `test=True`.
APPLY = ("state.apply", "state.request", "state.test")
# A scheduled job with one of these arguments runs the states that `ways` sees; others can leave the gate's state out.
PLAIN = {"concurrent", "mods", "pillarenv", "queue", "saltenv", "test"}


def check(pillar=None, test=False, fun="state.apply"):
    """
    Say whether a run of states is allowed here, now. Changes nothing, and puts nothing on record.

    CLI Example:

    .. code-block:: bash

        salt 'docs' deploygate.check
        salt 'docs' deploygate.check pillar='{"deploytoken": {"ref": "f9c2a1b0"}}'

    pillar
        (dict) The pillar that comes with the run. Its key ``deploytoken`` has the ``ref`` of the hold under which it
        runs, or ``break_glass`` and ``by``.

    test
        (bool) Whether it is a run with ``test=True``. Such a run is allowed if the function honours test, and only for
        ``True`` itself: Salt takes some other values for true and some for false.

    fun
        (string) The function that would run.

    Returns a dictionary: ``allowed`` (bool), ``comment`` (one line: why, and what to do next), ``mode``, and
    ``warning`` (bool): allowed, although the token does not allow it.
    """
    return _unasked(test, fun) or _asked(pillar, fun)


def admit(pillar=None, test=False, fun="state.apply"):
    """
    Decide as :py:func:`check` about a run that begins now if it is allowed. The gate's executor and state call this.

    CLI Example:

    .. code-block:: bash

        salt 'docs' deploygate.admit pillar='{"deploytoken": {"break_glass": "the site is down", "by": "Alice"}}'

    The arguments and the answer are those of :py:func:`check`. If the run passes only because somebody broke the
    glass, or because the gate only warns, the log and the event bus say so, and the master keeps a record of broken
    glass.
    """
    run = _run(pillar)
    answer = _unasked(test, fun) or (fun == GATE_STATE and _recall(run))
    if not answer:
        answer = _asked(pillar, fun)
        if answer["warning"] and answer["mode"] == "warn":
            _announce("warned", answer["comment"], {"fun": fun})
        elif answer["warning"]:
            glass = {"by": run["by"], "why": run["break_glass"]}
            _ask(fun, run["ref"], break_glass=glass)  # for the master's record; the answer is no longer needed
            _announce("broken", answer["comment"], {**glass, "fun": fun})
        if answer["allowed"]:
            _remember(run, answer)
    return answer


def keeps(saltenv=None, fun="state.highstate", args=None, kwargs=None):
    """
    Say whether a run would leave this extension on this minion. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt 'docs' deploygate.keeps saltenv=dev

    A highstate first syncs the environments that the top file gives this minion states from, and
    ``saltutil.sync_all`` does so too. Salt then removes each synced file that none of these environments has, also
    with ``test=True``, unless the minion's configuration has ``clean_dynamic_modules: False`` (3006.29 and 3008.3).
    Without this extension's files, a minion with the gate's executor refuses every function.

    saltenv
        (string) The environment of the run. Default: as Salt finds it.

    fun, args, kwargs
        (string, list, dict) The function that would run and its arguments. Default: a highstate. ``saltenv`` may be
        among these arguments.

    Returns a dictionary: ``keeps`` (bool), and ``why`` (one line, with what to do next if it is False).
    """
    try:
        lost, environments = _lost(fun, args or [], {**(kwargs or {}), **({"saltenv": saltenv} if saltenv else {})})
    except Exception as error:
        log.debug("Cannot tell what %s would remove", fun, exc_info=True)
        return {"keeps": False, "why": f"Cannot tell whether {fun} leaves this extension on this minion: {error}"}
    if not lost:
        return {"keeps": True, "why": f"{fun} leaves this extension on this minion."}
    folders = ", ".join(sorted({path.split("/")[0] for path in lost}))
    mend = "Put `clean_dynamic_modules: False` into the minion's configuration and restart it"
    if environments:
        mend += f", or add this extension to the file_roots of {environments[-1]}"
    return {
        "keeps": False,
        "why": f"{fun} would sync from {' and '.join(environments) or 'no environment'}, and Salt would remove this "
        f"extension ({folders}) from this minion. {mend}.",
    }


def ways():
    """
    List the ways round the gate that are open on this minion. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' deploygate.ways

    Returns a dictionary: ``mode``; ``executor``, ``gate_state`` and ``live_token``, whether each is in place (bool);
    and ``open``, a list of lines. Each line says what passes the gate, what would remove it from this minion, or why
    it never opens, and what to do. While there is one, the return code is 1.

    Ask through the master, not with ``salt-call``: the executor is looked for in the configuration with which the
    minion *runs*. A scheduled job is listed unless it is certain that it runs no states, or that the gate's state sees
    it: that of the top file, or one in the job's own SLS. ``docs/gate.md`` names what is always open.
    """
    fresh, nonce = _ask("deploygate.ways")
    token = fresh.get("deploytoken")
    mode = _mode(__opts__.get("deploygate")) or _mode(fresh.get("deploygate")) or "enforce"
    executors = __opts__.get("module_executors")
    found = {
        "mode": mode,
        "executor": isinstance(executors, list) and executors[:1] == ["deploygate"],
        "gate_state": _begins_with_gate("state.show_lowstate"),
        "live_token": isinstance(token, dict) and token.get("nonce") == nonce and not token.get("error"),
    }
    lines = []
    if mode != "enforce":
        lines.append(f"Every run passes: deploygate is {mode}. Set it to enforce.")
    if not found["executor"]:
        lines.append(
            "Published functions and salt-call pass, except a highstate: put deploygate first into module_executors, "
            "as in `module_executors: [deploygate, direct_call]`, and restart the minion."
        )
    if not found["gate_state"]:
        lines.append("A scheduled highstate passes: put deploytoken.gate first into the top file.")
    if not found["live_token"]:
        lines.append(f"The gate cannot open. {_verdict(token, nonce, '')[1]}")
    if not (kept := keeps())["keeps"]:
        lines.append(f"A highstate takes the gate away. {kept['why']}")
    lines += _open_jobs(found["gate_state"])
    if lines:
        __context__["retcode"] = 1
    return {**found, "open": lines}


def _open_jobs(gate_state):
    """
    Lines about the jobs of the minion's schedule that run states past the gate, or that would remove the gate.

    This reads what the minion's schedule itself reads. `schedule.list` asks over the minion's event bus instead, and
    takes half a minute of silence for an empty schedule (3006.28 and 3008.3).
    """
    jobs = {}
    for where in (__pillar__, __opts__):
        found = where.get("schedule") or {}
        if not isinstance(found, dict):
            return ["The schedule is no dictionary. Salt runs none of it."]
        jobs.update(found)
    lines = []
    for name, job in sorted(jobs.items()):
        if not isinstance(job, dict):  # settings of the schedule
            continue
        args, kwargs = job.get("args") or [], job.get("kwargs") or {}
        named = [job[key] for key in ("function", "func", "fun") if key in job]
        for fun in (str(fun) for one in named for fun in (one if isinstance(one, list) else [one])):
            if _job_passes(fun, args, kwargs, gate_state):
                lines.append(
                    f"The scheduled job {name} ({fun}) passes: delete it, give it test=True, or have its SLS include "
                    "deploytoken.gate."
                )
            if not (kept := keeps(fun=fun, args=args, kwargs=kwargs))["keeps"]:
                lines.append(f"The scheduled job {name} takes the gate away. {kept['why']}")
    return lines


def _job_passes(fun, args, kwargs, gate_state):
    """Whether this job may run states without the gate: the schedule calls no executors (Salt 3006.29 and 3008.3)."""
    if not fun.startswith("state.") and fun not in TRANSACTIONAL:
        return "state." in repr((args, kwargs))  # cmd.run, module.run and others can run states that these name
    if not _runs_states(fun):
        return False
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return True
    if kwargs.get("test") is True and fun in HONOUR_TEST:
        return False
    mods = [*args, kwargs.get("mods")][0]
    if not PLAIN.issuperset(kwargs) or len(args) > 1:
        return True
    where = {key: kwargs[key] for key in ("saltenv", "pillarenv") if key in kwargs}
    if fun in ("state.apply", "state.sls") and mods:
        return not _begins_with_gate("state.show_low_sls", mods, **where)
    if fun == "state.apply" or (fun == "state.highstate" and not args):
        return not (_begins_with_gate("state.show_lowstate", **where) if where else gate_state)
    return True


def _begins_with_gate(show, *args, **kwargs):
    """Whether a run begins with the gate's state, and ends there if it refuses. If that is unknown, it does not."""
    try:
        # Only this looks, whatever runs meanwhile: Salt would refuse to show states beside a run of states.
        first = __salt__[show](*args, **kwargs, queue=False, concurrent=True)[0]
        return (f"{first['state']}.{first['fun']}", first.get("failhard")) == (GATE_STATE, True)
    except Exception:
        log.debug("Cannot tell from %s whether the gate stands first", show, exc_info=True)
        return False


def _unasked(test, fun):
    """The answer for a run about which the token need not be asked, or None."""
    mode = _mode(__opts__.get("deploygate"))
    if mode == "off":
        return _answer(True, mode, "The gate of this minion is off.")
    if test is True and fun in HONOUR_TEST:
        return _answer(True, mode, "A test run changes nothing and passes the gate.")
    if not _runs_states(fun):
        return _answer(True, mode, f"{fun} runs no states and passes the gate.")
    return None


def _asked(pillar, fun):
    """The answer for a run of states, from the live token."""
    run = _run(pillar)
    fresh, nonce = _ask(fun, run["ref"])
    mode = _mode(__opts__.get("deploygate")) or _mode(fresh.get("deploygate")) or "enforce"
    if mode == "off":
        return _answer(True, mode, "The gate of this minion is off.")
    is_open, comment = _verdict(fresh.get("deploytoken"), nonce, run["ref"])
    if is_open:
        return _answer(True, mode, comment)
    otherwise = comment.removeprefix("Refused: ")
    if mode == "warn":
        comment = f"NOT ENFORCED HERE (deploygate: warn). Would be refused: {otherwise}"
        return _answer(True, mode, comment, warning=True)
    if run["break_glass"]:
        comment = f"Glass broken by {run['by']}: {run['break_glass']}. Would be refused: {otherwise}"
        return _answer(True, mode, comment, warning=True)
    if "break_glass" in _said(pillar):
        comment += ' In an emergency, break_glass needs a name and a reason: {"break_glass": "WHY", "by": "NAME"}.'
    return _answer(False, mode, comment)


def _runs_states(fun):
    """Whether the gate must be asked. An unknown function counts as running states."""
    if fun.startswith("transactional_update."):
        return fun in TRANSACTIONAL
    return fun not in HARMLESS


def _lost(fun, args, kwargs):
    """The files of this extension that Salt's sync would remove before this run, and the environments it asks."""
    needed = SYNCED + (MASTERLESS if __opts__["file_client"] == "local" else ())
    here = [path for path in needed if os.path.exists(os.path.join(__opts__["extension_modules"], path[1:]))]
    kinds, environments = _synced(fun, args, kwargs) if here else ([], [])
    at_stake = [path for path in here if "all" in kinds or path.split("/")[0][1:] in kinds]
    if not at_stake:
        return [], []
    served = {path for env in environments for path in __salt__["cp.list_master"](saltenv=env, prefix="_")}
    return [path for path in at_stake if path not in served], environments


def _synced(fun, args, kwargs):
    """
    What a run syncs: the kinds of files of which Salt removes what is not served, and the environments that it asks.

    As `HighState.load_dynamic`, `state.sls` with `sync_mods`, `saltutil` and `salt.utils.extmods` do it (3006.29 and
    3008.3). No other function of Salt's `state` syncs.
    """
    opts = salt.utils.state.get_sls_opts(__opts__, **kwargs)
    if "saltenv" in kwargs:
        opts["saltenv"] = kwargs["saltenv"]  # beside `localconfig` as well
    environments = None
    highstate = fun in (*APPLY, "state.highstate", "state.top")
    if fun in (*APPLY, "state.sls") and [*args, kwargs.get("mods")][0]:
        highstate, environments = False, opts["saltenv"]
        kinds = kwargs.get("sync_mods", args[4] if len(args) > 4 else None)
        kinds = ["all"] if kinds is True else salt.utils.args.split_input(kinds or [])
    elif fun.startswith("saltutil.sync_"):
        environments = args[0] if args else kwargs.get("saltenv")
        kinds = [fun.removeprefix("saltutil.sync_")]
    else:
        kinds = ["all"] if highstate and opts["autoload_dynamic_modules"] else []
    clean = (opts if highstate else __opts__)["clean_dynamic_modules"] is True
    if not clean or not kinds:
        return [], []
    if environments is not None:
        return kinds, environments.split(",") if isinstance(environments, str) else list(environments)
    run = kwargs.get("pillar")
    pillar = salt.utils.dictupdate.merge_recurse(dict(__pillar__), run if isinstance(run, dict) else {})
    with salt.state.HighState(opts, initial_pillar=pillar) as state:
        if fun == "state.top":
            state.opts["state_top"] = salt.utils.url.create(args[0] if args else kwargs["topfn"])
        try:
            matches = state.top_matches(state.get_top())
        except salt.exceptions.SaltRenderError:
            matches = {}  # then Salt runs nothing and syncs nothing
        if not highstate:
            return kinds, list(matches) or ["base"]
        return (kinds, list(state.matches_whitelist(matches, kwargs.get("whitelist")))) if matches else ([], [])


def _mode(value):
    """The mode, or None if none is set. YAML reads a bare ``off`` as False. An unknown word enforces."""
    if value is None:
        return None
    if value is False:
        return "off"
    return value if value in MODES else "enforce"


def _said(pillar):
    """
    What a run's pillar says of the run, as it was written.

    With a nonce it is no word of the run but the master's answer to an earlier question, which ``pillar_cache: True``
    can put there. The ref in it is that of the hold, and would open the gate to every run.
    """
    said = pillar.get("deploytoken") if isinstance(pillar, dict) else None
    return said if isinstance(said, dict) and "nonce" not in said else {}


def _run(pillar):
    """What a run says of itself, as strings: ``ref``, ``break_glass``, ``by``. Without ``by``, no glass is broken."""
    said = _said(pillar)
    run = {key: str(said.get(key) or "").strip() for key in ("ref", "break_glass", "by")}
    run["ref"] = run["ref"].zfill(8) if isinstance(said.get("ref"), int) else run["ref"]  # YAML drops leading zeros
    if not run["by"]:
        run["break_glass"] = ""
    return run


def _remember(run, answer):
    """Note that the gate has just let this run through."""
    __context__["deploygate"] = {"run": run, "answer": answer, "at": time.monotonic()}


def _recall(run):
    """
    The answer with which the executor has just let this run through, or None. It serves once: a second gate state
    asks.

    Executor and state ask the same question, one as the run is called and the other as its first step, and each
    question is a compilation of pillar. No pillar, argument or option of a run reaches ``__context__``. A run's states
    see the values that the executor put there, though not the same ``__context__`` (3006.29 and 3008.3).
    """
    kept = __context__.get("deploygate") or {}
    known = dict(kept)
    kept.clear()
    fresh = known and time.monotonic() - known["at"] <= FRESH
    return known["answer"] if fresh and known["run"] == run else None


def _ask(fun, ref="", **more):
    """The fresh pillar, and the nonce of this question. Whatever goes wrong becomes an error in the pillar."""
    nonce = secrets.token_hex(16)
    try:
        return _fresh_pillar({"nonce": nonce, "ref": ref, "fun": fun, **more}), nonce
    except Exception as error:
        log.debug("Cannot ask for the live token", exc_info=True)
        return {"deploytoken": {"nonce": nonce, "error": f"the pillar cannot be compiled: {error}"}}, nonce


def _fresh_pillar(question):
    """
    Compile this minion's pillar anew, as no run can forge it.

    Without ``pillar_override``. Without ``opts["pillar"]``, which holds the run's override, and from which a
    masterless compilation starts. Past this minion's caches. And without Salt's many tries, so that a dead master soon
    closes the gate.
    """
    opts = dict(__opts__)
    opts.update(pillar={}, pillar_cache=False, minion_data_cache=False, request_channel_tries=1)
    compiler = salt.pillar.get_pillar(
        opts,
        dict(__grains__),
        __opts__["id"],
        saltenv=opts.get("saltenv"),
        pillarenv=opts.get("pillarenv"),
        extra_minion_data={"deploytoken": question},
    )
    try:
        return compiler.compile_pillar()
    finally:
        compiler.destroy()


def _verdict(token, nonce, ref):
    """
    Whether this live token lets a run with this ref through, and the line that says why.

    token
        What the fresh pillar has under ``deploytoken``: ``held_by``, ``ref``, ``reason``, ``since``, or ``error``; and
        ``nonce``.
    """
    if not isinstance(token, dict):
        return False, (
            "Refused: the pillar of this minion has no live deploy token. The master's configuration needs "
            "`ext_pillar: [{deploytoken: }]` and no `pillar_cache: True`, `salt-run saltutil.sync_all`, and a restart."
        )
    if token.get("nonce") != nonce:
        return False, (
            "Refused: the live deploy token in the pillar of this minion is stale or not from the external pillar. "
            "Does the master have `pillar_cache: True`?"
        )
    if token.get("error"):
        return False, f"Refused: cannot tell who holds the deploy token ({token['error']}). Mend that, and run again."
    holder, current = token.get("held_by"), token.get("ref")
    if not holder:
        if "held_by" not in token:
            return False, "Refused: the live deploy token is malformed."
        return False, (
            'Refused: nobody holds the deploy token. Take it with `salt-run deploytoken.acquire reason="…"`, and run '
            'again with pillar=\'{"deploytoken": {"ref": "THE REF IT PRINTS"}}\'.'
        )
    reason, since = token.get("reason") or "no reason given", token.get("since") or "unknown"
    hold = f"{holder} holds the deploy token ({reason}; since {since})"
    if not current:
        return (
            False,
            f"Refused: {hold}, typed by hand on the wiki page, without a ref that a run could carry. Ask {holder}.",
        )
    if not ref:
        run = f'pillar=\'{{"deploytoken": {{"ref": "{current}"}}}}\''
        return False, f"Refused: {hold}. Ask {holder}; {holder} runs it with {run}."
    if ref != current:
        return False, f"Refused: {hold} under ref {current}, and this run carries {ref}, which is over. Ask {holder}."
    return True, f"{hold}, and this run carries its ref {current}."


def _answer(allowed, mode, comment, warning=False):
    return {"allowed": allowed, "mode": mode or "enforce", "comment": comment, "warning": warning}


def _announce(what, comment, data):
    """Put into the log, and on the event bus, that a run passes although the token does not allow it."""
    log.warning("deploygate: %s", comment)
    try:
        __salt__["event.send"](f"deploytoken/gate/{what}", {"comment": comment, **data})
    except Exception:  # the run goes on: the event bus may be the very emergency
        log.warning("deploygate: the event could not be sent", exc_info=True)
