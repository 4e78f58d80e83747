"""The page at the end of a deploy: what it shows, that it fits, and that it hides no failure."""

import importlib.util
import json
import shlex

import pytest
from salt.utils.immutabletypes import freeze

from saltext.deploytoken.deploy import report, request
from saltext.deploytoken.deploy.record import Record, Step
from saltext.deploytoken.deploy.request import Request
from saltext.deploytoken.machines.states import Applied, Failure, Summary
from tests.support.salt import CHECKOUT

REF = "f9c2a1b0"
DEPLOY = {"target": "web*", "reason": "upgrade PostgreSQL"}


def row(name, result=True, comment="", ran=True):
    """What Salt returns for one state."""
    row.number += 1
    found = {"__id__": name, "result": result, "comment": comment, "__state_ran__": ran, "duration": 1234.5}
    return {f"deploytoken_|-{name}_|-{name}_|-x": {**found, "__run_num__": row.number, "changes": {}}}


row.number = 0


def ended(result, changed=(), failed=(), silent=False, seconds=12.0):
    return Summary(result, list(changed), list(failed), silent=silent, seconds=seconds)


@pytest.fixture
def record():
    """Of a deploy that failed on its second machine of three."""
    found = Record(DEPLOY, test=False, ref=REF, request=Request(**DEPLOY))
    found.steps["held"] = Step(True, "Alice holds the deploy token")
    found.consents["web1/tmux/jd"] = ("Jane Doe", {"id": "web1/tmux/jd", "what": "tmux session"})
    found.applied = Applied(["web1", "web2", "web3"])
    found.applied.not_started = ["web3"]
    failed = [Failure("nginx", "port 80 is in use")]
    found.applied.minions = {"web1": ended(True, ["conf", "site"]), "web2": ended(False, failed=failed)}
    found.reboots.rebooted = ["web1"]
    found.ways = [("To release it", "salt-run x y")]
    return found


RUNNING = {
    **row("repositories", comment="Updated: deploy"),
    **row("idle", comment="Jane Doe agreed"),
    **row("token", comment="Alice holds the deploy token"),
    **row("deploy", False, "1 of 3 minions failed: web2: nginx: port 80 is in use; not started: web3"),
    **row("cleanup", False, "The deploy token stays held."),
}


def test_the_page_shows_what_a_person_asks(record):
    page = report.page(RUNNING, record)
    assert page.splitlines()[:3] == ["FAILED", "web*", f"upgrade PostgreSQL (ref {REF})"]
    for words in (
        "repositories  ok      1.2 s  Updated: deploy",
        "web1  ok  12.0 s  2 changed: conf, site",
        "web2  FAILED  12.0 s  nginx: port 80 is in use",
        "web3  not started",
        "Consent: Jane Doe: tmux session (web1/tmux/jd)",
        "Rebooted: web1",
        "To release it: salt-run x y",
    ):
        assert words.replace(" ", "") in page.replace(" ", "").replace("\n", ""), page


def test_the_page_has_80_columns_with_what_salt_puts_before_it(record):
    long = ended(True, [f"state {n}" for n in range(99)])
    record.applied.minions["kingfisher-main.open-contracting.example.org"] = long
    page = report.page({**RUNNING, **row("more", comment="word " * 200)}, record)
    longest = max(page.splitlines(), key=len)
    assert len(longest) <= 80 - 14, longest


def test_the_cause_is_shown_whole_and_what_follows_from_it_in_short(record):
    keys = ", ".join(f"key{number}" for number in range(40))
    running = {**row("request", False, f"no such key; known are: {keys}"), **row("cleanup", False, "word " * 200)}
    page = report.page(running, record)
    assert "key39" in page
    assert page.count("word") < 50
    assert max(len(line) for line in page.splitlines()[:-1]) <= 80 - 14


def test_a_success_shows_the_entry(record):
    del record.applied.minions["web2"]
    record.applied.not_started, record.ways = [], []
    record.entry = f"* 2026-11-24 Alice: upgrade (ref {REF})"
    page = report.page({**row("deploy"), **row("cleanup")}, record)
    assert page.startswith("DEPLOYED\n")
    assert f"History:  * 2026-11-24 Alice: upgrade (ref {REF})" in page
    assert "salt-run" not in page


def test_a_step_that_raised_after_states_began_is_not_said_to_have_deployed_nothing(record):
    record.applied = Applied(["web1"])
    record.applied.not_started = []
    running = {**row("idle"), **row("deploy", False, "BrokenPipeError"), **row("cleanup", False, "It stays held")}
    assert report.page(running, record).startswith("FAILED\n")


def test_a_deploy_that_began_nowhere_says_how_to_run_again():
    asked = {"target": ["a", "b"], "reason": "it's"}
    record = Record(asked, test=False, ref=REF, request=Request(**asked))
    page = report.page({**row("idle", False, "spider runs"), **row("token", False, "", False)}, record)
    assert page.startswith("NOTHING DEPLOYED\na, b\nit's\n")
    again = shlex.split(page.splitlines()[-1])
    assert json.loads(again[-1].removeprefix("pillar=")) == {"deploytoken": asked}


