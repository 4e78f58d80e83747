"""
Past holds, read back from the page's versions.

The History on the page is what people wrote there; its versions are what happened. Every write of ours says in the
version's comment what it was (``acquire ref=… id=…: reason``), so a change of the holder's line without such a comment
was made by hand.
"""

import re
import textwrap
from dataclasses import dataclass, field
from datetime import datetime, timezone

from saltext.deploytoken import errors, page
from saltext.deploytoken.stores.base import Missing, Page

_COMMENT = re.compile(
    r"(?P<verb>acquire|release|takeover|withdraw) ref=(?P<ref>[0-9a-f]{8}|-)(?: id=(?P<id>[0-9a-f]+))?"
    r"(?: displaced=(?P<displaced>[0-9a-f]{8}|-))?(?: jid=(?P<jid>\d{20}))?(?:: .*)?",
    re.DOTALL,
)

#: Shown where one version cannot tell.
UNKNOWN = "unknown"

_DELETED = "(deleted)"


@dataclass
class _Past:
    """One hold as it comes together, from its end to its beginning."""

    hold: page.Hold
    ended: str
    ended_by: str | None = None
    to: str | None = None
    entry: str | None = None
    start: str | None = None
    by_hand: bool = False
    unreadable: list = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """One version, and who held the token in it."""

    page: Page
    hold: page.Hold | None


def versions(store, most):
    """Yield the versions of the page in ``store``, newest first and at most ``most``, one request each."""
    current = store.read()
    yield current
    for number in range(current.version - 1, max(0, current.version - most), -1):
        try:
            yield store.read_version(number)
        except Missing:
            # An administrator can delete single versions.
            yield Page(text="", version=number, comment=_DELETED)


def past(pages, rules, limit=20):
    """
    Return what the versions tell: ``holds``, newest first, and ``unreadable`` versions.

    ``pages`` (iterable of :class:`saltext.deploytoken.stores.base.Page`)
        The page's versions, newest first. Read no further than needed.
    ``rules`` (:class:`saltext.deploytoken.protocol.Rules`)
        How the page is written.
    ``limit`` (int)
        How many holds.

    A hold has ``held_by``, ``ref``, ``reason``, ``from``, ``to``, ``ended`` (``released``, ``withdrawn``, ``taken
    over``, ``by hand``, ``still held``, or ``unknown`` where the newest version is unreadable), ``ended_by`` (who took
    over, else the wiki's user who saved), ``entry`` (its line under History), ``by_hand`` (its beginning, its end or
    its line was typed by a person) and ``unreadable`` (versions within it or at its end). ``complete`` is False when
    older versions were left out.
    """
    finished, unreadable = [], []
    number = None
    now = None  # the hold that stands in the versions just seen
    newer = None  # the last readable version seen
    gap = []  # unreadable versions since then
    for found in pages:
        number = found.version
        try:
            seen = _Seen(found, page.read(found.text, rules.nobody))
        except errors.StoreError as exc:
            unreadable.append(_unreadable(found, exc))
            gap.append(number)
            continue
        if now and not _same(seen.hold, now.hold):
            _begin(now, newer)
            finished.append(now)
            now = None
            if len(finished) == limit:
                break
        if seen.hold and not now:
            now = _end(seen, newer, gap, rules)
        elif now and gap:
            now.unreadable += gap
            now.by_hand = True  # whoever mended the line
        elif now and seen.hold != now.hold:
            now.by_hand = True  # one hold, by its ref, and somebody edited the rest of its line
        newer, gap = seen, []
    if now:
        now.unreadable += gap
        _begin(now, newer, known=number == 1)
        finished.append(now)
    return {
        "holds": [_describe(item) for item in finished],
        "unreadable": unreadable,
        "complete": number == 1,
    }


def table(found):
    """Return what :func:`past` returned as a table of at most 80 columns."""
    rows = [("WHEN (UTC)", "WHO", "ENDED", "WHY, AND WHAT WAS DONE")]
    for item in found["holds"]:
        ended = item["ended"]
        if item["ended_by"] and ended in ("taken over", "by hand"):
            ended += f" by {item['ended_by']}" if ended == "taken over" else f" ({item['ended_by']})"
        marks = ["edited by hand"] if item["by_hand"] and item["ended"] != "by hand" else []
        marks += [f"version {number} unreadable" for number in item["unreadable"]]
        rows.append(
            (
                "\n".join(_short(item[key]) for key in ("from", "to") if item[key]),
                "\n".join(filter(None, (item["held_by"], item["ref"]))),
                "\n".join([ended, *marks]),
                "\n".join(filter(None, (item["reason"], item["entry"]))),
            )
        )
    lines = [line.rstrip() for row in rows for line in _wrapped(row, (16, 14, 14, 30))]
    if not found["holds"]:
        lines = ["Nobody has held the token yet."]
    lines += [
        text
        for item in found["unreadable"]
        for text in textwrap.wrap(
            f"Version {item['version']} ({item['author'] or '?'}, {item['saved'] or '?'}) unreadable: {item['why']}",
            80,
            subsequent_indent="  ",
        )
    ]
    if not found["complete"]:
        lines.append("There is more: deploytoken.history limit=…, or the page's own history.")
    # Entries are what people typed, and authors what the wiki says: neither is for a terminal to obey.
    return "\n".join(page.printable(line) for line in lines)


