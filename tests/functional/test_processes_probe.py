"""The processes and who probes, against real processes."""

import pathlib
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


def test_a_mere_fork_of_a_program_does_not_run_under_it(functions, tmp_path):
    """As cron: it forks, and the fork starts the job."""
    program = tmp_path / "cron_of_test"
    program.write_text("#!/bin/sh\n(sleep 7777; true) & wait\n")
    program.chmod(0o755)
    daemon = process.start([program], tmp_path / "log")
    try:
        below = lambda: psutil.Process(daemon.pid).children(recursive=True)  # noqa: E731
        # A fork has the name of its program until it starts the next.
        until(lambda: [one.name() for one in below()] == ["cron_of_test", "sleep"], what="the job to run")
        _, job = below()
        assert found(functions, {"under": "cron_of_test"}) == [job.pid]
    finally:
        process.end(daemon)


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


def test_the_minion_itself_is_no_blocker(functions):
    assert psutil.Process().pid not in found(functions, "*")


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        (None, "patterns: a list"),
        ([], "patterns: a list"),
        ("rsync", "patterns: a list"),
        ([3], "patterns.0: 3 is neither text nor a mapping"),
        (["rsync", {}], "patterns.1: would match every process"),
        ([{"older_than": 3}], "patterns.0: would match every process"),
        ([{"macht": "x"}], "patterns.0.macht: no such key"),
        ([{"match": "x", "older_than": "x"}], "patterns.0.older_than: 'x' is not a duration"),
        ([{"match": 3}], "patterns.0.match: must be text"),
        ([""], "patterns.0.match: is empty"),
        ([{"match": "x", "under": " "}], "patterns.0.under: is empty"),
        ([{"match": "x", "user": ""}], "patterns.0.user: is empty"),
        ([{"user": "somebody-else"}], "patterns.0.user: there is no user 'somebody-else'"),
    ],
)
def test_a_malformed_pattern_is_named(functions, patterns, why):
    with pytest.raises(SaltInvocationError, match=f"^{why}"):
        functions["processes.probe"](patterns)


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
