"""The page at the end of a deploy: what it shows, that it fits, and that it hides no failure."""

import json
import shlex

import pytest
from salt.utils.immutabletypes import freeze

from tests.support import steps

REF = "f9c2a1b0"


@pytest.fixture(scope="module")
def report():
    return steps.load("deployreport")


def ended(result, changed=(), failed=(), silent=False, seconds=12.0):
    return {"result": result, "changed": list(changed), "failed": list(failed), "silent": silent, "seconds": seconds}


def step(name, result=True, comment="", ran=True, **more):
    step.number += 1
    row = {"__id__": name, "result": result, "comment": comment, "__state_ran__": ran, "duration": 1234.5}
    return {**row, "__run_num__": step.number, "changes": {}, **more}


step.number = 0


@pytest.fixture
def deployed():
    blocker = {"id": "web1/tmux/jd", "what": "tmux session"}
    failed = [{"id": "nginx", "comment": "port 80 is in use"}]
    return [
        step("repositories", comment="Updated: deploy"),
        step("idle", comment="Jane Doe agreed", consented={"by": "Jane Doe", "to": [blocker]}),
        step("token", comment="Alice holds the deploy token", ref=REF),
        step(
            "deploy",
            False,
            "1 of 3 minions failed: web2: nginx: port 80 is in use; not started: web3",
            minions={"web1": ended(True, ["conf", "site"]), "web2": ended(False, failed=failed)},
            not_started=["web3"],
        ),
        step(
            "cleanup",
            False,
            "The deploy token stays held.",
            next=[("To release it", "salt-run x y")],
            rebooted=["web1"],
        ),
    ]


DEPLOY = {"target": "web*", "reason": "upgrade PostgreSQL"}


def test_the_page_shows_what_a_person_asks(report, deployed):
    page = report.page(deployed, DEPLOY, REF)
    lines = page.splitlines()
    assert lines[:3] == ["FAILED", "web*", f"upgrade PostgreSQL (ref {REF})"]
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


def test_the_page_has_80_columns_with_what_salt_puts_before_it(report, deployed):
    deployed[3]["minions"]["kingfisher-main.open-contracting.example.org"] = ended(
        True, [f"state {n}" for n in range(99)]
    )
    deployed[0]["comment"] = "word " * 200
    longest = max(report.page(deployed, DEPLOY, REF).splitlines(), key=len)
    assert len(longest) <= 80 - 14, longest


def test_the_cause_is_shown_whole_and_what_follows_from_it_in_short(report):
    keys = [f"key{number}" for number in range(40)]
    found = [
        step("request", False, f"Refused: deploy: raeson is none of {', '.join(keys)}."),
        step("cleanup", False, "word " * 200),
    ]
    page = report.page(found, DEPLOY, REF)
    assert "key39." in page
    assert page.count("word") < 50
    assert max(len(line) for line in page.splitlines()[:-1]) <= 80 - 14


def test_success_shows_the_entry(report, deployed):
    deployed[3].update(result=True, comment="web1: 2 changed", not_started=[])
    del deployed[3]["minions"]["web2"]
    deployed[4].update(result=True, next=[], changes={"entry": f"* 2026-11-24 Alice: upgrade (ref {REF})"})
    page = report.page(deployed, DEPLOY, REF)
    assert page.startswith("DEPLOYED\n")
    assert f"History:  * 2026-11-24 Alice: upgrade (ref {REF})" in page
    assert "salt-run" not in page


def test_a_step_that_fell_over_is_not_said_to_have_deployed_nothing(report):
    found = [step("idle"), step("deploy", False, "BrokenPipeError", minions={}, reason="unknown")]
    assert report.page(found, DEPLOY, REF).startswith("FAILED\n")


def test_a_deploy_that_began_nowhere_says_how_to_run_again(report):
    found = [step("idle", False, "spider runs\nconsent:\n  by: WHO"), step("token", False, "requisite", ran=False)]
    page = report.page(found, {"target": ["a", "b"], "reason": "it's"}, REF)
    assert page.startswith("NOTHING DEPLOYED\na, b\nit's\n")
    assert "\nconsent:\n  by: WHO\n" in page
    again = shlex.split(page.splitlines()[-1])
    assert json.loads(again[-1].removeprefix("pillar=")) == {"deploytoken": {"target": ["a", "b"], "reason": "it's"}}


@pytest.mark.parametrize(
    ("mode", "on_stderr"), [(None, False), ("full", False), ("full_id", False), ("changes", True)]
)
def test_the_page_is_shown_once_and_hides_no_failure(report, capsys, mode, on_stderr):
    report.__opts__ = {"test": False, **({"state_output": mode} if mode else {})}
    report.__pillar__ = {"deploytoken": DEPLOY}
    report.__running__ = freeze({"a_|-b_|-b_|-c": step("idle", False, minions={"web1": ended(True)})})
    ret = report.shown("report", REF)
    assert ret["comment"].startswith("FAILED\n")
    # Salt logs the comment of a failure as well.
    assert (ret["result"], ret["changes"]) == (True, {})
    answer, progress = capsys.readouterr()
    assert answer == ""
    assert (ret["comment"] in progress) is on_stderr


def test_a_quiet_run_is_left_with_its_page(report, capsys):
    report.__opts__ = {"test": False, "quiet": True}
    report.__pillar__ = {"deploytoken": DEPLOY}
    report.__running__ = freeze({"a_|-b_|-b_|-c": step("idle", False, minions={"web1": ended(True)})})
    ret = report.shown("report", REF)
    assert ret["comment"] in capsys.readouterr().err


@pytest.mark.parametrize("deploy", [None, "x", {}])
def test_a_request_that_is_nonsense_still_has_its_page(report, deploy):
    report.__opts__ = {"test": False}
    report.__pillar__ = {"deploytoken": deploy}
    report.__running__ = freeze({"a_|-b_|-b_|-c": step("request", False, "Refused: say what to deploy")})
    assert "Refused: say what to deploy" in report.shown("report")["comment"]


def test_a_page_that_nobody_reads_any_more_is_no_failure(report, monkeypatch):
    class Deaf:
        def write(self, text):
            raise BrokenPipeError

    report.__opts__ = {"test": False, "quiet": True}
    report.__pillar__, report.__running__ = {"deploytoken": DEPLOY}, {}
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Deaf())
        ret = report.shown("report")
    assert ret["result"] is True
