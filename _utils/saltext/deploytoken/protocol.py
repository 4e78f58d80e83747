"""
Acquire, release, take over: what to ask of the store next, decided without any input or output.

Each operation is a generator. It yields :class:`Read`, :class:`ReadVersion`, :class:`Write` or :class:`Pause`, is
sent what the store answered (or has the store's exception thrown into it), and returns an :class:`Outcome`. So the
same code that ``saltext.deploytoken.token`` carries out on a wiki is driven by the tests through every interleaving
of several clients.

The one deep trick: the text of a hold carries a ref that no other acquisition has. A write whose answer was lost is
sent again, byte for byte, with the same version. Either it is answered as applied, and the token is ours; or it
conflicts, and then no copy of it can be applied any more, so the page itself says whose the token is. Until one of
these two answers has come, nothing is known: reading the page and not finding the hold proves nothing, for the write
may still be under way.
"""

from dataclasses import dataclass, replace

from saltext.deploytoken import errors, page
from saltext.deploytoken.stores.base import Conflict, Unanswered


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


@dataclass(frozen=True)
class Outcome:
    """
    What now stands: the hold taken or ended, the version, the History entry, and the hold that was displaced.

    ``fresh`` is True when the hold may have been taken just now, and False when it was only found and confirmed.
    """

    hold: page.Hold
    version: int
    entry: str | None = None
    displaced: page.Hold | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Rules:
    """How the page is written: the word for a free token, and the History's heading, template and order."""

    nobody: str = "nobody"
    heading: str = "History"
    entry: str = "* {until} {name}: {summary}{notes} (ref {ref})"
    newest: str = "first"


def acquire(hold, comment, rules, resume=False):
    """
    Take the free token for ``hold``, or confirm that its ref holds it already; with ``resume`` only the latter.

    :raises errors.Held: somebody else holds it.
    :raises errors.NotYours: the hold has ended already, or with ``resume`` never was.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    sent, more = False, True
    while True:
        found = yield from _read(hold.ref, sent)
        current = page.read(found.text, rules.nobody)
        if current and current.ref == hold.ref:
            return Outcome(current, found.version, fresh=sent)
        if resume or page.entries(found.text, hold.ref, rules.entry):
            # An entry: it was taken, and somebody ended it before we knew. A ref is never taken twice.
            now = f"{current.name} holds the token" if current else "the token is free"
            raise errors.NotYours(
                f"the hold {hold.ref} has ended, {now}; acquire the token anew",
                token=describe(current, found.version),
            )
        if current:
            raise errors.Held(_held(current), token=describe(current, found.version))
        _check_time(more)
        text = page.write(found.text, hold, rules.nobody)
        if (yield from _commit(Write(text, found.version, comment), hold.ref)):
            return Outcome(hold, found.version + 1, fresh=True)
        sent, more = True, (yield Pause())


def release(rules, comment, summary, until, *, fresh, ref=None, name=None, notes=()):
    """
    End the hold ``ref``, or without one the hold of ``name``, and write its History entry in the same write.

    ``fresh`` is the ref for the entry of a hold that a person typed without one. A release whose entry already stands
    is success. With ``summary`` None no entry is written: a hold that was never used is withdrawn.

    :raises errors.NotYours: that hold is not the current one; nothing was written.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    mine = None
    sent, more = None, True
    while True:
        found = yield from _read(ref or fresh, sent)
        current = page.read(found.text, rules.nobody)
        if mine is None and current and (current.ref == ref if ref else current.name == name):
            mine = current
            entry = None
            if summary is not None:
                ended = replace(mine, ref=mine.ref or fresh)
                entry = page.render_entry(rules.entry, ended, until=until, summary=summary, notes=notes)
        if mine is None or not _same(current, mine):
            return (yield from _ended(found, current, mine, sent, rules, fresh, ref, name))
        _check_time(more)
        text = page.write(found.text, None, rules.nobody)
        if entry is not None:
            text = page.add_entry(text, entry, rules.heading, rules.newest)
        write = Write(text, found.version, comment)
        if (yield from _commit(write, mine.ref or fresh)):
            return Outcome(mine, found.version + 1, entry)
        sent, more = write, (yield Pause())


