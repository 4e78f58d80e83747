"""Many contenders for one token: hand-overs, requests to the wiki, and whether everybody gets a turn."""

import json
import multiprocessing
import pathlib
import random
import statistics
import time

from saltext.deploytoken import config
from saltext.deploytoken import page as token_page
from saltext.deploytoken.token import POLL, Token
from script.benchmarks import plot, words

TITLE = "Contention for one token"
SIZES = (2, 8, 32)
TURNS = {2: 6, 8: 2, 32: 1}
HOLD = 0.5  # seconds
REST = 5.0  # seconds at most, before a contender with another turn wants it again
WAIT = 400
AIM_REQUESTS = 1.5
AIM_FAIR = 6.0
OPERATION = 4  # requests of an acquire and a release without contention: each reads and writes


def run(bench):
    redmine = bench.redmine()
    found = []
    for contenders in SIZES[: bench.rounds(2, 3)]:
        turns = bench.rounds(1, TURNS[contenders])
        place = bench.path(f"sqlite-{contenders}")
        stores = {
            "Redmine": {"store": redmine.new_page(token_page.initial()), "api_key": redmine.key("alice")},
            "SQLite": {"store": f"sqlite:///{place / 'token.db'}"},
        }
        with Token(config.parse({"deploytoken": stores["SQLite"]})) as token:
            token.store.create(token_page.initial(), "init")
        bench.say(f"{contenders} contenders on both stores, turns each: {turns}")
        running = [Contest(store, settings, contenders, turns, bench.folder) for store, settings in stores.items()]
        found += [contest.outcome() for contest in running]
    return {"rows": found}


class Contest:
    """Processes that all want the token of one store, each for a number of turns. They begin at the same moment."""

    def __init__(self, store, settings, contenders, turns, folder):
        self._store, self._turns = store, turns
        self._logs = [pathlib.Path(folder) / f"{store}-{contenders}-{number}.json" for number in range(contenders)]
        # Forked: everything is imported already, so they can begin at the same moment.
        context = multiprocessing.get_context("fork")
        self._processes = [
            context.Process(target=_contend, args=(settings, f"Contender {number}", turns, log), daemon=True)
            for number, log in enumerate(self._logs)
        ]
        self._begin = time.monotonic()
        for one in self._processes:
            one.start()

    def outcome(self):
        for one in self._processes:
            one.join(WAIT * self._turns + 60)
        elapsed = None
        waits, requests, ends = [], 0, []
        for log in self._logs:
            said = json.loads(log.read_text()) if log.exists() else {"waits": [], "requests": 0, "end": self._begin}
            waits += said["waits"]
            requests += said["requests"]
            ends.append(said["end"])
        wanted = len(self._logs) * self._turns
        if not waits:
            raise RuntimeError(f"nobody got the token on {self._store}")
        elapsed = max(ends) - self._begin
        return {
            "store": self._store,
            "contenders": len(self._logs),
            "turns": self._turns,
            "unserved": wanted - len(waits),
            "seconds": round(elapsed, 1),
            "handovers_per_minute": round(60 * len(waits) / elapsed, 1),
            "requests_per_handover": round(requests / len(waits), 2),
            # The least: the two operations, and one look for each POLL seconds of the wait.
            "expected_requests": round(OPERATION + 1 + sum(waits) / POLL / len(waits), 2),
            "waits": {
                "median": round(statistics.median(waits), 2),
                "longest": round(max(waits), 2),
                "mean": round(statistics.mean(waits), 2),
            },
        }


def _contend(settings, name, turns, log):
    """One contender: wait for the token, hold it for a moment, give it back, rest. It notes how it went."""
    count = [0]
    waits = []
    try:
        with Token(config.parse({"deploytoken": {**settings, "name": name, "deadline": 60}})) as token:
            _counting(token.store, count)
            for turn in range(turns):
                if turn:
                    time.sleep(random.uniform(0, REST))
                begin = time.monotonic()
                ref = token.acquire("contention", wait=WAIT)["ref"]
                waits.append(time.monotonic() - begin)
                time.sleep(HOLD)
                token.release("contention", ref)
    finally:
        log.write_text(json.dumps({"waits": waits, "requests": count[0], "end": time.monotonic()}))


