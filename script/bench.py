"""
What the safety costs: `script/bench`.

Whatever is compared runs in turn, in one run of this script, so that a machine that is slow for a while is slow for
both. Each figure is a median with its quartiles; a ratio is taken within each round, and only then its median.
"""

import argparse
import collections
import contextlib
import datetime
import functools
import getpass
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
import scrapyd.sqlite

from saltext.deploytoken import page as token_page
from tests.support.loaders import Loaders
from tests.support.postgres import Postgres
from tests.support.salt import CHECKOUT, Config
from tests.support.scrapyd import Scrapyd
from tests.support.wait import until

OUTPUT = CHECKOUT / "docs" / "performance"
FINISHED = 10_000
SESSIONS = 200
ENTRIES = (10, 1_000, 10_000)
AIM_CHECK = 150  # ms
AIM_IMPORT = 10  # ms
AIM_RUN = 1.10
AIM_GROWTH = 1.10
NOTHING = "no probes configured"

# In a fresh interpreter that has what any salt-run has imported. Not in a fork of one: copying its memory would be
# measured too, and be the most of it.
IMPORTS = """
import importlib.util, json, sys, time
import salt.cli.run, salt.loader, salt.runner, salt.minion, salt.utils.event
sys.path.insert(0, sys.argv[1] + "/_utils")
def load(name):
    spec = importlib.util.spec_from_file_location("bench_" + name, f"{sys.argv[1]}/_runners/{name}.py")
    module = importlib.util.module_from_spec(spec)
    start = time.perf_counter(), time.process_time()
    spec.loader.exec_module(module)
    return [1000 * (time.perf_counter() - start[0]), 1000 * (time.process_time() - start[1])]
print(json.dumps({name: load(name) for name in ("deploytoken", "deployrepos", "busy")}))
"""


def say(line):
    print(line, file=sys.stderr, flush=True)


# Measuring


def _cpu():
    """Seconds of CPU that this process, with all its threads, and its ended children have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def sample(function):
    """One call: milliseconds of wall clock and of CPU, and what it returned."""
    cpu, wall = _cpu(), time.perf_counter()
    answer = function()
    return {"wall": 1000 * (time.perf_counter() - wall), "cpu": 1000 * (_cpu() - cpu)}, answer


def in_turn(functions, rounds):
    """Call all of them in each round, in an order of chance: ({name: [sample]}, {name: the last answer})."""
    samples, answers = collections.defaultdict(list), {}
    order = list(functions)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            taken, answers[name] = sample(functions[name])
            samples[name].append(taken)
    return {name: samples[name] for name in functions}, answers


def spread(values):
    """The median, the quartiles, the ends, and of how many."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {
        "median": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "range": [round(min(values), 3), round(max(values), 3)],
        "runs": len(values),
    }


def rows(samples, base=None):
    """One row of figures for each name; with ``base``, also the ratios to it within each round."""
    found = []
    for name, taken in samples.items():
        row = {"what": name, **{key: spread([one[key] for one in taken]) for key in ("wall", "cpu")}}
        if base is not None:
            row["ratio"] = _ratio(taken, samples[base])
        found.append(row)
    return found


def _ratio(samples, others):
    """Ratios of what ran side by side, round by round."""
    return {
        key: spread([one[key] / other[key] for one, other in zip(samples, others, strict=True)])
        for key in ("wall", "cpu")
    }


# (a) busy.check on the minion


class Checks:
    """One minion's loader for each thing to ask, warmed by one call; what that call took is kept."""

    def __init__(self, folder):
        self._folder, self._loaders, self.first = folder, {}, {}

    def of(self, **asked):
        functions = {}
        for name, settings in asked.items():
            if name not in self._loaders:
                options = {"pillar": {"busy": settings}} if settings is not None else {}
                self._loaders[name] = Loaders(self._folder / f"minion-{len(self._loaders)}", kind="minion", **options)
                self.first[name], _ = sample(self._loaders[name].modules["busy.check"])
            functions[name] = self._loaders[name].modules["busy.check"]
        return functions


