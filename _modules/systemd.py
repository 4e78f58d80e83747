"""
What systemd knows to be at work
================================

A probe of :py:func:`busy.check <busy.check>`: what somebody started with ``systemd-run``, what is at work for a timer,
and what inhibits a shutdown.

.. versionadded:: 0.1.0

:depends: systemctl and busctl, of systemd 239 or later

A service is at work while it has something to do and an end to come to: one that ``systemd-run`` made (a transient
unit), one that a timer starts, and any of ``Type=oneshot``. A daemon is not; a timer that waits is not. Scopes are not
looked at: they only group what something else started, as sessions, containers and the panes of tmux do.
"""

import ast
import fnmatch
import os
import pathlib
import pwd
import re
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

BOOTED = "/run/systemd/system"  # sd_booted(3)
PROPERTIES = (
    "ActiveState",
    "ControlGroup",
    "ControlPID",
    "Id",
    "InactiveExitTimestampMonotonic",
    "InvocationID",
    "MainPID",
    "SubState",
    "Transient",
    "TriggeredBy",
    "Type",
    "User",
)
ALWAYS = "init.scope"  # every manager has it: an answer without it is none
LOGIND = "systemd-logind.service"
LOCK = ("what", "who", "why", "mode", "uid", "pid")
LOCKS = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "ListInhibitors")
ENDED = ("inactive", "failed", "maintenance")
WAITS = ("exited", "auto-restart", "auto-restart-queued")  # no process: it is over, or will be tried again
SHORT = 3  # seconds: small services of timers come by all the time, such as containers' health checks and sysstat


def probe(ignore=None, timeout=5):
    """
    Tell :py:func:`busy.check <busy.check>` what is at work under systemd, for the machine and for each user.

    ignore
        A list of globs of what is no blocker: names of units (``man-db.service``; ``user@1000.service`` for all of a
        user's), and who inhibits. Default: none.

    timeout
        A duration: how long systemd, logind, and each user's systemd may take to answer. Default: 5 seconds.

    Returns the three lists of a probe: see the module ``busy``. Whichever of them gives no clear answer is unknown.

    Raises SaltInvocationError if a setting is wrong, and CommandExecutionError where systemd does not run the machine.

    A service that is over within three seconds is no blocker. Inhibitors that only delay a shutdown are none, nor are
    those of something else, such as the switch of a lid.

    CLI Example:

    .. code-block:: bash

        salt-call systemd.probe ignore='[man-db.service]'
    """
    ignored, seconds = _globs(ignore), __salt__["proctable.seconds"](timeout, "timeout")
    if not os.path.isdir(BOOTED):
        why = f"systemd does not run this machine ({BOOTED} is missing): `busy: {{systemd: false}}` switches this off"
        raise CommandExecutionError(why)
    answer, age = _look(ignored, seconds)
    if age < SHORT:
        time.sleep(SHORT - age)
        answer, _ = _look(ignored, seconds, SHORT)
    return answer


def _globs(ignore):
    if ignore is None:
        return []
    if not isinstance(ignore, list) or not ignore:
        raise SaltInvocationError("ignore: a list of one glob or more is needed")
    for number, glob in enumerate(ignore):
        if not isinstance(glob, str) or not glob.strip("*"):
            raise SaltInvocationError(f"ignore.{number}: {glob!r} is no glob of some units' names")
    return ignore


def _look(ignored, seconds, least=0):
    """The answer, without what is ignored and services younger than ``least`` seconds; and the age of the youngest."""
    services, locks, unknowns = [], [], []

    def attempt(ask, *arguments):
        try:
            return ask(seconds, *arguments)
        except CommandExecutionError as error:
            unknowns.append({"why": str(error)})
            return {}

    def kept(name):
        return not any(fnmatch.fnmatchcase(name, glob) for glob in ignored)

    units = attempt(_units, "root")
    managers = [("root", units)]
    for name, unit in units.items():
        uid = re.fullmatch(r"user@(\d+)\.service", name)
        if uid and unit["ActiveState"] in ("active", "reloading") and kept(name):
            user = _name(int(uid[1]))
            managers.append((user, attempt(_units, user, f"/run/user/{uid[1]}")))
    for owner, found in managers:
        for unit in found.values():
            age = time.monotonic() - int(unit["InactiveExitTimestampMonotonic"] or 0) / 1e6
            if _is_at_work(unit) and kept(unit["Id"]) and age >= least:
                services.append({**unit, "User": unit["User"] or owner, "age": age})
    # Where logind does not run, nothing can inhibit; to ask it would start it.
    if units.get(LOGIND, {}).get("ActiveState", "inactive") != "inactive":
        locks = [lock for lock in attempt(_locks) if kept(lock["who"])]
    processes, asking = {}, set()
    if services or locks:
        processes = {process["pid"]: process for process in __salt__["proctable.listing"]()}
        asking = {pid for pid, process in processes.items() if process["asking"]}
    groups = {group for pid in asking for group in _groups(pid)}
    services = [service for service in services if not _is_asking(service["ControlGroup"], groups)]
    blockers = [_service(service) for service in services]
    blockers += [_lock(lock, processes.get(lock["pid"], {})) for lock in locks if lock["pid"] not in asking]
    answer = {"blockers": blockers, "unknowns": unknowns, "info": []}
    return answer, min((service["age"] for service in services), default=SHORT)


