"""
Reboots, seen by boot IDs: which machines rebooted, which are away, which need one, and one after the other by order.

Linux makes a boot ID at each boot. Nothing else shows a reboot for sure: a machine that goes silent may be slow, and
one that answers may not have gone down yet. So only another boot ID than before is a reboot, and only an answer with
it is a return. The answer to the order itself is no sign either way, for it may be lost as the machine goes down.

A container must have a boot ID of its own, as LXC and systemd-nspawn give it. One that shows its host's never counts
as rebooted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from saltext.deploytoken import errors, files, text
from saltext.deploytoken.machines import states
from saltext.deploytoken.machines.base import TIMEOUT, Full, Machines, Tell

log = logging.getLogger(__name__)

BOOT_ID = "/proc/sys/kernel/random/boot_id"

#: Where systemd says that a shutdown is to come, as after ``shutdown -r +1``.
SCHEDULED = "/run/systemd/shutdown/scheduled"

#: The file that says that a machine needs a reboot.
REQUIRED = "/var/run/reboot-required"

#: The packages that write it on Debian and Ubuntu. Without any of them, nothing writes it for a new kernel (measured
#: on Debian 12).
WRITERS = ("unattended-upgrades", "update-notifier-common", "reboot-notifier")

#: What says it on Red Hat's systems: ends with 1 if a reboot is needed, but also on an error of its own.
NEEDS = "needs-restarting -r"

#: Seconds that one look at machines takes at most while they are rebooting, and between two looks.
LOOK, PAUSE = 6, 2

#: Seconds after which a health check counts as failed, and is made again: its minion may have been restarted.
CHECK = 60

#: ``{id: boot ID}``.
Boots = dict[str, str]


class Clock(Protocol):
    """What this module needs of :py:mod:`time`."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclasses.dataclass(frozen=True)
class Health:
    """What shows that a machine is well after a reboot: a function with arguments, or SLS that apply."""

    task: states.Task

    def trouble(self, answer: Full | None) -> str:
        """Return why this full return does not say that the machine is well; an empty text if it does."""
        if answer is None:
            why = "gave no answer"
        elif self.task.function is None:
            found = self.task.summarize(answer)
            why = "" if found.result else str(found.failed[0])
        else:
            # A function may succeed without a word, but nothing is no word about a machine.
            why = states.trouble(answer) or ("returned nothing" if answer.get("ret") is None else "")
        return f"{self.task}: {why}" if why else ""


#: An answer is health enough, where nothing else is said.
PING = Health(states.Task(function=states.Function("test.ping")))


def health(value: Any, key: str = "health") -> Health:
    """
    Return the :class:`Health` of a function's name, or of a mapping of ``function``, ``arg`` and ``kwarg``, or of
    ``sls``.

    :raises errors.Invalid: for anything else.
    """
    if value is None:
        return PING
    if isinstance(value, Mapping) and set(value) == {"sls"}:
        return Health(states.task(value, f"{key}."))
    return Health(states.Task(function=states.function(value, key, name="function")))


