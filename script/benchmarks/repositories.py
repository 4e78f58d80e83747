"""``deployrepos.update`` of many repositories, against the loop of git commands that it replaces."""

import functools
import os
import subprocess

from script.benchmarks import plot, words
from script.benchmarks.sampling import figures, ratio, sample, shuffled
from tests.support.loaders import Loaders

TITLE = "Many repositories"
SIZES = (1, 10, 50)
UPDATE, LOOP = "deployrepos.update", "by hand"


def run(bench):
    sizes, rounds = SIZES[: bench.rounds(2, 3)], bench.rounds(3, 7)
    home = bench.path("repositories")
    environment = _environment()
    remote = home / "remote.git"
    _git(environment, home, "init", "--quiet", "--initial-branch=main", home / "origin")
    (home / "origin" / "top.sls").write_text("base: {}\n")
    _git(environment, home / "origin", "add", ".")
    _git(environment, home / "origin", "commit", "--quiet", "--message=Begin")
    _git(environment, home, "clone", "--quiet", "--bare", home / "origin", remote)
    clones = [home / f"clone-{number}" for number in range(sizes[-1])]
    for clone in clones:
        _git(environment, home, "clone", "--quiet", remote, clone)
    settings = {}
    here = Loaders(bench.folder / "master", deploytoken=settings)
    found = []
    for size in sizes:
        bench.say(f"repositories: {size}, {rounds} rounds")
        settings["repositories"] = [{"path": str(clone)} for clone in clones[:size]]
        functions = {
            UPDATE: functools.partial(_update, here, size),
            LOOP: functools.partial(_by_hand, environment, clones[:size]),
        }
        functions[UPDATE]()
        samples = {name: [] for name in functions}
        for _ in range(rounds):
            for name in shuffled(functions):
                samples[name].append(sample(functions[name])[0])
        found.append(
            {
                "repositories": size,
                "update": figures(samples[UPDATE]),
                "by_hand": figures(samples[LOOP]),
                "ratio": ratio(samples[UPDATE], samples[LOOP]),
            }
        )
    return {"rows": found}


def _environment():
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {"NAME": "Carol", "EMAIL": "carol@example.org"}
    names = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    return {**clean, **names, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def _git(environment, folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, timeout=60)


def _update(loaders, size):
    loaders.context.clear()
    answer = loaders.runners["deployrepos.update"]()
    if loaders.retcode or len(answer["repositories"]) != size:
        raise RuntimeError(f"deployrepos.update: {answer}")


def _by_hand(environment, clones):
    """The same as the script of the written procedure."""
    for clone in clones:
        _git(environment, clone, "checkout", "--quiet", "main")
        _git(environment, clone, "pull", "--quiet", "--ff-only")


def aims(_found, _loaded):
    return ()


def page(found):
    lines = [
        [
            row["repositories"],
            *(words.seconds(row[key]["wall"]) for key in ("update", "by_hand")),
            f"{row['update']['wall']['median'] / row['repositories']:,.0f} ms",
            *words.both(row["ratio"], words.times),
        ]
        for row in found["rows"]
    ]
    heads = ["repositories", "`update`, s", "by hand, s", "each", "ratio, clock", "CPU"]
    return f"""
`deployrepos.update` in one process, through Salt's loader, with repositories that are up to date with a remote on the
same disk. *By hand* is `git checkout main && git pull --ff-only` in each of them. Ours checks everything that should
stop a deploy, with several git commands for each repository, one at a time. A remote over a network adds its own time
to both columns.

![Seconds by number of repositories](repositories.svg)

{words.table(heads, lines)}
"""


def plots(found):
    def of(key):
        return [(row["repositories"], words.in_seconds(row[key]["wall"])) for row in found["rows"]]

    series = {"deployrepos.update": of("update"), "git, by hand": of("by_hand")}
    title = "Repositories that are up to date: seconds, median and quartiles"
    return {"repositories.svg": plot.curves(title, series, "repositories", "seconds")}
