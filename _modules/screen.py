"""
GNU Screen sessions of all users on this machine
================================================

A probe of :py:func:`busy.check <busy.check>`.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

It reads the process table only. ``screen -ls`` exits with 0 if there are sessions and with 1 if not, and root may not
list another user's (measured on Screen 4.9).
"""

import os


def sessions(users=None):
    """
    Return all Screen sessions, and what runs in each.

    users
        A list of user names. Default: all users.

    Returns a list of dictionaries, one for each session: ``user``, ``session`` (its name, or None if it is unknown),
    ``created`` (seconds since the epoch), ``pid``, and ``jobs`` as :py:func:`terminals.working <terminals.working>`
    has them. A job that outlived its session has an entry of its own, without a name.

    Raises SaltInvocationError if a user does not exist, and CommandExecutionError if other users' processes cannot be
    seen.

    CLI Example:

    .. code-block:: bash

        salt-call screen.sessions
    """
    wanted = __salt__["proctable.uids"](users)
    table = __salt__["proctable.listing"](commands=True)
    # The server's command is SCREEN, with its path if it was typed so. A program called "screen" is a client.
    servers = [one for one in table if os.path.basename(one["argv"][0]).startswith("SCREEN")]
    detached = __salt__["terminals.detached"]("STY", [server["pid"] for server in servers])
    found, roots = [], {}
    for server in servers:
        pid, user = server["pid"], __salt__["proctable.owner"](server["pid"], wanted)
        if user is not None:
            roots[pid] = [one["pid"] for one in table if one["ppid"] == pid]
            roots[pid] += [one["pid"] for one in detached if one["server"] == pid]
            found.append({"user": user, "session": _name(pid), "created": server["since"], "pid": pid})
    for one in detached:
        ended = one["server"] not in {server["pid"] for server in servers}
        user = __salt__["proctable.owner"](one["pid"], wanted) if ended else None
        if user is not None:
            roots[one["pid"]] = [one["pid"]]
            found.append({"user": user, "session": None, "created": None, "pid": one["pid"]})
    jobs = __salt__["terminals.working"]([pid for below in roots.values() for pid in below])
    for session in found:
        session["jobs"] = [job for pid in roots[session["pid"]] for job in jobs[pid]]
    # A process that outlived its session counts only while it works.
    return [session for session in found if session["jobs"] or session["created"] is not None]


def _name(server):
    """The name of a server's session: that of its socket is ``PROCESS.NAME``."""
    for path in __salt__["proctable.sockets"](server) or ():
        pid, dot, name = os.path.basename(path).partition(".")
        if dot and pid == str(server):
            return name
    return None


def probe(users=None, idle_shells="ignore"):
    """
    Tell :py:func:`busy.check <busy.check>` what works in Screen sessions. Each job is a blocker.

    users
        A list of user names. Default: all users.

    idle_shells
        ``ignore`` (default): a session in which all shells are at their prompts is information. ``block``: it is a
        blocker.

    Returns the three lists of a probe: see the module ``busy``.

    Raises SaltInvocationError if a setting is wrong or a user does not exist, and CommandExecutionError if other
    users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call screen.probe
    """
    return __salt__["terminals.session_answer"](sessions(users), idle_shells)