def measure_checks(stack, folder, rounds):
    checks = Checks(folder)
    say("Starting two Scrapyds and PostgreSQL")
    empty = _scrapyd(stack, folder / "scrapyd")
    full = _scrapyd(stack, folder / "scrapyd-full", finished=FINISHED)
    assert len(full.jobs()["finished"]) == FINISHED
    server = Postgres()
    stack.callback(server.stop)
    server.start()

    me = [getpass.getuser()]
    many = f"scrapyd, {FINISHED:,} finished jobs"
    settings = {
        NOTHING: None,
        "scrapyd": {"scrapyd": [{"url": empty.url}]},
        many: {"scrapyd": [{"url": full.url}]},
        "tmux": {"tmux": {"users": me}},
        "screen": {"screen": {"users": me}},
        "postgres": {"postgres": {"host": server.host, "port": server.port}},
        "processes": {"processes": {"patterns": ["rsync", "pg_dump", {"under": "cron", "older_than": "10m"}]}},
        "who": {"who": {}},
    }
    every = {}
    for one in settings.values():
        every.update(one or {})
    settings["all six probes"] = {**every, "scrapyd": [{"url": empty.url}]}
    say(f"(a) busy.check, {rounds} rounds")
    samples, answers = in_turn(checks.of(**settings), rounds)
    first = rows(samples, NOTHING)
    growth = {f"{FINISHED:,} finished jobs against none": _ratio(samples[many], samples["scrapyd"])}

    own = {}
    for name, one in (("0", empty), (f"{FINISHED:,}", full)):
        before = _server_cpu(one)
        for _ in range(100):
            one.status()
        own[name] = round(10 * (_server_cpu(one) - before), 2)

    say(f"(a) … with one and with {SESSIONS} idle tmux sessions")
    sessions = []
    for count in (1, SESSIONS):
        with Tmux(folder / f"tmux-{count}", count):
            name = f"tmux, {count} idle session{'s' * (count > 1)}"
            again = checks.of(**{NOTHING: None, name: {"tmux": {"users": me}}})
            until(
                lambda wanted=again[name], count=count: len(wanted()["info"]) >= count, 60, "the shells to be at rest"
            )
            samples, answer = in_turn(again, rounds)
            answers[name] = answer[name]
            sessions += [row for row in rows(samples, NOTHING) if row["what"] == name]

    say("(a) … with a spider that runs")
    running = {}
    for one, name in ((empty, "scrapyd, 1 running job"), (full, f"scrapyd, 1 running job, {FINISHED:,} finished")):
        one.running()
        running[name] = {"scrapyd": [{"url": one.url}]}
    samples, answer = in_turn(checks.of(**{NOTHING: None}, **running), rounds)
    answers.update(answer)
    one, other = running
    growth[f"a running job beside {FINISHED:,} finished ones, against one beside none"] = _ratio(
        samples[other], samples[one]
    )
    # Not side by side: all servers of a user are seen at once. So there is no spread, only what two medians say.
    growth[f"{SESSIONS} idle sessions against one"] = {
        key: {"median": round(sessions[1][key]["median"] / sessions[0][key]["median"], 3)} for key in ("wall", "cpu")
    }
    last = [row for row in rows(samples, NOTHING) if row["what"] != NOTHING]

    table = [*first, *sessions, *last]
    for row in table:
        answer = answers[row["what"]]
        row["first_call"] = {key: round(value, 1) for key, value in checks.first[row["what"]].items()}
        row["answer"] = {
            "idle": answer["idle"],
            **{key: len(answer[key]) for key in ("blockers", "unknowns", "info")},
        }
    return {
        "rows": table,
        "scrapyd_cpu_for_its_counts": own,
        "processes_on_the_machine": len(psutil.pids()),
        "growth": [{"what": what, "ratio": ratio} for what, ratio in growth.items()],
    }


def _server_cpu(server):
    """Seconds of CPU that a Scrapyd has used, in the kernel's ticks of 10 ms."""
    used = psutil.Process(server.pid).cpu_times()
    return used.user + used.system


def _scrapyd(stack, folder, finished=0):
    folder.mkdir()
    server = Scrapyd(folder)
    conf = folder / "scrapyd.conf"
    storage = f"jobstorage = scrapyd.jobstorage.SqliteJobStorage\nfinished_to_keep = {2 * FINISHED}\n"
    conf.write_text(conf.read_text() + storage)
    (folder / "dbs").mkdir()
    jobs = scrapyd.sqlite.SqliteFinishedJobs(str(folder / "dbs" / "jobs.db"), "finished_jobs")
    end = datetime.datetime.now()
    jobs.conn.executemany(
        "INSERT INTO finished_jobs (project, spider, job, start_time, end_time) VALUES (?, ?, ?, ?, ?)",
        [
            ("kingfisher", f"spider_{number % 50}", f"{random.getrandbits(128):032x}", *_times(end, number))
            for number in range(finished)
        ],
    )
    jobs.conn.commit()
    jobs.conn.close()
    stack.callback(server.stop)
    return server.start()


