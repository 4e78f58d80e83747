"""
What runs on this machine, from the process table
=================================================

A probe of :py:func:`busy.check <busy.check>` (patterns of commands that nobody should interrupt), and what the other
probes share: which jobs work below a terminal, and how to run a command as somebody else without running anything of
theirs.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

Everything is read from ``/proc`` through psutil. Command lines may hold passwords, so only the leading words of one
are ever returned: the program, its script or subcommand, and nothing from the first option on.
"""

import collections
import contextlib
import fnmatch
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

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False

# A shell at its prompt is nobody's work; neither is what stands between two shells, nor what outlives every session.
SHELLS = {"ash", "bash", "csh", "dash", "fish", "ksh", "ksh93", "mksh", "rbash", "sh", "tcsh", "zsh"}
BETWEEN = {"doas", "login", "su", "sudo", "sudo-rs", "tmux: client"}
AGENTS = {"dbus-daemon", "dbus-launch", "gpg-agent", "ssh-agent"}
# How often to look whether a shell that seems idle stays so. One look is some 10 ms long.
LOOKS = 4
CAP_SYS_PTRACE = 19
PF_FORKNOEXEC = 0x40
PF_KTHREAD = 0x200000
DENIED = "/proc hides other users' processes (hidepid): run the minion as root, with CAP_SYS_PTRACE"
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def __virtual__():
    if HAS_PSUTIL:
        return True
    return False, "psutil is not installed"


def seconds(duration):
    """
    Return a duration in seconds.

    duration
        A number of seconds, or a number with one of the units ``s``, ``m``, ``h``, ``d`` and ``w``.

    Raises SaltInvocationError for anything else.

    CLI Example:

    .. code-block:: bash

        salt-call processes.seconds 1h
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]?)", str(duration).strip(), re.ASCII)
    if isinstance(duration, bool) or not found:
        raise SaltInvocationError(f"{duration!r} is not a duration: write a number of seconds, or 90s, 15m, 1h, 2d")
    return float(found[1]) * UNITS[found[2]]


def visible():
    """
    Make sure that everybody's processes can be seen, and return True.

    Raises CommandExecutionError if not, as where ``/proc`` is mounted with ``hidepid`` and the minion does not run as
    root, or as a root without ``CAP_SYS_PTRACE``, as containers have it: nothing would be found then, which is not
    the same as that nothing runs.

    CLI Example:

    .. code-block:: bash

        salt-call processes.visible
    """
    if not sys.platform.startswith("linux"):
        raise CommandExecutionError("whose processes run is known on Linux only")
    try:
        hidden = _hidden(pathlib.Path("/proc/self/mountinfo").read_text(errors="replace"))
        psutil.Process(1).name()
    except (psutil.Error, OSError):
        hidden = True
    if hidden:
        raise CommandExecutionError(DENIED)
    return True


def _hidden(mounts):
    """Whether the options that /proc is mounted with hide others' processes from us."""
    options = []
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        if place.split()[4:5] == ["/proc"]:
            options = kind.split()[2].split(",")  # a later mount covers those before
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
    Return all live processes of this machine, but for the kernel's own.

    commands
        Whether to read their command lines as well. Default: False.

    Returns a list of dictionaries, by their ids: ``pid``, ``ppid``, ``name``, ``state`` (a letter, as in
    ``/proc/PID/stat``), ``group`` (of its job), ``terminal`` (its device's number), ``forked`` (whether it still runs
    the program of its parent), ``since`` (seconds since the epoch) and, if wanted, ``argv``.

    Raises CommandExecutionError if others' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call processes.listing
    """
    visible()
    # Not psutil.process_iter(): it keeps what it knows of a process, and leaves out one whose id another one had.
    boot, tick = psutil.boot_time(), os.sysconf("SC_CLK_TCK")
    found = []
    for pid in sorted(psutil.pids()):
        try:
            name, fields = _stat(pid)
            # Of a program whose first thread has ended, that one is a zombie, and the others live on.
            ended = fields[0] in "ZX" and int(fields[17]) < 2
            # Not by the parent 2, which in a container is anybody.
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
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue  # it ended just now
        except (PermissionError, psutil.AccessDenied):
            raise CommandExecutionError(DENIED) from None
        found.append(process)
    return found


def _stat(pid):
    """The name of a process, which may hold spaces and brackets, and the fields behind it: see proc(5), from 3 on."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as stat:
        name, _, fields = stat.read().partition("(")[2].rpartition(")")
    return name, fields.split()


