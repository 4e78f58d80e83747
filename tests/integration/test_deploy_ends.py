"""However a deploy ends: the token, the History, the exit code and the message agree on what happened."""

import os
import re
import shutil
import signal
import subprocess

import pytest

from tests.support.deploy import BOTH, REASON, comment, deploy, held, impatient, results, step, stopped, variant
from tests.support.wait import until


def report(answer):
    return comment(answer, "report")


def entries(site, redmine):
    return [line for line in redmine.text(site.page).splitlines() if line.startswith("* ")]


# Batches


def test_a_failure_in_one_batch_stops_the_next(site, redmine, tmp_path):
    mark = tmp_path / "mark"
    failing = "{% if grains.id == 'docs' %}\nwork:\n  test.fail_without_changes:\n    - name: disk full\n{% else %}"
    site.sls("work", f"{failing}\nwork:\n  file.touch:\n    - name: {mark}\n{{% endif %}}\n")
    answer = deploy(site, **BOTH, batch=1)
    assert answer.code == 1
    assert not mark.exists()
    hold = held(site)
    assert hold["held_by"] is not None
    found = step(answer, "deploy")
    assert (found["failed"], found["not_started"]) == (["docs"], ["kingfisher-main"])
    # What people know from salt.state: the minion's own states.
    assert [row["__id__"] for row in found["changes"]["ret"]["docs"].values() if row["result"] is False] == ["work"]
    page = report(answer)
    assert page.startswith("FAILED\n")
    assert "work: Failure!" in page
    assert "not started" in page
    assert f'"ref": "{hold["ref"]}"' in page
    assert f"salt-run deploytoken.release ref={hold['ref']}" in page
    assert entries(site, redmine) == []


def test_a_deploy_at_work_is_only_ended_by_name_and_its_own_words_reach_the_history(site, redmine, midway):
    deploying = midway.start(**BOTH, batch="50%", on_failure="release")
    midway.begun("docs")
    hold = held(site)
    jid = hold["job"]["jid"]
    assert hold["job"]["running"] is True
    assert f"; job {jid}@" in redmine.text(site.page)

    # In a second terminal.
    for command in ("release", "takeover"):
        more = {"reason": "the site is down"} if command == "takeover" else {"summary": "mine"}
        answer = site.run(f"deploytoken.{command}", ref=hold["ref"], **more)
        assert (answer.code, answer.data["reason"]) == (3, "held"), answer
        assert f"the job {jid} runs under the hold {hold['ref']}" in answer.data["message"]
    taken = site.run("deploytoken.takeover", ref=hold["ref"], reason="the site is down", name="Bob", force=True)
    assert taken.code == 0, taken

    midway.go()
    answer = midway.end(deploying)
    assert (answer.code, step(answer, "cleanup")["reason"]) == (1, "not_yours"), answer
    assert midway.done("docs")
    assert not midway.done("kingfisher-main")
    assert held(site)["ref"] == taken.data["ref"]
    own, taken_over = entries(site, redmine)
    assert f"{REASON} (FAILED: " in own
    assert own.endswith(f"; its hold was ended meanwhile (ref {hold['ref']})")
    assert f"by force, over the job {jid}@" in taken_over
    assert "Bob holds the token" in comment(answer, "deploy")
    page = report(answer)
    assert "not started" in page
    assert "To deploy what is left, ask the person who ended it, and run again" in page
    assert "stays held" not in answer.stdout


def test_while_a_deploy_is_at_work_whose_hold_was_ended_in_the_browser_no_other_begins(site, redmine, midway):
    deploying = midway.start()
    midway.begun()
    hold = held(site)
    redmine.edit(site.page, "Held by: nobody\n\nh2. History\n", "bob")
    answer = deploy(site, target="kingfisher-main")
    assert (answer.code, results(answer)["token"]) == (1, False), answer
    assert f"the job {hold['job']['jid']} still runs here under the hold {hold['ref']}" in comment(answer, "token")
    assert held(site)["held_by"] is None
    midway.go()
    answer = midway.end(deploying)
    assert (answer.code, step(answer, "cleanup")["reason"]) == (1, "not_yours"), answer
    assert midway.done()
    own, other = entries(site, redmine)
    assert own.endswith(f"{REASON}; its hold was ended meanwhile (ref {hold['ref']})")
    assert "nothing deployed: the job" in other


# A minion goes silent


