"""Whether a job still runs: what its own master knows, and what no other can."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading

import pytest
from salt import payload

from saltext.deploytoken import errors
from saltext.deploytoken.deploy import jobs
from saltext.deploytoken.machines import asking
from tests.support import process as process_
from tests.support.salt import CHECKOUT

REF, JID, LATER = "f9c2a1b0", "20261122223000123456", "20261122224500123456"
JOB = f"{JID}@master1"


@pytest.fixture
def opts(tmp_path):
    (tmp_path / "proc").mkdir()
    return {"cachedir": str(tmp_path), "hash_type": "sha256", "id": "master1_master"}


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "1000"]) as started:
        yield started
        started.kill()


def begin(opts, jid, pid):
    """What Salt has of a runner while it runs."""
    path = jobs.Path(opts["cachedir"]) / "proc" / jid
    path.write_bytes(payload.dumps({"pid": pid, "fun": "runner.state.orchestrate"}))
    return path


def test_a_job_that_was_killed_does_not_run_whether_or_not_salt_has_cleaned_up_after_it(opts, process):
    kept = begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    assert jobs.runs(opts, JOB) is True
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until somebody waits for it
    assert jobs.runs(opts, JOB) is False
    process.wait()
    assert jobs.runs(opts, JOB) is False
    kept.unlink()
    assert jobs.runs(opts, JOB) is False


def test_another_process_with_the_same_id_is_another_one(opts, process):
    begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    path = jobs.Path(opts["cachedir"]) / "deploytoken" / "job.json"
    known = json.loads(path.read_text())
    for key, value in (("start", "1"), ("boot", "another")):
        path.write_text(json.dumps({**known, "process": {**known["process"], key: value}}))
        assert jobs.runs(opts, JOB) is False


HOLDER = """
import sys
from saltext.deploytoken.deploy import jobs
with jobs.alone(*sys.argv[1:]) as begin:
    begin(True)
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def at_work(opts):
    """``at_work(ref, jid)``: another process that is at work under a hold, as it would be on any Salt."""
    with contextlib.ExitStack() as stack:

        def start(ref, jid):
            words = [sys.executable, "-c", HOLDER, opts["cachedir"], ref, jid]
            env = {"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/_utils", "PATH": "/usr/bin:/bin"}
            started = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
            stack.callback(process_.end, started)
            assert started.stdout.readline() == b"at work\n"
            return started

        yield start


def test_a_job_at_work_runs_until_its_process_ends_however_it_does(opts, at_work):
    worker = at_work(REF, JID)
    assert jobs.runs(opts, JOB) is True
    assert jobs.runs(opts, f"{JID}@master2") is None
    worker.kill()
    worker.wait(30)
    assert jobs.runs(opts, JOB) is False
    with jobs.alone(opts["cachedir"], REF, LATER) as begin:
        begin(True)  # as whoever goes on after a crash
        assert jobs.runs(opts, f"{LATER}@master1") is True
    assert jobs.runs(opts, f"{LATER}@master1") is False


def test_no_two_jobs_are_at_work_here_at_a_time_whatever_the_page_says(opts, at_work):
    worker = at_work(REF, JID)
    with jobs.alone(opts["cachedir"], "0badc0de", LATER) as begin:
        with pytest.raises(errors.Held, match=f"{JID} still runs here under the hold {REF}, although .* over: wait"):
            begin(True)
    with jobs.alone(opts["cachedir"], REF, LATER) as begin:
        with pytest.raises(errors.Held, match=f"{JID} still runs here under the hold {REF}: wait") as refused:
            begin(True)
    assert refused.value.details["job"] == JID
    # The page's line names it, so its files may only go with the hold, unless that was ended by name.
    jobs.forget(opts["cachedir"], REF, forced=False)
    assert jobs.runs(opts, JOB) is True
    jobs.forget(opts["cachedir"], REF)
    with jobs.alone(opts["cachedir"], "0badc0de", LATER) as begin:
        begin(True)
    assert worker.poll() is None


def test_whoever_only_waits_for_the_token_stops_nobody(opts):
    with jobs.alone(opts["cachedir"], REF, JID):
        assert jobs.runs(opts, JOB) is True
        with jobs.alone(opts["cachedir"], "0badc0de", LATER) as begin:
            begin(True)


def test_whoever_gives_the_token_back_stops_nobody_who_has_waited_for_it(opts):
    with jobs.alone(opts["cachedir"], REF, JID) as begin, jobs.alone(opts["cachedir"], "0badc0de", LATER) as next_one:
        begin(True)
        begin(False)
        next_one(True)
        assert jobs.runs(opts, JOB) is True


def test_of_two_threads_that_begin_at_once_one_is_refused(opts):
    """The reactor carries out orchestrations in threads of one process."""
    gate, refused = threading.Barrier(2, timeout=60), []

    def one(ref, jid):
        with jobs.alone(opts["cachedir"], ref, jid) as begin:
            gate.wait()
            try:
                begin(True)
            except errors.Held:
                refused.append(ref)
            gate.wait()

    threads = [threading.Thread(target=one, args=pair) for pair in ((REF, JID), ("0badc0de", LATER))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused


def test_every_job_has_an_id_that_the_page_can_carry(opts):
    assert jobs.own(opts, JID) == JID
    assert jobs.own(opts, f"{JID}_4711") == JID  # with unique_jid
    begin(opts, LATER, os.getpid())
    assert jobs.own(opts, JID) == LATER
    begin(opts, JID, os.getpid())  # two orchestrations in one process, as in the reactor
    assert jobs.own(opts, JID) == JID
    for given in (None, "x"):
        assert re.fullmatch("[0-9]{20}", jobs.own({**opts, "unique_jid": True}, given))


def test_a_process_that_goes_on_after_its_job_is_no_job(opts):
    """As that of the reactor."""
    kept = begin(opts, JID, os.getpid())
    jobs.note(opts["cachedir"], REF, JID)
    assert jobs.runs(opts, JOB) is True
    kept.unlink()
    assert jobs.runs(opts, JOB) is False


def test_where_no_process_can_be_seen_nobody_says_that_a_job_has_ended(opts, process, monkeypatch):
    begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    monkeypatch.setattr(asking, "process", lambda pid: None)  # as on a Mac, which has no /proc
    assert jobs.runs(opts, JOB) is None


def test_of_another_masters_job_and_of_one_without_a_trace_nothing_is_known(opts, process):
    begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    jobs.note(opts["cachedir"], "0badc0de", LATER)  # not a job of this master
    assert jobs.runs(opts, f"{JID}@master2") is None
    assert jobs.runs(opts, f"{LATER}@master1") is None
    for damaged in ("", "[]", '{"ref": "f9c2a1b0"}', '{"ref": "f9c2a1b0", "jid": 1, "process": 2}'):
        (jobs.Path(opts["cachedir"]) / "deploytoken" / "job.json").write_text(damaged)
        assert jobs.runs(opts, f"{LATER}@master1") is None
