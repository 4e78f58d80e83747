"""
The deploy token in states: the gate on minions, and the steps of a deploy on the master.

.. versionadded:: 0.1.0

``deploytoken.gate`` goes first into the top file (see ``deploytoken/gate.sls``). The others are steps of the
orchestration ``deploytoken/deploy.sls`` and run on the master, where they reach the token through its runner.

This file depends on nothing but Salt: it travels to the minions alone.
"""

import atexit
import copy
import json
import re
import shlex
import sys

# What `pillar='{"deploytoken": {…}}'` may say of a deploy. A word that is misspelt must not be a setting that is ignored.
REQUEST = (
    "target",
    "target_type",
    "reason",
    "sls",
    "consent",
    "on_failure",
    "ref",
    "name",
    "wait",
    "wait_idle",
    "reboot",
    "reboot_batch",
    "reboot_timeout",
    "health",
    "batch",
    "saltenv",
    "test",
    "ssh",
)
ON_FAILURE = ("hold", "release")
# The page's own marks, which a release refuses in a summary (see `page` in the package), and what stands for them.
MARKS = (
    (re.compile(r"held\s+by(?=[\W_]*:)", re.I), "holder"),
    (re.compile(r"taken over by", re.I), "ended by"),
)
# Of these, what means nothing without `reboot`.
OF_REBOOTS = ("reboot_batch", "health")


def gate(name, answer=None):
    """
    Refuse the run here unless the deploy token is held and the run carries that hold's ref.

    .. code-block:: yaml

        deploy token:
          deploytoken.gate:
            - order: first
            - failhard: True

    name
        For people; nothing depends on it.

    answer
        (dict) What the rule says of this run, where it was asked while the run was compiled: over salt-ssh, for the
        far side knows no master to ask. Default: ask it here.

    The rule, and how to go on when it refuses, is in :py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    if answer is None:
        if "deploygate.check" not in __salt__:
            ret["comment"] = "Refused: this minion lacks the gate's module. Run `salt MINION saltutil.sync_modules`."
            return ret
        # The run's own pillar, overrides included; `pillar.get` gives asterisks here (Salt 3008).
        run = dict(__pillar__)
        answer = __salt__["deploygate.check"](pillar=run, test=__opts__.get("test"), fun="deploytoken.gate")
    if not isinstance(answer, dict):
        answer = {}
    ret["result"] = answer.get("allowed") is True
    ret["comment"] = answer.get("comment") or "Refused: the gate gave no answer."
    if answer.get("warning"):
        ret["warnings"] = [ret["comment"]]
    return ret


def requested(name):
    """
    Check what the orchestration's pillar asks for under ``deploytoken``, before anything is done.

    .. code-block:: yaml

        request:
          deploytoken.requested: []

    name
        For people; nothing depends on it.

    The keys are described in ``docs/procedure.md``. One that is missing, misspelt or of the wrong kind is refused by
    name.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    deploy = __pillar__.get("deploytoken")
    if not isinstance(deploy, dict):
        example = '{"deploytoken": {"target": "web*", "reason": "upgrade PostgreSQL"}}'
        ret["comment"] = f"Refused: say what to deploy and why, as in pillar='{example}'."
        return ret
    if "deployrunner.call" not in __salt__:
        ret["comment"] = "Refused: this master lacks the module deployrunner. Run `salt-run saltutil.sync_all`."
        return ret
    wrong = _wrong(deploy)
    ret["result"] = not wrong
    ret["comment"] = f"Refused: {wrong}." if wrong else f"{_words(deploy['target'])}: {deploy['reason']}"
    return ret


