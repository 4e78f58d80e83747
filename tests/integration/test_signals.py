"""Ctrl-C, SIGTERM, a lost connection: nothing is left behind, or what is left is said."""

import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import sys

import pytest

from saltext.deploytoken import page
from tests.support import process
from tests.support.places import RedminePlace, SqlitePlace
from tests.support.proxy import AFTER, BEFORE, Hold, drop, status
from tests.support.wait import until

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
#: And the one of a terminal that went away, such as with an ssh connection.
EVERY = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)


class Operator:
    """A command that runs, and what it has said so far."""

    def __init__(self, folder, options, function, **arguments):
        self.log = folder / f"{function}.log"
        self.process = process.start(
            [sys.executable, "-m", "tests.support.operator", json.dumps(options), function, json.dumps(arguments)],
            self.log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "_utils")])},
        )

    def said(self):
        return [json.loads(line) for line in self.log.read_text().splitlines(True) if line[0] + line[-1] == "{\n"]

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, timeout=120):
        """Wait for the end; the exit code, which is negative after a signal."""
        return self.process.wait(timeout)


@pytest.fixture
def start(tmp_path):
    with contextlib.ExitStack() as stack:

        def start_(options, function, **arguments):
            operator = Operator(tmp_path, options, function, **arguments)
            stack.callback(process.end, operator.process)
            return operator

        yield start_


@pytest.fixture
def place(redmine, proxy):
    place = RedminePlace(redmine)
    place.address = proxy.at(place.page)
    return place


def by_signal(code, number):
    """Python ends with -SIGINT after a KeyboardInterrupt, and -SIGTERM after SIGTERM."""
    return code == -number


def entries(place, ref):
    return page.entries(place.text(), ref)


# Waiting


@EVERY
def test_a_waiter_that_is_interrupted_leaves_nothing_behind(tmp_path, start, number):
    place = SqlitePlace(tmp_path)
    with place.token("bob") as bob:
        ref = bob.acquire("long work")["ref"]
        waiter = start(place.options("alice"), "acquire", reason="next", wait=600)
        until(lambda: any(line.get("event") == "waiting" for line in waiter.said()), what="the waiter to wait")
        versions = place.versions()
        waiter.signal(number)
        assert by_signal(waiter.end(), number)
        assert place.versions() == versions
        bob.release("done", ref)
        assert bob.status()["held_by"] is None
    assert not [line for line in waiter.said() if line.get("event") == "acquired"]


# In the middle of a write


@EVERY
def test_a_write_that_was_under_way_is_taken_back(tmp_path, start, place, proxy, number):
    before, held = place.text(), Hold()
    proxy.faults([held], only="PUT")
    operator = start(place.options("alice", timeout=30, deadline=60), "acquire", reason="upgrade", wait=600)
    held.wait()
    operator.signal(number)
    held.release()
    assert by_signal(operator.end(), number)
    assert place.text() == before
    assert ["Held by: Alice" in text for text in place.versions()] == [False, True, False]


