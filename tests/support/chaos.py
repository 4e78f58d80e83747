"""
Dozens of contenders in processes of their own, on a store that fails; and a checker of what they claim.

:py:func:`run` sets it up and returns the :class:`Record`: the page's versions, which are the truth, and what each
process wrote down of its own claims, with the machine's monotonic clock. :py:func:`check` compares the two.

- Many contenders have one name. Each acquires, holds for a moment, and releases; some take over on purpose.
- Some are deploys, at work under a hold of their own, or under one that they find: a session, or what a crash left.
- People type releases and takeovers meanwhile: with and without a ref, for the holder, by force, on another master.
- On Redmine, a proxy makes faults. On SQLite, contenders are killed with SIGKILL at random points.
- A janitor takes over what a killed process, or a write that landed late, has left held.
- A person edits other parts of the page all the while, past the proxy.
"""

import collections
import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import random
import signal
import sys
import time

from saltext.deploytoken import config, errors, page, stores
from saltext.deploytoken import token as tokens
from saltext.deploytoken.people import Account
from saltext.deploytoken.stores import base as store
from tests.support import process
from tests.support.proxy import AFTER, BEFORE, FaultProxy, delay, drip, drop, duplicate, html, status, truncate

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = "h1. Deploy token\n\nHeld by: nobody\n\nh2. History\n\nh2. Notes\n\n"
NAMES = ("Alice", "Alice", "Alice", "Bob", "Carol")
PEOPLE = ("Alice", "Bob", "Carol")
#: How long a hold may stand before the janitor ends it, in seconds.
STUCK = 2.0


@dataclasses.dataclass
class Record:
    """What happened: the text of every version, every event of every process in its order, and the faults made."""

    versions: list
    events: list
    seconds: float
    faults: collections.Counter


# The processes: one team, which forks


class Log:
    """One process's claims: each line is in the file before the process goes on, whatever kills it then."""

    def __init__(self, folder, number):
        self.path = pathlib.Path(folder) / f"{number}.jsonl"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, event, **data):
        line = json.dumps({"at": time.monotonic_ns(), "event": event, **data}) + "\n"
        os.write(self._file, line.encode())


def connect(plan, name, knows=True):
    """The token as this person types at it; one on another master does not know whether a job runs here."""
    runs = (lambda job: runs_here(plan, job)) if knows else None
    account = Account(name.lower(), "chaos", plain=True)
    return tokens.Token(config.parse({"deploytoken": {**plan["options"], "name": name}}), None, account, runs)


_COUNT = itertools.count()


