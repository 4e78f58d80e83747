"""``salt-run deploytoken.…`` on a real wiki, against the least it could take, and against a careful shell script."""

import functools
import os
import pathlib
import re
import subprocess

import requests

from script.benchmarks import plot, words
from script.benchmarks.fleet import Fleet
from script.benchmarks.sampling import figures, ratio, sample, shuffled, total

TITLE = "`salt-run deploytoken`, against its floor and a shell script"
AIM = 1.10
FLOOR, AGAIN = "salt-run test.arg", "salt-run test.arg again"
STATUS, ACQUIRE, RELEASE = "status", "acquire", "release"
PAGE = "h1. Deploy token\n\nHeld by: nobody\n\nh2. History\n\n* 2026-01-01 10:00 UTC Alice: set up\n"
SCRIPT = pathlib.Path(__file__).with_name("by_hand.sh")


def run(bench):
    rounds = bench.rounds(5, 12)
    redmine = bench.redmine()
    pages = {who: redmine.new_page(PAGE) for who in ("ours", "script", "requests")}
    key = redmine.key("alice")
    # The master runs: without one, every salt-run looks for it for 2 s, which would hide everything else.
    fleet = Fleet(bench, {"store": pages["ours"], "api_key": key, "name": "Alice"})

    def salt_run(function, *positional, **named):
        done = fleet.run(function, *positional, **named)
        if done.code:
            raise RuntimeError(str(done)[:4000])

    plain = Plain(pages["requests"], key)
    script = functools.partial(_script, pages["script"], key)
    ours = {
        STATUS: functools.partial(salt_run, "deploytoken.status"),
        ACQUIRE: functools.partial(salt_run, "deploytoken.acquire", reason="upgrade PostgreSQL"),
        RELEASE: functools.partial(salt_run, "deploytoken.release", summary="upgraded PostgreSQL"),
    }
    functions = {
        FLOOR: functools.partial(salt_run, "test.arg", "x"),
        AGAIN: functools.partial(salt_run, "test.arg", "x"),
        **{("ours", name): function for name, function in ours.items()},
        **{("script", name): functools.partial(script, name) for name in ours},
        **{("requests", name): getattr(plain, name) for name in ours},
    }
    # Every acquire comes before its release.
    pairs = [(who, name) for who in pages for name in (ACQUIRE, RELEASE)]
    salt_run("test.arg", "warm")
    bench.say(f"{rounds} rounds")
    samples = {name: [] for name in functions}
    for _ in range(rounds):
        for name in _order(functions, pairs):
            samples[name].append(sample(functions[name])[0])
    floor = samples[FLOOR]
    found = [{"what": name, **figures(samples[name]), "ratio": ratio(samples[name], floor)} for name in (FLOOR, AGAIN)]
    operations = []
    for name in ours:
        asked = samples["requests", name]
        taken = samples["ours", name]
        operations.append(
            {
                "what": name,
                **figures(taken),
                "ratio": ratio(taken, total(floor, asked)),
                "requests": figures(asked),
                "script": figures(samples["script", name]),
            }
        )
    for page in pages.values():
        version = redmine.read(page)["version"]
        if version != 1 + 2 * rounds:
            raise RuntimeError(f"{page} is at version {version} after {rounds} acquires and as many releases")
    return {"floor": found, "operations": operations}


def _order(functions, pairs):
    order = list(functions)
    for first, last in zip(pairs[::2], pairs[1::2], strict=True):
        order = shuffled(order, (first, last)) if first is pairs[0] else _swapped(order, first, last)
    return order


def _swapped(order, first, last):
    """The same order, but with the one before the other."""
    places = sorted(map(order.index, (first, last)))
    for place, name in zip(places, (first, last), strict=True):
        order[place] = name
    return order


