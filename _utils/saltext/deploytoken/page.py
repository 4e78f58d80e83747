"""
The wiki page as text: text in, text out.

Two parts of the page are ours: what follows ``Held by:``, and the History entries that we add. Every other byte comes
back as it was: people edit this page by hand, and a save in Redmine's form turns the whole page into CRLF.

The holder's line is ``Held by: nobody``, or ``Held by: Alice (upgrade PostgreSQL; since 2026-11-22 22:30 UTC; ref
3f9c2a1b)``. The ref is unique for one acquisition, which makes a write of this text safe to send again. ``Held by:
Bob``, typed by a person, is a hold without a ref.
"""

import re
import string
from dataclasses import dataclass
from datetime import datetime, timezone

from saltext.deploytoken import errors

#: Times on the page, in UTC.
TIME = "%Y-%m-%d %H:%M UTC"

#: How the entry of a hold begins that somebody else ended; no other summary may begin so.
TAKEN_OVER = "taken over by"

# Only these end a line in Redmine; str.splitlines would also split at U+2028 and its like, which names may hold.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_HOLDER = re.compile(
    r"(?P<before>\ufeff?[ \t]*(?P<marks>[*_]{0,3})held by(?P<colon>[*_]{0,3}:[*_]{0,3})[ \t]*)(?P<rest>.*)", re.I
)
# Wider than what we write: a person may have edited the reason by hand, and it is still the same hold.
_HOLD = re.compile(
    r"(?P<name>.+?) \((?P<reason>.*); since (?P<since>[^;]+?)(?:; expected until (?P<until>[^;]+?))?"
    r"; ref (?P<ref>[0-9a-f]{8})\)"
)
_HEADING = re.compile(r"\ufeff?(?:h(?P<textile>[1-6])\.|(?P<markdown>#{1,6}))[ \t]+(?P<title>.*?)[ \t#]*", re.I)
_UNDERLINE = re.compile(r"(?:=+|-{2,})[ \t]*")
_TABLE_RULE = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t:|-]*)?")
_REF = "(?P<ref>[0-9a-f]{8})"
_BRACKETS = "()[]{}<>|"


@dataclass(frozen=True)
class Hold:
    """Who holds the token; ``ref`` and the rest are None where a person typed only a name."""

    name: str
    reason: str | None = None
    since: str | None = None
    ref: str | None = None
    until: str | None = None


@dataclass(frozen=True)
class _Holder:
    """Where the holder's value stands in the text."""

    value: str
    start: int
    end: int


def read(text, nobody="nobody"):
    """
    Return the :class:`Hold` that the page names, or None when nobody holds the token.

    :raises errors.StoreError: when there is no holder's line, more than one, or an empty one.
    """
    value = _find(text).value
    if value.casefold() == nobody.casefold():
        return None
    match = _HOLD.fullmatch(value)
    return Hold(**match.groupdict()) if match else Hold(name=value)


def write(text, hold, nobody="nobody"):
    """Return the page with ``hold`` (None for nobody) in the holder's line, and no other byte changed."""
    holder = _find(text)
    gap = " " if text[holder.start - 1 : holder.start] not in (" ", "\t") else ""
    return text[: holder.start] + gap + (nobody if hold is None else line(hold)) + text[holder.end :]


def line(hold):
    """Return what stands after ``Held by:`` for ``hold``."""
    if not hold.ref:
        return hold.name
    until = f"; expected until {hold.until}" if hold.until else ""
    return f"{hold.name} ({hold.reason}; since {hold.since}{until}; ref {hold.ref})"


def count_holders(text):
    """Return how many holder's lines the page has; one is right."""
    return sum(_HOLDER.fullmatch(_bare(item)) is not None for item in _lines(text))


def has_section(text, heading="History"):
    """Return whether the page has the heading."""
    return _section(_lines(text), heading) is not None


def add_entry(text, entry, heading="History", newest="first"):
    """
    Return the page with ``entry``, one line, under the heading.

    Entries are the list items or table rows that begin as ``entry`` does (``*``, ``-``, ``|``); the new one goes
    before the first or after the last of them, below a table's header. Without such lines it goes to the end of the
    section. A page without the heading gets one at its end, in the page's own markup: a token must not stay held for
    want of a heading.
    """
    lines = _lines(text)
    section = _section(lines, heading)
    if section is None:
        return _append(text, [_new_heading(lines, heading), "", entry])
    first, end = section
    mark = entry.split(" ")[0]
    own = [number for number in range(first, end) if _is_entry(_bare(lines[number]), mark)]
    header = _header_rows([_bare(lines[number]) for number in own]) if mark.startswith("|") else 0
    if not own:
        return _insert(lines, _last_text(lines, first, end), ["", entry])
    if newest == "last":
        return _insert(lines, _past_item(lines, own[-1], end), [entry])
    return _insert(lines, own[header] if header < len(own) else own[-1] + 1, [entry])


