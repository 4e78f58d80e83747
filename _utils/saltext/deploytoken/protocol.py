"""
Acquire, release, take over: what to ask of the store next, decided without any input or output.

Each operation is a generator. It yields :class:`Read`, :class:`ReadVersion`, :class:`Write`, :class:`Pause` or
:class:`WhoAmI`, is sent the answer (or has the store's exception thrown into it), and returns an :class:`Outcome`.
``saltext.deploytoken.token`` carries it out on a wiki; the tests drive the same code through every interleaving of
several clients.

The one deep trick: the text of a hold carries a ref that no other acquisition has. A write whose answer was lost is
sent again, byte for byte, with the same version. Either it is answered as applied, and the token is ours; or it
conflicts, and then no copy of it can be applied any more, so the page itself says whose the token is. Until one of
these two answers has come, nothing is known: reading the page and not finding the hold proves nothing, for the write
may still be under way. A job on the holder's line is as unique: of two that begin under one hold, one wins.

Whose a hold is stands in the comment of the version in which it was taken (:func:`origin`). A hold that no command
took, or one of a time before accounts, goes by the name on the page.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from saltext.deploytoken import errors, page
from saltext.deploytoken.history import TAKES, Comment
from saltext.deploytoken.page import Hold, Rules
from saltext.deploytoken.stores.base import Conflict, Hidden, Missing, Page, Unanswered

#: So many versions are read on the way back to the beginning of a hold.
MOST_VERSIONS = 100

#: In place of the account where a hold began before those versions. No account is this.
FAR_BACK = "?"

#: In an entry, before the name of whoever ended another's hold.
_RELEASED_BY = "released by"


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
class WhoAmI:
    """Ask for the name that the page has for the person who acts."""


Step = Read | ReadVersion | Write | Pause | WhoAmI

_Result = TypeVar("_Result")
#: Yields steps. Is sent a page for a read, nothing for a write, for a pause whether there is time left, and a name.
Steps = Generator[Step, Any, _Result]


@dataclass(frozen=True)
class Origin:
    """
    How a hold began, read back from the page's versions.

    ``account`` took it, for the job ``jid`` if an orchestration did, and it was ``saved`` then; all are None where no
    comment says so. ``done`` has what jobs did under it, oldest first. ``ended`` is the version in which it had ended
    before, where the page was set back to an older version.
    """

    account: str | None = None
    jid: str | None = None
    saved: str | None = None
    done: tuple[str, ...] = ()
    ended: int | None = None


@dataclass(frozen=True)
class Right:
    """
    Who ends or changes a hold, and on what ground.

    account
        Of the person who acts, such as ``alice@master1``; None if unknown.
    given
        The name that was given with the command, or None.
    for_holder
        End another's hold on purpose.
    job
        The job that acts, as it stands on the holder's line.
    runs
        Says whether a job on the line still runs; None where it cannot be told.
    force
        End a hold whose job runs, or may run.
    """

    account: str | None = None
    given: str | None = None
    for_holder: bool = False
    job: str | None = None
    runs: Callable[[str], bool | None] = lambda job: None
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """
    What now stands: the hold taken or ended, the version, the History entry, and the hold that was displaced.

    ``hold`` is None where a release found nothing but the entry of an earlier one. ``fresh`` is True when the hold
    may have been taken just now, and False when it was only found and confirmed. ``origin`` is how a hold began that
    was changed, and ``by`` who ended another's.
    """

    hold: Hold | None
    version: int
    entry: str | None = None
    displaced: Hold | None = None
    fresh: bool = False
    origin: Origin = Origin()
    by: str | None = None


def acquire(hold: Hold, comment: str, rules: Rules, resume: bool = False) -> Steps[Outcome]:
    """
    Take the free token for ``hold``, or confirm that its ref holds it already; with ``resume``, only confirm.

    :raises errors.Held: somebody else holds it.
    :raises errors.NotYours: the hold has ended already, or, with ``resume``, never was.
    :raises errors.Invalid: the hold stands for another reason, or another time.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    ref = hold.ref
    assert ref, "a hold of ours has a ref"
    sent, more = False, True
    while True:
        found = yield from _read(ref, sent)
        current = page.read(found.text, rules)
        if current and current.ref == ref:
            if not sent:
                yield from _checked_origin(found, current, rules)
                _require_unchanged(hold, current)
            # Of two jobs that take it under one ref, the line names the one that did.
            return Outcome(current, found.version, fresh=sent and current.job == hold.job)
        if resume or page.entries(found.text, ref, rules):
            # An entry: it was taken, and somebody ended it before we knew. A ref is never taken twice.
            raise errors.NotYours(
                f"the hold {ref} has ended, {_now(current)}; acquire the token anew",
                token=describe(current, found.version),
            )
        if current:
            own = _is_claimed_by(hold, comment, current, found)
            raise errors.Held(_held(current, own, hold.reason or ""), token=describe(current, found.version), own=own)
        _check_time(more)
        text = page.write(found.text, hold, rules)
        if (yield from _commit(Write(text, found.version, comment), ref)):
            return Outcome(hold, found.version + 1, fresh=True)
        sent, more = True, (yield Pause())


