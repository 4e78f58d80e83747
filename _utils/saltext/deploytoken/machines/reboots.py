"""
Reboots, told by boot ids: who rebooted, who is away, and one server after the other by order.

A boot id is made by Linux at each boot. Nothing else tells a reboot for sure: a minion that goes silent may be a slow
one, and one that answers may not have gone down yet. So only another boot id than before is a reboot, and only an
answer with it is a return. The answer to the order itself is no sign either way, for it may be lost as the machine
goes down.

A container must have a boot id of its own, as LXC and systemd-nspawn give it. One that shows its host's never counts
as rebooted.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import tempfile
import time
from pathlib import Path

from saltext.deploytoken import errors
from saltext.deploytoken.machines import master as minions

log = logging.getLogger(__name__)

BOOT_ID = "/proc/sys/kernel/random/boot_id"

#: Where systemd says that a shutdown is to come, as after ``shutdown -r +1``.
SCHEDULED = "/run/systemd/shutdown/scheduled"

#: Seconds that one look at minions takes at most while they are rebooting, and between two looks.
LOOK, PAUSE = 6, 2

#: Seconds after which a health check counts as failed, and is made again: its minion may have been restarted.
CHECK = 60


@dataclasses.dataclass(frozen=True)
class Health:
    """What tells that a server is well after a reboot: a function with arguments, or SLS."""

    fun: str
    arg: tuple
    kwarg: dict | None = None

    def trouble(self, answer):
        """Why this full return does not say that the server is well; an empty text if it does."""
        value = (answer or {}).get("ret")
        if answer is None:
            return f"{self.fun} gave no answer"
        if answer.get("retcode") != 0:
            return f"{self.fun}: {minions.line(_told(value))}"
        if self.fun == "state.apply":
            states = list(value.values()) if isinstance(value, dict) else []
            good = states and all(isinstance(one, dict) and one.get("result") is True for one in states)
        else:
            good = value is not False and value is not None
        return "" if good else f"{self.fun}: {minions.line(_told(value))}"


def health(value, ref=None):
    """
    Return the :class:`Health` of a function's name, or of a mapping of ``function`` and ``arg``, or of ``sls``.

    :raises errors.Invalid: for anything else.
    """
    value = {"function": value} if isinstance(value, str) else {"function": "test.ping"} if value is None else value
    if isinstance(value, dict) and set(value) == {"sls"} and _texts(value["sls"]):
        # The gate on the minion wants the ref.
        return Health("state.apply", (value["sls"],), {"pillar": {"deploytoken": {"ref": ref}}})
    if isinstance(value, dict) and "function" in value and set(value) <= {"function", "arg"}:
        arg = value.get("arg", [])
        if re.fullmatch(r"\w+\.\w+", str(value["function"])):
            return Health(value["function"], tuple(arg) if isinstance(arg, list) else (arg,))
    raise errors.Invalid(
        f"health: {value!r} is neither a function, nor {{function: NAME, arg: [...]}}, nor {{sls: NAMES}}"
    )


class Servers:
    """The minions, asked with one publish for all that are named."""

    def __init__(self, opts):
        self._opts = opts

    def boots(self, ids, timeout=LOOK):
        """The boot id of each that gives one."""
        found = minions.within(self._opts, ids, "file.read", [BOOT_ID], timeout=timeout)
        return _boots({minion: answer["ret"] for minion, answer in found.items()})

    def settled(self, ids, timeout=LOOK):
        """The boot id of each that gives one, and who of them says that no shutdown is to come."""
        questions = {"file.read": [BOOT_ID], "file.file_exists": [SCHEDULED]}
        found = minions.several(self._opts, ids, questions, timeout=timeout)
        boots = _boots({minion: boot for minion, (boot, _) in found.items()})
        return boots, {minion for minion in boots if found[minion][1] is False}

    def order(self, ids):
        """
        Order each to reboot, once, and return what those said who will not.

        ``shutdown -r now`` returns before the machine goes down, or is ended by it (a return code below 0); what it
        refuses, it refuses with a return code above 0.
        """
        said = minions.within(self._opts, ids, "system.reboot", timeout=LOOK)
        return {
            minion: minions.line(answer["ret"])
            for minion, answer in said.items()
            if isinstance(answer["retcode"], int) and answer["retcode"] > 0
        }

    def ailing(self, ids, check, timeout):
        """``{id: why}`` of those that are not well."""
        heard = minions.within(self._opts, ids, check.fun, check.arg, check.kwarg, timeout=timeout)
        found = {minion: check.trouble(heard.get(minion)) for minion in ids}
        return {minion: why for minion, why in found.items() if why}


def known(boots, ids):
    """Return the boot ids of all of these, if they are that; else None."""
    boots = _boots(boots) if isinstance(boots, dict) else {}
    return {minion: boots[minion] for minion in ids} if boots.keys() >= set(ids) else None


def _boots(told):
    """What minions gave for their boot id, of those of whom it is one."""
    texts = {minion: boot.strip() for minion, boot in told.items() if isinstance(boot, str)}
    return {minion: boot for minion, boot in texts.items() if re.fullmatch("[0-9a-f-]{36}", boot)}


def here():
    """The boot id of this machine, or None where it has none."""
    with contextlib.suppress(OSError):
        return Path(BOOT_ID).read_text(encoding="ascii").strip()
    return None


def settled(servers, ids, patience, tell, clock=time):
    """
    Look at all, and wait for those that are rebooting by themselves.

    Waited for is who does not answer, and who does not say that no shutdown is scheduled. Returns the boot ids of
    those that stay, and ``{id: why}`` of those that are still away, or still to go down, after so many seconds.
    Without patience, everybody who answers stays.
    """
    deadline = clock.monotonic() + patience
    boots, left, told = {}, set(ids), set()
    while True:
        # The first look is at everybody, of whom a busy one may take its time.
        seconds = LOOK if told else 15
        if patience:
            found, staying = servers.settled(left, seconds)
        else:
            found = staying = servers.boots(left, seconds)
        boots.update({minion: boot for minion, boot in found.items() if minion in staying})
        left -= boots.keys()
        if not left or clock.monotonic() >= deadline:
            break
        if left - told:
            tell(f"waiting for {', '.join(sorted(left))} to come back")
            told |= left
        clock.sleep(PAUSE)
    away = f"has not come back within {_span(patience)}" if patience else "did not answer"
    to_come = f"has a shutdown scheduled, later than in {_span(patience)}"
    return boots, {minion: to_come if minion in found else away for minion in left}


def reboot(servers, order, *, batch, patience, check, allowed, notes, tell, before=None, clock=time):
    """
    Reboot servers in this order, so many at a time; the first that does not come back, and well, stops the rest.

    ``allowed`` is called with the ids of each batch before it, and stops everything by raising. Who has another boot
    id than in ``before`` has rebooted already, and is only looked at. Each batch is waited for ``patience`` seconds.
    ``notes`` (:class:`Notes`) is told who is ordered to reboot, before that is done.
    Returns ``{id: {"old", "new"}}``, the boot ids of those that rebooted.

    :raises errors.Error: with ``rebooted``, ``failed`` and ``left`` in its details.
    """
    done, failed = {}, {}
    left = list(order)
    try:
        current = _all_there(servers, order)
        while left:
            several, left = left[:batch], left[batch:]
            base = {minion: (before or {}).get(minion, current[minion]) for minion in several}
            allowed(several)
            rebooted, failed = _one_batch(servers, base, patience, check, notes, tell, clock)
            done.update(rebooted)
            if failed:
                raise errors.Failed("; ".join(f"{minion} {why}" for minion, why in sorted(failed.items())))
    except (errors.Error, KeyboardInterrupt, SystemExit) as error:
        if not isinstance(error, errors.Error):
            # An order cannot be called back.
            sent = [minion for minion in order if minion in notes.sent and minion not in done]
            failed = dict.fromkeys(sent, "was ordered to reboot, and does so all the same")
            said = "; ".join(f"{minion} {why}" for minion, why in failed.items())
            error = errors.Interrupted(f"Interrupted; {said}" if said else "Interrupted")
        unstarted = [minion for minion in order if minion not in done and minion not in failed]
        parts = [("rebooted", list(done)), ("not rebooted", unstarted)]
        how_far = "; ".join(f"{words}: {', '.join(ids)}" for words, ids in parts if ids)
        error.details.update(rebooted=done, failed=failed, left=[*failed, *unstarted])
        error.args = (f"{error} ({how_far})" if how_far else str(error),)
        raise error from None
    return done


def _all_there(servers, order):
    current = servers.boots(order, 15)
    silent = [minion for minion in order if minion not in current]
    if silent:
        raise errors.Failed(f"no boot id from {', '.join(silent)}: see that they are up (salt-run manage.status)")
    selves = [minion for minion in order if current[minion] == here()]
    if selves:
        raise errors.Invalid(
            f"target: {', '.join(selves)} has the boot id of the machine that this runs on (or is a container that "
            "shows its host's): leave it out, and reboot it by hand"
        )
    return current


def _one_batch(servers, base, patience, check, notes, tell, clock):
    """Reboot these and wait for them: their boot ids before and after, and ``{id: why}`` of those that failed."""
    start = clock.monotonic()
    found = servers.boots(base)
    for_now = [minion for minion in base if found.get(minion, base[minion]) == base[minion]]
    notes.keep(base, ordered={minion: found.get(minion, base[minion]) for minion in for_now})
    for minion in for_now:
        tell(f"{minion}: reboots now")
    refused = servers.order(for_now) if for_now else {}
    rebooted, failed, well = {}, {}, set()
    while True:
        left = [minion for minion in base if minion not in well and minion not in failed]
        now = servers.boots(left)
        why = {}
        for minion in left:
            if minion not in now:
                why[minion] = f"has not come back within {_span(patience)}"
            elif now[minion] != base[minion]:
                rebooted[minion] = {"old": base[minion], "new": now[minion]}
            elif minion in refused:
                failed[minion] = f"refuses to reboot: {refused[minion]}"
            else:
                why[minion] = f"did not reboot within {_span(patience)}: it still has the boot id from before"
        back = [minion for minion in left if minion in rebooted and minion in now]
        spent = clock.monotonic() - start
        ill = servers.ailing(back, check, max(LOOK, min(CHECK, patience - spent))) if back else {}
        why.update({minion: f"came back, and is not well: {reason}" for minion, reason in ill.items()})
        for minion in back:
            if minion not in ill:
                well.add(minion)
                tell(f"{minion}: is back, and well, after {_span(clock.monotonic() - start)}")
        if not why or clock.monotonic() - start >= patience:
            return rebooted, {**failed, **why}
        clock.sleep(PAUSE)


class Notes:
    """
    What is known of one hold's reboots: a hold may outlive an orchestration, and its History entry tells of all.

    ``first`` has each minion's boot id as it was first seen under this hold, ``ordered`` who was ordered to reboot,
    and ``sent`` who by this process. ``fresh`` has the boot ids at the order of those on which no states were begun
    since: who has another one by now need not reboot once more. A file that is damaged or of another hold is as good
    as none.
    """

    def __init__(self, cachedir, ref):
        self._path = Path(cachedir) / "deploytoken" / "reboots.json"
        self._ref = ref
        self.first, self.ordered, self.sent, self.fresh = {}, set(), set(), {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["ref"] == ref:
                self.first, self.ordered, self.fresh = dict(kept["first"]), set(kept["ordered"]), dict(kept["fresh"])

    def keep(self, boots, ordered=None):
        """Add boot ids of minions that were not seen before, and of those that are ordered to reboot."""
        self.first = {**boots, **self.first}
        self.ordered |= set(ordered or ())
        self.sent |= set(ordered or ())
        self.fresh.update(ordered or {})
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as new:
                known = {"first": self.first, "ordered": sorted(self.ordered), "fresh": self.fresh}
                json.dump({"ref": self._ref, **known}, new)
            os.replace(new.name, self._path)
        except OSError:  # a line in the History is not worth a deploy
            log.warning("Reboots cannot be noted in %s", self._path, exc_info=True)

    def rebooted(self, boots):
        """``{id: "ordered" or "by itself"}`` of those that have another boot id than at first."""
        return {
            minion: "ordered" if minion in self.ordered else "by itself"
            for minion, boot in sorted(boots.items())
            if self.first.get(minion, boot) != boot
        }


def _told(value):
    """What a return says: of states, the first that failed."""
    if isinstance(value, dict):
        failed = [one for one in value.values() if isinstance(one, dict) and one.get("result") is not True]
        return failed[0].get("comment", failed[0]) if failed else value
    return value[0] if isinstance(value, list) and value else value


def _texts(value):
    several = value if isinstance(value, list) else [value]
    return bool(several) and all(isinstance(one, str) and one for one in several)


def _span(seconds):
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
