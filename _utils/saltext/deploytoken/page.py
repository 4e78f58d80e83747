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

#: By these words the entry of a hold is known that somebody else ended; nothing else in an entry may hold them.
TAKEN_OVER = "taken over by"

#: More than we ever write after ``Held by:``; reading a line takes the square of its length.
_MOST = 1000

# Only these end a line in Redmine; str.splitlines would also split at U+2028 and its like, which names may hold.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
# People type, and paste, other spaces than U+0020; before a colon too, where their language has one there.
_HOLDER = re.compile(
    r"(?P<before>\ufeff?\s*(?P<marks>[*_]{0,3})held\s+by(?P<colon>\s?[*_]{0,3}\s?:[*_]{0,3})\s*)(?P<rest>.*)",
    re.I | re.DOTALL,
)
# Wider: in a table, a list or a quotation as well. Such a line may be the one that people go by.
_LIKE_HOLDER = re.compile(r"[\W_]*held\s+by[\W_]*:", re.I)
_MARKED = re.compile(r"(?P<marks>[*_]{1,3})(?P<inner>[^*_].*)", re.DOTALL)
# Wider than what we write: a person may have edited the reason by hand, and it is still the same hold.
_HOLD = re.compile(
    r"(?P<name>.+?) \((?P<reason>.*); since (?P<since>[^;]+?)(?:; expected until (?P<until>[^;]+?))?"
    r"; ref (?P<ref>[0-9a-f]{8})\)"
)
_HEADING = re.compile(r"\ufeff?(?:h(?P<textile>[1-6])\.|(?P<markdown>#{1,6}))[ \t]+(?P<title>.*)", re.I | re.DOTALL)
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
    """Where the holder's value stands in the text, and whether it stands in marks of its own."""

    value: str
    start: int
    end: int
    marked: bool


def read(text, nobody="nobody"):
    """
    Return the :class:`Hold` that the page names, or None when nobody holds the token.

    :raises errors.StoreError: when there is no holder's line, more than one, or one that does not say it.
    """
    value = _find(text).value
    if value.rstrip(" .").casefold() == nobody.rstrip(" .").casefold():
        return None
    match = _HOLD.fullmatch(value)
    if match:
        return Hold(**{key: text and printable(text) for key, text in match.groupdict().items()})
    if re.match(rf"\W*{re.escape(nobody)}(?!\w)", value, re.I):
        raise errors.StoreError(
            f"the page's 'Held by:' says {value[:100]!r}, which is neither {nobody!r} nor a name; edit the page"
        )
    return Hold(name=printable(value))


def write(text, hold, nobody="nobody"):
    """Return the page with ``hold`` (None for nobody) in the holder's line, and no other byte changed."""
    holder = _find(text)
    gap = "" if holder.marked or text[holder.start - 1].isspace() else " "
    return text[: holder.start] + gap + (nobody if hold is None else line(hold)) + text[holder.end :]


def line(hold):
    """Return what stands after ``Held by:`` for ``hold``."""
    if not hold.ref:
        return hold.name
    until = f"; expected until {hold.until}" if hold.until else ""
    return f"{hold.name} ({hold.reason}; since {hold.since}{until}; ref {hold.ref})"


def count_holders(text):
    """Return how many lines the page has that could be the holder's; one is right."""
    return sum(_LIKE_HOLDER.match(_bare(item)) is not None for item in _lines(text))


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
    parts = list(string.Formatter().parse(template))
    fields = [field for _, field, _, _ in parts]
    at = fields.index("ref")
    literals = [literal for literal, *_ in parts[: at + 1]]
    # What people wrote may mention another hold's ref: ours is the last on the line if their words come before it.
    last = bool({"name", "reason", "summary", "notes"} & set(fields[:at]))
    found = (_bare(item).strip() for item in _lines(text))
    # A look for the ref first: a History is long.
    return [bare for bare in found if ref in bare and _ref_of(bare, literals, last) == ref]


def _ref_of(bare, literals, last):
    """
    Return the ref on a line that has the template's ``literals`` in their order, the last of them before the ref.

    Not one regular expression: with a gap for each field, it would take the fourth power of a long line's length.
    """
    if not bare.startswith(literals[0]):
        return None
    start = 0
    for literal in literals[:-1]:
        start = bare.find(literal, start) + len(literal)
        if start < len(literal):
            return None
    mark = re.compile(re.escape(literals[-1]) + _REF)
    if len(literals) == 1:
        match = mark.match(bare)
        return match and match["ref"]
    refs = [match["ref"] for match in mark.finditer(bare, start)]
    return (refs[-1] if last else refs[0]) if refs else None