def _counting(store, count):
    """Count the calls of the store. On a wiki, each call is one request."""
    for name in ("read", "read_version", "write", "operator"):
        function = getattr(store, name)

        def counted(*arguments, function=function):
            count[0] += 1
            return function(*arguments)

        setattr(store, name, counted)


def aims(found, _loaded):
    worst = max(found["rows"], key=_excess)
    yield (
        f"requests per hand-over: at most {AIM_REQUESTS:.1f} of the operations themselves and one look for each"
        f" {POLL:.0f} seconds of waiting (the most: {_who(worst)})",
        words.verdict(_excess(worst), AIM_REQUESTS),
    )
    unserved = sum(row["unserved"] for row in found["rows"])
    yield "nobody starved: everybody got every turn", f"**missed**: {unserved} turns never came" if unserved else "met"
    worst = max(found["rows"], key=_unfairness)
    yield (
        f"fair: the longest wait is at most {AIM_FAIR:.0f} of the median (the most: {_who(worst)})",
        words.verdict(_unfairness(worst), AIM_FAIR),
    )


def _excess(row):
    return row["requests_per_handover"] / row["expected_requests"]


def _unfairness(row):
    # A contender that finds the token free has hardly waited. A ratio to such a wait would mean nothing.
    return row["waits"]["longest"] / max(row["waits"]["median"], POLL / 2)


def _who(row):
    return f"{row['contenders']} contenders, {row['store']}"


def page(found):
    lines = [
        [
            row["contenders"],
            row["store"],
            row["turns"],
            f"{row['handovers_per_minute']:,.0f}",
            f"{row['requests_per_handover']:.1f}",
            f"{row['expected_requests']:.1f}",
            f"{row['waits']['median']:.1f}",
            f"{row['waits']['longest']:.1f}",
            f"{_unfairness(row):.1f}",
        ]
        for row in found["rows"]
    ]
    heads = ["contenders", "store", "turns each", "hand-overs a minute", "requests per hand-over", "expected"]
    heads += ["median wait, s", "longest, s", "longest over median*"]
    return f"""
The contenders are processes that begin at the same moment and do what `acquire wait=…` does, without the start of a
command. Each holds the token for half a second. A process with several turns rests up to {REST:.0f} seconds between
them. A waiting process looks every {POLL:.0f} seconds, give or take up to half of that at random. No message says that
the token is free: a look finds it. So the more processes wait, the sooner one of them finds it. With few, most of the
time between two hand-overs is the wait for the next look. Both stores were tested at the same time. *Expected* are
{OPERATION} requests for taking and giving back, the first look, and one for every {POLL:.0f} seconds of waiting.

Chance alone decides which process looks next. That is fair over time, but it is not a queue, and the longest wait
grows with the number of contenders. (*: at least half the time between two looks
counts as the median wait.)

![Hand-overs per minute by number of contenders](contention.svg)

![Requests per hand-over by number of contenders](contention-requests.svg)

{words.table(heads, lines)}
"""


def plots(found):
    def of(store, key):
        return [(row["contenders"], _exact(row[key])) for row in found["rows"] if row["store"] == store]

    pictures = {
        "contention.svg": ("handovers_per_minute", "Contenders for one token: hand-overs per minute"),
        "contention-requests.svg": ("requests_per_handover", "Contenders for one token: requests per hand-over"),
    }
    return {
        name: plot.curves(
            title, {store: of(store, key) for store in ("Redmine", "SQLite")}, "contenders", "", height=260
        )
        for name, (key, title) in pictures.items()
    }


def _exact(value):
    return {"median": value, "quartiles": [value, value]}
