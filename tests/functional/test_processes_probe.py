"""The processes and who probes, against real processes."""

import json
import pathlib
import shlex
import subprocess
import sys

import psutil
import pytest
from salt.exceptions import SaltInvocationError

from tests.support import minion, process
from tests.support.wait import until

PROGRAM = """
import subprocess, sys, time
if sys.argv[1:2] == ["fork"]:
    subprocess.Popen([sys.executable, sys.argv[0]])
time.sleep(7777)
"""


@pytest.fixture
def functions(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)


@pytest.fixture
def start(tmp_path):
    started = []

    def start(name, *arguments):
        """A real process whose program has this name."""
        program = tmp_path / name
        program.write_text(PROGRAM)
        started.append(process.start([sys.executable, program, *arguments], tmp_path / "log"))
        return started[-1]

    yield start
    for one in started:
        process.end(one)


def found(functions, *patterns, **settings):
    return [
        int(blocker["id"].rpartition(":")[2])
        for blocker in functions["processes.probe"](list(patterns), **settings)["blockers"]
    ]


IN_A_CONTAINER = """
import importlib.util, os, subprocess, sys

spec = importlib.util.spec_from_file_location("processes", sys.argv[1])
processes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)
child = subprocess.Popen(["sleep", "7777"])
print(os.getpid(), child.pid in [one["pid"] for one in processes.listing()])
child.kill()
"""


def test_what_the_second_process_of_a_container_started_is_no_thread_of_the_kernel(checkout):
    module = checkout / "_modules" / "processes.py"
    inside = shlex.join([sys.executable, "-c", IN_A_CONTAINER, str(module)])
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", f"{inside} & wait"]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["2", "True"]


def test_a_pattern_finds_programs_scripts_and_command_lines(functions, start):
    dump = start("pgdump_of_test", "--password=hunter2", "customers")

    for pattern in ("pgdump_of_test", "pgdump_of_*", "*of_test*customers", {"match": "pgdump_of_test"}):
        assert found(functions, pattern) == [dump.pid]
    assert found(functions, "pgdump_of") == []
    assert "hunter2" not in str(functions["processes.probe"](["pgdump_of_*"]))


def test_only_what_is_old_enough_blocks(functions, start):
    job = start("young_of_test")

    assert found(functions, "young_of_test", older_than="1h") == []
    assert found(functions, {"match": "young_of_test", "older_than": 0}, older_than="1h") == [job.pid]


def test_a_program_that_forks_is_listed_once(functions, start):
    job = start("fork_of_test", "fork")
    until(lambda: psutil.Process(job.pid).children(), what="the fork")

    assert found(functions, "fork_of_test") == [job.pid]


def test_a_job_is_found_by_what_it_runs_under_and_by_its_user(functions, start):
    job = start("under_of_test")
    parent, user = psutil.Process().name(), psutil.Process().username()

    assert job.pid in found(functions, {"under": parent, "match": "under_of_*"})
    assert found(functions, {"under": "no-such-daemon", "match": "under_of_*"}) == []
    assert found(functions, {"match": "under_of_*", "user": user}) == [job.pid]
    assert found(functions, {"match": "under_of_*", "user": "nobody"}) == []
    with pytest.raises(SaltInvocationError, match="no user 'somebody-else'"):
        found(functions, {"match": "under_of_*", "user": "somebody-else"})


def test_a_script_is_found_by_its_name_behind_options_of_its_interpreter(functions, tmp_path):
    (tmp_path / "manage_of_test.py").write_text("import time; time.sleep(7777)")
    job = process.start([sys.executable, "-u", "-B", tmp_path / "manage_of_test.py", "load"], tmp_path / "log")
    try:
        assert found(functions, "manage_of_test.py") == [job.pid]
    finally:
        process.end(job)