def held(name, reason, ref, resume=False, by=None, wait=None, test=False):
    """
    Have the deploy token held under a ref.

    .. code-block:: yaml

        token:
          deploytoken.held:
            - reason: upgrade PostgreSQL
            - ref: f9c2a1b0

    name
        For people; nothing depends on it.

    reason
        (string) What for; the others read it on the wiki page.

    ref
        (string) 8 hex digits, which name this hold and no other.

    resume
        (bool) Only confirm that the hold with this ref is still the current one; acquire nothing.

    by
        (string) Who holds it. Default: the configured name, or that of the API key's owner.

    wait
        (string) How long to wait for somebody else, as in ``15m``. Default: not at all.

    test
        (bool) Take nothing, as ``test=True`` for the whole orchestration does.

    Changes show who took it, unless the hold was only confirmed. With ``test=True``, says who holds it, and fails if
    that is somebody else.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    if test or __opts__.get("test"):
        status = _runner("deploytoken.status")
        ret["result"], ret["comment"] = _foretell(status, ref, resume)
        return ret
    what = "`salt-run deploytoken.status` tells whether the deploy was ended before or after it was taken"
    _tell_at_exit(f"The deploy token may be held (ref {ref}): {what}.", ref, reason)
    answer = _runner("deploytoken.acquire", reason=reason, ref=ref, resume=resume, name=by, wait=wait)
    if "failure" in answer:
        ret["comment"] = answer["failure"]
    elif answer.get("ref") != ref:
        ret["comment"] = f"The token was asked for under ref {ref}, and answered with {answer.get('ref')}."
    else:
        _tell_at_exit(f"The deploy token stays held (ref {ref}): the deploy was ended in the middle.", ref, reason)
        ret["result"], ret["ref"] = True, ref
        ret["comment"] = f"{answer['held_by']} holds the deploy token (ref {ref})"
        if answer.get("taken") is not False:
            # Only a free token can be taken.
            ret["changes"] = {"held_by": {"old": None, "new": answer["held_by"]}, "ref": ref}
    if not ret["result"]:
        atexit.unregister(_say)
    return ret


def released(name, reason, ref, resumed=False, on_failure="hold", test=False):
    """
    End the deploy: release the token with an entry in the History, or keep it, according to how the steps before
    ended.

    .. code-block:: yaml

        cleanup:
          deploytoken.released:
            - reason: upgrade PostgreSQL
            - ref: f9c2a1b0
            - order: last
            - require:
              - deploytoken: token

    name
        For people; nothing depends on it.

    reason
        (string) What the deploy was for; the beginning of the entry.

    ref
        (string) The hold to release.

    resumed
        (bool) The hold is older than this orchestration, which only gives back what it took itself.

    on_failure
        (string) ``hold`` (default) or ``release``: what to do when a state failed. While a minion may still be at its
        states (it went silent, or the deploy was interrupted), the token is kept in any case.

    test
        (bool) Release nothing, as ``test=True`` for the whole orchestration does.

    It looks at the orchestration's own steps: the ``busy.idle`` states say which minions are expected and who
    consented to what, ``deploystates.applied`` says who ended how, ``deployreboots.done`` who rebooted. A deploy that
    began on no minion gives the token back. One that is kept is a failure of this state too, and the comment has the
    commands that go on.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    if test or __opts__.get("test"):
        ret["result"] = None
        ret["comment"] = "The token would be released, with an entry in the History."
        return ret
    ret.update(_ended(reason, ref, resumed, on_failure))
    # From here on, this comment has the words.
    atexit.unregister(_say)
    return ret


