"""
Every interleaving of several clients of the real protocol, with every fault at every step, over a model of the store.

The protocol's generators cannot be copied. What one will ask next depends on nothing but the answers that it has got,
so a client is the list of its answers, and its next step is found by replaying them (once: it is remembered). A state
of the world is the page's versions, the writes still on their way, and the clients; each is visited once.

The store keeps Redmine's rules: a write of the text that stands already is answered as applied, whatever version it
carries, and changes nothing; any other write conflicts unless it carries the current version; a write to a page that
was deleted makes a new one, whatever version it carries, and is answered so. With ``noop=False`` it keeps SQLite's:
every stale write conflicts.

Faults: an answer is lost, of a read or of a write, which was applied or not, or is still on its way; a write is sent
twice by something in between, and anything may happen between its copies; a refusal; the end of a client, at any
step, with its write applied, not applied, or on its way. A write on its way stays on its way for good, and may land
at any time and any number of times: that covers every order in which copies can arrive.
"""

import functools
from dataclasses import dataclass

from saltext.deploytoken import errors, page, protocol
from saltext.deploytoken.stores.base import Conflict, Missing, Page, Unanswered

TEXT = "Held by: nobody\n\nh2. History\n"
EDIT = "A line of somebody else's.\n"
LOST, REFUSED, CONFLICT, MISSING, MADE = "lost", "refused", "conflict", "missing", "made"


class _Made(errors.StoreError):
    """What the store raises for a write that made the page; it has a word of its own here."""

    reason = MADE


_RAISED = {
    LOST: lambda: Unanswered("no answer"),
    REFUSED: lambda: errors.StoreError("refused"),
    CONFLICT: Conflict,
    MISSING: lambda: Missing("no such version"),
    MADE: lambda: _Made("the page was missing"),
}


@dataclass(frozen=True)
class Client:
    """What one client does: ``acquire`` (or take over the hold ``displaces``), use the token, release it."""

    name: str
    ref: str
    displaces: str | None = None
    #: None: the hold is withdrawn, without an entry.
    summary: str | None = "done"

    def steps(self, phase):
        hold = page.Hold(self.name, "upgrade", "2026-11-22 22:30 UTC", self.ref)
        if phase == "release":
            return protocol.release(page.DEFAULT, "release", self.summary, "later", fresh="0" * 8, ref=self.ref)
        if self.displaces:
            return protocol.take_over(hold, "take over", page.DEFAULT, "later", fresh="0" * 8, ref=self.displaces)
        return protocol.acquire(hold, "acquire", page.DEFAULT)


@dataclass(frozen=True)
class Done:
    """How an operation ended: ``held`` and so on, the word of the error, or ``ok``."""

    word: str
    entry: str | None = None


class Violation(Exception):
    """An invariant does not hold; ``kind`` says which, the text how the world came to it."""

    def __init__(self, kind, trace):
        super().__init__(kind + "\n" + "\n".join(trace))
        self.kind = kind


@functools.cache
def _held(text):
    hold = page.read(text) if text else None
    return hold and (hold.ref or hold.name)


@functools.cache
def _entries(text, ref):
    """How often the hold's own entry stands there, and how often one that says it was taken over."""
    found = page.entries(text, ref)
    taken = sum(page.TAKEN_OVER in entry for entry in found)
    return len(found) - taken, taken