def test_a_program_whose_first_thread_has_ended_is_still_found(functions, tmp_path):
    source = "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(7777,)).start()\n"
    (tmp_path / "threads_of_test").write_text(source + "ctypes.CDLL(None).pthread_exit(None)\n")
    job = process.start([sys.executable, tmp_path / "threads_of_test"], tmp_path / "log")
    try:
        until(lambda: psutil.Process(job.pid).status() == psutil.STATUS_ZOMBIE, what="the first thread to end")
        name = psutil.Process(job.pid).name()
        assert job.pid in found(functions, {"match": name})
    finally:
        process.end(job)


# As a container's root, and as another user (who needs to read this Python, wherever it is).
LESS = [
    "--bounding-set=-sys_ptrace",
    "--reuid=65534 --inh-caps=+dac_override --ambient-caps=+dac_override",
]


@pytest.mark.parametrize("rights", [*LESS, "--bounding-set=+all"])
def test_a_proc_that_hides_others_is_unknown_and_not_idle(tmp_path, rights):
    """In a namespace of its own, with a /proc of its own: the machine's is left alone."""
    busy = {"tmux": {}, "screen": {}, "processes": {"patterns": ["sleep"]}, "scrapyd": []}
    ask = minion.command(tmp_path, busy)
    inside = f"mount -t proc -o hidepid=2 proc /proc && setpriv {rights} sh -c {shlex.quote(ask)}"
    command = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", inside]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["idle"] is (rights not in LESS)
    assert {one["probe"] for one in answer["unknowns"]} == (set(busy) if rights in LESS else set())
    assert all("hidepid" in one["why"] for one in answer["unknowns"])


def test_other_systems_than_linux_are_unknown_and_not_idle(checkout, tmp_path, monkeypatch):
    busy = {"tmux": {}, "screen": {}, "processes": {"patterns": ["x"]}, "scrapyd": []}
    check = minion.functions(checkout, tmp_path, busy)["busy.check"]
    monkeypatch.setattr(sys, "platform", "freebsd14")

    answer = check()

    assert {one["probe"] for one in answer["unknowns"]} == set(busy)
    assert {one["why"] for one in answer["unknowns"]} == {"whose processes run is known on Linux only"}


def test_a_minion_without_psutil_is_unknown_and_says_what_is_missing(checkout, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    busy = {"tmux": {}, "screen": {}, "processes": {"patterns": ["x"]}, "scrapyd": {}, "who": {}}

    answer = minion.functions(checkout, tmp_path, busy)["busy.check"]()

    assert answer["idle"] is False
    assert {one["probe"] for one in answer["unknowns"]} == set(busy)
    assert all("psutil" in one["why"] for one in answer["unknowns"])


def test_the_minion_itself_is_no_blocker(functions):
    assert psutil.Process().pid not in found(functions, "*")


@pytest.mark.parametrize(
    "patterns",
    [None, [], "rsync", [3], [{}], [{"macht": "x"}], [{"older_than": 3}], [{"match": "x", "older_than": "x"}]],
)
def test_a_malformed_pattern_is_named(functions, patterns):
    with pytest.raises(SaltInvocationError, match=r"pattern|duration"):
        functions["processes.probe"](patterns)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), (5, 5), ("15m", 900), ("1.5h", 5400), ("2 d", 172800)])
def test_durations(functions, text, value):
    assert functions["processes.seconds"](text) == value


@pytest.mark.parametrize("text", ["", "1x", "-1", None, True, "h", "1h30m", "٣"])
def test_no_other_text_is_a_duration(functions, text):
    with pytest.raises(SaltInvocationError):
        functions["processes.seconds"](text)


def test_people_who_are_logged_in_are_information_unless_they_are_to_block(functions):
    logged_in = functions["who.probe"]()
    blocking = functions["who.probe"](block=True)

    assert (logged_in["blockers"], logged_in["unknowns"]) == ([], [])
    if pathlib.Path("/run/utmp").exists():
        assert blocking["blockers"] == logged_in["info"]
    else:
        assert "no login records" in blocking["unknowns"][0]["why"]
    with pytest.raises(SaltInvocationError, match="block"):
        functions["who.probe"](block="no")