class Servers:
    """Machines that may be rebooting; each question goes to all that are named."""

    def __init__(self, machines: Machines):
        self._machines = machines

    def boots(self, ids: Collection[str], timeout: float = LOOK) -> Boots:
        """Return the boot ID of each that gives one."""
        found = self._machines.collect_returns(ids, "file.read", [BOOT_ID], timeout=timeout)
        return _boots({minion: answer["ret"] for minion, answer in found.items()})

    def settled(self, ids: Collection[str], timeout: float = LOOK) -> tuple[Boots, set[str]]:
        """Return the boot ID of each that gives one, and those that confirm that no shutdown is scheduled."""
        questions = {"file.read": [BOOT_ID], "file.file_exists": [SCHEDULED]}
        found = self._machines.call_all(ids, questions, timeout=timeout)
        boots = _boots({minion: boot for minion, (boot, _) in found.items()})
        return boots, {minion for minion in boots if found[minion][1] is False}

    def signs(self, ids: Collection[str]) -> dict[str, list[Any]]:
        """
        Return what those that answer say of a reboot that they need.

        That is: whether :data:`REQUIRED` is there, the family of the system, the versions of :data:`WRITERS`, and what
        :data:`NEEDS` returned where that family has it, else None.
        """
        questions = {"file.file_exists": [REQUIRED], "grains.get": ["os_family"], "pkg.version": WRITERS}
        found = self._machines.call_all(ids, questions, timeout=TIMEOUT)
        others = [minion for minion, (exists, family, _) in found.items() if family == "RedHat" and exists is False]
        heard = self._machines.collect_returns(others, "cmd.run_all", [NEEDS]) if others else {}
        return {minion: [*answers, heard.get(minion, {}).get("ret")] for minion, answers in found.items()}

    def order(self, ids: Collection[str]) -> dict[str, str]:
        """
        Order each to reboot, once, and return ``{id: why}`` of those that refuse.

        ``shutdown -r now`` returns before the machine goes down, or is ended by it (a return code below 0); what it
        refuses, it refuses with a return code above 0.
        """
        found = self._machines.collect_returns(ids, "system.reboot", timeout=LOOK)
        return {
            minion: text.last_line(answer["ret"])
            for minion, answer in found.items()
            if isinstance(answer["retcode"], int) and answer["retcode"] > 0
        }

    def unhealthy(self, ids: Collection[str], check: Health, ref: str, timeout: float) -> dict[str, str]:
        """Return ``{id: why}`` of those that are not well."""
        # The gate on the minion wants the ref.
        heard = self._machines.collect_returns(ids, *check.task.call(ref), timeout=timeout)
        found = {minion: check.trouble(heard.get(minion)) for minion in ids}
        return {minion: why for minion, why in found.items() if why}


class Notes:
    """
    What is known of one hold's reboots: a hold may outlive an orchestration, and its History entry names them all.

    ``first`` has each machine's boot ID as it was first seen under this hold, ``ordered`` those that were ordered to
    reboot, and ``sent`` those that this process ordered. ``fresh``: for each machine that was ordered to reboot and
    given no states since, its boot ID then. If it differs now, the machine need not reboot again. A file that is
    damaged or of another hold is as good as none.
    """

    def __init__(self, cachedir: str, ref: str):
        self._cachedir = cachedir
        self._ref = ref
        self.first: Boots = {}
        self.ordered: set[str] = set()
        self.sent: set[str] = set()
        self.fresh: Boots = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = files.read_json(self._path())
            if kept["ref"] == ref:
                self.first, self.ordered, self.fresh = dict(kept["first"]), set(kept["ordered"]), dict(kept["fresh"])

    def keep(self, boots: Boots, ordered: Boots | None = None) -> None:
        """Add boot IDs of machines that were not seen before, and of those that are ordered to reboot."""
        self.first = {**boots, **self.first}
        self.ordered |= set(ordered or ())
        self.sent |= set(ordered or ())
        self.fresh.update(ordered or {})
        known = {"first": self.first, "ordered": sorted(self.ordered), "fresh": self.fresh}
        try:
            files.replace_json(self._path(), {"ref": self._ref, **known})
        except OSError:  # a line in the History is not worth a deploy
            log.warning("Reboots cannot be noted below %s", self._cachedir, exc_info=True)

    def tell(self, boots: Boots, done: bool) -> None:
        """
        Note that the page has words of those that have rebooted so far. ``done``: the next deploy under this hold is
        not this one once more, and reboots anew.
        """
        told = self.rebooted(boots)
        self.first.update({minion: boots[minion] for minion in told})
        self.ordered -= told.keys()
        if done:
            self.fresh = {}
        self.keep({})

    def rebooted(self, boots: Boots) -> dict[str, str]:
        """Return ``{id: "ordered" or "by itself"}`` of those that have another boot ID than at first."""
        return {
            minion: "ordered" if minion in self.ordered else "by itself"
            for minion, boot in sorted(boots.items())
            if self.first.get(minion, boot) != boot
        }

    def fresh_since(self, boots: Boots) -> Boots:
        """Return the machines that have rebooted since they were ordered to, with the boot ID from before."""
        return {minion: boot for minion, boot in self.fresh.items() if boots.get(minion, boot) != boot}

    def _path(self) -> Path:
        return files.folder(self._cachedir) / "reboots.json"


def known(boots: Any, ids: Collection[str]) -> Boots | None:
    """Return the boot IDs of all of these, if each of them is one; else None."""
    found = _boots(boots) if isinstance(boots, dict) else {}
    return {minion: found[minion] for minion in ids} if found.keys() >= set(ids) else None