def comment(text):
    """Return the parts of one of our comments (``verb``, ``ref``, ``id``, ``displaced``, ``jid``), or None."""
    match = _COMMENT.fullmatch(text or "")
    return match.groupdict() if match else None


def _end(seen, newer, gap, rules):
    """Return the hold that stands in ``seen`` and not in ``newer``, with how it ended."""
    hold = seen.hold
    if newer is None:
        return _Past(hold, UNKNOWN if gap else "still held", unreadable=list(gap))
    item = _Past(hold, "by hand", newer.page.author, _time(newer.page.saved), by_hand=True, unreadable=list(gap))
    said = comment(newer.page.comment) or {}
    verb, ref = said.get("verb"), said.get("ref")
    if newer.hold is None and verb == "withdraw" and ref == hold.ref:
        item.ended, item.by_hand = "withdrawn", False
    elif newer.hold is None and verb == "release" and ref in (hold.ref, "-"):
        item.ended, item.by_hand = "released", False
    elif newer.hold and verb == "takeover" and ref == newer.hold.ref and said["displaced"] == (hold.ref or "-"):
        item.ended, item.ended_by, item.by_hand = "taken over", newer.hold.name, False
    item.entry = _entry(seen, newer, hold, rules)
    return item


def _begin(item, first, known=True):
    """Complete ``item``, which stands in the version ``first``, and began with it if that is ``known``."""
    said = comment(first.page.comment)
    if said and said["verb"] in ("acquire", "takeover") and said["ref"] == item.hold.ref:
        item.start = _time(first.page.saved)
    elif known:
        item.start, item.by_hand = _time(first.page.saved), True
    item.start = item.start or item.hold.since


def _entry(seen, newer, hold, rules):
    """Return the entry of ``hold``: by its ref, else the line that came with the end of the hold."""
    if hold.ref and (own := page.entries(newer.page.text, hold.ref, rules.entry)):
        return own[0]
    mark = rules.entry.split(" ")[0]
    before, after = ([line.strip() for line in re.split("[\r\n]+", at.page.text)] for at in (seen, newer))
    return next((line for line in after if line.startswith(f"{mark} ") and line not in before), None)


def _same(hold, other):
    """Whether both are one hold: by the ref, for people may edit the rest of the line."""
    return hold is not None and (hold.ref == other.ref if hold.ref or other.ref else hold == other)


def _unreadable(found, exc):
    why = "it was deleted" if found.comment == _DELETED and not found.text else str(exc)
    return {"version": found.version, "author": found.author, "saved": _time(found.saved), "why": why}


def _describe(item):
    return {
        "held_by": item.hold.name,
        "ref": item.hold.ref,
        "reason": item.hold.reason,
        "from": item.start,
        "to": item.to,
        "ended": item.ended,
        "ended_by": item.ended_by,
        "entry": item.entry,
        "by_hand": item.by_hand,
        "unreadable": sorted(item.unreadable),
    }


def _time(saved):
    """Return a store's time as it is written on the page."""
    try:
        # Before Python 3.11, fromisoformat does not know the Z.
        then = datetime.fromisoformat((saved or "").replace("Z", "+00:00"))
        then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
        return then.astimezone(timezone.utc).strftime(page.TIME)
    except (ValueError, OverflowError):  # no time, or one in no year that Python knows
        return saved


def _short(stamp):
    return stamp.removesuffix(" UTC")


def _wrapped(row, widths):
    cells = [
        [part for line in cell.split("\n") for part in textwrap.wrap(line, width) or [""]]
        for cell, width in zip(row, widths, strict=True)
    ]
    for number in range(max(map(len, cells))):
        yield "  ".join(
            (cell[number] if number < len(cell) else "").ljust(width)
            for cell, width in zip(cells, widths, strict=True)
        )
