"""
The wiki page as text: text in, text out.

Two parts of the page are ours: the words after ``Held by:``, and the History entries that we add. Every other byte
comes back as it was: people edit this page by hand, and a save in Redmine's form turns the whole page into CRLF.

The holder's line is ``Held by: nobody``, or ``Held by: Alice (upgrade PostgreSQL; since 2026-11-22 22:30 UTC; ref
3f9c2a1b)``. The ref is unique for one acquisition, which makes a write of this text safe to send again. While a deploy
is at work, ``; job JID@MASTER`` stands before the ref. ``Held by: Bob``, typed by a person, is a hold without a ref.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from saltext.deploytoken import errors, markup, values
from saltext.deploytoken.text import printable, shortened

#: What an entry template may name.
ENTRY_FIELDS = ("since", "until", "name", "reason", "summary", "notes", "ref")

#: These words mark the entry of a hold that somebody else ended; nothing else in an entry may contain them.
TAKEN_OVER = "taken over by"

#: How headings are written on a new page.
_HEADINGS = {"textile": ("h1.", "h2."), "markdown": ("#", "##")}

#: Times on the page, in UTC.
_TIME = "%Y-%m-%d %H:%M UTC"

#: More than we ever write after ``Held by:``; the time to read a line grows with the square of its length.
_LONGEST = 1000

# Only these end a line in Redmine; str.splitlines would also split at U+2028 and its like, which names may hold.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
# People type, and paste, other spaces than U+0020; before a colon too, where their language has one there.
_HOLDER = re.compile(
    r"(?P<before>\ufeff?\s*(?P<marks>[*_]{0,3})held\s+by(?P<colon>\s?[*_]{0,3}\s?:[*_]{0,3})\s*)(?P<rest>.*)",
    re.I | re.DOTALL,
)
# The same words in any markup, in what markup.visible leaves of a line.
_HELD_BY = re.compile("(?<![a-z])" + r"[\W_]*".join("heldby") + r"[\W_]*?:", re.I)
# What may stand behind "Held", or "Held by", at the end of a line.
_MARKS = string.punctuation.replace(":", "") + string.whitespace
# A sentence goes on: behind a word, at most with a quotation mark or emphasis between.
_WORD_BEFORE = re.compile(rf"[^\W\d_]\s*[\"'“”„‘’‚«»‹›`@*_+%~^?{markup.EMPHASIS}-]*\Z")
# What leaves no gap between two letters.
_UNSEEN = re.compile(f"[*_{markup.GONE}{markup.EMPHASIS}]")
_EXAMPLE_INDENT = re.compile(r" {4}| {0,3}\t")
_MARKED = re.compile(r"(?P<marks>[*_]{1,3})(?P<inner>[^*_].*)", re.DOTALL)
# Wider than what we write: a person may have edited the line by hand, and it is still the same hold. Names and reasons
# have no brackets and none of these marks.
_REF = re.compile(rf"[(;]\s*ref\s+(?P<ref>{values.REF})(?!\w)", re.I)
_REF_BEHIND = re.compile(rf"\bref\W{{1,3}}({values.REF})(?!\w)", re.I)
_MARK = re.compile(r";\s*(since|expected\s+until|job|ref)\b", re.I)
_HEADING = re.compile(r"\ufeff?(?:h(?P<textile>[1-6])\.|(?P<markdown>#{1,6}))[ \t]+(?P<title>.*)", re.I | re.DOTALL)
_UNDERLINE = re.compile(r"(?:=+|-{2,})[ \t]*")
_ITEM = re.compile(r"\s*(?:[*+#-]+\s|\d+[.)]\s|[|>])")
_TABLE_RULE = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t:|-]*)?")
_BRACKETS = "()[]{}<>|"
#: Stands for a line that is part of an example: neither a heading nor an entry, and not blank.
_EXAMPLE = "\0"
_TAKEN_OVER = re.compile(re.escape(TAKEN_OVER), re.I)


@dataclass(frozen=True)
class Rules:
    """How a team writes its page; each part is a key of the configuration."""

    #: The word for a free token.
    nobody: str = "nobody"
    #: The heading above the entries.
    heading: str = "History"
    #: The template of one entry.
    entry: str = "* {until} {name}: {summary}{notes} (ref {ref})"
    #: Where the newest entry goes: ``first`` or ``last``.
    newest: str = "first"


DEFAULT = Rules()


@dataclass(frozen=True)
class Hold:
    """Who holds the token; ``ref`` and the rest are None where a person typed only a name."""

    name: str
    reason: str | None = None
    since: str | None = None
    ref: str | None = None
    until: str | None = None
    #: The job that is at work under it, as ``JID@MASTER``.
    job: str | None = None

    def is_same(self, other: Hold | None) -> bool:
        """Return whether both are one hold: by the ref, for people may edit the rest of the line."""
        if other is None:
            return False
        return self.ref == other.ref if self.ref or other.ref else self == other


@dataclass(frozen=True)
class _Holder:
    """Where the holder's value stands in the text, and whether marks of its own surround it."""

    value: str
    start: int
    end: int
    marked: bool


