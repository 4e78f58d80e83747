"""
Are these machines idle? One verdict over the answers of all of them.

Only a positive "idle" is idle. A target that matches nobody, a machine that does not answer, that lacks the execution
module ``busy``, or whose answer is not clear: each blocks, like a spider that runs, and is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors, text
from saltext.deploytoken.busy import consent
from saltext.deploytoken.busy.consent import Blocker, Consent
from saltext.deploytoken.machines.base import Machines

#: How many blockers, people to ask, and machines a message names.
BLOCKERS, PEOPLE, NAMED = 3, 5, 3

#: The probe of the execution module ``busy`` that finds runs of states.
STATES = "salt"

_TEXT, _AGE = (str, type(None)), (int, type(None))


@dataclass(frozen=True)
class Found:
    """
    The answers of all machines at one moment, put into one.

    ``blockers`` has the longest-running first; ``passed`` has those that do not count yet (:func:`without_states`).
    """

    target: Any
    machines: Machines
    expected: list[str]
    answers: dict[str, dict[str, Any]]
    failed: dict[str, str]
    blockers: list[Blocker]
    unknowns: list[dict[str, str]]
    passed: list[Blocker] = dataclasses.field(default_factory=list)

    def uncovered(self, agreed: Consent | None) -> list[Blocker]:
        """Return the blockers to which nobody agreed."""
        return consent.uncovered(agreed, self.blockers)

    def is_idle(self, agreed: Consent | None) -> bool:
        """Return whether every machine says that nothing runs but what ``agreed`` covers."""
        return bool(self.expected) and not (self.uncovered(agreed) or self.unknowns or self.failed)


@dataclass(frozen=True)
class Verdict:
    """
    Machines that are idle, or of which somebody agreed to the interruption.

    ``agreed`` is the consent, frozen to what was found; ``covered`` has the blockers to which it applies.
    """

    found: Found
    agreed: Consent | None
    covered: list[Blocker]

    @property
    def boots(self) -> dict[str, Any]:
        """The boot ID of each machine, or None where it gave none."""
        return {machine: answer.get("boot") for machine, answer in self.found.answers.items()}

    def __str__(self) -> str:
        passed = [f"asked again under the token: {describe(blocker)}" for blocker in self.found.passed[:1]]
        return "; ".join([self._found(), *passed])

    def _found(self) -> str:
        if self.covered:
            people = consent.by_person(self.agreed, self.covered).items()
            return "; ".join(f"{by} agreed to the interruption of {_ids(blockers)}" for by, blockers in people)
        notes = {machine: self.found.answers[machine].get("note") for machine in self.found.expected}
        return "Idle: " + ", ".join(f"{name} ({note})" if note else name for name, note in notes.items())

    def data(self) -> dict[str, Any]:
        """Return plain data, for answers to programs."""
        return {
            "idle": True,
            "target": self.found.target,
            "expected": self.found.expected,
            "minions": self.found.answers,
            "consented": _consented(self.agreed, self.covered),
        }


def look(machines: Machines, target: Any, target_type: str = "glob", timeout: float | None = None) -> Found:
    """
    Ask all machines that a target means once, and put their answers into one.

    ``timeout`` is in seconds; see :py:meth:`Machines.ask_busy
    <saltext.deploytoken.machines.base.Machines.ask_busy>`.

    :raises errors.Invalid: there is no such type of target.
    """
    asked = machines.ask_busy(target, target_type, timeout)
    answers, failed = {}, dict(asked.failed)
    for machine, answer in asked.answers.items():
        if is_clear(machine, answer):
            answers[machine] = answer
        else:
            failed[machine] = f"answered something else than busy.check does: {text.last_line(repr(answer))}"
    return Found(
        target=target,
        machines=machines,
        expected=asked.expected,
        answers=answers,
        failed=failed,
        blockers=sorted(
            (blocker for answer in answers.values() for blocker in answer["blockers"]),
            key=lambda blocker: -(blocker["age"] if blocker["age"] is not None else -1),
        ),
        unknowns=[{"minion": machine, **one} for machine, answer in answers.items() for one in answer["unknowns"]],
    )


def without_states(found: Found) -> Found:
    """
    Return the same without the states that run, which become ``passed``: nobody agrees to their interruption here.

    For whoever waits for the token, whose holder's states they may be. To be asked again once it is held.
    """
    passed = [blocker for blocker in found.blockers if blocker["probe"] == STATES]
    return dataclasses.replace(found, blockers=[one for one in found.blockers if one not in passed], passed=passed)


def judge(found: Found, agreed: Consent | None, prefix: str = "") -> Verdict:
    """
    Return the :class:`Verdict` if all machines are idle, or somebody agreed to what is interrupted.

    A name without ids agrees to what was found here, so judge a later look with the ``agreed`` of this verdict.

    :raises errors.Busy: otherwise. ``prefix`` begins the message; the details have all that was found.
    """
    agreed = consent.frozen(agreed, found.blockers)
    left, details = found.uncovered(agreed), refusal(found, agreed)
    if not found.expected:
        raise found.machines.matches_nobody(found.target, **details)
    if found.is_idle(agreed):
        return Verdict(found, agreed, consent.covered(agreed, found.blockers))
    parts = []
    if left:
        people = list(dict.fromkeys(str(blocker["ask"]) for blocker in left if blocker["ask"]))
        ask = f" (ask {', '.join(people[:PEOPLE])}{', …' if len(people) > PEOPLE else ''})" if people else ""
        shown = "; ".join(describe(blocker) for blocker in left[:BLOCKERS])
        more = "; …" if len(left) > BLOCKERS else ""
        parts.append(f"{text.count(len(left), 'thing')} running{ask}: {shown}{more}")
    if found.unknowns:
        first = found.unknowns[0]
        count = text.count(len(found.unknowns), "thing")
        parts.append(f"{count} unknown: {first['minion']}/{first['probe']}: {first['why']}")
    if found.failed:
        parts.append("; ".join(f"{machine} {why}" for machine, why in sorted(found.failed.items())[:NAMED]))
    raise errors.Busy(prefix + "; ".join(parts), **details)


def refusal(found: Found, agreed: Consent | None) -> dict[str, Any]:
    """Return the details of a refusal: all that was found, and under ``consent`` the consent that is needed."""
    left = found.uncovered(agreed)
    return {
        "target": found.target,
        "expected": found.expected,
        "minions": found.answers,
        "failed": found.failed,
        "blockers": left,
        "unknowns": found.unknowns,
        "consented": _consented(agreed, consent.covered(agreed, found.blockers)),
        "consent": consent.request(agreed, found.blockers),
    }


def describe(blocker: Blocker) -> str:
    """Return what runs, where and for how long, in a few words."""
    machine = blocker["id"].partition("/")[0]
    age = f" for {text.span(blocker['age'])}" if blocker["age"] is not None else ""
    return f"{blocker['what']} on {machine}{age}"


def is_clear(machine: str, answer: Any) -> bool:
    """Return whether only ``busy.check`` can have said this, and whether it means what it seems to."""
    if not isinstance(answer, dict) or not isinstance(answer.get("idle"), bool):
        return False
    lists = [answer.get(key) for key in ("checks", "blockers", "unknowns", "info")]
    if not all(isinstance(one, list) for one in lists) or not str(answer.get("note")).isprintable():
        return False
    running = {"id": str, "probe": str, "what": str, "user": _TEXT, "ask": _TEXT, "age": _AGE}
    for key, needed in (("blockers", running), ("info", running), ("unknowns", {"probe": str, "why": str})):
        if not all(isinstance(one, dict) and _has(one, needed) for one in answer[key]):
            return False
    if not all(one["id"].startswith(f"{machine}/") for one in answer["blockers"]):
        return False  # one machine's blockers must not pass for those that somebody agreed to on another
    return answer["idle"] is not bool(answer["blockers"] or answer["unknowns"])


def _has(one: Mapping[str, Any], needed: Mapping[str, Any]) -> bool:
    """Whether it has all of that, fit to be sorted and printed: busy.check's texts are plain lines."""
    return all(
        key in one and type(one[key]) in (form if isinstance(form, tuple) else (form,)) and str(one[key]).isprintable()
        for key, form in needed.items()
    )


def _consented(agreed: Consent | None, covered: list[Blocker]) -> list[dict[str, Any]]:
    return [{"by": by, "to": blockers} for by, blockers in consent.by_person(agreed, covered).items()]


def _ids(blockers: list[Blocker]) -> str:
    return ", ".join(blocker["id"] for blocker in blockers)
