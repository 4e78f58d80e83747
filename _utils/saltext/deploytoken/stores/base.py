"""
The interface of a store: compare-and-swap of one text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from saltext.deploytoken import errors


@dataclass(frozen=True)
class Page:
    """One version of the page. ``author``, ``comment`` and ``saved`` (ISO 8601) say who saved it, why and when."""

    text: str
    version: int
    author: str | None = None
    comment: str = ""
    saved: str | None = None


class Check(NamedTuple):
    """One line of the doctor: whether all is well (None: cannot tell), and what was found or what to do."""

    name: str
    ok: bool | None
    text: str


class Conflict(Exception):
    """The page has moved on from the version that the write was made from; nothing was written."""


class Unanswered(errors.StoreError):
    """No answer, or none that can be understood. A write may have been applied, or be applied later."""


class Missing(errors.StoreError):
    """There is no such page, or no such version."""


class Hidden(errors.StoreError):
    """The user may not look at this, or may not do that."""


class Store(ABC):
    """
    Compare-and-swap of one text.

    Each method raises :class:`errors.StoreError` for a refusal, and :class:`Unanswered` where it cannot know.
    """

    #: The address under which a person sees the page.
    url: str

    @abstractmethod
    def read(self) -> Page:
        """Return the current :class:`Page`."""

    @abstractmethod
    def read_version(self, number: int) -> Page:
        """Return the :class:`Page` as it was saved as version ``number``; raise :class:`Missing` without one."""

    @abstractmethod
    def write(self, text: str, version: int, comment: str) -> None:
        """Save ``text`` as version ``version + 1``; raise :class:`Conflict` unless ``version`` is the current one."""

    @abstractmethod
    def create(self, text: str, comment: str) -> bool:
        """Save the first version of a missing page; return False, and leave it alone, if the page was there."""

    @abstractmethod
    def markup(self) -> str | None:
        """Return what a missing page is to be written in, ``textile`` or ``markdown``; None if nothing tells."""

    @abstractmethod
    def operator(self) -> str | None:
        """Return the name under which the store knows the operator, or None."""

    @abstractmethod
    def beside(self, address: str, key: str) -> Store:
        """
        Return the store of another page on the same server, for the doctor to write to.

        :raises errors.Invalid: ``address`` is no such page; the message begins with ``key``.
        """

    def checks(self) -> Iterator[Check]:
        """
        Yield the checks that only this kind of store can make for the doctor, without writing.

        If the one named ``server`` fails, the doctor does not read the page.
        """
        return iter(())

    def close(self) -> None:
        """Give back what the store keeps open."""