def read(text: str, rules: Rules = DEFAULT) -> Hold | None:
    """
    Return the :class:`Hold` that the page names, or None when nobody holds the token.

    :raises errors.StoreError: there is no holder's line, or more than one, or it names neither nobody nor a person.
    """
    value = _find(text, rules).value
    nobody = rules.nobody
    if _bare(value) == _bare(nobody):
        return None
    if len(refs := _refs(value)) > 1:
        raise errors.StoreError(
            f"the page's 'Held by:' has {len(refs)} refs ({', '.join(refs)}), so nobody can tell whose hold it is;"
            " edit the page so that one person's remains"
        )
    hold = _parse(value)
    # Of a hold with a ref, the reason may well begin or end with that word.
    if _says(hold.name, nobody, whole=bool(hold.ref)):
        raise errors.StoreError(
            f"the page's 'Held by:' says {shortened(printable(value), 100)!r}, which is neither {nobody!r} nor a name;"
            " edit the page"
        )
    return hold


def write(text: str, hold: Hold | None, rules: Rules = DEFAULT) -> str:
    """Return the page with ``hold`` (None for nobody) in the holder's line, and no other byte changed."""
    holder = _find(text, rules)
    gap = "" if holder.marked or text[holder.start - 1].isspace() else " "
    return text[: holder.start] + gap + (rules.nobody if hold is None else hold_text(hold)) + text[holder.end :]


def hold_text(hold: Hold) -> str:
    """Return the words after ``Held by:`` for ``hold``."""
    if not hold.ref:
        return hold.name
    marked = {"since": hold.since, "expected until": hold.until, "job": hold.job, "ref": hold.ref}
    parts = [hold.reason, *(f"{mark} {value}" for mark, value in marked.items() if value)]
    return f"{hold.name} ({'; '.join(part for part in parts if part)})"


def count_holders(text: str, rules: Rules = DEFAULT) -> int:
    """Return how many lines of the page read as the holder's; one is right."""
    return len(_holder_lines(_lines(text), rules))


def has_section(text: str, heading: str) -> bool:
    """Return whether the page has the heading."""
    return _section(_outside(_lines(text)), heading) is not None


def entry_forms(text: str, heading: str) -> set[str]:
    """Return how lines under the heading begin that could be entries: ``*``, ``-`` and ``|``."""
    lines = _outside(_lines(text))
    first, end = _section(lines, heading) or (0, 0)
    return {mark for mark in "*-|" if any(_is_entry(line, mark) for line in lines[first : _footer(lines, first, end)])}


def add_entry(text: str, entry: str, rules: Rules = DEFAULT) -> str:
    """
    Return the page with ``entry``, one line, under the heading.

    Entries are the list items or table rows that begin as ``entry`` does (``*``, ``-``, ``|``). The new one goes
    before the first or after the last of them, below a table's header, and never into an example or below a footer: a
    rule, an included page, or a paragraph after the list. Without such lines it goes to the end of the section. A page
    without the heading gets one at its end, in the page's own markup: a token must not stay held because a heading is
    missing.
    """
    lines = _lines(text)
    outside = _outside(lines)
    section = _section(outside, rules.heading)
    if section is None:
        at = _safe(lines, _page_footer(lines, outside, rules))
        new = [_new_heading(outside, rules.heading), "", entry]
        return _append(text, new) if at == len(lines) else _insert(lines, at, ["", *new])
    first, end = section
    mark = entry_mark(entry)
    if not (block := _entries_block(outside, first, end, rules, mark)):
        return _insert(lines, _safe(lines, _past_text(outside, first, _footer(outside, first, end))), ["", entry])
    own = [number for number in block if _is_entry(outside[number], mark)]
    header = _header_rows([outside[number] for number in own]) if mark.startswith("|") else 0
    if rules.newest == "last":
        return _insert(lines, _safe(lines, block.stop), [entry])
    return _insert(lines, own[header] if header < len(own) else own[-1] + 1, [entry])