def change(
    ref: str | None, edit: Callable[[Hold], Hold], comment: Comment, rules: Rules, right: Right | None = None
) -> Steps[Outcome]:
    """
    Change what the line of the hold ``ref`` says, or without one that of the acting person's.

    ``edit`` is called with what it says now, and may raise. ``right`` says who changes it; without it, nobody asks
    whose it is. The ref of ``comment`` is filled in.

    :raises errors.NotYours: that hold is not the current one, or another's.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    sent, more = False, True
    began = Origin()
    while True:
        found = yield from _read(ref or "", sent)
        current = page.read(found.text, rules)
        if not current or not current.ref or (ref and current.ref != ref):
            raise _is_over(ref, current, found, sent)
        if right and not sent:
            began = yield from _checked_origin(found, current, rules)
            if not right.for_holder:
                yield from _require_own(right, current, began, found)
        ref = current.ref
        wanted = edit(current)
        if wanted == current:
            return Outcome(current, found.version, fresh=sent, origin=began)
        _check_time(more)
        write = Write(page.write(found.text, wanted, rules), found.version, replace(comment, ref=ref).render())
        if (yield from _commit(write, ref)):
            return Outcome(wanted, found.version + 1, fresh=True, origin=began)
        sent, more = True, (yield Pause())


def at_work(job: str, runs: Callable[[str], bool | None], until: str | None = None) -> Callable[[Hold], Hold]:
    """
    Return the change of a line to one on which ``job`` is at work, until the time ``until`` if there is one.

    The change raises :class:`errors.Held` where another job is at work under the hold, or may be.
    """

    def edit(hold: Hold) -> Hold:
        if hold.job and hold.job != job:
            require_ended(hold, runs)
        return replace(hold, job=job, until=until or hold.until)

    return edit


def at_rest(job: str) -> Callable[[Hold], Hold]:
    """Return the change of a line to one on which ``job`` has ended."""
    return lambda hold: replace(hold, job=None) if hold.job == job else hold


def require_ended(hold: Hold, runs: Callable[[str], bool | None], way: str = "") -> None:
    """
    Raise :class:`errors.Held` while the job on the line runs, or where that cannot be told.

    ``way`` is what else could be done, in words.
    """
    if not hold.job:
        return
    jid, _, master = hold.job.partition("@")
    running = runs(hold.job)
    if running is False:
        return
    what = f"the job {jid} runs" if running else f"the job {jid} of {master} may still run"
    where = "wait until it has ended" if running else f"`salt-run jobs.list_job {jid}` on {master} tells"
    raise errors.Held(f"{what} under the hold {hold.ref} of {hold.name}: {where}{way}", job=hold.job)


def release(
    rules: Rules,
    comment: str,
    summary: str | None,
    until: str,
    *,
    fresh: str,
    ref: str | None = None,
    right: Right | None = None,
    again: bool = True,
    notes: Sequence[str] = (),
) -> Steps[Outcome]:
    """
    End the hold ``ref``, or without one the acting person's, and write its History entry in the same write.

    ``fresh`` is the ref for the entry of a hold that a person typed without one. ``right`` says who ends it; without
    it, nobody asks whose it is, and no entry is written: a hold that was never used is withdrawn. The default of
    ``summary`` is the hold's reason. With ``again``, an entry that stands already, with this summary, is the success
    of an earlier release; a job, which releases once, goes by what it wrote itself.

    :raises errors.NotYours: that hold is not the current one, or another's; nothing was written.
    :raises errors.Held: a job runs under it, or may run.
    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    mine: Hold | None = None
    entry: str | None = None
    by: str | None = None
    sent: Write | None = None
    more = True
    while True:
        found = yield from _read(ref or fresh, sent is not None)
        current = page.read(found.text, rules)
        if not current or not (mine.is_same(current) if mine else current.ref == ref if ref else right):
            if not (mine or ref):
                raise _is_over(None, current, found)
            earlier = (summary or "") if again else None
            return (yield from _not_found(found, current, mine, sent, rules, ref or fresh, entry, earlier))
        mine = current
        if right:
            # Each time: a job may have begun or ended its work since the last look.
            origin = yield from _origin(found, current, rules)
            by = yield from _ended_by(right, current, origin, found)
            told = [*origin.done, *notes, *([f"{_RELEASED_BY} {by}"] if by else []), *_forced(right, current)]
            ended = replace(current, ref=current.ref or fresh)
            words = summary or _reason(current)
            entry = page.render_entry(ended, rules, until=until, summary=words, notes=told)
        _check_time(more)
        text = page.write(found.text, None, rules)
        if entry is not None:
            text = page.add_entry(text, entry, rules)
        write = Write(text, found.version, comment)
        if (yield from _commit(write, mine.ref or fresh)):
            return Outcome(mine, found.version + 1, entry, by=by)
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
    right: Right = Right(),
) -> Steps[Outcome]:
    """
    End somebody else's hold ``ref`` (or the one that a person typed as ``held_by``) and take the token for ``hold``.

    The displaced hold gets its own History entry, in the same write.

    :raises errors.NotYours: that hold is not the current one. Nothing was written, except in one case: the answer to
        our write was lost, and somebody took the token over from us before we could look.
    :raises errors.Held: a job runs under it, or may run.
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
            raise _is_over(ref or held_by, current, found, sent)
        _check_time(more)
        _require_at_rest(right, current)
        origin = yield from _origin(found, current, rules)
        summary = f"{page.TAKEN_OVER} {hold.name}: {hold.reason}"
        displaced = current
        ended = replace(current, ref=current.ref or fresh)
        told = [*origin.done, *_forced(right, current)]
        entry = page.render_entry(ended, rules, until=until, summary=summary, notes=told)
        text = page.add_entry(found.text, entry, rules)
        text = page.write(text, hold, rules)
        if (yield from _commit(Write(text, found.version, comment), mine)):
            return Outcome(hold, found.version + 1, entry, displaced, fresh=True)
        sent, more = True, (yield Pause())


def note(entry: str, comment: str, rules: Rules, ref: str) -> Steps[Outcome]:
    """
    Add the ``entry`` of a hold that somebody else ended, and leave the holder's line as it is.

    :raises errors.InDoubt: the deadline passed and the write's fate is unknown.
    """
    sent, more = False, True
    while True:
        found = yield from _read(ref, sent)
        if entry in page.entries(found.text, ref, rules):
            return Outcome(None, found.version, entry)
        _check_time(more)
        if (yield from _commit(Write(page.add_entry(found.text, entry, rules), found.version, comment), ref)):
            return Outcome(None, found.version + 1, entry)
        sent, more = True, (yield Pause())


def origin(rules: Rules, whole: bool = True) -> Steps[tuple[Page, Hold | None, Origin]]:
    """
    Read the page, who holds the token, and how that hold began.

    Without ``whole``, only find out whether it has ended before: that takes one request, unless somebody edited the
    page by hand.
    """
    found = yield Read()
    hold = page.read(found.text, rules)
    return found, hold, (yield from _origin(found, hold, rules, whole)) if hold else Origin()


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


def _origin(found: Page, hold: Hold, rules: Rules, whole: bool = True) -> Steps[Origin]:
    """
    Go back through the versions to the one in which ``hold`` was taken; usually it is ``found`` itself.

    Without ``whole``, only to the last one that a command saved under the hold: it had not ended then.
    """
    done: list[str] = []
    without: int | None = None  # the oldest version seen that does not have the hold
    if not hold.ref:
        return Origin()
    for number in range(found.version, max(0, found.version - MOST_VERSIONS), -1):
        try:
            seen = found if number == found.version else (yield from _old(number))
        except Missing:
            continue  # an administrator has deleted it
        except Hidden:
            break  # nobody here may look at old versions, so the name on the page counts
        try:
            shown = page.read(seen.text, rules)
        except errors.StoreError:
            continue  # it is unreadable, which is no end of a hold
        if not hold.is_same(shown):
            without = number
            continue
        if without is not None:
            return Origin(done=tuple(done), ended=without)
        comment = Comment.parse(seen.comment)
        if comment and comment.ref == hold.ref:
            if comment.verb in TAKES:
                return Origin(comment.by, comment.jid, seen.saved, tuple(done))
            if comment.verb == "end" and comment.words:
                done.insert(0, page.tame(comment.words))
            if not whole:
                break
    else:
        if found.version > MOST_VERSIONS:
            # Its beginning lies further back than anybody looks: it is nobody's own, and may have ended before.
            return Origin(FAR_BACK, done=tuple(done), ended=without)
    return Origin(done=tuple(done))


def _old(number: int) -> Steps[Page]:
    """Read an old version. There may be many, so each lost answer is asked for again while there is time."""
    while True:
        try:
            seen: Page = yield ReadVersion(number)
            return seen
        except Unanswered:
            if not (yield Pause()):
                raise


def _checked_origin(found: Page, hold: Hold, rules: Rules) -> Steps[Origin]:
    """Go back to the beginning of ``hold``, and refuse one that has ended before."""
    began = yield from _origin(found, hold, rules)
    if began.ended is not None:
        raise errors.NotYours(
            f"{set_back(hold.ref, began.ended)}; clear it with"
            f" `salt-run deploytoken.release ref={hold.ref} for_holder=true`",
            token=describe(hold, found.version),
        )
    return began


def set_back(ref: str | None, version: int) -> str:
    """Return in words that a hold stands on the page again although it ended in ``version``."""
    return f"the hold {ref} ended before, in version {version}; the page was set back"


def _is_own(right: Right, hold: Hold, origin: Origin) -> Steps[bool]:
    """Whether the hold is the acting person's own: by account, and by the name that was given with the command."""
    if right.account and origin.account:
        return right.account == origin.account and right.given in (None, hold.name)
    return bool((yield WhoAmI()) == hold.name)


