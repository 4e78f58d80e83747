"""``script/bench`` as a command: it goes on after a failure, keeps what it had, and leaves nothing running."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.imports import CHECKOUT
from tests.support.wait import until


def command(output, *words):
    return [sys.executable, "-m", "script.benchmarks", "--quick", "--output", str(output), *words]


def environment(**more):
    return {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / '_utils'}", **more}


def test_a_measurement_that_fails_is_said_to_and_the_others_are_measured_and_kept(tmp_path):
    recorded = json.loads((CHECKOUT / "docs/performance/results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({"pages": recorded["pages"], "imports": recorded["pages"]}))

    # There is no git on this path.
    done = subprocess.run(
        command(tmp_path, "repositories", "imports"),
        cwd=CHECKOUT,
        env=environment(PATH="/nonexistent"),
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert done.returncode == 1, done.stderr
    assert "repositories FAILED: FileNotFoundError" in done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert "git" in results["repositories"]["failed"]
    assert results["pages"] == recorded["pages"]
    modules = [path.stem for path in sorted((CHECKOUT / "_runners").glob("*.py"))]
    assert [row["what"] for row in results["imports"]["found"]["rows"]] == [*modules, "together"]
    page = (tmp_path / "index.md").read_text()
    assert "**repositories** failed: FileNotFoundError" in page
    assert "## Growth of the History" in page


def test_a_name_that_is_none_is_refused_before_anything_is_measured(tmp_path):
    done = subprocess.run(
        command(tmp_path, "minoins"), cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2
    assert "minoins is none of commands, imports" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_one_that_is_interrupted_leaves_nothing_running(tmp_path, number):
    started = subprocess.Popen(
        command(tmp_path / "out", "minion"),
        cwd=CHECKOUT,
        env=environment(TMPDIR=str(tmp_path)),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    below = until(lambda: servers(started.pid), 240, "a service to be started")
    started.send_signal(number)
    assert started.wait(240) in (130, 143)
    _, left = psutil.wait_procs(below, 10)  # a signal that ends them is not their end yet
    assert left == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("deploytoken-bench-")] == []


def servers(pid):
    """All that runs below, once a Scrapyd is among it."""
    found = psutil.Process(pid).children(recursive=True)
    lines = []
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(" ".join(one.cmdline()))
    return found if any("scrapyd" in line for line in lines) else None