def _wrong(deploy):
    """What is wrong with a request, or an empty string."""
    unknown = sorted(str(key) for key in set(deploy) - set(REQUEST))  # YAML reads `on` as True
    if unknown:
        return f"deploy: {', '.join(unknown)} is none of {', '.join(REQUEST)}"
    for key in ("target", "reason"):
        if not deploy.get(key):
            return f"deploy:{key} is missing"
    for key in ("reason", "target_type", "name", "on_failure", "saltenv"):
        if key in deploy and not (isinstance(deploy[key], str) and deploy[key].strip()):
            return f"deploy:{key} is not a text"
    for key in ("target", "sls"):
        if key in deploy and not (_words(deploy[key]) and all(isinstance(word, str) for word in _list(deploy[key]))):
            return f"deploy:{key} is neither a text nor a list of texts"
    if deploy.get("on_failure", "hold") not in ON_FAILURE:
        return f"deploytoken.on_failure is none of {', '.join(ON_FAILURE)}"
    if "batch" in deploy and not re.fullmatch(r"[1-9]\d*|(100|[1-9]\d?)%", str(deploy["batch"])):
        return "deploytoken.batch is neither a number of minions nor a share of them, like 25%"
    for key in ("wait", "wait_idle"):
        if deploy.get(key) and not re.fullmatch(r"\d+(\.\d+)?\s*[smhd]?", str(deploy[key])):
            return f"deploy:{key} is neither a number of seconds nor a duration like 10m"
    for key in ("test", "ssh"):
        if not isinstance(deploy.get(key, False), bool):
            return f"deploy:{key} is neither true nor false"
    if isinstance(deploy["target"], list) and deploy.get("target_type", "list") != "list":
        return "deploytoken.target is a list, so deploytoken.target_type must be list, or left out"
    if "ref" in deploy and not re.fullmatch("[0-9a-f]{8}", str(deploy["ref"])):
        return 'deploytoken.ref is not a text of 8 hex digits; write it in quotes: "ref": "f9c2a1b0"'
    return _wrong_reboots(deploy)


def _wrong_reboots(deploy):
    """What is wrong with a request's keys for reboots, or an empty string."""
    reboot, health = deploy.get("reboot", False), deploy.get("health", "test.ping")
    named = isinstance(reboot, list) and reboot and all(isinstance(minion, str) and minion for minion in reboot)
    if not isinstance(reboot, bool) and not named:
        return "deploytoken.reboot is neither true nor a list of minions"
    idle = [key for key in OF_REBOOTS if key in deploy and not reboot]
    if idle:
        return f"deploy:{idle[0]} means nothing without deploytoken.reboot"
    batch = deploy.get("reboot_batch", 1)
    if type(batch) is not int or batch < 1:
        return "deploytoken.reboot_batch is not a number of minions above 0"
    if not re.fullmatch(r"[1-9]\d*\s*[smhd]?", str(deploy.get("reboot_timeout", 300))):
        return "deploytoken.reboot_timeout is neither a number of seconds nor a duration like 10m"
    if not _is_health({"function": health} if isinstance(health, str) else health):
        return "deploytoken.health is neither a function, nor {function: NAME, arg: [...]}, nor {sls: NAMES}"
    return ""


def _is_health(health):
    """Whether the runner that looks at the servers takes it: it is asked when the states have run already."""
    if not isinstance(health, dict) or set(health) not in ({"sls"}, {"function"}, {"function", "arg"}):
        return False
    if "sls" in health:
        return bool(health["sls"]) and all(isinstance(one, str) and one for one in _list(health["sls"]))
    return bool(re.fullmatch(r"\w+\.\w+", str(health["function"])))


def _foretell(status, ref, resume):
    """What ``held`` would come to."""
    if "failure" in status:
        return False, status["failure"]
    if status["ref"] == ref:
        return True, f"{status['held_by']} holds the deploy token (ref {ref})"
    if status["held_by"]:
        return False, f"{status['held_by']} holds the deploy token ({status['reason']}; since {status['since']})"
    return (False, f"The hold {ref} is over") if resume else (None, "The deploy token would be acquired")