class Explorer:
    """
    ``faults`` (int or None)
        How many faults there may be in one run; None for any number.
    ``pauses`` (int)
        How often a client may try again in one operation, at most.
    ``edits`` (int)
        How often somebody else edits another part of the page.
    ``deletes`` (int)
        How often somebody deletes the page. What is on it is lost then; but whoever finds it missing in the middle of
        a write is told so, and of two contenders one at most uses the token. (Of three, or with faults, two may: the
        versions begin anew, so that a late write can pass for one in time. No protocol over this store prevents that.)
    ``refuses`` (bool)
        False: a store that takes the answer "made" for "applied".
    """

    def __init__(self, clients, faults=None, pauses=1, edits=0, noop=True, deletes=0, refuses=True):
        self.clients = clients
        self.noop = noop
        self.deletes = deletes
        self.refuses = refuses
        self.pauses = pauses
        self.takers = {client.ref: client.displaces for client in clients}
        self._ids, self._values = {}, []
        self._next, self._pages = {}, {}
        self._start = (
            self._id((TEXT,)),
            self._id(frozenset()),
            -1 if faults is None else faults,
            edits,
            deletes,
            *(self._id(("take", (), pauses, False)) for _ in clients),
        )
        self.states = 0
        self.outcomes = set()

    def run(self):
        """Visit every state; raise :class:`Violation` at the first that breaks an invariant."""
        came = {self._start: None}
        todo = [self._start]
        while todo:
            state = todo.pop()
            self.states += 1
            if kind := self._wrong(state):
                raise Violation(kind, self._trace(came, state))
            for label, following in self._moves(state):
                if following not in came:
                    came[following] = (state, label)
                    todo.append(following)
        return self

    # Values are small numbers inside a state, so that a state is quick to compare and small to keep

    def _id(self, value):
        number = self._ids.get(value)
        if number is None:
            number = self._ids[value] = len(self._values)
            self._values.append(value)
        return number

    # What a client does next

    def _step(self, number, ident):
        """The client's next step: one of the protocol's, or how it ended."""
        key = number, ident
        if key not in self._next:
            phase, history, *_ = self._values[ident]
            self._next[key] = self._replay(self.clients[number].steps(phase), history)
        return self._next[key]

    @staticmethod
    def _replay(steps, history):
        try:
            step = next(steps)
            for answer in history:
                raised = _RAISED.get(answer) if isinstance(answer, str) else None
                step = steps.throw(raised()) if raised else steps.send(answer)
        except StopIteration as stop:
            return Done("ok", stop.value.entry)
        except errors.Error as exc:
            return Done(exc.reason)
        return step

    def _answered(self, number, ident, answer):
        """The client after it got ``answer``."""
        phase, history, pauses, _ = self._values[ident]
        if answer is True:
            pauses -= 1
        following = self._id((phase, (*history, answer), pauses, False))
        step = self._step(number, following)
        if not isinstance(step, Done):
            return following
        self.outcomes.add((phase, step.word))
        # What it went through makes no difference any more.
        if phase == "take" and step.word == "ok":
            return self._id(("use", (), 0, False))
        return self._id((f"{phase} ended", step, 0, False))

    # What can happen

    def _moves(self, state):
        store, flying, faults, edits, deletes, *clients = state
        moving = [number for number, ident in enumerate(clients) if self._values[ident][0] in ("take", "release")]
        # Nobody else can see a pause, so it need not be interleaved.
        for number in moving:
            if isinstance(self._step(number, clients[number]), protocol.Pause):
                yield from self._pause(state, number)
                return
        for number, ident in enumerate(clients):
            phase = self._values[ident][0]
            if phase == "use":
                yield (
                    f"{number} begins to release",
                    self._with(state, number, self._id(("release", (), self.pauses, False))),
                )
            elif number in moving:
                yield from self._ask(state, number)
        for text, version in self._values[flying]:
            landed, _ = self._apply(store, text, version)
            yield f"a copy lands on version {version}: {_held(text)}", (landed, *state[1:])
        texts = self._values[store]
        if edits and texts:
            edited = self._id((*texts, texts[-1] + EDIT))
            yield "somebody edits the page", (edited, flying, faults, edits - 1, deletes, *clients)
        if deletes and texts:
            yield "somebody deletes the page", (self._id(()), flying, faults, edits, deletes - 1, *clients)

    def _with(self, state, number, ident, store=None, flying=None, fault=False):
        changed = list(state)
        changed[5 + number] = ident
        if store is not None:
            changed[0] = store
        if flying is not None:
            changed[1] = flying
        if fault and changed[2] > 0:
            changed[2] -= 1
        return tuple(changed)

    def _pause(self, state, number):
        ident = state[5 + number]
        if self._values[ident][2] > 0:
            yield f"{number} tries again", self._with(state, number, self._answered(number, ident, True))
        yield f"{number} has no time left", self._with(state, number, self._answered(number, ident, False))

    def _ask(self, state, number):
        ident = state[5 + number]
        step = self._step(number, ident)
        faulty = state[2] != 0
        after = functools.partial(self._answered, number, ident)
        if isinstance(step, protocol.Write):
            yield from self._write(state, number, step, after, faulty)
        else:
            yield f"{number} reads", self._with(state, number, after(self._read(state[0], step)))
        if faulty:
            # A refusal of the second copy, after something in between saw the first one applied, would be a lie.
            twice = self._values[ident][3]
            for answer in (LOST,) if twice else (LOST, REFUSED):
                what = f"{number}: {type(step).__name__} {answer}"
                yield what, self._with(state, number, after(answer), fault=True)
            yield f"{number} dies", self._with(state, number, self._id(("dead", (), 0, False)), fault=True)

    def _read(self, store, step):
        texts = self._values[store]
        number = step.number if isinstance(step, protocol.ReadVersion) else len(texts)
        return Page(texts[number - 1], number) if 1 <= number <= len(texts) else MISSING

    def _write(self, state, number, step, after, faulty):
        ident, dead = state[5 + number], self._id(("dead", (), 0, False))
        applied, answer = self._apply(state[0], step.text, step.version)
        yield f"{number} writes: {answer}", self._with(state, number, after(answer), applied)
        if not faulty:
            return
        under_way = self._id(self._values[state[1]] | {(step.text, step.version)})
        yield f"{number} writes: {answer}, lost", self._with(state, number, after(LOST), applied, fault=True)
        yield f"{number} writes: late", self._with(state, number, after(LOST), None, under_way, fault=True)
        both = self._with(state, number, after(answer), applied, under_way, fault=True)
        yield f"{number} writes: {answer}, and once more later", both
        # The client still waits, for the answer to the second copy.
        waits = self._id((*self._values[ident][:3], True))
        yield f"{number} writes twice: {answer}, then…", self._with(state, number, waits, applied, fault=True)
        yield f"{number} writes: {answer}, and dies", self._with(state, number, dead, applied, fault=True)
        yield f"{number} writes: late, and dies", self._with(state, number, dead, None, under_way, fault=True)

    def _apply(self, store, text, version):
        texts = self._values[store]
        if not texts:
            return self._id((text,)), MADE if self.refuses else None
        if self.noop and texts[-1] == text:
            return store, None
        if version != len(texts):
            return store, CONFLICT
        return self._id((*texts, text)), None

    # What must hold

    def _wrong(self, state):
        texts = self._values[state[0]]
        # Whoever deletes the page ends every hold, takes its entries with it, and has the versions begin anew.
        deleted = state[4] < self.deletes
        if state[0] not in self._pages:
            self._pages[state[0]] = self._wrong_page(texts)
        if not deleted and (kind := self._pages[state[0]]):
            return kind
        text = texts[-1] if texts else ""
        current = _held(text)
        users = 0
        for client, ident in zip(self.clients, state[5:], strict=True):
            phase, done, *_ = self._values[ident]
            own, taken = _entries(text, client.ref)
            if phase == "use" and not taken:
                users += 1
                if users > 1:
                    return "two hold the token at once"
            if deleted:
                continue
            if phase == "use" and not taken:
                if current != client.ref and self._refs_in_text(texts):
                    return "one uses a token that the page does not give it"
            elif phase == "take ended" and done.word != "in_doubt" and current == client.ref:
                return f"told {done.word!r}, and holds the token"
            elif phase == "release ended" and done.word == "ok":
                if current == client.ref:
                    return "released, and still holds the token"
                if own != (client.summary is not None):
                    return f"released, and its entry stands {own} times"
            elif phase == "release ended" and done.word != "in_doubt" and own:
                return f"told {done.word!r} on release, and it was released"
        return None

    @staticmethod
    def _refs_in_text(texts):
        # A mutant that leaves the ref out of the text is to fail for what it does, not for how it looks.
        return all(_held(text) is None or "ref " in text for text in texts)

    @functools.cache  # noqa: B019
    def _wrong_page(self, texts):
        """Whether the newest version may follow the one before it, which was looked at before."""
        if len(texts) < 2:
            return None
        before, now = _held(texts[-2]), _held(texts[-1])
        if texts[-1].count(EDIT) < texts[-2].count(EDIT):
            return "a foreign edit is lost"
        for client in self.clients:
            own, taken = _entries(texts[-1], client.ref)
            if own + taken > 1:
                return f"the hold {client.ref} has {own + taken} entries"
        if now == before:
            return None if texts[-1].count(EDIT) > texts[-2].count(EDIT) else "a version without a meaning"
        if before and now and self.takers.get(now) != before:
            return "a hold follows a hold that nobody ended"
        if now and now in map(_held, texts[:-2]) and self._refs_in_text(texts):
            return "a hold comes back"
        return None

    @staticmethod
    def _trace(came, state):
        labels = []
        while came[state]:
            state, label = came[state]
            labels.append(label)
        return labels[::-1]
