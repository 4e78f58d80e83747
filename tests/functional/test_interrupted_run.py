"""Ctrl-C and SIGTERM in a real ``salt-run``: one answer, no traceback, nothing left behind."""

import contextlib
import json
import os
import pathlib
import shlex
import signal
import sqlite3
import subprocess
import sys

import psutil
import pytest

from saltext.deploytoken import people
from tests.support import process
from tests.support.places import SqlitePlace
from tests.support.salt import Config
from tests.support.wait import until

SALT_RUN = pathlib.Path(sys.executable).with_name("salt-run")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)


@pytest.fixture
def place(tmp_path):
    return SqlitePlace(tmp_path)


@pytest.fixture
def acquire(tmp_path, place):
    """Starts ``salt-run deploytoken.acquire``."""
    made = Config.make(tmp_path / "salt", **place.options("alice", timeout=60))
    with contextlib.ExitStack() as stack:

        def start(*words):
            with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
                started = subprocess.Popen(
                    [SALT_RUN, "-c", made.folder, "--out=json", "deploytoken.acquire", "reason=upgrade", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            stack.callback(process.end, started)
            return started

        yield start


def check_answer(tmp_path, started):
    assert started.wait(120) == 130
    answer = json.loads((tmp_path / "out").read_text())
    assert (answer["reason"], answer["retcode"]) == ("interrupted", 130)
    assert "Traceback" not in (tmp_path / "err").read_text()


@SIGNALS
def test_a_waiter_that_is_interrupted_leaves_nothing_behind(tmp_path, place, acquire, number):
    with place.token("bob") as bob:
        ref = bob.acquire("long work")["ref"]
        versions = place.versions()
        waiter = acquire("wait=15m")
        progress = "Bob holds the token (long work); waiting, "
        until(lambda: progress in (tmp_path / "err").read_text(), 120, "the waiter to wait")
        waiter.send_signal(number)
        check_answer(tmp_path, waiter)
        assert place.versions() == versions
        bob.release("done", ref)
        assert bob.status()["held_by"] is None


@SIGNALS
def test_a_token_that_is_just_being_taken_is_given_back(tmp_path, place, acquire, number):
    before = place.text()
    with contextlib.closing(sqlite3.connect(tmp_path / "token.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        operator = acquire()
        process_, seen = psutil.Process(operator.pid), []

        def writing():
            """
            The file is open, and the process sleeps for so long that it does nothing else: reading goes through, and
            the write waits for the other one.
            """
            files = pathlib.Path(f"/proc/{operator.pid}/fd").iterdir()
            opened = any(os.path.realpath(file).endswith("token.db") for file in files)
            seen.append((opened, process_.status(), process_.cpu_times()))
            return len(seen) > 5 and set(seen[-5:]) == {(True, psutil.STATUS_SLEEPING, seen[-1][2])}

        until(writing, 120, "the write to wait", interval=0.1)
        operator.send_signal(number)
        other.execute("ROLLBACK")
    check_answer(tmp_path, operator)
    assert place.text() == before
    assert len(place.versions()) == 3


def test_whoever_ends_it_before_the_answer_is_out_has_been_told_the_ref(tmp_path, place, acquire):
    operator = acquire()
    until(lambda: "Alice holds the token (ref " in (tmp_path / "err").read_text(), 60, "the token to be taken")
    operator.kill()
    operator.wait(30)
    ref = (tmp_path / "err").read_text().partition("(ref ")[2][:8]
    assert f"ref {ref})" in place.text()


DEPLOY = {"target": "web*", "reason": "upgrade"}
STEPS = """
request:
  deploytoken.requested: []
token:
  deploytoken.held: []
between:
  cmd.run:
    - name: 'touch {0}/begun; until [ -e {0}/go ]; do sleep 0.1; done'
cleanup:
  deploytoken.released: []
"""


@pytest.fixture
def between(tmp_path, place):
    """An orchestration's configuration that waits between two steps of ours; ``between()`` runs it, and waits too."""
    states = tmp_path / "states"
    states.mkdir()
    (states / "steps.sls").write_text(STEPS.format(tmp_path))
    made = Config.make(tmp_path / "salt", file_roots=[states], **place.options("alice"))
    place.accounts["alice"] = people.account(made.options)
    with place.token("alice") as alice:
        alice.acquire("upgrade", ref="aaaaaaaa")

    def start():
        pillar = {"deploytoken": {**DEPLOY, "ref": "aaaaaaaa"}}
        started = made.popen("state.orchestrate", "steps", pillar=pillar)
        until((tmp_path / "begun").exists, 120, "the step between two of ours")
        return started

    start.run = made.command
    try:
        yield start
    finally:
        (tmp_path / "go").touch()


def ways_on(stderr):
    """The commands that a person is told, by their beginnings."""
    lines = [line.partition(": ") for line in stderr.splitlines() if line.startswith("To ")]
    return {why: shlex.split(command) for why, _, command in lines}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_whoever_interrupts_between_two_steps_is_told_once_that_the_token_stays_held(place, between, number):
    deploy = between()
    deploy.send_signal(number)
    _, stderr = deploy.communicate(timeout=240)
    assert deploy.returncode == 1
    assert "ref aaaaaaaa" in place.text()
    assert stderr.count("The deploy token stays held (ref aaaaaaaa): the deploy was ended in the middle.") == 1
    told = ways_on(stderr)
    assert sorted(told) == ["To release it", "To run again under the same hold"]
    again = told["To run again under the same hold"]
    assert again[:3] == ["salt-run", "state.orchestrate", "deploytoken.deploy"]
    assert json.loads(again[3].removeprefix("pillar="))["deploytoken"] == {**DEPLOY, "ref": "aaaaaaaa"}
    released = between.run(*told["To release it"])
    assert released.code == 0, released
    assert "Held by: nobody" in place.text()


def test_a_terminal_that_goes_away_between_two_steps_leaves_the_token_held(place, between):
    deploy = between()
    deploy.send_signal(signal.SIGHUP)
    deploy.communicate(timeout=240)
    assert deploy.returncode == -signal.SIGHUP
    assert "ref aaaaaaaa" in place.text()


def test_a_deploy_that_comes_to_its_end_tells_there_what_goes_on_and_not_once_more(tmp_path, place, between):
    (tmp_path / "go").touch()
    stdout, stderr = between().communicate(timeout=240)
    # Salt logs the comment of a failed step as well.
    assert "The deploy token stays held (ref aaaaaaaa): no state was applied." in stdout
    assert "ref aaaaaaaa" in place.text()
    assert "ended in the middle" not in stderr


def test_a_deploy_that_nobody_hears_any_more_goes_on_to_its_end(tmp_path, place, between):
    """Without a terminal, a lost ssh connection only breaks the pipe."""
    deploy = between()
    deploy.stderr.close()
    (tmp_path / "go").touch()
    out = deploy.stdout.read()
    deploy.wait(60)
    assert "The deploy token stays held (ref aaaaaaaa): no state was applied." in out
    assert "Held by: Alice" in place.text()