def _ended(reason, ref, resumed, on_failure):
    """End the deploy as :py:func:`released` says, and return what differs in its return."""
    ret = {"result": False, "changes": {}}
    running = copy.deepcopy(__running__)  # frozen, and a copy of it is not
    began, trouble, at_it, reasons = _outcome(running)
    if "not_yours" in reasons:
        return _over(ret, ref, trouble, left=True)
    # Of a step that fell over, nobody knows who may still be at it.
    at_it_perhaps = at_it or "unknown" in reasons
    if trouble and (at_it_perhaps or (resumed if not began else on_failure != "release")):
        ret["comment"] = f"The deploy token stays held (ref {ref}): {trouble}."
        ret["next"] = _looks(running, at_it)
        return _with_ways_on(ret, ref, reason)
    summary = reason if not trouble else f"{reason} ({'FAILED' if began else 'nothing deployed'}: {trouble})"
    consent = _consent(running) if began else None
    rebooted = [words for step in _steps(running, "deployreboots.done") for words in step.get("rebooted") or []]
    summary = _short(summary)
    answer = _runner("deploytoken.release", summary=summary, ref=ref, consent=consent, rebooted=rebooted or None)
    if answer.get("reason") == "not_yours":
        return _over(ret, ref, answer["failure"], left=trouble)
    if "failure" in answer:
        # A release that was interrupted, or is in doubt, may have been one.
        ret["comment"] = f"The deploy token may still be held (ref {ref}): {answer['failure']}"
        return _with_ways_on(ret, ref, reason)
    ret["result"] = True
    ret["comment"] = f"Released. The History says: {answer.get('entry')}"
    ret["changes"] = {"held_by": {"old": ref, "new": answer.get("held_by")}, "entry": answer.get("entry")}
    return ret


def _over(ret, ref, why, left):
    """What is said where somebody has ended the hold: of the commands that go on under it, none would work."""
    ret["comment"] = f"The hold {ref} was ended while this deploy ran: {why}."
    again = _again(ref=None, why="To deploy what is left, ask whoever ended it, and run again")
    ret["next"] = [again if left else ("To see who ended it", "salt-run deploytoken.history")]
    return ret


def _outcome(running):
    """
    How the deploy went: whether it began on any minion; what went wrong, or an empty string; the minions that may
    still be at it; and the steps' reasons, of which ``not_yours`` says that the token was lost meanwhile.

    A step whose requirement failed is there as well, with ``__state_ran__`` False.
    """
    applied = [step for step in _steps(running, "deploystates.applied") if step.get("__state_ran__", True)]
    minions = {minion: summary for step in applied for minion, summary in (step.get("minions") or {}).items()}
    reboots = [step for step in _steps(running, "deployreboots.done") if step.get("__state_ran__", True)]
    # A step that fell over has no reason.
    reasons = {step.get("reason", "unknown") for step in [*applied, *reboots]}
    at_it = {minion for minion, summary in minions.items() if summary.get("silent")}
    at_it |= {minion for step in reboots if step.get("reason") == "interrupted" for minion in step["left"]}
    if any(step.get("reason", "unknown") == "unknown" for step in applied):
        at_it |= _expected(running) - minions.keys()
    failed = [_first_line(step) for step in applied if step.get("result") is not True]
    if not minions and "unknown" not in reasons:
        failed = [step for step in running.values() if step.get("__state_ran__", True) and step.get("result") is False]
        trouble = _first_line(failed[-1]) if failed else "no state was applied"
        return False, trouble, [], reasons
    if not failed:
        # A step's own word is not enough: whoever was asked whether they are idle was to be deployed.
        done = {minion for minion, summary in minions.items() if summary.get("result") is True}
        left_out = sorted(_expected(running) - done)
        failed = [f"no answer from {', '.join(left_out)}"] if left_out else []
    failed += [_first_line(step) for step in reboots if step.get("result") is not True]
    return True, "; ".join(failed), sorted(at_it), reasons


def _looks(running, at_it):
    """The commands that show who is still at it: who is at the states, and who reboots as ordered."""
    steps = [step for step in _steps(running, "deployreboots.done") if step.get("reason") == "interrupted"]
    ordered = [minion for step in steps for minion in step["away"]]
    states = [minion for minion in at_it if not any(minion in step["left"] for step in steps)]
    looks = []
    if states:
        looks.append(("To see what still runs", f"salt -L {','.join(states)} state.running"))
    if ordered:
        ssh = " ssh=True" if __pillar__["deploytoken"].get("ssh") else ""
        looks.append(("To see who is back", f"salt-run deployreboots.ids {','.join(ordered)} target_type=list{ssh}"))
    return looks


