"""
The gate's one rule: may this run change this minion?

.. versionadded:: 0.1.0

A run of states is let through when the deploy token is held and the run carries that hold's ref:

.. code-block:: bash

    salt 'docs' state.apply pillar='{"deploytoken": {"ref": "f9c2a1b0"}}'

The rule is asked in two places, because neither sees every run: by the executor ``deploygate``, before every function
of ``state`` that is published or called, and by the state :py:func:`deploytoken.gate
<saltext.deploytoken.states.deploytoken.gate>`, first in the top file, for what the minion starts by itself (schedule,
start-up). Both are installed as ``docs/gate.md`` says.

What the run says of itself comes with the run. What the *token* says must not: ``pillar=`` on a command line overrides
the pillar that the states of the run see (measured on 3006.28 and 3008.3), external pillars included. The rule
therefore has the pillar compiled once more, without any override, with a nonce that the external pillar
``deploytoken`` must echo. An answer out of a cache cannot know the nonce. No answer, a late, stale or malformed one is
a closed gate.

How strictly the rule is applied is set per minion by ``deploygate``, in the minion's configuration or, failing that,
in pillar (which is read from the same fresh compilation, so that a run cannot switch its own gate off):

``enforce``
    the default. A run that is not allowed is refused.
``warn``
    It runs, and the log, an event ``deploytoken/gate/warned`` and the gate state's warning say that it would have been
    refused.
``off``
    Nothing is asked.

In an emergency, ``pillar='{"deploytoken": {"break_glass": "why", "by": "Alice"}}'`` opens the gate: loudly, with an event
``deploytoken/gate/broken``, and on the record that the master adds to the History at the next release.

This file depends on nothing but Salt: it travels to the minions alone.
"""

import logging
import secrets
import time

import salt.pillar

log = logging.getLogger(__name__)

MODES = ("enforce", "warn", "off")
# For so many seconds the gate's state may go by what the executor has just heard for the same run.
FRESH = 3
# What only shows, tests, or stops a run. Every other function of `state` is taken to change the minion, those of later
# Salts included.
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
# Those that keep to `test=True`. Others (state.low, state.template, …) take the argument, and change things all the
# same. The gate's own state speaks for the run in which it stands.
HONOUR_TEST = (
    "deploytoken.gate",
    "state.apply",
    "state.high",
    "state.highstate",
    "state.pkg",
    "state.single",
    "state.sls",
    "state.sls_id",
    "state.top",
)
# Of SUSE's module for transactional systems, these run states; its other functions are not the gate's.
TRANSACTIONAL = (
    "transactional_update.apply",
    "transactional_update.highstate",
    "transactional_update.single",
    "transactional_update.sls",
)


def check(pillar=None, test=False, fun="state.apply"):
    """
    Say whether a run of states is allowed here, now. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt 'docs' deploygate.check
        salt 'docs' deploygate.check pillar='{"deploytoken": {"ref": "f9c2a1b0"}}'

    pillar
        (dict) The pillar that comes with the run. Its key ``deploytoken`` holds the ``ref`` of the hold under which it
        runs, or ``break_glass`` and ``by``.

    test
        (bool) Whether the run is one of ``test=True``. It is let through where the function keeps to it, and only if
        this is True itself: of other values, Salt takes some for true and some for false.

    fun
        (string) The function that wants to run.

    Returns a dictionary: ``allowed`` (bool), ``comment`` (one line: why, and the way forward), ``mode``, and
    ``warning`` (bool): allowed although the token does not allow it.
    """
    mode = _mode(__opts__.get("deploygate"))
    if mode == "off":
        return _answer(True, mode, "The gate of this minion is off.")
    if test is True and fun in HONOUR_TEST:
        return _answer(True, mode, "A test run changes nothing and passes the gate.")
    if not _runs_states(fun):
        return _answer(True, mode, f"{fun} runs no states and passes the gate.")

    run = _run(pillar)
    if fun == "deploytoken.gate" and (comment := _just_heard(run)):
        return _answer(True, mode, comment)
    knock = {"nonce": secrets.token_hex(16), "ref": run["ref"], "fun": fun}
    if run["break_glass"]:
        knock["break_glass"] = {"why": run["break_glass"], "by": run["by"]}
    fresh = _ask(knock)
    mode = mode or _mode(fresh.get("deploygate")) or "enforce"
    if mode == "off":
        return _answer(True, mode, "The gate of this minion is off.")

    is_open, comment = _verdict(fresh.get("deploytoken"), knock["nonce"], run["ref"])
    if is_open:
        _hear(run, comment)
        return _answer(True, mode, comment)
    if run["break_glass"]:
        comment = f"Glass broken by {run['by']}: {run['break_glass']}. {comment}"
        _raise_alarm("broken", comment, {"by": run["by"], "why": run["break_glass"], "fun": fun})
        return _answer(True, mode, comment, warning=True)
    if mode == "warn":
        _raise_alarm("warned", comment, {"fun": fun})
        return _answer(True, mode, f"NOT ENFORCED HERE (deploygate: warn). {comment}", warning=True)
    if _half_broken(pillar):
        comment += ' In an emergency, break_glass needs who as well as why: {"break_glass": "WHY", "by": "NAME"}.'
    return _answer(False, mode, comment)


