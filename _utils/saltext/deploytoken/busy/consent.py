"""
Consent: who agreed to which interruptions.

Pure functions on blockers, as :py:func:`busy.check` lists them. Nobody can agree to something unknown: unknowns are
never covered, and neither is work that began after somebody agreed to the rest.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors

#: One piece of work that a deploy would interrupt, as a minion's ``busy.check`` gives it.
Blocker = dict[str, Any]

PLACEHOLDER = "WHO AGREED"
EXAMPLE = 'consent=\'{by: "Jane Doe, helpdesk", for: ["MINION/scrapyd/*"]}\''


@dataclass(frozen=True)
class Consent:
    """``by`` is the person; ``patterns`` are ids or globs of them, or None for all that runs at the moment."""

    by: str
    patterns: tuple[str, ...] | None

    def covers(self, blocker: Blocker) -> bool:
        """Return whether this person agreed to the interruption of that."""
        if self.patterns is None:
            return True
        return any(
            blocker["id"] == pattern or fnmatch.fnmatchcase(blocker["id"], pattern) for pattern in self.patterns
        )


def parse(value: Any, key: str = "consent") -> Consent | None:
    """
    Return the :class:`Consent` of a name, or of a dictionary of ``by`` and ``for``; None stays None.

    :raises errors.Invalid: an unnamed consent is none.
    """
    if value is None:
        return None
    by, patterns = value, None
    if isinstance(value, dict):
        if set(value) - {"by", "for"} or "by" not in value:
            raise errors.Invalid(f"{key}: the keys are by and for: {EXAMPLE}")
        # A `for` with nothing below it agrees to nothing, and must not count as one that is left out.
        by, patterns = value["by"], (value["for"] or []) if "for" in value else None
    if not isinstance(by, str) or not by.strip() or not by.isprintable() or by.strip() == PLACEHOLDER:
        raise errors.Invalid(f"{key}: the name of the person who agreed is needed: {EXAMPLE}")
    # YAML and Salt turn a mapping with a mistake in it into a text: as a name, it would cover all that runs.
    if re.search(r"[][{}]|\b(by|for)\s*:", by):
        raise errors.Invalid(f"{key}: {by!r} is no name, nor a mapping that YAML can read: {EXAMPLE}")
    if isinstance(patterns, str):
        patterns = [patterns]
    if patterns is not None and not (
        isinstance(patterns, list) and patterns and all(isinstance(pattern, str) and pattern for pattern in patterns)
    ):
        raise errors.Invalid(f"{key}: for is a list of ids, as busy.check prints them, or of globs: {EXAMPLE}")
    return Consent(by.strip(), None if patterns is None else tuple(patterns))


def covered(consent: Consent | None, blockers: Iterable[Blocker]) -> list[Blocker]:
    """Return the blockers that the consent covers."""
    return [blocker for blocker in blockers if consent and consent.covers(blocker)]


def uncovered(consent: Consent | None, blockers: Iterable[Blocker]) -> list[Blocker]:
    """Return the blockers that still block."""
    return [blocker for blocker in blockers if not (consent and consent.covers(blocker))]


def lines(blockers: Sequence[Blocker]) -> list[str]:
    """Return lines of YAML to paste once the name is filled in; none if nothing blocks."""
    if not blockers:
        return []
    return [
        "consent:",
        f'  by: "{PLACEHOLDER}"',
        "  for:",
        *(f"    - {json.dumps(blocker['id'])}" for blocker in blockers),
    ]
