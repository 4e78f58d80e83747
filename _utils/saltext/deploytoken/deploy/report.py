"""
The end of a deploy, as a page to read and to paste.

Text of 80 columns: how each step and each machine ended, what blocked, who agreed, what rebooted, the entry in the
History, and the commands that go on. Commands are not wrapped, for they are to be pasted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from saltext.deploytoken import errors, text
from saltext.deploytoken.deploy import ending
from saltext.deploytoken.deploy.record import Record
from saltext.deploytoken.machines.states import Summary

# Salt shows comments 14 columns from the left.
WIDTH = 80 - 14
#: Lines of a row that is not the cause of a failure.
LINES = 3

#: What Salt returned for one state.
Row = Mapping[str, Any]


def page(running: Mapping[str, Row], record: Record) -> str:
    """
    Return the page about a deploy.

    ``running`` has Salt's returns of all states so far; only what Salt itself puts there is read of them. The rest
    comes from the record.
    """
    rows = sorted(running.values(), key=lambda row: row.get("__run_num__", 0))
    cause = _cause(rows)
    head = [_headline(rows, record), *_not_shown(record), *_about(record)]
    steps = [(str(row.get("__id__")), *_step(row)) for row in rows]
    parts = [
        head,
        _table(steps, whole=cause.get("__id__") if cause else None),
        _table(_minions(record)),
        _notes(record),
        _ways_on(cause, record),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _cause(rows: Sequence[Row]) -> Row | None:
    """The first step that failed, or None: those after it may have failed because of it."""
    return next((row for row in rows if row.get("result") is False and _ran(row)), None)


def _ran(row: Row) -> bool:
    """Whether a step ran. Of one that did not, 3006.29 has the comment alone, and 3008.3 says so."""
    return row.get("__state_ran__", True) is True and not str(row.get("comment")).startswith("One or more requisite")


def _headline(rows: Sequence[Row], record: Record) -> str:
    failed = any(row.get("result") is False for row in rows)
    if record.test:
        return "TEST: nothing was changed" + (", and a deploy would be stopped" if failed else "")
    if record.applied is None or not record.applied.begun:
        return "NOTHING DEPLOYED"
    return "FAILED" if failed else "DEPLOYED"


def _not_shown(record: Record) -> list[str]:
    """What a test cannot show: states run from what is served, and to serve anything else would be to deploy it."""
    new = ", ".join(f"{name} {text.short(change['new'])}" for name, change in record.plan.items())
    if record.remotes:
        new = " and ".join(filter(None, [new, "news of the master's own git remotes"]))
    if not (record.test and new):
        return []
    return _wrapped(f"NOT SHOWN: what {new} would change. The states ran from the commits that are served now.")


def _about(record: Record) -> list[str]:
    """The target, and the reason with the ref, if that means anything."""
    target = record.asked.get("target")
    lines = _wrapped(", ".join(map(str, target)) if isinstance(target, list) else target) if target else []
    held = "held" in record.steps and record.steps["held"].result is True and not record.test
    ref = f" (ref {record.ref})" if held or record.resumed else ""
    lines += _wrapped(f"{record.asked.get('reason', 'no reason')}{ref}")
    job = f", job {record.jid}" if record.jid else ""
    return [*lines, *_wrapped(f"started by {record.caller}{job}")] if record.caller else lines


def _step(row: Row) -> tuple[str, str, str]:
    """A step's end in a word, its time, and its comment in short."""
    if not _ran(row):
        return "not run", "", ""
    word = {True: "ok", None: "test"}.get(row.get("result"), "FAILED")
    comment = text.first_line(row.get("comment"), limit=10_000)
    return word, _time((row.get("duration") or 0) / 1000), comment


def _minions(record: Record) -> list[tuple[str, str, str, str]]:
    """Each machine that was begun, and those that were not."""
    if record.applied is None:
        return []
    applied = record.applied
    rows = [(minion, *_minion(applied.minions[minion], record.test)) for minion in sorted(applied.minions)]
    return rows + [(minion, "not started", "", "") for minion in applied.not_started if applied.begun]


def _minion(summary: Summary, test: bool) -> tuple[str, str, str]:
    """How a machine ended, its time, and what changed or failed there."""
    seconds = _time(summary.seconds)
    if not summary.result:
        word = "silent" if summary.silent else "at work" if summary.at_work else "FAILED"
        job = f" (salt-run jobs.lookup_jid {summary.jid})" if summary.jid else ""
        return word, seconds, "; ".join(map(str, summary.failed)) + job
    if summary.answer or not summary.changed:
        return "ok", seconds, summary.answer or "no changes"
    words = "would change" if test else "changed"
    return "ok", seconds, f"{len(summary.changed)} {words}: {', '.join(summary.changed)}"


def _notes(record: Record) -> list[str]:
    """What was deployed, when the machines were asked, who agreed to what, what rebooted, and the entry."""
    commits = ", ".join(f"{name} {text.short(commit)}" for name, commit in record.commits.items())
    notes = [
        ("Commits", commits),
        ("From", record.request and record.request.task.saltenv and f"the environment {record.request.task.saltenv}"),
        ("Asked", record.looks and f"whether idle {', '.join(record.looks)}"),
        ("Consent", record.consented()),
        ("Rebooted", ", ".join(record.reboots.rebooted)),
        ("History", record.entry),
    ]
    return [line for label, said in notes if said for line in _wrapped(said, f"{label}: ".ljust(10))]


def _ways_on(cause: Row | None, record: Record) -> list[str]:
    """What to do about the step that failed, and the commands that go on or clean up."""
    # Its comment may have lines to paste: those after the first are shown as they are.
    lines = str((cause or {}).get("comment") or "").strip().splitlines()[1:]
    ways = record.ways
    if cause and not ways and not lines and record.request:
        held = record.steps.get("held")
        over = held is not None and held.reason == errors.NotYours.reason
        ways = [("Then run again", ending.run_again(record, None if over else record.request.ref))]
    for why, command in ways:
        lines += [f"{why}:", f"  {command}"] if f"{why}: {command}" not in lines else []
    return lines


def _table(rows: Sequence[tuple[str, str, str, str]], whole: str | None = None) -> list[str]:
    """Lines of columns. The last one goes on below itself, in at most three lines, but in the row called ``whole``."""
    if not rows:
        return []
    name, word = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = []
    for row in rows:
        head = f"{row[0].ljust(name)}  {row[1].ljust(word)}  {row[2].rjust(7)}  "
        if len(head) > WIDTH // 2:  # a long id has a line of its own
            lines.append(row[0])
            head = f"  {row[1].ljust(word)}  {row[2].rjust(7)}  "
        found = _wrapped(row[3], head)
        if len(found) > LINES and row[0] != whole:
            found = [*found[: LINES - 1], found[LINES - 1][: WIDTH - 2] + " …"]
        lines += found
    return [line.rstrip() for line in lines]


def _wrapped(words: Any, head: str = "") -> list[str]:
    words = " ".join(str(words).split())
    indent = " " * len(head)
    return textwrap.wrap(words, WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False) or [head]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
