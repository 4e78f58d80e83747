"""
Dozens of contenders in processes of their own, on a store that fails; and a checker of what they claim.

:py:func:`run` sets it up and returns the :class:`Record`: the page's versions, which are the truth, and what each
process wrote down of its own claims, with the machine's monotonic clock. :py:func:`check` compares the two.

- Many contenders have one name. Each acquires, holds for a moment, and releases; some take over on purpose.
- On Redmine, a proxy makes faults. On SQLite, contenders are killed with SIGKILL at random points.
- A janitor takes over what a killed process, or a write that landed late, has left held.
- A person edits other parts of the page all the while, past the proxy.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import sys
import time

from saltext.deploytoken import config, errors, page, stores
from saltext.deploytoken import token as tokens
from saltext.deploytoken.stores import base as store
from tests.support import process
from tests.support.proxy import AFTER, BEFORE, FaultProxy, delay, drip, drop, duplicate, html, status, truncate

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = "h1. Deploy token\n\nHeld by: nobody\n\nh2. History\n\nh2. Notes\n\n"
NAMES = ("Alice", "Alice", "Alice", "Bob", "Carol")
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


def contend(plan, number, orphan, log, dice):
    """Acquire, hold, release, again and again; first end the hold of the process that was killed in this place."""
    options = {**plan["options"], "name": NAMES[number % len(NAMES)]}
    with tokens.Token(config.parse({"deploytoken": options})) as token:
        if orphan:
            _release(token, orphan, log, dice)
        while time.time() < plan["end"]:
            _round(token, log, dice, plan["rest"])


def _round(token, log, dice, rest):
    ref = tokens.claim().ref
    log("try", ref=ref)
    try:
        token.acquire("chaos", ref=ref)
    except errors.InDoubt:
        log("doubt", ref=ref)
        time.sleep(dice.random() / 2)
        _release(token, ref, log, dice)
        return
    except errors.Error as exc:
        log("refused", ref=ref, reason=exc.reason)
        displaced = exc.details.get("token", {}).get("ref")
        if displaced and dice.random() < 0.02:
            _take_over(token, displaced, log, dice)
        else:
            time.sleep(dice.random() * rest)
        return
    _use(token, ref, log, dice)


def _use(token, ref, log, dice):
    log("held", ref=ref)
    time.sleep(dice.random() / 50)
    log("leaving", ref=ref)
    _release(token, ref, log, dice)


def _take_over(token, displaced, log, dice):
    log("takeover", displaced=displaced)
    try:
        answer = token.take_over("chaos", displaced)
    except errors.Error as exc:
        log("takeover refused", displaced=displaced, reason=exc.reason)
        return
    _use(token, answer["ref"], log, dice)


def _release(token, ref, log, dice):
    for _ in range(3):
        log("releasing", ref=ref)
        try:
            answer = token.release(f"did {dice.randrange(10**6)}", ref)
        except errors.Error as exc:
            log("not released", ref=ref, reason=exc.reason)
            if exc.reason not in ("in_doubt", "store"):
                return
            time.sleep(dice.random() / 5)
        else:
            log("released", ref=ref, entry=answer["entry"])
            return


def tidy(plan, log, dice):
    """Take over what has stood for too long."""
    options = {**plan["options"], "name": "Janitor"}
    seen, since = None, time.monotonic()
    with tokens.Token(config.parse({"deploytoken": options})) as token:
        while time.time() < plan["end"]:
            time.sleep(0.2)
            with contextlib.suppress(errors.Error):
                ref = token.status()["ref"]
                if ref != seen:
                    seen, since = ref, time.monotonic()
                elif ref and time.monotonic() - since > STUCK:
                    _take_over(token, ref, log, dice)


def edit(plan, log, dice):
    """A person: adds a line at the end, or changes one, by the store's own compare-and-swap, past every fault."""
    wiki = stores.connect(config.parse({"deploytoken": {**plan["options"], **plan["by_hand"]}}))
    count = 0
    while time.time() < plan["end"]:
        time.sleep(dice.uniform(0.05, 0.4))
        line = f"note {count} {dice.randrange(10**9)}"
        with contextlib.suppress(store.Conflict, errors.StoreError):
            found = wiki.read()
            # Written down first: on a busy server, its fate may stay unknown.
            log("editing", line=line)
            wiki.write(f"{found.text}{line}\n", found.version, "by hand")
            log("edited", line=line)
            count += 1


