"""Whether the job that holds the token still runs: what its own master knows, and what no other can."""

import json
import os
import subprocess

import pytest
from salt import payload

from saltext.deploytoken import errors
from saltext.deploytoken.deploy import jobs

REF, JID, LATER = "f9c2a1b0", "20261122223000123456", "20261122224500123456"


@pytest.fixture
def opts(tmp_path):
    (tmp_path / "proc").mkdir()
    return {"cachedir": str(tmp_path), "hash_type": "sha256"}


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
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": True}
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until somebody waits for it
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": False}
    process.wait()
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": False}
    kept.unlink()
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": False}


def test_another_process_with_the_same_id_is_another_one(opts, process):
    begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    path = jobs.Path(opts["cachedir"]) / "deploytoken" / "job.json"
    known = json.loads(path.read_text())
    for key, value in (("start", "1"), ("boot", "another")):
        path.write_text(json.dumps({**known, "process": {**known["process"], key: value}}))
        assert jobs.find(opts, REF, JID) == {"jid": JID, "running": False}


def test_of_the_jobs_under_one_hold_the_last_one_counts_even_if_the_page_says_nothing(opts, process):
    begin(opts, LATER, process.pid)
    jobs.note(opts["cachedir"], REF, LATER)
    assert jobs.find(opts, REF, JID) == jobs.find(opts, REF, None) == {"jid": LATER, "running": True}


def test_only_one_deploy_is_at_work_under_a_hold(opts):
    with jobs.alone(opts["cachedir"], REF):
        # Threads of one process, too: the reactor runs orchestrations in them.
        with pytest.raises(errors.Held, match=f"another deploy still runs under the hold {REF}"):
            jobs.alone(opts["cachedir"], REF).__enter__()
        with jobs.alone(opts["cachedir"], "0badc0de"):
            pass
    with jobs.alone(opts["cachedir"], REF):
        pass
    jobs.forget(opts["cachedir"], REF)
    assert not list((jobs.Path(opts["cachedir"]) / "deploytoken").glob(f"{REF}*"))


def test_a_process_that_goes_on_after_its_job_is_no_job(opts):
    """As that of the reactor."""
    kept = begin(opts, JID, os.getpid())
    jobs.note(opts["cachedir"], REF, JID)
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": True}
    kept.unlink()
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": False}


def test_where_no_process_can_be_seen_nobody_says_that_a_job_has_ended(opts, process, monkeypatch):
    begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    monkeypatch.setattr(jobs, "_process", lambda pid: None)  # as on a Mac, which has no /proc
    assert jobs.find(opts, REF, JID) == {"jid": JID, "running": None}
    assert jobs.find(opts, "0badc0de", JID) == {"jid": JID, "running": None}


def test_of_another_masters_job_nothing_is_known_and_of_a_free_token_there_is_none(opts, process):
    begin(opts, JID, process.pid)
    jobs.note(opts["cachedir"], REF, JID)
    jobs.note(opts["cachedir"], "0badc0de", LATER)  # not a job of this master
    assert jobs.find(opts, "0badc0de", LATER) == {"jid": LATER, "running": None}
    assert jobs.find(opts, None, None) is None
    for damaged in ("", "[]", '{"ref": "f9c2a1b0"}', '{"ref": "f9c2a1b0", "jid": 1, "process": 2}'):
        (jobs.Path(opts["cachedir"]) / "deploytoken" / "job.json").write_text(damaged)
        assert jobs.find(opts, REF, LATER) == {"jid": LATER, "running": None}