def _require_own(right: Right, hold: Hold, origin: Origin, found: Page, way: str = "") -> Steps[None]:
    """Refuse another's hold; ``way`` is what else could be done, in words."""
    if (yield from _is_own(right, hold, origin)):
        return
    reason = f" ({hold.reason})" if hold.reason else ""
    raise errors.NotYours(
        f"{_now(hold)}{reason}, and that hold is not yours; ask {hold.name}{way}", token=describe(hold, found.version)
    )


def _ended_by(right: Right, hold: Hold, origin: Origin, found: Page) -> Steps[str | None]:
    """Return who ends a hold in another's name, or None; refuse who may not."""
    name = None
    if not right.for_holder:
        command = f"release ref={hold.ref} for_holder=true" if hold.ref else "takeover"
        way = f", or end it for {hold.name}: `salt-run deploytoken.{command}`" + ("" if hold.ref else " shows how")
        yield from _require_own(right, hold, origin, found, way)
    elif not (yield from _is_own(right, hold, origin)):
        name = yield WhoAmI()
    _require_at_rest(right, hold)
    return name if name != hold.name else None


def _require_at_rest(right: Right, hold: Hold) -> None:
    if right.force or hold.job == right.job:
        return
    require_ended(hold, right.runs, "; to end the hold under it all the same, add force=true")


