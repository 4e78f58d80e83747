"""
What the probes share
=====================

The probes of :py:func:`busy.check <busy.check>` call these functions through ``__salt__``: to read the process table,
to run a command as another user, and to check their settings.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along, for all that reads ``/proc``

A command line may hold passwords. So a probe returns only its leading words: the program, its script or subcommand,
and nothing from the first option on.
"""

import contextlib
import os
import pathlib
import pwd
import re
import selectors
import signal
import subprocess
import sys
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    import psutil
except ImportError:  # salt-ssh does not bring it along; require_visibility() says so
    psutil = None

CAP_SYS_PTRACE = 19
PF_FORKNOEXEC = 0x40
PF_KTHREAD = 0x200000
# Salt's commands, and those functions of theirs that only look.
SALT = {"salt", "salt-call", "salt-run", "salt-ssh"}
LOOKING = {"busy.check", "busy.wait"}
DENIED = "/proc hides other users' processes (hidepid): run the minion as root, with CAP_SYS_PTRACE"
BLIND = "the minion cannot look into other users' processes: run it as root, with CAP_SYS_PTRACE"
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
YEAR = 366 * 86400


# Settings


def seconds(duration, key="duration"):
    """
    Return a duration in seconds.

    duration
        A number of seconds, or a number with one of the units ``s``, ``m``, ``h``, ``d`` and ``w``. At most a year.

    key
        The path of the setting, for the error message.

    Raises SaltInvocationError for anything else.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.seconds 1h
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", str(duration).strip(), re.ASCII)
    if isinstance(duration, bool) or not found:
        raise SaltInvocationError(f"{key}: {duration!r} is not a duration; write 45s, 15m, 2h or 1d")
    number = float(found[1]) * UNITS[found[2]]
    if number > YEAR:
        raise SaltInvocationError(f"{key}: {str(duration)[:40]!r} is more than a year")
    return number


def checked(settings, known, prefix=""):
    """
    Check settings, and return them with their durations in seconds.

    settings
        A dictionary.

    known
        A dictionary of all keys that may be set, each with the kind of its value: ``text``, ``port``, ``boolean`` or
        ``duration``, or None for any.

    prefix
        The path of the settings, such as ``patterns.1.``, for the error message.

    Raises SaltInvocationError for an unknown key, or a value that is empty or of another kind. Values that may be
    secret are not in the message.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.checked '{timeout: 5s}' '{timeout: duration}'
    """
    if not isinstance(settings, dict):
        raise SaltInvocationError(f"{prefix.rstrip('.')}: a mapping of settings is needed")
    found = dict(settings)
    for key, value in settings.items():
        if key not in known:
            raise SaltInvocationError(f"{prefix}{key}: no such key; known are: {', '.join(sorted(known))}")
        # Empty is what a template leaves that found nothing. It would ask of nothing, or of something else.
        if value is None or (isinstance(value, str) and not value.strip()):
            raise SaltInvocationError(f"{prefix}{key}: is empty; fill it in, or leave it out")
        if known[key] == "duration":
            found[key] = seconds(value, f"{prefix}{key}")
        elif known[key] == "boolean" and not isinstance(value, bool):
            raise SaltInvocationError(f"{prefix}{key}: {value!r} is not true or false")
        elif known[key] == "text" and not isinstance(value, str):
            raise SaltInvocationError(f"{prefix}{key}: must be text; put a number in quotes")
        elif known[key] == "port" and not (re.fullmatch(r"\d{1,5}", str(value), re.ASCII) and 0 < int(value) < 65536):
            raise SaltInvocationError(f"{prefix}{key}: {value!r} is not the number of a port")
    return found


def instances(servers, settings, known):
    """
    Return the checked settings of each server that a probe asks.

    servers
        A list of dictionaries: the probe's setting ``instances``. None if only one server is asked.

    settings
        A dictionary: the settings of that one server. Empty beside a list.

    known
        The settings of a server, as for :py:func:`checked`.

    Returns a list of pairs: the path of a server's settings (``instances.0.``, or nothing), and these settings.

    Raises SaltInvocationError for an empty list, for settings beside a list, and as :py:func:`checked` does.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.instances '[{url: "http://127.0.0.1:6800"}]' '{}' '{url: text}'
    """
    if servers is None:
        return [("", checked(settings, known))]
    if not isinstance(servers, list) or not servers:
        raise SaltInvocationError("instances: a list of one server or more is needed")
    if settings:
        raise SaltInvocationError(f"{min(settings)}: belongs to each of the instances, not beside them")
    found = [(f"instances.{number}.", server) for number, server in enumerate(servers)]
    return [(prefix, checked(server, known, prefix)) for prefix, server in found]


def uids(users, key="users"):
    """
    Return the numeric ids of users. Two names may share one.

    users
        A list of user names. None stands for all users, and gives None.

    key
        The path of the setting, for the error message.

    Raises SaltInvocationError if the list is empty, or if a user does not exist.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.uids '[root, nobody]'
    """
    if users is None:
        return None
    if not isinstance(users, (list, tuple)) or not users:
        raise SaltInvocationError(f"{key}: a list of one user name or more is needed")
    found = []
    for user in users:
        try:
            found.append(pwd.getpwnam(user).pw_uid)
        except (KeyError, TypeError, ValueError):
            raise SaltInvocationError(f"{key}: there is no user {user!r} on this machine") from None
    return found


# The process table


def require_visibility():
    """
    Return True if the processes of all users can be seen.

    Raises CommandExecutionError if not: without psutil, on other systems than Linux, and where ``/proc`` is mounted
    with ``hidepid`` and the minion does not run as root, or as a root without ``CAP_SYS_PTRACE`` (as in containers).
    Nothing would be found then, but that does not mean that nothing runs.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.require_visibility
    """
    if not sys.platform.startswith("linux"):
        raise CommandExecutionError("the process table can be read on Linux only")
    if psutil is None:
        raise CommandExecutionError("psutil is not installed, so the process table cannot be read")
    try:
        hidden = _hidden(pathlib.Path("/proc/self/mountinfo").read_text(errors="replace"))
        psutil.Process(1).name()
    except (psutil.Error, OSError):
        hidden = True
    if hidden:
        raise CommandExecutionError(DENIED)
    return True


def _hidden(mounts):
    """Whether the mount options of /proc hide other users' processes from us."""
    options = []
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        if place.split()[4:5] == ["/proc"]:
            options = kind.split()[2].split(",")  # a later mount covers the earlier ones
    options = dict(option.partition("=")[::2] for option in options)
    if options.get("hidepid", "0") in ("0", "off"):
        return False
    group = options.get("gid", "") if options["hidepid"] not in ("4", "ptraceable") else ""
    if group.isdecimal() and int(group) in {os.getegid(), *os.getgroups()}:
        return False
    return not _is_allowed_to_trace()