def entry_mark(entry: str) -> str:
    """Return how an entry, or its template, begins: ``*``, ``-`` or ``|``."""
    return entry.split(" ")[0]


def entries(text: str, ref: str, rules: Rules = DEFAULT) -> list[str]:
    """Return the lines, stripped, that the template of an entry could have written for the hold ``ref``."""
    found = (_content(line).strip() for line in _lines(text))
    # A look for the ref first: a History is long.
    return [line for line in found if ref in line and _ref_of(line, rules) == ref]


def _ref_of(line: str, rules: Rules) -> str | None:
    """
    Return the ref on a line that has the template's literals in their order, the last of them before the ref.

    Not one regular expression: with a gap for each field, its time would grow with the fourth power of a long line's
    length.
    """
    parts = list(string.Formatter().parse(rules.entry))
    fields = [field for _, field, _, _ in parts]
    at = fields.index("ref")
    literals = [literal for literal, *_ in parts[: at + 1]]
    # People's words may mention another hold's ref: where they come before ours, ours is the last on the line.
    last = bool({"name", "reason", "summary", "notes"} & set(fields[:at]))
    if not line.startswith(literals[0]):
        return None
    start = 0
    for literal in literals[:-1]:
        start = line.find(literal, start) + len(literal)
        if start < len(literal):
            return None
    mark = re.compile(re.escape(literals[-1]) + f"(?P<ref>{values.REF})")
    if len(literals) == 1:
        match = mark.match(line)
        return match["ref"] if match else None
    refs = [match["ref"] for match in mark.finditer(line, start)]
    return (refs[-1] if last else refs[0]) if refs else None


def render_entry(hold: Hold, rules: Rules = DEFAULT, *, until: str, summary: str, notes: Iterable[str] = ()) -> str:
    """
    Return the History entry of an ended ``hold`` as one line.

    ``notes`` are parts such as ``rebooted web1, web2``, each joined with a semicolon. The hold's own words are tamed
    as well, because people may have edited them.
    """
    return rules.entry.format(
        since=hold.since or "?",
        until=until,
        name=inert(tame(hold.name)),
        reason=inert(tame(hold.reason or "")),
        summary=inert(summary),
        notes="".join(f"; {inert(note)}" for note in notes),
        ref=hold.ref,
    )


def tame(text: str) -> str:
    """
    Return the words of a machine or of another person as one line that a summary can carry.

    Nobody can reword them when a check refuses them, and the token would stay held.
    """
    text = " ".join(printable(text).replace("|", " ").split())
    # Again, for what hid one may go with another.
    while found := [*_HELD_BY.finditer(markup.visible(text))]:
        ends = [0, *(match.end() for match in found)]
        starts = [*(match.start() for match in found), len(text)]
        text = "holder:".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    return _TAKEN_OVER.sub("ended by", text)


def inert(text: str) -> str:
    """
    Return ``text`` as an entry has it: people see the same, and the wiki sees no HTML tag.

    A ``<pre>`` or ``<code>`` that nobody closes swallows all entries below it (Redmine 5.0.4, Textile), and a
    ``</ul>`` ends the list (CommonMark). All of Redmine's formattings show ``&lt;`` as it should be.
    """
    return text.replace("<", "&lt;")


def stamp(seconds: float) -> str:
    """Return the time ``seconds`` after the epoch as it is written on the page."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(_TIME)


def parse_stamp(text: str | None) -> float | None:
    """Return the seconds since the epoch of a time on the page, or None where a person wrote something else."""
    try:
        return datetime.strptime(text or "", _TIME).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def minutes(hold: Hold) -> int | None:
    """Return how long the holder expects to need the token; None if the line does not say."""
    since, until = parse_stamp(hold.since), parse_stamp(hold.until)
    return None if since is None or until is None else round((until - since) / 60)


def check_name(name: str, key: str = "name", nobody: str = DEFAULT.nobody) -> str:
    """
    Return ``name``, stripped, if the holder's line can carry it.

    :raises errors.Invalid: otherwise, with ``key`` in the message; nothing is quoted or shortened in silence.
    """
    name = check_nobody(name, key)
    if _says(name, nobody, whole=True):
        raise errors.Invalid(f"{key}: {name!r} is the word for a free token; use a person's name")
    return name


def check_nobody(word: str, key: str) -> str:
    """Return the ``word`` for a free token likewise: it stands in a name's place, and is read back as a name is."""
    word = _check_holder(word, key)
    if word[0] in "*_" or word[-1] in "*_":
        raise errors.Invalid(f"{key}: {word!r} begins or ends with markup; leave out * and _ there")
    return word


