"""
Is this machine busy?
=====================

Asks all probes that are configured for this minion, and says what a deploy would interrupt, whose it is, since when,
and whom to ask. Only a clear "idle" of every probe is idle: what cannot be known is reported as unknown, which blocks
as well.

.. versionadded:: 0.1.0

:configuration: In pillar, or in the minion's configuration; of a probe that is in both, pillar's settings count:

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

A probe is an execution module with a function ``probe``, whose arguments are the probe's settings. A list of settings
is given as ``instances``. It changes nothing, and returns three lists of dictionaries:

``blockers``
    ``id`` (stable while the work goes on, and unlike that of any other), ``what``; and, where they are known,
    ``user``, ``since`` (seconds since the epoch), ``ask`` and ``state``.

``unknowns``
    ``why``, in a few words. What it raises becomes one, too.

``info``
    As blockers, of what does not block.
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

from salt.exceptions import SaltException

__outputter__ = {"check": "busy"}

# Probes whose module has another name: "postgres" is Salt's own.
MODULES = {"postgres": "pgactivity"}
SECONDS = 20  # for a probe
TOTAL = 60  # for all of them
LEAST = 5  # for one whose predecessors took all the time they could have
MOST = 200  # blockers of a probe
BOOT_ID = "/proc/sys/kernel/random/boot_id"
OVER_SSH = "running_data"  # the folder in which Salt runs on the far side of salt-ssh
FIELDS = ("user", "what", "ask", "state")


def check():
    """
    Ask all probes that are configured for this minion. Read-only.

    Returns a dictionary:

    idle
        True if nothing blocks and nothing is unknown.
    checks
        The names of the probes that were asked.
    note
        Only if there are none: ``no checks configured``.
    blockers
        A list of what runs: ``probe``, ``id`` (``MINION/PROBE/…``), ``user``, ``what``, ``since`` (ISO 8601, UTC),
        ``age`` (seconds), ``ask`` (whom) and ``state`` (of Scrapyd's jobs). The oldest are first.
    unknowns
        A list of what could not be known: ``probe`` and ``why``.
    info
        A list as ``blockers``, of what does not block.
    boot
        The boot id, by which a deploy tells who rebooted in it; None where it cannot be read.

    The return code is 7 if the minion is not idle. Raises nothing: what a probe raises is an unknown.

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
        kept = LEAST * (len(settings) - position)  # for those that are still to come
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
    """The settings of every probe, and what is wrong with them."""
    settings, wrong = {}, []
    if __pillar__.get("_errors"):
        # What is configured for this minion may be in the part that did not render.
        wrong.append(_unknown("busy", "pillar has errors, so the checks may be incomplete (pillar.items shows them)"))
    if not __pillar__ and "busy" not in __opts__ and os.path.basename(__opts__.get("root_dir") or "") == OVER_SSH:
        # Pillar comes along over salt-ssh with states only (3006.28 and 3008.3).
        why = "no pillar came along over salt-ssh: ask with `salt-run busy.check TARGET ssh=True`"
        wrong.append(_unknown("busy", f"{why}; where nothing is to be checked, `busy: {{}}` in pillar says so"))
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
    return {"probe": probe, "why": _clean(why, 300)}


def _ask(name, settings, seconds):
    """The answer of a probe, or a reason (a text) why there is none."""
    function = f"{MODULES.get(name, name)}.probe"
    if not re.fullmatch(r"\w+", name, re.ASCII) or function not in __salt__:
        return f"busy:{name}: this minion has no function {function} ({_missing(function)})"
    if settings is None or settings is True:
        settings = {}
    elif isinstance(settings, list):
        settings = {"instances": settings}
    if not isinstance(settings, dict):
        return f"busy:{name}: settings are needed, as a mapping or a list of mappings"
    try:
        inspect.signature(__salt__[function]).bind(**settings)
    except TypeError as error:
        return f"busy:{name}: {error}"
    if seconds <= 0:
        return f"not asked: the {TOTAL} seconds for all probes are over"
    try:
        # Where a password is looked up may hang as well.
        return _within(seconds, lambda: __salt__[function](**_resolved(settings)))
    except TimeoutError:
        return f"did not answer within {seconds:.0f} seconds"
    except _NoValue as error:
        return f"busy:{name}: {error}"
    except SaltException as error:
        return f"busy:{name}: {error}" if type(error).__name__ == "SaltInvocationError" else str(error)
    except Exception as error:
        # Its message may quote what it was given, and with that a password: where it happened says enough.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"failed with {type(error).__name__} in {place.name}, line {place.lineno}"


def _missing(function):
    """Why a function is not here: of a module that is there, what it lacks."""
    told = getattr(__salt__, "missing_fun_string", lambda _: "")(function)
    _, virtual, why = str(told).partition("__virtual__ returned False: ")
    return why if virtual else "saltutil.sync_modules brings ours; most need psutil"


class _NoValue(Exception):
    """An sdb:// address stands for nothing here."""


def _resolved(value):
    """The settings, with sdb:// addresses replaced by what they stand for."""
    if isinstance(value, dict):
        return {str(key): _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    if isinstance(value, str) and value.startswith("sdb://"):
        try:
            secret = __salt__["sdb.get"](value)
        except Exception:
            secret = None
        # Of an unknown profile, Salt returns the address itself.
        if secret is None or secret == value:
            raise _NoValue(f"{value} has no value on this minion")
        return secret
    return value


def _within(seconds, function):
    """
    Call a function, and wait for so long at most. A thread that does not end is left behind, for Python cannot end it:
    probes have time-outs of their own, this one is the net below them.
    """
    outcome = {}

    def work():
        try:
            outcome["answer"] = function()
        except BaseException as error:  # SystemExit in a thread would pass unseen
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
    """Put a probe's answer into the whole, checked, bounded and harmless to print."""
    if isinstance(found, str):
        answer["unknowns"].append(_unknown(name, found))
        return
    if not isinstance(found, dict) or not all(_items(found.get(key)) for key in ("blockers", "unknowns", "info")):
        answer["unknowns"].append(_unknown(name, "the probe's answer is not three lists: blockers, unknowns, info"))
        return
    for unknown in found["unknowns"][:MOST]:
        answer["unknowns"].append(_unknown(name, unknown.get("why", "no reason given")))
    for key in ("blockers", "info"):
        answer[key].extend(_item(name, item) for item in found[key][:MOST])
    left = len(found["blockers"]) - MOST
    if left > 0:
        answer["unknowns"].append(_unknown(name, f"{left} blockers more than the {MOST} that are listed"))


def _items(value):
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _item(name, item):
    """A blocker in its final form."""
    since, age = item.get("since"), None
    try:
        moment = datetime.datetime.fromtimestamp(float(since), datetime.timezone.utc)
        age = max(0, int(time.time() - moment.timestamp()))
        since = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError, OSError):
        since = None
    clean = {key: _clean(item[key], 120) for key in FIELDS if item.get(key) is not None}
    whole = {"probe": name, "id": f"{__opts__['id']}/{name}/{_word(item.get('id', '?'))}", "since": since, "age": age}
    return {"user": None, "what": "?", "ask": None, **clean, **whole}


def _clean(text, length):
    """One line without control, formatting or private characters, that a terminal shows as it is."""
    line = "".join(character if character.isprintable() else "?" for character in str(text)[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


def _word(text):
    """
    An id in characters that mean nothing in a glob, a shell or YAML. Sessions can be called "*", and consent to that
    must not be consent to all. What was replaced or cut off lives on in a checksum, so that two ids stay two.
    """
    text = str(text)
    word = re.sub(r"[^\w.:@%+/-]", "_", text, flags=re.ASCII)[:100]
    return word if word == text else f"{word}~{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