def _is_allowed_to_trace():
    status = pathlib.Path("/proc/self/status").read_text(errors="replace")
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(effective and int(effective[1], 16) >> CAP_SYS_PTRACE & 1)


def require_insight(uids=None):
    """
    Return True if the environment and the open files of these users' processes can be read, not only their names.

    uids
        The users' numeric ids. Default: all users that have processes.

    Raises CommandExecutionError if not: where the minion does not run as root, or as a root without
    ``CAP_SYS_PTRACE``, and these users are others than its own.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.require_insight '[1000]'
    """
    if not _is_allowed_to_trace():
        others = set()
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                others.add(os.stat(f"/proc/{pid}").st_uid)
        others = (others if uids is None else others & {*uids}) - {os.geteuid()}
        if others:
            raise CommandExecutionError(BLIND)
    return True


def listing(commands=False):
    """
    Return all live processes of this machine, except the kernel's own.

    commands
        Whether to read their command lines, too. Default: False.

    Returns a list of dictionaries, ordered by id:

    pid, ppid
        The ids of the process and of its parent.
    above
        The ids of all its ancestors, its parent first.
    asking
        Whether it only asks what is running: the process that calls this function, those for which
        :py:func:`busy.check <busy.check>` was asked, Salt's own commands of the functions ``busy.check`` and
        ``busy.wait``, and all that these run below. So are the ancestors of all of these.
    name
        The name of its program, at most 15 characters.
    state
        A letter, as in ``/proc/PID/stat``.
    group, session
        The ids of its process group and of its session.
    terminal
        The device number of its terminal; 0 without one.
    foreground
        The id of the process group to which its terminal listens; -1 without a terminal.
    forked
        Whether it still runs the program of its parent.
    since
        Its start, in seconds since the epoch.
    mark
        Its id and its start, in clock ticks since the boot: no other process has the same, now or later.
    argv
        Only with ``commands``: its command line, a list. It may hold secrets.
    what
        Only with ``commands``: the leading words of its command line, without options.

    Raises CommandExecutionError if other users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.listing
    """
    require_visibility()
    # psutil.process_iter() remembers processes, and leaves out a new one that has the id of an old one.
    boot, tick = psutil.boot_time(), os.sysconf("SC_CLK_TCK")
    table, askers = {}, set(__context__.get("busy.asking", ()))
    for pid in sorted(psutil.pids()):
        try:
            name, fields = _stat(pid)
            # If the first thread of a program has ended, that one is a zombie, and the others live on.
            ended = fields[0] in "ZX" and int(fields[17]) < 2
            # A thread of the kernel is known by its flag: in a container, its parent's id, 2, can be any process.
            if ended or int(fields[6]) & PF_KTHREAD:
                continue
            process = {
                "pid": pid,
                "ppid": int(fields[1]),
                "name": name,
                "state": fields[0],
                "group": int(fields[2]),
                "session": int(fields[3]),
                "terminal": int(fields[4]),
                "foreground": int(fields[5]),
                "forked": bool(int(fields[6]) & PF_FORKNOEXEC),
                "since": boot + int(fields[19]) / tick,
                "mark": f"{pid}.{fields[19]}",
            }
            if commands:
                process["argv"] = [name]
                with contextlib.suppress(psutil.ZombieProcess):
                    process["argv"] = psutil.Process(pid).cmdline() or [name]
                process["what"] = _leading_words(process["argv"], name)
            # The others would cost time. With setproctitle, Salt's own have the beginning of their command line.
            if name.startswith(("python", "salt", "/")) and _only_looks(_cmdline(pid)):
                askers.add(pid)
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue  # it ended just now
        except (PermissionError, psutil.AccessDenied):
            raise CommandExecutionError(DENIED) from None
        table[pid] = process
    # Not what the caller runs below: that may be a minion without processes of its own for each job, and all its jobs.
    asking = {one for asker in (os.getpid(), *askers) for one in (asker, *_ancestors(table, asker))}
    for pid, process in table.items():
        above = _ancestors(table, pid)
        process.update(above=above, asking=pid in asking or not askers.isdisjoint(above))
    return list(table.values())


