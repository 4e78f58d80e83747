"""
Commands that a deploy must not interrupt
=========================================

A probe of :py:func:`busy.check <busy.check>`: looks in the process table for programs and command lines that match a
pattern.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along

A pattern finds what runs, not what is read: ``rsync`` finds neither ``tail -f rsync``, nor ``grep rsync``, nor
``vim rsync``. There is no list of programs that only read. Instead, a pattern begins in the words that say what runs:

- the name of the program: ``rsync`` for ``/usr/bin/rsync -a x y``;
- for a shell, also its options and its script: ``import.sh`` for ``bash -e /srv/import.sh all``. Of a text after
  ``-c``, each command counts as a command line of its own;
- for another interpreter, all of its command line, because it may start one program by way of another:
  ``manage.py`` for ``python3 -u /srv/manage.py load``, ``*manage.py load*`` also for ``coverage run manage.py load``;
- for a process that gave itself a title, all of the title.

Other programs that start a program, such as sudo, timeout or flock, need no rule: they become that program, or it is a
process of its own.
"""

import fnmatch
import os
import pathlib
import re
import time

from salt.exceptions import SaltInvocationError

CHOICES = ("match", "under", "user")
PATTERN = {**dict.fromkeys(CHOICES, "text"), "older_than": "duration"}
# What people call cron is crond on Red Hat's systems, and the daily jobs may run under anacron.
ALSO = {"cron": ["cron", "crond", "anacron"]}
SHELLS = re.compile("ash|bash|csh|dash|fish|ksh|ksh93|mksh|rbash|sh|tcsh|yash|zsh")
# Left out by mistake, an interpreter is a program like others: `foo*script*` finds its script all the same.
INTERPRETERS = re.compile(
    r"(python|pypy|perl|j?ruby|node|nodejs|deno|bun|php|java|lua|luajit|tclsh|wish|expect|guile|julia|Rscript|mono|dotnet)"
    r"[-\d.]*(dbg|[a-z])?"
)
# Options whose next word is no value of theirs, whichever the interpreter.
ALONE = re.compile(r"-[abBefhiklnPqsuvVwx]*|-jar|--[\w-]+=.*|--")
TEXT = re.compile(r"-[a-zA-Z]*c[a-zA-Z]*")
KEYWORDS = re.compile(r"[!{]|do|then|else|elif|if|while|until|time|exec|\w+=.*")  # before a shell's command


def find(patterns, older_than=0):
    """
    Return the processes that match a pattern.

    The kernel's own threads, and whoever asks (with the minion itself), never match. If a process matches, those below
    it are left out. Of a pipeline, each member that matches is listed.

    patterns
        A list. Each pattern is a glob of the name of a program or script (``rsync``, ``pg_dump*``, ``import.sh``) or
        of a command line (``*manage.py load*``), as the top of this page says; or a dictionary of ``match`` (such a
        glob), ``under`` (a glob of an ancestor's name; ``cron`` also stands for crond and anacron), ``user`` and
        ``older_than``.

    older_than
        The minimum age for patterns without their own. A duration: ``90s``, ``10m``, ``1h``. Default: 0.

    Returns a list of dictionaries, the oldest first: ``pid``, ``mark`` (the process id and its start, which no other
    process shares), ``user``, ``what`` (the leading words of the command), ``since`` (seconds since the epoch) and
    ``pattern``. Of several patterns, this is the first with a ``match`` of its own, whatever its ``older_than``, so
    that it stays the same.

    Raises SaltInvocationError for a wrong pattern, and CommandExecutionError if other users' processes cannot be seen.

    CLI Example:

    .. code-block:: bash

        salt-call processes.find '[rsync, {under: cron, older_than: 10m}]'
    """
    if not isinstance(patterns, (list, tuple)) or not patterns:
        raise SaltInvocationError("patterns: a list of one pattern or more is needed")
    older_than = __salt__["proctable.seconds"](older_than, "older_than")
    wanted = [_pattern(pattern, older_than, f"patterns.{number}") for number, pattern in enumerate(patterns)]
    wanted.sort(key=lambda entry: entry["label"] != entry["match"])
    table = {process["pid"]: process for process in __salt__["proctable.listing"](commands=True)}
    found = {}
    for pid, process in table.items():
        lines = [] if process["asking"] else _lines(process)
        entries = [entry for entry in wanted if lines and _matches(table, process, entry, lines)]
        age = max(0, time.time() - process["since"])
        user = __salt__["proctable.owner"](pid) if any(age >= entry["older_than"] for entry in entries) else None
        if user is not None:
            job = {key: process[key] for key in ("pid", "mark", "what", "since")}
            found[pid] = {**job, "user": user, "pattern": entries[0]["label"]}
    outermost = [job for pid, job in found.items() if not found.keys() & set(table[pid]["above"])]
    return sorted(outermost, key=lambda job: (job["since"], job["pid"]))


