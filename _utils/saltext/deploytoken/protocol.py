"""
Acquire, release, take over: what to ask of the store next, decided without any input or output.

Each operation is a generator. It yields :class:`Read`, :class:`ReadVersion`, :class:`Write` or :class:`Pause`, is
sent the store's answer (or has the store's exception thrown into it), and returns an :class:`Outcome`.
``saltext.deploytoken.token`` carries it out on a wiki; the tests drive the same code through every interleaving of
several clients.

The one deep trick: the text of a hold carries a ref that no other acquisition has. A write whose answer was lost is
sent again, byte for byte, with the same version. Either it is answered as applied, and the token is ours; or it
conflicts, and then no copy of it can be applied any more, so the page itself says whose the token is. Until one of
these two answers has come, nothing is known: reading the page and not finding the hold proves nothing, for the write
may still be under way.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from saltext.deploytoken import errors, page
from saltext.deploytoken.page import Hold, Rules
from saltext.deploytoken.stores.base import Conflict, Page, Unanswered


@dataclass(frozen=True)
class Read:
    """Ask for the current page."""


@dataclass(frozen=True)
class ReadVersion:
    """Ask for one version of the page."""

    number: int


@dataclass(frozen=True)
class Write:
    """Save the text as the version after ``version``."""

    text: str
    version: int
    comment: str


@dataclass(frozen=True)
class Pause:
    """Wait a little before trying again; the answer is False when the time is over."""


Step = Read | ReadVersion | Write | Pause

_Result = TypeVar("_Result")
#: Yields steps. Is sent a page for a read, nothing for a write, and for a pause whether there is time left.
Steps = Generator[Step, Any, _Result]


@dataclass(frozen=True)
class Outcome:
    """
    What now stands: the hold taken or ended, the version, the History entry, and the hold that was displaced.

    ``hold`` is None where a release found nothing but the entry of an earlier one. ``fresh`` is True when the hold
    may have been taken just now, and False when it was only found and confirmed.
    """

    hold: Hold | None
    version: int
    entry: str | None = None
    displaced: Hold | None = None
    fresh: bool = False


def acquire(hold: Hold, comment: str, rules: Rules, resume: bool = False) -> Steps[Outcome]:
    """
    Take the free token for ``hold``, or confirm that its ref holds it already; with ``resume``, only confirm.

    :raises errors.Held: somebody else holds it.
    :raises errors.NotYours: the hold has ended already, or, with ``resume``, never was.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    ref = hold.ref
    assert ref, "a hold of ours has a ref"
    sent, more = False, True
    while True:
        found = yield from _read(ref, sent)
        current = page.read(found.text, rules)
        if current and current.ref == ref:
            return Outcome(current, found.version, fresh=sent)
        if resume or page.entries(found.text, ref, rules):
            # An entry: it was taken, and somebody ended it before we knew. A ref is never taken twice.
            raise errors.NotYours(
                f"the hold {ref} has ended, {_now(current)}; acquire the token anew",
                token=describe(current, found.version),
            )
        if current:
            raise errors.Held(_held(current), token=describe(current, found.version))
        _check_time(more)
        text = page.write(found.text, hold, rules)
        if (yield from _commit(Write(text, found.version, comment), ref)):
            return Outcome(hold, found.version + 1, fresh=True)
        sent, more = True, (yield Pause())


def release(
    rules: Rules,
    comment: str,
    summary: str | None,
    until: str,
    *,
    fresh: str,
    ref: str | None = None,
    name: str | None = None,
    notes: Sequence[str] = (),
) -> Steps[Outcome]:
    """
    End the hold ``ref``, or without one the hold of ``name``, and write its History entry in the same write.

    ``fresh`` is the ref for the entry of a hold that a person typed without one. If the entry stands already, the
    release has succeeded before. With ``summary`` None no entry is written: a hold that was never used is withdrawn.

    :raises errors.NotYours: that hold is not the current one; nothing was written.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    mine: Hold | None = None
    entry: str | None = None
    sent: Write | None = None
    more = True
    while True:
        found = yield from _read(ref or fresh, sent is not None)
        current = page.read(found.text, rules)
        if mine is None and current and (current.ref == ref if ref else current.name == name):
            mine = current
            if summary is not None:
                ended = replace(mine, ref=mine.ref or fresh)
                entry = page.render_entry(ended, rules, until=until, summary=summary, notes=notes)
        if mine is None or not mine.is_same(current):
            return (yield from _not_found(found, current, mine, sent, rules, fresh, ref, name))
        _check_time(more)
        text = page.write(found.text, None, rules)
        if entry is not None:
            text = page.add_entry(text, entry, rules)
        write = Write(text, found.version, comment)
        if (yield from _commit(write, mine.ref or fresh)):
            return Outcome(mine, found.version + 1, entry)
        sent, more = write, (yield Pause())


def take_over(
    hold: Hold,
    comment: str,
    rules: Rules,
    until: str,
    *,
    fresh: str,
    ref: str | None = None,
    held_by: str | None = None,
) -> Steps[Outcome]:
    """
    End somebody else's hold ``ref`` (or the one that a person typed as ``held_by``) and take the token for ``hold``.

    The displaced hold gets its own History entry, in the same write.

    :raises errors.NotYours: that hold is not the current one. Nothing was written, except in one case: the answer to
        our write was lost, and somebody took the token over from us before we could look.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    mine = hold.ref
    assert mine, "a hold of ours has a ref"
    sent, more = False, True
    entry = displaced = None
    while True:
        found = yield from _read(mine, sent)
        current = page.read(found.text, rules)
        if current and current.ref == mine:
            return Outcome(current, found.version, entry, displaced, fresh=sent)
        if not current or not (current.ref == ref if ref else current.ref is None and current.name == held_by):
            now = f"{_now(current)} (ref {current.ref})" if current else f"{_now(current)}: acquire it"
            raise errors.NotYours(
                f"the hold {ref or held_by} is not the current one, {now}", token=describe(current, found.version)
            )
        _check_time(more)
        summary = f"{page.TAKEN_OVER} {hold.name}: {hold.reason}"
        displaced = current
        ended = replace(current, ref=current.ref or fresh)
        entry = page.render_entry(ended, rules, until=until, summary=summary)
        text = page.add_entry(found.text, entry, rules)
        text = page.write(text, hold, rules)
        if (yield from _commit(Write(text, found.version, comment), mine)):
            return Outcome(hold, found.version + 1, entry, displaced, fresh=True)
        sent, more = True, (yield Pause())