def test_a_step_that_did_not_run_is_no_failure_of_its_own_whatever_salt_says_of_it(record):
    running = {**row("idle", False, "spider runs"), **row("token", False, "One or more requisite failed: x")}
    assert "\ntoken  not run\n" in report.page(running, record)


def test_a_step_that_has_its_own_way_on_shows_that_and_no_other():
    record = Record(DEPLOY, test=False, ref=REF, request=Request(**DEPLOY))
    page = report.page(row("idle", False, "spider runs\nIf Jane agrees, run:\n  salt-run x"), record)
    assert page.endswith("\nIf Jane agrees, run:\n  salt-run x")


def test_the_page_says_who_started_it_what_was_deployed_and_when_the_machines_were_asked(record):
    record.caller, record.jid = "sudo_alice", "20261130091500123456"
    record.commits, record.looks = {"states": "1a2b3c4d5e6f"}, ["before the token", "after the update"]
    record.request = request.parse({**DEPLOY, "sls": "web", "saltenv": "dev"})
    page = report.page(RUNNING, record)
    for line in (
        "started by sudo_alice, job 20261130091500123456",
        "Commits:  states 1a2b3c4d",
        "From:     the environment dev",
        "Asked:    whether idle before the token, after the update",
    ):
        assert line in page.splitlines(), page


def test_a_test_says_loudly_which_commits_it_does_not_show(record):
    record.test = True
    record.plan = {"states": {"old": "1a2b3c4d5e", "new": "5e6f7a8b9c", "subjects": ["Use nginx"]}}
    second = " ".join(report.page(row("deploy", None), record).split("\n")[1:3])
    assert second.startswith("NOT SHOWN: what states 5e6f7a8b would change.")
    # Only a deploy fetches gitfs and git_pillar.
    record.plan, record.remotes = {}, True
    second = " ".join(report.page(row("deploy", None), record).split("\n")[1:3])
    assert second.startswith("NOT SHOWN: what news of the master's own git remotes would change.")


def test_a_machine_that_failed_shows_its_job_and_one_at_work_is_no_failure_of_its_own(record):
    work = Summary(
        False, [], [Failure(None, "state.highstate of bob runs there")], at_work=True, jid="20261130091500123456"
    )
    record.applied.minions["web2"] = work
    page = " ".join(report.page(RUNNING, record).split())
    assert (
        "web2 at work 0.0 s state.highstate of bob runs there (salt-run jobs.lookup_jid 20261130091500123456)" in page
    )


def test_a_hold_that_is_over_is_not_offered_again():
    asked = {**DEPLOY, "ref": REF}
    record = Record(asked, test=False, ref=REF, request=Request(**asked))
    record.steps["held"] = Step(False, "the hold has ended", "not_yours")
    page = report.page(row("token", False, "the hold has ended"), record)
    assert json.loads(shlex.split(page.splitlines()[-1])[-1].removeprefix("pillar=")) == {"deploytoken": DEPLOY}


def test_a_request_that_was_refused_is_not_offered_again():
    record = Record({"tagret": "x"}, test=False, ref=REF)
    page = report.page(row("request", False, "deploytoken.tagret: no such key"), record)
    assert "deploytoken.tagret" in page
    assert "salt-run" not in page


def test_a_test_says_so_and_whether_a_deploy_would_be_stopped(record):
    record.test, record.ways = True, []
    assert report.page(row("idle"), record).startswith("TEST: nothing was changed\n")
    assert report.page(row("idle", False), record).startswith(
        "TEST: nothing was changed, and a deploy would be stopped"
    )


@pytest.fixture
def state(tmp_path):
    """The state file without Salt's loader, with the dunders that a test wants."""
    spec = importlib.util.spec_from_file_location("deploytoken_states", CHECKOUT / "_states" / "deploytoken.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": False, "cachedir": str(tmp_path), "deploytoken": {}}
    module.__salt__, module.__context__, module.__pillar__ = {}, {}, {"deploytoken": freeze(DEPLOY)}
    module.__running__ = freeze(row("request", False, "not configured"))
    module.requested("request")
    return module


@pytest.mark.parametrize("asked", [None, "x", {}])
def test_a_request_that_is_nonsense_still_has_its_page(state, asked):
    state.__pillar__ = {"deploytoken": asked}
    state.requested("request")
    assert "not configured" in state.reported("report")["comment"]


def test_a_page_that_nobody_reads_any_more_is_no_failure(state, monkeypatch):
    class Deaf:
        def write(self, text):
            raise BrokenPipeError

    state.__opts__["quiet"] = True
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Deaf())
        ret = state.reported("report")
    assert ret["result"] is True


@pytest.mark.parametrize(
    "step", ["fetched", "idle", "held", "updated", "noted", "applied", "rebooted", "released", "reported"]
)
def test_a_step_of_an_orchestration_without_a_request_says_what_is_missing(state, step):
    state.__context__ = {}
    ret = getattr(state, step)("step")
    assert (ret["result"], "deploytoken.requested" in ret["comment"]) == (False, True)
