"""The whole procedure on a real master, real minions and a real wiki page: how every deploy ends, and what is left."""

import json
import re
import shlex

import pytest

from tests.support.deploy import REASON, STEPS, comment, deploy, held, impatient, results, variant
from tests.support.salt import states


def published(config):
    """The functions that were published, by job; those that look after another job aside."""
    functions = {jid: str(job["Function"]) for jid, job in config.run("jobs.list_jobs").data.items()}
    return {jid: name for jid, name in functions.items() if not name.startswith(("runner.", "saltutil.find_job"))}


def test_a_deploy_goes_from_the_repositories_to_the_history_with_five_questions(site, redmine):
    before = published(site)
    # Not "*": the master also remembers the minions of other tests, which are gone, and would rightly be missed.
    answer = deploy(site, target="docs,kingfisher-main", target_type="list")
    assert answer.code == 0, answer
    assert results(answer) == dict.fromkeys(STEPS, True)
    assert [row["__id__"] for row in states(answer)] == STEPS
    assert site.changed.exists()
    assert "Held by: nobody" in redmine.text(site.page)
    assert re.search(r"^\* .* upgrade PostgreSQL \(ref [a-f][0-9a-f]{7}\)", redmine.text(site.page), re.MULTILINE)
    asked = [function for jid, function in sorted(published(site).items()) if jid not in before]
    refresh, boots = "['saltutil.refresh_pillar']", "['file.read', 'file.file_exists']"
    assert asked == ["busy.check", refresh, "busy.check", "state.highstate", boots]


def test_a_deploy_under_sudo_is_a_deploy(site):
    """Salt then calls the caller sudo_alice, and a client of that user has no key to authenticate with."""
    pillar = {"deploytoken": {"target": "docs", "reason": REASON}}
    answer = site.run("state.orchestrate", "deploytoken.deploy", pillar=pillar, environment={"SUDO_USER": "alice"})
    assert answer.code == 0, answer
    assert results(answer) == dict.fromkeys(STEPS, True)
    assert site.changed.exists()


def test_the_graceful_way_deploys_named_parts_of_many_while_spiders_run(site, redmine, tmp_path):
    config = variant(site, tmp_path / "etc", nodegroups={"kingfisher": "docs or kingfisher-*"})
    site.sls("part", "{{ grains.id }}:\n  file.touch:\n    - name: " + f"{tmp_path}/part-{{{{ grains.id }}}}\n")
    site.busy(9)
    before = published(config)
    request = {"target": "N@kingfisher and not ghost*", "target_type": "compound", "batch": "50%"}
    answer = deploy(config, **request, sls=["part"], saltenv="base", consent="Jane Doe, helpdesk")
    assert answer.code == 0, answer
    assert (tmp_path / "part-docs").exists()
    assert (tmp_path / "part-kingfisher-main").exists()
    assert not site.changed.exists()
    asked = [function for jid, function in sorted(published(config).items()) if jid not in before]
    refresh = "['saltutil.refresh_pillar']"
    # Whether the run keeps this extension there; two looks, two batches, and a look at the second batch.
    questions = ["busy.check", "deploygate.keeps", refresh, "busy.check", "state.sls", "busy.check", "state.sls"]
    assert asked[:7] == questions
    entry = next(line for line in redmine.text(site.page).splitlines() if line.startswith("* "))
    assert "Jane Doe, helpdesk" in entry
    assert "spider uganda" in entry
    page = " ".join(comment(answer, "report").split())
    assert "Consent: Jane Doe, helpdesk: spider uganda" in page
    assert "1 changed: kingfisher-main" in page
    assert REASON in page
    # What goes on meanwhile is on standard error.
    assert "batch 2 of 2: kingfisher-main" in answer.stderr
    assert "kingfisher-main: done in" in answer.stderr
    assert "cleanup: done" in answer.stderr


def test_a_busy_minion_stops_the_deploy_before_the_token_and_names_whom_to_ask(site, redmine):
    before = redmine.text(site.page)
    site.busy(1)
    answer = deploy(site)
    assert answer.code == 1
    assert results(answer) == {**dict.fromkeys(STEPS, False), "request": True, "repositories": True, "report": True}
    assert "spider uganda" in comment(answer, "idle")
    assert "Jane Doe" in comment(answer, "idle")
    assert not site.changed.exists()
    assert redmine.text(site.page) == before


