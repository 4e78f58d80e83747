"""
The markup of a wiki page, as far as it decides what a reader sees.

A page does not say whether it is written in Textile or in Markdown, so both are recognised everywhere. This is no
parser. Where the two differ, a line counts as an example (:func:`inside`), and words count as visible
(:func:`visible`): neither can make a held token look free.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

#: Stands for each character that readers do not see; the second, for those of emphasis in HTML.
GONE, EMPHASIS = "\0", "\1"

_EMPHASIS = "a|abbr|b|big|cite|code|del|em|font|i|ins|kbd|mark|q|s|samp|small|span|strong|sub|sup|tt|u|var"
# Each part ends at a character that it cannot contain, so that the time grows with the line's length. What looks like
# a tag is shown by Textile as it is typed, so that the words must not be lost in one.
_HIDDEN = re.compile(
    rf"""
    (?P<entity>&(?:\#\d{{1,7}}|\#x[0-9a-f]{{1,6}}|[a-z][a-z0-9]{{1,30}});)
    | (?P<emphasis></?(?:{_EMPHASIS})\b(?:(?!held)[^<>])*>)
    | <!--(?:(?!held).){{0,300}}?-->
    | <(?![\s!]|/?held)(?:(?!held)[^<>])+> | <!--
    | \{{\{{>?\w+(?=\(|\}}\}}|\s*$)                      # the name of a macro; its words may be shown
    | \{{(?!by\b)[a-z-]+\s*:[^{{}}]*\}}                 # {{color:red}}
    | ![^\s(!<]+(?:\s?\([^():]*\))?! | !:[^\s<]+       # an image, and what it leads to
    | (?<=":)(?:[a-z]{{2,12}}://|/|\#|www\.|mailto:)[^\s<]+  # a link's address, in Textile
    | (?<=\])\([^()\s]*\)                                # and in Markdown
    | \[\[(?!held)[^\[\]|]*\|(?=[^\[\]]*\]\])           # what a link between pages leads to
    | (?<![a-z])[a-z]{{2,12}}://[^\s"'<>|)\]]+
    | \[(?:\d+|\^\w+)\]                                 # a footnote
    """,
    re.I | re.X | re.A,
)
# Each of these has one of them: most lines have none.
_HIDING = re.compile(r"[&<{!\[]|:/|\":")
# `h2. `, `p(class). `, `|_. `, `{color:red}. `, `1. `: what stands before a dot, if it is no word.
_SIGNATURE = re.compile(
    r"[\s>]*\|?\w{0,4}(?:\([^():]*\)|\{(?!by\b)[a-z-]+\s*:[^{}]*\}|\[[a-z_-]+\]|[<>=~^()]|[\\/]\d+){0,8}\.(?::\S*)?\s",
    re.I,
)

_RULE = re.compile(r"\s*(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,}|<hr\b[^<>]*>\s*)", re.I)
_FENCE = re.compile(r"[\s>]*(?:[-*+]\s+|\d+[.)]\s+)?(?P<fence>`{3,}|~{3,})(?P<words>.*)", re.DOTALL)
# In Markdown, `<pre>` between backticks is only shown.
_OPENING = re.compile(r"`[^`]*`|(?P<comment><!--)|<(?P<tag>pre|code|kbd|notextile)\b[^<>]*>", re.I)


def visible(line: str) -> str:
    """
    Return ``line``, of the same length, with :data:`GONE` or :data:`EMPHASIS` for what readers do not see.

    Entities are the characters that they mean, and wide letters are plain. What is only punctuation stays.
    """
    if signature := _SIGNATURE.match(line):
        line = GONE * signature.end() + line[signature.end() :]
    if _HIDING.search(line):
        line = _HIDDEN.sub(_hide, line)
    return line if unicodedata.is_normalized("NFKC", line) else "".join(map(_plain, line))


def _hide(match: re.Match[str]) -> str:
    length = len(match[0])
    if match["emphasis"]:
        return EMPHASIS * length
    if match["entity"]:
        meant = html.unescape(match[0])
        return match[0] if meant == match[0] else meant[0] + GONE * (length - 1)
    return GONE * length


def _plain(char: str) -> str:
    plain = unicodedata.normalize("NFKC", char)
    return plain if len(plain) == 1 else char


def inside(lines: Sequence[str]) -> list[str | None]:
    """
    Return what each line stands in, such as ``<pre>``, or None; and at the end, what one more line would stand in.

    It is what is open as the line begins: what opens on it holds from the next line on. What nobody closes goes on to
    the page's end, as it does in Redmine (5.0.4).
    """
    found: list[str | None] = []
    region: _Region | None = None
    for line in lines:
        found.append(region.name if region else None)
        region = (not region and _fence(line)) or _after(line, region)
    return [*found, region.name if region else None]


class _Region:
    """What is open: its name, what ends it, and how often it was opened."""

    def __init__(self, name: str, marks: str, whole: bool = False) -> None:
        self.name = name
        self.marks = re.compile(marks, re.I)
        self.whole = whole
        self.depth = 1

    def end(self, line: str, start: int) -> int | None:
        """Return where in ``line`` it ends, or None."""
        if self.whole:
            return len(line) if self.marks.fullmatch(line.rstrip("\r\n")) else None
        for mark in self.marks.finditer(line, start):
            # An opening tag inside is one more that must be closed.
            self.depth += 1 if mark.lastgroup == "opening" else -1
            if not self.depth:
                return mark.end()
        return None


def _fence(line: str) -> _Region | None:
    match = _FENCE.match(line)
    if not match or (match["fence"][0] == "`" and "`" in match["words"]):
        return None
    fence = match["fence"]
    return _Region("a code fence", rf"[\s>]*{fence[0]}{{{len(fence)},}}\s*", whole=True)


def _after(line: str, region: _Region | None) -> _Region | None:
    if not region and "<" not in line:
        return None
    at = 0
    while True:
        if region:
            end = region.end(line, at)
            if end is None:
                return region
            region, at = None, end
        match = _OPENING.search(line, at)
        while match and not (match["comment"] or match["tag"]):
            match = _OPENING.search(line, match.end())
        if not match:
            return None
        at = match.end()
        if match["comment"]:
            region = _Region("a comment", "-->")
        else:
            tag = match["tag"].lower()
            region = _Region(f"<{tag}>", rf"(?P<opening><{tag}\b[^<>]*>)|</{tag}\b[^<>]*>")


def is_rule(line: str) -> bool:
    """Return whether ``line`` is drawn across the page, such as ``---`` or ``* * *``."""
    return _RULE.fullmatch(line) is not None


def is_macro(line: str) -> bool:
    """Return whether ``line`` is one macro, such as ``{{include(Footer)}}``, and nothing else."""
    line = line.strip()
    return line.startswith("{{") and line.endswith("}}")
