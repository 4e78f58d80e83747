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
import contextlib
import os
import pwd
import stat
import time

from salt.exceptions import CommandExecutionError

FORMAT = "#{pid}\t#{pane_pid}\t#{session_created}\t#{session_attached}\t#{session_name}"


def sessions(users=None, timeout=5, ignore=()):
    """
    Return the panes of all tmux sessions, and what runs in each.

    users, ignore
        As for :py:func:`terminals.panes <terminals.panes>`.

    timeout
        A duration: how long to wait for the answer of each server. Default: 5 seconds.

    Returns a list of dictionaries, one for each pane: ``user``, ``session`` (its name, or None if it is unknown),
    ``created`` (seconds since the epoch), ``attached``, ``server`` and ``pid`` (process ids), and ``jobs`` as
    :py:func:`terminals.panes <terminals.panes>` has them. What left its pane has an entry of its own while it works.

    Raises SaltInvocationError if a setting is wrong or a user does not exist, and CommandExecutionError if other
    users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call tmux.sessions
        salt-call tmux.sessions '[root, ocdskfs, ocdskfp]'
    """
    return _look(users, timeout, ignore)[0]


def _look(users, timeout, ignore):
    """The panes, and why the names of some servers' sessions are not known: {server: (user, why)}."""
    timeout = __salt__["proctable.seconds"](timeout, "timeout")
    servers = [process["pid"] for process in __salt__["proctable.listing"]() if _is_server(process)]
    found = __salt__["terminals.panes"](servers, "TMUX", users, ignore)
    names, nameless = {}, {}
    deadline = time.monotonic() + 2 * timeout  # for all servers together
    for server, user in {pane["server"]: pane["user"] for pane in found if pane["server"] in servers}.items():
        try:
            names[server] = _names(server, user, min(timeout, deadline - time.monotonic()))
        except CommandExecutionError as error:
            nameless[server] = user, str(error)
    return [_named(pane, names.get(pane["server"], {})) for pane in found], nameless


def _named(pane, names):
    """A pane with what its server says of its sessions."""
    known = names.get(pane["pid"], [])
    if pane.pop("left") and len({session for entries in names.values() for session, _, _ in entries}) == 1:
        ((session, _, _), *_), *_ = names.values()
        known = [(session, None, False)]
    return {
        **pane,
        # Sessions of a group show the same pane.
        "session": "+".join(sorted({session for session, _, _ in known})) or None,
        "created": min((created for _, created, _ in known if created), default=None),
        "attached": any(attached for _, _, attached in known),
    }


def _is_server(process):
    """
    Whether a process is a tmux server, which has no terminal.

    It calls itself "tmux: server", or by the name of the link through which it was started, of which a long one leaves
    no room for the rest; before 2.2 by the name of a client. Any program can call itself so, but only tmux is asked.
    """
    own, colon, kind = process["name"].partition(":")
    if process["terminal"] or not (colon or own == "tmux") or not "server".startswith(kind.strip()):
        return False
    try:
        program = os.path.basename(os.readlink(f"/proc/{process['pid']}/exe"))
    except OSError:
        program = own
    return "tmux" in program


def _names(server, user, timeout):
    """What the server says, {pane's process id: [(session, created, attached), …]}; {} if it has no socket."""
    path = _socket(server, user)
    if path is None:
        return {}
    if timeout <= 0:
        raise CommandExecutionError("not asked, because other servers took too long to answer")
    # The server's own program, wherever that is, and also if an upgrade has removed it: it may understand no other.
    program = f"/proc/{server}/exe"
    with contextlib.suppress(OSError):
        program = os.path.realpath(program, strict=True)
    # Without -u, and in a C locale, tmux prints "_" for tabs and for all that is not ASCII.
    command = [program, "-u", "-S", path, "list-panes", "-a", "-F", FORMAT]
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
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise CommandExecutionError(f"there is no user {user!r}") from None
    for path in __salt__["proctable.sockets"](server) or ():
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


def probe(users=None, idle_shells="ignore", timeout=5, ignore=()):
    """
    Tell :py:func:`busy.check <busy.check>` what works in tmux sessions. Each job is a blocker.

    users, timeout, ignore
        As for :py:func:`sessions`.

    idle_shells
        ``ignore`` (default): a pane whose shells are all at their prompts is information. ``block``: it is a blocker.

    Returns the three lists of a probe: see the module ``busy``. Nothing is unknown: if a server does not tell the
    names of its sessions, its work is seen without them, and the reason is information.

    Raises SaltInvocationError if a setting is wrong or a user does not exist, and CommandExecutionError if other
    users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call tmux.probe idle_shells=block
    """
    found, nameless = _look(users, timeout, ignore)
    answer = __salt__["terminals.answer"](found, idle_shells)
    for server, (user, why) in nameless.items():
        what = f"the sessions of {user}'s tmux server (process {server}) have no names here: {why}"
        answer["info"].append({"id": f"{user}:{server}", "user": user, "what": what})
    return answer
