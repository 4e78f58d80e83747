"""
Every interleaving of several clients of the real protocol, with every fault at every step, over a model of the store.

The protocol's generators cannot be copied. What one will ask next depends on nothing but the answers that it has got,
so a client is the list of its answers, and its next step is found by replaying them (once: it is remembered). A state
of the world is the page's versions, the writes still on their way, and the clients; each is visited once.

Whether a job runs is such an answer as well. The protocol asks for it in the middle of a decision; the replay stops
there, and the question becomes a step (:class:`Runs`) between those of the others. A client's job runs until the
client has ended or died, so of the two answers "it runs" may be stale, and "it does not" never is.

The store keeps Redmine's rules: a write of the text that stands already is answered as applied, whatever version it
carries, and changes nothing; any other write conflicts unless it carries the current version; a write to a page that
was deleted makes a new one, whatever version it carries, and is answered so. With ``noop=False`` it keeps SQLite's:
every stale write conflicts.

Faults: an answer is lost, of a read or of a write, which was applied or not, or is still on its way; a write is sent
twice by something in between, and anything may happen between its copies; a refusal; the end of a client, at any
step, with its write applied, not applied, or on its way. A write on its way may land at any time and any number of
times, for as long as it could still change the page: that covers every order in which copies can arrive.
"""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

from saltext.deploytoken import errors, page, protocol
from saltext.deploytoken.history import Comment
from saltext.deploytoken.stores.base import Conflict, Missing, Page, Unanswered

TEXT = "Held by: nobody\n\nh2. History\n"
EDIT = "A line of somebody else's.\n"
LOST, REFUSED, CONFLICT, MISSING, MADE = "lost", "refused", "conflict", "missing", "made"
#: Whoever acts on a page that says nothing else.
ALICE = "alice@master1"
REASON, SINCE = "upgrade", "2026-11-22 22:30 UTC"
#: What an extension makes of the reason.
LONGER = "upgrade and migrate"


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


#: Which operation writes a version with this verb in its comment.
_OPERATIONS = {
    **dict.fromkeys(("acquire", "takeover", "begin"), "take"),
    **dict.fromkeys(("release", "withdraw", "end"), "release"),
    "note": "note",
    "extend": "extend",
}


#: The phases in which a client has steps.
_MOVING = frozenset(_OPERATIONS.values())


class _Unheard(BaseException):
    """Ends a replay at a question whether a job runs that was not answered yet; no protocol catches it."""


@dataclass(frozen=True)
class Runs:
    """The step of a client that asks whether a job runs."""

    job: str


# The clients


@dataclass(frozen=True)
class Client:
    """What one client does: ``acquire`` (or take over the hold ``displaces``), use the token, release it."""

    name: str
    ref: str
    displaces: str | None = None
    #: None: the hold is withdrawn, without an entry.
    summary: str | None = "done"
    account: str = ALICE
    #: Ends a hold whatever is at work under it.
    force: bool = False
    #: Ends another's hold on purpose.
    for_holder: bool = False
    #: The job that is on the line while the token is used.
    job: str | None = None
    #: Whether it can tell if another's job runs; not where that is another master's.
    knows: bool = True

    phases: ClassVar = ("take", "use", "release")

    def steps(self, phase, number, runs):
        comment = functools.partial(Comment, id=f"{number:08x}", by=self.account)
        return getattr(self, f"_{phase}")(comment, runs if self.knows else lambda job: None)

    @property
    def without_entry(self):
        """Whether its release writes none."""
        return self.summary is None

    def after(self, phase, word):
        """The phase after ``phase`` ended with ``word``, or None."""
        following = dict(zip(self.phases, self.phases[1:], strict=False))
        return following.get(phase) if word == "ok" else None

    @functools.cached_property
    def _hold(self):
        return page.Hold(self.name, REASON, SINCE, self.ref, job=self.job)

    def _take(self, comment, runs):
        if not self.displaces:
            return protocol.acquire(self._hold, comment("acquire", self.ref).render(), page.DEFAULT)
        text = comment("takeover", self.ref, displaced=self.displaces).render()
        return protocol.take_over(
            self._hold,
            text,
            page.DEFAULT,
            "later",
            fresh="0" * 8,
            ref=self.displaces,
            right=protocol.Right(self.account, for_holder=True, runs=runs, force=self.force),
        )

    def _release(self, comment, runs):
        withdrawn = self.summary is None
        return protocol.release(
            page.DEFAULT,
            comment("withdraw" if withdrawn else "release", self.ref).render(),
            self.summary,
            "later",
            fresh="0" * 8,
            ref=self.ref,
            right=None if withdrawn else protocol.Right(self.account, runs=runs),
        )


