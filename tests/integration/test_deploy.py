"""The whole procedure on a real master, real minions and a real wiki page: how every deploy ends, and what is left."""

import json
import re
import shlex
import signal

import pytest
import yaml

from tests.support.salt import CHECKOUT, Config, states
from tests.support.wait import until

PROBE = """
import pathlib

def probe(path):
    \"\"\"Each look counts the number in the file towards zero: above zero blocks, and so does -1.\"\"\"
    file = pathlib.Path(path)
    left = int(file.read_text()) if file.exists() else 0
    file.write_text(str(left - 1 if left > 0 else left + 1 if left < 0 else 0))
    busy = left > 0 or left == -1
    spider = {"id": "spider", "what": "spider uganda", "user": "scrapyd", "ask": "Jane Doe"}
    return {"blockers": [spider] if busy else [], "unknowns": [], "info": []}
"""


@pytest.fixture(scope="module")
def probe(_cluster):
    path = _cluster.states / "_modules" / "counter.py"
    path.parent.mkdir()
    path.write_text(PROBE)
    _cluster.salt("*", "saltutil.sync_modules")
    yield
    path.unlink()
    _cluster.salt("*", "saltutil.sync_modules")


@pytest.fixture
def site(cluster, probe, tmp_path):
    """The cluster with a highstate that makes ``site.changed``, and with a probe that ``site.busy`` sets."""
    cluster.changed, cluster.fail, counter = tmp_path / "changed", tmp_path / "fail", tmp_path / "counter"
    cluster.busy = lambda looks: counter.write_text(str(looks))
    cluster.busy(0)
    cluster.top(**{"*": ["deploytoken.gate", "work"]})
    unless = [{"name": str(cluster.changed)}, {"unless": f"test -e {cluster.fail}"}]
    broken = [{"name": "the database is away"}, {"onlyif": f"test -e {cluster.fail}"}]
    cluster.sls("work", {"work": {"file.touch": unless}, "broken": {"test.fail_without_changes": broken}})
    cluster.sls("part", {"part": {"file.touch": [{"name": str(tmp_path / "part")}]}})
    cluster.pillar_of("docs", busy={"counter": {"path": str(counter)}})
    cluster.salt("docs", "saltutil.refresh_pillar", wait=True)
    return cluster


def deploy(site, target="docs", reason="upgrade PostgreSQL", **more):
    return site.orchestrate(target=target, reason=reason, **more)


def page(site, redmine):
    return redmine.text(site.page)


def held(site):
    return site.run("deploytoken.status").data


def results(answer):
    return {row["__id__"]: row["result"] for row in states(answer)}


def comment(answer, step):
    return next(row["comment"] for row in states(answer) if row["__id__"] == step)


STEPS = ["request", "repositories", "idle", "token", "still idle", "boots", "deploy", "cleanup", "report"]


def test_a_deploy_goes_from_the_repositories_to_the_history(site, redmine):
    # Not "*": the master also remembers the minions of other tests, which are gone, and would rightly be missed.
    answer = deploy(site, target="docs,kingfisher-main", target_type="list")
    assert answer.code == 0, answer
    assert results(answer) == dict.fromkeys(STEPS, True)
    assert [row["__id__"] for row in states(answer)] == STEPS
    assert site.changed.exists()
    assert "Held by: nobody" in page(site, redmine)
    assert re.search(r"^\* .* upgrade PostgreSQL \(ref [a-f][0-9a-f]{7}\)", page(site, redmine), re.MULTILINE)


def test_sls_deploys_the_named_parts_only(site, tmp_path):
    answer = deploy(site, sls=["part"])
    assert answer.code == 0, answer
    assert (tmp_path / "part").exists()
    assert not site.changed.exists()


def test_a_busy_minion_stops_the_deploy_before_the_token_and_names_whom_to_ask(site, redmine):
    before = page(site, redmine)
    site.busy(1)
    answer = deploy(site)
    assert answer.code == 1
    assert results(answer) == {**dict.fromkeys(STEPS, False), "request": True, "repositories": True}
    assert "spider uganda" in comment(answer, "idle")
    assert "Jane Doe" in comment(answer, "idle")
    assert not site.changed.exists()
    assert page(site, redmine) == before


