"""
What a team's own program finds
===============================

A probe of :py:func:`busy.check <busy.check>`: runs a program that says what a deploy would interrupt.

.. versionadded:: 0.1.0

The program ends with exit code 0, and prints one line for each thing that runs. If it prints nothing, nothing runs.
Anything else is unknown: another exit code, a signal, a time-out, too much output, text that is not printable UTF-8.
"""

import os
import re
import shlex

from salt.exceptions import CommandExecutionError, SaltInvocationError

SETTINGS = {
    "run": None,
    "env": None,
    "timeout": "duration",
    **dict.fromkeys(("user", "name", "ask"), "text"),
}
# Words that mean something to a shell only. A program would take them for arguments, and might say "nothing runs".
FOR_SHELLS = re.compile(r"[|&;].*|\d*[<>].*|.*;")


def probe(instances=None, **instance):
    """
    Tell :py:func:`busy.check <busy.check>` what one or more programs found. Each line that they print is a blocker.

    instances
        A list of dictionaries with these keys, or the keys themselves for one program:

        run
            The program and its arguments: a list, or text, which is split as by a shell. No shell runs it; for one,
            write ``[sh, -c, "…"]``.
        user
            The name of the user who runs it. There is no default: as root, it might be a program that others can
            change; as another user, it might not see everything.
        timeout
            A duration. Default: 5 seconds.
        name
            The beginning of the ids. Needed if several programs have the same file name. Default: that file name.
        ask
            Whom to ask about a line that does not say so itself.
        env
            A dictionary: environment variables. The program gets these, ``PATH``, ``LC_ALL``, ``HOME`` and ``USER``.

    A line is either plain, such as ``import of customers``, or has two or three fields with a tab between them:
    ``ID<TAB>WHAT`` or ``ID<TAB>WHAT<TAB>ASK``. The blocker's id is ``NAME/ID``. It has to stay the same while the work
    goes on. A plain line is its own id, so it must not contain what changes, such as a percentage. Lines that are
    empty do not count.

    Returns the three lists of a probe: see the module ``busy``. A program that gives no clear answer is unknown. What
    a successful program writes to standard error is information.

    Raises SaltInvocationError if a setting is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call command.probe run='/usr/local/bin/imports --running' user=ana
    """
    answer = {"blockers": [], "unknowns": [], "info": []}
    for program in _programs(instances, instance):
        try:
            found, said = _found(program)
        except CommandExecutionError as error:
            answer["unknowns"].append({"why": f"{program['label']}: {error}"})
            continue
        answer["blockers"] += found
        if said:
            answer["info"].append({"id": f"{program['name']}/stderr", "what": f"{program['label']} said: {said}"})
    return answer


def _programs(instances, instance):
    """The checked settings of each program."""
    programs, names = [], set()
    for prefix, settings in __salt__["proctable.instances"](instances, instance, SETTINGS):
        if "user" not in settings:
            raise SaltInvocationError(
                f"{prefix}user: needed: the name of the user who runs it, such as nobody or root"
            )
        argv = _words(settings.get("run"), f"{prefix}run")
        file = os.path.basename(argv[0])
        name = settings.get("name", file)
        if name in names:
            raise SaltInvocationError(f"{prefix}name: {name!r} is already that of another; give each its own")
        names.add(name)
        label = name if name == file else f"{name} ({file})"
        env = _environment(settings.get("env"), f"{prefix}env")
        programs.append({"timeout": 5, "ask": None, **settings, "run": argv, "env": env, "name": name, "label": label})
    return programs


def _words(run, place):
    """The program and its arguments, from a list or from text."""
    is_list = isinstance(run, list)
    try:
        words = run if is_list else shlex.split(run) if isinstance(run, str) else []
    except ValueError as error:
        raise SaltInvocationError(f"{place}: {error}") from None
    if not words or not words[0]:
        raise SaltInvocationError(f"{place}: needed: a program and its arguments, as a list or as text")
    for number, word in enumerate(words):
        if not isinstance(word, str) or "\0" in word:
            raise SaltInvocationError(f"{place}.{number}: must be text; put a number in quotes")
        if not is_list and FOR_SHELLS.fullmatch(word):
            raise SaltInvocationError(f"{place}: no shell reads this; write [sh, -c, '…'] for one")
    return words


def _environment(variables, place):
    if not isinstance(variables, (dict, type(None))):
        raise SaltInvocationError(f"{place}: a mapping of names to text is needed")
    for key, value in (variables or {}).items():
        if not isinstance(value, str) or "\0" in value:
            raise SaltInvocationError(f"{place}.{key}: must be text; put a number in quotes")
        if not re.fullmatch(r"\w+", str(key), re.ASCII):
            raise SaltInvocationError(f"{place}: {key!r} is not the name of an environment variable")
    return {str(key): value for key, value in (variables or {}).items()}


def _found(program):
    """What a program found, and the first line of what it wrote to standard error."""
    answer = __salt__["proctable.run"](program["run"], program["user"], program["env"], program["timeout"])
    said = next(filter(None, map(str.strip, answer["stderr"].splitlines())), "")
    if answer["retcode"]:
        code = answer["retcode"]
        how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        raise CommandExecutionError(f"{how}: {said}" if said else how)
    return [_blocker(program, line) for line in answer["stdout"].split("\n") if line.strip()], said


def _blocker(program, line):
    fields = line.split("\t")
    if len(fields) == 1:
        fields *= 2
    # What is not UTF-8 has become U+FFFD.
    if not all(field.isprintable() and "\ufffd" not in field for field in fields):
        raise CommandExecutionError("printed something else than printable UTF-8")
    if len(fields) > 3 or not all(map(str.strip, fields[:2])):
        raise CommandExecutionError("printed a line that is neither ID, WHAT nor ID, WHAT, ASK, with tabs between")
    identity, what, *ask = map(str.strip, fields)
    ask = "".join(ask) or program["ask"]
    return {"id": f"{program['name']}/{identity}", "what": what, "user": None, "ask": ask}
