"""
Consent: who agreed that what is interrupted.

Pure functions on blockers, as :py:func:`busy.check` lists them. Nobody can agree to what is not known: unknowns are
never covered, and neither is what began after somebody agreed to the rest.
"""

import dataclasses
import fnmatch
import json
import re

from saltext.deploytoken import errors

PLACEHOLDER = "WHO AGREED"
EXAMPLE = 'consent=\'{by: "Jane Doe, helpdesk", for: ["MINION/scrapyd/*"]}\''


@dataclasses.dataclass(frozen=True)
class Consent:
    """``by`` is the person; ``patterns`` are ids or globs of them, or None for all that runs at the moment."""

    by: str
    patterns: tuple | None

    def covers(self, blocker):
        """Whether this person agreed to the interruption of that."""
        if self.patterns is None:
            return True
        return any(
            blocker["id"] == pattern or fnmatch.fnmatchcase(blocker["id"], pattern) for pattern in self.patterns
        )


def parse(value):
    """
    Return the Consent, or None, of a name, or of a dictionary of ``by`` and ``for``.

    :raises errors.Invalid: an unnamed consent is none.
    """
    if value is None:
        return None
    by, patterns = value, None
    if isinstance(value, dict):
        if set(value) - {"by", "for"} or "by" not in value:
            raise errors.Invalid(f"consent: the keys are by and for: {EXAMPLE}")
        # A `for` with nothing below it agrees to nothing, and must not count as one that is left out.
        by, patterns = value["by"], (value["for"] or []) if "for" in value else None
    if not isinstance(by, str) or not by.strip() or not by.isprintable() or by.strip() == PLACEHOLDER:
        raise errors.Invalid(f"consent: the name of the person who agreed is needed: {EXAMPLE}")
    # Of a mapping with a mistake in it, YAML and Salt make a text: as a name, it would cover all that runs.
    if re.search(r"[][{}]|\b(by|for)\s*:", by):
        raise errors.Invalid(f"consent: {by!r} is no name, nor a mapping that YAML can read: {EXAMPLE}")
    if isinstance(patterns, str):
        patterns = [patterns]
    if patterns is not None and not (
        isinstance(patterns, list) and patterns and all(isinstance(pattern, str) and pattern for pattern in patterns)
    ):
        raise errors.Invalid(f"consent: for is a list of ids, as busy.check prints them, or of globs: {EXAMPLE}")
    return Consent(by.strip(), None if patterns is None else tuple(patterns))


def split(consent, blockers):
    """Return the blockers that the consent covers, and those that still block."""
    covered = [blocker for blocker in blockers if consent and consent.covers(blocker)]
    return covered, [blocker for blocker in blockers if blocker not in covered]


def lines(blockers):
    """Return ready-made lines of YAML, to be pasted after the name is filled in; none if nothing blocks."""
    if not blockers:
        return []
    return [
        "consent:",
        f'  by: "{PLACEHOLDER}"',
        "  for:",
        *(f"    - {json.dumps(blocker['id'])}" for blocker in blockers),
    ]
