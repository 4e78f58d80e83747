"""
Consent: who agreed to which interruptions.

Several people may agree, each to their own work. Pure functions on blockers, as :py:func:`busy.check` lists them.
Nobody can agree to something unknown: unknowns are never covered, and neither is work that began after somebody agreed
to the rest. So a name without ids is :func:`frozen` to the work that was found when it was given.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors

#: One piece of work that a deploy would interrupt, as a minion's ``busy.check`` gives it.
Blocker = dict[str, Any]

#: Stands for the name of a person whom nobody knows; it is refused as a name.
PLACEHOLDER = "WHO AGREED"
EXAMPLE = 'consent=\'{by: "Jane Doe, helpdesk", for: ["MINION/scrapyd/*"]}\''


@dataclass(frozen=True)
class Grant:
    """``by`` is the person; ``patterns`` are ids or globs of them, or None for all that is found at the moment."""

    by: str
    patterns: tuple[str, ...] | None

    def covers(self, blocker: Blocker) -> bool:
        """Return whether this person agreed to the interruption of that."""
        if self.patterns is None:
            return True
        return any(
            blocker["id"] == pattern or fnmatch.fnmatchcase(blocker["id"], pattern) for pattern in self.patterns
        )


@dataclass(frozen=True)
class Consent:
    """What one person or several agreed to: at least one :class:`Grant`."""

    grants: tuple[Grant, ...]

    def by(self, blocker: Blocker) -> str | None:
        """Return the person who agreed to the interruption of that; None if nobody did."""
        return next((grant.by for grant in self.grants if grant.covers(blocker)), None)

    def covers(self, blocker: Blocker) -> bool:
        """Return whether anybody agreed to the interruption of that."""
        return self.by(blocker) is not None


def parse(value: Any, key: str = "consent") -> Consent | None:
    """
    Return the :class:`Consent` of a name, of a dictionary of ``by`` and ``for``, or of a list of these.

    None, and an empty list, are nobody's, and stay None.

    :raises errors.Invalid: an unnamed consent is none. The message names the key: ``consent.1.by``.
    """
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return Consent(tuple(_grant(one, f"{key}.{number}") for number, one in enumerate(value)))
    return Consent((_grant(value, key),))


def frozen(agreed: Consent | None, blockers: Iterable[Blocker]) -> Consent | None:
    """
    Return the consent with the ids of these blockers in the place of "all that is found".

    What others agreed to by name stays theirs. Where nothing was found, nobody agreed to anything.
    """
    if agreed is None:
        return None
    named = [grant for grant in agreed.grants if grant.patterns is not None]
    ids = tuple(blocker["id"] for blocker in blockers if not any(grant.covers(blocker) for grant in named))
    grants = [grant if grant.patterns is not None else Grant(grant.by, ids) for grant in agreed.grants]
    return Consent(kept) if (kept := tuple(grant for grant in grants if grant.patterns)) else None


def data(agreed: Consent | None) -> list[dict[str, Any]]:
    """Return plain data from which :func:`parse` makes the same consent."""
    return [
        {"by": grant.by} if grant.patterns is None else {"by": grant.by, "for": list(grant.patterns)}
        for grant in (agreed.grants if agreed else ())
    ]


def request(agreed: Consent | None, blockers: Iterable[Blocker]) -> list[dict[str, Any]]:
    """
    Return the consent that is needed, as :func:`data` does: what was given already, and one entry for each person to
    ask. If nothing blocks, it is an empty list.

    The person to ask is the one whom the blocker names for that, or else the user whose work it is. Where neither is
    known, :data:`PLACEHOLDER` stands for the name.
    """
    ids: dict[str, list[str]] = {}
    for blocker in uncovered(agreed, blockers):
        ids.setdefault(_to_ask(blocker), []).append(blocker["id"])
    return [*data(agreed), *({"by": by, "for": own} for by, own in ids.items())] if ids else []


def condition(blockers: Iterable[Blocker]) -> str:
    """Return the words before a command that has the consent to these: who has to agree first."""
    people = [grant["by"] for grant in request(None, blockers)]
    if PLACEHOLDER in people:
        return f"If the people concerned agree, and with their names in place of {PLACEHOLDER}"
    names = " and ".join([", ".join(people[:-1]), *people[-1:]] if people[1:] else people)
    return f"If {names} {'agree' if people[1:] else 'agrees'}"


def by_person(agreed: Consent | None, blockers: Iterable[Blocker]) -> dict[str, list[Blocker]]:
    """Return the blockers that the consent covers, by the person who agreed to each."""
    found: dict[str, list[Blocker]] = {}
    for blocker in blockers:
        if agreed and (name := agreed.by(blocker)) is not None:
            found.setdefault(name, []).append(blocker)
    return found


def covered(agreed: Consent | None, blockers: Iterable[Blocker]) -> list[Blocker]:
    """Return the blockers that the consent covers."""
    return [blocker for blocker in blockers if agreed and agreed.covers(blocker)]


def uncovered(agreed: Consent | None, blockers: Iterable[Blocker]) -> list[Blocker]:
    """Return the blockers that still block."""
    return [blocker for blocker in blockers if not (agreed and agreed.covers(blocker))]


def _grant(value: Any, key: str) -> Grant:
    by, patterns, name_key = value, None, key
    if isinstance(value, dict):
        if set(value) - {"by", "for"} or "by" not in value:
            raise errors.Invalid(f"{key}: the keys are by and for: {EXAMPLE}")
        # A `for` with nothing below it agrees to nothing, and must not count as one that is left out.
        by, patterns, name_key = value["by"], (value["for"] or []) if "for" in value else None, f"{key}.by"
    if not isinstance(by, str) or not by.strip() or not by.isprintable() or by.strip() == PLACEHOLDER:
        raise errors.Invalid(f"{name_key}: the name of the person who agreed is needed: {EXAMPLE}")
    if _is_broken_mapping(by):
        raise errors.Invalid(f"{name_key}: {by!r} is no name, nor a mapping that YAML can read: {EXAMPLE}")
    if isinstance(patterns, str):
        patterns = [patterns]
    if patterns is not None and not (
        isinstance(patterns, list) and patterns and all(isinstance(pattern, str) and pattern for pattern in patterns)
    ):
        raise errors.Invalid(f"{key}.for: is a list of ids, as busy.check prints them, or of globs: {EXAMPLE}")
    return Grant(by.strip(), None if patterns is None else tuple(patterns))


def _is_broken_mapping(name: str) -> bool:
    """Whether YAML and Salt make this text of a mapping with a mistake in it: as a name, it would cover everything."""
    return bool(re.search(r"[][{}]|\b(by|for)\s*:", name))


def _to_ask(blocker: Blocker) -> str:
    """The name of the person to ask, so that it can be pasted: one that :func:`parse` would refuse is no use."""
    for key in ("ask", "user"):
        name = " ".join(str(blocker.get(key) or "").split())
        if name and name.isprintable() and not _is_broken_mapping(name):
            return name
    return PLACEHOLDER