def _stat(pid):
    """The name of a process, which may hold spaces and brackets, and the fields after it: from 3 on in proc(5)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as stat:
        name, _, fields = stat.read().partition("(")[2].rpartition(")")
    return name, fields.split()


def _cmdline(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")


def _only_looks(argv):
    """
    Whether a command line is one of Salt's own, whose function only asks what is running.

    Salt writes a title over it, in which spaces separate the words (setproctitle 1.3; 3006.29 and 3008.3). So the
    function is the first word that looks like one: another may run a command that has the other words.
    """
    words = " ".join(argv).split()
    if words and re.fullmatch(r"python[\d.]*", os.path.basename(words[0])):
        words = words[1:]
        while words and re.fullmatch(r"-[BEIOPSbdqsuv]+", words[0]):
            words = words[1:]
    if not words or os.path.basename(words[0]) not in SALT:
        return False
    return next((word for word in words if re.fullmatch(r"[a-z_]+\.[a-z_]+", word)), None) in LOOKING


def _ancestors(table, pid):
    line = []
    while pid in table and pid not in line:
        line.append(pid)
        pid = table[pid]["ppid"]
    return line[1:]


def _leading_words(argv, name):
    """The words that identify a command. The value of an option may be a secret, so they end before the first one."""
    if not argv or not argv[0]:
        return name
    words = [os.path.basename(argv[0]).lstrip("-") or name]  # a login shell is called "-bash"
    rest = argv[1:]
    if rest[:1] == ["-m"] and len(rest) > 1:
        words += rest[:2]
        rest = rest[2:]
    for word in rest[:2]:
        if word.startswith("-") or any(mark in word for mark in "=@\n") or "://" in word:
            break
        words.append(os.path.basename(word) or word)
    return " ".join(words)[:100]


def _read(pid, question, default):
    """What psutil knows of a process; the default if it has ended, or if we may not look."""
    try:
        return getattr(psutil.Process(pid), question)()
    except (psutil.Error, OSError):
        return default


def command(pid):
    """
    Return the leading words of the command line of a process, without options; None if it has ended.

    pid
        The process id.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.command 1
    """
    name = _read(pid, "name", None)
    return name and _leading_words(_read(pid, "cmdline", []), name)


def owner(pid, uids=None):
    """
    Return the name of the user whose process this is; None if it has ended, or belongs to none of the given users.

    pid
        The process id.

    uids
        The users' numeric ids. Default: all users.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.owner 1
    """
    real = getattr(_read(pid, "uids", None), "real", None)
    return None if real is None or (uids is not None and real not in uids) else _read(pid, "username", None)


def getenv(pid, name):
    """
    Return an environment variable of a process; None if it has none, has ended, or does not let us look.

    pid
        The process id.

    name
        The name of the variable.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.getenv 1234 TMUX
    """
    try:
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    mark = f"{name}=".encode()
    return next((os.fsdecode(entry[len(mark) :]) for entry in environment if entry.startswith(mark)), None)


def sockets(pid, kind="unix"):
    """
    Return the places where a process has sockets.

    pid
        The process id.

    kind
        ``unix`` (default) for the paths of its Unix sockets, ``tcp`` for the addresses and ports where it listens in
        this network. psutil 7 leaves out those of a container's own network.

    Returns a sorted list, which is empty if the process has ended; None if it does not let us look.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.sockets 1234 tcp
    """
    try:
        process = psutil.Process(pid)
        # psutil 6 has renamed connections().
        connections = process.net_connections if hasattr(process, "net_connections") else process.connections
        found = connections(kind=kind)
    except psutil.NoSuchProcess:
        return []
    except (psutil.Error, OSError):
        return None
    if kind == "tcp":
        return sorted([*one.laddr] for one in found if one.status == psutil.CONN_LISTEN)
    return sorted({one.laddr for one in found if str(one.laddr).startswith("/")})


# Commands


def run(argv, user, env=None, timeout=5, limit=1000000):
    """
    Run a command as a user, and return its ``retcode``, ``stdout`` and ``stderr``.

    Unlike ``cmd.run_all`` with ``runas``, this runs nothing of the user's (no shell, no profile), passes on nothing of
    the caller's (environment, terminal, working directory, groups), and limits time and output.

    argv
        A list: the program and its arguments.

    user
        The user's name.

    env
        More environment variables. ``PATH``, ``LC_ALL``, ``HOME`` and ``USER`` are always set.

    timeout
        Seconds. Then the command is killed, with all that it started in its process group. Default: 5.

    limit
        Bytes of output, both streams together. With more, the command is killed likewise. Default: one million.

    Raises CommandExecutionError if the command cannot be run, or was killed.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.run '[id, -un]' nobody
    """
    program = argv[0]
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise CommandExecutionError(f"there is no user {user!r}") from None
    identity = {}
    if account.pw_uid != os.geteuid():
        if os.geteuid():
            raise CommandExecutionError(f"the minion does not run as root, so it cannot run {program} as {user}")
        groups = os.getgrouplist(user, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": account.pw_dir,
        "USER": user,
        **(env or {}),
    }
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
            **identity,
        )
    except FileNotFoundError:
        raise CommandExecutionError(f"{program} is not installed") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise CommandExecutionError(f"{program} could not be run as {user}: {error}") from None
    with process:
        try:
            stdout, stderr = _drain(process, program, timeout, limit)
        except BaseException:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return {"retcode": process.returncode, "stdout": stdout, "stderr": stderr}


def _drain(process, program, timeout, limit):
    """Read both streams to their ends, and wait for the end of the process, within both limits."""
    deadline = time.monotonic() + timeout
    late = CommandExecutionError(f"{program} did not answer within {timeout:g} seconds")
    streams = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                raise late
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                streams[key.fileobj] += piece
                if not piece:
                    selector.unregister(key.fileobj)
            if sum(map(len, streams.values())) > limit:
                raise CommandExecutionError(f"{program} answered more than {limit} bytes")
    try:
        process.wait(max(0.01, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise late from None
    return [text.decode("utf-8", "replace") for text in streams.values()]
