"""
One class per answer that is not success.

Each has a stable ``reason`` (a word, for programs) and ``code`` (the exit code of ``salt-run``); its text is one line
for people: what is wrong, and what to do next. ``details`` are data that go beside them into the answer.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Error(Exception):
    """Base of every expected failure; never raised itself."""

    reason: ClassVar[str] = "error"
    code: ClassVar[int] = 1

    def __init__(self, message: str, **details: Any):
        super().__init__(message)
        self.details = details


class Invalid(Error):
    """Arguments or configuration are wrong; the message names the key."""

    reason = "invalid"
    code = 2


class Held(Error):
    """Somebody else holds the token."""

    reason = "held"
    code = 3


class NotYours(Error):
    """The hold that was named is not the current one."""

    reason = "not_yours"
    code = 4


class InDoubt(Error):
    """The fate of a write is unknown: it may have been applied, or be applied later."""

    reason = "in_doubt"
    code = 5


class StoreError(Error):
    """The store cannot be reached, refuses, or answers nonsense; nothing was written."""

    reason = "store"
    code = 6


class Busy(Error):
    """Something runs that a deploy would interrupt, or cannot be asked."""

    reason = "busy"
    code = 7


class Repositories(Error):
    """A repository is not clean, not on its branch, or not up to date."""

    reason = "repositories"
    code = 8


class Failed(Error):
    """A minion failed a state, did not say that it succeeded, or did not come back from a reboot."""

    reason = "failed"
    code = 9


class Overdue(Error):
    """Somebody holds the token longer than expected; only where that was asked."""

    reason = "overdue"
    code = 10


class Interrupted(Error):
    """Ctrl-C or SIGTERM."""

    reason = "interrupted"
    code = 130
