"""How status, acquire and release grow with the page, on Redmine and on SQLite, and against the wiki's own time."""

import collections
import contextlib
import datetime
import functools
import sqlite3

from saltext.deploytoken import page as token_page
from script.benchmarks import plot, words
from script.benchmarks.commands import Plain
from script.benchmarks.sampling import difference, figures, ratio, sample, shuffled
from tests.support.loaders import Loaders

TITLE = "Growth of the History"
ENTRIES = (10, 1_000, 10_000)
CALLS = {"status": {}, "acquire": {"reason": "upgrade PostgreSQL"}, "release": {"summary": "upgraded PostgreSQL"}}
AIM = 150  # ms of our own, beside the wiki's requests


def run(bench):
    rounds = bench.rounds(5, 20)
    return {**_sqlite(bench, bench.rounds(10, 40)), **_redmine(bench, rounds)}


def _sqlite(bench, rounds):
    folder = bench.path("sqlite")
    bench.say(f"SQLite, pages with up to {ENTRIES[-1]:,} entries, {rounds} rounds")
    # Use one loader, whose store is a link to each file in turn. Loaders of one process that load the same module
    # share its `__opts__`: those of the last loader.
    link = folder / "token.db"
    here = Loaders(folder / "master", deploytoken={"store": f"sqlite:///{link}", "name": "Alice"})
    sizes = {}

    def turn_to(entries):
        link.unlink(missing_ok=True)
        link.symlink_to(folder / f"{entries}.db")

    for entries in ENTRIES:
        _good(here, "deploytoken.init")
        with contextlib.closing(sqlite3.connect(link)) as connection:
            text = filled(entries)
            connection.execute("UPDATE page SET text = ?", (text,))
            connection.commit()
        path = folder / f"{entries}.db"
        link.rename(path)
        sizes[entries] = {"page": len(text.encode()), "file": path.stat().st_size, "path": path}
    turn_to(ENTRIES[0])
    _good(here, "deploytoken.status")
    samples = collections.defaultdict(list)
    answers = {}
    for _ in range(rounds):
        for entries in shuffled(ENTRIES):
            turn_to(entries)
            for function, arguments in CALLS.items():
                call = functools.partial(_good, here, f"deploytoken.{function}", **arguments)
                taken, answers[entries] = sample(call)
                samples[function, entries].append(taken)
    for entries in ENTRIES:  # each file has only its own acquires and releases
        if answers[entries]["version"] != 1 + 2 * rounds:
            raise RuntimeError(f"the page with {entries} entries is at {answers[entries]}")
    found = [
        {
            "what": function,
            "entries": entries,
            **figures(samples[function, entries]),
            "ratio": ratio(samples[function, entries], samples[function, ENTRIES[0]]),
        }
        for function in CALLS
        for entries in ENTRIES
    ]
    pages = [
        {
            "entries": entries,
            "page_bytes": size["page"],
            "file_bytes_per_deploy": round((size["path"].stat().st_size - size["file"]) / rounds),
        }
        for entries, size in sizes.items()
    ]
    return {"sqlite": found, "pages": pages}


def _redmine(bench, rounds):
    server = bench.redmine()
    key = server.key("alice")
    # Point the same store at the next page; see above.
    settings = {"store": server.new_page(filled(1)), "api_key": key, "name": "Alice"}
    here = Loaders(bench.folder / "master", deploytoken=settings)
    _good(here, "deploytoken.status")
    ours = {entries: server.new_page(filled(entries)) for entries in ENTRIES}
    plain = {entries: Plain(server.new_page(filled(entries)), key) for entries in ENTRIES}
    bench.say(f"Redmine, pages with up to {ENTRIES[-1]:,} entries, {rounds} rounds")
    samples = collections.defaultdict(list)
    for _ in range(rounds):
        for entries, who in shuffled([(entries, who) for entries in ENTRIES for who in ("ours", "requests")]):
            settings["store"] = ours[entries]
            for function, arguments in CALLS.items():
                call = getattr(plain[entries], function)
                if who == "ours":
                    call = functools.partial(_good, here, f"deploytoken.{function}", **arguments)
                samples[function, entries, who].append(sample(call)[0])
    for page in ours.values():
        if server.read(page)["version"] != 1 + 2 * rounds:
            raise RuntimeError(f"{page} is at version {server.read(page)['version']}")
    return {
        "redmine": [
            {
                "what": function,
                "entries": entries,
                **figures(samples[function, entries, "ours"]),
                "requests": figures(samples[function, entries, "requests"]),
                "own": difference(samples[function, entries, "ours"], samples[function, entries, "requests"]),
            }
            for function in CALLS
            for entries in ENTRIES
        ]
    }


def _good(loaders, function, **arguments):
    loaders.context.clear()
    answer = loaders.runners[function](**arguments)
    if loaders.retcode:
        raise RuntimeError(f"{function}: {answer}")
    return answer


def filled(entries):
    """A page with this many entries under its History."""
    first = _entry(0)
    text = token_page.add_entry(token_page.initial(), first)
    return text.replace(first, "\n".join(_entry(number) for number in range(entries)))


def _entry(number):
    day = datetime.datetime(2026, 1, 1) - datetime.timedelta(hours=number)
    return f"* {day:%Y-%m-%d %H:%M} UTC Alice: upgraded PostgreSQL; rebooted web1 (ref {number:08x})"


def aims(found, loaded):
    for row in found["redmine"]:
        if row["entries"] == ENTRIES[-1]:
            yield (
                f"`{row['what']}`, a wiki page with {row['entries']:,} entries: at most {AIM} ms beside the requests",
                words.verdict_of_both(row["own"], AIM, " ms", loaded),
            )


def page(found):
    local = [
        [row["what"], f"{row['entries']:,}", *words.both(row, words.ms), words.times(row["ratio"]["wall"])]
        for row in found["sqlite"]
    ]
    wiki = [
        [
            row["what"],
            f"{row['entries']:,}",
            words.ms(row["wall"]),
            words.ms(row["requests"]["wall"]),
            words.ms(row["own"]["wall"]),
            words.ms(row["cpu"]),
        ]
        for row in found["redmine"]
    ]
    pages = [
        [f"{row['entries']:,}", *(f"{row[key] / 1000:,.1f} kB" for key in ("page_bytes", "file_bytes_per_deploy"))]
        for row in found["pages"]
    ]
    return f"""
`status`, `acquire` and `release` in one process, through Salt's loader, on pages with this many entries under History.
They read the page line by line to find the holder's line and the History, so the time grows with the page. In
milliseconds, on a real Redmine, beside the same requests alone (a GET, and a PUT for the two functions that write):

![Milliseconds by number of entries](pages.svg)

{words.table(["function", "entries", "clock", "the requests alone", "our part", "CPU"], wiki)}

In a SQLite file. The ratio is to the smallest page:

{words.table(["function", "entries", "clock", "CPU", "ratio, clock"], local)}

Every save keeps the whole page as a version, as a wiki does. So an acquire and a release add twice the page's size:

{words.table(["entries", "page", "the file grows, for both, by"], pages)}
"""


def plots(found):
    series = {}
    for store, key in (("Redmine", "redmine"), ("SQLite", "sqlite")):
        for function in ("acquire", "status"):
            chosen = [row for row in found[key] if row["what"] == function]
            series[f"{function}, {store}"] = [(row["entries"], row["wall"]) for row in chosen]
    title = "Pages with many entries: milliseconds, median and quartiles"
    axes = ("entries under History", "ms")
    return {"pages.svg": plot.curves(title, series, *axes, log_x=True, log_y=True)}