def check_reason(reason: str, key: str = "reason") -> str:
    """Return ``reason`` likewise, if the holder's line can carry it now, and an entry later."""
    return check_summary(_check_holder(reason, key), key)


def check_summary(summary: str, key: str = "summary") -> str:
    """Return ``summary`` likewise, if a History entry can carry it."""
    return _check_line(summary, key, "|", longest=500)


def check_note(note: str, key: str) -> str:
    """Return ``note`` likewise, a part of an entry after its summary; long, for it may name every server there is."""
    return _check_line(note, key, "|", longest=100_000)


def check_heading(heading: str, key: str) -> str:
    """Return ``heading`` likewise, if it would be found again below its marks."""
    found = all(has_section(f"{mark} {heading}", heading) for _, mark in _HEADINGS.values())
    if not found or _HEADING.fullmatch(heading) or not _plain(heading):
        raise errors.Invalid(f"{key}: give the words alone, without the marks of a heading")
    return heading


def check_entry(template: str, key: str) -> str:
    """Return the ``template`` of an entry likewise, if each entry can be rendered with it, and found again."""
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as exc:
        raise errors.Invalid(f"{key}: {exc}") from None
    fields = {str(field) for _, field, _, _ in parts}
    if wrong := sorted(fields - set(ENTRY_FIELDS)):
        raise errors.Invalid(f"{key}: unknown field {{{wrong[0]}}}; known are: {', '.join(ENTRY_FIELDS)}")
    if formatted := next((field for _, field, spec, conversion in parts if spec or conversion), None):
        # Each field stands as it is: with a format, a release could fail, or not find its entry again.
        raise errors.Invalid(f"{key}: {formatted} takes no format; write {{{formatted}}}")
    if not template.startswith(("* ", "- ", "|")):
        raise errors.Invalid(f"{key}: must be a list item ('* …', '- …') or a table row ('| … |')")
    if "ref" not in fields:
        # By its ref, a second try of a release finds the entry that the first one wrote.
        raise errors.Invalid(f"{key}: must have {{ref}} in it")
    return template


def initial(markup: str = "textile", rules: Rules = DEFAULT) -> str:
    """
    Return the text of a new page; ``markup`` is ``textile`` or ``markdown``.

    :raises errors.Invalid: ``markup`` is something else.
    """
    if markup not in _HEADINGS:
        raise errors.Invalid(f"markup: must be {' or '.join(_HEADINGS)}")
    title, section = _HEADINGS[markup]
    nobody, heading = rules.nobody, rules.heading
    return (
        f"{title} Deploy token\n\nHeld by: {nobody}\n\n"
        "Whoever is named here is the only person who may change the servers. To take the token by hand, edit this"
        f" page and put your name in place of {nobody}. When you have finished, put {nobody} in place of your name"
        f" again, and add a line to the {heading}.\n\n{section} {heading}\n"
    )


def _check_holder(value: str, key: str) -> str:
    value = _check_line(value, key, _BRACKETS, longest=200)
    # At its end as well: an entry may go on with a colon after the name.
    if _HELD_BY.search(markup.visible(f"{value}:")):
        raise errors.Invalid(f"{key}: must not end with 'Held by', which marks the holder's line")
    if _MARK.search(value):
        raise errors.Invalid(
            f"{key}: must not hold '; since', '; expected until', '; job' or '; ref', our marks on the line"
        )
    return value