def _forced(right: Right, hold: Hold) -> list[str]:
    """What an entry says of a hold that was ended while its job ran, or may have run."""
    if not hold.job or hold.job == right.job or right.runs(hold.job) is False:
        return []
    return [f"by force, over the job {hold.job}"]


def _reason(hold: Hold) -> str:
    """The summary of a hold that ends without one."""
    if not hold.reason:
        raise errors.Invalid('summary: the hold has no reason; say what was done, as in summary="upgraded PostgreSQL"')
    return page.tame(hold.reason)


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
    ref: str,
    entry: str | None,
    earlier: str | None,
) -> Steps[Outcome]:
    """
    Find out how the hold ended that a release did not find: by it, by an earlier release, or by somebody else.

    Its own ``entry`` proves it. Where ``earlier`` is a summary, and it never saw the hold itself, so does an entry
    with that summary; without words, that of a release in the holder's own name.
    """
    ref = (mine.ref if mine else None) or ref
    entries = page.entries(found.text, ref, rules)
    for line in entries:
        again = mine is None and earlier is not None and page.TAKEN_OVER not in line
        if line == entry or (again and (page.inert(earlier) in line if earlier else _RELEASED_BY not in line)):
            return Outcome(mine, found.version, line)
    if sent:
        try:
            if (yield ReadVersion(sent.version + 1)).text == sent.text:
                return Outcome(mine, sent.version + 1)
        except errors.StoreError as exc:
            raise _doubt(ref, exc) from None
    if entries:
        raise errors.NotYours(
            f"the hold {ref} was ended already ({entries[0]}), {_now(current)}; nothing was written",
            token=describe(current, found.version),
        )
    raise _is_over(mine.name if mine and not mine.ref else ref, current, found)


