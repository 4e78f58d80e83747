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
import pwd
import re
import selectors
import signal
import subprocess
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
    Make sure that other users' processes can be seen, and return True.

    Raises CommandExecutionError if ``/proc`` is mounted with ``hidepid`` and the minion does not run as root: nothing
    would be found then, which is not the same as that nothing runs.

    CLI Example:

    .. code-block:: bash

        salt-call processes.visible
    """
    if os.geteuid():
        try:
            psutil.Process(1).name()
        except psutil.Error:
            raise CommandExecutionError(
                "/proc hides other users' processes (hidepid): run the minion as root"
            ) from None
    return True


def _table():
    """All live processes by id, with what one read of /proc/PID/stat tells of each."""
    visible()
    processes = psutil.process_iter(["name", "ppid", "status", "create_time"])
    return {process.pid: process for process in processes if process.info["status"] not in ("zombie", "dead", None)}


def _children(table):
    children = collections.defaultdict(list)
    for process in table.values():
        children[process.info["ppid"]].append(process)
    return children


def _asked(process, question, default):
    """The answer of a process that may end, or be closed to us, while it is asked."""
    try:
        return getattr(process, question)()
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


def _at_prompt(argv, has_children):
    """
    Whether this sleeping shell only waits: for its user, or for the child that is looked at in its own right. A shell
    that was started with a script is that script, even while it sleeps in a builtin.
    """
    words = argv[1:]
    if any(re.match(r"-[a-z]*c", word) for word in words[:2]):
        return has_children
    return all(word.startswith("-") and not re.match(r"-[a-z]*s", word) for word in words)


def _idle(process, has_children):
    name = process.info["name"]
    if name in AGENTS:
        return True
    if process.info["status"] != "sleeping":
        return False  # a shell's own loop, or one in the middle of something; a job that was stopped, too
    return name in BETWEEN or (name in SHELLS and _at_prompt(_asked(process, "cmdline", [name, "?"]), has_children))


def working(pids):
    """
    Return the jobs that work in the process trees below some processes, themselves included.

    A process is idle if it is a shell at its prompt, or su or sudo, and sleeps: the foreground command that a terminal
    multiplexer reports shows neither background jobs, nor what runs inside ``su``. Of a tree of working processes the
    outermost is returned, because it stays the same while its children come and go; of a pipeline, the first.

    pids
        The process ids to begin at. Those that are gone are left out.

    Returns a list of dictionaries, the oldest first: ``root`` (the id it was found below), ``pid``, ``user``, ``what``
    (the leading words of its command) and ``since`` (seconds since the epoch).

    CLI Example:

    .. code-block:: bash

        salt-call processes.working '[1234]'
    """
    table = _table()
    children = _children(table)
    jobs = {}
    for root in pids:
        queue = [table[root]] if root in table else []
        while queue:
            process = queue.pop()
            below = children[process.pid]
            if _idle(process, bool(below)):
                queue.extend(below)
                continue
            job = {
                "root": root,
                "pid": process.pid,
                "user": _asked(process, "username", "?"),
                "what": _describe(_asked(process, "cmdline", []), process.info["name"]),
                "since": process.info["create_time"],
            }
            try:
                group = os.getpgid(process.pid)
            except OSError:
                continue  # it ended just now
            if group not in jobs or (job["since"], job["pid"]) < (jobs[group]["since"], jobs[group]["pid"]):
                jobs[group] = job
    return sorted(jobs.values(), key=lambda job: (job["since"], job["pid"]))


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
    return {"match": "*", **entry, "older_than": seconds(entry.get("older_than", older_than))}


def _names(argv, name):
    """What a process can be called: its name, its program, its script if the program interprets one; or all of it."""
    programs = [os.path.basename(word) for word in argv[:2] if not word.startswith("-")]
    return {name, *programs, " ".join(argv)}


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
    table = _table()

    def line(pid):
        seen = []
        while pid in table and pid not in seen:
            seen.append(pid)
            pid = table[pid].info["ppid"]
        return seen

    spared = set(line(os.getpid()))
    found = {}
    for pid, process in table.items():
        argv = _asked(process, "cmdline", [])
        if not argv or pid in spared:
            continue
        name, age = process.info["name"], time.time() - process.info["create_time"]
        for entry in wanted:
            if age < entry["older_than"] or not any(
                fnmatch.fnmatchcase(text, entry["match"]) for text in _names(argv, name)
            ):
                continue
            if "under" in entry and not any(
                fnmatch.fnmatchcase(table[above].info["name"], entry["under"]) for above in line(pid)[1:]
            ):
                continue
            user = _asked(process, "username", "?")
            if entry.get("user", user) != user:
                continue
            label = entry["match"] if entry["match"] != "*" else entry.get("under", entry.get("user"))
            since = process.info["create_time"]
            what = _describe(argv, name)
            found[pid] = {"pid": pid, "user": user, "what": what, "since": since, "pattern": label}
            break
    outermost = [job for pid, job in found.items() if not any(above in found for above in line(pid)[1:])]
    return sorted(outermost, key=lambda job: (job["since"], job["pid"]))


def probe(patterns, older_than=0):
    """
    Tell :py:func:`busy.check <busy.check>` which processes match the patterns: each one is a blocker.

    The arguments are those of :py:func:`find`.

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