def _check_line(value: str, key: str, forbidden: str, longest: int) -> str:
    value = value.strip()
    if not value or len(value) > longest:
        raise errors.Invalid(f"{key}: needs between 1 and {longest} characters")
    # str.isprintable is false for control characters, line separators, and every space but U+0020.
    if bad := next((char for char in value if not char.isprintable() or char in forbidden), None):
        what = f"{bad!r} " if bad.isprintable() else f"the control character {bad!r} "
        raise errors.Invalid(f"{key}: {what}cannot stand on the page's line; leave it out")
    if _HELD_BY.search(markup.visible(value)):
        raise errors.Invalid(f"{key}: must not hold 'Held by:', which marks the holder's line")
    if _TAKEN_OVER.search(value):
        raise errors.Invalid(f"{key}: must not hold {TAKEN_OVER!r}, which marks a hold that somebody else ended")
    return value


def _find(text: str, rules: Rules) -> _Holder:
    lines = _lines(text)
    found = _holder_lines(lines, rules)
    if len(found) != 1:
        count = f"{len(found)} lines" if found else "no line"
        where = f" (lines {', '.join(str(number + 1) for number in found)})" if found else ""
        raise errors.StoreError(
            f"the page has {count} 'Held by: …'{where}, so nobody can tell who holds the token;"
            " edit the page so that it has exactly one"
        )
    (number,) = found
    content = _content(lines[number])
    example = markup.inside([*lines[:number], content])[number]
    if example is None and _EXAMPLE_INDENT.match(content):
        example = "an indented block"
    if example:
        raise errors.StoreError(
            f"the page's 'Held by:' stands in an example (line {number + 1}, in {example}); edit the page so that it"
            " stands on a line of its own"
        )
    match = _HOLDER.fullmatch(content)
    if not match:
        raise errors.StoreError(
            f"the page's 'Held by:' stands in other markup or words, or in a list, a table or a quotation (line"
            f" {number + 1}); edit the page so that it stands on a line of its own, with at most * or _ around it"
        )
    holder = _holder(match, sum(map(len, lines[:number])))
    if not holder.value:
        raise errors.StoreError("the page's 'Held by:' is empty; edit the page and say who holds the token, or nobody")
    if len(holder.value) > _LONGEST:
        raise errors.StoreError(f"the page's 'Held by:' has more than {_LONGEST} characters; edit the page")
    return holder


def _holder_lines(lines: list[str], rules: Rules) -> list[int]:
    """
    Return the numbers, from 0, of the lines that a reader may take for the holder's.

    They begin with the words, whatever markup there is, or have them in the middle, where they begin a cell, a bracket
    or a sentence, or name somebody. ``put your name behind Held by: on top`` has them behind a word, and no name: it
    only mentions the line. An entry under the heading says what was, unless it begins with them.
    """
    found = []
    section = None
    for number, line in enumerate(lines):
        content = _content(line)
        if content.rstrip(_MARKS)[-1:] in ("d", "y"):
            # Words that go on: within a list, for example, Redmine shows two lines as one.
            content += next((f" {_content(below)}" for below in lines[number + 1 : number + 3] if below.strip()), "")
        if not _may_mention(content):
            continue
        shown = markup.visible(content)
        begin = re.search(r"[^\W_]", shown)
        for mention in _HELD_BY.finditer(shown):
            if mention.start() >= len(_content(line)):
                break
            if begin and mention.start() > begin.start():
                if _is_quoted(shown, mention, rules.nobody):
                    continue
                section = section or _section(_outside(lines), rules.heading) or (0, 0)
                if section[0] <= number < section[1] and _ITEM.match(line):
                    continue
            found.append(number)
            break
    return found


def _may_mention(line: str) -> bool:
    """Return whether the letters stand on the line, in their order: most of a long History can be passed over."""
    if "&" in line:
        return True
    line = (line if line.isascii() else unicodedata.normalize("NFKC", line)).lower()
    at = 0
    for letter in "heldby:":
        at = line.find(letter, at) + 1
        if not at:
            return False
    return True


def _is_quoted(shown: str, mention: re.Match[str], nobody: str) -> bool:
    """Return whether a sentence mentions the holder's line, and says of nobody that he holds the token."""
    start, end = mention.span()
    # With a small letter it is a sentence about the token: "is held by: bob".
    if shown[start] != "H" or not _WORD_BEFORE.search(shown, max(0, start - 100), start):
        return False
    behind = shown[end : end + 100].lstrip(f"*_ \t{markup.EMPHASIS}")
    return not behind[:1].isupper() or behind.casefold().startswith(nobody.casefold())


