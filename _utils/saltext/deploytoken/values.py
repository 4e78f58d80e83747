"""
Arguments and settings, read: one parser for each kind of value, at every door.

A runner's argument, a key of the master's configuration and a key of a deploy's request go through the same function.
So a dry run refuses what the run would refuse. Every message begins with the whole path of the key that is wrong.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors

#: A hold's ref, and the ID of a Salt job, as regular expressions.
REF = "[0-9a-f]{8}"
JID = "[0-9]{20}"
#: A job, and the master on which it runs.
JOB = rf"{JID}@[\w.-]+"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_YEAR = 366 * 86400


@dataclass(frozen=True)
class Batch:
    """How many machines at a time: a number, or a share of all in percent."""

    size: int
    percent: bool = False

    def split(self, ids: list[str]) -> list[list[str]]:
        """Return the ids in groups of this size; a share is rounded up."""
        count = math.ceil(len(ids) * self.size / 100) if self.percent else self.size
        return [ids[start : start + count] for start in range(0, len(ids), count)]


def text(value: Any, key: str) -> str:
    """
    Return ``value`` as text; a missing or blank one is refused.

    Salt turns ``reason=42`` on the command line into a number; that is still the text 42.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if value is None or isinstance(value, bool | dict | list) or not str(value).strip():
        raise errors.Invalid(f'{key}: needed, as one line of text: {key.rpartition(".")[2]}="…"')
    return str(value).strip()


def boolean(value: Any, key: str) -> bool:
    """
    Return ``value`` if it is True or False.

    :raises errors.Invalid: with ``key`` in the message; ``"no"`` as a string must not count as true.
    """
    if not isinstance(value, bool):
        raise errors.Invalid(f"{key}: {value!r} is not true or false")
    return value


def number(value: Any, key: str, most: int) -> int:
    """
    Return ``value`` if it is a whole number from 1 to ``most``.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise errors.Invalid(f"{key}: {value!r} is not a whole number from 1 to {most}")
    return value


def words(value: Any, key: str) -> list[str]:
    """
    Return a list of words for a list or a comma-separated string; None gives an empty list.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str | int) and not isinstance(item, bool) for item in value
    ):
        raise errors.Invalid(f"{key}: {value!r} is not a list of names; write one,two")
    return [str(item).strip() for item in value if str(item).strip()]


def names(value: Any, key: str) -> list[str]:
    """
    Return :func:`words` of which there is at least one.

    :raises errors.Invalid: with ``key`` in the message.
    """
    found = words(value, key)
    if not found:
        raise errors.Invalid(f"{key}: needed, as one name or a list of names")
    return found


def duration(value: Any, key: str) -> float:
    """
    Return the seconds of ``90``, ``"90"``, ``"45s"``, ``"1.5m"``, ``"2h"``, ``"1d"`` or ``"1w"``, up to a year.

    :raises errors.Invalid: with ``key`` in the message.
    """
    match = None
    if not isinstance(value, bool):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", str(value).strip(), re.ASCII)
    if not match:
        raise errors.Invalid(f"{key}: {value!r} is not a duration; write 45s, 15m, 2h or 1d")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > _YEAR:
        raise errors.Invalid(f"{key}: {str(value)[:40]!r} is more than a year")
    return seconds


def positive_duration(value: Any, key: str) -> float:
    """
    Return the seconds of a duration above 0; see :func:`duration`.

    :raises errors.Invalid: with ``key`` in the message.
    """
    seconds = duration(value, key)
    if not seconds:
        raise errors.Invalid(f"{key}: must be more than 0; write 45s, 15m, 2h or 1d")
    return seconds


def ref(value: Any, key: str = "ref") -> str:
    """
    Return a hold's ref as it stands on the page: 8 hex digits.

    :raises errors.Invalid: with ``key`` in the message.
    """
    found = str(value).strip().lower()
    if not re.fullmatch(REF, found):
        raise errors.Invalid(f"{key}: {value!r} is not a ref of 8 hex digits; `salt-run deploytoken.status` shows it")
    return found


def jid(value: Any, key: str = "jid") -> str:
    """
    Return the ID of a Salt job, 20 digits.

    :raises errors.Invalid: with ``key`` in the message.
    """
    found = str(value).strip()
    if not re.fullmatch(JID, found):
        raise errors.Invalid(f"{key}: {value!r} is not a job's ID of 20 digits; leave it out when typing this by hand")
    return found


def batch(value: Any, key: str = "batch") -> Batch:
    """
    Return the :class:`Batch` of a number of machines, or of a share of them such as ``25%``.

    :raises errors.Invalid: with ``key`` in the message.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})(%?)", str(value).strip(), re.ASCII) if not isinstance(value, bool) else None
    if not match or (match[2] and int(match[1]) > 100):
        raise errors.Invalid(f"{key}: {value!r} is neither a number of minions nor a share of them; write 2 or 25%")
    return Batch(int(match[1]), percent=bool(match[2]))
