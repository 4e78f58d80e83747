"""
The token's state, for many gates at once.

.. versionadded:: 0.1.0

A highstate on a hundred minions is a hundred questions within a second, spread over the master's worker processes. The
wiki is asked once: a small file under ``cachedir`` holds the last answer, and a lock beside it makes the others wait
for the one who asks. An error is an answer as well, so that a dead wiki is waited for once and not a hundred times.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path

from saltext.deploytoken import config, errors, token
from saltext.deploytoken.gate import glass

log = logging.getLogger(__name__)

#: For so many seconds an answer may serve others. A token that is taken over closes the gate within this time.
MAX_AGE = 3
#: So many seconds are spent on asking the wiki, at most, whatever it does.
TIMEOUT = 5
#: So many seconds a gate waits for the one that asks.
PATIENCE = 2 * TIMEOUT


def answer(opts, minion_id, knock):
    """
    Answer one minion's gate.

    ``opts`` (dict)
        The master's configuration.

    ``minion_id`` (string)
        Who asks.

    ``knock`` (dict)
        The question: ``ref``, under which the run goes, or empty; ``break_glass``, which is put on record; ``fun``.

    Returns ``held_by``, ``ref``, ``reason`` and ``since``, or ``error``. Never raises: an exception in an external
    pillar would disturb more than the gate.
    """
    return _told(_answer, opts, minion_id, knock)


def _told(find, *args):
    """What is found, or the error in one line."""
    try:
        return find(*args)
    except errors.Error as error:
        return {"error": str(error)}
    except Exception as error:  # its text may hold what minions should not see; the master's log is for the master
        log.exception("The live deploy token cannot be told")
        return {"error": f"{type(error).__name__}; see the master's log"}


def _answer(opts, minion_id, knock):
    if knock.get("break_glass"):
        glass.record(opts["cachedir"], minion_id, knock["break_glass"], knock.get("fun"))
    return _shared(Path(opts["cachedir"]), config.parse(opts), knock.get("ref"))


def _shared(cachedir, conf, ref):
    """The last answer if it will do, else a new one, for everybody who waits for the lock in the meantime."""
    arrived = time.time()
    folder = cachedir / "deploytoken"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "live.json"
    store = hashlib.sha256(conf.store.encode()).hexdigest()
    with _lock(folder / "live.lock"):
        last = _read(path)
        if last.get("store") == store and _will_do(last, ref, arrived):
            return last["token"]
        asked = time.time()
        found = _ask(conf)
        _write(path, {"store": store, "asked": asked, "answered": time.time(), "token": found})
        return found


def _will_do(last, ref, arrived):
    """
    Whether the last answer serves this run.

    Always, if the wiki was asked after the run knocked. A slightly older one serves unless it would turn away a run
    that carries a ref: that hold may have been acquired a second ago. The age of a token counts from the question,
    that of an error from its end, or a slow wiki would be waited for by one gate after the other.
    """
    now = time.time()
    if not last["asked"] <= last["answered"] <= now:  # the clock was set back: the age cannot be told
        return False
    if last["asked"] >= arrived:
        return True
    failed = "error" in last["token"]
    if now - last["answered" if failed else "asked"] > MAX_AGE:
        return False
    return not ref or failed or last["token"]["ref"] == ref


def _ask(conf):
    """Ask the wiki, once and not for long: one look is one request, and a store bounds the whole of it."""
    return _told(_status, dataclasses.replace(conf, timeout=min(conf.timeout, TIMEOUT)))


def _status(conf):
    with token.Token(conf) as live:
        status = live.status()
    return {key: status[key] for key in ("held_by", "ref", "reason", "since")}


@contextlib.contextmanager
def _lock(path):
    deadline = time.monotonic() + PATIENCE
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise errors.StoreError(f"no answer from the wiki within {PATIENCE} seconds") from None
                time.sleep(0.05)
        yield


def _read(path):
    """The last answer, or an empty one: a file that is missing or damaged is as good as too old."""
    try:
        last = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(last["token"], dict) and ("error" in last["token"] or "ref" in last["token"]):
            return {**last, "asked": float(last["asked"]), "answered": float(last["answered"])}
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return {}


def _write(path, last):
    """Replace the file in one step; without it, everybody asks for themselves."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as new:
            json.dump(last, new)
        os.replace(new.name, path)
    except OSError:
        log.warning("The live deploy token cannot be shared through %s", path, exc_info=True)
