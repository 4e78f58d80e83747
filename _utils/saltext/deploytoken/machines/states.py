"""
Apply states to minions, batch after batch: who did what, who failed, and who was never begun.

Why not ``salt.state`` (measured on 3008.3)? With ``batch`` or ``subset`` it succeeds although a minion is down. The
``failhard`` that would stop the batches is the same word that skips the cleanup of an orchestration. It tells nothing
while it runs, and cannot ask between two batches whether the token is still held.

Nothing here knows Salt's client: :py:mod:`minions <saltext.deploytoken.machines.master>` has that.
"""

import math
import re
import time

from saltext.deploytoken import errors

#: What a minion's summary shows of one failed state.
LENGTH = 200


def batches(ids, size=None):
    """
    Return the lists of ids, each of which is begun when the one before has ended well; without a size, one of all.

    ``size``
        How many at a time: a number, or a share of all as in ``25%`` (rounded up).

    :raises errors.Invalid: when it is neither.
    """
    if size is None:
        return [list(ids)] if ids else []
    match = re.fullmatch(r"([1-9]\d*)(%?)", str(size).strip()) if not isinstance(size, bool) else None
    if not match or (match[2] and int(match[1]) > 100):
        raise errors.Invalid(f"batch: {size!r} is neither a number of minions nor a share of them; write 2 or 25%")
    count = math.ceil(len(ids) * int(match[1]) / 100) if match[2] else int(match[1])
    return [list(ids[start : start + count]) for start in range(0, len(ids), count)]


def apply(groups, publish, ours, tell, test=False):
    """
    Apply states to one group of minions after the other, for as long as nothing fails.

    ``groups``
        Of :py:func:`batches`.
    ``publish`` (callable)
        Called with a group; yields ``(id, full return, None)`` or ``(id, None, why)`` for each, as they end.
    ``ours`` (callable)
        Called before each group; raises an :class:`errors.Error` when the token is not held any more.
    ``tell`` (callable)
        Called with a line for people, as each minion ends.
    ``test`` (bool)
        The states only say what they would change.

    Returns ``minions`` (the summary of each that was begun, see :py:func:`verdict`, with ``seconds``), ``failed`` and
    ``not_started`` (lists of ids), and ``returns`` (what the minions returned).

    :raises errors.Failed: a minion failed. All errors carry what is returned in their details.
    """
    found = {"minions": {}, "failed": [], "not_started": [minion for group in groups for minion in group]}
    found["returns"] = {}
    running = set()

    def ended(minion, answer, why):
        running.discard(minion)
        summary = {**verdict(answer, why, test), "seconds": round(time.monotonic() - began, 1)}
        found["minions"][minion] = summary
        found["returns"][minion] = answer.get("ret") if answer is not None else why
        if not summary["result"]:
            found["failed"].append(minion)
        tell(f"{minion}: {said(summary)}")

    try:
        for number, group in enumerate(groups, 1):
            if not test:
                ours()
            if len(groups) > 1:
                tell(f"batch {number} of {len(groups)}: {', '.join(group)}")
            began, running = time.monotonic(), set(group)
            found["not_started"] = [minion for minion in found["not_started"] if minion not in running]
            for minion, answer, why in publish(group):
                ended(minion, answer, why)
            for minion in sorted(running):
                ended(minion, None, "returned nothing")
            if found["failed"]:
                raise errors.Failed(_failure(found))
    except errors.Error as error:
        error.details.update(found)
        raise
    except (KeyboardInterrupt, SystemExit):
        # What runs on minions does not end with this process (measured on 3008.3).
        going = sorted(running)
        for minion in going:
            ended(minion, None, "was at it when this was interrupted, and goes on")
        more = f"; {', '.join(going)} go on with their states" if going else ""
        raise errors.Interrupted(f"Interrupted{more}{_not_started(found)}", **found) from None
    return found


def verdict(answer, why=None, test=False):
    """
    Return the summary of one minion's full return: ``result``, ``changed`` (ids of states), ``failed`` (dictionaries
    ``id`` and ``comment``), and ``silent``: it gave no return, and may still be at it.

    Only a dictionary of states that all succeeded, with return code 0, is a success. Whatever else comes (a text, a
    list of render errors, nothing) is a failure with a reason. A state may say None only in a test.
    """
    summary = {"result": False, "changed": [], "failed": [], "silent": answer is None}
    states = answer.get("ret") if isinstance(answer, dict) else None
    if answer is None:
        summary["failed"] = [{"id": None, "comment": why or "no answer"}]
    elif not isinstance(states, dict) or not states or not all(isinstance(one, dict) for one in states.values()):
        summary["failed"] = [{"id": None, "comment": _unusable(states)}]
    else:
        rows = sorted(states.items(), key=lambda row: row[1].get("__run_num__") or 0)
        summary["changed"] = list(dict.fromkeys(_id(key, one) for key, one in rows if one.get("changes")))
        fine = (True, None) if test else (True,)
        bad = [(key, one) for key, one in rows if not any(one.get("result") is value for value in fine)]
        # What only follows from another failure is not told, as long as there is another.
        bad = [row for row in bad if row[1].get("__state_ran__", True)] or bad
        summary["failed"] = [{"id": _id(key, one), "comment": line(one.get("comment"))} for key, one in bad]
        if not bad and answer.get("retcode") != 0:
            code = answer.get("retcode")
            summary["failed"] = [{"id": None, "comment": f"all states succeeded, but the return code is {code}"}]
    summary["result"] = not summary["failed"]
    return summary


def said(summary):
    """Return a summary in one line."""
    if not summary["result"]:
        first, *more = summary["failed"]
        rest = f" (and {len(more)} more)" if more else ""
        return f"FAILED: {': '.join(filter(None, [first['id'], first['comment']]))}{rest}"
    changed = len(summary["changed"])
    return f"done in {summary['seconds']:.0f} s, " + (f"{changed} changed" if changed else "no changes")


def line(value):
    """Return the first line of a comment, printable and not too long."""
    text = (str(value or "").strip().splitlines() or ["no comment"])[0]
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def _id(key, state):
    # A key is STATE_|-ID_|-NAME_|-FUNCTION.
    return str(state.get("__id__") or [*key.split("_|-"), key][1])


def _unusable(states):
    """Why a return is no answer: Salt gives render errors as a list, and refusals as a text."""
    if isinstance(states, list) and states:
        return line(states[-1])
    if isinstance(states, str) and states.strip():
        # Of a traceback, the last line says what went wrong.
        lines = states.strip().splitlines()
        return line(lines[-1] if lines[0].startswith("Traceback") else lines[0])
    if states is None or states == {}:
        return "ran no states"
    return f"answered something else than states: {line(states)}"


def _failure(found):
    shown = [f"{minion}: {said(found['minions'][minion]).removeprefix('FAILED: ')}" for minion in found["failed"][:3]]
    more = f"; and {len(found['failed']) - 3} more" if len(found["failed"]) > 3 else ""
    count = len(found["minions"]) + len(found["not_started"])
    return f"{len(found['failed'])} of {count} minions failed: {'; '.join(shown)}{more}{_not_started(found)}"


def _not_started(found):
    return f"; not started: {', '.join(found['not_started'])}" if found["not_started"] else ""
