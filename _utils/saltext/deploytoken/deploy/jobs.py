"""
Which job a hold was taken for, and whether it still runs.

The page names the job. Whether it runs, only its own master knows: Salt keeps a file with the process of a runner
while it runs, but its maintenance, which comes every minute, removes that of one that was killed (3008.3). So this
keeps a note of its own, of the last hold that was taken for a job here.
"""

import json
import logging
import os
import tempfile
from pathlib import Path

import salt.payload
import salt.utils.jid

log = logging.getLogger(__name__)


def orchestration(cachedir):
    """
    Return the id of the orchestration that this process carries out, or None.

    Salt tells its steps another one (3008.3, runners/state.py), so look into the files it keeps while they run.
    """
    found = []
    for path in (Path(cachedir) / "proc").glob("[0-9]*"):
        job = _of_salt(path)
        if job.get("pid") == os.getpid() and str(job.get("fun")).startswith("runner.state.orch"):
            found.append(path.name)
    return found[0] if len(found) == 1 else None


def note(cachedir, ref, jid):
    """Note which process carries out the job that holds the token under ``ref``, if it is one of this master."""
    process = _process(_of_salt(Path(cachedir) / "proc" / str(jid)).get("pid"))
    if process is None:
        return
    try:
        path = _path(cachedir)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as new:
            json.dump({"ref": ref, "jid": str(jid), "process": process}, new)
        os.replace(new.name, path)
    except OSError:  # only `status` knows less without it
        log.warning("The job %s cannot be noted", jid, exc_info=True)


def job(opts, ref, jid):
    """
    Return the ``jid`` of the job that holds the token under ``ref``, and whether it is ``running`` (None where this
    master cannot tell); or None if it is no job's.

    ``jid``
        What the page says. A hold that goes on under another job is known by the note alone.
    """
    noted = _noted(opts["cachedir"])
    if ref and noted.get("ref") == ref:
        return {"jid": noted["jid"], "running": _process(noted["process"].get("pid")) == noted["process"]}
    return {"jid": jid, "running": _runs(opts, jid)} if jid else None


def _runs(opts, jid):
    """
    Whether a job without a note runs; None where it cannot be told.

    While a runner runs, Salt keeps a file with its process id; afterwards, what it returned. A job of another master
    has neither here.
    """
    path = Path(opts["cachedir"]) / "proc" / jid
    if path.exists():
        pid = _of_salt(path).get("pid")
        return None if pid is None else _process(pid) is not None and _is_salts(pid)
    known = salt.utils.jid.jid_dir(jid, str(Path(opts["cachedir"]) / "jobs"), opts["hash_type"])
    return False if os.path.isdir(known) else None


def _is_salts(pid):
    # As Salt itself looks: process ids are used again.
    try:
        return b"salt" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _process(pid):
    """What tells a living process from every other that has, or had, or will have its id; None if there is none."""
    try:
        # After the name, which may hold anything: the state, and as the 20th the time of its start, in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # A zombie has ended.
    return None if fields[0] in "ZX" else {"pid": pid, "start": fields[19], "boot": boot}


def _of_salt(path):
    """Salt's file about a job that runs; empty where there is none."""
    try:
        found = salt.payload.loads(path.read_bytes())
    except Exception:
        # Of other jobs, which end meanwhile.
        log.debug("The file %s cannot be read", path, exc_info=True)
        return {}
    return found if isinstance(found, dict) else {}


def _noted(cachedir):
    try:
        found = json.loads(_path(cachedir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("jid"), str) and isinstance(found.get("process"), dict)
    return found if whole else {}


def _path(cachedir):
    return Path(cachedir) / "deploytoken" / "job.json"
