"""
Is anything that somebody cares about running on the servers? What, whose, since when, and whom to ask.

.. versionadded:: 0.1.0

Asks the execution module ``busy`` of every targeted minion with one publish, and compares the answers with the list of
those that the master expected. A target that matches nobody, a minion that does not answer, that has no such module,
or whose answer is not clear: each blocks, like a spider that runs, and is named.
"""

import time

from saltext.deploytoken import cli as door
from saltext.deploytoken import errors, values
from saltext.deploytoken.busy import consent as agreement

_TEXT, _AGE = (str, type(None)), (int, type(None))
REMIND = 600  # seconds after which a wait tells again what it told already


@door.command
def check(target=None, target_type="glob", consent=None, timeout=15, ssh=False):
    """
    Say whether the minions are idle.

    CLI Example:

    .. code-block:: bash

        salt-run busy.check 'kingfisher*'
        salt-run busy.check target='web1,web2' target_type=list --out=json
        salt-run busy.check 'kingfisher*' ssh=True
        salt-run busy.check 'kingfisher*' consent='{by: "Jane Doe, helpdesk", for: ["kingfisher-main/scrapyd/*"]}'

    target, target_type
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``grain``, ``compound``, …
    consent
        Who agreed to interruptions: a name, for all that runs at the moment; or ``{by: NAME, for: [ids or globs]}``,
        for just that. What could not be known is never covered.
    timeout
        How long to wait for minions that give no sign, in seconds or as ``30s``, ``1m``. Default: 15. Over salt-ssh,
        for connecting; the whole answer has ten times as long.
    ssh
        Ask over salt-ssh those who are in the roster, with no master running.

    Returns a dictionary:

    idle
        True.
    target, expected
        The target, and the list of the minions that it means.
    minions
        For each of them, what ``busy.check`` on the minion returned.
    consented
        ``by`` and ``to``: the blockers that the consent covers. None without consent.

    Without ``--out``, this is printed as a table. If the minions are not idle, exits with code 7, and in place of
    ``idle`` there are ``reason``, ``message``, ``blockers`` (those without consent), ``unknowns`` (each with its
    ``minion``), ``failed`` (who did not answer, and why) and ``consent_lines`` to paste. Exits with code 2 if an
    argument is wrong.
    """
    agreed = agreement.parse(consent)
    found = _look(values.text(target, "target"), target_type, _positive(timeout, "timeout"), ssh)
    return _verdict(found, agreed)


@door.command
def wait(
    target=None, timeout="2h", target_type="glob", consent=None, interval="15s", settle="6s", stuck="5m", ssh=False
):
    """
    Wait until the minions are idle, and tell on standard error what is left.

    Between two jobs, Scrapyd's queue is empty for a moment, or nothing runs for up to its ``poll_interval``; so idle
    is what two looks find that are further apart than that. A queue that only waits, with nothing running, never
    becomes idle by itself: that is told apart as stuck.

    CLI Example:

    .. code-block:: bash

        salt-run busy.wait 'kingfisher*' timeout=4h

    target, target_type, consent, ssh
        As of :py:func:`check`.
    timeout
        How long to wait at most: ``90s``, ``30m``, ``2h``. Default: two hours.
    interval
        Between two looks. Default: ``15s``.
    settle
        Between the two looks that find the minions idle; longer than Scrapyd's ``poll_interval``. Default: ``6s``.
    stuck
        How long the same jobs may be pending, with nothing running, before that is stuck. Default: ``5m``.

    Returns what :py:func:`check` returns, and ``waited``, in seconds. Exits with code 7 if it is not idle in time; or
    as soon as it is stuck, with ``stuck``, a list of blockers.
    """
    agreed = agreement.parse(consent)
    target = values.text(target, "target")
    limit, pause, apart, patience = (
        _positive(value, key)
        for value, key in ((timeout, "timeout"), (interval, "interval"), (settle, "settle"), (stuck, "stuck"))
    )
    begin = time.monotonic()
    waiting = {}  # the ids of what only waits: since when
    told = told_at = quiet = None
    while True:
        found = _look(target, target_type, 15, ssh)
        now = time.monotonic()
        left = _left(found, agreed)
        if not (left or found["unknowns"] or found["failed"] or not found["expected"]):
            if quiet is not None and now - quiet >= apart:
                return {**_verdict(found, agreed), "waited": int(now - begin)}
            quiet = now if quiet is None else quiet
            rest = apart
        else:
            quiet = None
            rest = pause
            if not found["expected"]:
                _verdict(found, agreed)
            if told_at is not None and now - told_at >= REMIND:
                told = None
            before, told = told, _tell(found, left, told, now - begin)
            told_at = now if told != before else told_at
            waiting = {one: waiting.get(one, now) for one in _idling(found["blockers"])}
            stuck_ones = [blocker for blocker in left if now - waiting.get(blocker["id"], now) >= patience]
            if stuck_ones:
                raise errors.Busy(
                    f"Stuck: {_count(len(stuck_ones), 'job')} pending for {_span(patience)} with nothing running "
                    f"({stuck_ones[0]['id']}); Scrapyd will not start them: look at its log, or cancel them",
                    **_details(found, agreed),
                    stuck=stuck_ones,
                )
        # An idle look that is just before the end is worth nothing without its second one.
        if quiet is None and now + rest - begin > limit:
            return _verdict(found, agreed, f"Still not idle after {_span(limit)}: ")
        time.sleep(rest)


