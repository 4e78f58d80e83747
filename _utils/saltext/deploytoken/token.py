"""
The token on its store: the protocol carried out, with time, resends, waiting and interruptions.
"""

import random
import signal
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass

from saltext.deploytoken import errors, history, page, protocol, stores, values
from saltext.deploytoken.stores.base import Conflict, Unanswered

#: Seconds between two looks of a waiter, before jitter.
POLL = 5.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(frozen=True)
class Claim:
    """One acquisition: an id for the comment of the version, and its first 8 digits, the ref that people type."""

    ref: str
    id: str


def claim(ref=None):
    """
    Return a new :class:`Claim`; ``ref`` (8 hex digits) fixes its beginning.

    :raises errors.Invalid: when ``ref`` is something else.
    """
    digits = uuid.uuid4().hex
    # A letter first: Salt reads ref=01234567 on a command line as an octal number, which cannot be told back.
    ref = values.ref(ref) if ref is not None else random.choice("abcdef") + digits[1:8]
    return Claim(ref, ref + digits[8:])


class Token:
    """
    The deploy token of one configuration.

    ``config`` (:class:`saltext.deploytoken.config.Config`)
        The checked configuration.
    ``notify`` (callable)
        Called with a tag's last word and a dict, for every event; see the runner.
    """

    def __init__(self, config, notify=None, clock=time):
        self.config = config
        self.store = stores.connect(config)
        self._notify = notify or (lambda event, data: None)
        self._clock = clock
        history = config.history
        self.rules = protocol.Rules(config.nobody, history.heading, history.entry, history.newest)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.store.close()

    def status(self):
        """Return who holds the token: ``held_by``, ``ref``, ``reason``, ``since``, ``version``, ``url``."""
        found = self.store.read()
        hold = page.read(found.text, self.config.nobody)
        answer = self._answer(hold, found.version)
        since = page.parse_stamp(hold.since) if hold else None
        until = page.parse_stamp(hold.until) if hold else None
        now = self._clock.time()
        answer["age"] = None if since is None else max(0, int(now - since))
        answer["overdue"] = until is not None and now > until
        # Only the version in which the hold was taken says for which job; after a later edit, nothing does.
        said = history.comment(found.comment) or {}
        jid = said.get("jid") if hold and said.get("ref") == hold.ref else None
        answer["job"] = {"jid": jid, "running": None} if jid else None
        return answer

    def history(self, limit):
        """Return the last ``limit`` holds; see :func:`history.past`."""
        # Other edits of the page lie in between; how many is anybody's guess, and each version is one request.
        return history.past(history.versions(self.store, 10 * limit + 100), self.rules, limit)

    def operator(self, name=None):
        """
        Return the operator's name: the one given, the configured one, or the store's.

        :raises errors.Invalid: when there is none, or one that the page cannot carry.
        """
        name = name or self.config.name or self.store.operator()
        if not name:
            raise errors.Invalid("name: cannot be told; give name=… or configure deploytoken.name")
        return page.check_name(str(name), nobody=self.config.nobody)

    def acquire(self, reason, name=None, ref=None, resume=False, expect=None, wait=None, jid=None):
        """
        Take the token; see :func:`protocol.acquire`. ``expect`` and ``wait`` are in seconds; ``jid`` is the job that
        it is taken for.

        With ``wait``, look again until the token is free or the time is over. A look that gets no answer does not end
        a wait that has begun.
        """
        reason = page.check_reason(reason)
        name = self.operator(name)
        mine = claim(ref)
        end = self._clock.monotonic() + (wait or 0)
        about = {"name": name, "purpose": reason, "url": self.store.url}
        holder = None
        while True:
            now = self._clock.time()
            hold = page.Hold(
                name=name,
                reason=reason,
                since=page.stamp(now),
                ref=mine.ref,
                until=page.stamp(now + expect) if expect else None,
            )
            job = f" jid={jid}" if jid else ""
            comment = f"acquire ref={mine.ref} id={mine.id}{job}: {reason}"
            try:
                return self._take(protocol.acquire(hold, comment, self.rules, resume), mine.ref)
            except (errors.Held, Unanswered) as exc:
                holder = exc.details.get("token", holder)
                left = end - self._clock.monotonic()
                if left <= 0 or not holder:
                    if isinstance(exc, errors.Held):
                        self._notify("refused", {**about, **holder})
                    raise
                self._notify("waiting", {**about, "left": int(left), **holder})
                self._clock.sleep(min(left, POLL * random.uniform(0.5, 1.5)))

    def release(self, summary, ref=None, name=None, notes=()):
        """End the hold ``ref``, or without one the operator's own; see :func:`protocol.release`."""
        summary = page.check_summary(summary)
        notes = [page.check_note(note, key) for key, note in notes]
        ref = None if ref is None else values.ref(ref)
        name = None if ref else self.operator(name)
        fresh = claim()
        comment = f"release ref={ref or '-'} id={fresh.id}: {summary}"
        steps = protocol.release(
            self.rules,
            comment,
            summary,
            page.stamp(self._clock.time()),
            fresh=fresh.ref,
            ref=ref,
            name=name,
            notes=notes,
        )
        with _held_back() as interrupted:
            outcome = self._drive(steps, interrupted)
            answer = {**self._answer(None, outcome.version), "released": outcome.hold.ref, "entry": outcome.entry}
            self._notify("released", {**answer, "name": outcome.hold.name})
        return answer

    def take_over(self, reason, ref=None, held_by=None, name=None):
        """End somebody else's hold and take the token; see :func:`protocol.take_over`."""
        reason = page.check_reason(reason)
        name = self.operator(name)
        ref = None if ref is None else values.ref(ref)
        mine = claim()
        now = page.stamp(self._clock.time())
        hold = page.Hold(name=name, reason=reason, since=now, ref=mine.ref)
        comment = f"takeover ref={mine.ref} id={mine.id} displaced={ref or '-'}: {reason}"
        steps = protocol.take_over(hold, comment, self.rules, now, fresh=claim().ref, ref=ref, held_by=held_by)
        with _held_back() as interrupted:
            outcome = self._drive(steps, interrupted)
            displaced = protocol.describe(outcome.displaced, outcome.version - 1)
            answer = {**self._answer(outcome.hold, outcome.version), "entry": outcome.entry, "displaced": displaced}
            self._notify("takenover", answer)
        return answer

    def _answer(self, hold, version):
        return {**protocol.describe(hold, version), "url": self.store.url}

    def _take(self, steps, ref):
        """
        Carry out the steps of an acquire, and tell of it.

        If there was an interruption by then and the hold ``ref`` was taken, it is given back; a hold that was only
        confirmed stands as it stood.
        """
        with _held_back() as interrupted:
            outcome = self._drive(steps, interrupted)
            answer = self._answer(outcome.hold, outcome.version)
            if outcome.fresh and not interrupted:
                # The master's bus may be slow, so this is still a time to be interrupted in.
                self._notify("acquired", answer)
            if withdrawn := bool(interrupted and outcome.fresh):
                self._withdraw(ref, interrupted)
        if withdrawn:
            # Somebody's handler has let the signal pass; the token is given back all the same.
            raise KeyboardInterrupt
        return {**answer, "taken": outcome.fresh}

    def _withdraw(self, ref, interrupted):
        undo = protocol.release(self.rules, f"withdraw ref={ref}", None, "", fresh=ref, ref=ref)
        try:
            self._drive(undo, interrupted)
        except errors.NotYours:
            pass  # somebody has ended it already
        except (errors.StoreError, errors.InDoubt) as exc:
            raise errors.InDoubt(
                f"interrupted after the token was taken, and it could not be given back ({exc}); when the wiki"
                f' answers, run `salt-run deploytoken.release ref={ref} summary="not used"`',
                ref=ref,
            ) from None

    def _drive(self, steps, interrupted):
        """Carry out the protocol's steps. A second interruption ends the resends: then the answer is doubt."""
        deadline = self._clock.monotonic() + self.config.deadline
        pauses = 0
        send, value = steps.send, None
        try:
            while True:
                step = send(value)
                try:
                    if isinstance(step, protocol.Pause):
                        value = len(interrupted) < 2 and self._pause(pauses, deadline)
                        pauses += 1
                    else:
                        value = self._ask(step)
                    send = steps.send
                except (errors.StoreError, Conflict) as exc:
                    send, value = steps.throw, exc
        except StopIteration as stop:
            return stop.value

    def _ask(self, step):
        if isinstance(step, protocol.Read):
            return self.store.read()
        if isinstance(step, protocol.ReadVersion):
            return self.store.read_version(step.number)
        return self.store.write(step.text, step.version, step.comment)

    def _pause(self, count, deadline):
        """Sleep, longer each time and by chance, so that contenders get out of step; False when the time is over."""
        left = deadline - self._clock.monotonic()
        if left <= 0:
            return False
        self._clock.sleep(min(left, random.uniform(0.5, 1) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**count)))
        return True


@contextmanager
def _held_back():
    """
    Hold interruptions back while the block runs, and deliver the first at its end; yield the list of them.

    In the middle of a write, one would leave a hold that nobody knows of; after it, an end of which nobody was told.
    Those are Ctrl-C, SIGTERM, and the SIGHUP of a connection that broke. One that is ignored, as under nohup, stays
    ignored. When the block ends in doubt, none is delivered: the doubt must be reported, and ends the command as well.
    """
    came = []
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
        for number in came[:1]:
            signal.raise_signal(number)