def _times(end, number):
    # Never a microsecond of 0: Scrapyd reads its own format, which has it always.
    start = end - datetime.timedelta(minutes=number + 30)
    return [f"{start:%Y-%m-%d %H:%M:%S.%f}", f"{start + datetime.timedelta(minutes=7):%Y-%m-%d %H:%M:%S.%f}"]


class Tmux:
    """A tmux server on a socket of its own, with so many sessions of a shell at its prompt; ended by its own id."""

    def __init__(self, folder, sessions):
        self._folder, self._sessions = folder, sessions
        folder.mkdir(mode=0o700)
        self._environment = {**os.environ, "TMUX_TMPDIR": str(folder), "SHELL": "/bin/sh"}
        self._environment.pop("TMUX", None)
        self._server = None

    def _tmux(self, *words):
        command = ["tmux", "-f", "/dev/null", *words]
        return subprocess.run(
            command, env=self._environment, cwd="/", check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def __enter__(self):
        for start in range(0, self._sessions, 25):
            words = []
            for number in range(start, min(start + 25, self._sessions)):
                words += ["new-session", "-d", "-s", f"idle-{number}", ";"]
            self._tmux(*words[:-1])
            self._server = self._server or psutil.Process(int(self._tmux("display-message", "-p", "#{pid}")))
        return self

    def __exit__(self, *_):
        if self._server:
            ending = [self._server, *self._server.children(recursive=True)]
            with contextlib.suppress(psutil.NoSuchProcess):
                self._server.terminate()
            _, left = psutil.wait_procs(ending, timeout=20)
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


# (b) salt-run


def measure_runs(folder, rounds):
    store = folder / "token.db"
    config = Config.make(folder, {"store": f"sqlite:///{store}", "name": "Alice"})

    def run(function, *positional, **named):
        result = config.run(function, *positional, **named)
        if result.code:
            raise RuntimeError(str(result))

    run("deploytoken.init")
    run("test.arg", "warm")
    acquire = functools.partial(run, "deploytoken.acquire", reason="upgrade PostgreSQL")
    release = functools.partial(run, "deploytoken.release", summary="upgraded PostgreSQL")
    functions = {
        "test.arg": lambda: run("test.arg", "x"),
        "test.arg again": lambda: run("test.arg", "x"),
        "deploytoken.status": lambda: run("deploytoken.status"),
        "deploytoken.acquire": acquire,
        "deploytoken.release": release,
    }
    say(f"(b) salt-run, {rounds} rounds")
    samples = collections.defaultdict(list)
    order = list(functions)
    taking = {"deploytoken.acquire", "deploytoken.release"}
    for _ in range(rounds):
        # By chance, because neighbours in time are alike; of the two that take and give back, the one must come first.
        random.shuffle(order)
        first, last = sorted(order.index(name) for name in taking)
        order[first], order[last] = "deploytoken.acquire", "deploytoken.release"
        for name in order:
            samples[name].append(sample(functions[name])[0])
    return {"rows": rows({name: samples[name] for name in functions}, "test.arg")}


def measure_imports(rounds):
    say(f"(b) imports, {rounds} rounds")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    samples = collections.defaultdict(list)
    for number in range(rounds + 1):
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS, str(CHECKOUT)],
            env=clean,
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )
        if number == 0:
            continue  # it may have had to compile
        taken = json.loads(done.stdout)
        for name, (wall, cpu) in taken.items():
            samples[name].append({"wall": wall, "cpu": cpu})
        total = {key: sum(one[index] for one in taken.values()) for index, key in enumerate(("wall", "cpu"))}
        samples["all three"].append(total)
    return {"rows": rows(samples)}


# (c) growth of the page


