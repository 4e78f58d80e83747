"""
Who asks whether machines are busy: nobody is to be in their own way.

A person may ask from a terminal on one of these machines, and would find their own command there, as work. So every
question says which processes ask: the one that carries it out, and all others of this master that only ask or wait. Of
two people who wait until nothing runs, neither is what the other waits for.

Each of these has a file here, which is locked until its process ends, however it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saltext.deploytoken import files

#: Seconds to wait for a lock at which somebody else only looks.
_PATIENCE = 0.5


def process(pid: int | None) -> dict[str, Any] | None:
    """Return what tells a living process from every other that has, had or will have its ID; None if there is none."""
    try:
        # After the name, which may hold anything: the state, and as the 20th the time of its start, in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # A zombie has ended.
    return None if fields[0] in "ZX" else {"pid": pid, "start": fields[19], "boot": boot}


def everybody(cachedir: str | Path) -> list[dict[str, Any]]:
    """
    Return who asks now: this process, and each one that is :func:`noted`.

    An asker has ``boot`` (the boot ID of its machine), ``namespace`` (that of its process IDs), ``pid`` and ``start``
    (in clock ticks). Where processes have no such marks, as on a Mac, the list is empty.
    """
    found = [_asker()]
    with contextlib.suppress(OSError):
        found += [_read(path) for path in files.place(cachedir).glob("*.asking")]
    return [one for number, one in enumerate(found) if one and one not in found[:number]]


@contextlib.contextmanager
def noted(cachedir: str | Path) -> Iterator[None]:
    """Have this process known to this master as one that only asks or waits, while the block runs."""
    with contextlib.ExitStack() as stack:
        # Without a note, for example because of a full disk, others may wait for this one.
        with contextlib.suppress(OSError):
            if asker := _asker():
                path = files.folder(cachedir) / f"{secrets.token_hex(8)}.asking"
                stack.enter_context(files.locked(path, _PATIENCE))
                stack.callback(_remove, path)
                path.write_text(json.dumps(asker), encoding="ascii")
        yield


def _asker() -> dict[str, Any] | None:
    found = process(os.getpid())
    return found and {**found, "namespace": os.readlink("/proc/self/ns/pid")}


def _read(path: Path) -> dict[str, Any]:
    """The asker whose file this is; empty if it has ended, or is just writing it. The file of one that ended goes."""
    found = files.read_json(path)
    with contextlib.suppress(OSError):
        if found and files.is_locked(path):
            return found
        if found:
            _remove(path)
    return {}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
