"""
States on many machines, in batches: what each did, which failed, and which were never begun.

Why not ``salt.state`` (measured on 3008.3)? With ``batch`` or ``subset`` it succeeds although a minion is down. The
``failhard`` that would stop the batches also skips the cleanup of an orchestration. It says nothing while it runs, and
cannot ask between two batches whether the token is still held.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from saltext.deploytoken import errors, text
from saltext.deploytoken.machines.base import Full, Tell

#: Runs the states on a group of machines; yields ``(id, full return, None)`` or ``(id, None, why)`` as each ends.
Publish = Callable[[Sequence[str]], Iterable[tuple[str, Full | None, str | None]]]

#: How many failed machines an error names.
NAMED = 3


@dataclasses.dataclass(frozen=True)
class Failure:
    """One state that failed: its ``id``, or None where no state of its own is to blame, and what it says."""

    id: str | None
    comment: str

    def __str__(self) -> str:
        return self.comment if self.id is None else f"{self.id}: {self.comment}"


@dataclasses.dataclass(frozen=True)
class Summary:
    """How one machine ended. A ``silent`` one gave no return, and may still run its states."""

    result: bool
    changed: list[str]
    failed: list[Failure]
    silent: bool
    seconds: float = 0.0

    def __str__(self) -> str:
        if not self.result:
            first, *more = self.failed
            return f"FAILED: {first}" + (f" (and {len(more)} more)" if more else "")
        changed = f"{len(self.changed)} changed" if self.changed else "no changes"
        return f"done in {self.seconds:.0f} s, {changed}"


@dataclasses.dataclass
class Applied:
    """
    What became of the states on each machine, as it comes.

    ``expected`` are all that are to be begun, ``minions`` has those that ended, ``not_started`` those that were not
    begun, and ``returns`` what Salt gave for each that ended: its states, or why there are none.
    """

    expected: list[str]
    minions: dict[str, Summary] = dataclasses.field(default_factory=dict)
    not_started: list[str] = dataclasses.field(default_factory=list)
    returns: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.not_started = list(self.expected)

    @property
    def begun(self) -> bool:
        """Whether any machine may have been asked to run its states."""
        return len(self.not_started) < len(self.expected)

    @property
    def failed(self) -> list[str]:
        """The machines that ended without success, in the order in which they ended."""
        return [minion for minion, summary in self.minions.items() if not summary.result]

    @property
    def running(self) -> list[str]:
        """The machines that may still run their states: begun and without an end, or silent."""
        ended = {minion for minion, summary in self.minions.items() if not summary.silent}
        return [minion for minion in self.expected if minion not in ended and minion not in self.not_started]

    def data(self) -> dict[str, Any]:
        """Return plain data, for answers to programs; without the returns, which are large."""
        return {
            "minions": {minion: dataclasses.asdict(summary) for minion, summary in self.minions.items()},
            "failed": self.failed,
            "not_started": self.not_started,
            "expected": self.expected,
        }


def apply(
    applied: Applied,
    groups: Sequence[Sequence[str]],
    publish: Publish,
    allowed: Callable[[], None],
    tell: Tell,
    test: bool = False,
) -> None:
    """
    Apply states to one group of machines after the other, for as long as nothing fails.

    ``applied``
        Is filled in as the machines end, so that an error in the middle loses nothing.
    ``groups``
        The ids, batch by batch; together, those that ``applied`` expects.
    ``publish`` (callable)
        See :data:`Publish`.
    ``allowed`` (callable)
        Called before each group; raises an :class:`errors.Error` when the token is not held any more.
    ``tell`` (callable)
        Called with a line for people, as each machine ends.
    ``test`` (bool)
        The states only say what they would change.

    :raises errors.Failed: a machine failed, and no other group is begun.
    :raises errors.Interrupted: Ctrl-C or SIGTERM; what runs on the machines goes on (measured on 3008.3).
    """
    began, running = time.monotonic(), set[str]()

    def end(minion: str, answer: Full | None, why: str | None) -> None:
        running.discard(minion)
        summary = dataclasses.replace(summarize(answer, why, test), seconds=round(time.monotonic() - began, 1))
        applied.minions[minion] = summary
        applied.returns[minion] = answer.get("ret") if answer is not None else why
        tell(f"{minion}: {summary}")

    try:
        for number, group in enumerate(groups, 1):
            if not test:
                allowed()
            if len(groups) > 1:
                tell(f"batch {number} of {len(groups)}: {', '.join(group)}")
            began, running = time.monotonic(), set(group)
            applied.not_started = [minion for minion in applied.not_started if minion not in running]
            for minion, answer, why in publish(group):
                end(minion, answer, why)
            for minion in sorted(running):
                end(minion, None, "returned nothing")
            if applied.failed:
                raise errors.Failed(_failure(applied))
    except (KeyboardInterrupt, SystemExit):
        going = sorted(running)
        for minion in going:
            end(minion, None, "was still running when this was interrupted, and goes on")
        more = f"; {', '.join(going)} go on with their states" if going else ""
        raise errors.Interrupted(f"Interrupted{more}{_not_started(applied)}") from None


def call(
    ref: str | None, sls: Sequence[str] | None = None, saltenv: str | None = None, test: bool = False
) -> tuple[str, dict[str, Any]]:
    """Return the function and the arguments that run the highstate, or these SLS, under the hold ``ref``."""
    kwarg: dict[str, Any] = {"queue": False, "test": test, "pillar": {"deploytoken": {"ref": ref}}}
    if saltenv is not None:
        kwarg["saltenv"] = saltenv
    if sls is None:
        return "state.highstate", kwarg
    return "state.sls", {**kwarg, "mods": list(sls)}


def summarize(answer: Full | None, why: str | None = None, test: bool = False) -> Summary:
    """
    Return the summary of one machine's full return.

    Only a dictionary of states that all succeeded, with return code 0, is a success. Whatever else comes (a text, a
    list of render errors, nothing) is a failure with a reason. A state may say None only in a test.
    """
    if answer is None:
        return Summary(False, [], [Failure(None, why or "no answer")], silent=True)
    states = answer.get("ret")
    if not isinstance(states, dict) or not states or not all(isinstance(one, dict) for one in states.values()):
        return Summary(False, [], [Failure(None, _unusable(states))], silent=False)
    rows = sorted(states.items(), key=lambda row: row[1].get("__run_num__") or 0)
    changed = list(dict.fromkeys(_id(key, one) for key, one in rows if one.get("changes")))
    fine = (True, None) if test else (True,)
    bad = [(key, one) for key, one in rows if not any(one.get("result") is value for value in fine)]
    # A state that only follows from another failure is left out, as long as there is another.
    bad = [row for row in bad if row[1].get("__state_ran__", True)] or bad
    failed = [Failure(_id(key, one), text.first_line(one.get("comment")) or "no comment") for key, one in bad]
    if not failed and answer.get("retcode") != 0:
        failed = [Failure(None, f"all states succeeded, but the return code is {answer.get('retcode')}")]
    return Summary(not failed, changed, failed, silent=False)


def _id(key: str, state: Mapping[str, Any]) -> str:
    # A key is STATE_|-ID_|-NAME_|-FUNCTION.
    return str(state.get("__id__") or [*key.split("_|-"), key][1])


def _unusable(states: Any) -> str:
    """Why a return is no answer: Salt gives render errors as a list, and refusals as a text."""
    if isinstance(states, list) and states:
        return text.first_line(states[-1]) or "no reason given"
    if isinstance(states, str) and states.strip():
        # Of a traceback, the last line says what went wrong.
        traceback = states.strip().startswith("Traceback")
        return text.last_line(states) if traceback else text.first_line(states)
    if states is None or states == {}:
        return "ran no states"
    return f"answered something else than states: {text.first_line(repr(states))}"


def _failure(applied: Applied) -> str:
    failed = applied.failed
    shown = [f"{minion}: {str(applied.minions[minion]).removeprefix('FAILED: ')}" for minion in failed[:NAMED]]
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    count = text.count(len(applied.expected), "minion")
    return f"{len(failed)} of {count} failed: {'; '.join(shown)}{more}{_not_started(applied)}"


def _not_started(applied: Applied) -> str:
    return f"; not started: {', '.join(applied.not_started)}" if applied.not_started else ""