def here() -> str | None:
    """Return the boot ID of this machine, or None where it has none."""
    with contextlib.suppress(OSError):
        return Path(BOOT_ID).read_text(encoding="ascii").strip()
    return None


def require_others(order: Iterable[str], boots: Mapping[str, str], key: str = "target") -> None:
    """
    Refuse to reboot the machine that this runs on.

    :raises errors.Invalid: with the machines that have its boot ID.
    """
    own = here()
    if selves := [minion for minion in order if own and boots.get(minion) == own]:
        raise errors.Invalid(
            f"{key}: {', '.join(selves)} has the boot ID of the machine that this runs on (or is a container that "
            "shows its host's): leave it out, and reboot it by hand"
        )


def required(servers: Servers, ids: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Return those of these machines that need a reboot, in this order, and ``{id: why}`` where that is unknown."""
    signs = servers.signs(ids)
    silent = f"did not answer within {TIMEOUT} seconds"
    found = {minion: _needs_reboot(*signs[minion]) if minion in signs else silent for minion in ids}
    unknown = {minion: why for minion, why in found.items() if isinstance(why, str)}
    return [minion for minion in ids if found[minion] is True], unknown


def _needs_reboot(exists: Any, family: Any, writers: Any, needs: Any) -> bool | str:
    """Whether a machine needs a reboot by its :meth:`Servers.signs`, or why that cannot be told."""
    if exists is True:
        return True
    unknown = "cannot tell whether it needs a reboot:"
    if exists is False and family == "Debian":
        if isinstance(writers, dict) and any(writers.get(name) for name in WRITERS):
            return False
        return f"{unknown} nothing there writes {REQUIRED} (install {WRITERS[0]})"
    if exists is False and family == "RedHat":
        answer = needs if isinstance(needs, dict) else {"stderr": needs}
        code, said, error = (answer.get(key) for key in ("retcode", "stdout", "stderr"))
        if code == 0:
            return False
        if code == 1 and "Reboot is required" in str(said):
            return True
        why = text.last_line(error) or "no clear answer"
        return f"{unknown} {NEEDS}: {why} (is yum-utils or dnf-utils there?)"
    return f"{unknown} {family} has no sign of it that is known here"


def settle(
    servers: Servers, ids: Collection[str], patience: float, tell: Tell, clock: Clock = time
) -> tuple[Boots, dict[str, str]]:
    """
    Look at all, and wait for those that are rebooting by themselves.

    Waits for machines that are silent or have not confirmed that no shutdown is scheduled. Returns the boot IDs of
    those that stay, and ``{id: why}`` of those that are still away, or still to go down, after so many seconds.
    Without patience, every machine that answers counts as one that stays.
    """
    deadline = clock.monotonic() + patience
    boots: Boots = {}
    left, announced = set(ids), set[str]()
    while True:
        # The first look is at all of them, and a busy one may take its time.
        seconds = LOOK if announced else TIMEOUT
        if patience:
            found, staying = servers.settled(left, seconds)
        else:
            found = servers.boots(left, seconds)
            staying = set(found)
        boots.update({minion: boot for minion, boot in found.items() if minion in staying})
        left -= boots.keys()
        if not left or clock.monotonic() >= deadline:
            break
        if left - announced:
            tell(f"waiting for {', '.join(sorted(left))} to come back")
            announced |= left
        clock.sleep(PAUSE)
    away = f"has not come back within {text.span(patience)}" if patience else "did not answer"
    to_come = f"has a shutdown scheduled, later than in {text.span(patience)}"
    return boots, {minion: to_come if minion in found else away for minion in left}


def reboot(
    servers: Servers,
    order: Collection[str],
    *,
    batch: int,
    patience: float,
    check: Health,
    ref: str,
    allowed: Callable[[list[str]], None],
    notes: Notes,
    tell: Tell,
    before: Boots | None = None,
    pause: float = 0,
    clock: Clock = time,
) -> dict[str, dict[str, str]]:
    """
    Reboot machines in this order, so many at a time; the first that does not come back, and well, stops the rest.

    ``allowed`` is called with the ids of each batch before it, and stops everything by raising. A machine whose boot
    ID differs from ``before`` has already rebooted; only its health is checked. Each batch is waited for ``patience``
    seconds. After a batch in which a machine was ordered to reboot, ``pause`` seconds pass before the next. ``notes``
    (:class:`Notes`) is given the machines that are ordered to reboot, before that is done.
    Returns ``{id: {"old", "new"}}``, the boot IDs of those that rebooted.

    :raises errors.Error: with ``rebooted``, ``failed`` and ``left`` in its details.
    """
    done: dict[str, dict[str, str]] = {}
    failed: dict[str, str] = {}
    left = list(order)
    try:
        current = _all_there(servers, order)
        while left:
            group, left = left[:batch], left[batch:]
            base = {minion: (before or {}).get(minion, current[minion]) for minion in group}
            allowed(group)
            rebooted, failed = _one_batch(servers, base, patience, check, ref, notes, tell, clock)
            done.update(rebooted)
            if failed:
                raise errors.Failed(text.join_reasons(failed))
            if pause and left and notes.sent.intersection(group):
                tell(f"waiting {text.span(pause)} before {', '.join(left[:batch])}")
                clock.sleep(pause)
    except (errors.Error, KeyboardInterrupt, SystemExit) as caught:
        error = caught
        if not isinstance(error, errors.Error):
            # An order cannot be called back.
            sent = [minion for minion in order if minion in notes.sent and minion not in done]
            failed = dict.fromkeys(sent, "was ordered to reboot, and does so all the same")
            error = errors.Interrupted("; ".join(["Interrupted", *(f"{one} {why}" for one, why in failed.items())]))
        unstarted = [minion for minion in order if minion not in done and minion not in failed]
        parts = [("rebooted", list(done)), ("not rebooted", unstarted)]
        how_far = "; ".join(f"{words}: {', '.join(ids)}" for words, ids in parts if ids)
        error.details.update(rebooted=done, failed=failed, left=[*failed, *unstarted])
        error.args = (f"{error} ({how_far})" if how_far else str(error),)
        raise error from None
    return done


def _all_there(servers: Servers, order: Collection[str]) -> Boots:
    current = servers.boots(order, TIMEOUT)
    silent = [minion for minion in order if minion not in current]
    if silent:
        raise errors.Failed(f"no boot ID from {', '.join(silent)}: see that they are up (salt-run manage.status)")
    require_others(order, current)
    return current


def _one_batch(
    servers: Servers,
    base: Boots,
    patience: float,
    check: Health,
    ref: str,
    notes: Notes,
    tell: Tell,
    clock: Clock,
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Reboot these and wait for them: their boot IDs before and after, and ``{id: why}`` of those that failed."""
    start = clock.monotonic()
    found = servers.boots(base)
    to_reboot = [minion for minion in base if found.get(minion, base[minion]) == base[minion]]
    notes.keep(base, ordered={minion: found.get(minion, base[minion]) for minion in to_reboot})
    for minion in to_reboot:
        tell(f"{minion}: reboots now")
    refused = servers.order(to_reboot) if to_reboot else {}
    rebooted: dict[str, dict[str, str]] = {}
    failed: dict[str, str] = {}
    well: set[str] = set()
    while True:
        left = [minion for minion in base if minion not in well and minion not in failed]
        now = servers.boots(left)
        why = {}
        for minion in left:
            if minion not in now:
                why[minion] = f"has not come back within {text.span(patience)}"
            elif now[minion] != base[minion]:
                rebooted[minion] = {"old": base[minion], "new": now[minion]}
            elif minion in refused:
                failed[minion] = f"refuses to reboot: {refused[minion]}"
            else:
                why[minion] = f"did not reboot within {text.span(patience)}: it still has the boot ID from before"
        back = [minion for minion in left if minion in rebooted and minion in now]
        spent = clock.monotonic() - start
        ill = servers.unhealthy(back, check, ref, max(LOOK, min(CHECK, patience - spent))) if back else {}
        why.update({minion: f"came back, and is not well: {reason}" for minion, reason in ill.items()})
        for minion in back:
            if minion not in ill:
                well.add(minion)
                tell(f"{minion}: is back, and well, after {text.span(clock.monotonic() - start)}")
        if not why or clock.monotonic() - start >= patience:
            return rebooted, {**failed, **why}
        clock.sleep(PAUSE)


def _boots(found: Mapping[str, Any]) -> Boots:
    """What machines gave for their boot ID, where it is one."""
    texts = {minion: boot.strip() for minion, boot in found.items() if isinstance(boot, str)}
    return {minion: boot for minion, boot in texts.items() if re.fullmatch("[0-9a-f-]{36}", boot)}
