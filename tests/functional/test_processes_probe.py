"""The processes and who probes, against real processes."""

import json
import os
import pathlib
import shlex
import shutil
import struct
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
    return [job["pid"] for job in functions["processes.find"](list(patterns), **settings)]


def ids(functions, *patterns, **settings):
    return [blocker["id"] for blocker in functions["processes.probe"](list(patterns), **settings)["blockers"]]


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


@pytest.mark.parametrize(("daemon_name", "under"), [("cron_of_test", "cron_of_test"), ("crond", "cron")])
def test_a_mere_fork_of_a_program_does_not_run_under_it(functions, tmp_path, daemon_name, under):
    """As cron, or crond: it forks, and the fork starts the job."""
    program = tmp_path / daemon_name
    program.write_text("#!/bin/sh\n(sleep 7777; true) & wait\n")
    program.chmod(0o755)
    daemon = process.start([program], tmp_path / "log")
    try:
        below = lambda: psutil.Process(daemon.pid).children(recursive=True)  # noqa: E731
        # A fork has the name of its program until it starts the next.
        until(lambda: [one.name() for one in below()] == [daemon_name, "sleep"], what="the job to run")
        _, job = below()
        assert daemon.pid not in found(functions, {"under": under})
        assert job.pid in found(functions, {"under": under})
    finally:
        process.end(daemon)


MANAGE = "import subprocess, sys, time\ntime.sleep(7777)\n"


@pytest.fixture
def run(tmp_path):
    """``run("timeout 60 PYTHON manage_of_test.py")``, in a folder with such scripts, and things to read."""
    (tmp_path / "package_of_test").mkdir()
    (tmp_path / "package_of_test" / "module.py").write_text(MANAGE)
    (tmp_path / "manage_of_test.py").write_text(MANAGE)
    (tmp_path / "import_of_test.sh").write_text(": $(sleep 7777)\n")
    (tmp_path / "of_test.pl").write_text("sleep 7777;\n")
    (tmp_path / "titled.py").write_text(
        "from setproctitle import *\nsetproctitle('worker: import_of/test 1')\n" + MANAGE
    )
    (tmp_path / "log of_test load.log").touch()
    os.mkfifo(tmp_path / "fifo")
    for reader in ("less", "vim"):  # real ones want a terminal
        shutil.copy("/usr/bin/tail", tmp_path / reader)
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = []

    def run(line):
        words = [sys.executable if word == "PYTHON" else word for word in shlex.split(line)]
        started.append(process.start(words, tmp_path / "log", cwd=tmp_path, env=environment))
        return started[-1]

    yield run
    for one in started:
        process.end(one)


@pytest.mark.parametrize(
    ("line", "patterns"),
    [
        ("PYTHON manage_of_test.py load", ["manage_of_test.py", "*manage_of_test.py load", "manage_of_test.py l*"]),
        ("PYTHON -W ignore -u -B ./manage_of_test.py", ["manage_of_test.py"]),
        ("PYTHON -m package_of_test.module load", ["package_of_test.module", "*package_of_test* load"]),
        ("PYTHON manage_of_test.py run other_of_test.py load", ["*other_of_test.py load"]),
        ("PYTHON -m cProfile manage_of_test.py load", ["manage_of_test.py", "*manage_of_test.py load*"]),
        ("PYTHON titled.py", ["worker: import*", "worker: import_of/test 1", "*import_of/test 1"]),
        ("bash -c 'mkfifo f; exec -a \"worker: import_of_test 2\" cat <> f'", ["worker: i*", "*import_of_test 2"]),
        ("bash -e import_of_test.sh all", ["import_of_test.sh", "*import_of_test.sh all"]),
        ("bash -o pipefail import_of_test.sh", ["import_of_test.sh"]),
        (
            "sh -c 'cd . && X=1 sh import_of_test.sh all; true'",
            ["import_of_test.sh", "sh -c*", "*import_of_test.sh a*"],
        ),
        ("nice -n 5 env A=1 PYTHON manage_of_test.py", ["manage_of_test.py"]),
        ("perl -I lib of_test.pl", ["of_test.pl"]),
    ],
)
def test_what_an_interpreter_runs_is_found(functions, run, line, patterns):
    job = run(line)
    for pattern in patterns:
        until(lambda pattern=pattern: found(functions, pattern) == [job.pid], what=f"{pattern} to be found")


def test_a_program_that_another_program_starts_is_found_itself(functions, run):
    wrapper = run("timeout 7777 PYTHON manage_of_test.py load")
    child = until(lambda: psutil.Process(wrapper.pid).children(), what="the program")[0]

    for pattern in ("manage_of_test.py", "*manage_of_test.py load"):
        until(lambda pattern=pattern: found(functions, pattern) == [child.pid], what=f"{pattern} to be found")


