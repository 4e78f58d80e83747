"""
The end of a deploy, read from its record: release the token or keep it, what the History says, and how to go on.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors, page, text
from saltext.deploytoken.busy import consent
from saltext.deploytoken.deploy import request
from saltext.deploytoken.deploy.record import UNKNOWN, Record
from saltext.deploytoken.deploy.release import notes
from saltext.deploytoken.machines.base import Machines

#: A summary, and a consent, have so many characters at most: an entry is one line that people read.
LENGTH = 400
#: So have the words of one deploy among several: the comment of a version carries them (1024 characters in Redmine
#: 5.0).
WORDS = 700

#: Why and how to go on: words, and a command.
Way = tuple[str, str]


@dataclass(frozen=True)
class Ending:
    """
    How a deploy went.

    ``began``: states may have begun on a machine. ``trouble``: what went wrong, or an empty text. ``running``:
    machines that may still run their states, and ``rebooting``: those that were ordered to reboot and have not been
    seen since. ``keeps``: the token stays held, for the next deploy under it where there was no trouble.
    ``hold_ended``: somebody else ended the hold meanwhile.
    """

    began: bool
    trouble: str
    running: list[str]
    rebooting: list[str]
    keeps: bool
    hold_ended: bool


def judge(record: Record) -> Ending:
    """Return how the deploy of this record went."""
    began = record.applied is not None and record.applied.begun
    ran = [record.steps[name] for name in ("applied", "rebooted") if name in record.steps]
    reasons = {step.reason for step in ran}
    trouble = _trouble(record) if began else _hindrance(record)
    running = record.applied.running if record.applied else []
    reboots = record.steps.get("rebooted")
    rebooting = record.reboots.left if reboots and reboots.reason == errors.Interrupted.reason else []
    may_go_on = bool(running or rebooting) or (began and UNKNOWN in reasons)
    gives_back = record.request is not None and record.request.on_failure == "release" if began else not record.resumed
    return Ending(
        began=began,
        trouble=trouble,
        running=running,
        rebooting=rebooting,
        keeps=may_go_on or not gives_back if trouble else stays(record),
        hold_ended=errors.NotYours.reason in reasons,
    )


def stays(record: Record) -> bool:
    """Whether the token stays held after a success: it does where a person took it by hand, for a day of work."""
    asked = record.request.on_success if record.request else None
    return asked == "hold" if asked else record.by_hand


def _trouble(record: Record) -> str:
    """What went wrong in a deploy that began."""
    lines = []
    applied, step = record.applied, record.steps.get("applied")
    if step is None or step.result is not True:
        lines.append(step.line if step else "the states did not come to their end")
    elif applied:
        # The step's own word is not enough: every machine that was asked whether it is idle was to be deployed.
        done = {minion for minion, summary in applied.minions.items() if summary.result is True}
        if left_out := sorted(set(record.expected) - done):
            lines.append(f"no answer from {', '.join(left_out)}")
    reboots = record.steps.get("rebooted")
    if reboots and reboots.result is not True:
        lines.append(reboots.line)
    return "; ".join(lines)


def _hindrance(record: Record) -> str:
    """Why a deploy began nowhere."""
    failed = [step.line for step in record.steps.values() if step.result is False]
    return failed[-1] if failed else "no state was applied"


def summary(record: Record, end: Ending) -> str:
    """Return the summary of the History entry."""
    reason = record.request.reason if record.request else ""
    if end.trouble:
        reason = f"{reason} ({'FAILED' if end.began else 'nothing deployed'}: {end.trouble})"
    return shortened(reason)


def facts(record: Record, end: Ending) -> dict[str, Any]:
    """Return what the History says of a deploy beside the summary, as arguments for ``release.notes``."""
    agreed = shortened(record.consented() or "") if end.began else ""
    commits = record.commits if end.began else None
    return {"rebooted": record.reboots.rebooted, "consent": agreed or None, "commits": commits}


def words(record: Record, end: Ending) -> str | None:
    """Return what this deploy did, as one of several under one hold; None if it began nowhere."""
    if not end.began:
        return None
    told = [f"by {record.by}"] if record.by else []
    told += [f"FAILED: {text.shortened(page.tame(end.trouble), 200)}"] if end.trouble else []
    told += [part for _, part in notes(**facts(record, end))]
    return line(record.request.reason if record.request else "", record.asked.get("target", ""), told)


def line(what: str, target: str | Sequence[str], told: Sequence[str]) -> str:
    """Return what was just done on a target, and more that is to be told of it, as one of several under one hold."""
    aim = text.shortened(target if isinstance(target, str) else ", ".join(target), 100)
    return shortened(f"{page.stamp(time.time()).partition(' ')[2]} {what} ({'; '.join([aim, *told])})", WORDS)


def shortened(words: str, length: int = LENGTH) -> str:
    """Return one line that the History can carry: no words of a machine or a wiki must keep the token held."""
    return text.shortened(page.tame(words), length)


def looks(record: Record, end: Ending, machines: Machines) -> list[Way]:
    """Return the commands that show which machines still run states, or reboot as ordered."""
    found = []
    states = [minion for minion in end.running if minion not in end.rebooting]
    if states:
        found.append(("To see what still runs", f"{machines.program} -L {','.join(states)} state.running"))
    if ordered := [minion for minion in record.reboots.away if minion in end.rebooting]:
        ids = ",".join(ordered)
        found.append(("To see what is back", f"salt-run deployreboots.ids {ids} target_type=list{machines.argument}"))
    return found


def ways_on(record: Record) -> list[Way]:
    """Return the commands that go on from a token that is kept."""
    reason = shlex.quote(record.request.reason if record.request else "")
    return [
        ("To run again under the same hold", run_again(record, record.ref)),
        ("To release it", f"salt-run deploytoken.release ref={record.ref} summary={reason}"),
    ]


def ways_from_here(record: Record) -> list[Way]:
    """Return the commands that go on after a success from a token that stays held."""
    return [
        ("To deploy more under it, for example", run_again(record, record.ref)),
        ("To release it", f"salt-run deploytoken.release ref={record.ref}"),
    ]


def ways_in(record: Record, refused: errors.Error, kept: bool) -> list[Way]:
    """
    Return the commands that go on from a token that cannot be had as it was asked for. ``kept``: it is the person's
    own, and nothing is at work under it.
    """
    token = refused.details.get("token") or {}
    if isinstance(refused, errors.NotYours) and record.resumed:
        return [("To deploy under a new hold", run_again(record, None))]
    if not isinstance(refused, errors.Held) or "token" not in refused.details:
        return []
    if kept and token.get("ref"):
        return [("To go on under it", run_again(record, token["ref"]))]
    return [("To wait for it", run_again(record, None, wait=record.asked.get("wait") or "15m"))]


def run_again(record: Record, ref: str | None, **more: Any) -> str:
    """
    Return what this deploy was asked for as a command: under the hold ``ref``, or with None under a new one.

    ``more`` are keys of the request.
    """
    asked = {key: value for key, value in record.asked.items() if key not in ("ref", "consent")}
    if asked.get("reboot") and record.reboots.rebooted:
        # Machines that are back are not rebooted once more.
        asked["reboot"] = record.reboots.left
    if record.consent:
        asked["consent"] = consent.data(record.consent)
    if not asked.get("reboot"):
        asked = {key: value for key, value in asked.items() if key not in ("reboot", *request.OF_REBOOTS)}
    return request.command({**asked, **({"ref": ref} if ref else {}), **more})