def _is_over(ref: str | None, current: Hold | None, found: Page, sent: bool = False) -> errors.NotYours:
    """
    The error for a hold, by its ref or as a person typed it, that is not the current one.

    Where a write was ``sent``, it may have been applied before somebody ended the hold.
    """
    what = f"the hold {ref} is not the current one" if ref else "there is no hold with a ref"
    named = f" (ref {current.ref})" if current and current.ref else ""
    written = "" if sent else "; nothing was written"
    return errors.NotYours(f"{what}, {_now(current)}{named}{written}", token=describe(current, found.version))


def _check_time(more: bool) -> None:
    """Refuse another write when the time is over; the page just read shows that none of ours stands or can follow."""
    if not more:
        raise errors.StoreError("the page is being saved by others again and again; nothing was written, try again")


def _is_claimed_by(hold: Hold, comment: str, current: Hold, found: Page) -> bool:
    """Whether who asks for ``hold`` has the current one already, as far as the version just read tells."""
    me, taken = Comment.parse(comment), Comment.parse(found.comment)
    if me and me.by and taken and taken.by and taken.verb in TAKES and taken.ref == current.ref:
        return me.by == taken.by and hold.name == current.name
    return hold.name == current.name


def _require_unchanged(hold: Hold, current: Hold) -> None:
    """Refuse to confirm a hold that was taken for something else than is asked now."""
    way = f"; change it with `salt-run deploytoken.extend ref={current.ref}"
    if hold.reason and hold.reason != current.reason:
        raise errors.Invalid(
            f"reason: the hold {current.ref} stands for {current.reason!r}{way} reason={shlex.quote(hold.reason)}`"
        )
    asked, stands_for = page.minutes(hold), page.minutes(current)
    # Each end of both is rounded to the minute.
    if asked is not None and (stands_for is None or abs(asked - stands_for) > 1):
        stands = f"is expected until {current.until}" if current.until else "has no expected end"
        raise errors.Invalid(f"expect: the hold {current.ref} {stands}{way} expect={asked}m`")


def _now(current: Hold | None) -> str:
    return f"{current.name} holds the token" if current else "the token is free"


def _held(hold: Hold, own: bool, reason: str) -> str:
    since = f" since {hold.since}" if hold.since else ""
    why = f" ({hold.reason})" if hold.reason else ""
    if own and hold.ref:
        return (
            f"you hold the token yourself{since}{why}: go on under it with ref={hold.ref}, or give it back with"
            f" `salt-run deploytoken.release ref={hold.ref}`"
        )
    which = f"ref={hold.ref}" if hold.ref else f"held_by={shlex.quote(hold.name)}"
    return (
        f"{_now(hold)}{since}{why}; wait for it with wait=15m, ask {hold.name}, or end that hold on purpose with"
        f" `salt-run deploytoken.takeover {which} reason={shlex.quote(reason)}`"
    )


def _doubt(ref: str, cause: Exception) -> errors.InDoubt:
    return errors.InDoubt(
        f"a write for the hold {ref} was sent, and whether it was applied is unknown ({cause}); it may still appear."
        f" Change nothing; once the wiki answers, `salt-run deploytoken.status` tells: yours only if it shows {ref}",
        ref=ref,
    )
