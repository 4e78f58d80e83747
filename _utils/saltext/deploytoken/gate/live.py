"""
The live token, for many gates at once.

.. versionadded:: 0.1.0

A highstate on a hundred minions asks a hundred questions within a second, in several processes of the master. Only one
of them asks the wiki: a small file under ``cachedir`` keeps the last answer, and a lock beside it makes the others
wait. An error is an answer too. So a dead wiki is waited for once, not a hundred times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saltext.deploytoken import config, errors, files, token
from saltext.deploytoken.gate import glass

log = logging.getLogger(__name__)

#: Others may use an answer for so many seconds. A token that is taken over elsewhere closes the gate within this time.
MAX_AGE = 3
#: Asking the wiki takes at most so many seconds, whatever the wiki does.
TIMEOUT = 5
#: A gate waits so many seconds for another one that is asking.
PATIENCE = 2 * TIMEOUT


def answer(opts: Mapping[str, Any], minion_id: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Answer one minion's gate.

    ``opts``
        The master's configuration.
    ``minion_id``
        The minion that asks.
    ``question``
        ``ref``, which the run carries, or empty; ``break_glass``, which is put on record; ``fun``.

    Returns ``held_by``, ``ref``, ``reason`` and ``since``, or ``error`` in one line. Never raises: an exception in an
    external pillar would disturb more than the gate.
    """
    return _or_error(lambda: _answer(opts, minion_id, question))


def forget(cachedir: str) -> None:
    """
    Drop the last answer: the token has just changed hands here, and the next gate asks the wiki.

    Without this, gates would refuse for up to :data:`MAX_AGE` seconds in the name of the last holder. Other masters
    find out when their own answer is too old.
    """
    with contextlib.suppress(OSError):
        (files.folder(cachedir) / "live.json").unlink()


def _or_error(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``find`` returns, or its error in one line."""
    try:
        return find()
    except errors.Error as error:
        return {"error": str(error)}
    except Exception as error:  # its words may hold what minions must not see; only the master's log has them
        log.exception("Cannot tell who holds the deploy token")
        return {"error": f"{type(error).__name__}; see the master's log"}


def _answer(opts: Mapping[str, Any], minion_id: str, question: Mapping[str, Any]) -> dict[str, Any]:
    if question.get("break_glass"):
        glass.record(opts["cachedir"], minion_id, question["break_glass"], question.get("fun"))
    folder = files.folder(opts["cachedir"])
    conf = config.parse(opts)
    arrived = time.time()
    try:
        with files.locked(folder / "live.lock", PATIENCE):
            return _shared(folder / "live.json", conf, question.get("ref"), arrived)
    except TimeoutError:
        raise errors.StoreError(f"no answer from the wiki within {PATIENCE} seconds") from None


def _shared(path: Path, conf: config.Config, ref: str | None, arrived: float) -> dict[str, Any]:
    """The last answer if this run may use it, else a new one, which the processes that wait for the lock then find."""
    store = hashlib.sha256(conf.store.encode()).hexdigest()
    last = _read(path)
    if last.get("store") == store and _will_do(last, ref, arrived):
        known: dict[str, Any] = last["token"]
        return known
    asked = time.time()
    found = _ask(conf)
    try:
        files.replace_json(path, {"store": store, "asked": asked, "answered": time.time(), "token": found})
    except OSError:
        log.warning("Each gate asks the wiki for itself: cannot write %s", path, exc_info=True)
    return found


def _will_do(last: Mapping[str, Any], ref: str | None, arrived: float) -> bool:
    """
    Whether this run may use the last answer.

    Always, if the wiki was asked after this question arrived. A slightly older answer will do, unless it would refuse
    a run that carries a ref: that hold may have been acquired a second ago. A token's age counts from the question.
    An error's age counts from its end, or one gate after the other would wait for a slow wiki.
    """
    now = time.time()
    if not last["asked"] <= last["answered"] <= now:  # the clock was set back, so the age is unknown
        return False
    if last["asked"] >= arrived:
        return True
    failed = "error" in last["token"]
    if now - last["answered" if failed else "asked"] > MAX_AGE:
        return False
    return not ref or failed or last["token"]["ref"] == ref


def _ask(conf: config.Config) -> dict[str, Any]:
    """Ask the wiki, once and not for long: a look is one request (two after an edit by hand)."""
    return _or_error(lambda: _status(dataclasses.replace(conf, timeout=min(conf.timeout, TIMEOUT), deadline=TIMEOUT)))


def _status(conf: config.Config) -> dict[str, Any]:
    with token.Token(conf) as live:
        status = live.look()
    return {key: status[key] for key in ("held_by", "ref", "reason", "since")}


def _read(path: Path) -> dict[str, Any]:
    """The last answer, or an empty dictionary: a damaged file counts as too old."""
    last = files.read_json(path)
    said = last.get("token")
    times = [last.get("asked"), last.get("answered")]
    whole = isinstance(said, dict) and ("error" in said or "ref" in said) and all(type(at) is float for at in times)
    return last if whole else {}
