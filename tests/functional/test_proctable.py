"""What the probes share (proctable), against real processes: who is seen, how commands run, how settings are read."""

import json
import shlex
import subprocess
import sys

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.deploytoken import errors, values
from tests.support import minion
from tests.support.wait import until

NOWHERE = "http://127.0.0.1:1"  # a port where nothing listens


@pytest.fixture
def functions(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)


IN_A_CONTAINER = """
import importlib.util, os, subprocess, sys

spec = importlib.util.spec_from_file_location("proctable", sys.argv[1])
proctable = importlib.util.module_from_spec(spec)
spec.loader.exec_module(proctable)
child = subprocess.Popen(["sleep", "7777"])
print(os.getpid(), child.pid in [one["pid"] for one in proctable.listing()])
child.kill()
"""


def test_what_the_second_process_of_a_container_started_is_no_thread_of_the_kernel(checkout):
    module = checkout / "_modules" / "proctable.py"
    inside = shlex.join([sys.executable, "-c", IN_A_CONTAINER, str(module)])
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", f"{inside} & wait"]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["2", "True"]


# As a container's root, and as another user (who needs to read this Python, wherever it is).
LESS = [
    "--bounding-set=-sys_ptrace",
    "--reuid=65534 --inh-caps=+dac_override --ambient-caps=+dac_override",
]


@pytest.mark.parametrize("rights", [*LESS, "--bounding-set=+all"])
def test_a_proc_that_hides_others_is_unknown_and_not_idle(tmp_path, rights):
    """In a namespace of its own, with a /proc of its own: the machine's is left alone."""
    busy = {"tmux": {}, "screen": {}, "processes": {"patterns": ["sleep"]}, "scrapyd": {"url": NOWHERE}}
    ask = minion.command(tmp_path, busy)
    inside = f"mount -t proc -o hidepid=2 proc /proc && setpriv {rights} sh -c {shlex.quote(ask)}"
    command = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", inside]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["blockers"] == []
    hidden = [one["probe"] for one in answer["unknowns"] if "hidepid" in one["why"]]
    assert sorted(hidden) == (sorted(busy) if rights in LESS else [])
    assert len(answer["unknowns"]) == len(hidden) + 1  # and Scrapyd, which is not there


def test_other_systems_than_linux_are_unknown_and_not_idle(checkout, tmp_path, monkeypatch):
    busy = {"tmux": {}, "screen": {}, "processes": {"patterns": ["x"]}, "scrapyd": {"url": NOWHERE}}
    check = minion.functions(checkout, tmp_path, busy)["busy.check"]
    monkeypatch.setattr(sys, "platform", "freebsd14")

    unknowns = check()["unknowns"]

    why = "the process table can be read on Linux only"
    assert sorted(one["probe"] for one in unknowns if one["why"] == why) == sorted(busy)


def test_a_minion_without_psutil_is_unknown_and_says_what_is_missing(checkout, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    busy = {"tmux": {}, "screen": {}, "processes": {"patterns": ["x"]}, "scrapyd": {"url": NOWHERE}, "who": {}}

    answer = minion.functions(checkout, tmp_path, busy)["busy.check"]()

    assert answer["idle"] is False
    why = "psutil is not installed"
    assert sorted(one["probe"] for one in answer["unknowns"] if why in one["why"]) == sorted(busy)


def test_a_command_runs_as_the_user_with_nothing_of_the_callers(functions, users, monkeypatch):
    user = users("ana")
    (user.home / ".profile").write_text("touch ~/profile-was-run\n")
    monkeypatch.setenv("SECRET", "of the minion")

    answer = functions["proctable.run"](["sh", "-c", "id -u; id -G; env; tty"], user.name)

    assert answer["stdout"].splitlines()[:2] == [str(user.uid), str(user.gid)]
    assert "SECRET" not in answer["stdout"]
    assert not (user.home / "profile-was-run").exists()


def test_a_flood_or_a_silence_of_a_command_is_cut_off(functions, users):
    run, user = functions["proctable.run"], users("cut")

    with pytest.raises(CommandExecutionError, match="more than 1000 bytes"):
        run(["yes"], user.name, limit=1000)
    with pytest.raises(CommandExecutionError, match=r"did not answer within 0\.3 seconds"):
        run(["sh", "-c", "sleep 7777 & sleep 7777"], user.name, timeout=0.3)
    until(lambda: not user.processes(), what="both to be gone")


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), (5, 5), ("15m", 900), ("1.5h", 5400), ("2 d", 172800), ("1w", 604800), (0.3, 0.3), ("1.1m", 66)],
)
def test_durations_are_those_of_the_package(functions, text, value):
    assert functions["proctable.seconds"](text) == values.duration(text, "x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "1x", "-1", None, True, "h", "1h30m", "٣", "367d"])
def test_no_other_text_is_a_duration_here_or_in_the_package(functions, text):
    with pytest.raises(SaltInvocationError) as here:
        functions["proctable.seconds"](text, "busy.tmux.timeout")
    with pytest.raises(errors.Invalid) as there:
        values.duration(text, "busy.tmux.timeout")
    assert str(here.value) == str(there.value)
