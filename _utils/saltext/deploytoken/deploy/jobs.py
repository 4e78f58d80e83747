"""
Which job is at work under a hold, and whether it still runs.

The page names the job. Only its own master knows whether it runs. For a deploy, and for work by hand under a hold, a
file here says so: its name has the ref and the job, and it is locked until the process ends, however it does. So a job
that was killed is known to be over at once, on every Salt. For a job that only took the token, as a team's own
orchestration may, there is what Salt keeps: a file with the process of a runner while it runs (3008.3; 3006.29 has
none), which its maintenance, every minute, removes of one that was killed. So this keeps a note of its own as well, of
the last hold that was taken for such a job here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import salt.payload
import salt.utils.jid

from saltext.deploytoken import errors, files, people, values
from saltext.deploytoken.machines import asking

log = logging.getLogger(__name__)

#: Seconds to wait for a lock at which somebody else only looks.
_PATIENCE = 0.5


def own(opts: Mapping[str, Any], given: Any = None) -> str:
    """
    Return the ID of the job that this carries out: the orchestration's, else the ``given`` one, else a new one.

    ``given`` is what Salt says to a state or a runner function, if anything.
    """
    found = orchestration(opts["cachedir"]) or str(given or "")
    # With unique_jid, the number of the process follows.
    match = re.match(values.JID, found)
    return match[0] if match else salt.utils.jid.gen_jid(dict(opts))[:20]


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
    process = asking.process(_file_of_salt(Path(cachedir) / "proc" / str(jid)).get("pid"))
    if process is None:
        return
    try:
        files.folder(cachedir)
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
    with contextlib.suppress(OSError):
        if locks := list(files.place(opts["cachedir"]).glob(f"*-{jid}.lock")):
            return any(files.is_locked(path) for path in locks)
    noted = _noted(opts["cachedir"])
    if noted.get("jid") != jid:
        return _runs(opts, jid)
    # Without /proc, as on a Mac, no process can be told from another.
    running = asking.process(noted["process"].get("pid")) == noted["process"] if asking.process(os.getpid()) else None
    # The process of a reactor goes on after its jobs.
    there = (Path(opts["cachedir"]) / "proc" / jid).exists()
    return running and there


def _master(opts: Mapping[str, Any]) -> str:
    return re.sub(r"[^\w.-]", "-", people.master(opts))


@contextlib.contextmanager
def alone(cachedir: str, ref: str, jid: str) -> Iterator[Callable[[bool], None]]:
    """
    Have the job ``jid`` known here as one that runs under the hold ``ref`` while the block runs.

    Yields a function, to be called with True once the hold is there: from then on the job is at work. It raises
    :class:`errors.Held` if another one is at work here, under any hold: the page cannot tell of one whose hold was
    ended, or whose line was changed by hand. Of two that begin at once, at least one is refused. To be called with
    False before the hold is given back, or somebody who waits for it could find this one still at work.

    Several threads of one process, as in the reactor, each have a lock of their own.
    """
    path = files.folder(cachedir) / f"{ref}-{jid}.lock"

    def at_work(begins: bool) -> None:
        path.write_text("at work" if begins else "", encoding="ascii")
        if not begins:
            return
        for other in sorted(path.parent.glob("*-*.lock")):
            if other != path and _is_at_work(other):
                raise _still_runs(other, ref)

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(path, _PATIENCE))
        except TimeoutError:
            raise _still_runs(path, ref) from None
        at_work(False)
        yield at_work


def forget(cachedir: str, ref: str, forced: bool = True) -> None:
    """
    Remove what :func:`alone` leaves of a hold, which must be over.

    ``forced``: also of a job that still runs. It was ended by name, and stops nobody any more.
    """
    with contextlib.suppress(OSError):
        for path in files.place(cachedir).glob(f"{ref}-*.lock"):
            if forced or not files.is_locked(path):
                path.unlink()


def _is_at_work(path: Path) -> bool:
    try:
        return path.read_bytes() != b"" and files.is_locked(path)
    except FileNotFoundError:
        return False  # it has ended just now


def _still_runs(path: Path, ref: str) -> errors.Held:
    held, jid = path.stem.split("-")
    ended = "" if held == ref else ", although that hold is over"
    return errors.Held(
        f"the job {jid} still runs here under the hold {held}{ended}: wait until it has ended"
        f" (`salt-run jobs.list_job {jid}`)",
        job=jid,
    )


def _runs(opts: Mapping[str, Any], jid: str) -> bool | None:
    """
    Whether a job without a note runs; None where this cannot be told.

    While a runner runs, Salt keeps a file with its process ID; afterwards, what it returned. A job of another master
    has neither here.
    """
    path = Path(opts["cachedir"]) / "proc" / jid
    if path.exists():
        pid = _file_of_salt(path).get("pid")
        if pid is None or asking.process(os.getpid()) is None:
            return None
        return asking.process(pid) is not None and _is_salts(pid)
    returned = salt.utils.jid.jid_dir(jid, str(Path(opts["cachedir"]) / "jobs"), opts["hash_type"])
    return False if os.path.isdir(returned) else None


def _is_salts(pid: int) -> bool:
    # As Salt itself looks: process IDs are used again.
    try:
        return b"salt" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


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


def _path(cachedir: str) -> Path:
    return files.place(cachedir) / "job.json"
