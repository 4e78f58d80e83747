"""What every ``salt-run`` of the master pays: the import of our runner modules."""

import collections
import json
import os
import subprocess
import sys

from script.benchmarks import words
from script.benchmarks.sampling import rows, total
from tests.support.salt import CHECKOUT

TITLE = "Import of the runner modules"
AIM = 10  # ms
ALL = "together"

# In a fresh interpreter with the imports of any salt-run. Not in a fork of one: most of the time measured would be the
# copying of its memory.
PROGRAM = """
import importlib.util, json, pathlib, sys, time
import salt.cli.run, salt.loader, salt.runner, salt.minion, salt.utils.event
root = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(root / "_utils"))
def load(path):
    spec = importlib.util.spec_from_file_location("bench_" + path.stem, path)
    module = importlib.util.module_from_spec(spec)
    start = time.perf_counter(), time.process_time()
    spec.loader.exec_module(module)
    return {"wall": 1000 * (time.perf_counter() - start[0]), "cpu": 1000 * (time.process_time() - start[1])}
print(json.dumps({path.stem: load(path) for path in sorted((root / "_runners").glob("*.py"))}))
"""


def run(bench):
    rounds = bench.rounds(6, 25)
    bench.say(f"{rounds} rounds")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    samples = collections.defaultdict(list)
    for number in range(rounds + 1):
        command = [sys.executable, "-c", PROGRAM, str(CHECKOUT)]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True, cwd="/")
        if number == 0:
            continue  # it may have compiled files
        for name, taken in json.loads(done.stdout).items():
            samples[name].append(taken)
    samples[ALL] = total(*samples.values())
    return {"rows": rows(samples)}


def aims(found, loaded):
    whole = found["rows"][-1]
    yield (
        f"import of the {len(found['rows']) - 1} runner modules: under {AIM} ms together",
        words.verdict_of_both(whole, AIM, " ms", loaded),
    )


def page(found):
    lines = [[row["what"], *words.both(row, lambda figure: words.ms(figure, 2))] for row in found["rows"]]
    return f"""
Every `salt-run` on the master imports all runner modules, including ours. Measured in a fresh interpreter after Salt's
own imports, with files cached and compiled. They are imported in this order: the first also loads what they share.
Milliseconds:

{words.table(["module", "clock", "CPU"], lines)}
"""


def plots(_found):
    return {}
