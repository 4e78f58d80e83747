"""
The token on its store: the protocol carried out, with time, resends, waiting and interruptions.
"""

from __future__ import annotations

import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from saltext.deploytoken import errors, history, page, people, protocol, stores, values
from saltext.deploytoken.config import Config
from saltext.deploytoken.history import Comment
from saltext.deploytoken.page import Hold
from saltext.deploytoken.people import Account
from saltext.deploytoken.protocol import Right
from saltext.deploytoken.stores.base import Conflict, Page, Unanswered

#: Seconds between two looks of a waiter, before jitter.
POLL = 5.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

_Result = TypeVar("_Result")

#: Takes the last word of an event's tag, and its data.
Notify = Callable[[str, dict[str, Any]], None]


class Clock(Protocol):
    """What this needs of the module ``time``."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True)
class Claim:
    """One acquisition: an id for the comment of the version, and its first 8 digits, the ref that people type."""

    ref: str
    id: str


def claim(ref: str | None = None) -> Claim:
    """
    Return a new :class:`Claim`; ``ref`` (8 hex digits) fixes its beginning.

    :raises errors.Invalid: ``ref`` is something else.
    """
    digits = uuid.uuid4().hex
    # A letter first: Salt reads ref=01234567 on a command line as an octal number, and the digits are lost.
    ref = values.ref(ref) if ref is not None else random.choice("abcdef") + digits[1:8]
    return Claim(ref, ref + digits[8:])


class Token:
    """
    The deploy token of one configuration.

    ``config`` (:class:`saltext.deploytoken.config.Config`)
        The checked configuration.
    ``notify`` (callable)
        Called with a tag's last word and a dict, for every event; see ``docs/events.md``.
    ``account``
        Of the person who acts; see :func:`people.account`. Default: whoever runs this process.
    ``runs`` (callable)
        Says whether a job on the holder's line still runs; None where it cannot be told.
    """

    def __init__(
        self,
        config: Config,
        notify: Notify | None = None,
        account: Account | None = None,
        runs: Callable[[str], bool | None] | None = None,
        clock: Clock = time,
    ):
        self.config = config
        self.store = stores.connect(config)
        self._notify = notify or (lambda event, data: None)
        self._who = account or people.account({})
        self._account = str(self._who)
        self._runs = runs or (lambda job: None)
        self._clock = clock

    def __enter__(self) -> Token:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.close()

    def status(self) -> dict[str, Any]:
        """
        Return who holds the token: ``held_by``, ``ref``, ``reason``, ``since``, ``expected_until``, ``version``,
        ``url``, ``account``, ``age``, ``overdue``, ``job`` and ``ended_before``.
        """
        found, hold, origin = self._drive(protocol.origin(self.config.rules), [])
        # The version's time has seconds, and that on the page has none.
        since = history.saved_at(origin.saved) or page.parse_stamp(hold.since if hold else None)
        until = page.parse_stamp(hold.until) if hold else None
        now = self._clock.time()
        return {
            **self._answer(hold, found.version),
            "account": origin.account,
            "age": None if since is None else max(0, int(now - since)),
            "overdue": until is not None and now > until,
            "job": self._job(hold, origin),
            "ended_before": origin.ended,
        }

    def look(self) -> dict[str, Any]:
        """
        Return who holds the token now, in one request: as :meth:`acquire` does, and the ``job`` at work.

        :raises errors.NotYours: the page was set back to a hold that has ended.
        """
        found, hold, origin = self._drive(protocol.origin(self.config.rules, whole=False), [])
        answer = {**self._answer(hold, found.version), "job": self._job(hold, origin)}
        if origin.ended is not None:
            raise errors.NotYours(protocol.set_back(answer["ref"], origin.ended), token=answer)
        return answer

    def require_held(self, ref: str) -> dict[str, Any]:
        """
        Return what a :meth:`look` tells, if the token is held under ``ref`` now.

        :raises errors.NotYours: it is not. The error's ``token`` says who holds it.
        """
        ref = values.ref(ref)
        found = self.look()
        if found["ref"] != ref:
            reason = f" ({found['reason']})" if found["reason"] else ""
            now = f"{found['held_by']} holds the token{reason}" if found["held_by"] else "nobody holds it"
            raise errors.NotYours(f"the hold {ref} is over, {now}; nothing more is started", token=found)
        return found

    def history(self, limit: int) -> dict[str, Any]:
        """Return the last ``limit`` holds; see :func:`history.past`."""
        # Other edits of the page lie in between; nobody knows how many, and each version is one request.
        versions = history.versions(self.store, 10 * limit + 100)
        return history.past(versions, self.config.rules, limit)

    def operator(self, name: str | None = None) -> str:
        """Return the operator's name; see :func:`people.operator`."""
        return people.operator(name, self.config, self.store, self._who)

    def acquire(
        self,
        reason: str | None,
        name: str | None = None,
        ref: str | None = None,
        resume: bool = False,
        expect: float | None = None,
        wait: float | None = None,
        job: str | None = None,
    ) -> dict[str, Any]:
        """
        Take the token; see :func:`protocol.acquire`. ``expect`` and ``wait`` are in seconds; ``job`` is the one that
        takes it, and is at work under it.

        With ``wait``, look again until the token is free or the time is over. Once a wait has begun, a look without
        an answer does not end it.
        """
        reason = None if reason is None and resume else page.check_reason(reason or "")
        name = self.operator(name)
        mine = claim(ref)
        jid = job and job.partition("@")[0]
        comment = Comment("acquire", mine.ref, mine.id, by=self._account, jid=jid, words=reason).render()
        end = self._clock.monotonic() + (wait or 0)
        about = {"name": name, "purpose": reason, "url": self.store.url}
        holder = None
        while True:
            now = self._clock.time()
            hold = Hold(
                name=name,
                reason=reason,
                since=page.stamp(now),
                ref=mine.ref,
                until=page.stamp(now + expect) if expect else None,
                job=job,
            )
            try:
                return self._take(protocol.acquire(hold, comment, self.config.rules, resume), mine.ref)
            except (errors.Held, Unanswered) as exc:
                holder = exc.details.get("token", holder)
                left = end - self._clock.monotonic()
                if left <= 0 or not holder:
                    if isinstance(exc, errors.Held):
                        self._notify("refused", {**about, **(holder or {})})
                    raise
                self._notify("waiting", {**about, "left": int(left), **holder})
                self._clock.sleep(min(left, POLL * random.uniform(0.5, 1.5)))

    def begin(self, ref: str, job: str, expect: float | None = None) -> dict[str, Any]:
        """
        Have ``job`` at work under the hold ``ref``, and nobody else; ``expect`` (seconds) is how long it will take.

        The answer has ``by_hand`` as well: whether a person took the hold, and not an orchestration.

        :raises errors.Held: another job is at work under it, or may be. See :func:`protocol.change` for the others.
        """
        until = page.stamp(self._clock.time() + expect) if expect else None
        outcome = self._change(ref, protocol.at_work(job, self._runs, until), "begin", job=job, for_holder=True)
        return {**self._answer(outcome.hold, outcome.version), "by_hand": outcome.origin.jid is None}

    def end(self, ref: str, job: str, words: str | None = None) -> None:
        """Take ``job`` off the holder's line; ``words`` say what it did, for the entry that ends the hold."""
        self._change(ref, protocol.at_rest(job), "end", job=job, words=words, check=False)

    def extend(
        self,
        ref: str | None = None,
        expect: float | None = None,
        reason: str | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """
        Change what the page says of the operator's own hold: how long it will take from now (``expect``, seconds), and
        why. Without ``ref``, of the one that stands now.
        """
        reason = None if reason is None else page.check_reason(reason)
        until = page.stamp(self._clock.time() + expect) if expect else None
        if not (reason or until):
            raise errors.Invalid(
                "expect: say how long the hold will take from now, as in expect=2h, or give a reason=…"
            )

        def edit(hold: Hold) -> Hold:
            return replace(hold, until=until or hold.until, reason=reason or hold.reason)

        outcome = self._change(ref, edit, "extend", words=reason, name=name)
        answer = self._answer(outcome.hold, outcome.version)
        self._notify("extended", answer)
        return answer

    def release(
        self,
        summary: str | None = None,
        ref: str | None = None,
        name: str | None = None,
        notes: Sequence[tuple[str, str]] = (),
        *,
        for_holder: bool = False,
        force: bool = False,
        job: str | None = None,
        again: bool = True,
    ) -> dict[str, Any]:
        """
        End the hold ``ref``, or without one the operator's own; see :func:`protocol.release`.

        ``notes`` are parts of the entry after the summary, each with the key that a refusal of it names. ``job`` is
        the one that ends its own hold.
        """
        summary = None if summary is None else page.check_summary(summary)
        checked = [page.check_note(note, key) for key, note in notes]
        ref = None if ref is None else values.ref(ref)
        fresh = claim()
        jid = job and job.partition("@")[0]
        steps = protocol.release(
            self.config.rules,
            Comment("release", ref or "-", fresh.id, by=self._account, jid=jid, words=summary).render(),
            summary,
            page.stamp(self._clock.time()),
            fresh=fresh.ref,
            ref=ref,
            right=self._right(name, for_holder=for_holder, force=force, job=job),
            again=again,
            notes=checked,
        )
        with _signals_delayed() as signals:
            outcome = self._drive(steps, signals, name)
            hold = outcome.hold
            answer = {
                **self._answer(None, outcome.version),
                "released": hold.ref if hold else ref,
                "released_by": outcome.by or (hold and hold.name),
                "entry": outcome.entry,
            }
            self._notify("released", {**answer, "name": hold and hold.name, "by": self._account})
        return answer

    def take_over(
        self,
        reason: str,
        ref: str | None = None,
        held_by: str | None = None,
        name: str | None = None,
        *,
        force: bool = False,
    ) -> dict[str, Any]:
        """End somebody else's hold and take the token; see :func:`protocol.take_over`."""
        reason = page.check_reason(reason)
        name = self.operator(name)
        ref = None if ref is None else values.ref(ref)
        mine = claim()
        now = page.stamp(self._clock.time())
        hold = Hold(name=name, reason=reason, since=now, ref=mine.ref)
        comment = Comment("takeover", mine.ref, mine.id, by=self._account, displaced=ref or "-", words=reason).render()
        right = self._right(name, for_holder=True, force=force)
        steps = protocol.take_over(
            hold, comment, self.config.rules, now, fresh=claim().ref, ref=ref, held_by=held_by, right=right
        )
        with _signals_delayed() as signals:
            outcome = self._drive(steps, signals, name)
            displaced = protocol.describe(outcome.displaced, outcome.version - 1)
            answer = {**self._answer(outcome.hold, outcome.version), "entry": outcome.entry, "displaced": displaced}
            self._notify("takenover", {**answer, "by": self._account})
        return answer

    def note(self, hold: Hold, summary: str, job: str | None = None, notes: Sequence[str] = ()) -> str:
        """Add an entry for ``hold``, which somebody else ended meanwhile, and return it; see :func:`protocol.note`."""
        rules, ref = self.config.rules, hold.ref or ""
        entry = page.render_entry(
            hold, rules, until=page.stamp(self._clock.time()), summary=page.check_summary(summary), notes=notes
        )
        comment = Comment("note", ref, by=self._account, jid=job and job.partition("@")[0], words=summary).render()
        with _signals_delayed() as signals:
            self._drive(protocol.note(entry, comment, rules, ref), signals)
        return entry

    def _right(self, name: str | None, **ground: Any) -> Right:
        return Right(self._account, name, runs=self._runs, **ground)

    def _change(
        self,
        ref: str | None,
        edit: Callable[[Hold], Hold],
        verb: str,
        *,
        job: str | None = None,
        words: str | None = None,
        name: str | None = None,
        for_holder: bool = False,
        check: bool = True,
    ) -> protocol.Outcome:
        """Carry out a :func:`protocol.change`, of the current hold if there is no ``ref``."""
        ref = None if ref is None else values.ref(ref)
        jid = job and job.partition("@")[0]
        comment = Comment(verb, id=claim().id, by=self._account, jid=jid, words=words)
        right = self._right(name, for_holder=for_holder, job=job) if check else None
        with _signals_delayed() as signals:
            return self._drive(protocol.change(ref, edit, comment, self.config.rules, right), signals, name)

    def _job(self, hold: Hold | None, origin: protocol.Origin) -> dict[str, Any] | None:
        """The job at work under the hold, or the one that took it."""
        if hold and hold.job:
            jid, _, master = hold.job.partition("@")
            return {"jid": jid, "master": master, "running": self._runs(hold.job)}
        # The line names it while it is at work.
        return {"jid": origin.jid, "master": None, "running": False} if origin.jid else None

    def _answer(self, hold: Hold | None, version: int) -> dict[str, Any]:
        return {**protocol.describe(hold, version), "url": self.store.url}

    def _take(self, steps: protocol.Steps[protocol.Outcome], ref: str) -> dict[str, Any]:
        """
        Carry out the steps of an acquire, and notify of it.

        If a signal came meanwhile and the hold ``ref`` was taken, it is given back; a hold that was only confirmed
        stays.
        """
        with _signals_delayed() as signals:
            outcome = self._drive(steps, signals)
            answer = self._answer(outcome.hold, outcome.version)
            if outcome.fresh and not signals:
                # The master's bus may be slow, so a signal may come during this as well.
                self._notify("acquired", answer)
            if withdrawn := bool(signals and outcome.fresh):
                self._withdraw(ref, signals)
        if withdrawn:
            # Somebody's handler has let the signal pass; the token is given back all the same.
            raise KeyboardInterrupt
        return {**answer, "taken": outcome.fresh}

    def _withdraw(self, ref: str, signals: list[int]) -> None:
        comment = Comment("withdraw", ref, by=self._account).render()
        undo = protocol.release(self.config.rules, comment, None, "", fresh=ref, ref=ref)
        try:
            self._drive(undo, signals)
        except errors.NotYours:
            pass  # somebody has ended it already
        except (errors.StoreError, errors.InDoubt) as exc:
            raise errors.InDoubt(
                f"interrupted after the token was taken, and it could not be given back ({exc}); when the wiki"
                f' answers, run `salt-run deploytoken.release ref={ref} summary="not used"`',
                ref=ref,
            ) from None

    def _drive(self, steps: protocol.Steps[_Result], signals: Sequence[int], name: str | None = None) -> _Result:
        """
        Carry out the protocol's steps. A second signal ends the resends: then the answer is doubt.

        ``name`` is the operator's, as given with the command.
        """
        deadline = self._clock.monotonic() + self.config.deadline
        pauses = 0
        send: Callable[[Any], protocol.Step] = steps.send
        value: Any = None
        try:
            while True:
                step = send(value)
                try:
                    if isinstance(step, protocol.Pause):
                        value = len(signals) < 2 and self._pause(pauses, deadline)
                        pauses += 1
                    elif isinstance(step, protocol.WhoAmI):
                        value = self.operator(name)
                    else:
                        value = self._ask(step)
                    send = steps.send
                except (errors.Error, Conflict) as exc:
                    send, value = steps.throw, exc
        except StopIteration as stop:
            result: _Result = stop.value
            return result

    def _ask(self, step: protocol.Read | protocol.ReadVersion | protocol.Write) -> Page | None:
        if isinstance(step, protocol.Read):
            return self.store.read()
        if isinstance(step, protocol.ReadVersion):
            return self.store.read_version(step.number)
        self.store.write(step.text, step.version, step.comment)
        return None

    def _pause(self, count: int, deadline: float) -> bool:
        """Sleep, longer each time and by chance, so that contenders get out of step; False when the time is over."""
        left = deadline - self._clock.monotonic()
        if left <= 0:
            return False
        self._clock.sleep(min(left, random.uniform(0.5, 1) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**count)))
        return True


@contextmanager
def _signals_delayed() -> Iterator[list[int]]:
    """
    Delay signals while the block runs, and deliver the first at its end; yield the list of them.

    A signal in mid-write leaves an unknown hold; just after it, an unreported result. That goes for Ctrl-C, SIGTERM,
    and the SIGHUP of a connection that broke. An ignored signal, as under nohup, stays ignored. When the block ends in
    doubt, none is delivered: the doubt must be reported, and ends the command as well.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread gets signals, and only it may set handlers.
        yield came
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield came
    except errors.InDoubt:
        came.clear()
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for first in came[:1]:
            signal.raise_signal(first)
