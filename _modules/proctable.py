"""
What the probes share
=====================

The probes of :py:func:`busy.check <busy.check>` call these functions through ``__salt__``: to read the process table,
to find the jobs in a terminal, to run a command as another user, and to check their settings.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along, for all that reads ``/proc``

A command line may hold passwords. So a probe returns only its leading words: the program, its script or subcommand,
and nothing from the first option on.
"""

import collections
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

# Not work: shells at their prompts, programs between two shells, and agents, which outlive sessions.
SHELLS = {"ash", "bash", "csh", "dash", "fish", "ksh", "ksh93", "mksh", "rbash", "sh", "tcsh", "zsh"}
BETWEEN = {"doas", "login", "su", "sudo", "sudo-rs", "tmux: client"}
AGENTS = {"dbus-daemon", "dbus-launch", "gpg-agent", "ssh-agent"}
# At most so many more looks, if shells seem idle; and the pause before each, in seconds. Without a pause, a look may
# take less than 1 ms, and a virtual machine may stand still for longer: 8 of 27,444 answers missed one of four loops.
# With a pause of 5 or 10 ms, none of 12,399 did.
LOOKS = 4
PAUSE = 0.01
CAP_SYS_PTRACE = 19
PF_FORKNOEXEC = 0x40
PF_KTHREAD = 0x200000
DENIED = "/proc hides other users' processes (hidepid): run the minion as root, with CAP_SYS_PTRACE"
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
YEAR = 366 * 86400
NAME_LENGTH = 60  # of a session, in what people read


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
        A dictionary of all keys that may be set, each with the kind of its value: ``text``, ``boolean``, ``duration``,
        or None for any.

    prefix
        The path of the settings, such as ``patterns.1.``, for the error message.

    Raises SaltInvocationError for an unknown key, or a value of another kind. Values that may be secret are not in
    the message.

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
        if known[key] == "duration":
            found[key] = seconds(value, f"{prefix}{key}")
        elif known[key] == "boolean" and not isinstance(value, bool):
            raise SaltInvocationError(f"{prefix}{key}: {value!r} is not true or false")
        elif known[key] == "text" and not isinstance(value, str):
            raise SaltInvocationError(f"{prefix}{key}: must be text; put a number in quotes")
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
    status = pathlib.Path("/proc/self/status").read_text(errors="replace")
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return not (effective and int(effective[1], 16) >> CAP_SYS_PTRACE & 1)


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
        Whether this process, or one below it, is the one that calls this function.
    name
        The name of its program, at most 15 characters.
    state
        A letter, as in ``/proc/PID/stat``.
    group
        The id of its process group.
    terminal
        The device number of its terminal; 0 without one.
    forked
        Whether it still runs the program of its parent.
    since
        Its start, in seconds since the epoch.
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
    table = {}
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
                "terminal": int(fields[4]),
                "forked": bool(int(fields[6]) & PF_FORKNOEXEC),
                "since": boot + int(fields[19]) / tick,
            }
            if commands:
                process["argv"] = [name]
                with contextlib.suppress(psutil.ZombieProcess):
                    process["argv"] = psutil.Process(pid).cmdline() or [name]
                process["what"] = _leading_words(process["argv"], name)
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue  # it ended just now
        except (PermissionError, psutil.AccessDenied):
            raise CommandExecutionError(DENIED) from None
        table[pid] = process
    asking = {os.getpid(), *_ancestors(table, os.getpid())}
    for pid, process in table.items():
        process.update(above=_ancestors(table, pid), asking=pid in asking)
    return list(table.values())