def measure_growth(folder, rounds):
    say(f"(c) pages with up to {ENTRIES[-1]:,} entries, {rounds} rounds")
    # One loader, whose store is a link to each of the files in turn: all loaders of a process that have loaded the
    # same module share its `__opts__`, which are those of the last one.
    link = folder / "token.db"
    here = Loaders(folder / "master", deploytoken={"store": f"sqlite:///{link}", "name": "Alice"})
    sizes = {}

    def turn_to(entries):
        link.unlink(missing_ok=True)
        link.symlink_to(folder / f"{entries}.db")

    for entries in ENTRIES:
        _good(here, "deploytoken.init")
        with contextlib.closing(sqlite3.connect(link)) as connection:
            (text,) = connection.execute("SELECT text FROM page").fetchone()
            text = _filled(text, entries)
            connection.execute("UPDATE page SET text = ?", (text,))
            connection.commit()
        path = folder / f"{entries}.db"
        link.rename(path)
        sizes[entries] = {"page": len(text.encode()), "file": path.stat().st_size, "path": path}
    turn_to(ENTRIES[0])
    _good(here, "deploytoken.status")
    calls = {
        "status": {},
        "acquire": {"reason": "upgrade PostgreSQL"},
        "release": {"summary": "upgraded PostgreSQL"},
    }
    samples = collections.defaultdict(list)
    answers = {}
    order = list(ENTRIES)
    for _ in range(rounds):
        random.shuffle(order)
        for entries in order:
            turn_to(entries)
            for function, arguments in calls.items():
                call = functools.partial(_good, here, f"deploytoken.{function}", **arguments)
                taken, answers[entries] = sample(call)
                samples[function, entries].append(taken)
    for entries in ENTRIES:  # each file has had its own acquires and releases, and no others
        assert answers[entries]["version"] == 1 + 2 * rounds, answers
    table = []
    for function in calls:
        each = {entries: samples[function, entries] for entries in ENTRIES}
        table += [{**row, "what": function, "entries": row["what"]} for row in rows(each, ENTRIES[0])]
    pages = [
        {
            "entries": entries,
            "page_bytes": size["page"],
            "file_bytes_per_deploy": round((size["path"].stat().st_size - size["file"]) / rounds),
        }
        for entries, size in sizes.items()
    ]
    return {"rows": table, "pages": pages}


def _good(loaders, function, **arguments):
    loaders.context.clear()
    answer = loaders.runners[function](**arguments)
    if loaders.retcode:
        raise RuntimeError(f"{function}: {answer}")
    return answer


def _filled(text, entries):
    """The page with the first entry where it belongs, and all the others below it."""
    first = _entry(0)
    text = token_page.add_entry(text, first)
    return text.replace(first, "\n".join(_entry(number) for number in range(entries)))


def _entry(number):
    day = datetime.datetime(2026, 1, 1) - datetime.timedelta(hours=number)
    return f"* {day:%Y-%m-%d %H:%M} UTC Alice: upgraded PostgreSQL; rebooted web1 (ref {number:08x})"


# The page


def about(quick):
    with open("/proc/meminfo") as lines:
        memory = round(int(lines.readline().split()[1]) / 1024 / 1024)
    tmux = subprocess.run(["tmux", "-V"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": quick,
        "machine": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} CPUs, {memory} GB of memory",
        "cpus": os.cpu_count(),
        "niceness": os.nice(0),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {
            "Salt": importlib.metadata.version("salt"),
            "Python": platform.python_version(),
            "Scrapyd": importlib.metadata.version("scrapyd"),
            "tmux": tmux.removeprefix("tmux "),
            "PostgreSQL": _postgres_version(),
        },
    }