@dataclass(frozen=True)
class Deploy(Client):
    """
    A deploy takes the token with its job on the line, or has its job at work ``under`` a hold that stands; at the end
    it releases the token, or only takes its job off the line (``stays``). It leaves a note if its hold was ended.
    """

    under: bool = False
    stays: bool = False
    summary: str = "deployed"

    phases: ClassVar = ("take", "use", "release", "note")

    @property
    def without_entry(self):
        return self.stays

    def after(self, phase, word):
        if phase == "release":
            return "note" if word == "not_yours" else None
        return super().after(phase, word)

    def _take(self, comment, runs):
        taken = yield from protocol.acquire(
            replace(self._hold, reason=None) if self.under else self._hold,
            comment("acquire", self.ref).render(),
            page.DEFAULT,
            resume=self.under,
        )
        if taken.fresh:
            return taken
        edit = protocol.at_work(self.job, runs)
        right = protocol.Right(self.account, for_holder=True, job=self.job, runs=runs)
        return (yield from protocol.change(self.ref, edit, comment("begin"), page.DEFAULT, right))

    def _release(self, comment, runs):
        if self.stays:
            comment = comment("end", words=self.summary)
            return protocol.change(self.ref, protocol.at_rest(self.job), comment, page.DEFAULT)
        return protocol.release(
            page.DEFAULT,
            comment("release", self.ref).render(),
            self.summary,
            "later",
            fresh="0" * 8,
            ref=self.ref,
            right=protocol.Right(self.account, for_holder=True, job=self.job, runs=runs),
            again=False,
        )

    def _note(self, comment, runs):
        entry = page.render_entry(self._hold, until="later", summary=self.summary)
        return protocol.note(entry, comment("note", self.ref).render(), page.DEFAULT, self.ref)


@dataclass(frozen=True)
class Person(Client):
    """Types a release of the hold ``ref``, or without ``types_ref`` of the one that stands, and nothing else."""

    types_ref: bool = True
    summary: str = "ended by hand"

    phases: ClassVar = ("release",)

    def _release(self, comment, runs):
        return protocol.release(
            page.DEFAULT,
            comment("release", self.ref if self.types_ref else "-").render(),
            self.summary,
            "later",
            fresh="0" * 8,
            ref=self.ref if self.types_ref else None,
            right=protocol.Right(self.account, for_holder=self.for_holder, runs=runs, force=self.force),
        )


@dataclass(frozen=True)
class Extender(Client):
    """Changes the reason that the page says for the own hold ``ref``, and nothing else."""

    phases: ClassVar = ("extend",)

    def _extend(self, comment, runs):
        right = protocol.Right(self.account, runs=runs)
        edit = functools.partial(replace, reason=LONGER)
        return protocol.change(self.ref, edit, comment("extend"), page.DEFAULT, right)


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
def _line(text):
    """Whose hold the page shows, and the job on its line."""
    hold = page.read(text) if text else None
    return (hold.ref or hold.name, hold.job) if hold else (None, None)


@functools.cache
def _entries(text, client):
    """How many entries of its ref a client wrote itself, how many others did, and whether one forced its job off."""
    found = page.entries(text, client.ref)
    own = [entry for entry in found if client.summary and f": {client.summary}" in entry]
    return len(own), len(found) - len(own), any(f"by force, over the job {client.job}" in entry for entry in found)


