"""
Is this machine busy?
=====================

Asks all probes that are configured for this minion. Reports what a deploy would interrupt: what runs, whose it is,
since when, and whom to ask. The minion is idle only if every probe clearly says so. What a probe cannot find out is
unknown, and blocks a deploy too.

.. versionadded:: 0.1.0

:configuration: In pillar, or in the minion's configuration. If both have a probe, its settings in pillar count:

    .. code-block:: yaml

        busy:
          scrapyd:
            - url: http://127.0.0.1:6800
              username: scrapyd
              password: sdb://vault/scrapyd
          tmux:
            users: [ocdskfs, ocdskfp]
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

import contextvars
import datetime
import hashlib
import inspect
import os
import re
import threading
import time
import traceback

from salt.exceptions import SaltException, SaltInvocationError

__outputter__ = {"check": "busy"}

# Probes whose module has another name: "postgres" is Salt's own.
MODULES = {"postgres": "pgactivity"}
SECONDS = 20  # for one probe
TOTAL = 60  # for all probes
LEAST = 5  # for a probe after slow ones
MOST = 200  # blockers of one probe
BOOT_ID = "/proc/sys/kernel/random/boot_id"
OVER_SSH = "running_data"  # the folder in which Salt runs on the far side of salt-ssh
FIELDS = ("user", "what", "ask", "state")


def check():
    """
    Ask all probes that are configured for this minion. Changes nothing.

    Returns a dictionary:

    idle
        True if nothing blocks and nothing is unknown.
    checks
        The names of all probes that were asked.
    note
        ``no checks configured``, if no probe was asked.
    blockers
        A list of what runs, the oldest first: ``probe``, ``id`` (``MINION/PROBE/…``), ``user``, ``what``, ``since``
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
    answer = {"idle": False, "checks": [], "blockers": [], "unknowns": [], "info": [], "boot": _boot()}
    settings, answer["unknowns"] = _configured()
    deadline = time.monotonic() + TOTAL
    for position, name in enumerate(sorted(settings), 1):
        answer["checks"].append(name)
        kept = LEAST * (len(settings) - position)  # for the probes that follow
        _add(answer, name, _ask(name, settings[name], min(SECONDS, deadline - time.monotonic() - kept)))
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


def _configured():
    """The settings of each probe, by its name; and unknowns, for what is wrong with the configuration itself."""
    settings, wrong = {}, []
    if __pillar__.get("_errors"):
        # The part that did not render may configure probes for this minion.
        wrong.append(_unknown("busy", "pillar has errors, so the checks may be incomplete (pillar.items shows them)"))
    if not __pillar__ and "busy" not in __opts__ and os.path.basename(__opts__.get("root_dir") or "") == OVER_SSH:
        # salt-ssh sends pillar along only to apply states (3006.28 and 3008.3).
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


def _unknown(probe, why):
    return {"probe": probe, "why": _printable(why, 300)}


def _ask(name, settings, seconds):
    """The answer of a probe, or the reason why there is none, as text."""
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
    except SaltException as error:
        return str(error)
    except Exception as error:
        # The message may quote a setting, which may be a password. The place of the error says enough.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"failed with {type(error).__name__} in {place.name}, line {place.lineno}"


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
    identity = f"{__opts__['id']}/{name}/{_plain_id(item.get('id', '?'))}"
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