def test_a_reader_is_not_what_it_reads(functions, run):
    for line in (
        "tail -f manage_of_test.py 'log of_test load.log'",
        "./less -f manage_of_test.py import_of_test.sh",
        "./vim -f /etc/hostname ./import_of_test.sh manage_of_test.py",
        "grep of_test manage_of_test.py fifo",
        "bash -c 'tail -f manage_of_test.py load | grep of_test'",
        "sh import_of_test.sh manage_of_test.py of_test",
    ):
        run(line)
    until(lambda: len(psutil.Process().children(recursive=True)) >= 9, what="all of them")

    patterns = [
        "manage_of_test.py",
        "*manage_of_test.py*",
        "*_of_test.py load*",
        "of_test",
        "*of_test",
        "*of_test load*",
    ]
    assert found(functions, *patterns) == []
    assert len(found(functions, "*tail*of_test*")) == 2


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
    assert psutil.Process().pid not in found(functions, {"match": "*", "user": psutil.Process().username()})


def test_each_member_of_a_pipeline_is_listed_and_what_it_starts_is_not(functions, start):
    first, second = start("first_of_test", "fork"), start("second_of_test", "fork")
    for job in (first, second):
        until(lambda job=job: psutil.Process(job.pid).children(), what="the fork")

    assert found(functions, "*_of_test") == [first.pid, second.pid]


def test_an_id_stays_while_the_work_goes_on(functions, start):
    """Whichever pattern matches first, and whenever it becomes old enough for another."""
    job = start("stays_of_test")
    parent = {"under": psutil.Process().name()}
    (mark,) = [one["mark"] for one in functions["processes.find"](["stays_of_test"])]
    assert mark.startswith(f"{job.pid}.")

    for patterns in (
        ["stays_*", "stays_of_test"],
        [{"match": "stays_*", "older_than": "1h"}, "stays_of_test"],
        [parent, "stays_*"],
        [{**parent, "older_than": "1h"}, "stays_*"],
    ):
        assert f"stays_*:{mark}" in ids(functions, *patterns)


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
        (["*"], "patterns.0.match: would match every process"),
        (["rsync", {"match": "?**"}], "patterns.1.match: would match every process"),
        ([{"under": "*"}], "patterns.0.under: would match every process"),
        (["rsync "], "patterns.0.match: 'rsync ' begins or ends with a space"),
        ([{"match": "x", "under": "cron\n"}], "patterns.0.under: 'cron.*' begins or ends with a space"),
        ([{"user": "somebody-else"}], "patterns.0.user: there is no user 'somebody-else'"),
    ],
)
def test_a_malformed_pattern_is_named(functions, patterns, why):
    with pytest.raises(SaltInvocationError, match=f"^{why}"):
        functions["processes.probe"](patterns)


# utmp(5), as glibc has it on x86-64: kind (7: a login), process, terminal, its short name, user, host, and since when.
RECORD = "hxxi32s4s32s256s4xiii16x20x"
LOGINS = [(b"ana", b"pts/7", b"192.0.2.1", 1764500000), (b"ben", b"pts/8", b"192.0.2.2", 1764500100)]


@pytest.fixture
def logged_in(tmp_path):
    """``logged_in(settings, logins)``: what ``busy.check`` says with these records; without any file for None."""

    def answer(settings, logins):
        file = tmp_path / "utmp"
        place = "mount -t tmpfs tmpfs /run"
        if logins is not None:
            rows = [(7, 1, line, line[-4:], user, host, 0, when, 0) for user, line, host, when in logins]
            file.write_bytes(b"".join(struct.pack(RECORD, *row) for row in rows))
            place += f" && cp {file} /run/utmp"
        inside = f"{place} && {minion.command(tmp_path, {'who': settings})}"
        asked = subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside], capture_output=True, timeout=240, check=True
        )
        return json.loads(asked.stdout.splitlines()[-1])

    return answer


def test_people_who_are_logged_in_are_information_unless_they_are_to_block(functions, logged_in):
    shown, blocking = logged_in({}, LOGINS), logged_in({"block": True}, LOGINS)

    assert (shown["idle"], shown["blockers"]) == (True, [])
    wanted = [("ana", "logged in on pts/7 from 192.0.2.1"), ("ben", "logged in on pts/8 from 192.0.2.2")]
    assert [(one["user"], one["what"]) for one in shown["info"]] == wanted
    assert [(one["user"], one["what"]) for one in blocking["blockers"]] == wanted
    assert blocking["info"] == []
    with pytest.raises(SaltInvocationError, match="block"):
        functions["who.probe"](block="no")


def test_without_login_records_nobody_is_said_to_be_away(logged_in):
    assert logged_in({}, None)["idle"] is True
    (unknown,) = logged_in({"block": True}, None)["unknowns"]
    assert "no login records" in unknown["why"]


def test_who_logs_in_again_on_a_terminal_is_somebody_new(logged_in):
    """Consent to the first login does not cover the second."""
    user, line, host, when = LOGINS[0]
    answers = [logged_in({"block": True}, [(user, line, host, moment)]) for moment in (when, when, when + 60)]
    first, again, second = ([one["id"] for one in answer["blockers"]] for answer in answers)
    assert first == again != second