def entries(text, ref, template):
    """Return the lines, stripped, that ``template`` could have written for the hold ``ref``."""
    # What people wrote may mention another hold's ref: ours is the last on the line if their words come before it.
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    anything = ".*" if {"name", "reason", "summary", "notes"} & set(fields[: fields.index("ref")]) else ".*?"
    parts = []
    for literal, field, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if len(parts) > 1 and parts[-2] == _REF:
            break  # not to the line's end: a person may have added a remark
        parts.append(_REF if field == "ref" else anything if field else "")
    entry = re.compile("".join(parts))
    found = ((bare, entry.match(bare)) for bare in (_bare(item).strip() for item in _lines(text)))
    return [bare for bare, match in found if match and match["ref"] == ref]


def render_entry(template, hold, *, until, summary, notes=()):
    """
    Return the History entry of an ended ``hold`` as one line.

    ``notes`` are parts such as ``rebooted web1, web2``, each joined with a semicolon.
    """
    return template.format(
        since=hold.since or "?",
        until=until,
        name=inert(hold.name),
        reason=inert(hold.reason or ""),
        summary=inert(summary),
        notes="".join(f"; {inert(note)}" for note in notes),
        ref=hold.ref,
    )


def inert(text):
    """
    Return ``text`` as an entry has it: people see the same, and the wiki sees no HTML tag.

    A ``<pre>`` or ``<code>`` that nobody closes swallows all entries below it (Redmine 5.0.4, Textile), and a
    ``</ul>`` ends the list (CommonMark). A ``&lt;`` is shown as it should be by all of its formattings.
    """
    return text.replace("<", "&lt;")


def stamp(seconds):
    """Return the time ``seconds`` after the epoch as it is written on the page."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(TIME)


def parse_stamp(text):
    """Return the seconds since the epoch of a time on the page, or None where a person wrote something else."""
    try:
        return datetime.strptime(text or "", TIME).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def check_name(name, key="name", nobody="nobody"):
    """
    Return ``name`` if the holder's line can carry it.

    :raises errors.Invalid: otherwise; nothing is quoted or shortened in silence.
    """
    name = _check_holder(name, key)
    if name.casefold() == nobody.casefold():
        raise errors.Invalid(f"{key}: {name!r} is the word for a free token; use a person's name")
    if name[0] in "*_" or name[-1] in "*_":
        raise errors.Invalid(f"{key}: {name!r} begins or ends with markup; leave out * and _ there")
    return name


def check_reason(reason, key="reason"):
    """Return ``reason`` if the holder's line can carry it, and later the entry; see :func:`check_name`."""
    reason = check_summary(_check_holder(reason, key), key)
    if re.search(r";\s*(since|expected until|ref)\b", reason):
        raise errors.Invalid(f"{key}: must not hold '; since', '; expected until' or '; ref', our marks on the line")
    return reason


def check_summary(summary, key="summary"):
    """Return ``summary`` if a History entry can carry it; see :func:`check_name`."""
    summary = check_note(summary, key)
    if summary.casefold().startswith(TAKEN_OVER):
        raise errors.Invalid(f"{key}: must not begin with {TAKEN_OVER!r}, which marks a hold that somebody else ended")
    return summary


def check_note(note, key):
    """Return ``note`` if a History entry can carry it after its summary; see :func:`check_name`."""
    return _check_line(note, key, "|", most=500)


def initial(markup="textile", nobody="nobody", heading="History"):
    """Return the text of a new page; ``markup`` is ``textile`` or ``markdown``."""
    title, section = ("h1.", "h2.") if markup == "textile" else ("#", "##")
    return (
        f"{title} Deploy token\n\nHeld by: {nobody}\n\n"
        "Whoever is named here is the only person who may change the servers. To take the token by hand, edit this"
        f" page and put your name in place of {nobody}. When you have finished, put {nobody} in place of your name"
        f" again, and add a line to the {heading}.\n\n{section} {heading}\n"
    )


def _check_holder(value, key):
    value = _check_line(value, key, _BRACKETS, most=200)
    if re.search(r"held by\W*:", value, re.I):
        raise errors.Invalid(f"{key}: must not hold 'Held by:', which marks the holder's line")
    return value


