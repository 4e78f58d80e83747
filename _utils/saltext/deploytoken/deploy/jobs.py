"""
Which job a hold was taken for, and whether it still runs.

The page names the job. Only its own master knows whether it runs: Salt keeps a file with the process of a runner while
it runs, but its maintenance, which comes every minute, removes the file of one that was killed (3008.3). So this keeps
a note of its own, of the last hold that was taken for a job here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import salt.payload
import salt.utils.jid

from saltext.deploytoken import errors, files, people

log = logging.getLogger(__name__)


def orchestration(cachedir: str) -> str | None:
    """
    Return the ID of the orchestration that this process carries out, or None.

    Salt gives its steps another one (3008.3, runners/state.py), so this looks into the files it keeps while they run.
    """
    found = []
    for path in (Path(cachedir) / "proc").glob("[0-9]*"):
        job = _file_of_salt(path)
        if job.get("pid") == os.getpid() and str(job.get("fun")).startswith("runner.state.orch"):
            found.append(path.name)
    return found[0] if len(found) == 1 else None


def note(cachedir: str, ref: str, jid: str) -> None:
    """Note which process carries out the job that holds the token under ``ref``, if it is a job of this master."""
    process = _process(_file_of_salt(Path(cachedir) / "proc" / str(jid)).get("pid"))
    if process is None:
        return
    try:
        files.replace_json(_path(cachedir), {"ref": ref, "jid": str(jid), "process": process})
    except OSError:  # only `status` knows less without it
        log.warning("The job %s cannot be noted", jid, exc_info=True)


def name(opts: Mapping[str, Any], jid: str) -> str:
    """Return the job as the holder's line names it: ``JID@MASTER``."""
    return f"{jid}@{_master(opts)}"


def runs(opts: Mapping[str, Any], job: str) -> bool | None:
    """Return whether the ``job`` on the holder's line still runs; None where this master cannot tell."""
    jid, _, master = job.partition("@")
    if master != _master(opts):
        return None
    noted = _noted(opts["cachedir"])
    if noted.get("jid") != jid:
        return _runs(opts, jid)
    # Without /proc, as on a Mac, no process can be told from another.
    running = _process(noted["process"].get("pid")) == noted["process"] if _process(os.getpid()) else None
    # The process of a reactor goes on after its jobs.
    there = (Path(opts["cachedir"]) / "proc" / jid).exists()
    return running and there


def _master(opts: Mapping[str, Any]) -> str:
    return re.sub(r"[^\w.-]", "-", people.master(opts))


@contextlib.contextmanager
def alone(cachedir: str, ref: str) -> Iterator[None]:
    """
    Be the only deploy at work under the hold ``ref`` on this master while the block runs.

    The first of two to end would release the token over the other. A lock ends with its process, and of several
    threads of one, as in the reactor, each has its own.

    :raises errors.Held: another one is at work.
    """
    path = _lock(cachedir, ref)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(path, 0))
        except TimeoutError:
            raise errors.Held(
                f"another deploy still runs under the hold {ref}: wait until it has ended (`salt-run"
                " deploytoken.status` shows its job)"
            ) from None
        yield


def forget(cachedir: str, ref: str) -> None:
    """Remove what :func:`alone` leaves of a hold; it must be over."""
    with contextlib.suppress(OSError):
        _lock(cachedir, ref).unlink()


def _runs(opts: Mapping[str, Any], jid: str) -> bool | None:
    """
    Whether a job without a note runs; None where this cannot be told.

    While a runner runs, Salt keeps a file with its process ID; afterwards, what it returned. A job of another master
    has neither here.
    """
    path = Path(opts["cachedir"]) / "proc" / jid
    if path.exists():
        pid = _file_of_salt(path).get("pid")
        if pid is None or _process(os.getpid()) is None:
            return None
        return _process(pid) is not None and _is_salts(pid)
    returned = salt.utils.jid.jid_dir(jid, str(Path(opts["cachedir"]) / "jobs"), opts["hash_type"])
    return False if os.path.isdir(returned) else None


def _is_salts(pid: int) -> bool:
    # As Salt itself looks: process IDs are used again.
    try:
        return b"salt" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _process(pid: int | None) -> dict[str, Any] | None:
    """What tells a living process from every other that has, or had, or will have its ID; None if there is none."""
    try:
        # After the name, which may hold anything: the state, and as the 20th the time of its start, in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # A zombie has ended.
    return None if fields[0] in "ZX" else {"pid": pid, "start": fields[19], "boot": boot}


def _file_of_salt(path: Path) -> dict[str, Any]:
    """Salt's file about a job that runs; empty where there is none."""
    try:
        found = salt.payload.loads(path.read_bytes())
    except Exception:
        # Other jobs end meanwhile.
        log.debug("The file %s cannot be read", path, exc_info=True)
        return {}
    return found if isinstance(found, dict) else {}


def _noted(cachedir: str) -> dict[str, Any]:
    found = files.read_json(_path(cachedir))
    whole = isinstance(found.get("jid"), str) and isinstance(found.get("process"), dict)
    return found if whole else {}


def _lock(cachedir: str, ref: str) -> Path:
    return files.folder(cachedir) / f"{ref}.lock"


def _path(cachedir: str) -> Path:
    return files.folder(cachedir) / "job.json"