@functools.cache
def _comment(text):
    return Comment.parse(text)


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
    ``stands``
        The hold, Alice's, that the page has at first.
    """

    def __init__(self, clients, faults=None, pauses=1, edits=0, noop=True, deletes=0, refuses=True, stands=None):
        self.clients = clients
        self.noop = noop
        self.deletes = deletes
        self.refuses = refuses
        #: Whoever is refused an old version cannot say what it has.
        self.complete = faults == 0
        self.pauses = pauses
        takers = [client for client in clients if "take" in client.phases and not getattr(client, "under", False)]
        self.takers = {client.ref: client.displaces for client in takers}
        self.owners = {client.ref: client.account for client in takers}
        self._jobs = {client.job: number for number, client in enumerate(clients) if client.job}
        self._ids, self._values = {}, []
        self._next, self._after, self._read_before = {}, {}, {}
        self._judged, self._pages = {}, {}
        versions = ((TEXT, ""),)
        if stands:
            self.owners[stands.ref] = ALICE
            taken = Comment("acquire", stands.ref, id="f" * 32, by=ALICE).render()
            versions = (*versions, (page.write(TEXT, stands), taken))
        self._start = (
            self._id(versions),
            self._id(frozenset()),
            -1 if faults is None else faults,
            edits,
            deletes,
            *(self._id((client.phases[0], (), pauses, False)) for client in clients),
        )
        self.states = 0
        #: Which client ended which phase with which word.
        self.told = set()
        #: In so many states two were at work, because somebody forced it.
        self.overlaps = 0

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
            self._next[key] = self._replay(number, phase, [self._values[answer] for answer in history])
        return self._next[key]

    def _replay(self, number, phase, history):
        client = self.clients[number]
        answers = iter(history)

        def runs(job):
            for answer in answers:
                return answer
            raise _Unheard(job)

        try:
            steps = client.steps(phase, number, runs)
            step = next(steps)
            while True:
                if isinstance(step, protocol.WhoAmI):
                    step = steps.send(client.name)  # nobody else sees it
                    continue
                for answer in answers:
                    raised = _RAISED.get(answer) if isinstance(answer, str) else None
                    step = steps.throw(raised()) if raised else steps.send(answer)
                    break
                else:
                    return step
        except _Unheard as question:
            return Runs(*question.args)
        except StopIteration as stop:
            return Done("ok", stop.value.entry)
        except errors.Error as exc:
            return Done(exc.reason)

    def _answered(self, number, ident, answer):
        """The client after it got the answer with this number."""
        key = number, ident, answer
        if key not in self._after:
            self._after[key] = self._proceed(*key)
        return self._after[key]

    def _proceed(self, number, ident, answer):
        phase, history, pauses, _ = self._values[ident]
        if self._values[answer] is True and isinstance(self._step(number, ident), protocol.Pause):
            pauses -= 1
        following = self._id((phase, (*history, answer), pauses, False))
        step = self._step(number, following)
        if not isinstance(step, Done):
            return following
        self.told.add((self.clients[number], phase, step.word))
        # What it went through makes no difference any more.
        after = self.clients[number].after(phase, step.word)
        if after == "use":
            return self._id((after, (), 0, False))
        return self._id((after, (), self.pauses, False) if after else (f"{phase} ended", step, 0, False))

    # What can happen

    def _moves(self, state):
        store, flying, faults, edits, deletes, *clients = state
        moving = [number for number, ident in enumerate(clients) if self._values[ident][0] in _MOVING]
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
        for write in self._values[flying]:
            landed, _ = self._apply(store, write)
            yield f"a copy lands on version {write.version}: {_line(write.text)}", self._landed(state, landed)
        versions = self._values[store]
        if edits and versions:
            fewer = (store, flying, faults, edits - 1, deletes, *clients)
            yield "somebody edits the page", self._landed(fewer, self._id((*versions, (versions[-1][0] + EDIT, ""))))
        if deletes and versions:
            yield "somebody deletes the page", (self._id(()), flying, faults, edits, deletes - 1, *clients)

    def _with(self, state, number, ident, store=None, flying=None, fault=False):
        changed = list(state)
        changed[5 + number] = ident
        if flying is not None:
            changed[1] = flying
        if fault and changed[2] > 0:
            changed[2] -= 1
        return self._landed(tuple(changed), store)

    def _landed(self, state, store):
        """The state with the versions ``store``, and without the writes that can change nothing there any more."""
        store = state[0] if store is None else store
        flying = self._values[state[1]]
        if flying and not self.deletes:
            count = len(self._values[store])
            flying = frozenset(write for write in flying if write.version >= count)
            return (store, self._id(flying), *state[2:])
        return (store, *state[1:])

    def _pause(self, state, number):
        ident = state[5 + number]
        if self._values[ident][2] > 0:
            yield f"{number} tries again", self._with(state, number, self._answered(number, ident, self._id(True)))
        yield f"{number} has no time left", self._with(state, number, self._answered(number, ident, self._id(False)))

    def _ask(self, state, number):
        ident = state[5 + number]
        step = self._step(number, ident)
        faulty = state[2] != 0
        after = functools.partial(self._answered, number, ident)
        if isinstance(step, Runs):
            running = self._runs(state, step.job)
            said = "runs" if running else "has ended"
            yield f"{number} hears that {step.job} {said}", self._with(state, number, after(self._id(running)))
            return
        if isinstance(step, protocol.Write):
            yield from self._write(state, number, step, after, faulty)
        else:
            yield f"{number} reads", self._with(state, number, after(self._read(state[0], step)))
        if faulty:
            # A refusal of the second copy, after something in between saw the first one applied, would be a lie.
            twice = self._values[ident][3]
            for answer in (LOST,) if twice else (LOST, REFUSED):
                what = f"{number}: {type(step).__name__} {answer}"
                yield what, self._with(state, number, after(self._id(answer)), fault=True)
            yield f"{number} dies", self._with(state, number, self._id(("dead", (), 0, False)), fault=True)

    def _runs(self, state, job):
        """Whether the client with this job is alive; the job of no client ended long ago."""
        if job not in self._jobs:
            return False
        phase = self._values[state[5 + self._jobs[job]]][0]
        return not (phase == "dead" or phase.endswith("ended"))

    def _read(self, store, step):
        """The number of the answer."""
        key = store, step
        if key not in self._read_before:
            versions = self._values[store]
            number = step.number if isinstance(step, protocol.ReadVersion) else len(versions)
            there = 1 <= number <= len(versions)
            found = Page(versions[number - 1][0], number, comment=versions[number - 1][1]) if there else MISSING
            self._read_before[key] = self._id(found)
        return self._read_before[key]

    def _write(self, state, number, step, after, faulty):
        ident, dead = state[5 + number], self._id(("dead", (), 0, False))
        applied, answer = self._apply(state[0], step)
        answered, unheard = after(self._id(answer)), after(self._id(LOST))
        yield f"{number} writes: {answer}", self._with(state, number, answered, applied)
        if not faulty:
            return
        under_way = self._id(self._values[state[1]] | {step})
        yield f"{number} writes: {answer}, lost", self._with(state, number, unheard, applied, fault=True)
        yield f"{number} writes: late", self._with(state, number, unheard, None, under_way, fault=True)
        both = self._with(state, number, answered, applied, under_way, fault=True)
        yield f"{number} writes: {answer}, and once more later", both
        # The client still waits, for the answer to the second copy.
        waits = self._id((*self._values[ident][:3], True))
        yield f"{number} writes twice: {answer}, then…", self._with(state, number, waits, applied, fault=True)
        yield f"{number} writes: {answer}, and dies", self._with(state, number, dead, applied, fault=True)
        yield f"{number} writes: late, and dies", self._with(state, number, dead, None, under_way, fault=True)

    def _apply(self, store, write):
        versions = self._values[store]
        saved = (write.text, write.comment)
        if not versions:
            return self._id((saved,)), MADE if self.refuses else None
        if self.noop and versions[-1][0] == write.text:
            return store, None
        if write.version != len(versions):
            return store, CONFLICT
        return self._id((*versions, saved)), None

    # What must hold

    def _wrong(self, state):
        versions = self._values[state[0]]
        # Whoever deletes the page ends every hold, takes its entries with it, and has the versions begin anew.
        deleted = state[4] < self.deletes
        if state[0] not in self._pages:
            self._pages[state[0]] = self._wrong_page(versions)
        kind = None if deleted else self._pages[state[0]]
        if kind:
            return kind
        users, working = [], 0
        for key in ((number, ident, state[0], deleted) for number, ident in enumerate(state[5:])):
            if key not in self._judged:
                self._judged[key] = self._judge(*key)
            wrong, uses, works = self._judged[key]
            kind = kind or wrong
            if uses:
                users.append(self.clients[key[0]])
            working += works
        if len(users) > 1:
            return "two are at work at once" if all(one.job for one in users) else "two hold the token at once"
        self.overlaps += working > 1
        return kind

    def _judge(self, number, ident, store, deleted):
        """What is wrong about one client, whether it uses the token by right, and whether it is at work."""
        client, versions = self.clients[number], self._values[store]
        phase, done, *_ = self._values[ident]
        text = versions[-1][0] if versions else ""
        own, others, forced = _entries(text, client)
        if phase != "use":
            return None if deleted else self._lied(client, number, phase, done, versions, own, others), False, False
        by_right = not (forced if client.job else others)
        given = _line(text) == (client.ref, client.job) or not self._refs_in_text(versions)
        kind = "one uses a token that the page does not give it" if by_right and not (deleted or given) else None
        return kind, by_right, client.job is not None

    def _lied(self, client, number, phase, done, versions, own, others):
        """What a client was told that is not so."""
        text = versions[-1][0]
        operation, _, ended = phase.partition(" ")
        if phase == "note" and not done and own:
            return "told 'not_yours' on release, and it was released"
        if not ended or done.word == "in_doubt":
            return None
        word, ok = done.word, done.word == "ok"
        wrote = self._wrote(versions, number, operation)
        if operation == "take":
            if _line(text) == (client.ref, client.job):
                return f"told {word!r}, and holds the token"
        elif ok and operation == "release":
            if _line(text) == (client.ref, client.job):
                return "released, and still holds the token"
            if done.entry is None:
                return None if client.without_entry else "released, without an entry"
            if f": {client.summary}" not in done.entry:
                return f"released, with an entry of somebody else's: {done.entry}"
            if (count := text.splitlines().count(done.entry)) != 1:
                return f"released, and its entry stands {count} times"
        elif ok and operation == "note":
            if own != 1 or not others:
                return f"noted, and {own} entries of its own stand beside {others} of others"
        elif ok:
            hold = page.read(text)
            if hold and hold.ref == client.ref and hold.reason != LONGER:
                return "extended, and the page does not say so"
        elif not ok and own:
            return f"told {word!r} on {operation}, and it was released"
        # What was changed or taken by a write without an answer may have ended since then.
        over = word == "not_yours" and (operation != "release" or client.without_entry)
        if not ok and wrote and not over:
            return f"told {word!r} on {operation}, and wrote"
        return None

    @staticmethod
    def _wrote(versions, number, operation):
        said = (_comment(comment) for _, comment in versions)
        return any(one and one.id == f"{number:08x}" and _OPERATIONS[one.verb] == operation for one in said)

    @staticmethod
    def _refs_in_text(versions):
        # A mutant that leaves the ref out of the text is to fail for what it does, not for how it looks.
        return all(_line(text)[0] is None or "ref " in text for text, _ in versions)

    def _wrong_page(self, versions):
        """Whether the newest version may follow the one before it, which was looked at before."""
        if len(versions) < 2:
            return None
        (old, _), (new, comment) = versions[-2:]
        (before, old_job), (now, job) = _line(old), _line(new)
        edits = new.count(EDIT) - old.count(EDIT)
        if edits < 0:
            return "a foreign edit is lost"
        said = _comment(comment)
        notes = [one.ref for _, text in versions if (one := _comment(text)) and one.verb == "note"]
        for ref in self.owners:
            count = len(page.entries(new, ref))
            if count > 1 + notes.count(ref):
                return f"the hold {ref} has {count} entries"
        if now == before:
            meant = edits or job != old_job or (said and said.verb in ("note", "extend") and new != old)
            return None if meant else "a version without a meaning"
        if before and now and self.takers.get(now) != before:
            return "a hold follows a hold that nobody ended"
        if now and now in [_line(text)[0] for text, _ in versions[:-2]] and self._refs_in_text(versions):
            return "a hold comes back"
        return self._wrong_end(versions, before, said) if before and said else None

    def _wrong_end(self, versions, ref, said):
        """Whether who ended the hold ``ref``, as the comment ``said``, may have, and the entry says what is to say."""
        client = self.clients[int(said.id, 16)]
        entry = "".join(page.entries(versions[-1][0], ref))
        done = [one.words for _, text in versions if (one := _comment(text)) and one.verb == "end" and one.ref == ref]
        if self.complete and not all(f"; {words}" in entry for words in done):
            return "what a deploy did is lost"
        others = said.verb == "release" and client.account != self.owners.get(ref, client.account)
        if others and not (client.for_holder and f"released by {client.name}" in entry):
            return "somebody ends another's hold, and does not say so"
        if "by force" in entry and not client.force:
            return "an entry speaks of force, and nobody used it"
        return None

    @property
    def outcomes(self):
        """How operations ended, whoever's they were."""
        return {(phase, word) for _, phase, word in self.told}

    @staticmethod
    def _trace(came, state):
        labels = []
        while came[state]:
            state, label = came[state]
            labels.append(label)
        return labels[::-1]
