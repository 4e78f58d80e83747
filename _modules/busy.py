"""
Is this machine busy?
=====================

Asks all probes that are configured for this minion. Reports what a deploy would interrupt: what runs, whose it is,
since when, and whom to ask. The minion is idle only if every probe clearly says so. What a probe cannot find out is
unknown, and blocks a deploy too.

Two things are looked at on every minion, whether or not probes are configured: runs of Salt states (their ``probe`` is
``salt``), and a scheduled shutdown (``shutdown``).

.. versionadded:: 0.1.0

:configuration: In pillar, or in the minion's configuration. If both have a probe, its settings in pillar count:

    .. code-block:: yaml

        busy:
          scrapyd:
            - url: http://127.0.0.1:6800
              username: scrapyd
              password: sdb://vault/scrapyd
          tmux:
            users: [root, ocdskfs, ocdskfp]
          screen: {}
          postgres:
            older_than: 1h
          processes:
            patterns: [rsync, pg_dump, {under: cron, older_than: 10m}]
          who:
            block: false

A probe is an execution module with a function ``probe``. The settings are its arguments; a list of settings is its
argument ``instances``. It changes nothing, and returns three lists of dictionaries:

``blockers``
    ``id`` (the same while the work goes on, and different from all others) and ``what``. If known, also ``user``,
    ``since`` (seconds since the epoch), ``ask`` and ``state``.

``unknowns``
    ``why``, in a few words.

``info``
    The same as blockers, but these do not block.

If it raises an error, that is an unknown, too. The message of a SaltInvocationError begins with the path of the wrong
setting (``patterns.1.match: …``), to which ``busy.check`` adds ``busy.processes.``.
"""

import contextlib
import contextvars
import datetime
import fnmatch
import functools
import glob
import hashlib
import inspect
import os
import re
import threading
import time
import traceback

import salt.payload
import salt.utils.process
from salt.exceptions import CommandExecutionError, SaltException, SaltInvocationError

__outputter__ = {"check": "busy"}

# Probes whose module has another name: "postgres" is Salt's own.
MODULES = {"postgres": "pgactivity"}
SECONDS = 20  # for one probe
TOTAL = 60  # for all probes
LEAST = 5  # for a probe after slow ones
MOST = 200  # blockers of one probe
BOOT_ID = "/proc/sys/kernel/random/boot_id"
NOBODY_LOGGED_IN = 2**32 - 1  # in loginuid, of what was started by cron, systemd, …
SCHEDULED = "/run/systemd/shutdown/scheduled"
OVER_SSH = "running_data"  # the folder in which Salt runs on the far side of salt-ssh
# These only look, and end by themselves. Not `state.event`: it may run for ever, and as for every other function of
# `state`, Salt refuses states while it runs (3006.29 and 3008.3).
LOOKING = (
    "state.*_exists",
    "state.get_pauses",
    "state.graph*",
    "state.list_disabled",
    "state.running",
    "state.show_*",
)
FIELDS = ("user", "what", "ask", "state")
ASKING = "busy.asking"  # in __context__, for proctable.listing: the ids of the processes that ask


def check(asking=None):
    """
    Ask all probes that are configured for this minion, and look for runs of states and for a scheduled shutdown.
    Changes nothing.

    asking
        Who asks, so that they do not find themselves: a list of processes, each with ``boot`` (the boot ID of their
        machine), ``namespace`` (as ``/proc/self/ns/pid`` names it), ``pid`` and ``start`` (in clock ticks since the
        boot). A process that is not on this machine, or that has ended, is left out. Default: only the process that
        calls this. ``salt-run busy.check`` sends its own, and those of others on its master who wait.

    Returns a dictionary:

    idle
        True if nothing blocks and nothing is unknown.
    checks
        The names of all configured probes that were asked.
    note
        ``no checks configured``, if the minion is idle and no probe is configured.
    blockers
        A list of what runs, the oldest first: ``probe``, ``id`` (``MINION/PROBE/…``; for runs of states
        ``MINION/salt/JID``, for a scheduled shutdown ``MINION/shutdown/KIND@TIME``), ``user``, ``what``, ``since``
        (ISO 8601, UTC), ``age`` (seconds), ``ask`` (the person to ask) and ``state`` (of a job of Scrapyd).
    unknowns
        A list of what could not be found out: ``probe`` and ``why``.
    info
        The same as ``blockers``, but these do not block.
    boot
        The boot ID, which shows a deploy that this minion has rebooted; None if it cannot be read.

    The return code is 7 if the minion is not idle. Raises nothing: if a probe raises an error, that is an unknown.

    CLI Example:

    .. code-block:: bash

        salt '*' busy.check
        salt-call busy.check --out=json
        salt-call --retcode-passthrough busy.check
    """
    __context__[ASKING] = _askers(asking)
    try:
        return _answer()
    finally:
        __context__.pop(ASKING, None)


