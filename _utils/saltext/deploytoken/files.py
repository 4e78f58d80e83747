"""
Small files under the master's cache directory: a lock, and JSON that is replaced in one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

#: Seconds between two tries to get a lock.
_PAUSE = 0.05


def folder(cachedir: str | Path) -> Path:
    """Return this extension's folder below ``cachedir``, made if it is missing; nobody else may look into it."""
    path = Path(cachedir) / "deploytoken"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[IO[str]]:
    """
    Hold the lock of a file while the block runs; yield the file, open for reading and appending.

    :raises TimeoutError: somebody else has held it for ``patience`` seconds. With None, waits for as long as it takes.
    """
    deadline = None if patience is None else time.monotonic() + patience
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        while deadline is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} is locked") from None
                time.sleep(_PAUSE)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def read_json(path: Path) -> dict[str, Any]:
    """Return the dictionary in a file; an empty one if the file is missing, damaged or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """
    Write a dictionary to a file in one step: others see the old one or the new one, and never a half.

    :raises OSError: a full disk, say; the old file stands then, and no other is left behind.
    """
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as new:
            json.dump(value, new)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
