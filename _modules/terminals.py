"""
Work in the sessions of terminal multiplexers
=============================================

What the probes of tmux and Screen share: which processes of a session are work, and which only wait for their user.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

A multiplexer tells only the foreground command of a pane: neither background jobs nor what runs inside ``su``. So the
process table is read, and with it how each terminal is set and what each process waits for.
"""

import collections
import contextlib
import fnmatch
import functools
import os
import pathlib
import re
import signal
import stat
import termios
import time

from salt.exceptions import SaltInvocationError

SHELLS = {"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "ksh93", "mksh", "rbash", "sh", "tcsh", "zsh"}
SERVERS = ("screen", "tmux: server*")
# No work: programs between two shells, multiplexers, and agents and caches, which outlive their sessions. Globs of a
# process's name or of the leading words of its command.
NO_WORK = (
    *("dbus-run-sessio*", "doas", "login", "newgrp", "runuser", "script", "sg", "su", "sudo", "sudo-rs"),
    *("timeout", "tmux: client", "unshare"),
    *SERVERS,
    *("dbus-daemon", "dbus-launch", "dirmngr", "gitstatusd*", "gpg-agent", "keyboxd", "scdaemon", "ssh-agent"),
    *("git credential-cache--daemon*", "git-credential-cache--daemon*", "git fsmonitor--daemon*"),
)
# Where a process waits in the kernel (/proc/PID/wchan) for the input of a terminal; and how many bytes dash (8192) and
# bash without its line editor (1024) then read for a command. For `read`, all shells read 1, or bash 4096.
READS_TERMINAL = {"n_tty_read", "wait_woken"}
READS_COMMAND = {1024, 8192}
# fish's options whose value is the next word.
FISH_OPTIONS = {"-C", "-D", "-d", "-f", "-o", "-p", "--debug", "--debug-output", "--features", "--init-command"}
PSEUDO_TERMINALS = range(136, 144)  # their device numbers, in Linux's Documentation/admin-guide/devices.txt
# What is younger than that, in seconds, may be the helper of a prompt, and has a few more looks to end.
YOUNG = 0.5
LOOKS = 6
PAUSE = 0.1
MEMBERS = 3  # of a group of jobs, in what people read
NAME_LENGTH = 60  # of a session, in what people read


def panes(servers, variable, users=None, ignore=()):
    """
    Return the panes (windows) of servers of a multiplexer, and what works in each.

    A process is no work if it is

    - a shell at its prompt, which has its terminal, and whose line editor has set that up; or if it has no line
      editor, which reads a command there. A shell that has lent its terminal to what it started waits for that, which
      is looked at by itself;
    - a program between two shells, such as su, or an agent (``NO_WORK``);
    - the process that asks, what it has started, and what is above it;
    - a program that reads a pipe into which only such processes can write, as ``tee`` in ``exec > >(tee log)``; and
      one that writes for the prompt of the shell that started it, as in zsh's ``exec {fd}< <(…)``;
    - a helper of the multiplexer itself, as for its status line.

    Of a tree of working processes, the outermost is the job: it stays the same while its children come and go. What is
    half a second old, or a shell that is just drawing its prompt, has half a second to end.

    What left a pane counts as well: by the mark in its environment, by the session of a pane, by a pane's terminal
    that it keeps open, or as a job whose own terminal is gone.

    servers
        The process ids of the servers.

    variable
        The mark: ``TMUX`` or ``STY``.

    users
        A list of user names: those whose servers count, and those whose work counts in any pane, as where root has
        called ``su``. Default: all users.

    ignore
        More names of programs that are no work, as globs.

    Returns a list of dictionaries: ``user`` (whose server it is), ``server`` (the process id, also of a server that
    has ended; None if it is not known), ``pid``, ``mark``, ``left`` (whether it is no pane, but left one), and
    ``jobs``, the oldest first: ``pid``, ``mark``, ``user``, ``what`` (the leading words of the command) and ``since``
    (seconds since the epoch). What left a pane is listed only if it works.

    Raises CommandExecutionError if other users' processes cannot be seen, or not be looked into.

    CLI Example:

    .. code-block:: bash

        salt-call terminals.panes '[1234]' TMUX
    """
    wanted = __salt__["proctable.uids"](users)
    if not isinstance(ignore, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in ignore):
        raise SaltInvocationError("ignore: a list of names of programs is needed")
    __salt__["proctable.require_insight"](wanted)
    ran = {}
    for rest in reversed(range(LOOKS)):
        look = _Look(servers, variable, (*NO_WORK, *ignore))
        if not rest or not look.may_be_over(ran):
            break
        time.sleep(PAUSE)
    return look.found(wanted)


class _Look:
    """One look at all processes: what works below the panes of some servers, and what left them."""

    def __init__(self, servers, variable, no_work):
        self._now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._no_work, self._servers = no_work, set(servers)
        self._table = {process["pid"]: process for process in __salt__["proctable.listing"]()}
        self._children = collections.defaultdict(list)
        for process in self._table.values():
            self._children[process["ppid"]].append(process)
        self._idle = {pid for pid, process in self._table.items() if process["asking"] or pid in servers}
        self._interactive, self._prompts = set(), set()
        self._panes = [
            {"server": server, "pid": child["pid"], "mark": child["mark"], "left": False}
            for server in servers
            if server in self._table
            for child in self._below(self._table[server])
        ]
        self._panes += self._left(servers, variable)
        jobs = {pane["pid"]: self._work(self._table[pane["pid"]]) for pane in self._panes}
        serving = self._serving([job["pid"] for found in jobs.values() for job in found])
        for pane in self._panes:
            pane["jobs"] = [job for job in jobs[pane["pid"]] if job["pid"] not in serving]

    def found(self, wanted):
        """The panes, and what left them and works; of the wanted users (numeric ids, or None for all)."""
        owner = functools.cache(__salt__["proctable.owner"])
        wanted = wanted and frozenset(wanted)
        answer = []
        for pane in self._panes:
            # Of a server that has ended, another process may have the id by now.
            lives = pane["server"] in self._servers and pane["server"] in self._table
            first = pane["server"] if lives else pane["pid"]
            concerned = any(owner(pid, wanted) for pid in (first, *(job["pid"] for job in pane["jobs"])))
            if concerned and (pane["jobs"] or not pane["left"]) and (user := owner(first, None)):
                jobs = sorted(pane["jobs"], key=lambda job: (job["since"], job["pid"]))
                answer.append({"user": user, **pane, "jobs": jobs})
        return answer

    def may_be_over(self, ran):
        """
        Whether a job can be over in a moment: if it is young; or if it is a shell that may be about to show its
        prompt, because it runs. ``ran`` keeps, from one look to the next, how often each shell has run.
        """
        jobs = [job for pane in self._panes for job in pane["jobs"]]
        before = dict(ran)
        ran.update((job["pid"], _switches(job["pid"])) for job in jobs if job["pid"] in self._interactive)
        begun = (int(job["mark"].partition(".")[2]) / os.sysconf("SC_CLK_TCK") for job in jobs)
        return ran != before or any(self._now - moment < YOUNG for moment in begun)

    def _work(self, process):
        """The jobs in the tree of a process."""
        pid, name = process["pid"], process["name"]
        below = [job for child in self._below(process) for job in self._work(child)]
        if process["asking"]:
            return below
        if process["state"] == "T" or (name not in SHELLS and not self._is_no_work(process)):
            return [self._job(process)]
        if name not in SHELLS:
            self._idle.add(pid)
            return below
        if _is_interactive(process):
            self._interactive.add(pid)
            if _is_at_prompt(process):
                self._prompts.add(pid)
            elif not self._waits_for_what_it_started(process):
                return [self._job(process), *below]
            self._idle.add(pid)
            return below
        # A script that has led to a shell at its prompt waits for whoever sits there.
        if not below and self._prompts & {each["pid"] for each in self._tree(process)}:
            self._idle.add(pid)
            return []
        return [self._job(process, below if process["forked"] or _has_command(pid) else ())]

    def _job(self, process, members=()):
        """
        A working process. The shell of a group of commands is the job, but says nothing: they are named in its place.
        """
        pid = process["pid"]
        named = [member["what"] for member in members]
        what = ", ".join(named[:MEMBERS]) + (", …" if len(named) > MEMBERS else "")
        return {
            **{key: process[key] for key in ("pid", "mark", "since")},
            "user": __salt__["proctable.owner"](pid) or "?",
            "what": what or __salt__["proctable.command"](pid) or process["name"],
        }

    def _below(self, process):
        """
        The children of a process. Of a multiplexer's, only panes, each of which leads a session, and what a person had
        tmux run in the background: helpers for a status line have -1 as their session there, and those of pipe-pane no
        mark of this server.
        """
        pid, children = process["pid"], self._children[process["pid"]]
        if pid not in self._servers and not any(fnmatch.fnmatchcase(process["name"], one) for one in SERVERS):
            return children
        marked = re.compile(rf".*,{pid},\d+", re.ASCII | re.DOTALL)
        return [
            child
            for child in children
            if child["session"] == child["pid"]
            or marked.fullmatch(__salt__["proctable.getenv"](child["pid"], "TMUX") or "")
        ]

    def _tree(self, process):
        """A process and all that is below it."""
        found = [process]
        for each in found:
            found += self._children[each["pid"]]
        return found

    def _left(self, servers, variable):
        """What is not below a server, but was: the outermost process of each tree."""
        sessions, terminals = {}, {}
        for pane in self._panes:
            for each in self._tree(self._table[pane["pid"]]):
                if each["terminal"]:
                    sessions[each["session"]] = pane["server"]
                    terminals.update((one, pane["server"]) for one in _terminals(each["pid"]))
        found = {}
        for pid, process in self._table.items():
            if process["name"] == "tmux: client" or not {pid, *process["above"]}.isdisjoint(servers):
                continue
            # tmux: SOCKET,SERVER,SESSION; screen: SERVER.NAME
            mark = __salt__["proctable.getenv"](pid, variable) or ""
            named = re.fullmatch(r".*,(\d+),\d+", mark, re.ASCII | re.DOTALL) or re.match(r"(\d+)\.", mark, re.ASCII)
            terminal = next((each for each in _terminals(pid) if each in terminals), None)
            server = int(named[1]) if named else sessions.get(process["session"], terminals.get(terminal))
            if server is not None or self._outlived_its_terminal(process):
                found[pid] = server
        return [
            {"server": server, "pid": pid, "mark": self._table[pid]["mark"], "left": True}
            for pid, server in found.items()
            if found.keys().isdisjoint(self._table[pid]["above"])
        ]

    def _outlived_its_terminal(self, process):
        """
        Whether a process was a shell's job in a terminal of a multiplexer that is gone, as a job does that is left of
        ``sudo -i``. Nothing else tells of the pane: sudo gives its shell a terminal of its own, and a new environment.

        A daemon is different: it belongs to the group of its session's leader. In a container, a session that was
        begun outside is 0, and its leader may live.
        """
        session = process["session"]
        alone = session not in self._table and session not in (0, process["group"]) and not process["terminal"]
        return alone and (__salt__["proctable.getenv"](process["pid"], "TERM") or "").startswith(("screen", "tmux"))

    def _is_no_work(self, process):
        names = {process["name"], __salt__["proctable.command"](process["pid"])} - {None}
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self._no_work)

    def _waits_for_what_it_started(self, process):
        """Whether a shell has lent its terminal to something below it."""
        groups = {each["group"] for each in self._tree(process)} - {process["group"]}
        return process["foreground"] in groups

    def _serving(self, pids):
        """Those of these jobs that only wait for idle ones to write, or that only tell a shell's prompt something."""
        piped = [pid for pid in pids if _pipe(pid, 0)]
        beside_shells = [pid for pid in pids if self._table[pid]["ppid"] in self._interactive]
        # A coprocess, whose input is a pipe as well, may be at work.
        telling = [pid for pid in beside_shells if _pipe(pid, 1) and pid not in piped]
        readers, writers = _pipes(self._table) if piped or telling else ({}, {})
        serving = {pid for pid in telling if self._table[pid]["ppid"] in readers[_pipe(pid, 1)]}
        # A worker of zsh has a terminal of its own, at whose far end is the shell.
        workers = [pid for pid in beside_shells if self._table[pid]["session"] == pid]
        serving |= {pid for pid in workers if self._table[pid]["forked"] and _waits_for(pid) in READS_TERMINAL}
        idle, more = self._idle | serving, piped
        while more:
            more = [pid for pid in piped if pid not in serving and self._waits_for_some_of(idle, pid, writers)]
            serving.update(more)
            idle.update(each["pid"] for pid in more for each in self._tree(self._table[pid]))
        return serving

    def _waits_for_some_of(self, idle, pid, writers):
        """Whether whatever still runs of a job reads a pipe, to which only idle processes can write."""
        tree = {each["pid"] for each in self._tree(self._table[pid])}
        pipes = [_pipe(each, 0) if "pipe" in _waits_for(each) else None for each in tree if not self._children[each]]
        others = set().union(*(writers.get(pipe, ()) for pipe in pipes)) - tree
        return None not in pipes and bool(others) and others <= idle