def _stat(pid):
    """The name of a process, which may hold spaces and brackets, and the fields after it: from 3 on in proc(5)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as stat:
        name, _, fields = stat.read().partition("(")[2].rpartition(")")
    return name, fields.split()


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
        ``unix`` (default) for the paths of its Unix sockets, ``tcp`` for the ports where it listens.

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
        return sorted({one.laddr.port for one in found if one.status == psutil.CONN_LISTEN})
    return sorted({one.laddr for one in found if str(one.laddr).startswith("/")})


# Jobs in a terminal


def working(pids):
    """
    Return the jobs that work in the process trees below some processes. These processes are part of their trees.

    A process is idle if it is a shell at its prompt, su or sudo, and sleeps. A terminal multiplexer reports only the
    foreground command, neither background jobs nor what runs inside ``su``. In a tree of working processes, the
    outermost is the job: it stays the same while its children come and go. In a pipeline, the first is the job.

    A single look does not tell a shell at its prompt from a shell in a loop: the processes are read one after the
    other, and meanwhile one command of the loop ends and the next one begins. One look took ``while :; do sleep 0.02;
    done`` for a prompt in 51 of 60 cases. So a shell is idle if a second look agrees, and if it did not run at all
    between the two.

    pids
        The ids of these processes.

    Returns a dictionary that has, for each of the ids, a list of dictionaries, the oldest first: ``pid``, ``user``,
    ``what`` (the leading words of the command) and ``since`` (seconds since the epoch). The list is empty if nothing
    works there, or if the process has ended.

    Raises CommandExecutionError if other users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.working '[1234]'
    """
    found = {pid: [] for pid in pids}
    if not found:
        return found
    jobs, idle, table = _look(pids)
    for _ in range(LOOKS):
        before = idle
        if not before:
            break
        time.sleep(PAUSE)
        jobs, idle, table = _look(pids)
        restless = [pid for pid in idle if idle[pid] != before.get(pid) or idle[pid][1] is None]
        if not restless:
            break
    else:
        for pid in restless:
            _add(jobs, idle[pid][0], table[pid])
    for root, job in sorted(jobs.values(), key=lambda entry: (entry[1]["since"], entry[1]["pid"])):
        found[root].append(job)
    return found


def _look(roots):
    """
    Look once below the roots.

    Returns the jobs, {process group: (root, job)}; the idle shells, {process id: (root, pulse)}; and the process
    table, which is read before the pulses are taken.
    """
    table = {process["pid"]: process for process in listing()}
    children = collections.defaultdict(list)
    for process in table.values():
        children[process["ppid"]].append(process)
    jobs, idle = {}, {}
    for root in roots:
        queue = [table[root]] if root in table else []
        while queue:
            process = queue.pop()
            below = children[process["pid"]]
            # Whoever asks from within a session does not count as working there.
            if process["asking"]:
                queue.extend(below)
            elif _is_idle(process, bool(below)):
                queue.extend(below)
                if process["name"] in SHELLS | BETWEEN - {"tmux: client"}:
                    idle[process["pid"]] = root
            else:
                _add(jobs, root, process)
    return jobs, {pid: (root, _pulse(pid)) for pid, root in idle.items()}, table


def _add(jobs, root, process):
    """Keep this process as the job of its process group, if no older one is known."""
    pid, group, since = process["pid"], process["group"], process["since"]
    if group not in jobs or (since, pid) < (jobs[group][1]["since"], jobs[group][1]["pid"]):
        what = _leading_words(_read(pid, "cmdline", []), process["name"])
        jobs[group] = root, {"pid": pid, "user": _read(pid, "username", "?"), "what": what, "since": since}


def _is_idle(process, has_children):
    name = process["name"]
    if name in AGENTS:
        return True
    if process["state"] != "S":
        return False  # a shell in a loop, a program at work, or a job that was stopped
    return name in BETWEEN or (name in SHELLS and _is_at_prompt(process, has_children))


def _is_at_prompt(process, has_children):
    """
    Whether a sleeping shell only waits for its user, or for a child, which is looked at by itself.

    A shell with a script is that script, even while it sleeps in a builtin. A subshell, and a shell whose input is not
    its terminal, wait for something else than a user.
    """
    words = (_read(process["pid"], "cmdline", None) or ["?", "?"])[1:]
    if any(re.match(r"-[a-z]*c", word) for word in words[:2]):
        return has_children
    if not all(word.startswith("-") and not re.match(r"-[a-z]*s", word) for word in words):
        return False
    try:
        reads_terminal = os.stat(f"/proc/{process['pid']}/fd/0").st_rdev == process["terminal"] != 0
    except OSError:
        return False
    return reads_terminal and (has_children or not process["forked"])


def _pulse(pid):
    """What changes whenever a process runs: its state, and how often it gave up or lost the processor."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as status:
            return [line for line in status if line.startswith(("State:", "voluntary_ctxt", "nonvoluntary_ctxt"))]
    except OSError:
        return None


def detached(variable, servers):
    """
    Return the processes that left a session of a terminal multiplexer, for example with ``setsid -f``.

    They are no longer below its server, but still have its mark in their environment.

    variable
        The mark: ``TMUX`` or ``STY``.

    servers
        The process ids of the multiplexer's servers.

    Returns a list of dictionaries: ``pid``, the outermost process of each tree, and ``server``, the process id in the
    mark. This server may have ended.

    Raises CommandExecutionError if other users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.detached TMUX '[1234]'
    """
    servers = set(servers)
    above, marked = {}, {}
    for process in listing():
        pid = process["pid"]
        if process["name"] == "tmux: client" or servers & {pid, *process["above"]}:
            continue
        mark = getenv(pid, variable) or ""
        # tmux: SOCKET,SERVER,SESSION; screen: SERVER.NAME
        server = re.fullmatch(r".*,(\d+),\d+", mark, re.ASCII | re.DOTALL) or re.match(r"(\d+)\.", mark, re.ASCII)
        if server:
            above[pid], marked[pid] = process["above"], int(server[1])
    return [{"pid": pid, "server": server} for pid, server in marked.items() if not marked.keys() & set(above[pid])]


def session_answer(sessions, idle_shells, unknowns=()):
    """
    Return the three lists of a probe for the sessions of a terminal multiplexer.

    sessions
        A list of dictionaries: ``user``, ``session`` (its name, or None), ``created`` (seconds since the epoch),
        ``pid`` and ``jobs``, a list as :py:func:`working` has it.

    idle_shells
        ``ignore``: a session without jobs is information. ``block``: it is a blocker.

    unknowns
        The reasons why something is unknown.

    Raises SaltInvocationError for any other ``idle_shells``.

    CLI Example:

    .. code-block:: bash

        salt-call proctable.session_answer '[]' ignore
    """
    if idle_shells not in ("ignore", "block"):
        raise SaltInvocationError(f"idle_shells: {idle_shells!r} is neither 'ignore' nor 'block'")
    answer = {"blockers": [], "unknowns": [{"why": why} for why in unknowns], "info": []}
    for session in sessions:
        user, name = session["user"], session["session"] or "(no name)"
        shown = name[:NAME_LENGTH]
        # By convention, a session's name says whom to ask.
        ask = f"{shown} ({user})" if session["session"] else user
        for job in session["jobs"]:
            what = f"{shown}: {job['what']}"
            blocker = {"id": f"{user}:{name}:{job['pid']}", "user": job["user"], "what": what, "since": job["since"]}
            answer["blockers"].append({**blocker, "ask": ask})
        if not session["jobs"]:
            what = f"{shown}: a shell"
            idle = {"id": f"{user}:{name}:{session['pid']}", "user": user, "what": what, "since": session["created"]}
            answer["blockers" if idle_shells == "block" else "info"].append({**idle, "ask": ask})
    return answer


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
