"""``busy.check`` of many minions, against a ping, and against a look at one minion after the other."""

import functools
import getpass
import os
import shlex
import subprocess

import psutil

from script.benchmarks import plot, words
from script.benchmarks.fleet import Fleet
from script.benchmarks.sampling import in_turn, rows
from tests.support.scrapyd import Scrapyd
from tests.support.users import Users

TITLE = "`busy.check` over many minions"
AIM = 1.25
AIM_MEMORY = 1.10
ROUNDS = {1: 5, 5: 5, 20: 5, 50: 3}  # by number of minions
NEEDED = 200e6  # bytes of memory for a minion at work, including the processes of its jobs
PEOPLE = 3
PING, FLOOR = "`salt '*' test.ping`", "a trivial `salt-run`"
NOTHING, PROBES, LOOP = "nothing configured", "Scrapyd and tmux", "by hand"


def run(bench):
    sizes = list(ROUNDS)[: bench.rounds(2, 4)]
    # Real minions, as many as fit into memory. Nothing is extrapolated.
    room = psutil.virtual_memory().available / NEEDED
    sizes, left_out = [[size for size in sizes if (size <= room) is fits] for fits in (True, False)]
    scrapyd = Scrapyd(bench.path("scrapyd"))
    bench.stack.callback(scrapyd.stop)
    scrapyd.start(deploy=False)
    people = _people(bench)
    asked = {"scrapyd": [{"url": scrapyd.url}], "tmux": {"users": people}}
    fleet = Fleet(bench)
    found = []
    for size in sizes:
        fleet.grow(size)
        rounds = bench.rounds(3, ROUNDS[size])
        ping = functools.partial(fleet.salt, "test.ping")
        for name, settings in ((NOTHING, None), (PROBES, asked)):
            _configure(fleet, settings)
            functions = {PING: ping, name: functools.partial(_check, fleet, settings)}
            if name == NOTHING:
                functions[FLOOR] = functools.partial(fleet.ran, "test.arg", "x")
            else:
                functions[LOOP] = functools.partial(_by_hand, size, people, scrapyd.url)
            bench.say(f"minions: {size}, {name}, {rounds} rounds")
            samples, _ = in_turn(functions, rounds)
            found += [{**row, "minions": size, "asked": name} for row in rows(samples, PING)]
        found[-1]["memory"] = {
            "salt": fleet.peak("salt", "*", "test.ping"),
            "salt-run": fleet.peak("salt-run", "busy.check", "*"),
            "master": fleet.memory(),
        }
    return {"rows": found, "left_out": left_out, "su": os.geteuid() == 0}


def _people(bench):
    """Users to look at, as on a server. Only root can make them; else the user who runs this is the only one."""
    if os.geteuid():
        return [getpass.getuser()]
    users = Users()
    bench.stack.callback(users.remove)
    return [users(f"bench{number}").name for number in range(PEOPLE)]


def _configure(fleet, busy):
    (fleet.pillar / "top.sls").write_text("base: {'*': [busy]}\n")
    (fleet.pillar / "busy.sls").write_text(f"busy: {busy or {}}\n")
    refreshed = fleet.ask(fleet.minions, "saltutil.refresh_pillar", wait=True)
    if len(refreshed) != len(fleet.minions):
        raise RuntimeError(f"pillar refreshed on {len(refreshed)} of {len(fleet.minions)} minions")


def _check(fleet, settings):
    answer = fleet.ran("busy.check", "*").data
    for minion, said in answer["minions"].items():
        if said["checks"] != sorted(settings or {}):
            raise RuntimeError(f"{minion} was asked for {said['checks']}")
    if len(answer["minions"]) != len(fleet.minions):
        raise RuntimeError(f"{len(answer['minions'])} of {len(fleet.minions)} minions answered")


def _by_hand(size, people, url):
    """The steps of the written procedure, for each server in turn, without the ssh to it."""
    look = "tmux ls" if os.geteuid() else 'su "$one" -c "tmux ls"'
    script = (
        f"for server in $(seq {size}); do for one in {shlex.join(people)}; do {look}; done;"
        f" curl --silent --fail {url}/daemonstatus.json; done"
    )
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, cwd="/", timeout=600)


def aims(found, loaded):
    for name in (PROBES, NOTHING):
        for row in found["rows"]:
            if row["what"] == name:
                yield (
                    f"`salt-run busy.check` of {_count(row)}, {name}: at most {AIM:.2f} of `salt '*' test.ping`",
                    words.verdict_of_both(row["ratio"], AIM, "", loaded),
                )
    memory = [row for row in found["rows"] if "memory" in row]
    first, last = memory[0], memory[-1]
    yield (
        f"memory of `salt-run busy.check`, {_count(last)} against {_count(first)}: at most {AIM_MEMORY:.2f}",
        words.verdict(last["memory"]["salt-run"] / first["memory"]["salt-run"], AIM_MEMORY),
    )


def _count(row):
    return f"{row['minions']} minion{'s' * (row['minions'] > 1)}"


def page(found):
    names = {
        PING: f"{PING}, in turn with the next two",
        NOTHING: f"`salt-run busy.check '*'`, {NOTHING}",
        PROBES: f"`salt-run busy.check '*'`, {PROBES}",
        LOOP: "by hand, one server after the other",
    }
    lines, memory = [], []
    for row in found["rows"]:
        name = names.get(row["what"], row["what"])
        lines.append([row["minions"], name, *words.both(row, words.seconds), *words.both(row["ratio"], words.times)])
        if "memory" in row:
            memory.append([row["minions"], *(f"{value:,.0f} MB" for value in row["memory"].values())])
    loop = 'su USER -c "tmux ls"' if found["su"] else "tmux ls"
    left_out = "".join(f"\nThere was no memory for {size} minions.\n" for size in found.get("left_out", ()))
    return f"""{left_out}
These are whole commands. All minions are real `salt-minion` processes on this one machine, and share its CPUs. A
hundred servers would answer a ping, or run their probes, at the same time; here they queue. So with probes, the ratio
is worse than on separate servers, and grows with the number of minions. Besides, each minion's probes read the
processes of all the others. Nothing here is extrapolated.

*Nothing configured* has the same publish and the same answers without probes: this is the cost on the master. The row
below is a trivial `salt-run` (`test.arg`), which asks no minion. It shows how much of the ratio is only the start,
because `salt-run` takes longer to start than `salt`. With few minions, most of what exceeds 1 is that start and one
publish, which every `salt-run` has to pay. With many minions, the probes on shared CPUs matter more.

*By hand* is `{loop}` for {PEOPLE if found["su"] else 1} users and one request to Scrapyd, for each
server. It leaves out the `ssh` to each server, which takes longer than both.

![Seconds by number of minions](minions.svg)

{words.table(["minions", "command", "clock, s", "CPU, s", "ratio to the ping, clock", "CPU"], lines)}

Memory: the peak of the command, and what the master's processes do not share.

{words.table(["minions", "`salt '*' test.ping`", "`salt-run busy.check '*'`", "the master"], memory)}
"""


def plots(found):
    def of(what, asked):
        chosen = [row for row in found["rows"] if row["what"] == what and row["asked"] == asked]
        return [(row["minions"], words.in_seconds(row["wall"])) for row in chosen]

    series = {
        "busy.check, with probes": of(PROBES, PROBES),
        "busy.check, nothing to ask": of(NOTHING, NOTHING),
        "test.ping": of(PING, PROBES),
        "by hand, without ssh": of(LOOP, PROBES),
    }
    title = "Asking all minions on one machine: seconds, median and quartiles"
    return {"minions.svg": plot.curves(title, series, "minions", "seconds")}