def _positive(value, key):
    seconds = values.duration(value, key)
    if not seconds or seconds <= 0:
        raise errors.Invalid(f"{key}: a duration above 0 is needed, like 15s")
    return seconds


def _look(target, target_type, timeout, ssh):
    """Ask once, and put the answers of all minions into one."""
    # Late: every salt-run imports every runner.
    from saltext.deploytoken.machines import master as minions

    opts = minions.over_ssh(__opts__, ssh)
    # 7: the module's own return code for "not idle", whose answer is as good as an idle one's.
    if ssh:
        # A function over salt-ssh has no pillar, and would find no checks configured. A state has it. But not
        # state.single, which makes the far side's folders on this machine (3008.3), and fails for whoever may not.
        ask = {"fun": "state.sls", "arg": ["deploytoken.busy"], "kwarg": {"test": True}, "retcodes": (0, 2, 7)}
    else:
        ask = {"fun": "busy.check", "retcodes": (0, 7)}
    asked = minions.ask(opts, target, target_type, timeout=timeout, **ask)
    answers, failed = {}, dict(asked.failed)
    for minion, answer in asked.answers.items():
        answer = _of_state(answer) if ssh else answer
        if _clear(minion, answer):
            answers[minion] = answer
        else:
            failed[minion] = f"answered something else than busy.check does: {minions.line(answer)}"
    return {
        "target": target,
        "whom": minions.whom(opts),
        "expected": asked.expected,
        "minions": answers,
        "failed": failed,
        "blockers": sorted(
            (blocker for answer in answers.values() for blocker in answer["blockers"]),
            key=lambda blocker: -(blocker["age"] if blocker["age"] is not None else -1),
        ),
        "unknowns": [{"minion": minion, **one} for minion, answer in answers.items() for one in answer["unknowns"]],
    }


def _of_state(states):
    """What ``busy.asked`` found, out of the return of a run of states; anything else as it is."""
    rows = list(states.values()) if isinstance(states, dict) else []
    return rows[0].get("answer", states) if len(rows) == 1 and isinstance(rows[0], dict) else states


def _clear(minion, answer):
    """Whether this can only have been said by busy.check, and means what it seems to."""
    if not isinstance(answer, dict) or not isinstance(answer.get("idle"), bool):
        return False
    lists = [answer.get(key) for key in ("checks", "blockers", "unknowns", "info")]
    if not all(isinstance(one, list) for one in lists) or not str(answer.get("note")).isprintable():
        return False
    running = {"id": str, "probe": str, "what": str, "user": _TEXT, "ask": _TEXT, "age": _AGE}
    for key, needed in (("blockers", running), ("info", running), ("unknowns", {"probe": str, "why": str})):
        if not all(isinstance(one, dict) and _has(one, needed) for one in answer[key]):
            return False
    if not all(one["id"].startswith(f"{minion}/") for one in answer["blockers"]):
        return False  # one minion's blockers must not pass for those that somebody agreed to on another
    return answer["idle"] is not bool(answer["blockers"] or answer["unknowns"])