@pytest.mark.parametrize("on_failure", ["hold", "release"])
def test_a_minion_that_goes_silent_in_the_middle_keeps_the_token_held(site, midway, on_failure, redmine, tmp_path):
    deploying = midway.start(impatient(site, tmp_path / "etc"), on_failure=on_failure)
    midway.begun()
    if on_failure == "hold":
        with stopped(site.minions["docs"]):
            answer = midway.end(deploying)
        assert "went silent in the middle" in comment(answer, "deploy")
    else:
        (job,) = site.salt("docs", "saltutil.running").data["docs"]
        os.kill(job["pid"], signal.SIGKILL)
        answer = midway.end(deploying)
        assert "ended without a return" in comment(answer, "deploy")
    assert answer.code == 1
    hold = held(site)
    assert hold["held_by"] is not None
    page = report(answer)
    assert "salt -L docs state.running" in page
    assert f"salt-run deploytoken.release ref={hold['ref']}" in page
    assert entries(site, redmine) == []


def test_a_batch_with_a_minion_down_is_never_a_success(site, tmp_path):
    # With `batch` and `subset`, salt.state succeeds here.
    config = impatient(site, tmp_path / "etc")
    ref = site.run("deploytoken.acquire", reason=REASON).data["ref"]
    with site.ghost():
        answer = config.run("deploystates.apply", target="docs,ghost", target_type="list", ref=ref, batch=1)
    # It was up when the batch before it began, and is asked before its own.
    assert (answer.code, answer.data["reason"]) == (7, "busy"), answer
    assert "ghost did not answer" in answer.data["message"]
    assert answer.data["minions"]["docs"]["result"] is True
    assert answer.data["not_started"] == ["ghost"]
    assert site.changed.exists()
    assert "docs: done in" in answer.stderr


# salt-run, or the master, goes


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_tells_that_the_minions_go_on_and_keeps_the_token_held(site, midway, redmine, word):
    deploying = midway.start(on_failure="release")
    midway.begun()
    deploying.send_signal(word)
    answer = midway.end(deploying)
    assert answer.code == 1, answer
    assert not answer.traceback
    assert "docs go on with their states" in comment(answer, "deploy")
    hold = held(site)
    page = report(answer)
    assert f'"ref": "{hold["ref"]}"' in page
    assert f"salt-run deploytoken.release ref={hold['ref']}" in page
    assert entries(site, redmine) == []
    assert not midway.done()
    midway.go()
    until(midway.done, timeout=240, what="the minion to go on")


def test_ctrl_c_that_ends_tee_as_well_keeps_the_token_held_for_those_who_go_on(site, midway, redmine):
    # As in `salt-run … 2>&1 | tee log`: Ctrl-C ends both. Salt's handler then writes to standard error, and a broken
    # pipe is all that the runner gets to see of it (3008.3).
    deploying = midway.start(on_failure="release")
    midway.begun()
    deploying.stderr.close()
    deploying.send_signal(signal.SIGINT)
    answer = midway.end(deploying)
    assert answer.code == 1, answer
    assert "salt -L docs state.running" in report(answer)
    assert held(site)["held_by"] is not None
    assert entries(site, redmine) == []
    assert not midway.done()


def test_after_sigkill_status_says_that_nothing_deploys_and_the_same_deploy_goes_on(site, redmine, midway):
    deploying = midway.start()
    midway.begun()
    deploying.kill()
    assert midway.end(deploying).code == -signal.SIGKILL
    hold = held(site)
    assert hold["held_by"] is not None
    # As well when the master's maintenance, which comes every minute, has cleaned up after the dead process.
    assert hold["job"]["running"] is False
    midway.clean()
    answer = deploy(site, ref=hold["ref"])
    assert answer.code == 0, answer
    # A deploy took the hold, so it releases it.
    assert held(site)["held_by"] is None
    assert len(entries(site, redmine)) == 1


def test_a_wiki_that_goes_away_before_the_release_is_told_and_the_token_stays_held(site, redmine, midway):
    deploying = midway.start()
    midway.begun()
    with redmine.stopped():
        midway.go()
        answer = midway.end(deploying)
    assert answer.code == 1
    assert midway.done()
    hold = held(site)
    assert hold["held_by"] is not None
    assert f"The deploy token may still be held (ref {hold['ref']})" in comment(answer, "cleanup")
    assert f"salt-run deploytoken.release ref={hold['ref']}" in report(answer)


# Two at once


def test_of_two_deploys_in_the_same_second_one_runs_and_the_other_is_refused(site, redmine, midway):
    both = [midway.start() for _ in range(2)]
    midway.begun()
    # Whoever was refused has ended; whoever runs waits for us.
    until(lambda: any(one.poll() is not None for one in both), timeout=400, what="one to be refused")
    midway.go()
    answers = sorted((midway.end(one) for one in both), key=lambda answer: answer.code)
    assert [answer.code for answer in answers] == [0, 1], answers
    assert "you hold the token yourself" in comment(answers[1], "token")
    assert results(answers[1])["deploy"] is False
    assert len(entries(site, redmine)) == 1
    assert held(site)["held_by"] is None