def _pattern(pattern, older_than, place):
    """Check one pattern, whose path is ``place``, and return it complete."""
    entry = {"match": pattern} if isinstance(pattern, str) else pattern
    if not isinstance(entry, dict):
        raise SaltInvocationError(f"{place}: {pattern!r} is neither text nor a mapping of {', '.join(PATTERN)}")
    entry = __salt__["proctable.checked"](entry, PATTERN, f"{place}.")
    given = [key for key in CHOICES if key in entry]
    for key in given:
        if entry[key] != entry[key].strip():
            raise SaltInvocationError(f"{place}.{key}: {entry[key]!r} begins or ends with a space")
    telling = [entry[key] for key in given if entry[key].strip("*?")]
    if not telling:
        path = ".".join([place, *given[:1]])
        raise SaltInvocationError(f"{path}: would match every process; say which in {', '.join(CHOICES)}")
    if "user" in entry:
        entry["uids"] = __salt__["proctable.uids"]([entry["user"]], f"{place}.user")
    return {"match": "*", "older_than": older_than, **entry, "label": telling[0]}


def _matches(table, process, entry, lines):
    """Whether a process, which these lines stand for, matches a pattern; whatever its age."""
    return (
        ("under" not in entry or _is_under(table, process, entry["under"]))
        and (
            any(_begins_within(line, length, entry["match"]) for line, length in lines)
            # Of a title with nothing after it, psutil (7.2.2) makes words, and the first one seems to be the program.
            or (fnmatch.fnmatchcase(" ".join(process["argv"]), entry["match"]) and _is_title(process["pid"]))
        )
        and ("uids" not in entry or bool(__salt__["proctable.owner"](process["pid"], entry["uids"])))
    )


def _is_under(table, process, pattern):
    """
    Whether a program of that name is above a process.

    A mere fork of that program is not under it: cron first makes such a fork.
    """

    def fits(one):
        return any(fnmatch.fnmatchcase(one["name"], each) for each in ALSO.get(pattern, [pattern]))

    is_mere_fork = process["forked"] and fits(process)
    return not is_mere_fork and any(fits(table[pid]) for pid in process["above"])


def _lines(process):
    """The names and command lines of what a process runs, each with the length of the part that says what runs."""
    lines = {process["name"]: len(process["name"])}
    for words, telling in _commands(process["argv"]):
        for first in (words[0], os.path.basename(words[0])):
            lines[first] = len(first)
            lines[" ".join([first, *words[1:]])] = len(" ".join([first, *words[1:telling]]))
    return lines.items()


def _commands(argv):
    """What a command line runs: the words of each command, and how many of them say what runs."""
    program = os.path.basename(argv[0]).lstrip("-")  # a login shell is called "-bash"
    is_shell, is_other = SHELLS.fullmatch(program), INTERPRETERS.fullmatch(program)
    scripts = _scripts(argv) if is_shell or is_other else []
    telling = len(argv) if is_other else max([0, *scripts]) + 1
    option = next((number for number, word in enumerate(argv) if is_shell and TEXT.fullmatch(word)), telling)
    text = next((number for number in scripts if number > option), None)
    if text:
        telling, scripts = text, []
        for command in re.split(r"[;&|()\n]+", argv[text]):
            words = command.split()
            while words and KEYWORDS.fullmatch(words[0]):
                del words[0]
            if words:
                yield from _commands(words)
    for begin in (0, *scripts):
        yield argv[begin:], telling - begin


def _scripts(argv):
    """
    The places of the words that may be what an interpreter runs: the first that is no option; and if that may be the
    value of an option, the next as well.
    """
    found, alone = [], True
    for number, word in enumerate(argv[1:], 1):
        if word.startswith(("-", "+")):
            alone = bool(ALONE.fullmatch(word))
            continue
        found.append(number)
        if alone:
            break
        alone = True
    return found


def _begins_within(line, length, pattern):
    """Whether a line matches so that the pattern, without its leading wildcards, begins in the first characters."""
    rest = pattern.lstrip("*?")
    leading = pattern[: len(pattern) - len(rest)]
    return fnmatch.fnmatchcase(line, pattern) and (
        length == len(line)
        or any(
            fnmatch.fnmatchcase(line[:begin], leading) and fnmatch.fnmatchcase(line[begin:], rest)
            for begin in range(length)
        )
    )


def _is_title(pid):
    """Whether a command line is one piece: what a process calls itself, instead of its arguments."""
    try:
        return b"\0" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    except OSError:
        return False


def probe(patterns, older_than=0):
    """
    Tell :py:func:`busy.check <busy.check>` which processes match the patterns. Each of them is a blocker.

    patterns, older_than
        As for :py:func:`find`.

    Returns the three lists of a probe: see the module ``busy``.

    Raises what :py:func:`find` raises.

    CLI Example:

    .. code-block:: bash

        salt-call processes.probe '[rsync, pg_dump]' older_than=5m
    """
    blockers = [
        {
            "id": f"{job['pattern']}:{job['mark']}",
            "user": job["user"],
            "what": job["what"],
            "since": job["since"],
            "ask": job["user"],
        }
        for job in find(patterns, older_than)
    ]
    return {"blockers": blockers, "unknowns": [], "info": []}