def _answer():
    answer = {"idle": False, "checks": [], "blockers": [], "unknowns": [], "info": [], "boot": _boot()}
    settings, answer["unknowns"] = _configured()
    _add(answer, "salt", _explained(_running_states))
    _add(answer, "shutdown", _explained(_scheduled_shutdown))
    deadline = time.monotonic() + TOTAL
    for position, name in enumerate(sorted(settings), 1):
        answer["checks"].append(name)
        kept = LEAST * (len(settings) - position)  # for the probes that follow
        seconds = min(SECONDS, deadline - time.monotonic() - kept)
        _add(answer, name, _explained(functools.partial(_ask, name, settings[name], seconds)))
    for key in ("blockers", "info"):
        answer[key].sort(key=lambda item: (-(item["age"] if item["age"] is not None else -1), item["id"]))
    answer["idle"] = not answer["blockers"] and not answer["unknowns"]
    if not answer["checks"] and answer["idle"]:
        answer["note"] = "no checks configured"
    if not answer["idle"]:
        __context__["retcode"] = 7
    return answer


def _boot():
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _askers(asking):
    """
    The ids of those processes among ``asking`` that run here.

    Of what cannot be read, nothing is made: then somebody is in their own way, and nobody else's work is overlooked.
    """
    found = []
    for one in asking if isinstance(asking, list) else ():
        with contextlib.suppress(AttributeError, OSError, TypeError, ValueError):
            pid = int(one.get("pid"))
            here = {"boot": _boot(), "namespace": os.readlink("/proc/self/ns/pid"), "start": _start(pid)}
            if all(str(one.get(key)) == here[key] for key in here):
                found.append(pid)
    return found