def test_consent_lets_a_busy_minion_through_and_is_in_the_history(site, redmine):
    site.busy(9)
    answer = deploy(site, consent="Jane Doe, helpdesk")
    assert answer.code == 0, answer
    assert site.changed.exists()
    entry = next(line for line in page(site, redmine).splitlines() if line.startswith("* "))
    assert "Jane Doe, helpdesk" in entry
    assert "spider uganda" in entry


def test_a_minion_that_became_busy_meanwhile_stops_the_deploy_and_the_token_is_given_back(site, redmine):
    site.busy(-2)
    answer = deploy(site)
    assert answer.code == 1
    assert (results(answer)["idle"], results(answer)["still idle"]) == (True, False), answer
    assert not site.changed.exists()
    assert held(site)["held_by"] is None
    assert "nothing deployed" in page(site, redmine)


def test_a_failed_highstate_keeps_the_token_and_says_how_to_go_on(site, redmine):
    site.fail.touch()
    answer = deploy(site)
    assert answer.code == 1
    hold = held(site)
    assert hold["held_by"] is not None
    told = comment(answer, "cleanup")
    assert "docs" in told
    again, away = (line.partition(": ")[2] for line in told.splitlines()[-2:])

    site.fail.unlink()
    resumed = site.command(*shlex.split(again))
    assert resumed.code == 0, resumed
    assert held(site)["held_by"] is None
    assert hold["ref"] in page(site, redmine)
    assert site.changed.exists()
    assert shlex.split(away)[1:3] == ["deploytoken.release", f"ref={hold['ref']}"]


def test_on_failure_release_writes_the_failure_into_the_history(site, redmine):
    site.fail.touch()
    answer = deploy(site, on_failure="release")
    assert answer.code == 1
    assert held(site)["held_by"] is None
    assert "FAILED" in page(site, redmine)


def test_a_resumed_deploy_that_cannot_begin_keeps_what_it_did_not_take(site):
    site.run("deploytoken.acquire", reason="upgrade PostgreSQL", ref="f9c2a1b0")
    site.busy(-2)
    answer = deploy(site, ref="f9c2a1b0")
    assert answer.code == 1
    assert held(site)["ref"] == "f9c2a1b0"
    assert "stays held" in comment(answer, "cleanup")


def test_a_hold_that_is_over_cannot_be_resumed(site):
    answer = deploy(site, ref="f9c2a1b0")
    assert answer.code == 1
    assert results(answer)["token"] is False
    assert held(site)["held_by"] is None
    assert not site.changed.exists()


def test_a_token_held_by_bob_stops_the_deploy(site, redmine):
    redmine.edit(site.page, "Held by: Bob\n\nh2. History\n", "bob")
    before = page(site, redmine)
    answer = deploy(site)
    assert answer.code == 1
    assert "Bob" in comment(answer, "token")
    assert not site.changed.exists()
    assert page(site, redmine) == before


def test_a_minion_that_does_not_answer_stops_the_deploy(site, redmine):
    before = page(site, redmine)
    daemon = site.minion("silent", module_dirs=[str(CHECKOUT)])
    daemon.terminate()
    try:
        answer = deploy(site, target="docs,silent", target_type="list")
    finally:
        site.dismiss("silent")
    assert answer.code == 1
    assert "silent" in comment(answer, "idle")
    assert not site.changed.exists()
    assert page(site, redmine) == before


def test_a_target_that_matches_nobody_stops_the_deploy(site, redmine):
    before = page(site, redmine)
    assert deploy(site, target="nobody*").code == 1
    assert page(site, redmine) == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "deploy:target"),
        ({"target": "docs"}, "deploy:reason"),
        ({"target": "docs", "reason": " "}, "deploy:reason"),
        ({"target": "docs", "reason": "x", "tagret": "y"}, "tagret"),
        ({"target": "docs", "reason": "x", "test": "yes"}, "deploy:test"),
        ({"target": "docs", "reason": "x", "batch": "0"}, "deploy:batch"),
        ({"target": ["docs"], "target_type": "glob", "reason": "x"}, "target_type must be list"),
        ({"target": "docs", "reason": "x", "sls": []}, "deploy:sls"),
        ({"target": "docs", "reason": "x", "on_failure": "ignore"}, "deploy:on_failure"),
        ({"target": "docs", "reason": "x", "ref": 12345678.0}, "deploy:ref"),
        ({"target": {"a": 1}, "reason": "x"}, "deploy:target"),
    ],
)
def test_a_request_that_is_not_clear_is_refused_by_name(master_config, request_, words):
    config = master_config({"store": "sqlite:////nonexistent/token.db"})
    answer = config.run("state.orchestrate", "deploytoken.deploy", pillar={"deploy": request_})
    assert answer.code == 1
    assert results(answer) == dict.fromkeys(STEPS, False), answer
    assert words in comment(answer, "request")