def _has(one, needed):
    """Whether it has all of that, as it is sorted and printed further on: busy.check's texts are plain lines."""
    return all(
        key in one and type(one[key]) in (form if isinstance(form, tuple) else (form,)) and str(one[key]).isprintable()
        for key, form in needed.items()
    )


def _left(found, agreed):
    return agreement.split(agreed, found["blockers"])[1]


def _details(found, agreed):
    covered, left = agreement.split(agreed, found["blockers"])
    return {
        "target": found["target"],
        "expected": found["expected"],
        "minions": found["minions"],
        "failed": found["failed"],
        "blockers": left,
        "unknowns": found["unknowns"],
        "consented": {"by": agreed.by, "to": covered} if agreed else None,
        "consent_lines": agreement.lines(left),
        **_outputter(),
    }


def _outputter():
    # Salt prints with the outputter that a return names; whoever asks for another one has no use for the name.
    return {} if __opts__.get("output") else {"outputter": "busy"}


def _verdict(found, agreed, prefix=""):
    """The answer if all minions are idle, or what is not idle is agreed to; otherwise raises Busy."""
    details = _details(found, agreed)
    left, unknowns, failed = details["blockers"], found["unknowns"], found["failed"]
    if not found["expected"]:
        raise errors.Busy(f"The target {found['target']!r} matches no minion ({found['whom']})", **details)
    if not (left or unknowns or failed):
        kept = ("target", "expected", "minions", "consented", "outputter")
        return {"idle": True, **{key: details[key] for key in kept if key in details}}
    parts = []
    if left:
        asks = list(dict.fromkeys(str(blocker["ask"]) for blocker in left if blocker["ask"]))
        whom = f" (ask {', '.join(asks[:5])}{', …' if len(asks) > 5 else ''})" if asks else ""
        parts.append(
            f"{_count(len(left), 'thing')} running{whom}: " + "; ".join(_brief(blocker) for blocker in left[:3])
        )
        if len(left) > 3:
            parts[-1] += "; …"
    if unknowns:
        first = unknowns[0]
        parts.append(f"{_count(len(unknowns), 'thing')} unknown: {first['minion']}/{first['probe']}: {first['why']}")
    if failed:
        parts.append("; ".join(f"{minion} {why}" for minion, why in sorted(failed.items())[:3]))
    raise errors.Busy(prefix + "; ".join(parts), **details)


def _brief(blocker):
    minion = blocker["id"].partition("/")[0]
    return f"{blocker['what']} on {minion}" + (f" for {_span(blocker['age'])}" if blocker["age"] is not None else "")


def _idling(blockers):
    """The ids of pending jobs of those Scrapyds of which no job runs: by minion, and by the instance's name."""
    at_work = {one["id"].rpartition("/")[0] for one in blockers if one.get("state") == "running"}
    pending = [one["id"] for one in blockers if one.get("state") == "pending"]
    return [one for one in pending if one.rpartition("/")[0] not in at_work]


def _tell(found, left, told, waited):
    """Print what is left, if that is not what was printed last."""
    lines = [f"  {_brief(blocker)}" for blocker in left]
    lines += [f"  unknown: {one['minion']}/{one['probe']}: {one['why']}" for one in found["unknowns"]]
    lines += [f"  unknown: {minion} {why}" for minion, why in sorted(found["failed"].items())]
    state = [[blocker["id"] for blocker in left], found["unknowns"], found["failed"]]
    if state != told:
        door.say("\n".join([f"waiting for {_count(len(lines), 'thing')} ({_span(waited)} so far):", *lines]))
    return state


def _count(number, word):
    return f"{number} {word}" + ("" if number == 1 else "s")


def _span(seconds):
    """A time span in words."""
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return _count(int(seconds // size), word)
    return _count(int(seconds), "second")
