"""
The record of broken glass: runs that passed a closed gate in an emergency, until the History has them.

.. versionadded:: 0.1.0

The gate reports each one through the external pillar, so that the record needs neither a reactor nor a listener on the
event bus. It is a file of JSON lines under ``cachedir``, and its lock keeps two processes apart.

Where the file cannot be used, a release goes on without it; what stands there waits for the next one.
"""

import datetime
import fcntl
import json
import logging
from pathlib import Path

from saltext.deploytoken import page

log = logging.getLogger(__name__)

#: A record is a line in the History: of so many characters, at most.
LENGTH = 200


def record(cachedir, minion_id, break_glass, fun=None):
    """
    Put one run on record. What a minion sends is kept to one line of text.

    ``break_glass`` (dict)
        ``by`` and ``why``.
    """
    entry = {
        "minion": minion_id,
        "by": _line(break_glass.get("by")),
        "why": _line(break_glass.get("why")),
        "fun": _line(fun),
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    with _open(cachedir) as file:
        if entry not in _entries(file):  # the executor and the gate state report the same run
            # Begun anew: the line before it may have been cut off, and would take it along.
            file.write("\n" + json.dumps(entry) + "\n")


def pending(cachedir):
    """
    Return what is on record and not yet in the History: a list of dictionaries ``minion``, ``by``, ``why``, ``fun``,
    ``when``.
    """
    try:
        with _open(cachedir) as file:
            return _entries(file)
    except OSError as exc:
        log.warning("Whether somebody broke the glass of a gate cannot be told: %s", exc)
        return []


def forget(cachedir, entries):
    """
    Take entries off the record, once the History has them.
    """
    try:
        with _open(cachedir) as file:
            rest = [entry for entry in _entries(file) if entry not in entries]
            file.seek(0)
            file.truncate()
            file.writelines(json.dumps(entry) + "\n" for entry in rest)
    except OSError as exc:
        log.warning("The next release will say once more who broke the glass of a gate: %s", exc)


def notes(entries):
    """
    Return one note for the History per person and reason.
    """
    runs = {}
    for entry in entries:
        runs.setdefault((entry["by"], entry["why"]), set()).add(entry["minion"])
    found = [f"{by} broke the glass on {', '.join(sorted(minions))}: {why}" for (by, why), minions in runs.items()]
    return [note if len(note) <= 2 * LENGTH else note[: 2 * LENGTH - 1] + "…" for note in found]


def _open(cachedir):
    path = Path(cachedir) / "deploytoken" / "broken-glass.jsonl"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8", errors="replace")
    fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
    return file


def _entries(file):
    file.seek(0)
    entries = []
    for line in file:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that was cut off when the disk was full
        if isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("minion", "by", "why")):
            entries.append(entry)
    return entries


def _line(value):
    return page.tame(str(value or ""))[:LENGTH]
