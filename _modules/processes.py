"""
Commands that a deploy must not interrupt
=========================================

A probe of :py:func:`busy.check <busy.check>`: looks in the process table for programs and command lines that match a
pattern.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along
"""

import fnmatch
import os
import time

from salt.exceptions import SaltInvocationError

CHOICES = ("match", "under", "user")
PATTERN = {**dict.fromkeys(CHOICES, "text"), "older_than": "duration"}


def find(patterns, older_than=0):
    """
    Return the processes that match a pattern.

    The kernel's own threads, the process that asks and its ancestors (the minion itself) never match. If a process
    matches, those below it are left out.

    patterns
        A list. Each pattern is a glob of a program's name (``rsync``, ``pg_dump*``) or of a whole command line
        (``*manage.py load*``); or a dictionary of ``match`` (such a glob), ``under`` (a glob of an ancestor's name:
        ``cron``), ``user`` and ``older_than``.

    older_than
        The minimum age for patterns without their own. A duration: ``90s``, ``10m``, ``1h``. Default: 0.

    Returns a list of dictionaries, the oldest first: ``pid``, ``user``, ``what`` (the leading words of the command),
    ``since`` (seconds since the epoch) and ``pattern``.

    Raises SaltInvocationError for a wrong pattern, and CommandExecutionError if other users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call processes.find '[rsync, {under: cron, older_than: 10m}]'
    """
    if not isinstance(patterns, (list, tuple)) or not patterns:
        raise SaltInvocationError("patterns: a list of one pattern or more is needed")
    older_than = __salt__["proctable.seconds"](older_than, "older_than")
    wanted = [_pattern(pattern, older_than, f"patterns.{number}") for number, pattern in enumerate(patterns)]
    table = {process["pid"]: process for process in __salt__["proctable.listing"](commands=True)}
    found = {}
    for pid, process in table.items():
        entry = None if process["asking"] else _first_match(table, process, wanted)
        user = __salt__["proctable.owner"](pid) if entry else None
        if user is not None:
            label = entry["match"] if entry["match"] != "*" else entry.get("under", entry.get("user"))
            job = {key: process[key] for key in ("pid", "what", "since")}
            found[pid] = {**job, "user": user, "pattern": label}
    outermost = [job for pid, job in found.items() if not found.keys() & set(table[pid]["above"])]
    return sorted(outermost, key=lambda job: (job["since"], job["pid"]))


def _pattern(pattern, older_than, place):
    """Check one pattern, whose path is ``place``, and return it complete."""
    entry = {"match": pattern} if isinstance(pattern, str) else pattern
    if not isinstance(entry, dict):
        raise SaltInvocationError(f"{place}: {pattern!r} is neither text nor a mapping of {', '.join(PATTERN)}")
    entry = __salt__["proctable.checked"](entry, PATTERN, f"{place}.")
    for key in CHOICES:
        if not entry.get(key, "x").strip():
            raise SaltInvocationError(f"{place}.{key}: is empty; fill it in, or leave it out")
    if not entry.keys() & set(CHOICES):
        raise SaltInvocationError(f"{place}: would match every process; give one of {', '.join(CHOICES)}")
    if "user" in entry:
        entry["uids"] = __salt__["proctable.uids"]([entry["user"]], f"{place}.user")
    return {"match": "*", "older_than": older_than, **entry}


def _first_match(table, process, patterns):
    names, age = _names(process), max(0, time.time() - process["since"])
    for entry in patterns:
        if (
            age >= entry["older_than"]
            and any(fnmatch.fnmatchcase(name, entry["match"]) for name in names)
            and ("under" not in entry or _is_under(table, process, entry["under"]))
            and ("uids" not in entry or __salt__["proctable.owner"](process["pid"], entry["uids"]))
        ):
            return entry
    return None


def _names(process):
    """All that a process can be called: its name, program, script if the program interprets one, command line."""
    argv = process["argv"]
    script = next((word for word in argv[1:] if not word.startswith("-")), "")
    return {process["name"], os.path.basename(argv[0]), os.path.basename(script), " ".join(argv)} - {""}


def _is_under(table, process, pattern):
    """
    Whether a program of that name is above a process.

    A mere fork of that program is not under it: cron first makes such a fork.
    """
    is_mere_fork = process["forked"] and fnmatch.fnmatchcase(process["name"], pattern)
    return not is_mere_fork and any(fnmatch.fnmatchcase(table[pid]["name"], pattern) for pid in process["above"])


def probe(patterns, older_than=0):
    """
    Tell :py:func:`busy.check <busy.check>` which processes match the patterns. Each of them is a blocker.

    patterns, older_than
        As for :py:func:`find`.

    Returns the three lists of a probe: see the module ``busy``.

    Raises what :py:func:`find` raises.

    CLI Example:

    .. code-block:: bash

        salt-call processes.probe '[rsync, pg_dump]' older_than=5m
    """
    blockers = [
        {
            "id": f"{job['pattern']}:{job['pid']}",
            "user": job["user"],
            "what": job["what"],
            "since": job["since"],
            "ask": job["user"],
        }
        for job in find(patterns, older_than)
    ]
    return {"blockers": blockers, "unknowns": [], "info": []}
