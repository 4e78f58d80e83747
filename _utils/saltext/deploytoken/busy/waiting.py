"""
Wait until machines are idle.

Between two jobs, Scrapyd's queue is empty for a moment, or nothing runs for up to its ``poll_interval``. So machines
are idle when two looks find them so that are further apart than that. A queue that only waits, with nothing running,
never becomes idle by itself: it is told apart as stuck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors, text
from saltext.deploytoken.busy import consent, verdict
from saltext.deploytoken.busy.consent import Blocker, Consent
from saltext.deploytoken.busy.verdict import Found, Verdict
from saltext.deploytoken.machines.base import Tell

#: Seconds after which a wait repeats what it is waiting for.
REMIND = 600


@dataclass(frozen=True)
class Times:
    """
    The times of a wait, in seconds.

    ``limit``: for all of it. ``interval``: between two looks. ``settle``: between the two looks that find the machines
    idle. ``stuck``: how long the same jobs may be pending, with nothing running.
    """

    limit: float = 7200
    interval: float = 15
    settle: float = 6
    stuck: float = 300


def wait(
    look: Callable[[], Found],
    agreed: Consent | None,
    times: Times,
    tell: Tell,
    passing: Callable[[Found], Found] | None = None,
) -> tuple[Verdict, float]:
    """
    Look again and again until the machines are idle; return the verdict and the seconds that it took.

    A name without ids is a consent to what the first look finds; what begins later is waited for.

    ``look`` (callable)
        Asks once, as :py:func:`saltext.deploytoken.busy.verdict.look` does.
    ``tell`` (callable)
        Called with lines about what is left, when that has changed, and every ten minutes.
    ``passing`` (callable)
        Returns what was found without that which is waited for, but does not count when the time is over.

    :raises errors.Busy: they are not idle in time, or as soon as jobs are stuck (with ``stuck`` in the details).
    """
    begin = time.monotonic()
    waiting: dict[str, float] = {}  # the ids of pending jobs: since when
    told: Any = None
    told_at = idle_since = None
    passing = passing or (lambda found: found)
    found = look()
    agreed = consent.frozen(agreed, passing(found).blockers)
    while True:
        now = time.monotonic()
        if not found.expected:
            verdict.judge(found, agreed)
        waiting = {one: waiting.get(one, now) for one in pending_alone(found.blockers)}
        if found.is_idle(agreed):
            if idle_since is not None and now - idle_since >= times.settle:
                return verdict.judge(found, agreed), now - begin
            idle_since = now if idle_since is None else idle_since
            rest = times.settle
        else:
            idle_since = None
            state = _state(found, agreed)
            if state != told or told_at is None or now - told_at >= REMIND:
                tell(_description(found, agreed, now - begin))
                told, told_at = state, now
            left = [blocker for blocker in found.uncovered(agreed) if blocker["id"] in waiting]
            stuck_in = [waiting[blocker["id"]] + times.stuck - now for blocker in left]
            stuck = [blocker for blocker, seconds in zip(left, stuck_in, strict=True) if seconds <= 0]
            if stuck:
                raise errors.Busy(
                    f"Stuck: {text.count(len(stuck), 'job')} pending for {text.span(times.stuck)} with nothing running"
                    f" ({stuck[0]['id']}); Scrapyd will not start them: look at its log, or cancel them",
                    **verdict.refusal(found, agreed),
                    stuck=stuck,
                )
            remaining = begin + times.limit - now
            if remaining <= 0:
                late = f"Still not idle after {text.span(times.limit)}: "
                return verdict.judge(passing(found), agreed, late), now - begin
            rest = min(times.interval, remaining, *stuck_in)
        # An idle look just before the end is worth nothing without its second one, so that one may come later.
        time.sleep(rest)
        found = look()


def pending_alone(blockers: Iterable[Blocker]) -> list[str]:
    """Return the ids of pending jobs of those Scrapyds, by machine and instance, of which no job runs."""
    blockers = list(blockers)
    running = {one["id"].rpartition("/")[0] for one in blockers if one.get("state") == "running"}
    pending = [one["id"] for one in blockers if one.get("state") == "pending"]
    return [one for one in pending if one.rpartition("/")[0] not in running]


def _state(found: Found, agreed: Consent | None) -> Any:
    return [blocker["id"] for blocker in found.uncovered(agreed)], found.unknowns, found.failed


def _description(found: Found, agreed: Consent | None, waited: float) -> str:
    lines = [f"  {verdict.describe(blocker)}" for blocker in found.uncovered(agreed)]
    lines += [f"  unknown: {one['minion']}/{one['probe']}: {one['why']}" for one in found.unknowns]
    lines += [f"  unknown: {machine} {why}" for machine, why in sorted(found.failed.items())]
    return "\n".join([f"waiting for {text.count(len(lines), 'thing')} ({text.span(waited)} so far):", *lines])
