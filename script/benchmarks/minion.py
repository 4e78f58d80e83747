"""``busy.check`` on one minion: its own time for each kind of probe, and how that grows."""

import contextlib
import datetime
import getpass
import os
import random
import subprocess

import psutil
import scrapyd.sqlite

from script.benchmarks import plot, words
from script.benchmarks.sampling import in_turn, ratio, rows, sample
from tests.support.loaders import Loaders
from tests.support.postgres import Postgres
from tests.support.scrapyd import Scrapyd
from tests.support.wait import until

TITLE = "`busy.check`, the minion's own time"
FINISHED = 10_000
SESSIONS = 200
PROCESSES = 1_000
AIM = 150  # ms
AIM_GROWTH = 1.10
NOTHING = "no probes configured"


class Checks:
    """One minion's loader for each kind of probe, after a first call, whose time is kept."""

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


def run(bench):
    rounds = bench.rounds(15, 50)
    checks = Checks(bench.folder)
    bench.say("starting two Scrapyds and PostgreSQL")
    empty = _scrapyd(bench, "scrapyd")
    full = _scrapyd(bench, "scrapyd-full", finished=FINISHED)
    if len(full.jobs()["finished"]) != FINISHED:
        raise RuntimeError("Scrapyd does not know the finished jobs")
    server = Postgres()
    bench.stack.callback(server.stop)
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
    bench.say(f"{rounds} rounds")
    samples, answers = in_turn(checks.of(**settings), rounds)
    first = rows(samples, NOTHING)
    growth = {f"{FINISHED:,} finished jobs against none": ratio(samples[many], samples["scrapyd"])}

    own = {}
    for name, one in (("0", empty), (f"{FINISHED:,}", full)):
        before = _server_cpu(one)
        for _ in range(100):
            one.status()
        own[name] = round(10 * (_server_cpu(one) - before), 2)

    bench.say(f"… with one and with {SESSIONS} idle tmux sessions")
    sessions = []
    for count in (1, SESSIONS):
        with Tmux(bench.path(f"tmux-{count}"), count):
            name = f"tmux, {count} idle session{'s' * (count > 1)}"
            again = checks.of(**{NOTHING: None, name: {"tmux": {"users": me}}})
            until(
                lambda wanted=again[name], count=count: len(wanted()["info"]) >= count, 60, "the shells to be at rest"
            )
            samples, answer = in_turn(again, rounds)
            answers[name] = answer[name]
            sessions += [row for row in rows(samples, NOTHING) if row["what"] == name]

    bench.say(f"… with {PROCESSES:,} more processes")
    names = ["tmux", "processes"]
    crowded = {f"{name}, {PROCESSES:,} more processes": settings[name] for name in names}
    with _sleeping(PROCESSES):
        samples, answer = in_turn(checks.of(**{NOTHING: None}, **crowded), rounds)
    answers.update(answer)
    more = [row for row in rows(samples, NOTHING) if row["what"] != NOTHING]
    found = {row["what"]: row for row in [*first, *more]}
    for name, other in zip(names, crowded, strict=True):  # not in turn either
        growth[f"{name}: {PROCESSES:,} more processes against none"] = {
            key: {"median": round(found[other][key]["median"] / found[name][key]["median"], 3)}
            for key in ("wall", "cpu")
        }

    bench.say("… with a spider that runs")
    running = {}
    for one, name in ((empty, "scrapyd, 1 running job"), (full, f"scrapyd, 1 running job, {FINISHED:,} finished")):
        one.running()
        running[name] = {"scrapyd": [{"url": one.url}]}
    samples, answer = in_turn(checks.of(**{NOTHING: None}, **running), rounds)
    answers.update(answer)
    one, other = running
    growth[f"a running job beside {FINISHED:,} finished ones, against one beside none"] = ratio(
        samples[other], samples[one]
    )
    # Not in turn: the probe sees all servers of a user at once. So this has no spread, only two medians.
    growth[f"{SESSIONS} idle sessions against one"] = {
        key: {"median": round(sessions[1][key]["median"] / sessions[0][key]["median"], 3)} for key in ("wall", "cpu")
    }
    last = [row for row in rows(samples, NOTHING) if row["what"] != NOTHING]

    table = [*first, *sessions, *more, *last]
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
        "growth": [{"what": what, "ratio": figure} for what, figure in growth.items()],
    }


def _server_cpu(server):
    """Seconds of CPU that a Scrapyd has used, in the kernel's ticks of 10 ms."""
    used = psutil.Process(server.pid).cpu_times()
    return used.user + used.system