def _postgres_version():
    done = subprocess.run(["psql", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split()[2] if done.returncode == 0 else "?"


def ms(figure, digits=1):
    low, high = figure["quartiles"]
    return f"{figure['median']:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def times(figure):
    if "quartiles" not in figure:
        return f"{figure['median']:.2f}"
    low, high = figure["quartiles"]
    return f"{figure['median']:.2f} ({low:.2f}–{high:.2f})"


def table(heads, lines):
    written = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in written)


def verdict(figures, aim, unit, loaded):
    """Whether figures meet their aim, in words; on a machine that has other work, CPU time is the better witness."""
    wall, cpu = (figures[key]["median"] for key in ("wall", "cpu"))
    if max(wall, cpu) <= aim:
        return f"met: {wall:.2f}{unit}, CPU {cpu:.2f}{unit}"
    shown = f"{wall:.2f}{unit}, CPU {cpu:.2f}{unit}"
    if cpu <= aim:
        cause = (
            "for a service, the disk, or a CPU: the machine had other work" if loaded else "for a service or the disk"
        )
        return f"**missed by the clock, met in CPU time**: {shown}; the difference is waiting, {cause}"
    if wall <= aim:
        return f"**met by the clock, missed in CPU time**: {shown}"
    return f"**missed**: {shown}"


def judged(results, loaded):
    """Each aim, and what became of it."""
    check, runs, imports = (results[key] for key in ("busy_check", "salt_run", "imports"))
    idle = [row for row in check["rows"] if "session" not in row["what"] and "running" not in row["what"]]
    worst = max(idle, key=lambda row: row["wall"]["median"])
    yield (
        f"`busy.check` with nothing running: under {AIM_CHECK} ms (the slowest: {worst['what']})",
        verdict(worst, AIM_CHECK, " ms", loaded),
    )
    finished = check["growth"][0]
    yield (
        f"no growth (at most {AIM_GROWTH:.2f}): {finished['what']}",
        verdict(finished["ratio"], AIM_GROWTH, "", loaded),
    )
    # The same command against itself: where that is further from 1 than half of what the aim allows, a ratio near the
    # aim says nothing, whichever side it is on.
    same = next(row["ratio"] for row in runs["rows"] if row["what"] == "test.arg again")
    noise = {key: same[key]["median"] for key in ("wall", "cpu")}
    noisy = any(abs(value - 1) > (AIM_RUN - 1) / 2 for value in noise.values())
    for row in runs["rows"]:
        if not row["what"].startswith("test.arg"):
            said = verdict(row["ratio"], AIM_RUN, "", loaded)
            if noisy:
                wall, cpu = (row["ratio"][key]["median"] for key in ("wall", "cpu"))
                said = (
                    f"**undecided**: {wall:.2f}, CPU {cpu:.2f}, while `test.arg` against itself is"
                    f" {noise['wall']:.2f}, CPU {noise['cpu']:.2f}"
                )
            yield f"`salt-run {row['what']}`: at most {AIM_RUN:.2f} of `salt-run test.arg`", said
    whole = next(row for row in imports["rows"] if row["what"] == "all three")
    yield (
        f"import of the three runner modules: under {AIM_IMPORT} ms together",
        verdict(whole, AIM_IMPORT, " ms", loaded),
    )


def write_page(results):
    meta = results["about"]
    loaded = max(meta["load_before"], meta["load_after"]) > meta["cpus"]
    versions = ", ".join(f"{name} {number}" for name, number in meta["versions"].items())
    parts = [
        f"""# What it costs

Written by `script/bench{" --quick" if meta["quick"] else ""}`, {meta["when"]}. {versions}.
One machine with all services on loopback: {meta["machine"]}.
The load average was {meta["load_before"]} at the start and {meta["load_after"]} at the end, other work included;
niceness {meta["niceness"]}. The same figures, with the ends of each range and the number of runs, are in
`docs/performance/results.json`.
"""
    ]
    if loaded:
        parts.append("""
**The machine had other work, and more of it than CPUs.** Clock times are longer than on a quiet machine, by an
amount that nobody knows. CPU times are nearer to the truth, and so are ratios, because what is compared ran in
turn. Run `script/bench` on a quiet machine for figures to quote.
""")
    parts.append(f"""
A figure is a median, with its quartiles in brackets; times are in milliseconds. *CPU* is that of the process, its
threads and the programs that it ran and waited for; a server's own time (Scrapyd's, PostgreSQL's, tmux's) is in the
clock time alone. A ratio is taken between what ran in the same round, and then its median.

## Aims

{table(["aim", "result"], judged(results, loaded))}
""")
    parts += [_check_page(results["busy_check"]), _run_page(results["salt_run"], results["imports"])]
    parts.append(_growth_page(results["growth"]))
    parts.append("""
## Not measured here

`busy.check` over many minions against `test.ping`, the whole orchestrated deploy against a bare highstate, contention
of many for one token, the wiki's own time, and growth with repositories.
""")
    (OUTPUT / "index.md").write_text("".join(parts), encoding="utf-8")


def _check_page(check):
    lines = []
    for row in check["rows"]:
        answer = row["answer"]
        found = ", ".join(f"{answer[key]} {key}" for key in ("blockers", "unknowns", "info") if answer[key])
        state = ("idle" if answer["idle"] else "not idle") + (f": {found}" if found else "")
        lines.append([row["what"], ms(row["wall"]), ms(row["cpu"]), f"{row['first_call']['wall']:,.0f}", state])
    own = check["scrapyd_cpu_for_its_counts"]
    own = " and ".join(f"{cost:.2f} ms with {count}" for count, cost in own.items())
    growth = [[row["what"], *(times(row["ratio"][key]) for key in ("wall", "cpu"))] for row in check["growth"]]
    return f"""
## `busy.check`, the minion's own time

In one process, through Salt's loader, after a first call, which loads the modules; the publish and the way back are
not in it. A real Scrapyd whose job storage (SQLite) holds {FINISHED:,} finished jobs, beside one that holds none; a
real tmux server; a real PostgreSQL. The machine had {check["processes_on_the_machine"]} processes. The probes that
look for processes look through all of them, so that a minion with more takes longer; and what other work on this
machine they came upon (a crawl of somebody's tests, say) stands in the last column.

{table(["asked", "clock", "CPU", "first call", "answer"], lines)}

How it grows:

{table(["ratio", "clock", "CPU"], growth)}

While nothing runs, Scrapyd is asked for its counts (`daemonstatus.json`) and not for its lists: its own CPU time for
that is {own} finished jobs.
As soon as something runs, only `listjobs.json` tells what, and Scrapyd sends all finished jobs along: as many as its
`finished_to_keep` allows (100, unless configured otherwise). Idle sessions have to be read; the two rows of sessions
ran one after the other, not in turn.
"""


def _run_page(runs, imports):
    lines = []
    for row in runs["rows"]:
        name = row["what"].removesuffix(" again")
        again = " again" if name != row["what"] else ""
        ratios = (times(row["ratio"][key]) for key in ("wall", "cpu"))
        lines.append([f"`salt-run {name}`{again}", ms(row["wall"], 0), ms(row["cpu"], 0), *ratios])
    modules = [[row["what"], ms(row["wall"], 2), ms(row["cpu"], 2)] for row in imports["rows"]]
    return f"""
## `salt-run`

Whole commands, each a new process, against the least that a `salt-run` can do. The second row is the same command
again: what it differs from 1 is noise, and no smaller difference means anything. The token is in a SQLite file; a
wiki's requests would come on top.

{table(["command", "clock", "CPU", "ratio, clock", "ratio, CPU"], lines)}

Every `salt-run` of the master imports the runner modules, ours among them. In a fresh interpreter that has Salt's own
imports behind it, files cached and compiled; in this order, the first bringing what they share:

{table(["module", "clock", "CPU"], modules)}
"""


def _growth_page(growth):
    lines = [
        [row["what"], f"{row['entries']:,}", ms(row["wall"]), ms(row["cpu"]), times(row["ratio"]["wall"])]
        for row in growth["rows"]
    ]
    pages = [
        [f"{row['entries']:,}", *(f"{row[key] / 1000:,.1f} kB" for key in ("page_bytes", "file_bytes_per_deploy"))]
        for row in growth["pages"]
    ]
    return f"""
## Growth of the History

`status`, `acquire` and `release` in one process, through Salt's loader, on pages in a SQLite file with so many entries
under History. Ratios are to the smallest page. The page is read line by line, to find the holder's line and the
History, so that the time grows as the page does.

{table(["function", "entries", "clock", "CPU", "ratio, clock"], lines)}

Every save keeps the whole page as a version, as a wiki does, so that an acquire and a release add two pages' sizes:

{table(["entries", "page", "the file grows, for both, by"], pages)}
"""


def main():
    parser = argparse.ArgumentParser(prog="script/bench", description="Measure, and write docs/performance.")
    parser.add_argument("--quick", action="store_true", help="fewer runs of everything")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from results.json again")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(json.loads((OUTPUT / "results.json").read_text(encoding="utf-8")))
        return
    # A SIGTERM unwinds the stack as Ctrl-C does, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    checks, runs, imports, pages = (15, 6, 6, 10) if arguments.quick else (60, 20, 30, 40)

    results = {"about": about(arguments.quick)}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploytoken-bench-")))
        with contextlib.ExitStack() as services:
            (folder / "checks").mkdir()
            results["busy_check"] = measure_checks(services, folder / "checks", checks)
        (folder / "growth").mkdir()
        results["growth"] = measure_growth(folder / "growth", pages)
        results["imports"] = measure_imports(imports)
        (folder / "runs").mkdir()
        results["salt_run"] = measure_runs(folder / "runs", runs)
    results["about"]["load_after"] = round(os.getloadavg()[0], 1)
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_page(results)
    say(f"Written: {(OUTPUT / 'index.md').relative_to(CHECKOUT)} and results.json")


if __name__ == "__main__":
    main()