class Plain:
    """The requests alone, with one connection for an operation, as the store makes them."""

    def __init__(self, page, key):
        self._url, self._headers = f"{page}.json", {"X-Redmine-API-Key": key}

    def status(self):
        with requests.Session() as session:
            return self._get(session)

    def acquire(self):
        self._save(r"Held by: nobody", "Held by: Alice (upgrade PostgreSQL)")

    def release(self):
        self._save(r"Held by: .*", "Held by: nobody")

    def _get(self, session):
        answer = session.get(self._url, headers=self._headers, timeout=30, allow_redirects=False)
        answer.raise_for_status()
        return answer.json()["wiki_page"]

    def _save(self, pattern, line):
        with requests.Session() as session:
            session.trust_env = False
            page = self._get(session)
            text = re.sub(pattern, line, page["text"], count=1)
            changed = {"wiki_page": {"text": text, "version": page["version"]}}
            answer = session.put(self._url, headers=self._headers, json=changed, timeout=30, allow_redirects=False)
            if answer.status_code != 204:
                raise RuntimeError(f"the page was not saved: {answer.status_code}")


def _script(page, key, operation):
    environment = {**os.environ, "DEPLOY_PAGE": page, "REDMINE_KEY": key, "DEPLOY_NAME": "Alice"}
    done = subprocess.run(
        ["bash", SCRIPT, operation, "upgrade PostgreSQL"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"by_hand.sh {operation} ended with {done.returncode}: {done.stderr}")


def aims(found, loaded):
    # The same command against itself. If its ratio differs from 1 by more than half of what the aim allows, a ratio
    # near the aim proves nothing.
    noise = {clock: found["floor"][1]["ratio"][clock]["median"] for clock in ("wall", "cpu")}
    noisy = any(abs(value - 1) > (AIM - 1) / 2 for value in noise.values())
    for row in found["operations"]:
        said = words.verdict_of_both(row["ratio"], AIM, "", loaded)
        if noisy:
            wall, cpu = (row["ratio"][clock]["median"] for clock in ("wall", "cpu"))
            said = (
                f"**undecided**: {wall:.2f}, CPU {cpu:.2f}, while `test.arg` against itself is"
                f" {noise['wall']:.2f}, CPU {noise['cpu']:.2f}"
            )
        yield f"`salt-run deploytoken.{row['what']}`: at most {AIM:.2f} of `{FLOOR}` and the wiki's requests", said


def page(found):
    floor = [_line(f"`{FLOOR}`{row['what'].removeprefix(FLOOR)}", row) for row in found["floor"]]
    ours = [_line(f"`salt-run deploytoken.{row['what']}`", row) for row in found["operations"]]
    others = [
        [row["what"], *(words.ms(row[who][clock], 0) for who in ("requests", "script") for clock in ("wall", "cpu"))]
        for row in found["operations"]
    ]
    return f"""
These are whole commands, each a new process, beside a running master, with the token on a page of a real Redmine. No
command can be faster than the *floor*: the least that a `salt-run` does, plus the operation's own requests (a GET for
the status; a GET and a PUT to take or give back), made from Python in the same round. The second row is the first
command again. Its difference from 1 is noise, and smaller differences mean nothing.

![Ratio to the floor](commands.svg)

{words.table(["command", "clock, s", "CPU, s", "ratio to the floor, clock", "CPU"], [*floor, *ours])}

`script/benchmarks/by_hand.sh` is the script that a careful person might write instead: `curl` and `jq`, with the
page's version sent along. It does not have to start Salt. But it does not know whose save it was when an answer is
lost, cannot tell one person's two terminals apart, and does not look at the minions. In milliseconds:

{words.table(["operation", "the requests, clock", "CPU", "the script, clock", "CPU"], others)}
"""


def _line(name, row):
    return [name, *words.both(row, words.seconds), *words.both(row["ratio"], words.times)]


def plots(found):
    rows = [(f"deploytoken.{row['what']}", row["ratio"]["wall"]) for row in found["operations"]]
    rows.append(("test.arg, against itself", found["floor"][1]["ratio"]["wall"]))
    title = "salt-run, as a multiple of its floor: median and quartiles"
    return {"commands.svg": plot.dots(title, rows, "times the floor", aim=(AIM, f"aim: {AIM:.2f}"))}
