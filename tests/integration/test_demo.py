"""``script/demo``: what it tells happens, and nothing of it is left."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest

from tests.support import process, wait

DEMO = pathlib.Path(__file__).parents[2] / "script" / "demo.py"


@pytest.fixture
def start(tmp_path):
    """Start the demo, with its output in a file."""
    started = []
    output = tmp_path / "output"
    output.touch()

    def start(*arguments):
        started.append(process.start([sys.executable, DEMO, *arguments], output))
        return started[-1], output

    yield start
    for one in started:
        process.end(one, timeout=120)
    with contextlib.suppress(TypeError):  # nothing was started, or it never said where
        if folder_of(output).exists():
            subprocess.run([sys.executable, DEMO, "--end", folder_of(output)], timeout=240, check=True)


def folder_of(output):
    return pathlib.Path(re.search(r"/tmp/deploytoken-demo-\w+", output.read_text())[0])


def left(folder):
    """What still runs with the demo's mark, or with its folder as an argument or working directory."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*one.cmdline(), one.cwd(), *one.environ().values()]
            if any(str(folder) in word for word in words) and one.pid != os.getpid():
                found.append(one)
    return found


def test_an_interrupt_in_the_middle_leaves_nothing(start):
    demo, output = start()
    wait.until(lambda: "A deploy while something runs is blocked" in output.read_text(), 400, "the third step")
    assert left(folder_of(output))

    demo.send_signal(signal.SIGINT)

    assert demo.wait(240) == 130, process.tail(output, 100)
    assert not folder_of(output).exists()
    assert not left(folder_of(output))


def test_everything_goes_as_told_and_what_is_kept_can_be_played_with_and_ended(start):
    demo, output = start("--keep")
    assert demo.wait(600) == 0, process.tail(output, 100)
    folder = folder_of(output)
    assert "Everything went as told" in output.read_text()
    assert left(folder)

    environment = {**os.environ, "SALT_CONFIG_DIR": str(folder / "etc")}
    salt_run = pathlib.Path(sys.executable).with_name("salt-run")
    command = [salt_run, "deploytoken.status", "--out=yaml"]
    status = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    ended = subprocess.run([sys.executable, DEMO, "--end", folder], capture_output=True, text=True, timeout=240)

    assert "held_by: null" in status.stdout
    assert ended.returncode == 0, ended.stderr
    assert not folder.exists()
    assert not left(folder)


@pytest.mark.parametrize("folder", ["/nonexistent", "/tmp", "."])
def test_only_a_demos_folder_can_be_ended(folder):
    ended = subprocess.run([sys.executable, DEMO, "--end", folder], capture_output=True, text=True, timeout=240)

    assert ended.returncode == 2
    assert "is not the folder of a demo" in ended.stderr


def test_what_has_ended_and_nobody_has_waited_for_runs_no_more():
    """As in a container whose first process is no init."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="deploytoken-demo-", dir="/tmp"))
    (folder / "etc").mkdir()
    (folder / "etc" / "master").touch()
    with subprocess.Popen(["true"], start_new_session=True) as one:
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        (folder / "sessions").write_text(f"{one.pid} {psutil.Process(one.pid).create_time()}\n")
        ended = subprocess.run([sys.executable, DEMO, "--end", folder], capture_output=True, text=True, timeout=240)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert not folder.exists()