def _children(table):
    children = collections.defaultdict(list)
    for process in table.values():
        children[process["ppid"]].append(process)
    return children


def _line(table, pid):
    """A process and its ancestors."""
    line = []
    while pid in table and pid not in line:
        line.append(pid)
        pid = table[pid]["ppid"]
    return line


def _asked(pid, question, default):
    """The answer of a process that may end, or be closed to us, while it is asked."""
    try:
        return getattr(psutil.Process(pid), question)()
    except (psutil.Error, OSError):
        return default


def _describe(argv, name):
    """The leading words of a command line: enough to know it by, and no option's value, which may be a secret."""
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


def _at_prompt(process, has_children):
    """
    Whether this sleeping shell only waits: for its user, or for the child that is looked at in its own right. A shell
    that was started with a script is that script, even while it sleeps in a builtin; and a subshell, or one whose
    input is not its terminal, waits for something else than its user.
    """
    words = (_asked(process["pid"], "cmdline", None) or ["?", "?"])[1:]
    if any(re.match(r"-[a-z]*c", word) for word in words[:2]):
        return has_children
    if not all(word.startswith("-") and not re.match(r"-[a-z]*s", word) for word in words):
        return False
    try:
        reads_terminal = os.stat(f"/proc/{process['pid']}/fd/0").st_rdev == process["terminal"] != 0
    except OSError:
        return False
    return reads_terminal and (has_children or not process["forked"])


def _idle(process, has_children):
    name = process["name"]
    if name in AGENTS:
        return True
    if process["state"] != "S":
        return False  # a shell's own loop, or one in the middle of something; a job that was stopped, too
    return name in BETWEEN or (name in SHELLS and _at_prompt(process, has_children))