def _expected(running):
    """The minions that the target meant, as the busy checks found them on the master's list."""
    return {minion for step in _steps(running, "busy.idle") for minion in step.get("expected") or []}


def _consent(running):
    """Who consented to the interruption of what, in one line, or None if nothing ran that needed it."""
    given = [step["consented"] for step in _steps(running, "busy.idle") if (step.get("consented") or {}).get("to")]
    if not given:
        return None
    what = {blocker.get("id"): blocker.get("what") for consented in given for blocker in consented["to"]}
    names = sorted({str(consented.get("by")) for consented in given})
    return _short(f"{', '.join(names)}: {'; '.join(f'{what[key]} ({key})' for key in sorted(what))}")


def _with_ways_on(ret, ref, reason):
    """Add the commands that go on from a token that is kept."""
    release = f"salt-run deploytoken.release ref={ref} summary={shlex.quote(reason)}"
    again = [_again(ref, "To run again under the same hold")] if __pillar__.get("deploytoken") else []
    ret["next"] = [*ret.get("next", []), *again, ("To release it", release)]
    ret["comment"] = "\n".join([ret["comment"], *(f"{why}: {command}" for why, command in ret["next"])])
    return ret


def _tell_at_exit(what, ref, reason):
    """
    Have this told, with the commands that go on, if Python ends before the deploy does.

    Ctrl-C and SIGTERM are noticed by the runner that is at work. Between two steps there is none, and Salt ends
    without a word of the token (3008.3).
    """
    atexit.unregister(_say)
    ways = _with_ways_on({"comment": what}, ref, reason)
    atexit.register(_say, ways["comment"])


def _say(text):
    print(f"\n{text}", file=sys.stderr, flush=True)


def _again(ref, why):
    """What this orchestration was asked for, as a command; under a hold, or under a new one."""
    deploy = {key: value for key, value in copy.deepcopy(dict(__pillar__["deploytoken"])).items() if key != "ref"}
    for step in _steps(copy.deepcopy(dict(__running__)), "deployreboots.done"):
        if step.get("rebooted") and deploy.get("reboot"):
            # Whoever is back is not rebooted once more.
            deploy["reboot"] = step["left"]
    if not deploy.get("reboot"):
        deploy = {key: value for key, value in deploy.items() if key not in ("reboot", *OF_REBOOTS)}
    asked = shlex.quote(json.dumps({"deploytoken": {**deploy, **({"ref": ref} if ref else {})}}))
    return why, f"salt-run state.orchestrate deploytoken.deploy pillar={asked}"


def _runner(function, **kwargs):
    """The answer of one of the token's runners, which always say who holds it."""
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    answer = __salt__["deployrunner.call"](function, **kwargs)
    return answer if "held_by" in answer else {"failure": f"{function} did not say who holds the token", **answer}


def _steps(running, function):
    """The steps of one function; a step's key is ``STATE_|-ID_|-NAME_|-FUNCTION``."""
    state, _, fun = function.partition(".")
    return [step for key, step in running.items() if key.startswith(f"{state}_|-") and key.endswith(f"_|-{fun}")]


def _first_line(step):
    return (str(step.get("comment") or "").strip().splitlines() or ["no comment"])[0].rstrip(".")


def _list(value):
    return value if isinstance(value, list) else [value]


def _words(value):
    return ", ".join(str(word) for word in _list(value) if word)


def _short(text):
    """One line that the History can carry: what minions say may hold anything, and must not keep the token held."""
    for mark, word in MARKS:
        text = mark.sub(word, text)
    text = " ".join("".join(char if char.isprintable() and char != "|" else " " for char in text).split())
    return text if len(text) <= 400 else text[:399] + "…"