def take_over(hold, comment, rules, until, *, fresh, ref=None, held_by=None):
    """
    End somebody else's hold ``ref`` (or the one that a person typed as ``held_by``) and take the token for ``hold``.

    The displaced hold gets its own History entry, in the same write.

    :raises errors.NotYours: that hold is not the current one; nothing was written.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    sent, more = False, True
    entry = displaced = None
    while True:
        found = yield from _read(hold.ref, sent)
        current = page.read(found.text, rules.nobody)
        if current and current.ref == hold.ref:
            return Outcome(current, found.version, entry, displaced, fresh=sent)
        if not current or not (current.ref == ref if ref else current.ref is None and current.name == held_by):
            now = f"{current.name} holds the token (ref {current.ref})" if current else "the token is free: acquire it"
            raise errors.NotYours(
                f"the hold {ref or held_by} is not the current one, {now}", token=describe(current, found.version)
            )
        _check_time(more)
        summary = f"{page.TAKEN_OVER} {hold.name}: {hold.reason}"
        displaced = current
        ended = replace(current, ref=current.ref or fresh)
        entry = page.render_entry(rules.entry, ended, until=until, summary=summary)
        text = page.add_entry(found.text, entry, rules.heading, rules.newest)
        text = page.write(text, hold, rules.nobody)
        if (yield from _commit(Write(text, found.version, comment), hold.ref)):
            return Outcome(hold, found.version + 1, entry, displaced, fresh=True)
        sent, more = True, (yield Pause())


def describe(hold, version):
    """Return the hold as the data that every answer carries."""
    hold = hold or page.Hold(name=None)
    return {
        "held_by": hold.name,
        "ref": hold.ref,
        "reason": hold.reason,
        "since": hold.since,
        "expected_until": hold.until,
        "version": version,
    }


def _commit(write, ref):
    """
    Send ``write`` until it is answered; return False for a conflict, after which no copy of it can be applied.

    Even the first conflict does not say that none was: something in between (nginx does so with a PUT) may have sent
    the write twice, and somebody else may have saved between the copies. So whoever conflicts reads the page again.
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


def _read(ref, sent):
    """Read the page; after a write of ours may have been applied, go on until there is an answer or no time."""
    while True:
        try:
            return (yield Read())
        except Unanswered as exc:
            if not sent:
                raise
            if not (yield Pause()):
                raise _doubt(ref, exc) from None
        except errors.StoreError as exc:
            if sent:
                raise _doubt(ref, exc) from None
            raise


def _ended(found, current, mine, sent, rules, fresh, ref, name):
    """Tell how the hold ended that a release did not find: by this release, by an earlier one, or by somebody else."""
    now = f"{current.name} holds the token" if current else "the token is free"
    about = describe(current, found.version)
    ref = mine.ref if mine else ref
    entries = page.entries(found.text, ref or fresh, rules.entry)
    for entry in entries:
        if page.TAKEN_OVER not in entry:
            return Outcome(mine or page.Hold(name=name, ref=ref), found.version, entry)
    if sent:
        try:
            if (yield ReadVersion(sent.version + 1)).text == sent.text:
                return Outcome(mine, sent.version + 1)
        except errors.StoreError as exc:
            raise _doubt(ref, exc) from None
    if entries:
        raise errors.NotYours(
            f"somebody else ended the hold {ref} ({entries[0]}); {now}; nothing was written", token=about
        )
    what = f"the hold {ref}" if ref else f"a hold of {name}"
    raise errors.NotYours(f"{what} is not the current one, {now}; nothing was written", token=about)


def _same(current, mine):
    """Whether ``current`` is still the hold ``mine``: by its ref, for people may edit the rest of the line."""
    return current is not None and (current.ref == mine.ref if mine.ref else current == mine)


def _check_time(more):
    """Refuse another write when the time is over; by the page just read, none of ours stands or can be applied."""
    if not more:
        raise errors.StoreError("the page is being saved by others again and again; nothing was written, try again")


def _held(hold):
    since = f" since {hold.since}" if hold.since else ""
    reason = f" ({hold.reason})" if hold.reason else ""
    return f"{hold.name} holds the token{since}{reason}; wait until it is released, or ask {hold.name}"


def _doubt(ref, cause):
    return errors.InDoubt(
        f"a write for the hold {ref} was sent, and whether it was applied is unknown ({cause}); it may still appear."
        f" Change nothing; once the wiki answers, `salt-run deploytoken.status` tells: yours only if it shows {ref}",
        ref=ref,
    )