def _name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _units(seconds, user, folder=None):
    """The properties of each service of systemd, by its name; or of a user's own, whose sockets are in ``folder``."""
    whom, options, environment = "systemd", [], {}
    if folder:  # `--machine=USER@` would do from systemd 248 on
        whom, options, environment = f"systemd of {user}", ["--user"], {"XDG_RUNTIME_DIR": folder}
    command = ["systemctl", *options, "show", "--property=" + ",".join(PROPERTIES), "*.service", ALWAYS]
    units = {}
    for block in _answer(command, whom, seconds, user, environment).split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        units[unit.get("Id")] = {name: unit.get(name, "") for name in PROPERTIES}
    if ALWAYS not in units:
        raise CommandExecutionError(f"systemctl answered something else than the units of {whom}")
    return units


def _answer(command, whom, seconds, user="root", environment=None):
    try:
        answer = __salt__["proctable.run"](command, user, env=environment, timeout=seconds)
    except CommandExecutionError as error:
        raise CommandExecutionError(f"{whom} could not be asked: {error}") from None
    if answer["retcode"]:
        reason = " ".join(answer["stderr"].split())[:200] or "no reason given"
        raise CommandExecutionError(f"{whom} could not be asked: {reason}")
    return answer["stdout"]


def _is_at_work(unit):
    if unit["ActiveState"] in ENDED or unit["SubState"] in WAITS or not unit["Id"].endswith(".service"):
        return False
    return unit["Transient"] == "yes" or unit["Type"] == "oneshot" or bool(_timers(unit))


def _timers(unit):
    return [name for name in unit["TriggeredBy"].split() if name.endswith(".timer")]


def _locks(seconds):
    """
    What inhibits a shutdown or sleep, and does not only delay it.

    As text, since busctl has had JSON only from systemd 240 on: strings in quotes, with C's escapes, of ASCII alone.
    """
    text = _answer(["busctl", "call", *LOCKS], "logind", seconds)
    try:
        kind, number, *words = re.findall(r'"(?:[^"\\]|\\.)*"|\S+', text)
        fields = [
            ast.literal_eval(f"b{word}").decode("utf-8", "replace") if '"' in word else int(word) for word in words
        ]
        locks = [dict(zip(LOCK, row, strict=True)) for row in zip(*[iter(fields)] * len(LOCK), strict=True)]
        clear = kind == "a(ssssuu)" and int(number) == len(locks)
    except (SyntaxError, ValueError):
        clear = False
    if not clear:
        raise CommandExecutionError("busctl answered something else than logind's inhibitors")
    return [lock for lock in locks if lock["mode"] != "delay" and {"shutdown", "sleep"} & {*lock["what"].split(":")}]


def _groups(pid):
    """The control groups of a process; none if it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [line.split(":", 2)[2] for line in lines]


def _is_asking(group, groups):
    """Whether one of these groups is in that of a service: it is the service that asks."""
    return bool(group) and any(f"{each}/".startswith(f"{group}/") for each in groups)


def _service(unit):
    command = __salt__["proctable.command"](int(unit["MainPID"] or 0) or int(unit["ControlPID"] or 0))
    what = " ".join([unit["Id"], *(f"({timer})" for timer in _timers(unit))])
    return {
        # systemd gives each run of a unit an id of its own.
        "id": f"{unit['User']}:{unit['Id']}:{unit['InvocationID'][:8]}",
        "user": unit["User"],
        "what": f"{what}: {command}" if command else what,
        "since": time.time() - unit["age"],
        "ask": unit["User"],
    }


def _lock(lock, process):
    user = _name(lock["uid"])
    return {
        "id": f"inhibitor:{lock['who']}:{process.get('mark', lock['pid'])}",
        "user": user,
        "what": f"inhibits {lock['what']}: {lock['why']}",
        "since": process.get("since"),
        "ask": f"{user} ({lock['who']})",
    }
