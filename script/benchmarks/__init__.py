"""
What the safety costs: ``script/bench``.

One file per measurement. Each has

``TITLE``
    of its section on the page.
``run(bench)``
    measures, and returns what it found as data for JSON; ``bench`` is a :py:class:`script.benchmarks.bench.Bench`.
``aims(found, loaded)``
    yields for each aim what it is, and what became of it; ``loaded``: the machine had other work.
``page(found)``
    its section, in Markdown.
``plots(found)``
    ``{file name: SVG}``.

All but ``run`` are pure functions: the page can be written again from ``results.json``. Each runs in a process of its
own, so that one that fails, or hangs, leaves the others to go on.
"""

import importlib

#: The order in which they run and appear on the page.
NAMES = ("commands", "imports", "minion", "minions", "deploy", "contention", "pages", "repositories")


def load(name):
    """Import and return the module of a measurement. Late, because each imports much of Salt."""
    return importlib.import_module(f"script.benchmarks.{name}")