def team(plan):
    """Fork the contenders, the janitor and the person; kill and replace contenders; wait for all."""
    dice = random.Random(plan["seed"])
    logs = pathlib.Path(plan["logs"])
    running, count = {}, 0

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

    helpers = [fork(edit)[0], fork(tidy)[0]]
    for number in range(plan["contenders"]):
        child, path = fork(contend, number, None)
        running[child] = number, path
    kills = Log(logs, "kills")
    while plan["kills"] and time.time() < plan["end"]:
        time.sleep(dice.uniform(0.01, 0.2))
        # Half of them in the middle of doing something.
        busiest = max(running, key=lambda child: _changed(running[child][1]))
        child = dice.choice([busiest, dice.choice(sorted(running))])
        number, path = running.pop(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills("killed", pid=child)
        child, path = fork(contend, number, _left_behind(path))
        running[child] = number, path
    failed = [child for child in (*running, *helpers) if os.waitpid(child, 0)[1]]
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


def run(kind, seconds, seed, folder, redmine=None, contenders=24):
    """Let them contend for ``seconds`` over a fresh page on ``kind``, ``redmine`` or ``sqlite``."""
    folder = pathlib.Path(folder)
    (folder / "logs").mkdir()
    plan = {"seed": seed, "contenders": contenders, "logs": str(folder / "logs"), "kills": kind == "sqlite"}
    faults = collections.Counter()
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            address = f"sqlite:///{folder / 'token.db'}"
            plan |= {"options": {"store": address, "timeout": 5, "deadline": 10}, "by_hand": {"name": "Person"}}
            plan["rest"] = 0.1
            wiki = stores.connect(config.parse({"deploytoken": plan["options"]}))
            wiki.create(TEXT, "init")
        else:
            address = redmine.new_page(TEXT)
            proxy = stack.enter_context(FaultProxy(redmine.url))
            proxy.faults(_trouble(random.Random(seed), faults))
            options = {"store": proxy.at(address), "api_key": redmine.key("alice"), "timeout": 1.5, "deadline": 6}
            by_hand = {"store": address, "api_key": redmine.key("bob"), "timeout": 30}
            # Redmine answers some thirty requests a second; they are not all for those who wait.
            plan |= {"options": options, "by_hand": by_hand, "rest": 2.0}
        plan["end"] = time.time() + seconds
        (folder / "plan.json").write_text(json.dumps(plan))
        began = time.monotonic()
        members = process.start(
            [sys.executable, "-m", "tests.support.chaos", folder / "plan.json"],
            folder / "team.log",
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "_utils")])},
        )
        try:
            code = members.wait(seconds + 240)
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


def check(record):
    """Return what is wrong, one line each; nothing when every promise was kept."""
    events, versions = record.events, record.versions
    by_kind = collections.defaultdict(list)
    for event in events:
        by_kind[event["event"]].append(event)
    displaced = {event["displaced"]: event["at"] for event in sorted(by_kind["takeover"], key=lambda one: -one["at"])}
    return [
        *_check_versions(versions, displaced),
        *_check_overlaps(events, displaced),
        *_check_claims(by_kind, versions),
        *_check_edits(by_kind, versions),
    ]


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


def _check_overlaps(events, displaced):
    """From "held" to "leaving" (or the takeover, or the process's end) nobody else is between theirs."""
    spans = []
    last = {}
    for event in events:
        last[event["process"]] = max(event["at"], last.get(event["process"], 0))
    leaving = {event["ref"]: event["at"] for event in events if event["event"] == "leaving"}
    for event in events:
        if event["event"] == "held":
            ref = event["ref"]
            end = leaving.get(ref, last[event["process"]])
            spans.append((event["at"], min(end, displaced.get(ref, end)), ref))
    latest = (0, None)
    for begin, end, ref in sorted(spans):
        if begin < latest[0]:
            yield f"{ref} holds the token while {latest[1]} does"
        latest = max(latest, (end, ref))


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
    released = set()
    for event in by_kind["released"]:
        released.add(event["ref"])
        if counts[event["entry"]] != 1:
            yield f"{event['ref']}: its entry stands {counts[event['entry']]} times: {event['entry']}"
    for event in by_kind["not released"]:
        if event["reason"] == "not_yours" and event["ref"] not in released:
            entry = _entry(final, event["ref"])
            if entry and page.TAKEN_OVER not in entry:
                yield f"{event['ref']} was told that nothing was written, and there is: {entry}"
    for ref in once:
        entries = page.entries(final, ref)
        if len(entries) != (ref != _held(final)):
            yield f"the hold {ref} has {len(entries)} entries"


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
    return [
        f"{processes} processes, {record.seconds:.0f} s, {len(record.versions)} versions"
        f" ({len(record.versions) / record.seconds:.1f}/s), {counts['held'] / record.seconds:.1f} holds/s",
        "  ".join(f"{word}: {counts[word]}" for word in words),
        *([f"faults: {sum(record.faults.values())}: {dict(record.faults.most_common())}"] if record.faults else []),
    ]


if __name__ == "__main__":
    sys.exit(team(json.loads(pathlib.Path(sys.argv[1]).read_text())))