def describe(hold: Hold | None, version: int) -> dict[str, Any]:
    """Return the hold (None for nobody) as the data that every answer carries."""
    return {
        "held_by": hold and hold.name,
        "ref": hold and hold.ref,
        "reason": hold and hold.reason,
        "since": hold and hold.since,
        "expected_until": hold and hold.until,
        "version": version,
    }


def _commit(write: Write, ref: str) -> Steps[bool]:
    """
    Send ``write`` until it is answered; return False for a conflict, after which no copy of it can be applied.

    Even the first conflict does not prove that no copy was applied: something in between (nginx does so with a PUT)
    may have sent the write twice, and somebody else may have saved between the copies. So after a conflict, the page
    is read again.
    """
    lost = False
    while True:
        try:
            yield write
            return True
        except Conflict:
            return False
        except Unanswered as exc:
            lost = True
            if not (yield Pause()):
                raise _doubt(ref, exc) from None
        except errors.StoreError as exc:
            # A refusal of this copy says nothing about the copy before it.
            if lost:
                raise _doubt(ref, exc) from None
            raise


def _read(ref: str, sent: bool) -> Steps[Page]:
    """Read the page; once a write of ours was ``sent``, go on until there is an answer or no time."""
    while True:
        try:
            found: Page = yield Read()
            return found
        except Unanswered as exc:
            if not sent:
                raise
            if not (yield Pause()):
                raise _doubt(ref, exc) from None
        except errors.StoreError as exc:
            if sent:
                raise _doubt(ref, exc) from None
            raise


def _not_found(
    found: Page,
    current: Hold | None,
    mine: Hold | None,
    sent: Write | None,
    rules: Rules,
    fresh: str,
    ref: str | None,
    name: str | None,
) -> Steps[Outcome]:
    """Find out how the hold ended that a release did not find: by it, by an earlier release, or by somebody else."""
    now = _now(current)
    about = describe(current, found.version)
    ref = mine.ref if mine else ref
    entries = page.entries(found.text, ref or fresh, rules)
    for entry in entries:
        if page.TAKEN_OVER not in entry:
            return Outcome(mine, found.version, entry)
    if sent:
        try:
            if (yield ReadVersion(sent.version + 1)).text == sent.text:
                return Outcome(mine, sent.version + 1)
        except errors.StoreError as exc:
            raise _doubt(ref or fresh, exc) from None
    if entries:
        raise errors.NotYours(
            f"somebody else ended the hold {ref} ({entries[0]}); {now}; nothing was written", token=about
        )
    what = f"the hold {ref}" if ref else f"a hold of {name}"
    raise errors.NotYours(f"{what} is not the current one, {now}; nothing was written", token=about)


def _check_time(more: bool) -> None:
    """Refuse another write when the time is over; the page just read shows that none of ours stands or can follow."""
    if not more:
        raise errors.StoreError("the page is being saved by others again and again; nothing was written, try again")


def _now(current: Hold | None) -> str:
    return f"{current.name} holds the token" if current else "the token is free"


def _held(hold: Hold) -> str:
    since = f" since {hold.since}" if hold.since else ""
    reason = f" ({hold.reason})" if hold.reason else ""
    return f"{_now(hold)}{since}{reason}; wait until it is released, or ask {hold.name}"


def _doubt(ref: str, cause: Exception) -> errors.InDoubt:
    return errors.InDoubt(
        f"a write for the hold {ref} was sent, and whether it was applied is unknown ({cause}); it may still appear."
        f" Change nothing; once the wiki answers, `salt-run deploytoken.status` tells: yours only if it shows {ref}",
        ref=ref,
    )
