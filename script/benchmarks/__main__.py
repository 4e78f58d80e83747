"""The command line of ``script/bench``."""

import argparse
import contextlib
import ctypes
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import psutil

from script.benchmarks import NAMES, report
from script.benchmarks.bench import say
from tests.support.salt import CHECKOUT

OUTPUT = CHECKOUT / "docs" / "performance"
LIMIT = 1200  # seconds for one measurement
GRACE = 90  # seconds in which it ends its servers
_PR_SET_CHILD_SUBREAPER = 36


def main():
    parser = argparse.ArgumentParser(
        prog="script/bench",
        description="Measure on real services, and write docs/performance: index.md, results.json and plots.",
        epilog="Exit code: 0; 1 if a measurement failed, which the page then says; 130 or 143 if it was interrupted.",
    )
    parser.add_argument("name", nargs="*", help=f"measure only these, and keep the others: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer runs of everything, and fewer minions")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from results.json again")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="another folder than docs/performance")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.name) - set(NAMES))
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(NAMES)}")
    results = _kept(arguments.output / "results.json")
    if arguments.page:
        report.write(results, arguments.output)
        return 0
    # Processes that a measurement leaves behind become children of this one, which then finds and ends them.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    with tempfile.TemporaryDirectory(prefix="deploytoken-bench-", ignore_cleanup_errors=True) as folder:
        for number, name in enumerate(names := [name for name in NAMES if name in (arguments.name or NAMES)], 1):
            say(f"{datetime.datetime.now():%H:%M:%S} {name} ({number} of {len(names)})")
            results[name] = _measure(name, pathlib.Path(folder), arguments.quick)
            # At once, so that an error in a later measurement loses nothing.
            report.write(results, arguments.output)
            if "failed" in results[name]:
                failed.append(name)
                say(f"  {name} FAILED: {results[name]['failed']}")
    say(f"{datetime.datetime.now():%H:%M:%S} written: {arguments.output / 'index.md'}")
    if failed:
        say(f"Failed: {', '.join(failed)}; `script/bench {' '.join(failed)}` measures these again")
    return 1 if failed else 0


def _kept(path):
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: value for name, value in kept.items() if name in NAMES}
    return {}


def _measure(name, folder, quick):
    """Run one measurement in a process of its own: when, on what machine, and what it found or why it failed."""
    own = folder / name
    own.mkdir()
    about = report.about(quick)
    begin = time.monotonic()
    command = [sys.executable, "-m", "script.benchmarks.one", name, str(own)]
    # In a session of its own, so that Ctrl-C in the terminal reaches only this process, which then asks it to end.
    child = subprocess.Popen(command + ["--quick"] * quick, stdin=subprocess.DEVNULL, start_new_session=True)
    late = False
    try:
        child.wait(LIMIT)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        _end(child)
        left = _sweep()
    if left:
        say(f"  {name} left behind, and ended: {', '.join(left)}")
    about.update(others_after=report.others(), seconds=round(time.monotonic() - begin))
    answer = {"failed": f"did not end within {LIMIT} seconds" if late else f"ended with code {child.returncode}"}
    if not late:
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads((own / "answer.json").read_text(encoding="utf-8"))
    return _told(name, {"about": about, **answer})


def _told(name, result):
    """Return the result if the page can show it; else say why not. One bad result must not stop the others."""
    try:
        report.page({name: result})
        report.plots({name: result})
    except Exception as error:
        traceback.print_exc()
        return {
            "about": result["about"],
            "failed": f"measured, but the page cannot show it: {type(error).__name__}: {error}",
        }
    return result


def _end(child):
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _sweep():
    """End every process that is still below this one, and return what they were."""
    names = []
    for _ in range(10):  # a process that ends leaves its children to this one
        left = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
        if not left:
            break
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(one.name())
                one.kill()
        psutil.wait_procs(left, 5)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return sorted(set(names))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
