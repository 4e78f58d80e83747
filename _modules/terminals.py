"""
Jobs in the sessions of terminal multiplexers
=============================================

What the probes of tmux and Screen share: which processes below a terminal are work, and which wait for their user.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along
"""

import collections
import os
import pathlib
import re
import time

from salt.exceptions import SaltInvocationError

# Not work: shells at their prompts, programs between two shells, and agents, which outlive sessions.
SHELLS = {"ash", "bash", "csh", "dash", "fish", "ksh", "ksh93", "mksh", "rbash", "sh", "tcsh", "zsh"}
BETWEEN = {"doas", "login", "su", "sudo", "sudo-rs", "tmux: client"}
AGENTS = {"dbus-daemon", "dbus-launch", "gpg-agent", "ssh-agent"}
# At most so many more looks, if shells seem idle; and the pause before each, in seconds. Without a pause, a look may
# take less than 1 ms, and a virtual machine may stand still for longer: 8 of 27,444 answers missed one of four loops.
# With a pause of 5 or 10 ms, none of 12,399 did.
LOOKS = 4
PAUSE = 0.01
NAME_LENGTH = 60  # of a session, in what people read


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

        salt-call terminals.working '[1234]'
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
    table = {process["pid"]: process for process in __salt__["proctable.listing"]()}
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
        what = __salt__["proctable.command"](pid) or process["name"]
        jobs[group] = root, {"pid": pid, "user": __salt__["proctable.owner"](pid) or "?", "what": what, "since": since}


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
    try:
        words = (
            pathlib.Path(f"/proc/{process['pid']}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")[1:]
        )
    except OSError:
        return False
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

        salt-call terminals.detached TMUX '[1234]'
    """
    servers = set(servers)
    above, marked = {}, {}
    for process in __salt__["proctable.listing"]():
        pid = process["pid"]
        if process["name"] == "tmux: client" or servers & {pid, *process["above"]}:
            continue
        mark = __salt__["proctable.getenv"](pid, variable) or ""
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

        salt-call terminals.session_answer '[]' ignore
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
