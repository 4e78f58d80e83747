"""What the probes share (proctable), against real processes: who is seen, how commands run, how settings are read."""

import importlib.util
import json
import pathlib
import shlex
import subprocess
import sys

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.deploytoken import errors, values
from tests.support import minion, process
from tests.support.wait import until

SEEN = {"capture_output": True, "text": True, "timeout": 240, "check": False}
NOWHERE = "http://127.0.0.1:1"  # a port where nothing listens


@pytest.fixture
def functions(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)


IN_A_CONTAINER = """
import importlib.util, os, subprocess, sys

spec = importlib.util.spec_from_file_location("proctable", sys.argv[1])
proctable = importlib.util.module_from_spec(spec)
spec.loader.exec_module(proctable)
proctable.__context__ = {}
child = subprocess.Popen(["sleep", "7777"])
print(os.getpid(), child.pid in [one["pid"] for one in proctable.listing()])
child.kill()
"""


def test_what_the_second_process_of_a_container_started_is_no_thread_of_the_kernel(checkout):
    module = checkout / "_modules" / "proctable.py"
    inside = shlex.join([sys.executable, "-c", IN_A_CONTAINER, str(module)])
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", f"{inside} & wait"]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["2", "True"]


@pytest.mark.parametrize(
    ("line", "looks"),
    [
        ("/usr/bin/python3 /usr/bin/salt-run busy.check web*", True),
        ("/opt/saltstack/salt/bin/python3.10 -s /usr/bin/salt-run -l quiet busy.wait web* timeout=4h", True),
        ("/usr/bin/salt -t 60 web1.example.org busy.check", True),
        ("python3 -Es /usr/bin/salt-call --out=json busy.check MainProcess", True),
        ("salt-ssh web1 busy.check", True),
        ("/usr/bin/python3 /usr/bin/salt-run deploytoken.acquire reason=busy.check", False),
        ("/usr/bin/python3 /usr/bin/salt-call cmd.run import.sh busy.check", False),
        ("/usr/bin/python3 /usr/bin/salt-run salt.cmd cmd.run 'salt-run busy.wait web* && import.sh'", False),
        ("/usr/bin/python3 -c salt-run busy.check", False),
        ("/usr/bin/python3 import.py salt-run busy.check", False),
        ("/usr/bin/python3 -m http.server busy.check", False),
        ("/usr/bin/salt-minion -d busy.check", False),
        ("bash -c 'salt-run busy.check; import.sh'", False),
        ("", False),
        ("python3", False),
    ],
)
def test_salts_own_commands_that_only_look_are_told_from_all_others(checkout, line, looks):
    spec = importlib.util.spec_from_file_location("proctable", checkout / "_modules" / "proctable.py")
    proctable = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(proctable)

    # As it was called, and under the title that Salt gives itself.
    for argv in (shlex.split(line), [line]):
        assert proctable._only_looks([*argv, ""]) is looks


def test_whoever_typed_busy_check_on_the_machine_asks_and_whoever_typed_something_else_does_not(functions, tmp_path):
    (tmp_path / "modules" / "_modules").mkdir(parents=True)
    hangs = "import subprocess\n\ndef probe():\n    subprocess.run(['sleep', '7777'])\n"
    (tmp_path / "modules" / "_modules" / "hangs.py").write_text(hangs)
    folders = [functions["config.get"]("module_dirs")[0], str(tmp_path / "modules")]
    config = {"root_dir": str(tmp_path), "file_client": "local", "module_dirs": folders, "busy": {"hangs": {}}}
    (tmp_path / "minion").write_text(json.dumps(config))
    salt_call = [pathlib.Path(sys.executable).with_name("salt-call"), "--config-dir", tmp_path, "--local"]

    # One after the other: of two that make the same folders at once, one falls over (3006.29).
    for words, asks in ((["busy.check"], True), (["cmd.run", "sleep 7777"], False)):
        started = process.start([*salt_call, *words], tmp_path / "log")

        def asking(started=started):
            """Whether the process asks, and whether what it runs is taken for a question as well."""
            found = {one["pid"]: one for one in functions["proctable.listing"]()}
            assert started.poll() is None, (tmp_path / "log").read_text()
            below = [one["asking"] for one in found.values() if one["name"] == "sleep" and started.pid in one["above"]]
            return [found[started.pid]["asking"], *below] if below else None

        try:
            assert until(asking, what=f"{words[0]} to be at it") == [asks, asks]
        finally:
            process.end(started)


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


@pytest.mark.parametrize(
    ("rights", "users", "blind"),
    [
        (LESS[0], None, ["screen", "tmux"]),
        (LESS[1], None, ["screen", "tmux"]),
        (LESS[1], ["root", "nobody"], ["screen", "tmux"]),
        (LESS[1], ["nobody"], []),
        ("--bounding-set=+all", None, []),
    ],
)
def test_who_cannot_look_into_others_does_not_say_that_they_are_idle(tmp_path, rights, users, blind):
    """What left a session, and how a terminal is set, stand where only their owner and root may look."""
    settings = {"users": users} if users else {}
    ask = minion.command(tmp_path, {"tmux": settings, "screen": settings})

    with subprocess.Popen(["sleep", "7777"], user=65534) as other:
        done = subprocess.run(["sh", "-c", f"exec setpriv {rights} sh -c {shlex.quote(ask)}"], **SEEN)
        other.kill()

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    why = "the minion cannot look into other users' processes: run it as root, with CAP_SYS_PTRACE"
    assert sorted(one["probe"] for one in answer["unknowns"] if one["why"] == why) == blind


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
