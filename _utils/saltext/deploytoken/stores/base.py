"""
The interface of a store: compare-and-swap of one text.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from saltext.deploytoken import errors


@dataclass(frozen=True)
class Page:
    """One version of the page. ``author``, ``comment`` and ``saved`` (ISO 8601) tell who saved it, why and when."""

    text: str
    version: int
    author: str | None = None
    comment: str = ""
    saved: str | None = None


class Conflict(Exception):
    """The page has moved on from the version that the write was made from; nothing was written."""


class Unanswered(errors.StoreError):
    """No answer, or none that can be understood. A write may have been applied, or be applied later."""


class Missing(errors.StoreError):
    """There is no such page, or no such version."""


class Store(ABC):
    """
    Compare-and-swap of one text.

    Each method raises :class:`errors.StoreError` for a refusal, and :class:`Unanswered` where it cannot know.
    """

    #: What a person opens to see the page.
    url: str

    @abstractmethod
    def read(self):
        """Return the current :class:`Page`."""

    @abstractmethod
    def read_version(self, number):
        """Return the :class:`Page` as it was saved as version ``number``; raise :class:`Missing` without one."""

    @abstractmethod
    def write(self, text, version, comment):
        """Save ``text`` as version ``version + 1``; raise :class:`Conflict` unless ``version`` is the current one."""

    @abstractmethod
    def create(self, text, comment):
        """Save the first version of a page that is missing; return whether it was missing."""

    @abstractmethod
    def operator(self):
        """Return the name under which the store knows the operator, or None."""

    def checks(self):
        """
        Yield a name, True or False or None (cannot be told), and a line with the remedy, for the doctor.

        For what only this kind of store can know, and without writing. Nothing else is looked at when ``server`` is
        False.
        """
        return iter(())

    def close(self):
        """Give back what the store keeps open."""