def _start(pid):
    """When a process began, in clock ticks since the boot: its ID can be used again, and then this is another."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[19]


def _configured():
    """The settings of each probe, by its name; and unknowns, for what is wrong with the configuration itself."""
    settings, wrong = {}, []
    if __pillar__.get("_errors"):
        # The part that did not render may configure probes for this minion.
        wrong.append(_unknown("busy", "pillar has errors, so the checks may be incomplete (pillar.items shows them)"))
    if not __pillar__ and "busy" not in __opts__ and _is_over_ssh() and __opts__.get("fun") != "state.pkg":
        # salt-ssh sends pillar along only to apply states, as state.pkg (3006.28 and 3008.3): there, it may be empty.
        why = "no pillar came along over salt-ssh: ask with `salt-run busy.check TARGET ssh=True`"
        wrong.append(_unknown("busy", f"{why}; if there is nothing to check, write `busy: {{}}` in pillar"))
    for source, where in ((__opts__, "the minion's configuration"), (__pillar__, "pillar")):
        configured = source.get("busy")
        if configured is None:
            continue
        if not isinstance(configured, dict):
            wrong.append(_unknown("busy", f"busy: a mapping of probes to their settings is needed in {where}"))
            continue
        for name, value in configured.items():
            settings[str(name)] = value
    return {name: value for name, value in settings.items() if value is not False}, wrong


def _is_over_ssh():
    return os.path.basename(__opts__.get("root_dir") or "") == OVER_SSH


def _explained(ask):
    """What ``ask`` returns, or the reason why it returns nothing, as text."""
    try:
        return ask()
    except SaltException as error:
        return str(error)
    except Exception as error:
        # The message may quote a setting, which may be a password. The place of the error says enough.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"failed with {type(error).__name__} in {place.name}, line {place.lineno}"


def _running_states():
    """
    The runs of states on this machine, but for the one that asks.

    Salt's own list (``saltutil.running``) removes files as it reads them: of jobs that are just beginning and, with
    ``multiprocessing: False``, of other processes; and ``state.running`` fails at a job of several functions (3006.29
    and 3008.3). So the files are read here.
    """
    answer = {"blockers": [], "unknowns": [], "info": []}
    for path in _job_files():
        try:
            job = _read_job(path)
        except CommandExecutionError as error:
            answer["unknowns"].append({"why": str(error)})
            continue
        if job and _applies_states(job) and not _asks(job):
            answer["blockers"].append(_state_run(job))
    return answer


def _job_files():
    """The paths of the files in which Salt notes each job while it runs."""
    folders = {os.path.join(__opts__["cachedir"], "proc")}
    if _is_over_ssh():
        # Each computer from which salt-ssh comes, and each of its users, has a folder on this machine.
        root = __opts__["root_dir"]
        inside = os.path.relpath(*folders, root)
        folders.update(glob.glob(os.path.join(os.path.dirname(os.path.dirname(root)), ".*_salt*", OVER_SSH, inside)))
    found = []
    for folder in sorted(folders):
        try:
            found += [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        except FileNotFoundError:
            pass  # no job has run there
        except OSError as error:
            raise CommandExecutionError(f"{folder} cannot be read: {error.strerror}") from None
    return found


def _read_job(path):
    """What Salt noted of a job; None if it has ended. A file that is just being written has a moment."""
    for pause in (0.05, 0.2, 0):
        try:
            with open(path, "rb") as file:
                noted = file.read()
            job = salt.payload.loads(noted) if noted else None
        except FileNotFoundError:
            return None
        except Exception:  # msgpack has many
            job = None
        if isinstance(job, dict) and job.get("fun") and isinstance(job.get("pid"), int):
            return job
        time.sleep(pause)
    raise CommandExecutionError(f"{path} does not say which job of Salt runs: remove the file if none does")


def _functions(job):
    """The functions of a job, of which some may be still to come."""
    return [str(one) for one in (job["fun"] if isinstance(job["fun"], (list, tuple)) else [job["fun"]])]


def _applies_states(job):
    """Whether a job of ``state`` that does more than look is still running."""
    states = [one for one in _functions(job) if one.startswith("state.")]
    if all(any(fnmatch.fnmatchcase(one, pattern) for pattern in LOOKING) for one in states):
        return False
    words = _salt_process(job["pid"])
    # Over salt-ssh, a test run keeps nobody from running states, and busy.check itself is one.
    return words is not None and not (job["fun"] == "state.pkg" and b"test=True" in words)


def _salt_process(pid):
    """
    The words of the command line of a process of Salt; None if there is no such process.

    A job that was killed leaves its file behind, and another process may have its id by now.
    """
    if not salt.utils.process.os_is_running(pid):
        return None
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:  # it ended just now, unless this system has no such files
        return None if os.path.exists("/proc/self/cmdline") else []
    return words if any(b"salt" in word for word in words) else None


def _asks(job):
    """Whether this job is the one that asks: its process, or with ``multiprocessing: False`` its thread."""
    thread = threading.current_thread()
    return job["pid"] == os.getpid() and (thread is threading.main_thread() or str(job.get("jid")) in thread.name)


def _state_run(job):
    what, user = ", ".join(_functions(job)), job.get("user")
    if job.get("schedule"):
        what += f" (schedule: {job['schedule']})"
    elif job.get("tgt") == "salt-call":
        user = _caller(job["pid"])
    try:
        since = datetime.datetime.strptime(str(job.get("jid"))[:20], "%Y%m%d%H%M%S%f")
        since = since.replace(tzinfo=datetime.timezone.utc).timestamp()
    except ValueError:
        since = None  # of states at the start of the minion, Salt gives no time
    user = user and str(user).removeprefix("sudo_")
    return {"id": job.get("jid"), "what": what, "user": user, "ask": user, "since": since}


def _caller(pid):
    """
    The name of the user who logged in to start a process, also with sudo; or else its owner's.

    The environment, which might name who called sudo, is gone: Salt writes a title over it (setproctitle 1.3).
    """
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/{pid}/loginuid", encoding="ascii") as file:
            uid = int(file.read())
        return _user_name(uid if uid != NOBODY_LOGGED_IN else os.stat(f"/proc/{pid}").st_uid)
    return None


def _user_name(uid):
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError, OverflowError):  # ImportError: not on Windows
        return None


def _scheduled_shutdown():
    """
    The shutdown that systemd is to carry out, as after ``shutdown -r 22:30``.

    logind notes its time (USEC, since the epoch), kind (MODE) and, in newer versions, user (UID), and removes the file
    when it is cancelled (read in systemd's logind-dbus.c). ``shutdown -k``, which only warns, looks the same.
    """
    try:
        with open(SCHEDULED, encoding="utf-8", errors="replace") as file:
            fields = dict(line.strip().partition("=")[::2] for line in file)
    except FileNotFoundError:
        return {"blockers": [], "unknowns": [], "info": []}
    except OSError as error:
        raise CommandExecutionError(f"{SCHEDULED} cannot be read: {error.strerror}") from None
    try:
        moment = datetime.datetime.fromtimestamp(int(fields["USEC"]) // 1000000, datetime.timezone.utc)
        kind = re.fullmatch(r"[a-z-]+", fields["MODE"])[0]
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        why = f"{SCHEDULED} does not say which shutdown is to come: `shutdown -c` cancels it"
        raise CommandExecutionError(why) from None
    user = _user_name(int(fields["UID"])) if fields.get("UID", "").isdecimal() else None
    what = f"{kind} at {moment:%Y-%m-%d %H:%M} UTC"
    identity = f"{kind}@{moment:%Y-%m-%dT%H:%M}"
    return {"blockers": [{"id": identity, "what": what, "user": user, "ask": user}], "unknowns": [], "info": []}


def _unknown(probe, why):
    return {"probe": probe, "why": _printable(why, 300)}


def _ask(name, settings, seconds):
    """The answer of a probe, or the reason why it was not asked, as text."""
    key, module = f"busy.{name}", MODULES.get(name, name)
    function = f"{module}.probe"
    if not re.fullmatch(r"\w+", name, re.ASCII) or function not in __salt__:
        return f"{key}: this minion has no function {function} ({_why_missing(module)})"
    is_list = isinstance(settings, list)
    if is_list:
        settings = {"instances": settings}
    elif settings is None or settings is True:
        settings = {}
    if not isinstance(settings, dict):
        return f"{key}: settings are needed, as a mapping or a list of mappings"
    if seconds <= 0:
        return f"not asked: the {TOTAL} seconds for all probes are over"
    try:
        _check_keys(__salt__[function], settings)
        # To look up a password may hang as well.
        return _call_within(seconds, lambda: __salt__[function](**_resolved(settings)))
    except TimeoutError:
        return f"did not answer within {seconds:.0f} seconds"
    except SaltInvocationError as error:
        message = str(error)
        # A list has become "instances" here, so this is not in the configuration.
        path, _, what = (message.removeprefix("instances") if is_list else f".{message}").partition(": ")
        return f"{key}{path}: {what}" if re.fullmatch(r"(\.[^\s.:]+)*", path) else f"{key}: {message}"


def _why_missing(module):
    """Why a module is not there: its own reason if it refuses to load."""
    # missing_fun_string() may ask another loader than this __salt__, one that has not tried yet (3008.3).
    return getattr(__salt__, "missing_modules", {}).get(module) or "saltutil.sync_modules brings ours"


def _check_keys(probe, settings):
    """Raise SaltInvocationError for a key that the probe does not know, and for one that it needs."""
    parameters = inspect.signature(probe).parameters.values()
    named = {each.name: each for each in parameters if each.kind is not each.VAR_KEYWORD}
    for key in settings if len(named) == len(parameters) else ():
        if key == "instances" and key not in named:
            raise SaltInvocationError("instances: this probe takes a mapping of settings, and no list of them")
        if key not in named:
            raise SaltInvocationError(f"{key}: no such key; known are: {', '.join(sorted(named))}")
    for key, each in named.items():
        if each.default is each.empty and key not in settings:
            raise SaltInvocationError(f"{key}: needed, see the documentation of this probe")


def _resolved(value, path=""):
    """The settings, with the values for which their ``sdb://`` addresses stand."""
    if isinstance(value, dict):
        return {str(key): _resolved(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, f"{path}.{number}") for number, item in enumerate(value)]
    if isinstance(value, str) and value.startswith("sdb://"):
        try:
            secret = __salt__["sdb.get"](value)
        except Exception:
            secret = None
        # If it does not know the profile, Salt returns the address itself.
        if secret is None or secret == value:
            raise SaltInvocationError(f"{path[1:]}: {value} has no value on this minion")
        return secret
    return value


def _call_within(seconds, function):
    """
    Call a function, and wait so long at most, else raise TimeoutError.

    Python cannot end the thread of a function that hangs. Probes have time limits of their own; this one is the last.
    """
    outcome = {}

    def work():
        try:
            outcome["answer"] = function()
        except BaseException as error:  # a thread swallows SystemExit
            outcome["error"] = error

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        if isinstance(outcome["error"], Exception):
            raise outcome["error"]
        raise RuntimeError("ended itself")
    if "answer" not in outcome:
        raise TimeoutError
    return outcome["answer"]


def _add(answer, name, found):
    """Add the answer of a probe: checked, limited, and safe to print."""
    if isinstance(found, str):
        answer["unknowns"].append(_unknown(name, found))
        return
    if not isinstance(found, dict) or not all(_is_rows(found.get(key)) for key in ("blockers", "unknowns", "info")):
        answer["unknowns"].append(_unknown(name, "the probe's answer is not three lists: blockers, unknowns, info"))
        return
    for unknown in found["unknowns"][:MOST]:
        answer["unknowns"].append(_unknown(name, unknown.get("why", "no reason given")))
    for key in ("blockers", "info"):
        answer[key].extend(_item(name, item) for item in found[key][:MOST])
    more = len(found["blockers"]) - MOST
    if more > 0:
        answer["unknowns"].append(_unknown(name, f"{more} blockers more than the {MOST} that are listed"))


def _is_rows(value):
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _item(name, item):
    """A blocker or a piece of information, as people get it."""
    since, age = item.get("since"), None
    try:
        moment = datetime.datetime.fromtimestamp(float(since), datetime.timezone.utc)
        age = max(0, int(time.time() - moment.timestamp()))
        since = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError, OSError):
        since = None
    shown = {key: _printable(item[key], 120) for key in FIELDS if item.get(key) is not None}
    identity = "/".join([__opts__["id"], name, _plain_id(item.get("id", "?"))])
    return {"user": None, "what": "?", "ask": None, **shown, "probe": name, "id": identity, "since": since, "age": age}


def _printable(text, length):
    """The text as one short line, without control, formatting or private characters."""
    line = "".join(character if character.isprintable() else "?" for character in str(text)[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


def _plain_id(text):
    """
    The id in characters that mean nothing special in a glob, a shell or YAML.

    A session can be called "*", and consent to it must not be consent to everything. If characters are replaced or cut
    off, a checksum follows, so that two ids stay different.
    """
    text = str(text)
    word = re.sub(r"[^\w.:@%+/-]", "_", text, flags=re.ASCII)[:100]
    return word if word == text else f"{word}~{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