def _check_line(value, key, forbidden, most):
    value = value.strip()
    if not value or len(value) > most:
        raise errors.Invalid(f"{key}: needs between 1 and {most} characters")
    # str.isprintable is false for control characters, line separators, and every space but U+0020.
    if bad := next((char for char in value if not char.isprintable() or char in forbidden), None):
        what = f"{bad!r} " if bad.isprintable() else f"the control character {bad!r} "
        raise errors.Invalid(f"{key}: {what}cannot stand on the page's line; leave it out")
    return value


def _find(text):
    found = []
    start = 0
    for item in _lines(text):
        if match := _HOLDER.fullmatch(_bare(item)):
            found.append(_value(match, start))
        start += len(item)
    if len(found) != 1:
        count = "no line" if not found else f"{len(found)} lines"
        raise errors.StoreError(
            f"the page has {count} 'Held by: …', so nobody can tell who holds the token;"
            " edit the page so that it has exactly one"
        )
    if not found[0].value:
        raise errors.StoreError("the page's 'Held by:' is empty; edit the page and say who holds the token, or nobody")
    return found[0]


def _value(match, start):
    rest = match["rest"].rstrip()
    # `*Held by: Bob*`: the mark that opens before the words closes behind the name, and is not part of it.
    marks = match["marks"]
    if marks and not re.search(r"[*_]", match["colon"]) and rest.endswith(marks[::-1]):
        rest = rest[: -len(marks)].rstrip()
    begin = start + match.end("before")
    return _Holder(rest, begin, begin + len(rest))


def _lines(text):
    """Return the lines with their endings; joined again they are ``text``."""
    return [item for item in _LINE.findall(text) if item]


def _bare(item):
    return item.rstrip("\r\n")


def _eol(text):
    """Return the line ending that the page uses most."""
    crlf = text.count("\r\n")
    counts = {"\n": text.count("\n") - crlf, "\r\n": crlf, "\r": text.count("\r") - crlf}
    return max(counts, key=counts.get)


def _headings(lines):
    """Yield (line of the heading, first line below it, level, title): Textile's, Markdown's, and underlined ones."""
    for number, item in enumerate(lines):
        bare = _bare(item)
        if match := _HEADING.fullmatch(bare):
            yield number, number + 1, int(match["textile"] or len(match["markdown"])), match["title"]
        elif number and _UNDERLINE.fullmatch(bare):
            title = _bare(lines[number - 1]).strip()
            if title and title[0] not in "|*-#>":
                yield number - 1, number + 1, 1 if bare.startswith("=") else 2, title


def _section(lines, heading):
    """Return the first line below ``heading`` and the line at which its section ends; None without such a heading."""
    found = None
    for number, below, level, title in _headings(lines):
        if found and level <= found[1]:
            return found[0], number
        if not found and title.strip("*_ :").casefold() == heading.casefold():
            found = below, level
    return (found[0], len(lines)) if found else None


def _new_heading(lines, heading):
    markdown = any(_bare(lines[number]).startswith("#") for number, *_ in _headings(lines))
    return f"{'##' if markdown else 'h2.'} {heading}"


def _is_entry(bare, mark):
    bare = bare.lstrip()
    return bare.startswith("|") if mark.startswith("|") else bare.split(" ")[0] == mark


def _header_rows(rows):
    """Return how many of a table's first rows are its header: Textile's ``|_.``, or Markdown's row above ``|---|``."""
    if len(rows) > 1 and _TABLE_RULE.fullmatch(rows[1].strip()):
        return 2
    return 1 if rows and rows[0].lstrip().startswith("|_.") else 0


def _last_text(lines, first, end):
    """Return the line after the section's last one that is not blank."""
    while end > first and not _bare(lines[end - 1]).strip():
        end -= 1
    return end


def _past_item(lines, number, end):
    """Return the line after the item at ``number`` and the lines that continue it."""
    number += 1
    while number < end and _bare(lines[number]).strip():
        number += 1
    return number


def _insert(lines, at, new):
    before, after = "".join(lines[:at]), "".join(lines[at:])
    eol = _eol(before + after)
    if before and not before.endswith(("\r", "\n")):
        # The page ends without a line ending, and goes on doing so.
        return before + eol + eol.join(new)
    if new[0] == "" and after and _bare(lines[at]).strip():
        new = [*new, ""]  # the next heading follows at once, and must not become part of the list
    return before + "".join(item + eol for item in new) + after


def _append(text, new):
    eol = _eol(text)
    text += "" if text.endswith(("\r", "\n")) else eol
    return text + eol + eol.join(new) + eol
