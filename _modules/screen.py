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


def sessions(users=None, ignore=()):
    """
    Return all Screen sessions, and what runs in each.

    users, ignore
        As for :py:func:`terminals.panes <terminals.panes>`.

    Returns a list of dictionaries, one for each session: ``user``, ``session`` (its name, or None if it is unknown),
    ``created`` (seconds since the epoch), ``pid``, and ``jobs`` as :py:func:`terminals.panes <terminals.panes>` has
    them. A job that outlived its session has an entry of its own, without a name.

    Raises SaltInvocationError if a user does not exist, and CommandExecutionError if other users' processes cannot be
    seen.

    CLI Example:

    .. code-block:: bash

        salt-call screen.sessions
    """
    # The server's command is SCREEN, with its path if it was typed so. A program called "screen" is a client.
    servers = {
        one["pid"]: one
        for one in __salt__["proctable.listing"](commands=True)
        if os.path.basename(one["argv"][0]).startswith("SCREEN")
    }
    found = {}
    for pane in __salt__["terminals.panes"](list(servers), "STY", users, ignore):
        server = servers.get(pane["server"])
        first = server or pane
        session = {"user": pane["user"], "pid": first["pid"], "mark": first["mark"], "jobs": []}
        named = {"session": _name(first["pid"]), "created": server and server["since"]}
        found.setdefault(first["pid"], {**session, **named})["jobs"] += pane["jobs"]
    return list(found.values())


def _name(server):
    """The name of a server's session: that of its socket is ``PROCESS.NAME``."""
    for path in __salt__["proctable.sockets"](server) or ():
        pid, dot, name = os.path.basename(path).partition(".")
        if dot and pid == str(server):
            return name
    return None


def probe(users=None, idle_shells="ignore", ignore=()):
    """
    Tell :py:func:`busy.check <busy.check>` what works in Screen sessions. Each job is a blocker.

    users, ignore
        As for :py:func:`sessions`.

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
    return __salt__["terminals.answer"](sessions(users, ignore), idle_shells)