@BOTH
def test_a_write_that_waits_for_the_file_is_taken_back_sqlite(tmp_path, start, number):
    place = SqlitePlace(tmp_path)
    before = place.text()
    with contextlib.closing(sqlite3.connect(tmp_path / "token.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        operator = start(place.options("alice", timeout=30), "acquire", reason="upgrade")
        until(lambda: _catches(operator.process.pid, number), what="the write to be protected from signals")
        operator.signal(number)
        other.execute("ROLLBACK")
    assert by_signal(operator.end(), number)
    assert place.text() == before


def _catches(pid, number):
    """Whether the process has a handler for this signal: Python has one for SIGINT from its start."""
    caught = signal.SIGTERM if number == signal.SIGINT else number
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return mask >> (caught - 1) & 1


def test_a_write_that_lost_its_answer_is_resolved_and_then_taken_back(start, place, proxy):
    before, held = place.text(), Hold(AFTER)

    def lose(handler, forward):
        held(handler, forward)

    first = drop(AFTER)
    first._act = lose
    proxy.faults([first, None, drop(AFTER)], only="PUT")
    operator = start(place.options("alice", timeout=30), "acquire", reason="upgrade")
    held.wait()
    operator.signal(signal.SIGINT)
    held.release()
    assert by_signal(operator.end(), signal.SIGINT)
    assert place.text() == before
    # The hold, the hold again, the withdrawal, the withdrawal again.
    assert [request.applied for request in proxy.log if request.method == "PUT"] == [[204]] * 4
    assert len(place.versions()) == 3


@EVERY
def test_a_write_whose_fate_stays_unknown_is_reported_although_interrupted(start, place, proxy, number):
    held = Hold()
    proxy.faults(lambda _method, _path, n: held if n == 1 else drop(BEFORE), only="PUT")
    operator = start(place.options("alice", timeout=3, deadline=3), "acquire", reason="upgrade")
    held.wait()
    operator.signal(number)
    assert operator.end() == 5
    assert operator.said()[-1]["reason"] == "in_doubt"
    ref = operator.said()[-1]["ref"]
    held.release()
    until(lambda: f"ref {ref}" in place.text(), what="the write to land")


def test_under_nohup_a_lost_connection_changes_nothing(start, place, proxy):
    held = Hold()
    proxy.faults([held], only="PUT")
    # A child has the ignored signals of whoever starts it.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        operator = start(place.options("alice", timeout=30), "acquire", reason="upgrade")
    finally:
        signal.signal(signal.SIGHUP, before)
    held.wait()
    operator.signal(signal.SIGHUP)
    held.release()
    assert operator.end() == 0
    assert f"ref {operator.said()[-1]['ref']}" in place.text()


def test_a_hold_that_was_given_back_is_never_answered_as_held(tmp_path, monkeypatch):
    """Somebody's handler may let a signal pass."""
    place = SqlitePlace(tmp_path)
    before, came = place.text(), []
    handler = signal.signal(signal.SIGTERM, lambda *_: came.append("passed"))
    try:
        with place.token("alice", lambda *_: signal.raise_signal(signal.SIGTERM)) as alice:
            with pytest.raises(KeyboardInterrupt):
                alice.acquire("upgrade")
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert came == ["passed"]
    assert place.text() == before


def test_a_second_interruption_ends_the_resends_with_doubt(start, place, proxy):
    proxy.faults(lambda *_: drop(BEFORE), only="PUT")
    operator = start(place.options("alice", deadline=600), "acquire", reason="upgrade")
    until(lambda: proxy.methods().count("PUT") > 1, what="the write to be sent again")
    operator.signal(signal.SIGINT)
    sent = proxy.methods().count("PUT")
    until(lambda: proxy.methods().count("PUT") > sent + 1, what="the first interruption not to end the resends")
    operator.signal(signal.SIGINT)
    assert operator.end() == 5
    assert operator.said()[-1]["reason"] == "in_doubt"


def test_a_hold_that_cannot_be_given_back_is_said(start, place, proxy):
    held = Hold()
    proxy.faults([held, status(403)], only="PUT")
    operator = start(place.options("alice", timeout=30), "acquire", reason="upgrade")
    held.wait()
    operator.signal(signal.SIGINT)
    held.release()
    assert operator.end() == 5
    ref = operator.said()[-1]["ref"]
    assert f"run `salt-run deploytoken.release ref={ref} summary=" in operator.said()[-1]["message"]
    with place.token("alice") as alice:
        assert alice.release("not used", ref)["released"] == ref


def test_a_second_interruption_ends_the_giving_back_as_well(start, place, proxy):
    held = Hold()
    proxy.faults(lambda _method, _path, n: held if n == 1 else drop(BEFORE), only="PUT")
    operator = start(place.options("alice", timeout=30, deadline=600), "acquire", reason="upgrade")
    held.wait()
    operator.signal(signal.SIGINT)
    held.release()
    until(lambda: proxy.methods().count("PUT") > 2, 30, "the giving back to be sent again")
    operator.signal(signal.SIGINT)
    assert operator.end() == 5
    assert "could not be given back" in operator.said()[-1]["message"]
    assert f"ref {operator.said()[-1]['ref']})" in place.text()


@BOTH
def test_an_interruption_while_it_is_told_takes_the_hold_back(tmp_path, start, number):
    """Until the answer is out, nobody knows the ref."""
    place = SqlitePlace(tmp_path)
    before = place.text()
    operator = start(place.options("alice"), "acquire", reason=f"signal {number:d} in acquired")
    assert by_signal(operator.end(), number)
    assert place.text() == before
    assert len(place.versions()) == 3


def test_a_hold_that_was_only_confirmed_stands_after_an_interruption(start, place, proxy):
    with place.token("alice") as alice:
        ref = alice.acquire("upgrade")["ref"]
    held = Hold()
    proxy.faults([held], only="GET")
    operator = start(place.options("alice", timeout=30), "acquire", reason="upgrade", ref=ref)
    held.wait()
    operator.signal(signal.SIGINT)
    held.release()
    assert by_signal(operator.end(), signal.SIGINT)
    assert f"ref {ref}" in place.text()
    assert entries(place, ref) == []


@EVERY
def test_a_release_that_was_under_way_is_a_release(start, place, proxy, number):
    with place.token("alice") as alice:
        ref = alice.acquire("upgrade")["ref"]
        held = Hold()
        proxy.faults([held], only="PUT")
        operator = start(place.options("alice", timeout=30), "release", summary="done", ref=ref)
        held.wait()
        operator.signal(number)
        held.release()
        assert by_signal(operator.end(), number)
        assert len(entries(place, ref)) == 1
        assert alice.status()["held_by"] is None
    # Whoever listens to events must not go on to believe that it is held.
    assert [line["event"] for line in operator.said()] == ["released"]


def test_a_takeover_that_was_under_way_is_a_takeover(start, place, proxy):
    with place.token("alice") as alice:
        ref = alice.acquire("upgrade")["ref"]
    held = Hold()
    proxy.faults([held], only="PUT")
    operator = start(place.options("bob", timeout=30), "take_over", reason="urgent", ref=ref)
    held.wait()
    operator.signal(signal.SIGTERM)
    held.release()
    assert by_signal(operator.end(), signal.SIGTERM)
    (told,) = operator.said()
    assert (told["event"], told["displaced"]["ref"]) == ("takenover", ref)
    assert f"ref {told['ref']})" in place.text()