def _scrapyd(bench, name, finished=0):
    folder = bench.path(name)
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
    bench.stack.callback(server.stop)
    return server.start()


def _times(end, number):
    # Never 0 microseconds: Scrapyd expects them in its own format.
    start = end - datetime.timedelta(minutes=number + 30)
    return [f"{start:%Y-%m-%d %H:%M:%S.%f}", f"{start + datetime.timedelta(minutes=7):%Y-%m-%d %H:%M:%S.%f}"]


@contextlib.contextmanager
def _sleeping(number):
    """So many processes that do nothing."""
    running = [subprocess.Popen(["sleep", "3600"], stdin=subprocess.DEVNULL) for _ in range(number)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.wait()


class Tmux:
    """A tmux server on a socket of its own, with this many sessions of an idle shell; ended by its own process ID."""

    def __init__(self, folder, sessions):
        self._folder, self._sessions = folder, sessions
        folder.chmod(0o700)
        self._environment = {**os.environ, "TMUX_TMPDIR": str(folder), "SHELL": "/bin/sh"}
        self._environment.pop("TMUX", None)
        self._server = None

    def _tmux(self, *arguments):
        command = ["tmux", "-f", "/dev/null", *arguments]
        return subprocess.run(
            command, env=self._environment, cwd="/", check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def __enter__(self):
        for start in range(0, self._sessions, 25):
            arguments = []
            for number in range(start, min(start + 25, self._sessions)):
                arguments += ["new-session", "-d", "-s", f"idle-{number}", ";"]
            self._tmux(*arguments[:-1])
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


def aims(found, loaded):
    extra = ("session", "running", "more processes")
    idle = [row for row in found["rows"] if not any(word in row["what"] for word in extra)]
    worst = max(idle, key=lambda row: row["wall"]["median"])
    yield (
        f"`busy.check` with nothing running: under {AIM} ms (the slowest: {worst['what']})",
        words.verdict_of_both(worst, AIM, " ms", loaded),
    )
    finished = found["growth"][0]
    yield (
        f"no growth (at most {AIM_GROWTH:.2f}): {finished['what']}",
        words.verdict_of_both(finished["ratio"], AIM_GROWTH, "", loaded),
    )


def page(found):
    lines = []
    for row in found["rows"]:
        answer = row["answer"]
        counts = ", ".join(f"{answer[key]} {key}" for key in ("blockers", "unknowns", "info") if answer[key])
        state = ("idle" if answer["idle"] else "not idle") + (f": {counts}" if counts else "")
        lines.append([row["what"], *words.both(row, words.ms), f"{row['first_call']['wall']:,.0f}", state])
    own = " and ".join(f"{cost:.2f} ms with {count}" for count, cost in found["scrapyd_cpu_for_its_counts"].items())
    growth = [[row["what"], *words.both(row["ratio"], words.times)] for row in found["growth"]]
    return f"""
Measured in one process, through Salt's loader, after a first call that loads the modules. The publish and the way
back are not included. The services are real: a Scrapyd whose job storage (SQLite) has {FINISHED:,} finished jobs,
another that has none, a tmux server, and a PostgreSQL. The machine had {found["processes_on_the_machine"]} processes.
Probes that look for processes read all of them, so a minion with more processes takes longer. The last column shows
whatever they found, also other work on this machine. Milliseconds:

![Milliseconds by what is asked](minion.svg)

{words.table(["asked", "clock", "CPU", "first call", "answer"], lines)}

How it grows:

{words.table(["ratio", "clock", "CPU"], growth)}

While nothing runs, the probe asks Scrapyd for its counts (`daemonstatus.json`) and not for its lists. That costs
Scrapyd {own} finished jobs, in CPU time.
While nothing is pending, Scrapyd's processes show what runs. Only `listjobs.json` shows pending jobs, and with these
Scrapyd sends all finished jobs: as many as its `finished_to_keep` allows (100, unless configured otherwise). Idle
sessions must be read too, and every process of the machine. The rows of sessions, and those of more processes, ran one
after the other, not in turn with the first.
"""


def plots(found):
    rows_ = [(row["what"], row["wall"]) for row in found["rows"]]
    title = "busy.check on one minion: milliseconds, median and quartiles"
    return {"minion.svg": plot.dots(title, rows_, "milliseconds", aim=(AIM, f"aim, when idle: {AIM}"))}
