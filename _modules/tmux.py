"""
tmux sessions of all users on this machine
==========================================

A probe of :py:func:`busy.check <busy.check>`. People run long tasks in tmux, in sessions whose names say whom to ask.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

The process table says what runs. tmux's exit code does not: it is 1 for "never ran", "no server", "no such user" and
"permission denied" alike, and 0 for "access not allowed" (measured on tmux 3.3a). So this probe sees servers on any
socket (``-L``, ``-S``, ``TMUX_TMPDIR``), also if a cleaner of temporary files has unlinked it.

It asks tmux itself for the names of sessions only, and as the server's own user: a malicious server makes root's
client run commands as root.
"""

import collections
import os
import pwd
import stat
import time

from salt.exceptions import CommandExecutionError

FORMAT = "#{pid}\t#{pane_pid}\t#{session_created}\t#{session_attached}\t#{session_name}"


def sessions(users=None, timeout=5):
    """
    Return the panes of all tmux sessions, and what runs in each.

    users
        A list of user names. Default: all users.

    timeout
        A duration: how long to wait for the answer of each server. Default: 5 seconds.

    Returns a list of dictionaries, one for each pane: ``user``, ``session`` (its name, or None if it is unknown),
    ``created`` (seconds since the epoch), ``attached``, ``server`` and ``pid`` (process ids), and ``jobs`` as
    :py:func:`terminals.working <terminals.working>` has them; a shell at its prompt has none.

    Raises SaltInvocationError if a setting is wrong or a user does not exist, and CommandExecutionError if a server
    could not be asked, or if other users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call tmux.sessions
        salt-call tmux.sessions '[ocdskfs, ocdskfp]'
    """
    panes, unknowns = _look(users, timeout)
    if unknowns:
        raise CommandExecutionError("; ".join(unknowns))
    return panes


def _look(users, timeout):
    """Look at everything: the panes (and other children of a server) as dictionaries, and the unknowns."""
    wanted = __salt__["proctable.uids"](users)
    timeout = __salt__["proctable.seconds"](timeout, "timeout")
    table = __salt__["proctable.listing"]()
    servers = [process["pid"] for process in table if _is_server(process)]
    detached = __salt__["terminals.detached"]("TMUX", servers)
    panes, unknowns, owners = [], [], {}
    deadline = time.monotonic() + 2 * timeout  # for all servers together
    for server in servers:
        user = __salt__["proctable.owner"](server, wanted)
        if user is None:
            continue
        owners[server] = user
        try:
            names = _names(server, user, min(timeout, deadline - time.monotonic()))
        except CommandExecutionError as error:
            names = {}
            unknowns.append(f"the tmux server of {user} (process {server}): {error}")
        below = {process["pid"] for process in table if process["ppid"] == server}
        for pid in sorted(below | set(names)):
            known = names.get(pid, [])
            panes.append(
                {
                    "user": user,
                    # Sessions of a group show the same pane.
                    "session": "+".join(sorted({session for session, _, _ in known})) or None,
                    "created": min((created for _, created, _ in known), default=None),
                    "attached": any(attached for _, _, attached in known),
                    "server": server,
                    "pid": pid,
                }
            )
    for one in detached:
        named = {pane["session"] for pane in panes if pane["server"] == one["server"]} - {None}
        session = named.pop() if len(named) == 1 else None
        user = owners.get(one["server"])
        if one["server"] not in servers:  # it has ended
            user = __salt__["proctable.owner"](one["pid"], wanted)
        if user is not None:
            panes.append({"user": user, "session": session, "created": None, "attached": False, **one})
    jobs = __salt__["terminals.working"]([pane["pid"] for pane in panes])
    # A process that left its session counts only while it works.
    idle = {one["pid"] for one in detached if not jobs.get(one["pid"])}
    return [{**pane, "jobs": jobs[pane["pid"]]} for pane in panes if pane["pid"] not in idle], unknowns


def _is_server(process):
    """
    Whether a process is a tmux server.

    A server calls itself "tmux: server", or by the name of the link through which it was started. Before 2.2, it has
    the name of a client, but no terminal.
    """
    return ": server" in process["name"] or (process["name"] == "tmux" and not process["terminal"])


def _names(server, user, timeout):
    """What the server says, {pane's process id: [(session, created, attached), …]}; {} if it has no socket."""
    path = _socket(server, user)
    if path is None:
        return {}
    if timeout <= 0:
        raise CommandExecutionError("not asked, because other servers took too long to answer")
    # Without -u, and in a C locale, tmux prints "_" for tabs and for all that is not ASCII.
    command = ["tmux", "-u", "-S", path, "list-panes", "-a", "-F", FORMAT]
    answer = __salt__["proctable.run"](command, user, timeout=timeout)
    panes = collections.defaultdict(list)
    for line in answer["stdout"].splitlines():
        fields = line.split("\t", 4)
        if len(fields) != 5 or not all(field.isdecimal() for field in fields[:4]):
            raise CommandExecutionError("tmux answered something else than its panes")
        if int(fields[0]) != server:
            return {}  # the socket was unlinked, and another server listens on a new one of the same name
        panes[int(fields[1])].append((fields[4], int(fields[2]), fields[3] != "0"))
    if not panes:
        reason = " ".join(answer["stderr"].split())[:100] or f"exit code {answer['retcode']}, and no word"
        raise CommandExecutionError(f"tmux did not list its panes: {reason}")
    return dict(panes)


def _socket(server, user):
    """
    The path of the server's socket if only its user can have put it there; None if it was unlinked.

    If others could replace the socket, they could answer in the server's place, to a client that runs as its user.
    """
    paths = __salt__["proctable.sockets"](server)
    if paths is None:
        raise CommandExecutionError("the minion does not run as root, so it cannot see the socket of this server")
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise CommandExecutionError(f"there is no user {user!r}") from None
    for path in paths:
        try:
            here, folder = os.lstat(path), os.stat(os.path.dirname(path))
        except OSError:
            continue
        if not stat.S_ISSOCK(here.st_mode):
            continue
        shared = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
        if here.st_uid != uid or folder.st_uid not in (uid, 0) or shared:
            raise CommandExecutionError(
                f"others than {user} may have put the socket {path} there, so it was not asked"
            )
        return path
    return None


def probe(users=None, idle_shells="ignore", timeout=5):
    """
    Tell :py:func:`busy.check <busy.check>` what works in tmux sessions. Each job is a blocker.

    users
        A list of user names. Default: all users.

    idle_shells
        ``ignore`` (default): a pane whose shells are all at their prompts is information. ``block``: it is a blocker.

    timeout
        A duration: how long to wait for the answer of each server. Default: 5 seconds.

    Returns the three lists of a probe: see the module ``busy``. A server that could not be asked is unknown.

    Raises SaltInvocationError if a setting is wrong or a user does not exist, and CommandExecutionError if other
    users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call tmux.probe idle_shells=block
    """
    panes, unknowns = _look(users, timeout)
    return __salt__["terminals.session_answer"](panes, idle_shells, unknowns)