def _pulse(pid):
    """What changes whenever a process does anything: its state, and how often it gave up or lost the processor."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as status:
            return [line for line in status if line.startswith(("State:", "voluntary_ctxt", "nonvoluntary_ctxt"))]
    except OSError:
        return None


def _look(roots):
    """
    What is below these processes: the jobs by their group, {group: job}, the shells that are idle, {process id: (root,
    pulse)}, and the process table. The pulses are taken after the table has been read.
    """
    table = {process["pid"]: process for process in listing()}
    children, spared = _children(table), set(_line(table, os.getpid()))
    jobs, idle = {}, {}
    for root in roots:
        queue = [table[root]] if root in table else []
        while queue:
            process = queue.pop()
            below = children[process["pid"]]
            # Whoever asks from within a session does not work there.
            if process["pid"] in spared:
                queue.extend(below)
            elif _idle(process, bool(below)):
                queue.extend(below)
                if process["name"] in SHELLS | BETWEEN - {"tmux: client"}:
                    idle[process["pid"]] = (root, None)
            else:
                _add(jobs, root, process)
    return jobs, {pid: (root, _pulse(pid)) for pid, (root, _) in idle.items()}, table


def _add(jobs, root, process):
    """Put a job into the list, if it is the first of its group."""
    pid, group = process["pid"], process["group"]
    if group not in jobs or (process["since"], pid) < (jobs[group]["since"], jobs[group]["pid"]):
        jobs[group] = {
            "root": root,
            "pid": pid,
            "user": _asked(pid, "username", "?"),
            "what": _describe(_asked(pid, "cmdline", []), process["name"]),
            "since": process["since"],
        }


def working(pids):
    """
    Return the jobs that work in the process trees below some processes, themselves included.

    A process is idle if it is a shell at its prompt, or su or sudo, and sleeps: the foreground command that a terminal
    multiplexer reports shows neither background jobs, nor what runs inside ``su``. Of a tree of working processes the
    outermost is returned, because it stays the same while its children come and go; of a pipeline, the first.

    The process table is read one process after the other, and while it is read, a command of a shell's loop ends and
    the next one begins: one look took such a loop for a prompt in 51 of 60 cases (``while :; do sleep 0.02; done``).
    So a shell is idle if a second look finds it so, and if it did nothing at all between the two.

    pids
        The process ids to begin at. Those that are gone are left out.

    Returns a list of dictionaries, the oldest first: ``root`` (the id it was found below), ``pid``, ``user``, ``what``
    (the leading words of its command) and ``since`` (seconds since the epoch).

    CLI Example:

    .. code-block:: bash

        salt-call processes.working '[1234]'
    """
    jobs, idle, table = _look(pids)
    for _ in range(LOOKS):
        before = idle
        if not before:
            break
        jobs, idle, table = _look(pids)
        restless = [pid for pid in idle if idle[pid] != before.get(pid) or idle[pid][1] is None]
        if not restless:
            break
    else:
        for pid in restless:
            _add(jobs, idle[pid][0], table[pid])
    return sorted(jobs.values(), key=lambda job: (job["since"], job["pid"]))


def left(variable, servers):
    """
    Return the processes that left a terminal multiplexer's session, as with ``setsid -f`` or a double fork.

    They are not below its server any more, and keep its mark in their environment.

    variable
        ``TMUX`` or ``STY``.

    servers
        The process ids of the multiplexer's servers, which are left out themselves.

    Returns a list of dictionaries: ``pid``, the outermost of each tree, and ``server``, the process id in the mark,
    whether it is one of the servers, or is of one that has ended.

    CLI Example:

    .. code-block:: bash

        salt-call processes.left TMUX '[1234]'
    """
    table = {process["pid"]: process for process in listing()}
    ours, servers = set(_line(table, os.getpid())), set(servers)
    marked = {}
    for pid, process in table.items():
        if (
            pid in ours
            or pid in servers
            or process["name"] == "tmux: client"
            or servers.intersection(_line(table, pid))
        ):
            continue
        try:
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        mark = next((one.partition(b"=")[2] for one in environment if one.startswith(f"{variable}=".encode())), b"")
        # tmux: SOCKET,SERVER,SESSION; screen: SERVER.NAME
        server = re.fullmatch(rb".*,(\d+),\d+", mark, re.DOTALL) or re.match(rb"(\d+)\.", mark)
        if server:
            marked[pid] = int(server[1])
    return [
        {"pid": pid, "server": server}
        for pid, server in sorted(marked.items())
        if not marked.keys() & set(_line(table, pid)[1:])
    ]


def uids(users):
    """
    Return the numeric ids of some users, which two names may share; None for None, which is everybody.

    users
        A list of user names.

    Raises SaltInvocationError if it is none, or if a user does not exist.

    CLI Example:

    .. code-block:: bash

        salt-call processes.uids '[root]'
    """
    if users is None:
        return None
    if not isinstance(users, list) or not users:
        raise SaltInvocationError("users: a list of user names is needed, or nothing, for everybody")
    found = []
    for user in users:
        try:
            found.append(pwd.getpwnam(user).pw_uid)
        except (KeyError, TypeError, ValueError):
            raise SaltInvocationError(f"users: there is no user {user!r} on this machine") from None
    return found


def owner(pid, uids=None):
    """
    Return the name of the user whose process this is; None if it has ended, or is of none of some users.

    pid
        The process id.

    uids
        The users' numeric ids. Default: everybody.

    CLI Example:

    .. code-block:: bash

        salt-call processes.owner 1
    """
    real = getattr(_asked(pid, "uids", None), "real", None)
    return None if real is None or (uids is not None and real not in uids) else _asked(pid, "username", None)


def run(argv, user, env=None, timeout=5, limit=1000000):
    """
    Run a command as a user, and return its ``retcode``, ``stdout`` and ``stderr``.

    Unlike ``cmd.run_all`` with ``runas``, nothing of the user's is run (no shell, no profile), nothing of the caller's
    is inherited (environment, terminal, working directory, groups), and time and output are bounded.

    argv
        A list: the program and its arguments.

    user
        The user's name.

    env
        More environment variables. ``PATH``, ``LC_ALL``, ``HOME`` and ``USER`` are always set.

    timeout
        Seconds after which the command, and all that it started in its process group, is killed.

    limit
        Bytes of output, of both streams together, after which the same happens.

    Raises CommandExecutionError if the command cannot be run, or is cut short.

    CLI Example:

    .. code-block:: bash

        salt-call processes.run '[id, -un]' nobody
    """
    program = argv[0]
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise CommandExecutionError(f"there is no user {user!r}") from None
    identity = {}
    if account.pw_uid != os.geteuid():
        if os.geteuid():
            raise CommandExecutionError(f"the minion does not run as root: it cannot ask {program} as {user}")
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
            stdout, stderr = _drain(process, program, time.monotonic() + timeout, timeout, limit)
        except BaseException:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return {"retcode": process.returncode, "stdout": stdout, "stderr": stderr}


def _drain(process, program, deadline, timeout, limit):
    """Read both streams to their ends, within the deadline and the limit."""
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


def _pattern(pattern, older_than):
    """One entry of ``patterns``, checked."""
    entry = {"match": pattern} if isinstance(pattern, str) else pattern
    if not isinstance(entry, dict) or not entry or not set(entry) <= {"match", "under", "user", "older_than"}:
        raise SaltInvocationError(
            f"patterns: {pattern!r} is neither a pattern nor any of match, under, user, older_than"
        )
    if not (entry.get("match") or entry.get("under") or entry.get("user")):
        raise SaltInvocationError(f"patterns: {pattern!r} would match every process: give match, under or user")
    wanted = {"match": "*", **entry, "older_than": seconds(entry.get("older_than", older_than))}
    for key in ("match", "under"):
        if not isinstance(wanted.get(key, ""), str):
            raise SaltInvocationError(f"patterns: {key} of {pattern!r} is not a text")
    return {**wanted, "uids": uids([wanted["user"]])} if "user" in wanted else wanted


def _names(argv, name):
    """What a process can be called: its name, its program, its script if the program interprets one; or all of it."""
    script = next((word for word in argv[1:] if not word.startswith("-")), "")
    return {name, os.path.basename(argv[0]), os.path.basename(script), " ".join(argv)} - {""}


def _is_under(table, pid, pattern):
    """Whether the program of that name is above this process, which is not just a fork of it, as cron makes first."""
    own, *above = [fnmatch.fnmatchcase(table[one]["name"], pattern) for one in _line(table, pid)]
    return any(above) and not (own and table[pid]["forked"])


def find(patterns, older_than=0):
    """
    Return the processes that match one of some patterns.

    Left out are kernel threads, the process that asks and its ancestors (the minion itself), and children of processes
    that match as well.

    patterns
        A list. Each one is a glob for the program's name (``rsync``, ``pg_dump*``), or for the whole command line
        (``*manage.py load*``), or a dictionary of ``match`` (such a glob), ``under`` (the name of an ancestor:
        ``cron``), ``user`` and ``older_than``.

    older_than
        The minimum age, unless a pattern has its own. A duration: ``90s``, ``10m``, ``1h``.

    Returns a list of dictionaries, the oldest first: ``pid``, ``user``, ``what``, ``since`` and ``pattern``.

    CLI Example:

    .. code-block:: bash

        salt-call processes.find '[rsync, {under: cron, older_than: 10m}]'
    """
    if not isinstance(patterns, (list, tuple)) or not patterns:
        raise SaltInvocationError("patterns: a list of one pattern or more is needed")
    wanted = [_pattern(pattern, older_than) for pattern in patterns]
    table = {process["pid"]: process for process in listing(commands=True)}
    spared = set(_line(table, os.getpid()))
    found = {}
    for pid, process in table.items():
        if pid in spared:
            continue
        name, argv, age = process["name"], process["argv"], max(0, time.time() - process["since"])
        for entry in wanted:
            if age < entry["older_than"] or not any(
                fnmatch.fnmatchcase(text, entry["match"]) for text in _names(argv, name)
            ):
                continue
            if "under" in entry and not _is_under(table, pid, entry["under"]):
                continue
            user = owner(pid, entry.get("uids"))
            if user is None:
                continue
            label = entry["match"] if entry["match"] != "*" else entry.get("under", entry.get("user"))
            found[pid] = {
                "pid": pid,
                "user": user,
                "what": _describe(argv, name),
                "since": process["since"],
                "pattern": label,
            }
            break
    outermost = [job for pid, job in found.items() if not found.keys() & set(_line(table, pid)[1:])]
    return sorted(outermost, key=lambda job: (job["since"], job["pid"]))


def probe(patterns, older_than=0):
    """
    Tell :py:func:`busy.check <busy.check>` which processes match the patterns: each one is a blocker.

    The arguments are those of :py:func:`find`.

    Returns the three lists of a probe, as the module ``busy`` describes them.

    Raises SaltInvocationError for settings that are wrong.

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