def test_without_any_request_the_orchestration_says_what_it_wants(master_config):
    answer = master_config({"store": "sqlite:////nonexistent/token.db"}).run("state.orchestrate", "deploytoken.deploy")
    assert answer.code == 1
    assert "upgrade PostgreSQL" in comment(answer, "request")


def test_a_wiki_that_is_away_stops_the_deploy(site, redmine):
    with redmine.stopped():
        answer = deploy(site)
    assert answer.code == 1
    assert results(answer)["token"] is False
    assert not site.changed.exists()


def test_a_master_wide_failhard_does_not_skip_the_cleanup(site, tmp_path, redmine):
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "master").write_text(yaml.safe_dump({**site.options, "failhard": True}))
    site.fail.touch()
    answer = Config(folder).orchestrate(target="docs", reason="upgrade PostgreSQL", on_failure="release")
    assert answer.code == 1
    assert "FAILED" in page(site, redmine), answer


def test_of_two_deploys_at_once_one_is_refused(site, redmine):
    pillar = {"deploy": {"target": "docs", "reason": "upgrade PostgreSQL"}}
    both = [site.popen("state.orchestrate", "deploytoken.deploy", pillar=pillar) for _ in range(2)]
    output = [process.communicate(timeout=240)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], output
    assert page(site, redmine).count("* ") == 1
    assert held(site)["held_by"] is None


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_deploy_that_is_interrupted_leaves_the_token_held(site, tmp_path, word):
    gate, began = tmp_path / "gate", tmp_path / "began"
    run = f"touch {began}; while ! test -e {gate}; do sleep 0.2; done"
    site.sls("work", {"work": {"cmd.run": [{"name": run}]}})
    pillar = {"deploy": {"target": "docs", "reason": "upgrade PostgreSQL"}}
    process = site.popen("state.orchestrate", "deploytoken.deploy", pillar=pillar)
    try:
        until(began.exists, timeout=60, what="the highstate to begin")
        process.send_signal(word)
        process.communicate(timeout=60)
    finally:
        gate.touch()
        until(lambda: not site.salt("docs", "state.running").data.get("docs"), timeout=60, what="the highstate to end")
    assert process.returncode != 0
    assert held(site)["held_by"] is not None


def test_a_wiki_that_goes_away_before_the_release_is_told_and_the_token_stays_held(site, redmine):
    site.wiki.faults(lambda method, path, n: None)
    gone, gate = site.changed.with_name("gone"), site.changed.with_name("gate")
    site.sls("work", {"work": {"cmd.run": [{"name": f"touch {gone}; while ! test -e {gate}; do sleep 0.2; done"}]}})
    pillar = {"deploy": {"target": "docs", "reason": "upgrade PostgreSQL"}}
    process = site.popen("state.orchestrate", "deploytoken.deploy", pillar=pillar)
    until(gone.exists, timeout=60, what="the highstate to begin")
    with redmine.stopped():
        gate.touch()
        output = process.communicate(timeout=240)[0]
    assert process.returncode == 1
    assert "salt-run deploytoken.release ref=" in output
    assert held(site)["held_by"] is not None


def test_a_test_run_tells_everything_and_writes_nothing(site, redmine):
    before = redmine.versions(site.page)
    site.busy(1)
    answer = deploy(site, test=True)
    assert answer.code == 1  # the minion is busy
    found = results(answer)
    assert found["idle"] is False
    assert found["token"] is None
    assert found["deploy"] is None, answer
    assert not site.changed.exists()
    assert redmine.versions(site.page) == before
    site.busy(0)
    assert deploy(site, test=True).code == 0


def test_unconsented_pieces_of_a_refusal_can_be_pasted(site):
    site.busy(1)
    answer = deploy(site, consent=json.loads('{"by": "Jane Doe", "for": ["docs/other/*"]}'))
    assert answer.code == 1
    assert "consent" in comment(answer, "idle")
