"""Who asks: each process of this master that only asks or waits is known to the others until it ends."""

import os
import subprocess
import sys

import pytest

from saltext.deploytoken.machines import asking
from tests.support import process
from tests.support.salt import CHECKOUT

WAITER = """
import sys
from saltext.deploytoken.machines import asking
with asking.noted(sys.argv[1]):
    print("waits", flush=True)
    sys.stdin.readline()
print("works", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def waiter(tmp_path):
    """Another process, which waits until it reads a line."""
    env = {"PYTHONPATH": f"{CHECKOUT}/_utils", "PATH": "/usr/bin:/bin"}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = subprocess.Popen([sys.executable, "-c", WAITER, tmp_path], env=env, **streams)
    assert started.stdout.readline() == b"waits\n"
    yield started
    process.end(started)


def pids(folder):
    return [one["pid"] for one in asking.everybody(folder)]


def files(folder):
    return list((folder / "deploytoken").glob("*"))


def test_whoever_asks_says_which_process_that_is_and_writes_nothing(tmp_path):
    (me,) = asking.everybody(tmp_path)
    assert me.keys() == {"boot", "namespace", "pid", "start"}
    assert (me["pid"], me["namespace"]) == (os.getpid(), os.readlink("/proc/self/ns/pid"))
    assert me["start"] == asking.process(os.getpid())["start"]
    assert list(tmp_path.iterdir()) == []


def test_whoever_only_waits_asks_along_with_all_others(tmp_path, waiter):
    assert pids(tmp_path) == [os.getpid(), waiter.pid]
    waiter.stdin.write(b"\n")
    waiter.stdin.flush()
    assert waiter.stdout.readline() == b"works\n"
    assert pids(tmp_path) == [os.getpid()]
    assert files(tmp_path) == []


def test_whoever_was_killed_asks_no_more_and_leaves_nothing(tmp_path, waiter):
    waiter.kill()
    waiter.wait(60)
    assert len(files(tmp_path)) == 1
    assert pids(tmp_path) == [os.getpid()]
    assert files(tmp_path) == []


def test_a_process_that_asks_in_several_ways_is_one(tmp_path):
    with asking.noted(tmp_path), asking.noted(tmp_path):
        assert pids(tmp_path) == [os.getpid()]
    assert files(tmp_path) == []


def test_whoever_cannot_be_noted_asks_all_the_same(tmp_path):
    (tmp_path / "deploytoken").write_text("")
    with asking.noted(tmp_path):
        assert pids(tmp_path) == [os.getpid()]


def test_where_no_process_can_be_seen_nobody_says_who_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "process", lambda pid: None)  # as on a Mac, which has no /proc
    with asking.noted(tmp_path):
        assert asking.everybody(tmp_path) == []