@contextlib.contextmanager
def running(plan):
    """A job of this process: its name, for as long as it runs. The lock ends with the process, whatever kills it."""
    job = f"{os.getpid():010}{next(_COUNT):010}@chaos"
    with open(pathlib.Path(plan["jobs"]) / job, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield job


def runs_here(plan, job):
    with open(pathlib.Path(plan["jobs"]) / job) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def contend(plan, number, orphan, log, dice):
    """Acquire, hold, release, again and again; first end the hold of the process that was killed in this place."""
    name = NAMES[number % len(NAMES)]
    with connect(plan, name) as token:
        player = Player(plan, name, token, log, dice)
        if orphan:
            player.release(orphan)
        while going_on(plan):
            player.round()


@dataclasses.dataclass
class Player:
    """What a person types, or a deploy does, each with its events."""

    plan: dict
    name: str
    token: tokens.Token
    log: Log
    dice: random.Random

    def round(self):
        ref = tokens.claim().ref
        if self.dice.random() < 0.5:
            with running(self.plan) as job:
                if self._acquire(ref, job):
                    self._work(ref, job)
                    self._finish(ref, job)
        elif self._acquire(ref):
            self._use(ref)

    def _acquire(self, ref, job=None):
        self.log("try", ref=ref, by=self.name)
        try:
            self.token.acquire("chaos", ref=ref, job=job)
        except errors.InDoubt:
            self.log("doubt", ref=ref)
            time.sleep(self.dice.random() / 2)
            self.release(ref, job=job)
        except errors.Error as exc:
            self.log("refused", ref=ref, reason=exc.reason)
            self._turned_away(exc.details.get("token", {}).get("ref"))
        else:
            return True
        return False

    def _turned_away(self, ref):
        chance = self.dice.random()
        if ref and chance < 0.02:
            self.take_over(ref)
        elif ref and chance < 0.06:
            with running(self.plan) as job:
                if self._begin(ref, job):
                    self._finish(ref, job)
        else:
            time.sleep(self.dice.random() * self.plan["rest"])

    def _use(self, ref):
        self.log("held", ref=ref)
        time.sleep(self.dice.random() / 50)
        if self.dice.random() < 0.5:
            # A session: deploys under a hold that was taken by hand.
            for _ in range(self.dice.randrange(1, 3)):
                with running(self.plan) as job:
                    if self._begin(ref, job):
                        self._rest(ref, job)
        self.log("leaving", ref=ref)
        self.release(ref)

    def _begin(self, ref, job):
        self.log("begin", ref=ref, job=job)
        try:
            self.token.begin(ref, job)
        except errors.Error as exc:
            self.log("not begun", ref=ref, job=job, reason=exc.reason)
            return False
        self._work(ref, job)
        return True

    def _work(self, ref, job):
        self.log("at work", ref=ref, job=job)
        for _ in range(self.dice.randrange(1, 4)):
            time.sleep(self.dice.random() * self.plan["work"])
            with contextlib.suppress(errors.StoreError):
                try:
                    self.token.require_held(ref)
                except errors.NotYours:
                    break
        self.log("at rest", ref=ref, job=job)

    def _finish(self, ref, job):
        if self.dice.random() < 0.3:
            self._rest(ref, job)
        else:
            self.release(ref, job=job, for_holder=True, again=False)

    def _rest(self, ref, job):
        words = f"deployed {self.dice.randrange(10**6)}"
        self.log("resting", ref=ref, job=job, words=words)
        try:
            self.token.end(ref, job, words)
        except errors.NotYours:
            self._note(ref, job, words)
        except errors.Error as exc:
            self.log("not rested", ref=ref, job=job, reason=exc.reason)
        else:
            self.log("rested", ref=ref, job=job, words=words)

    def _note(self, ref, job, summary):
        self.log("noting", ref=ref, job=job)
        try:
            entry = self.token.note(page.Hold(self.name, "chaos", "then", ref), f"noted {summary}", job)
        except errors.Error as exc:
            self.log("not noted", ref=ref, job=job, reason=exc.reason)
        else:
            self.log("noted", ref=ref, job=job, entry=entry)

    def take_over(self, ref, force=False):
        self.log("takeover", displaced=ref, force=force)
        try:
            answer = self.token.take_over("chaos", ref, force=force)
        except errors.Error as exc:
            self.log("takeover refused", displaced=ref, reason=exc.reason)
            return
        self._use(answer["ref"])

    def release(self, ref, **how):
        """Release the hold ``ref``, or without one the own; a deploy whose hold was ended leaves a note."""
        summary = f"did {self.dice.randrange(10**6)}"
        for _ in range(3):
            self.log("releasing", ref=ref, by=self.name, summary=summary, **how)
            try:
                answer = self.token.release(summary, ref, **how)
            except errors.Error as exc:
                # Without a ref, the doubt says which hold it was.
                self.log("not released", ref=ref or exc.details.get("ref"), reason=exc.reason)
                if exc.reason == "not_yours" and not how.get("again", True):
                    self._note(ref, how["job"], summary)
                if exc.reason not in ("in_doubt", "store") or (exc.reason == "in_doubt" and "again" in how):
                    return
                time.sleep(self.dice.random() / 5)
            else:
                self.log("released", ref=answer["released"], entry=answer["entry"])
                return

    def extend(self):
        with contextlib.suppress(errors.Error):
            self.token.extend(expect=self.dice.randrange(60, 6000))


def interfere(plan, number, log, dice):
    """A person who ends holds by hand while others use them."""
    name = PEOPLE[number]
    with connect(plan, name, knows=name != "Carol") as token:
        player = Player(plan, name, token, log, dice)
        while going_on(plan):
            time.sleep(dice.random() * plan["rest"])
            ref = None
            with contextlib.suppress(errors.Error):
                ref = token.status()["ref"]
            force = dice.random() < 0.2
            what = dice.choice(["own", "by ref", "for the holder", "takeover", "extend"])
            if what == "extend":
                player.extend()
            elif what == "own":
                player.release(None, force=force)
            elif ref and what == "takeover":
                player.take_over(ref, force=force)
            elif ref:
                player.release(ref, for_holder=what == "for the holder", force=force)


def tidy(plan, log, dice):
    """Take over what has stood for too long."""
    seen, since = None, time.monotonic()
    with connect(plan, "Janitor") as token:
        while going_on(plan):
            time.sleep(0.2)
            with contextlib.suppress(errors.Error):
                ref = token.status()["ref"]
                if ref != seen:
                    seen, since = ref, time.monotonic()
                elif ref and time.monotonic() - since > STUCK:
                    Player(plan, "Janitor", token, log, dice).take_over(ref)


def edit(plan, log, dice):
    """A person: adds a line at the end, or changes one, by the store's own compare-and-swap, past every fault."""
    wiki = stores.connect(config.parse({"deploytoken": {**plan["options"], **plan["by_hand"]}}))
    count = 0
    while going_on(plan):
        time.sleep(dice.uniform(0.1, 1) * plan["edits"])
        line = f"note {count} {dice.randrange(10**9)}"
        with contextlib.suppress(store.Conflict, errors.StoreError):
            found = wiki.read()
            # Written down first: on a busy server, its fate may stay unknown.
            log("editing", line=line)
            wiki.write(f"{found.text}{line}\n", found.version, "by hand")
            log("edited", line=line)
            count += 1


def going_on(plan):
    return not os.path.exists(plan["over"])


def _is_enough(plan, passed):
    """Whether the time is over, and there was a contest; on a busy machine, one takes longer to begin."""
    if passed < plan["seconds"]:
        return False
    seen = b"".join(path.read_bytes() for path in pathlib.Path(plan["logs"]).iterdir())
    return passed > 6 * plan["seconds"] or all(b'"event": "%s"' % word.encode() in seen for word in plan["until"])


def team(plan):
    """Fork the contenders, the janitor and the person; kill and replace contenders; wait for all."""
    dice = random.Random(plan["seed"])
    logs = pathlib.Path(plan["logs"])
    contenders, count = {}, 0

    def fork(work, *rest):
        nonlocal count
        count += 1
        seed = dice.randrange(2**32)
        child = os.fork()
        if not child:
            code = 1
            try:
                work(plan, *rest, Log(logs, count), random.Random(seed))
                code = 0
            finally:
                os._exit(code)
        return child, logs / f"{count}.jsonl"

    helpers = [fork(edit)[0], fork(tidy)[0], *(fork(interfere, number)[0] for number in range(len(PEOPLE)))]
    for number in range(plan["contenders"]):
        child, path = fork(contend, number, None)
        contenders[child] = number, path
    kills = Log(logs, "kills")
    began = time.monotonic()
    while not _is_enough(plan, time.monotonic() - began):
        time.sleep(dice.uniform(0.01, 0.2))
        if not plan["kills"]:
            continue
        # Half of them in the middle of doing something.
        busiest = max(contenders, key=lambda child: _changed(contenders[child][1]))
        child = dice.choice([busiest, dice.choice(sorted(contenders))])
        number, path = contenders.pop(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills("killed", pid=child)
        child, path = fork(contend, number, _left_behind(path))
        contenders[child] = number, path
    pathlib.Path(plan["over"]).touch()
    failed = [child for child in (*contenders, *helpers) if os.waitpid(child, 0)[1]]
    return 1 if failed else 0


def _changed(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def _left_behind(path):
    """The ref that the killed process may still hold."""
    last = _events(path)[-1:] if path.exists() else []
    return last[0].get("ref") if last and last[0]["event"] not in ("released", "refused") else None


def _events(path):
    # The last line may be half, of a process that was killed.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [{**json.loads(line), "process": path.stem} for line in lines]


# The stage


def run(kind, seconds, seed, folder, redmine=None, contenders=24, until=()):
    """
    Let them contend for ``seconds`` over a fresh page on ``kind``, ``redmine`` or ``sqlite``.

    They go on for up to six times as long until each of the events ``until`` was seen.
    """
    folder = pathlib.Path(folder)
    for name in ("logs", "jobs"):
        (folder / name).mkdir()
    plan = {"seed": seed, "contenders": contenders, "kills": kind == "sqlite", "seconds": seconds, "until": until}
    plan |= {"over": str(folder / "over")} | {name: str(folder / name) for name in ("logs", "jobs")}
    faults = collections.Counter()
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            address = f"sqlite:///{folder / 'token.db'}"
            plan |= {"options": {"store": address, "timeout": 5, "deadline": 10}, "by_hand": {"name": "Person"}}
            plan |= {"rest": 0.1, "work": 0.02, "edits": 0.4}
            wiki = stores.connect(config.parse({"deploytoken": plan["options"]}))
            wiki.create(TEXT, "init")
        else:
            address = redmine.new_page(TEXT)
            proxy = stack.enter_context(FaultProxy(redmine.url))
            proxy.faults(_trouble(random.Random(seed), faults))
            options = {"store": proxy.at(address), "api_key": redmine.key("alice"), "timeout": 1.5, "deadline": 6}
            by_hand = {"store": address, "api_key": redmine.key("bob"), "timeout": 30}
            # Redmine answers some thirty requests a second; they are not all for those who wait, and whoever ends a
            # hold reads each version since it began.
            plan |= {"options": options, "by_hand": by_hand, "rest": 2.0, "work": 0.2, "edits": 5.0}
        (folder / "plan.json").write_text(json.dumps(plan))
        began = time.monotonic()
        members = process.start(
            [sys.executable, "-m", "tests.support.chaos", folder / "plan.json"],
            folder / "team.log",
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "_utils")])},
        )
        try:
            code = members.wait(6 * seconds + 240)
        finally:
            process.end(members)
        took = time.monotonic() - began
        assert code == 0, process.tail(folder / "team.log")
        if kind == "sqlite":
            versions = [wiki.read_version(number).text for number in range(1, wiki.read().version + 1)]
        else:
            proxy.settled(60)
            versions = _redmine_versions(redmine, address)
    events = [event for path in sorted((folder / "logs").iterdir()) for event in _events(path)]
    return Record(versions, events, took, faults)


