"""
tmux sessions of everybody on this machine
==========================================

A probe of :py:func:`busy.check <busy.check>`: long-running tasks are run in tmux, in sessions whose names tell whom to
ask.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

What runs is read from the process table, never from tmux's exit code, which is 1 alike for "never ran", "no server",
"no such user" and "permission denied", and 0 for "access not allowed" (measured on tmux 3.3a). So servers on any
socket are seen (``-L``, ``-S``, ``TMUX_TMPDIR``), and those whose socket was unlinked by a cleaner of temporary files.

Only the sessions' names are asked of tmux itself, and only as the server's own user: a malicious server makes root's
client run commands as root.
"""

import collections
import contextlib
import os
import stat
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    import psutil

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False

FORMAT = "#{pid}\t#{pane_pid}\t#{session_created}\t#{session_attached}\t#{session_name}"


def __virtual__():
    if HAS_PSUTIL:
        return True
    return False, "psutil is not installed"


def _servers():
    """
    The tmux servers of this machine: their processes.

    They call themselves "tmux: server"; or, started through a link of another name, by that one. Before 2.2 they were
    called as the client is, but have no terminal.
    """
    servers = []
    for process in __salt__["processes.listing"]():
        if ": server" in process["name"] or (process["name"] == "tmux" and not process["terminal"]):
            with contextlib.suppress(psutil.NoSuchProcess):
                servers.append(psutil.Process(process["pid"]))
    return servers


def _socket(server, user):
    """
    The path of the server's socket if only its user can have put it there; None if it was unlinked.

    Whoever may replace the socket could otherwise answer in the server's place, to a client that runs as its user.
    """
    try:
        connections = server.net_connections if hasattr(server, "net_connections") else server.connections
        paths = {connection.laddr for connection in connections(kind="unix")}
    except psutil.AccessDenied:
        raise CommandExecutionError(
            "the minion does not run as root: it cannot see which socket is the server's"
        ) from None
    uid = server.uids().effective
    for path in sorted(path for path in paths if isinstance(path, str) and path.startswith("/")):
        try:
            here, folder = os.lstat(path), os.stat(os.path.dirname(path))
        except OSError:
            continue
        shared = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
        if not stat.S_ISSOCK(here.st_mode):
            continue
        if here.st_uid != uid or folder.st_uid not in (uid, 0) or shared:
            raise CommandExecutionError(
                f"others than {user} may have put the socket {path} there, so it was not asked"
            )
        return path
    return None


def _ask(server, user, timeout):
    """The server's own word, {pane's process id: [(session, created, attached), ...]}; {} if it has no socket."""
    path = _socket(server, user)
    if path is None:
        return {}
    if timeout <= 0:
        raise CommandExecutionError("not asked, because other servers took too long to answer")
    # -u: without it, and in a C locale, tabs and whatever is not ASCII turn into "_".
    command = ["tmux", "-u", "-S", path, "list-panes", "-a", "-F", FORMAT]
    answer = __salt__["processes.run"](command, user, timeout=timeout)
    panes = collections.defaultdict(list)
    for line in answer["stdout"].splitlines():
        fields = line.split("\t", 4)
        if len(fields) != 5 or not all(field.isdecimal() for field in fields[:4]):
            raise CommandExecutionError("tmux answered something else than its panes")
        if int(fields[0]) != server.pid:
            return {}  # the socket was unlinked, and another server listens on a new one of the same name
        panes[int(fields[1])].append((fields[4], int(fields[2]), fields[3] != "0"))
    if not panes:
        reason = " ".join(answer["stderr"].split())[:100] or f"exit code {answer['retcode']}, and no word"
        raise CommandExecutionError(f"tmux did not list its panes: {reason}")
    return dict(panes)


