"""
Lines for people: out of whatever came back, and in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Longer texts from machines, git or a wiki are cut here.
LENGTH = 200


def printable(value: str) -> str:
    """Return ``value`` as a terminal may show it: it can hold control sequences, or half a character."""
    return "".join(char if char.isprintable() else " " for char in value)


def first_line(value: Any, limit: int = LENGTH) -> str:
    """Return the first line that is not blank, printable and cut; an empty string if there is none."""
    return _line(value, 0, limit)


def last_line(value: Any, limit: int = LENGTH) -> str:
    """Return the last line that is not blank, likewise. Of a traceback, it says what went wrong."""
    return _line(value, -1, limit)


def _line(value: Any, position: int, limit: int) -> str:
    lines = [line.strip() for line in str(value or "").splitlines() if line.strip()]
    return shortened(printable(lines[position]), limit) if lines else ""


def shortened(value: str, limit: int = LENGTH) -> str:
    """Return ``value`` with at most ``limit`` characters; the last one then says that it was cut."""
    return value if len(value) <= limit else value[: limit - 1] + "…"


def count(number: int, word: str) -> str:
    """Return ``1 minion`` or ``2 minions``."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def span(seconds: float) -> str:
    """
    Return a length of time in words: in the largest unit of which it has two, or which it is exactly.

    So 90 seconds stay 90 seconds: rounded to a minute, a limit would look shorter than it is.
    """
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size or seconds == size:
            return count(int(seconds // size), word)
    return count(int(seconds), "second")


def join_reasons(reasons: Mapping[str, str]) -> str:
    """Return ``web1 did not answer; web2 is down`` for ``{id: why}``."""
    return "; ".join(f"{name} {why}" for name, why in sorted(reasons.items()))


def short(commit: str) -> str:
    """Return as much of a commit's ID as people read."""
    return commit[:8]