def _bare(value: str) -> str:
    """Return ``value`` without a final stop, as the word for nobody is compared."""
    return re.sub(r"[\s.]+\Z", "", value[-_LONGEST:]).casefold()


def _says(value: str, nobody: str, whole: bool) -> bool:
    """Return whether people read ``value`` as ``nobody``: as a ``whole``, or at its beginning or end."""
    shown, word = (_UNSEEN.sub("", part) for part in (markup.visible(value), nobody))
    word = re.escape(word)
    if whole:
        return re.fullmatch(rf"[\W_]*{word}[\W_]*", shown, re.I) is not None
    return re.search(rf"\A[\W_]*{word}(?!\w)|(?<!\w){word}[\W_]*\Z", shown, re.I) is not None


def _refs(value: str) -> list[str]:
    """Return the different refs on the holder's line: one is right. A reason may mention one that is over."""
    mark = _REF.search(value)
    found = {mark["ref"].lower(), *map(str.lower, _REF_BEHIND.findall(value, mark.end()))} if mark else set()
    return sorted(found)


def _parse(value: str) -> Hold:
    """Return the hold on the holder's line; parts that are not there, or cannot be read, are None."""
    ref = _REF.search(value)
    if not ref:
        return Hold(name=printable(value))
    said = printable(value[: ref.start()])
    name, _, rest = said.partition("(" if "(" in said else ";")
    if not re.search(r";\s*since\b", rest, re.I) and _MARK.match(f";{rest}"):
        rest = f";{rest}"  # without a reason, the first mark stands at the beginning
    reason, *marked = _MARK.split(rest)
    parts = {
        mark.split()[-1].lower(): words.split(";")[0].strip()
        for mark, words in zip(marked[::2], marked[1::2], strict=True)
    }
    job = parts.get("job")
    return Hold(
        name=name.strip() or "?",
        reason=reason.strip() or None,
        since=parts.get("since") or None,
        ref=ref["ref"].lower(),
        until=parts.get("until") or None,
        # A job that cannot be read is one of which nobody can tell whether it runs.
        job=job and (job if re.fullmatch(values.JOB, job) else "?"),
    )


def _holder(match: re.Match[str], start: int) -> _Holder:
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


def _lines(text: str) -> list[str]:
    """Return the lines with their endings; joined again they are ``text``."""
    return [line for line in _LINE.findall(text) if line]


def _content(line: str) -> str:
    """Return a line without its ending."""
    return line.rstrip("\r\n")


def _line_ending(text: str) -> str:
    """Return the line ending that the page uses most."""
    crlf = text.count("\r\n")
    counts = {"\n": text.count("\n") - crlf, "\r\n": crlf, "\r": text.count("\r") - crlf}
    return max(counts, key=lambda ending: counts[ending])


def _outside(lines: Sequence[str]) -> list[str]:
    """Return the lines without their endings, and :data:`_EXAMPLE` for each one that stands in an example."""
    inside = markup.inside(lines)
    return [_EXAMPLE if region else _content(line) for line, region in zip(lines, inside, strict=False)]


def _safe(lines: list[str], at: int) -> int:
    """Return the nearest place up to ``at`` that is not in an example: somebody may have left one open."""
    inside = markup.inside(lines[:at])
    while inside[at]:
        at -= 1
    return at


def _headings(lines: list[str]) -> Iterator[tuple[int, int, int, str]]:
    """Yield (line of the heading, first line below it, level, title): Textile's, Markdown's, and underlined ones."""
    for number, line in enumerate(lines):
        if match := _HEADING.fullmatch(line):
            title = match["title"].rstrip(" \t#")
            yield number, number + 1, int(match["textile"] or len(match["markdown"])), title
        elif number and _UNDERLINE.fullmatch(line):
            title = lines[number - 1].strip()
            if title and title[0] not in f"|*-#>{_EXAMPLE}":
                yield number - 1, number + 1, 1 if line.startswith("=") else 2, title


def _section(lines: list[str], heading: str) -> tuple[int, int] | None:
    """Return the first line below ``heading`` and the line after its section; None without such a heading."""
    found = None
    for number, below, level, title in _headings(lines):
        if found and level <= found[1]:
            return found[0], number
        if not found and _plain(title) == _plain(heading):
            found = below, level
    return (found[0], len(lines)) if found else None


def _plain(title: str) -> str:
    return title.strip("*_ :").casefold()