def ways():
    """
    List the ways round the gate that are open on this minion. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' deploygate.ways

    Returns a dictionary: ``mode``; ``executor``, ``gate_state`` and ``live_token``, whether each is in place (bool);
    and ``open``, a list of lines. A line says what passes the gate, or keeps it from ever opening, and what to do.
    While there is one, the return code is 1.

    The executor is told from the configuration with which the minion *runs*; ask through the master, not with
    ``salt-call``. Of the schedule, the jobs are listed that run states and are seen neither by the gate state in the
    top file nor by one in their own SLS. What is always open is named in ``docs/gate.md``.
    """
    knock = {"nonce": secrets.token_hex(16), "ref": "", "fun": "deploygate.ways"}
    fresh = _ask(knock)
    token = fresh.get("deploytoken")
    mode = _mode(__opts__.get("deploygate")) or _mode(fresh.get("deploygate")) or "enforce"
    executors = __opts__.get("module_executors")
    found = {
        "mode": mode,
        "executor": isinstance(executors, list) and executors[:1] == ["deploygate"],
        "gate_state": _begins_with_gate("state.show_lowstate"),
        "live_token": isinstance(token, dict) and token.get("nonce") == knock["nonce"] and not token.get("error"),
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
        lines.append(f"The gate cannot open. {_verdict(token, knock['nonce'], '')[1]}")
    lines += _scheduled(found["gate_state"])
    if lines:
        __context__["retcode"] = 1
    return {**found, "open": lines}


def _scheduled(gate_state):
    """
    Lines about the jobs of the minion's schedule that run states past the gate.

    Told from what the minion's schedule itself goes by: `schedule.list` asks that over the minion's event bus, and
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
        if not isinstance(job, dict) or name.startswith("__"):  # settings of the schedule, and Salt's own jobs
            continue
        function = job.get("function") or job.get("func") or ""
        for fun in function if isinstance(function, list) else [function]:
            if _job_passes(fun, job.get("args") or [], job.get("kwargs") or {}, gate_state):
                lines.append(
                    f"The scheduled job {name} ({fun}) passes: delete it, give it test=True, or have its SLS include "
                    "deploytoken.gate."
                )
    return lines


def _job_passes(fun, args, kwargs, gate_state):
    """Whether this job runs states without the gate: the schedule knows no executors (Salt 3006.28 and 3008.3)."""
    if not fun.startswith(("state.", "transactional_update.")):
        told = [*args, *kwargs.values()]  # such as module.run's relatives, which run what they are told to
        return any(isinstance(value, str) and "state." in value for value in told)
    if not _runs_states(fun) or (kwargs.get("test") is True and fun in HONOUR_TEST):
        return False
    if kwargs.get("exclude") or fun not in ("state.apply", "state.highstate", "state.sls"):
        return True
    sls = args[0] if args else kwargs.get("mods")
    if fun == "state.highstate" or not sls:
        return not gate_state
    return not _begins_with_gate("state.show_low_sls", sls, saltenv=kwargs.get("saltenv"))


def _begins_with_gate(show, *args, **kwargs):
    """Whether a run begins with the gate's state, and ends there if it refuses. What cannot be told does not."""
    try:
        low = __salt__[show](*args, **kwargs)
        first = low[0]
        return (first["state"], first["fun"], first.get("failhard")) == ("deploytoken", "gate", True)
    except Exception:
        log.debug("%s told nothing about the gate", show, exc_info=True)
        return False


def _runs_states(fun):
    """Whether the gate must be asked. A function that is not known is asked about."""
    if fun.startswith("transactional_update."):
        return fun in TRANSACTIONAL
    return fun not in HARMLESS


def _mode(value):
    """The mode's word, or None without one. YAML reads a bare ``off`` as False. A word that is no mode enforces."""
    if value is None:
        return None
    if value is False:
        return "off"
    return value if value in MODES else "enforce"


def _run(pillar):
    """What a run says of itself. Values of the wrong type, and a glass broken by nobody, are as good as missing."""
    deploy = pillar.get("deploytoken") if isinstance(pillar, dict) else None
    deploy = deploy if isinstance(deploy, dict) else {}
    run = {key: str(deploy.get(key) or "").strip() for key in ("ref", "break_glass", "by")}
    run["ref"] = run["ref"].zfill(8) if isinstance(deploy.get("ref"), int) else run["ref"]  # YAML drops leading zeros
    if not run["by"]:
        run["break_glass"] = ""
    return run


def _half_broken(pillar):
    """Whether somebody wanted to break the glass, and left out why or who."""
    deploy = pillar.get("deploytoken") if isinstance(pillar, dict) else None
    return isinstance(deploy, dict) and "break_glass" in deploy


def _hear(run, comment):
    """Keep that the gate is open to this run; within it, and not for long."""
    __context__["deploygate"] = {"run": run, "comment": comment, "at": time.monotonic()}


def _just_heard(run):
    """
    What the executor has heard for this run, or None. Once: of two gate states, the second asks.

    The two ask one question, the executor as the run is called and the state as its first step, and each question is a
    compilation of pillar. No pillar, argument or option of a run reaches ``__context__``. Its values, unlike itself,
    are the same in the states of the run as in the executor before it (3006.29 and 3008.3).
    """
    heard = __context__.get("deploygate") or {}
    known = dict(heard)
    heard.clear()
    fresh = known and time.monotonic() - known["at"] <= FRESH
    return known["comment"] if fresh and known["run"] == run else None


def _ask(knock):
    """The fresh pillar, or one that says that there is none: whatever goes wrong, the answer is "closed"."""
    try:
        return _fresh_pillar(knock)
    except Exception as error:
        log.debug("The live token could not be asked for", exc_info=True)
        return {"deploytoken": {"nonce": knock["nonce"], "error": f"the pillar cannot be compiled: {error}"}}


def _fresh_pillar(knock):
    """
    Compile this minion's pillar anew, as no run can forge it.

    Without ``pillar_override``; without ``opts["pillar"]``, from which a masterless compilation starts, and which
    holds the run's override; past this side's caches; and without Salt's many tries, so that a dead master closes the
    gate soon.
    """
    opts = dict(__opts__)
    opts.update(pillar={}, pillar_cache=False, minion_data_cache=False, request_channel_tries=1)
    compiler = salt.pillar.get_pillar(
        opts,
        dict(__grains__),
        __opts__["id"],
        saltenv=opts.get("saltenv"),
        pillarenv=opts.get("pillarenv"),
        extra_minion_data={"deploytoken": knock},
    )
    try:
        return compiler.compile_pillar()
    finally:
        compiler.destroy()


def _verdict(token, nonce, ref):
    """
    Whether this live token lets a run with this ref through, and the line that says why.

    token
        What the fresh pillar says under ``deploytoken``: ``held_by``, ``ref``, ``reason``, ``since``, or ``error``;
        and ``nonce``.
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
        return False, f"Refused: who holds the deploy token cannot be told ({token['error']}). Try again when it can."
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
        return (
            False,
            f'Refused: {hold}. Ask {holder}; {holder} runs it with pillar=\'{{"deploytoken": {{"ref": "{current}"}}}}\'.',
        )
    if ref != current:
        return False, f"Refused: {hold} under ref {current}, and this run carries {ref}, which is over. Ask {holder}."
    return True, f"{hold}, and this run carries its ref {current}."


def _answer(allowed, mode, comment, warning=False):
    return {"allowed": allowed, "mode": mode or "enforce", "comment": comment, "warning": warning}


def _raise_alarm(what, comment, data):
    log.warning("deploygate: %s", comment)
    try:
        __salt__["event.send"](f"deploytoken/gate/{what}", {"comment": comment, **data})
    except Exception:  # an emergency run goes on even where the event bus is the emergency
        log.warning("deploygate: the event could not be sent", exc_info=True)