def render_entry(template, hold, *, until, summary, notes=()):
    """
    Return the History entry of an ended ``hold`` as one line.

    ``notes`` are parts such as ``rebooted web1, web2``, each joined with a semicolon. The hold's own words may have
    been edited by hand.
    """
    return template.format(
        since=hold.since or "?",
        until=until,
        name=inert(tame(hold.name)),
        reason=inert(tame(hold.reason or "")),
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
    return _check_line(summary, key, "|", most=500)


def check_note(note, key):
    """Return ``note``, which follows a summary, likewise; it may name every server there is, and so is long."""
    return _check_line(note, key, "|", most=100_000)


def tame(text):
    """
    Return as one line that a summary can carry what did not come from the operator: a minion's words must not be
    refused, for the token would stay held.
    """
    text = " ".join("".join(char if char.isprintable() and char != "|" else " " for char in text).split())
    text = re.sub(r"held\s+by(?=[\W_]*:)", "holder", text, flags=re.I)
    return re.sub(TAKEN_OVER, "ended by", text, flags=re.I)


def printable(text):
    """Return ``text`` as a terminal may be given it: what people typed can hold its commands, or half a character."""
    return "".join(char if char.isprintable() else " " for char in text)


def check_heading(heading, key):
    """Return ``heading`` if it is found again below its marks; see :func:`check_name`."""
    found = all(has_section(f"{mark} {heading}", heading) for mark in ("h2.", "##"))
    if not found or _HEADING.fullmatch(heading) or not _plain(heading):
        raise errors.Invalid(f"{key}: give the words alone, without the marks of a heading")
    return heading


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
    # At its end as well: an entry may go on with a colon after the name.
    if re.search(r"held\s+by[\W_]*$", value, re.I):
        raise errors.Invalid(f"{key}: must not end with 'Held by', which marks the holder's line")
    return value


def _check_line(value, key, forbidden, most):
    value = value.strip()
    if not value or len(value) > most:
        raise errors.Invalid(f"{key}: needs between 1 and {most} characters")
    # str.isprintable is false for control characters, line separators, and every space but U+0020.
    if bad := next((char for char in value if not char.isprintable() or char in forbidden), None):
        what = f"{bad!r} " if bad.isprintable() else f"the control character {bad!r} "
        raise errors.Invalid(f"{key}: {what}cannot stand on the page's line; leave it out")
    if re.search(r"held\s+by[\W_]*:", value, re.I):
        raise errors.Invalid(f"{key}: must not hold 'Held by:', which marks the holder's line")
    if TAKEN_OVER in value.casefold():
        raise errors.Invalid(f"{key}: must not hold {TAKEN_OVER!r}, which marks a hold that somebody else ended")
    return value


def _find(text):
    found = []
    start = 0
    for number, item in enumerate(_lines(text), 1):
        if _LIKE_HOLDER.match(_bare(item)):
            found.append((number, start, _HOLDER.fullmatch(_bare(item))))
        start += len(item)
    if len(found) != 1:
        count = f"{len(found)} lines" if found else "no line"
        where = f" (lines {', '.join(str(number) for number, *_ in found)})" if found else ""
        raise errors.StoreError(
            f"the page has {count} 'Held by: …'{where}, so nobody can tell who holds the token;"
            " edit the page so that it has exactly one"
        )
    ((number, start, match),) = found
    if not match:
        raise errors.StoreError(
            f"the page's 'Held by:' stands in a list, a table or a quotation (line {number}); edit the page so that"
            " it stands on a line of its own"
        )
    holder = _value(match, start)
    if not holder.value:
        raise errors.StoreError("the page's 'Held by:' is empty; edit the page and say who holds the token, or nobody")
    if len(holder.value) > _MOST:
        raise errors.StoreError(f"the page's 'Held by:' has more than {_MOST} characters; edit the page")
    return holder


def _value(match, start):
    rest = match["rest"].rstrip()
    # `*Held by: Bob*`: the mark that opens before the words closes behind the name, and is not part of it.
    marks = match["marks"]
    if marks and not re.search(r"[*_]", match["colon"]) and rest.endswith(marks[::-1]):
        rest = rest[: -len(marks)].rstrip()
    begin = start + match.end("before")
    # `Held by: *Bob*`: so are marks around the name alone.
    around = _MARKED.fullmatch(rest)
    if around and (inner := around["inner"].removesuffix(around["marks"][::-1])) != around["inner"]:
        return _Holder(inner, begin + len(around["marks"]), begin + len(around["marks"]) + len(inner), marked=True)
    return _Holder(rest, begin, begin + len(rest), marked=False)


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
            title = match["title"].rstrip(" \t#")
            yield number, number + 1, int(match["textile"] or len(match["markdown"])), title
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
        if not found and _plain(title) == _plain(heading):
            found = below, level
    return (found[0], len(lines)) if found else None


def _plain(title):
    return title.strip("*_ :").casefold()


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