def _new_heading(lines: list[str], heading: str) -> str:
    markdown = any(lines[number].startswith("#") for number, *_ in _headings(lines))
    return f"{_HEADINGS['markdown' if markdown else 'textile'][1]} {heading}"


def _footer(lines: list[str], first: int, end: int) -> int:
    """Return where a footer begins in the section: at a rule or an included page. Without one, at its end."""
    ends = (number for number in range(first, end) if markup.is_rule(lines[number]) or markup.is_macro(lines[number]))
    return next(ends, end)


def _page_footer(lines: list[str], outside: list[str], rules: Rules) -> int:
    """Return where the page's footer begins: at the last rule below all headings and the holder, or a last macro."""
    end = _past_text(outside, 0, len(lines))
    above = [*(below - 1 for _, below, *_ in _headings(outside)), *_holder_lines(lines, rules), -1]
    rows = [number for number in range(max(above) + 1, end) if markup.is_rule(outside[number])]
    if rows:
        return rows[-1]
    return end - 1 if end and markup.is_macro(outside[end - 1]) else len(lines)


def _entries_block(lines: list[str], first: int, end: int, rules: Rules, mark: str) -> range | None:
    """
    Return the lines of the list, or the table, that has the entries.

    It is the one in which an entry of ours stands already. Else it is the first above the section's footer; where the
    newest is last, it is the last one that only headings part from the first, such as a month's.
    """
    blocks = list(_blocks(lines, first, end, mark))
    if ours := [block for block in blocks if any(_ref_of(lines[number].strip(), rules) for number in block)]:
        return ours[-1 if rules.newest == "last" else 0]
    footer = _footer(lines, first, end)
    blocks = [block for block in blocks if block.start < footer]
    headings = {number for above, below, *_ in _headings(lines) for number in range(above, below)}
    found = None
    for block in blocks:
        between = range(found.stop, block.start) if found else ()
        if found and (rules.newest == "first" or any(lines[at].strip() and at not in headings for at in between)):
            break
        found = block
    return found


def _blocks(lines: list[str], first: int, end: int, mark: str) -> Iterator[range]:
    """Yield the lines of each list, or table, whose items begin with ``mark``, with what goes on behind the items."""
    headings = {number for above, below, *_ in _headings(lines) for number in range(above, below)}
    start, past = None, first
    for number in range(first, end):
        line = lines[number]
        entry = _is_entry(line, mark)
        if not line.strip():
            continue
        gap = number > past
        broken = number in headings or markup.is_rule(line) or line.lstrip().startswith(("{{", "}}"))
        # After a blank line, another item or an indented paragraph still belongs to a list; to a table, nothing does.
        goes_on = not gap or (mark != "|" and (entry or line.startswith(("  ", "\t"))))
        if start is not None and (broken or not goes_on):
            yield range(start, past)
            start = None
        if start is not None or (entry and not broken):
            start, past = number if start is None else start, number + 1
    if start is not None:
        yield range(start, past)


def _is_entry(line: str, mark: str) -> bool:
    line = line.lstrip()
    return line.startswith("|") if mark.startswith("|") else entry_mark(line) == mark and not markup.is_rule(line)


def _header_rows(rows: list[str]) -> int:
    """Return how many of a table's first rows are its header: Textile's ``|_.``, or Markdown's row above ``|---|``."""
    if len(rows) > 1 and _TABLE_RULE.fullmatch(rows[1].strip()):
        return 2
    return 1 if rows and rows[0].lstrip().startswith("|_.") else 0


def _past_text(lines: list[str], first: int, end: int) -> int:
    """Return the line after the section's last line of text."""
    while end > first and not lines[end - 1].strip():
        end -= 1
    return end


def _insert(lines: list[str], at: int, new: list[str]) -> str:
    before, after = "".join(lines[:at]), "".join(lines[at:])
    ending = _line_ending(before + after)
    if before and not before.endswith(("\r", "\n")):
        # The page ends without a line ending, and goes on doing so.
        return before + ending + ending.join(new)
    if new[0] == "" and after and _content(lines[at]).strip():
        new = [*new, ""]  # the next heading follows at once, and must not become part of the list
    return before + "".join(line + ending for line in new) + after


def _append(text: str, new: list[str]) -> str:
    ending = _line_ending(text)
    text += "" if text.endswith(("\r", "\n")) else ending
    return text + ending + ending.join(new) + ending
