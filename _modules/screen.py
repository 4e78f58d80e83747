"""
GNU Screen sessions of everybody on this machine
================================================

A probe of :py:func:`busy.check <busy.check>`.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

Everything is read from the process table: ``screen -ls`` exits with 0 if there are sessions and with 1 if not, and
root may not list another user's (measured on Screen 4.9).
"""

import collections
import contextlib
import os

from salt.exceptions import SaltInvocationError

try:
    import psutil

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False


def __virtual__():
    if HAS_PSUTIL:
        return True
    return False, "psutil is not installed"


def _name(server):
    """The session's name: that of its socket, ``PROCESS.NAME``."""
    try:
        connections = server.net_connections if hasattr(server, "net_connections") else server.connections
        for connection in connections(kind="unix"):
            pid, dot, name = os.path.basename(str(connection.laddr or "")).partition(".")
            if dot and pid == str(server.pid):
                return name
    except psutil.AccessDenied:
        pass
    return None


def sessions(users=None):
    """
    Return all Screen sessions, and what runs in each.

    users
        A list of user names. Default: everybody. A user that does not exist is an error.

    Returns a list of dictionaries: ``user``, ``session`` (None where no name can be had), ``created`` (seconds since
    the epoch), ``pid`` and ``jobs``, as :py:func:`tmux.sessions <tmux.sessions>` does.

    CLI Example:

    .. code-block:: bash

        salt-call screen.sessions
    """
    wanted = __salt__["processes.uids"](users)
    servers = {}
    for process in __salt__["processes.listing"](commands=True):
        # The server calls itself SCREEN, and with its path if it was called so; "screen" is a client that looks on.
        if os.path.basename(process["argv"][0]).startswith("SCREEN"):
            with contextlib.suppress(psutil.NoSuchProcess):
                servers[process["pid"]] = psutil.Process(process["pid"])
    left = __salt__["processes.left"]("STY", list(servers))
    found = []
    for pid, server in servers.items():
        try:
            if wanted is not None and server.uids().real not in wanted:
                continue
            session = {
                "user": server.username(),
                "session": _name(server),
                "created": server.create_time(),
                "pid": pid,
            }
            windows = [child.pid for child in server.children()]
        except psutil.NoSuchProcess:
            continue
        found.append((windows + [one["pid"] for one in left if one["server"] == pid], session))
    for one in left:
        if one["server"] not in servers:  # it has ended
            user = __salt__["processes.owner"](one["pid"], wanted)
            if user is not None:
                found.append(([one["pid"]], {"user": user, "session": None, "created": None, "pid": one["pid"]}))
    jobs = collections.defaultdict(list)
    for job in __salt__["processes.working"]([pid for windows, _ in found for pid in windows]) if found else ():
        jobs[job.pop("root")].append(job)
    sessions = [{**session, "jobs": [job for pid in windows for job in jobs[pid]]} for windows, session in found]
    return [session for session in sessions if session["pid"] in servers or session["jobs"]]


def probe(users=None, idle_shells="ignore"):
    """
    Tell :py:func:`busy.check <busy.check>` what works in Screen sessions: each job is a blocker.

    users
        A list of user names. Default: everybody. A user that does not exist is an error.

    idle_shells
        ``ignore`` (default): a session with nothing but shells at their prompts is information. ``block``: it is a
        blocker.

    Returns the three lists of a probe, as the module ``busy`` describes them.

    Raises SaltInvocationError for settings that are wrong, or a user that does not exist.

    CLI Example:

    .. code-block:: bash

        salt-call screen.probe
    """
    if idle_shells not in ("ignore", "block"):
        raise SaltInvocationError(f"idle_shells: {idle_shells!r} is neither 'ignore' nor 'block'")
    answer = {"blockers": [], "unknowns": [], "info": []}
    for session in sessions(users):
        label = (session["session"] or "(no name)")[:60]
        name = f"{session['user']}:{session['session'] or '(no name)'}"
        shared = {"user": session["user"], "ask": f"{label} ({session['user']})"}
        for job in session["jobs"]:
            what = f"{label}: {job['what']}"
            mine = {"id": f"{name}:{job['pid']}", "user": job["user"], "what": what, "since": job["since"]}
            answer["blockers"].append({**shared, **mine})
        if not session["jobs"]:
            idle = {
                **shared,
                "id": f"{name}:{session['pid']}",
                "what": f"{label}: a shell",
                "since": session["created"],
            }
            answer["blockers" if idle_shells == "block" else "info"].append(idle)
    return answer
