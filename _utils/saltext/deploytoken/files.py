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
from typing import Any

#: Seconds between two tries to get a lock.
_PAUSE = 0.05


def place(cachedir: str | Path) -> Path:
    """Return this extension's folder below ``cachedir``, where it is only looked at: it may be missing."""
    return Path(cachedir) / "deploytoken"


def folder(cachedir: str | Path) -> Path:
    """
    Return this extension's folder below ``cachedir``. Makes it if it is missing, for its owner alone.

    :raises OSError: when it cannot be made.
    """
    path = place(cachedir)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """
    Keep every other process that asks for this lock out while the block runs.

    ``path``
        The file that is the lock, made if it is missing. It stays, and holds nothing. A file that is replaced cannot
        be its own lock: the next process would lock the new one.
    ``patience``
        How many seconds to wait for the lock.

    :raises TimeoutError: when another process still holds the lock then.
    """
    deadline = time.monotonic() + patience
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed, or the process ends
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} is still locked after {patience:g} seconds") from None
                time.sleep(_PAUSE)
        yield


def is_locked(path: Path) -> bool:
    """
    Return whether a process has this lock now. It must not be asked of a file that is about to be locked at once.

    :raises OSError: when the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # of a process's own locks it tells as well
        except BlockingIOError:
            return True
    return False


def read_json(path: Path) -> dict[str, Any]:
    """Return the dictionary in a file. It is empty if the file is missing, unreadable, damaged or no dictionary."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """
    Write a dictionary to a file in one step. Readers see the old content or the new, never a part of it.

    The file is for its owner alone.

    :raises OSError: when it cannot be written, as on a full disk. The old file then stays, and nothing is left behind.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as new:
            json.dump(value, new)
            new.flush()
            os.fsync(handle)  # or a power cut can leave the new name on an empty file
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