def _trouble(dice, counted):
    """One request in six meets a fault; a late write lands up to four seconds later."""

    def fault(method, _path, _n):
        if dice.random() > 1 / 6:
            return None
        kinds = [drop(BEFORE), drop(AFTER), status(500), status(502, AFTER), status(503), html(), truncate()]
        if method == "PUT":
            kinds += [delay(dice.uniform(1.5, 4)), delay(2, AFTER), drip(AFTER), duplicate(), html(AFTER), drop(AFTER)]
        made = dice.choice(kinds)
        counted[repr(made).split(".")[0]] += 1
        return made

    return fault


def _redmine_versions(redmine, address):
    rows = redmine.sql(
        "SELECT v.data, v.compression FROM wiki_content_versions v JOIN wiki_pages p ON p.id = v.page_id"
        " WHERE p.title = ? ORDER BY v.version",
        address.rsplit("/", 1)[-1],
    )
    assert not any(compression for _, compression in rows)
    return [data.decode() if isinstance(data, bytes) else data for data, _ in rows]


# The judge


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A release or a takeover: of which hold, by which process, and what became of it (None: unknown)."""

    ref: str
    process: str
    began: int
    ended: int | None
    ok: bool | None
    forced: bool
    asked: dict
    answer: dict


def check(record):
    """Return what is wrong, one line each; nothing when every promise was kept."""
    events, versions = record.events, record.versions
    by_kind = collections.defaultdict(list)
    for event in events:
        by_kind[event["event"]].append(event)
    every = list(_attempts(events))
    attempts = [attempt for attempt in every if attempt.ok is not False]
    return [
        *_check_versions(versions, {event["displaced"] for event in by_kind["takeover"]}),
        *_check_overlaps(events, attempts),
        *_check_force(by_kind, attempts),
        *_check_claims(by_kind, versions),
        *_check_own_entries(every, versions[-1]),
        *_check_deploys(by_kind, versions),
        *_check_edits(by_kind, versions),
    ]


def _attempts(events):
    """Each is followed by its answer in the same process, unless that was killed."""
    asked = {}
    for event in sorted(events, key=lambda event: event["at"]):
        before = asked.pop(event["process"], None)
        if before:
            failed = event["event"] in ("not released", "takeover refused")
            ok = (None if event["reason"] == "in_doubt" else False) if failed else True
            ref = before.get("displaced") or before.get("ref") or event.get("ref")
            yield Attempt(
                ref, event["process"], before["at"], event["at"], ok, before.get("force", False), before, event
            )
        if event["event"] in ("releasing", "takeover"):
            asked[event["process"]] = event
    for event in asked.values():
        ref = event.get("displaced") or event.get("ref")
        yield Attempt(ref, event["process"], event["at"], None, None, event.get("force", False), event, {})


def _held(text):
    hold = page.read(text)
    return hold and (hold.ref or hold.name)


def _check_versions(versions, displaced):
    """Holds alternate with releases; only a takeover that somebody asked for puts one after another."""
    ended = set()
    before = _held(versions[0])
    for number, text in enumerate(versions[1:], 2):
        now = _held(text)
        if now == before:
            continue
        if now in ended:
            yield f"version {number}: the hold {now} comes back"
        if before and now and (before not in displaced or page.TAKEN_OVER not in _entry(text, before)):
            yield f"version {number}: {now} follows {before}, which nobody ended"
        if before and not now and not _entry(text, before):
            yield f"version {number}: the hold {before} ends without an entry"
        if before:
            ended.add(before)
        before = now


def _entry(text, ref):
    return next(iter(page.entries(text, ref)), "")


def _spans(events, attempts):
    """
    Yield (begin, end, ref, job or None): when a hold was used, and when a job was at work under it.

    It lasts from "held" to "leaving", or from "at work" to "at rest"; or to the end of the process; or until somebody
    else may have ended the hold: by force, where a job was at work.
    """
    last = {}
    for event in events:
        last[event["process"]] = max(event["at"], last.get(event["process"], 0))
    ends = {(event["event"], event.get("job") or event["ref"]): event["at"] for event in events if "ref" in event}
    for event in events:
        if event["event"] in ("held", "at work"):
            ref, job, process = event["ref"], event.get("job"), event["process"]
            end = ends.get(("at rest", job) if job else ("leaving", ref), last[process])
            others = [one for one in attempts if one.ref == ref and one.process != process]
            cuts = [one.began for one in others if one.forced or not job]
            yield event["at"], min([end, *cuts]), ref, job


def _check_overlaps(events, attempts):
    """Of two holds, one is used at a time; of two jobs, one is at work, under whatever hold."""
    active = []
    for span in sorted(_spans(events, attempts), key=lambda span: span[:2]):
        begin, _, ref, job = span
        active = [one for one in active if one[1] > begin]
        for _, _, other, others_job in active:
            if ref != other:
                yield f"{ref} holds the token while {other} does"
            elif job and others_job:
                yield f"{job} is at work while {others_job} is"
        active.append(span)


def _check_force(by_kind, attempts):
    """Nobody's hold ended under a job at work without force, nor another's without being asked for it by name."""
    rests = {event["job"]: event["at"] for event in by_kind["at rest"]}
    work = collections.defaultdict(list)
    for event in by_kind["at work"]:
        work[event["ref"]].append((event["at"], rests.get(event["job"], 0), event["job"]))
    owners = {event["ref"]: event["by"] for event in by_kind["try"] if "by" in event}
    for one in attempts:
        if one.ok and not one.forced:
            for begin, end, job in work[one.ref]:
                if begin < one.began and one.ended < end and job != one.asked.get("job"):
                    yield f"{one.ref} was ended while {job} was at work, and nobody forced it"
        owner, by = owners.get(one.ref), one.asked.get("by")
        if one.ok and owner and by and owner != by:
            if not one.asked.get("for_holder"):
                yield f"{by} ended {one.ref}, which was {owner}'s, and did not ask for it"
            if f"; released by {by}" not in one.answer["entry"]:
                yield f"{by} ended {one.ref}, which was {owner}'s, and the entry does not say so"


def _check_claims(by_kind, versions):
    """What was claimed to be there is there, once; what was claimed not to be there is not."""
    final = versions[-1]
    once = {text for version in versions if (text := _held(version))}
    counts = collections.Counter(final.splitlines())
    for event in by_kind["held"]:
        if event["ref"] not in once:
            yield f"{event['ref']} was told that it holds the token, and never did"
    for event in by_kind["refused"]:
        if event["reason"] in ("held", "store") and event["ref"] in once:
            yield f"{event['ref']} was refused ({event['reason']}), and held the token"
    for event in (*by_kind["released"], *by_kind["noted"]):
        if counts[event["entry"]] != 1:
            yield f"{event['ref']}: its entry stands {counts[event['entry']]} times: {event['entry']}"
    noting, noted = (collections.Counter(event["ref"] for event in by_kind[word]) for word in ("noting", "noted"))
    for ref in once:
        found, ended = len(page.entries(final, ref)), ref != _held(final)
        if not ended + noted[ref] <= found <= ended + noting[ref]:
            yield f"the hold {ref} has {found} entries"


def _check_own_entries(attempts, final):
    """A release that succeeded has an entry of its own, and one that was refused has none."""
    for one in attempts:
        if one.asked["event"] != "releasing" or one.ok is None:
            continue
        own = f": {one.asked['summary']}"
        if one.ok and own not in one.answer["entry"]:
            yield f"{one.ref} was released, with an entry of somebody else's: {one.answer['entry']}"
        if one.answer.get("reason") in ("not_yours", "held") and one.ref:
            for entry in page.entries(final, one.ref):
                if own in entry:
                    yield f"{one.ref} was told that nothing was written, and there is: {entry}"


def _check_deploys(by_kind, versions):
    """A job that was told that it is at work stood on the line, and what it did under a hold is in the entry."""
    final = versions[-1]
    jobs = {hold.job for version in versions if (hold := page.read(version)) and hold.job}
    for event in by_kind["at work"]:
        if event["job"] not in jobs:
            yield f"{event['job']} was told that it is at work, and never was"
    for event in by_kind["rested"]:
        if _held(final) != event["ref"] and f"; {event['words']}" not in "".join(page.entries(final, event["ref"])):
            yield f"{event['ref']}: the entry does not say what was done: {event['words']}"


def _check_edits(by_kind, versions):
    counts = collections.Counter(versions[-1].splitlines())
    for event in by_kind["edited"]:
        if counts[event["line"]] != 1:
            yield f"a foreign edit stands {counts[event['line']]} times: {event['line']}"


def totals(record):
    """Return the totals as lines."""
    counts = collections.Counter(event["event"] for event in record.events)
    processes = len({event["process"] for event in record.events})
    words = ("try", "held", "refused", "doubt", "takeover", "released", "not released", "killed", "edited")
    more = ("at work", "not begun", "rested", "noted")
    forced = sum(event.get("force", False) for event in record.events)
    return [
        f"{processes} processes, {record.seconds:.0f} s, {len(record.versions)} versions"
        f" ({len(record.versions) / record.seconds:.1f}/s), {counts['held'] / record.seconds:.1f} holds/s",
        "  ".join(f"{word}: {counts[word]}" for word in words),
        "  ".join(f"{word}: {counts[word]}" for word in more) + f"  by force: {forced}",
        *([f"faults: {sum(record.faults.values())}: {dict(record.faults.most_common())}"] if record.faults else []),
    ]


if __name__ == "__main__":
    sys.exit(team(json.loads(pathlib.Path(sys.argv[1]).read_text())))
