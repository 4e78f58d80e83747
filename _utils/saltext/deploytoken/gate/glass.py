"""
The record of broken glass: runs that passed a closed gate in an emergency, until the History has them.

.. versionadded:: 0.1.0

The gate reports each run through the external pillar, so the record needs neither a reactor nor a listener on the
event bus. Each run is a file of its own under ``cachedir``, named by what it holds. So two processes need no lock, a
run that is reported twice is one, and a full disk or a damaged file takes no other run with it.

A release goes on where the record cannot be used. The next release reports what the record holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.deploytoken import files, page, text

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, order=True)
class Run:
    """One run that broke the glass: when (UTC, to the minute), on which minion, who, why, and the function."""

    when: str
    minion: str
    by: str
    why: str
    fun: str

    @property
    def file(self) -> str:
        """The name of its file."""
        content = json.dumps(dataclasses.astuple(self))
        return f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def record(cachedir: str | Path, minion_id: str, break_glass: Mapping[str, Any], fun: str | None = None) -> None:
    """
    Put one run on record. Each word from the minion becomes one short line of text.

    ``break_glass``
        ``by`` and ``why``.

    :raises OSError: when it cannot be written.
    """
    run = Run(
        when=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        minion=minion_id,
        by=_line(break_glass.get("by")),
        why=_line(break_glass.get("why")),
        fun=_line(fun),
    )
    files.replace_json(_folder(cachedir) / run.file, dataclasses.asdict(run))


def pending(cachedir: str | Path) -> list[Run]:
    """Return the runs on record that are not yet in the History, the oldest first."""
    try:
        paths = list(_folder(cachedir).glob("*.json"))
    except OSError as exc:
        log.warning("Cannot tell whether somebody broke the glass of a gate: %s", exc)
        return []
    return sorted(run for path in paths if (run := _read(path)))


def forget(cachedir: str | Path, runs: Iterable[Run]) -> None:
    """Take runs off the record, once the History has them."""
    try:
        for run in runs:
            (_folder(cachedir) / run.file).unlink(missing_ok=True)
    except OSError as exc:
        log.warning("The next release will say again who broke the glass of a gate: %s", exc)


def notes(runs: Iterable[Run]) -> list[str]:
    """Return one note for the History per person and reason."""
    minions: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        minions.setdefault((run.by, run.why), set()).add(run.minion)
    found = [f"{by} broke the glass on {', '.join(sorted(names))}: {why}" for (by, why), names in minions.items()]
    return [text.shortened(page.tame(note), 2 * text.LENGTH) for note in found]


def _folder(cachedir: str | Path) -> Path:
    path = files.folder(cachedir) / "broken-glass"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _read(path: Path) -> Run | None:
    found = files.read_json(path)
    if found.keys() == Run.__dataclass_fields__.keys() and all(isinstance(value, str) for value in found.values()):
        return Run(**found)
    log.warning("%s is damaged: it does not say who broke the glass of a gate", path)
    return None


def _line(value: Any) -> str:
    return text.shortened(" ".join(text.printable(str(value or "")).split()))
