"""
Past holds, read back from the page's versions.

People can write anything under History; the page's versions show what happened. Each write of ours says in the
version's comment what it was (``acquire ref=… id=…: reason``), so a change of the holder's line without such a comment
was made by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from saltext.deploytoken import errors, page, values
from saltext.deploytoken.page import Hold, Rules
from saltext.deploytoken.stores.base import Missing, Page, Store
from saltext.deploytoken.text import printable

_COMMENT = re.compile(
    r"(?P<verb>acquire|release|takeover|withdraw|extend|begin|end|note)"
    rf" ref=(?P<ref>{values.REF}|-)(?: id=(?P<id>[0-9a-f]+))?(?: by=(?P<by>\S+))?"
    rf"(?: displaced=(?P<displaced>{values.REF}|-))?(?: jid=(?P<jid>{values.JID}))?(?:: (?P<words>.*))?",
    re.DOTALL,
)
#: With these a hold begins.
TAKES = ("acquire", "takeover")

#: How a hold ended where the newest version is unreadable.
UNKNOWN = "unknown"

_DELETED = "(deleted)"


@dataclass(frozen=True)
class Comment:
    """
    What a write of ours was, as the version's comment has it.

    ``id`` is the acquisition's, whose beginning is the ref; ``by`` the account of the person who acted;
    ``displaced`` the ref of the hold that a takeover ended; ``jid`` the job that did it; ``words`` people's. ``ref``
    and ``displaced`` are ``-`` for a hold that a person typed. A job begins (``begin``) and ends (``end``) its work
    under a hold, and one whose hold was ended meanwhile leaves a ``note``.
    """

    verb: str
    ref: str = "-"
    id: str | None = None
    displaced: str | None = None
    jid: str | None = None
    by: str | None = None
    words: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> Comment | None:
        """Return the comment in ``text``, or None if it is not one of ours."""
        match = _COMMENT.fullmatch(text or "")
        return cls(**match.groupdict()) if match else None

    def render(self) -> str:
        """Return the comment as one line."""
        keys = ("ref", "id", "by", "displaced", "jid")
        parts = [f"{key}={value}" for key in keys if (value := getattr(self, key)) is not None]
        text = " ".join([self.verb, *parts])
        return text if self.words is None else f"{text}: {self.words}"


@dataclass
class _Past:
    """One hold as it is put together, from its end to its beginning."""

    hold: Hold
    ended: str
    ended_by: str | None = None
    to: str | None = None
    entry: str | None = None
    start: str | None = None
    account: str | None = None
    by_hand: bool = False
    unreadable: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Version:
    """One readable version, and who held the token in it."""

    page: Page
    hold: Hold | None


def versions(store: Store, limit: int) -> Iterator[Page]:
    """Yield the versions of the page in ``store``, newest first and at most ``limit``, one request each."""
    current = store.read()
    yield current
    for number in range(current.version - 1, max(0, current.version - limit), -1):
        try:
            yield store.read_version(number)
        except Missing:
            # An administrator can delete single versions.
            yield Page(text="", version=number, comment=_DELETED)


def past(pages: Iterable[Page], rules: Rules, limit: int = 20) -> dict[str, Any]:
    """
    Return the ``holds`` that the versions show, newest first, and the ``unreadable`` versions.

    ``pages``
        The page's versions, newest first. Read no further than needed.
    ``rules``
        How the page is written.
    ``limit``
        How many holds.

    A hold has ``held_by``, ``ref``, ``reason``, ``from``, ``to``, ``ended`` (``released``, ``withdrawn``, ``taken
    over``, ``by hand``, ``still held``, or ``unknown`` where the newest version is unreadable), ``account`` (who took
    it, such as ``alice@master1``), ``ended_by`` (the person who took over, the account that released another's hold,
    else the wiki's user who saved), ``entry`` (its line under History), ``by_hand`` (a person typed its beginning, its
    end or its line) and ``unreadable`` (versions within it or at its end). ``complete`` is False when older versions
    were left out.
    """
    finished: list[_Past] = []
    unreadable: list[dict[str, Any]] = []
    number = None
    now: _Past | None = None  # the hold in the versions just seen
    newer: _Version | None = None  # the last readable version seen
    gap: list[int] = []  # unreadable versions since then
    for found in pages:
        number = found.version
        try:
            seen = _Version(found, page.read(found.text, rules))
        except errors.StoreError as exc:
            unreadable.append(_unreadable(found, exc))
            gap.append(number)
            continue
        if now and newer and not now.hold.is_same(seen.hold):
            _begin(now, newer)
            finished.append(now)
            now = None
            if len(finished) == limit:
                break
        if seen.hold and not now:
            now = _end(seen.page, seen.hold, newer, gap, rules)
        elif now and gap:
            now.unreadable += gap
            now.by_hand = True  # somebody mended the line
        elif now and newer and seen.hold != newer.hold and not _is_changed_by_us(newer.page, now.hold):
            now.by_hand = True  # one hold, by its ref, and somebody edited the rest of its line
        newer, gap = seen, []
    if now and newer:
        now.unreadable += gap
        _begin(now, newer, known=number == 1)
        finished.append(now)
    return {
        "holds": [_describe(item) for item in finished],
        "unreadable": unreadable,
        "complete": number == 1,
    }


def _is_changed_by_us(version: Page, hold: Hold) -> bool:
    comment = Comment.parse(version.comment)
    return bool(comment and comment.verb in ("extend", "begin", "end") and comment.ref == hold.ref)


def _end(seen: Page, hold: Hold, newer: _Version | None, gap: list[int], rules: Rules) -> _Past:
    """Return the ``hold`` of the version ``seen``, which ``newer`` does not have, with how it ended."""
    if newer is None:
        return _Past(hold, UNKNOWN if gap else "still held", unreadable=list(gap))
    item = _Past(hold, "by hand", newer.page.author, _time(newer.page.saved), by_hand=True, unreadable=list(gap))
    if comment := Comment.parse(newer.page.comment):
        if newer.hold is None and comment.verb == "withdraw" and comment.ref == hold.ref:
            item.ended, item.by_hand = "withdrawn", False
        elif newer.hold is None and comment.verb == "release" and comment.ref in (hold.ref, "-"):
            item.ended, item.by_hand = "released", False
            item.ended_by = comment.by or item.ended_by
        elif (
            newer.hold
            and comment.verb == "takeover"
            and comment.ref == newer.hold.ref
            and comment.displaced == (hold.ref or "-")
        ):
            item.ended, item.ended_by, item.by_hand = "taken over", newer.hold.name, False
    item.entry = _entry(seen, newer.page, hold, rules)
    return item


def _begin(item: _Past, first: _Version, known: bool = True) -> None:
    """Complete ``item``, whose oldest version seen is ``first``; it began there if that is ``known``."""
    comment = Comment.parse(first.page.comment)
    if comment and comment.verb in TAKES and comment.ref == item.hold.ref:
        item.start, item.account = _time(first.page.saved), comment.by
        if item.ended == "released" and item.ended_by == comment.by:
            item.ended_by = item.hold.name
    elif known:
        item.start, item.by_hand = _time(first.page.saved), True
    item.start = item.start or item.hold.since


def _entry(seen: Page, newer: Page, hold: Hold, rules: Rules) -> str | None:
    """Return the entry of ``hold``: by its ref, else the line that came with the end of the hold."""
    if hold.ref and (own := page.entries(newer.text, hold.ref, rules)):
        return own[0]
    mark = page.entry_mark(rules.entry)
    before, after = ([line.strip() for line in re.split("[\r\n]+", version.text)] for version in (seen, newer))
    return next((line for line in after if line.startswith(f"{mark} ") and line not in before), None)


def _unreadable(found: Page, exc: Exception) -> dict[str, Any]:
    why = "it was deleted" if found.comment == _DELETED and not found.text else str(exc)
    said = {"author": found.author, "saved": _time(found.saved), "why": why}
    return {"version": found.version, **{key: value and printable(value) for key, value in said.items()}}


def _describe(item: _Past) -> dict[str, Any]:
    described = {
        "held_by": item.hold.name,
        "ref": item.hold.ref,
        "reason": item.hold.reason,
        "account": item.account,
        "from": item.start,
        "to": item.to,
        "ended": item.ended,
        "ended_by": item.ended_by,
        "entry": item.entry,
    }
    # Entries come from people, and authors from the wiki: a terminal must obey neither.
    return {
        **{key: value and printable(value) for key, value in described.items()},
        "by_hand": item.by_hand,
        "unreadable": sorted(item.unreadable),
    }


def saved_at(saved: str | None) -> float | None:
    """Return a store's time as seconds since the epoch; None if it is not a time that Python knows."""
    try:
        # Before Python 3.11, fromisoformat does not know the Z.
        then = datetime.fromisoformat((saved or "").replace("Z", "+00:00"))
        return (then if then.tzinfo else then.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None


def _time(saved: str | None) -> str | None:
    """Return a store's time as it is written on the page, or as it is if it is not a time that Python knows."""
    seconds = saved_at(saved)
    try:
        return saved if seconds is None else page.stamp(seconds)
    except (ValueError, OverflowError):
        return saved