def test_a_minion_that_became_busy_meanwhile_stops_the_deploy_and_the_token_is_given_back(site, redmine):
    site.busy(-2)
    answer = deploy(site)
    assert answer.code == 1
    assert (results(answer)["idle"], results(answer)["still idle"]) == (True, False), answer
    assert not site.changed.exists()
    assert held(site)["held_by"] is None
    assert "nothing deployed" in redmine.text(site.page)


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
    assert hold["ref"] in redmine.text(site.page)
    assert site.changed.exists()
    assert shlex.split(away)[1:3] == ["deploytoken.release", f"ref={hold['ref']}"]


def test_on_failure_release_writes_the_failure_into_the_history(site, redmine):
    site.fail.touch()
    answer = deploy(site, on_failure="release")
    assert answer.code == 1
    assert held(site)["held_by"] is None
    assert "FAILED" in redmine.text(site.page)


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
    before = redmine.text(site.page)
    answer = deploy(site)
    assert answer.code == 1
    assert "Bob" in comment(answer, "token")
    assert not site.changed.exists()
    assert redmine.text(site.page) == before


def test_a_minion_that_does_not_answer_stops_the_deploy(site, redmine, tmp_path):
    before = redmine.text(site.page)
    with site.ghost():
        answer = deploy(impatient(site, tmp_path / "etc"), target="docs,ghost", target_type="list")
    assert answer.code == 1
    assert "ghost" in comment(answer, "idle")
    assert not site.changed.exists()
    assert redmine.text(site.page) == before


def test_a_target_that_matches_nobody_stops_the_deploy(site, redmine):
    before = redmine.text(site.page)
    assert deploy(site, target="nobody*").code == 1
    assert redmine.text(site.page) == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "deploytoken.target"),
        ({"target": "docs"}, "deploytoken.reason"),
        ({"target": "docs", "reason": " "}, "deploytoken.reason"),
        ({"target": "docs", "reason": "x", "tagret": "y"}, "tagret"),
        ({"target": "docs", "reason": "x", "test": "yes"}, "deploytoken.test"),
        ({"target": "docs", "reason": "x", "batch": "0"}, "deploytoken.batch"),
        ({"target": "docs", "reason": "x", "batch": "150%"}, "deploytoken.batch"),
        ({"target": "docs", "reason": "x", "reboot": True, "health": "nginx"}, "deploytoken.health"),
        ({"target": "docs", "reason": "x", "reboot": True, "health": {"sls": [""]}}, "deploytoken.health"),
        ({"target": ["docs"], "target_type": "glob", "reason": "x"}, "target_type must be list"),
        ({"target": "docs", "reason": "x", "sls": []}, "deploytoken.sls"),
        ({"target": "docs", "reason": "x", "on_failure": "ignore"}, "deploytoken.on_failure"),
        ({"target": "docs", "reason": "x", "ref": 12345678.0}, "deploytoken.ref"),
        ({"target": {"a": 1}, "reason": "x"}, "deploytoken.target"),
        ({"target": "web1,db9", "reason": "x"}, "deploytoken.target"),
        ({"target": "docs", "reason": "x", "function": "state.apply"}, "deploytoken.function"),
    ],
)
def test_a_request_that_is_not_clear_is_refused_by_name(master_config, request_, words):
    config = master_config({"store": "sqlite:////nonexistent/token.db"})
    answer = config.run("state.orchestrate", "deploytoken.deploy", pillar={"deploytoken": request_})
    assert answer.code == 1
    assert results(answer) == {**dict.fromkeys(STEPS, False), "report": True}, answer
    assert words in comment(answer, "request")


def test_pillar_that_no_server_would_see_is_refused_by_name(master_config):
    config = master_config({"store": "sqlite:////nonexistent/token.db"})
    pillar = {"deploytoken": {"target": "docs", "reason": "x"}, "app": {"version": 2}}
    answer = config.run("state.orchestrate", "deploytoken.deploy", pillar=pillar)
    assert answer.code == 1
    assert comment(answer, "request").startswith("app: stands beside deploytoken"), answer


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
    site.fail.touch()
    answer = deploy(variant(site, tmp_path / "etc", failhard=True), on_failure="release")
    assert answer.code == 1
    assert "FAILED" in redmine.text(site.page), answer


def test_unconsented_pieces_of_a_refusal_can_be_pasted(site):
    site.busy(1)
    answer = deploy(site, consent=json.loads('{"by": "Jane Doe", "for": ["docs/other/*"]}'))
    assert answer.code == 1
    assert "consent" in comment(answer, "idle")