def test_with_wait_both_run_one_after_the_other_and_nobody_else_waits(site, redmine, midway):
    site.sls("other", {"other": {"test.succeed_without_changes": []}})
    both = [midway.start(wait="15m", reason=reason) for reason in ("upgrade PostgreSQL", "renew certificates")]
    midway.begun()
    assert [one.communicate() for one in both if one.poll() is not None] == []
    assert site.run("state.orchestrate", "other").code == 0
    midway.go()
    answers = [midway.end(one) for one in both]
    assert [answer.code for answer in answers] == [0, 0], answers
    assert len(entries(site, redmine)) == 2
    assert held(site)["held_by"] is None


# Nothing to deploy from, nothing to change


def git(folder, *words):
    identity = ["-c", "user.name=Ana", "-c", "user.email=ana@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A clone that is one commit behind its remote."""
    remote, work, clone = (tmp_path / name for name in ("remote", "work", "states"))
    for folder in (remote, work):
        folder.mkdir()
    git(remote, "init", "--bare", "--quiet")
    git(work, "init", "--quiet")
    (work / "file").write_text("1")
    git(work, "add", "file")
    git(work, "commit", "-qm", "Begin")
    git(work, "push", "-q", remote, "main")
    git(tmp_path, "clone", "-q", remote, clone)
    (work / "file").write_text("2")
    git(work, "commit", "-qam", "Use PostgreSQL 16")
    git(work, "push", "-q", remote, "main")
    return clone


def test_repositories_are_updated_or_stop_the_deploy(site, redmine, repository, tmp_path):
    config = variant(site, tmp_path / "etc", deploytoken={**site.token, "repositories": [str(repository)]})
    site.busy(1)
    before, head = redmine.versions(site.page), git(repository, "rev-parse", "HEAD")

    # Read-only: all of it is told, and nothing is written.
    answer = deploy(config, test=True)
    assert answer.code == 1, answer  # something runs
    found = results(answer)
    assert (found["repositories"], found["idle"]) == (True, False)
    assert {found[name] for name in ("update", "token", "deploy", "cleanup")} == {None}
    page = report(answer)
    assert page.startswith("TEST: nothing was changed")
    for words in ("Would be updated: states", "spider uganda", "would acquire the deploy", "1 would change: work"):
        assert words in " ".join(page.split()), page
    assert not site.changed.exists()
    assert git(repository, "rev-parse", "HEAD") == head
    assert redmine.versions(site.page) == before

    # Work that is not committed: refused, and nothing else happens.
    site.busy(0)
    (repository / "file").write_text("mine")
    answer = deploy(config)
    assert answer.code == 1
    assert results(answer)["repositories"] is False
    assert "uncommitted changes" in comment(answer, "repositories")
    assert (repository / "file").read_text() == "mine"
    assert not site.changed.exists()
    assert redmine.versions(site.page) == before

    # Somebody else deploys what is there now: nothing moves under them.
    git(repository, "checkout", "-q", "file")
    page = redmine.text(site.page)
    redmine.edit(site.page, "Held by: Bob\n\nh2. History\n", "bob")
    answer = deploy(config)
    assert (results(answer)["repositories"], results(answer)["token"]) == (True, False), answer
    assert "To be updated: states" in comment(answer, "repositories")
    assert (repository / "file").read_text() == "1"
    redmine.edit(site.page, page, "bob")

    answer = deploy(config)
    assert answer.code == 0, answer
    assert (repository / "file").read_text() == "2"
    assert step(answer, "update")["changes"]["states"]["subjects"] == ["Use PostgreSQL 16"]
    assert "Updated: states" in report(answer)
    assert "DEPLOYED" in report(answer)
    assert f"from states {git(repository, 'rev-parse', 'HEAD')[:8]}" in entries(site, redmine)[0]


LATE = """
def probe():
    return {"blockers": [{"id": "import", "what": "import of Ana", "ask": "Ana"}] * %d, "unknowns": [], "info": []}
"""


@pytest.fixture
def served(site, tmp_path):
    """``served(name, text)``: push a file of the states or of the pillar, both of which are repositories now."""
    works = {}
    for folder in (site.states, site.pillar):
        remote, work = tmp_path / f"{folder.name}.git", tmp_path / f"{folder.name}-work"
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "-qm", "Begin")
        git(tmp_path, "clone", "--quiet", "--bare", folder, remote)
        git(folder, "remote", "add", "origin", remote)
        git(tmp_path, "clone", "--quiet", remote, work)
        works[folder.name] = work

    def push(name, text):
        work = works[name.partition("/")[0]]
        path = work / name.partition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        git(work, "add", "--all")
        git(work, "commit", "-qm", f"Change {name}")
        git(work, "push", "--quiet")

    yield push
    for folder in (site.states, site.pillar):
        shutil.rmtree(folder / ".git")
    shutil.rmtree(site.states / "tree", ignore_errors=True)
    (site.states / "_modules" / "late.py").unlink(missing_ok=True)
    site.salt("*", "saltutil.sync_modules")


