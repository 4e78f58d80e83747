"""Write docs/performance: results.json, index.md and the plots. All but ``about`` and ``write`` are pure functions."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess

import psutil

from script.benchmarks import NAMES, words
from script.benchmarks import load as module

QUIET = 15  # per cent of the CPUs; more is other work


def others():
    """How much of all CPUs other work uses, in per cent, while this run is idle."""
    return round(psutil.cpu_percent(interval=3))


def about(quick):
    """When, with what, and on what machine something is measured."""
    with open("/proc/meminfo") as lines:
        memory = round(int(lines.readline().split()[1]) / 1024 / 1024)
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": quick,
        "machine": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} CPUs, {memory} GB of memory",
        "cpus": os.cpu_count(),
        "niceness": os.nice(0),
        "others_before": others(),
        "versions": {
            "Salt": importlib.metadata.version("salt"),
            "Python": platform.python_version(),
            "Redmine": _debian_version("redmine"),
            "Scrapyd": importlib.metadata.version("scrapyd"),
            "tmux": _debian_version("tmux"),
            "PostgreSQL": _debian_version("postgresql"),
        },
    }


def _debian_version(package):
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "?"
    return done.stdout.partition("+")[0].partition("-")[0] or "?"


def write(results, folder):
    """Write all files from the results of all measurements, of this run or kept from an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {name: results[name] for name in NAMES if name in results}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "index.md").write_text(page(results), encoding="utf-8")
    drawn = plots(results)
    for old in folder.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, text in drawn.items():
        (folder / name).write_text(text, encoding="utf-8")


def loaded(meta):
    """Whether the machine had other work, just before or just after this was measured."""
    return max(meta["others_before"], meta["others_after"]) > QUIET


def measured(results):
    """The measurements that succeeded: (name, when and where, what was found)."""
    for name, one in results.items():
        if "found" in one:
            yield name, one["about"], one["found"]


def plots(results):
    drawn = {}
    for name, _, found in measured(results):
        drawn.update(module(name).plots(found))
    return drawn


def page(results):
    if not results:
        return "# What it costs\n\nNothing has been measured yet: run `script/bench`.\n"
    newest = max((one["about"] for one in results.values()), key=lambda meta: meta["when"])
    versions = ", ".join(f"{name} {number}" for name, number in newest["versions"].items())
    parts = [
        f"""# What it costs

`script/bench` wrote this page, {newest["when"]}. {versions}. One machine ran all services, on loopback:
{newest["machine"]}, niceness {newest["niceness"]}. `docs/performance/results.json` has the same figures, with the
ends of each range and the number of runs.

A figure is a median, with its quartiles in brackets. *CPU* is the CPU time of the process, its threads and the
programs that it ran and waited for. A server's own time (Scrapyd's, Redmine's, a minion's) is only in the clock time.
Commands that are compared ran in turn, in random order in each round. A ratio is the median of the rounds' ratios.
"""
    ]
    busy = [name for name, one in results.items() if loaded(one["about"])]
    if busy:
        parts.append(f"""
**The machine had other work** when these were measured: {", ".join(busy)}. Clock times
are longer than on a quiet machine, by an unknown amount. CPU times and ratios are more reliable. For figures to
quote, run `script/bench` on a quiet machine.
""")
    quick = [name for name, one in results.items() if one["about"]["quick"]]
    if quick:
        parts.append(f"\nMeasured with `--quick`, that is, with few runs and wide spreads: {', '.join(quick)}.\n")
    failed = [(name, one["failed"]) for name, one in results.items() if "failed" in one]
    missing = [name for name in NAMES if name not in results]
    if failed or missing:
        lines = [f"- **{name}** failed: {why}" for name, why in failed] + [
            f"- {name}: not measured" for name in missing
        ]
        parts.append("\n## Without a result\n\n" + "\n".join(lines) + "\n")
    judged = [
        [what, said]
        for name, meta, found in measured(results)
        for what, said in module(name).aims(found, loaded(meta))
    ]
    parts.append(f"\n## Aims\n\n{words.table(['aim', 'result'], judged)}\n")
    for name, meta, found in measured(results):
        parts.append(f"\n## {module(name).TITLE}\n\n{_when(name, meta)}\n{module(name).page(found)}")
    return "".join(parts)


def _when(name, meta):
    quick = " --quick" if meta["quick"] else ""
    return (
        f"`script/bench{quick} {name}`, {meta['when']}, {meta['seconds']:,} seconds. Other work used"
        f" {meta['others_before']} % of the CPUs just before, and {meta['others_after']} % just after."
    )
