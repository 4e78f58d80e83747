"""
The steps of a deploy, in the order of ``deploytoken/deploy.sls``.

Each step reads and writes the one record. Only a clear success is one, and a step that raises something unexpected may
have done anything.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from saltext.deploytoken import config, errors, machines, page, people, repositories, text
from saltext.deploytoken.busy import consent, verdict, waiting
from saltext.deploytoken.deploy import allowed, ending, jobs, record, report, request, serving, tokens
from saltext.deploytoken.deploy.record import Record, Step
from saltext.deploytoken.deploy.release import notes, release
from saltext.deploytoken.deploy.request import Request
from saltext.deploytoken.deploy.work import Work
from saltext.deploytoken.machines import asking, reboots, states, targets
from saltext.deploytoken.machines.base import Machines, Tell
from saltext.deploytoken.page import Hold
from saltext.deploytoken.token import Token, claim

log = logging.getLogger(__name__)

INTERRUPTED = "Interrupted; `salt-run deploytoken.status` tells who holds the token"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a step ended, as Salt wants it of a state; ``data`` goes beside that, for programs."""

    result: bool | None
    comment: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    reason: str | None = None


class Deploy:
    """
    One deploy, carried out step by step in the process of its orchestration.

    ``opts``
        The master's options, in which ``test`` is that of the orchestration.
    ``functions``
        Salt's execution functions on the master.
    ``asked``
        What stands under ``deploytoken`` in the orchestration's pillar.
    ``tell`` (callable)
        Called with lines of progress.
    ``beside``
        The keys beside the request in the orchestration's pillar overrides; None if that cannot be told.
    ``jid``
        The job of the orchestration, as Salt says to its states.
    """

    def __init__(
        self,
        opts: Mapping[str, Any],
        functions: Mapping[str, Any],
        asked: Any,
        tell: Tell,
        beside: Sequence[str] | None = None,
        jid: Any = None,
    ):
        self._beside = beside
        self._opts = opts
        self._functions = functions
        self._asked = asked
        self._tell = tell
        found = dict(asked) if isinstance(asked, Mapping) else {}
        test = bool(opts.get("test")) or found.get("test") is True
        caller = str(people.account(opts, opts.get("user")))
        self._asking = contextlib.ExitStack()
        self.record = Record(asked=found, test=test, ref=claim().ref, caller=caller, jid=jobs.own(opts, jid))

    def carry_out(self, step: str, name: str) -> dict[str, Any]:
        """Carry out the step of this function, and return what Salt wants of the state ``name``."""
        self._tell(f"{name} …")
        try:
            if step != "requested" and self.record.request is None:
                raise errors.Invalid("not looked at, because the request was refused")
            outcome = getattr(self, step)()
        except errors.Error as error:
            outcome = Outcome(False, str(error), reason=error.reason)
        except (KeyboardInterrupt, SystemExit):
            # Ctrl-C and SIGTERM: salt-run's handlers raise SystemExit(0), which would skip the cleanup.
            outcome = Outcome(False, INTERRUPTED, reason=errors.Interrupted.reason)
        except Exception as error:
            log.exception("The step %s failed", step)
            what = f"{type(error).__name__}: {text.last_line(error) or 'no message'}"
            outcome = Outcome(False, f"{what}; the log has more", reason=record.UNKNOWN)
        line = text.first_line(outcome.comment, limit=1000)
        self.record.steps[step] = Step(outcome.result, line.rstrip("."), outcome.reason)
        self._tell(f"{name}: {line if outcome.result is False else 'done'}")
        return {
            **outcome.data,
            "name": name,
            "result": outcome.result,
            "comment": outcome.comment,
            "changes": outcome.changes,
            "reason": outcome.reason,
        }

    def requested(self) -> Outcome:
        """Check the configuration, and what was asked for."""
        if not self.record.test:  # until it holds the token, it only asks and waits
            self._asking.enter_context(asking.noted(self._opts["cachedir"]))
        rules = self._config.rules
        checked = request.parse(self._asked, rules.nobody)
        if self._beside:
            raise errors.Invalid(
                f"{', '.join(self._beside)}: stands beside deploytoken in the orchestration's pillar, which no server"
                " sees; write it into deploytoken.pillar, or leave it out"
            )
        if checked.name is None and self._config.name is not None:
            page.check_name(self._config.name, "deploytoken.name", rules.nobody)
        if isinstance(checked.target, str) and checked.target_type not in ("list", "range") and not checked.ssh:
            targets.read(checked.target, checked.target_type, self._opts.get("nodegroups"), "deploytoken.target")
        self.record.request, self.record.consent = checked, checked.consent
        self.record.ref = checked.ref or self.record.ref
        target = checked.target if isinstance(checked.target, str) else ", ".join(checked.target)
        return Outcome(True, f"{target}: {checked.reason}")

    def fetched(self) -> Outcome:
        """Look at every configured repository, and fetch; nothing moves before the token is held."""
        answer = repositories.status(self._config.repositories, self._functions)
        found = answer["repositories"]
        self.record.plan = plan = {name: change for name, item in found.items() if (change := _change(item, "target"))}
        if self.record.test:
            self.record.commits = {name: item["before"] for name, item in found.items()}
            self.record.remotes = serving.has_remotes(self._opts)
        if not found:
            return Outcome(True, answer["message"])
        comment = f"To be updated: {_moves(plan)}" if plan else f"Up to date: {', '.join(found)}"
        return Outcome(True, comment, data={"plan": plan})

    def idle(self) -> Outcome:
        """Ask whether the machines are idle, or somebody agreed to what is interrupted."""
        asked, found = self._request, self.record
        look = functools.partial(verdict.look, self._machines, asked.target, asked.target_type)
        first = "updated" not in found.steps
        found.looks.append("before the token" if first else "after the update")
        # Whoever waits for the token is not refused because of its holder's states: they end before it is free, and
        # then the machines are asked again.
        waits = bool(asked.wait) and first and not (found.held or found.resumed)
        passing = verdict.without_states if waits else None
        try:
            # While the token is held, others wait for it.
            if asked.wait_idle and not (found.held or found.test):
                times = waiting.Times(limit=asked.wait_idle)
                answer, _ = waiting.wait(look, found.consent, times, self._tell, passing)
            else:
                answer = verdict.judge(passing(look()) if passing else look(), found.consent)
        except errors.Busy as refused:
            # In a test, the steps that follow say what they would do there.
            found.expected = [one for one in refused.details["expected"] if one not in refused.details["failed"]]
            comment = str(refused)
            if needed := refused.details.get("consent"):
                again = request.command({**found.asked, "consent": needed})
                comment += f"\n{consent.condition(refused.details['blockers'])}, run:\n  {again}"
            return Outcome(False, comment, data={"expected": refused.details["expected"]}, reason=refused.reason)
        found.expected, found.boots = answer.found.expected, answer.boots
        found.passed = bool(answer.found.passed)
        # A bare name agrees to what was found when it was given, and not to what begins later.
        found.consent = answer.agreed
        if asked.task.saltenv and not asked.ssh and first:
            self._require_kept()
        self._remember(answer)
        data = answer.data()
        return Outcome(True, str(answer), data={"expected": data["expected"], "consented": data["consented"]})

    def held(self) -> Outcome:
        """Take the token, or go on under the hold that the request names; and be the only one at work under it."""
        with self._connect() as token:
            try:
                return self._dry_run(token) if self.record.test else self._hold(token)
            except errors.Error as error:
                kept = bool(error.details.get("own")) and not _is_at_work(token)
                ways = ending.ways_in(self.record, error, kept)
                lines = [str(error), *(f"{why}: {command}" for why, command in ways)]
                return Outcome(False, "\n".join(lines), reason=error.reason)

    def _hold(self, token: Token) -> Outcome:
        asked, found = self._request, self.record
        ref, job = found.ref, self._work.job

        def take() -> dict[str, Any]:
            if found.resumed:
                found.by = token.operator(asked.name)
                return token.begin(ref, job, asked.expect)
            return token.acquire(asked.reason, asked.name, ref, expect=asked.expect, wait=asked.wait, job=job)

        self._tell_at_exit(
            f"The deploy token may be held (ref {ref}): `salt-run deploytoken.status` tells whether the deploy was"
            " ended before or after it was taken."
        )
        try:
            answer = self._work.begin(take)
        except (errors.Error, KeyboardInterrupt, SystemExit):
            atexit.unregister(_say)
            raise
        holder = answer["held_by"]
        found.held, found.by_hand = True, answer.get("by_hand", False)
        found.by = found.by if found.by != holder else None
        found.hold = Hold(holder, answer["reason"], answer["since"], ref, answer["expected_until"])
        self._tell_at_exit(f"The deploy token stays held (ref {ref}): the deploy was ended in the middle.")
        self._asking.close()
        try:
            self._work.require_alone()
        except errors.Held as error:
            return self._give_back(token, error)
        # Only a free token can be taken.
        changes = {} if found.resumed else {"held_by": {"old": None, "new": holder}, "ref": ref}
        return Outcome(True, f"{holder} holds the deploy token (ref {ref})", changes, data={"ref": ref})

    def _give_back(self, token: Token, refused: errors.Error) -> Outcome:
        """Undo :meth:`_hold`, because another deploy is still at work here under a hold that has ended."""
        found, comment = self.record, str(refused)
        self._work.rest()
        try:
            if found.resumed:
                self._work.end(token)
            else:
                summary = ending.shortened(f"{self._request.reason} (nothing deployed: {refused})")
                self._end_hold(token, summary)
        except errors.NotYours:
            self._is_over()
        except errors.Error as error:
            ways = [f"{why}: {command}" for why, command in ending.ways_on(found)]
            comment = "\n".join([f"{comment}; the deploy token may still be held (ref {found.ref}): {error}", *ways])
        atexit.unregister(_say)
        self._work.close()
        return Outcome(False, comment, reason=refused.reason)

    def updated(self) -> Outcome:
        """Bring every configured repository up to date, or none of them, and have Salt serve what they have."""
        found = self.record
        if found.test:
            comment = f"Would be updated: {_moves(found.plan)}" if found.plan else "Nothing would be updated"
            return Outcome(None if found.plan else True, comment, found.plan)
        try:
            answer = repositories.update(self._config.repositories, self._functions)
        except BaseException:
            # Some may have moved.
            serving.forget_file_lists(self._opts)
            raise
        served = serving.renew(self._opts, self._functions, self._request.task.saltenv or "base")
        items = answer["repositories"]
        found.commits = {**{name: item["after"] for name, item in items.items()}, **served}
        changes = {name: change for name, item in items.items() if (change := _change(item, "after"))}
        # The pillar in any case: somebody may have brought the master up to date by hand.
        if failed := self._machines.refresh(found.expected, modules=bool(changes or served)):
            raise errors.Busy(text.join_reasons(failed), failed=failed)
        if not found.commits:
            return Outcome(True, answer["message"])
        comment = f"Updated: {_moves(changes)}" if changes else f"Up to date: {', '.join(found.commits)}"
        return Outcome(True, comment, changes)

    def noted(self) -> Outcome:
        """Note the boot ID of every machine, and settle which are to be rebooted."""
        asked, found = self._request, self.record
        ids = sorted(found.expected)
        if not ids:
            raise errors.Busy("no busy check has said which machines are expected")
        named = asked.reboot if isinstance(asked.reboot, list) else []
        order = ids if asked.reboot is True else list(dict.fromkeys(named))
        if strange := [minion for minion in order if minion not in ids]:
            raise errors.Invalid(f"deploytoken.reboot: the target does not mean {', '.join(strange)}")
        boots, failed = reboots.known(found.boots, ids), dict[str, str]()
        if boots is None:
            boots, failed = reboots.settle(reboots.Servers(self._machines), ids, 0, self._tell)
        fresh: reboots.Boots = {}
        if not found.test:
            notes = reboots.Notes(self._opts["cachedir"], found.ref)
            # What is noted now is for the end of this deploy: its states come in between.
            fresh, notes.fresh = notes.fresh_since(boots), {}
            notes.keep(boots)
        if failed:
            raise errors.Failed(f"no boot ID: {text.join_reasons(failed)}")
        reboots.require_others(order, boots, "deploytoken.reboot")
        if asked.reboot == request.REQUIRED:
            # Who needs one is known after the states. Who could not tell even then is refused now.
            required = self._required(ids)
            order = required if found.test else []
        found.reboots = record.Reboots(before=boots, fresh=fresh, order=order, left=list(order))
        return Outcome(True, f"Noted for {', '.join(ids)}", data={"boots": boots, "order": order, "fresh": fresh})

    def applied(self) -> Outcome:
        """Apply the states, in batches, on the machines that were asked whether they are idle, and no others."""
        asked, found = self._request, self.record
        if not found.expected:
            raise errors.Busy("no busy check has said which machines are expected")
        if found.test and asked.task.untold:
            return Outcome(None, asked.task.untold)
        # Before anything begins: whatever happens from here on, it is known how far it came.
        found.applied = applied = states.Applied(found.expected, asked.task)
        groups = [list(ids) for ids in asked.batch.split(found.expected)] if asked.batch else [found.expected]
        again = allowed.batch(self._connect, self._machines, found.ref, found.consent, self._remember)

        def allow(ids: Sequence[str]) -> None:
            if ids == groups[0] and not found.passed:  # a step before has just asked whether they are idle
                allowed.require_held(self._connect, found.ref)
                return
            found.looks.append(f"before batch {groups.index(list(ids)) + 1}")
            again(ids)

        fun, arg, kwarg = asked.task.call(found.ref, found.test)
        failure = None
        try:
            states.apply(
                applied,
                groups,
                functools.partial(self._machines.follow, fun=fun, arg=arg, kwarg=kwarg, tell=self._tell),
                allow,
                self._tell,
                found.test,
            )
        except errors.Error as error:
            failure = error
        shown = {
            minion: applied.returns[minion]
            for minion, summary in applied.minions.items()
            if summary.changed or not summary.result
        }
        changes = {"out": "nested" if asked.task.function else "highstate", "ret": shown} if shown else {}
        if failure:
            return Outcome(False, str(failure), changes, applied.data(), failure.reason)
        words = "would change" if found.test else "changed"
        comment = "; ".join(
            f"{minion}: {summary.answer or (f'{len(summary.changed)} {words}' if summary.changed else 'no changes')}"
            for minion, summary in sorted(applied.minions.items())
        )
        return Outcome(None if found.test and shown else True, comment, changes, applied.data())

    def rebooted(self) -> Outcome:
        """Wait for machines that reboot by themselves, and then reboot those that are to be."""
        asked, found = self._request, self.record.reboots
        if self.record.test:
            some = f", {asked.reboot_batch} at a time: {', '.join(found.order)}" if found.order else ": nobody"
            return Outcome(None if found.order else True, f"Would be rebooted{some}")
        notes = reboots.Notes(self._opts["cachedir"], self.record.ref)
        boots: reboots.Boots = {}
        result, reason = False, None
        try:
            boots = self._settle(notes)
            if not self._succeeded("applied"):
                comment = "All answer" + ("; nobody is rebooted, because the deploy failed" if asked.reboot else "")
            else:
                if asked.reboot == request.REQUIRED:
                    found.order = self._required(sorted(found.before))
                    found.left = list(found.order)
                nobody = "All answer; nobody needs a reboot" if asked.reboot else "All answer"
                comment = self._reboot(notes, boots) if found.order else nobody
            result = True
        except errors.Error as error:
            comment, reason = str(error), error.reason
            found.away = error.details.get("failed", {})
        found.after = boots
        how = notes.rebooted(boots)
        found.rebooted = [minion if how[minion] == "ordered" else f"{minion} (by itself)" for minion in sorted(how)]
        changes = {
            minion: {"old": found.before[minion], "new": boot}
            for minion, boot in sorted(boots.items())
            if boot != found.before.get(minion, boot)
        }
        data = {"rebooted": found.rebooted, "away": found.away, "left": found.left}
        return Outcome(result, comment, changes, data, reason)

    def released(self) -> Outcome:
        """Release the token with an entry in the History, or keep it, according to how the steps before ended."""
        found = self.record
        if found.test:
            words = "stay held" if ending.stays(found) else "be released, with an entry in the History"
            return Outcome(None, f"The token would {words}.")
        end = ending.judge(found)
        self._work.rest()
        try:
            if end.hold_ended:
                return self._hold_ended(end.trouble, end)
            return self._keep(end) if end.keeps else self._release(end)
        except errors.NotYours as error:
            return self._hold_ended(str(error), end)
        finally:
            # From here on, this comment has the words.
            atexit.unregister(_say)
            self._work.close()

    def report(self, running: Mapping[str, Any]) -> str:
        """Return the page about the deploy; ``running`` has Salt's returns of all states so far."""
        return report.page(running, self.record)

    @functools.cached_property
    def _config(self) -> config.Config:
        return config.parse(self._opts)

    def _connect(self) -> Token:
        return tokens.connect(self._opts, self._tell, self._opts.get("user"))

    @functools.cached_property
    def _work(self) -> Work:
        assert self.record.jid is not None
        return Work(self._opts, self.record.ref, self.record.jid)

    @functools.cached_property
    def _machines(self) -> Machines:
        return machines.connect(self._opts, self._request.ssh, "deploytoken.ssh")

    @property
    def _request(self) -> Request:
        assert self.record.request is not None, "carry_out() sees to it"
        return self.record.request

    def _succeeded(self, step: str) -> bool:
        return step in self.record.steps and self.record.steps[step].result is True

    def _require_kept(self) -> None:
        """Refuse a run that would take this extension off the minions: Salt removes what its environment lacks."""
        fun, arg, kwarg = self._request.task.call(None)
        asked = [kwarg["saltenv"], fun, arg, {name: value for name, value in kwarg.items() if name != "pillar"}]
        heard = self._machines.collect_returns(self.record.expected, "deploygate.keeps", asked)
        failed = {}
        for minion in self.record.expected:
            answer = heard.get(minion, {}).get("ret")
            if not (isinstance(answer, dict) and answer.get("keeps") is True):
                why = answer.get("why") if isinstance(answer, dict) else answer
                failed[minion] = f"says: {text.last_line(why) or 'nothing'}"
        if failed:
            raise errors.Invalid(f"deploytoken.saltenv: {text.join_reasons(failed)}", failed=failed)

    def _remember(self, answer: verdict.Verdict) -> None:
        """Note who agreed to the interruption of what."""
        if agreed := answer.agreed:
            self.record.consents.update({one["id"]: (agreed.by(one), one) for one in answer.covered})

    def _dry_run(self, token: Token) -> Outcome:
        """What taking the token would come to."""
        ref = self.record.ref
        if self.record.resumed:
            status = token.require_held(ref)
            job = status["job"]
            if job and job["running"] is not False:
                may = "runs" if job["running"] else f"of {job['master']} may still run"
                raise errors.Held(f"the job {job['jid']} {may} under the hold {ref}")
            self.record.by_hand = job is None
            return Outcome(True, f"{status['held_by']} holds the deploy token (ref {ref})", data={"ref": ref})
        name, status = token.operator(self._request.name), token.status()
        if status["held_by"]:
            about = f"{status['reason']}; since {status['since']}"
            own = status["held_by"] == name
            raise errors.Held(f"{status['held_by']} holds the deploy token ({about})", token=status, own=own)
        for check in token.store.checks():
            if check.ok is False:
                raise errors.StoreError(f"{check.name}: {check.text}")
        return Outcome(None, f"{name} would acquire the deploy token")

    def _settle(self, notes: reboots.Notes) -> reboots.Boots:
        """The boot ID of every machine, once those that are rebooting by themselves are back."""
        found, applied = self.record.reboots, self.record.applied
        interrupted = self.record.steps["applied"].reason == errors.Interrupted.reason
        # While states may still run, or a person interrupts, waiting is pointless: the token is kept in any case.
        waits = not (interrupted or (applied and applied.running))
        patience = self._request.reboot_timeout if waits else 0
        boots, failed = reboots.settle(reboots.Servers(self._machines), sorted(found.before), patience, self._tell)
        # A machine that rebooted in an earlier attempt, and that the states of this one left as it is, need not reboot
        # once more.
        minions = applied.minions if applied else {}
        same = {minion for minion, summary in minions.items() if summary.result and not summary.changed}
        same |= set(applied.not_started if applied else ())
        found.fresh = {minion: boot for minion, boot in found.fresh.items() if minion in same}
        notes.fresh = dict(found.fresh)
        notes.keep(boots)
        if failed:
            raise errors.Failed(f"no boot ID: {text.join_reasons(failed)}", failed=failed)
        return boots

    def _required(self, ids: Sequence[str]) -> list[str]:
        found, unknown = reboots.required(reboots.Servers(self._machines), ids)
        if unknown:
            raise errors.Failed(text.join_reasons(unknown), failed=unknown)
        return found

    def _reboot(self, notes: reboots.Notes, boots: reboots.Boots) -> str:
        asked, found = self._request, self.record.reboots
        done: dict[str, dict[str, str]] = {}
        try:
            done = reboots.reboot(
                reboots.Servers(self._machines),
                found.order,
                batch=asked.reboot_batch,
                pause=asked.reboot_pause,
                patience=asked.reboot_timeout,
                check=asked.health,
                ref=self.record.ref,
                allowed=allowed.batch(
                    self._connect, self._machines, self.record.ref, self.record.consent, self._remember
                ),
                notes=notes,
                tell=self._tell,
                before={**found.before, **found.fresh},
            )
            found.left = []
        except errors.Error as error:
            done, found.left = error.details["rebooted"], error.details["left"]
            raise
        finally:
            boots.update({minion: boot["new"] for minion, boot in done.items()})
        return f"Rebooted, and well: {', '.join(found.order)}"

    def _release(self, end: ending.Ending) -> Outcome:
        found = self.record
        try:
            with self._connect() as token:
                answer = self._end_hold(token, ending.summary(found, end), **ending.facts(found, end))
        except errors.NotYours:
            raise
        except errors.Error as error:
            # A release that is in doubt may have been one.
            return self._kept(f"The deploy token may still be held (ref {found.ref}): {error}", end, error.reason)
        except (KeyboardInterrupt, SystemExit):
            # So may one that was interrupted: the signal comes once the write has ended.
            words = f"The deploy token may still be held (ref {found.ref}): {INTERRUPTED}"
            return self._kept(words, end, errors.Interrupted.reason)
        found.entry = answer["entry"]
        changes = {"held_by": {"old": found.ref, "new": answer["held_by"]}, "entry": answer["entry"]}
        return Outcome(True, f"Released. The History says: {answer['entry']}", changes)

    def _end_hold(self, token: Token, summary: str, **facts: Any) -> dict[str, Any]:
        found = self.record
        # Whoever deploys under another's hold was let in by its ref, and is named.
        answer = release(
            token,
            self._opts["cachedir"],
            summary,
            found.ref,
            self._request.name,
            **facts,
            for_holder=True,
            job=self._work.job,
            again=False,
        )
        self._is_over()
        return answer

    def _keep(self, end: ending.Ending) -> Outcome:
        """Take the job off the line, and leave the token held: for whoever repairs this, or for the next deploy."""
        found = self.record
        comment = f"The deploy token stays held (ref {found.ref})" + (f": {end.trouble}." if end.trouble else ".")
        try:
            with self._connect() as token:
                self._work.end(token, ending.words(found, end))
        except errors.NotYours:
            raise
        except errors.Error as error:
            comment += f" The page may still name the job {self._work.job}: {error}."
        except (KeyboardInterrupt, SystemExit):
            comment += f" The page may still name the job {self._work.job}: {INTERRUPTED}."
        else:
            reboots.Notes(self._opts["cachedir"], found.ref).tell(found.reboots.after, done=not end.trouble)
        if end.trouble:
            return self._kept(comment, end)
        return self._with_ways(comment, ending.ways_from_here(found))

    def _kept(self, comment: str, end: ending.Ending, reason: str | None = None) -> Outcome:
        """A token that is kept, with the commands that go on."""
        ways = [*ending.looks(self.record, end, self._machines), *ending.ways_on(self.record)]
        return self._with_ways(comment, ways, reason or errors.Failed.reason)

    def _hold_ended(self, why: str, end: ending.Ending) -> Outcome:
        """A hold that somebody else ended: none of the usual follow-up commands would work."""
        found = self.record
        self._is_over()
        comment = f"The hold {found.ref} was ended while this deploy ran: {why}."
        if found.hold and (end.began or not found.resumed):
            try:
                comment += f" The History says: {self._note(found.hold, end)}."
            except errors.Error as error:
                comment += f" The History does not say what this deploy did: {error}."
        way = ("To see who ended it", "salt-run deploytoken.history")
        if end.trouble:
            words = "To deploy what is left, ask the person who ended it, and run again"
            way = (words, ending.run_again(found, ref=None))
        return self._with_ways(comment, [way], errors.NotYours.reason)

    def _note(self, hold: Hold, end: ending.Ending) -> str:
        """Add an entry of this deploy's own."""
        found = self.record
        told = [f"by {found.by}"] if found.by else []
        told += [part for _, part in notes(**ending.facts(found, end))]
        with self._connect() as token:
            summary, told = ending.summary(found, end), [*told, "its hold was ended meanwhile"]
            found.entry = token.note(hold, summary, self._work.job, told)
        return found.entry

    def _is_over(self) -> None:
        self.record.held = self._work.named = False

    def _with_ways(self, comment: str, ways: list[tuple[str, str]], reason: str | None = None) -> Outcome:
        self.record.ways = ways
        lines = [comment, *(f"{why}: {command}" for why, command in ways)]
        return Outcome(reason is None, "\n".join(lines), data={"next": ways}, reason=reason)

    def _tell_at_exit(self, what: str) -> None:
        """
        Have this printed, with the commands that go on, if Python ends before the deploy does.

        A step notices Ctrl-C and SIGTERM. Between two steps nothing does, and Salt ends without a word of the token
        (3008.3).
        """
        atexit.unregister(_say)
        lines = [what, *(f"{why}: {command}" for why, command in ending.ways_on(self.record))]
        atexit.register(_say, "\n".join(lines))


def _is_at_work(token: Token) -> bool:
    """Whether a job is at work under the hold that stands now, or may be."""
    try:
        job = token.status()["job"]
    except errors.Error:
        return True
    return bool(job) and job["running"] is not False


def _say(words: str) -> None:
    print(f"\n{words}", file=sys.stderr, flush=True)


def _change(item: Mapping[str, Any], new: str) -> dict[str, Any]:
    """How one repository moved, or would, to the commit under the key ``new``; empty if not at all."""
    was, branch = item.get("was_on_branch") or item.get("on_branch"), item["branch"]
    submodules = item.get("submodules")
    if item["before"] == item[new] and not was and not submodules:
        return {}
    change = {"old": item["before"], "new": item[new], "subjects": item["subjects"]}
    if was:
        change["branch"] = {"old": was, "new": branch}
    return {**change, "submodules": submodules} if submodules else change


def _moves(changes: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{name} ({text.short(change['old'])} to {text.short(change['new'])})" for name, change in changes.items()
    )