def test_what_the_update_brings_counts_at_once_a_new_probe_and_a_new_file_alike(site, redmine, served, tmp_path):
    paths = [str(site.states), str(site.pillar)]
    config = variant(site, tmp_path / "etc", deploytoken={**site.token, "repositories": paths})
    site.sls("tree", {"tree": {"file.recurse": [{"name": str(tmp_path / "tree")}, {"source": "salt://tree"}]}})
    git(site.states, "add", "--all")
    git(site.states, "commit", "-qm", "Add the tree")
    git(site.states, "push", "--quiet", "origin", "HEAD")
    git(tmp_path / "states-work", "pull", "--quiet")

    # A check that nobody has heard of yet blocks this very deploy.
    served("states/tree/new", "new")
    served("states/_modules/late.py", LATE % 1)
    served("pillar/test.sls", "busy:\n  late: {}\n")
    answer = deploy(config, sls="tree")
    assert answer.code == 1, answer
    assert (results(answer)["idle"], results(answer)["update"], results(answer)["still idle"]) == (True, True, False)
    assert "import of Ana" in comment(answer, "still idle")
    assert "nothing deployed" in entries(site, redmine)[0]

    served("states/_modules/late.py", LATE % 0)
    answer = deploy(config, sls="tree", consent="Ana")
    assert answer.code == 0, answer
    assert (tmp_path / "tree" / "new").read_text() == "new"


# A day of work


def test_of_two_that_go_on_under_one_hold_at_once_one_does_and_the_hold_carries_a_day_of_work(site, redmine, midway):
    ref = site.run("deploytoken.acquire", reason="a day of work").data["ref"]
    both = [midway.start(ref=ref) for _ in range(2)]
    midway.begun()
    until(lambda: any(one.poll() is not None for one in both), timeout=400, what="one to be refused")
    job = held(site)["job"]
    assert job["running"] is True
    # By hand, too.
    for command in ("deploystates.apply", "deployreboots.reboot"):
        refused = site.run(command, target="kingfisher-main", ref=ref)
        assert (refused.code, refused.data["reason"], refused.data["job"]) == (
            3,
            "held",
            f"{job['jid']}@{job['master']}",
        )
    midway.go()
    answers = sorted((midway.end(one) for one in both), key=lambda answer: answer.code)
    assert [answer.code for answer in answers] == [0, 1], answers
    assert f"the job {job['jid']} runs under the hold {ref}" in comment(answers[1], "token")
    page = report(answers[0])
    assert page.startswith("DEPLOYED\n")
    assert f"salt-run deploytoken.release ref={ref}" in page
    assert held(site)["job"] is None

    assert deploy(site, target="kingfisher-main", ref=ref, reason="renew certificates").code == 0
    applied = site.run("deploystates.apply", target="docs", ref=ref)
    assert applied.code == 0, applied
    assert entries(site, redmine) == []
    released = site.run("deploytoken.release", ref=ref, summary="all is well")
    assert released.code == 0, released
    (entry,) = entries(site, redmine)
    times = r"; \d\d:\d\d UTC "
    assert re.search(
        rf"all is well{times}{REASON} \(docs\){times}renew certificates \(kingfisher-main\)"
        rf"{times}applied the highstate \(docs\) \(ref {ref}\)$",
        entry,
    )


# Last, because everybody has to find the new master


def test_a_restart_of_the_master_in_the_middle_does_not_end_the_deploy(site, redmine, midway):
    deploying = midway.start()
    midway.begun()
    with site.master.stopped():
        pass
    until(lambda: len(site.salt("*", "test.ping").data or {}) > 1, timeout=240, what="the minions to be back")
    midway.go()
    answer = midway.end(deploying)
    assert answer.code == 0, answer
    assert held(site)["held_by"] is None
    assert REASON in entries(site, redmine)[0]