def _words(pid):
    """The words of a command line after the first."""
    return _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")[1:]


def _has_command(pid):
    return any(re.match(r"-[a-zA-Z]*c|--command", word) for word in _words(pid))


def _is_interactive(process):
    """
    Whether a shell takes commands from a user.

    Such a shell leads its group and handles SIGTSTP (Ctrl-Z), which a shell with a script does not (measured with
    bash, zsh, ksh93, mksh, dash, tcsh and busybox); only fish always does. A subshell has begun no program of its own.
    """
    pid = process["pid"]
    if process["forked"] or pid != process["group"]:
        return False
    if process["name"] == "fish" and _fish_was_given_work(_words(pid)):
        return False
    status = _read(f"/proc/{pid}/status")
    masks = re.findall(r"^Sig(?:Ign|Cgt):\s*([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGTSTP - 1) & 1 for mask in masks)


def _fish_was_given_work(words):
    kept = [word for before, word in zip(["", *words], words, strict=False) if before not in FISH_OPTIONS]
    return any(word[:1] != "-" or re.match(r"-[a-zA-Z]*c|--command", word) for word in kept)


def _is_at_prompt(process):
    """
    Whether an interactive shell waits for its user to type a command.

    All line editors take over the terminal's lines (ICANON) and echo, and one thing more: its carriage returns (ICRNL
    off; zsh and tcsh: INLCR on) or its signals (ISIG off: busybox). They put it all back before a command runs, also
    one of the shell's own, such as bash's ``read -s -n 1``. What asks through the line editor itself (``read -e``,
    ksh93's and fish's ``read``, zsh's ``vared``) cannot be told from the prompt.
    """
    mode = _mode(process) if process["foreground"] == process["group"] else None
    if mode is None:
        return False
    on_input, _, _, local, *_ = mode
    if local & termios.ICANON:
        return _waits_for(process["pid"]) in READS_TERMINAL and _bytes_to_read(process["pid"]) in READS_COMMAND
    returns = on_input & (termios.ICRNL | termios.INLCR) != termios.ICRNL
    return not local & termios.ECHO and bool(returns or not local & termios.ISIG)


def _read(path):
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _waits_for(pid):
    """Where a process waits in the kernel, such as ``pipe_read``."""
    return _read(f"/proc/{pid}/wchan")


def _switches(pid):
    """How often a process gave up the processor, and lost it."""
    return re.findall(r"ctxt_switches:\s*(\d+)", _read(f"/proc/{pid}/status"))


def _bytes_to_read(pid):
    """The third argument of the system call in which a process waits."""
    fields = _read(f"/proc/{pid}/syscall").split()
    return int(fields[3], 16) if len(fields) > 3 else None


def _mode(process):
    """How the terminal of a process is set; None if it has none open. tcsh's is not among its first three files."""
    folder = f"/proc/{process['pid']}/fd"
    with contextlib.suppress(OSError):
        for number in sorted(os.listdir(folder), key=int):
            with contextlib.suppress(OSError, termios.error):
                if os.stat(f"{folder}/{number}").st_rdev == process["terminal"] != 0:
                    terminal = os.open(f"{folder}/{number}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
                    try:
                        return termios.tcgetattr(terminal)
                    finally:
                        os.close(terminal)
    return None


def _terminals(pid):
    """What tells the terminals from all others to which the first three files of a process lead."""
    for number in range(3):
        try:
            one = os.stat(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        if stat.S_ISCHR(one.st_mode) and os.major(one.st_rdev) in PSEUDO_TERMINALS:
            yield one.st_dev, one.st_rdev


def _pipe(pid, number):
    """What tells a pipe from all others, if a process has one there."""
    try:
        one = os.stat(f"/proc/{pid}/fd/{number}")
    except OSError:
        return None
    return (one.st_dev, one.st_ino) if stat.S_ISFIFO(one.st_mode) else None


def _pipes(pids):
    """Who can read each pipe, and who can write to it."""
    readers, writers = collections.defaultdict(set), collections.defaultdict(set)
    for pid in pids:
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for number in numbers:
            pipe = _pipe(pid, number)
            if pipe:
                try:
                    allowed = os.lstat(f"/proc/{pid}/fd/{number}").st_mode
                except OSError:
                    continue
                for side, bit in ((readers, stat.S_IRUSR), (writers, stat.S_IWUSR)):
                    if allowed & bit:
                        side[pipe].add(pid)
    return readers, writers


def answer(sessions, idle_shells):
    """
    Return the three lists of a probe for the sessions of a terminal multiplexer.

    sessions
        A list of dictionaries: ``user``, ``session`` (its name, or None), ``created`` (seconds since the epoch),
        ``mark`` (of its first process) and ``jobs``, a list as :py:func:`panes` has it.

    idle_shells
        ``ignore``: a session without jobs is information. ``block``: it is a blocker.

    Raises SaltInvocationError for any other ``idle_shells``.

    CLI Example:

    .. code-block:: bash

        salt-call terminals.answer '[]' ignore
    """
    if idle_shells not in ("ignore", "block"):
        raise SaltInvocationError(f"idle_shells: {idle_shells!r} is neither 'ignore' nor 'block'")
    found = {"blockers": [], "unknowns": [], "info": []}
    for session in sessions:
        user, name = session["user"], session["session"] or "(no name)"
        shown = name[:NAME_LENGTH]
        # By convention, a session's name says whom to ask.
        ask = f"{shown} ({user})" if session["session"] else user
        for job in session["jobs"]:
            # Without the session's name: somebody may change it, and the work stays the same.
            work = {"id": f"{job['user']}:{job['mark']}", "user": job["user"], "since": job["since"]}
            found["blockers"].append({**work, "what": f"{shown}: {job['what']}", "ask": ask})
        if not session["jobs"]:
            idle = {"id": f"{user}:{session['mark']}", "user": user, "since": session["created"]}
            key = "blockers" if idle_shells == "block" else "info"
            found[key].append({**idle, "what": f"{shown}: a shell", "ask": ask})
    return found