def _look(users, timeout):
    """Everything there is: ([one dictionary for each pane, or other child of a server], [unknowns])."""
    panes, unknowns = [], []
    wanted = __salt__["processes.uids"](users)
    servers = {server.pid: server for server in _servers()}
    left = __salt__["processes.left"]("TMUX", list(servers))
    owners = {}
    patience = time.monotonic() + 2 * timeout  # of all servers together
    for server in servers.values():
        try:
            if wanted is not None and server.uids().real not in wanted:
                continue
            user = owners[server.pid] = server.username()
            names = _ask(server, user, min(timeout, patience - time.monotonic()))
        except CommandExecutionError as error:
            names = {}
            unknowns.append(f"the server of {user} (process {server.pid}): {error}")
        except psutil.NoSuchProcess:
            continue
        try:
            below = {child.pid for child in server.children()}
        except psutil.NoSuchProcess:
            continue
        for pid in sorted(below | set(names)):
            known = names.get(pid, [])
            panes.append(
                {
                    "user": user,
                    # Grouped sessions show the same pane; where there is no socket, there is no name.
                    "session": "+".join(sorted({session for session, _, _ in known})) or None,
                    "created": min((created for _, created, _ in known), default=None),
                    "attached": any(attached for _, _, attached in known),
                    "server": server.pid,
                    "pid": pid,
                }
            )
    for one in left:
        sessions = {pane["session"] for pane in panes if pane["server"] == one["server"]} - {None}
        session = sessions.pop() if len(sessions) == 1 else None
        user = owners.get(one["server"])
        if user is None and one["server"] not in servers:  # the server has ended
            user = __salt__["processes.owner"](one["pid"], wanted)
        if user is not None:
            panes.append({"user": user, "session": session, "created": None, "attached": False, **one})
    jobs = collections.defaultdict(list)
    for job in __salt__["processes.working"]([pane["pid"] for pane in panes]) if panes else ():
        jobs[job.pop("root")].append(job)
    gone = {one["pid"] for one in left} - set(jobs)  # what left a session and does not work is no session either
    return [{**pane, "jobs": jobs[pane["pid"]]} for pane in panes if pane["pid"] not in gone], unknowns


def sessions(users=None, timeout=5):
    """
    Return the panes of all tmux sessions, and what runs in each.

    users
        A list of user names. Default: everybody who has a server.

    timeout
        Seconds to wait for each server's answer.

    Returns a list of dictionaries, one for each pane: ``user``, ``session`` (None where no name can be had),
    ``created`` (seconds since the epoch), ``attached``, ``server`` and ``pid`` (process ids), and ``jobs``: those that
    work, as :py:func:`processes.working <processes.working>` tells them; none of a shell at its prompt.

    Raises CommandExecutionError if a server could not be asked.

    CLI Example:

    .. code-block:: bash

        salt-call tmux.sessions
        salt-call tmux.sessions '[ocdskfs, ocdskfp]'
    """
    panes, unknowns = _look(users, timeout)
    if unknowns:
        raise CommandExecutionError("; ".join(unknowns))
    return panes


def probe(users=None, idle_shells="ignore", timeout=5):
    """
    Tell :py:func:`busy.check <busy.check>` what works in tmux sessions: each job is a blocker.

    users
        A list of user names. Default: everybody who has a server. A user that does not exist is an error.

    idle_shells
        ``ignore`` (default): a session with nothing but shells at their prompts is information. ``block``: it is a
        blocker.

    timeout
        Seconds to wait for each server's answer.

    Returns the three lists of a probe, as the module ``busy`` describes them.

    Raises SaltInvocationError for settings that are wrong, or a user that does not exist; a server that could not be
    asked is unknown.

    CLI Example:

    .. code-block:: bash

        salt-call tmux.probe idle_shells=block
    """
    if idle_shells not in ("ignore", "block"):
        raise SaltInvocationError(f"idle_shells: {idle_shells!r} is neither 'ignore' nor 'block'")
    panes, unknowns = _look(users, timeout)
    answer = {"blockers": [], "unknowns": [{"why": why} for why in unknowns], "info": []}
    for pane in panes:
        session = "(no name)" if pane["session"] is None else pane["session"]
        ask = pane["user"] if pane["session"] is None else f"{session[:60]} ({pane['user']})"
        shared = {"user": pane["user"], "ask": ask}
        name = f"{pane['user']}:{session}"
        for job in pane["jobs"]:
            what = f"{session[:60]}: {job['what']}"
            mine = {"id": f"{name}:{job['pid']}", "user": job["user"], "what": what, "since": job["since"]}
            answer["blockers"].append({**shared, **mine})
        if not pane["jobs"]:
            idle = {
                **shared,
                "id": f"{name}:{pane['pid']}",
                "what": f"{session[:60]}: a shell",
                "since": pane["created"],
            }
            answer["blockers" if idle_shells == "block" else "info"].append(idle)
    return answer
