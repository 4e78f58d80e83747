"""At work under a hold, and nobody else: deploys in a rehearsal, and work by hand, on one page and one master."""

import functools

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.deploy import jobs, tokens, work
from tests.support.deploys import STEPS, Rehearsal
from tests.support.machines import boot_id, busy
from tests.unit.test_deploy_end import FAILS, asked

REF, JID = "f9c2a1b0", "20261122223000123456"


@pytest.fixture
def rehearse(tmp_path):
    """``rehearse(**asked)``: a deploy of the machines a and b."""
    return lambda **asked: Rehearsal(tmp_path, **asked)


@pytest.fixture
def by_hand(tmp_path):
    """``by_hand(**asked)``: a deploy under a hold that Alice took by hand."""

    def start(**asked):
        deploy = Rehearsal(tmp_path, **asked)
        with deploy.place.token("alice") as alice:
            alice.acquire("a day of work", ref=REF)
        deploy.again(ref=REF)
        return deploy

    return start


def line(deploy):
    """The holder's line."""
    return next(line for line in deploy.place.text().splitlines() if line.startswith("Held by"))


# The page names the job


def test_while_a_deploy_is_at_work_the_page_names_its_job_and_nobody_ends_the_hold_by_chance(rehearse):
    deploy = rehearse(expect="2h")
    deploy.run(until="applied")
    job = f"; expected until {deploy.status['expected_until']}; job {deploy.record.jid}@"
    assert job in line(deploy)
    assert deploy.status["job"]["running"] is True
    with tokens.connect(deploy.opts, print) as alice:
        with pytest.raises(errors.Held, match=f"the job {deploy.record.jid} runs under the hold {deploy.record.ref}"):
            alice.release("mine")
        alice.release("mine", force=True)
    deploy.step("applied")
    deploy.step("rebooted")
    assert deploy.step("released")["reason"] == "not_yours"


@pytest.mark.parametrize("end", ["FAILED", "nothing deployed"])
def test_a_deploy_that_keeps_the_token_takes_its_job_off_the_line(by_hand, end):
    deploy = by_hand()
    if end == "FAILED":
        deploy.machines.returns["b"] = FAILS
    else:
        idle = {**busy("b"), "idle": True, "blockers": []}
        deploy.machines.busy["b"] = [idle, busy("b")]
    ret = deploy.run()
    assert (ret["result"], deploy.status["ref"], deploy.status["job"]) == (False, REF, None)
    assert not deploy.locks
    with deploy.place.token("alice") as alice:
        entry = alice.release(None, REF)["entry"]
    told = entry.partition("Alice: a day of work")[2].partition(" (ref ")[0]
    if end == "FAILED":
        assert told.endswith(" UTC upgrade (*; FAILED: 1 of 2 minions failed: b: nginx: port 80 is in use)")
    else:
        assert told == ""


def test_a_line_that_cannot_be_mended_is_told_and_breaks_nothing_else(by_hand, monkeypatch):
    def away(*_args, **_kwargs):
        raise errors.StoreError("the wiki is away")

    deploy = by_hand()
    monkeypatch.setattr("saltext.deploytoken.token.Token.end", away)
    ret = deploy.run()
    assert ret["result"] is True
    job = f"{deploy.record.jid}@"
    assert f"The page may still name the job {job}" in ret["comment"]
    assert deploy.status["job"]["running"] is False
    monkeypatch.undo()
    deploy.again()
    assert deploy.run()["result"] is True
    assert deploy.status["job"] is None


# Two at once


def test_a_second_deploy_under_a_hold_at_work_is_refused_with_the_job_s_id(rehearse):
    first = rehearse()
    first.run(until="applied")
    second = first.other(ref=first.record.ref)
    ret = second.run()
    assert (ret["result"], ret["reason"]) == (False, "held")
    assert f"the job {first.record.jid} runs under the hold {first.record.ref}" in ret["comment"]
    assert second.other(test=True, ref=first.record.ref).run(until="updated")["reason"] == "held"
    for step in ("applied", "rebooted", "released"):
        ret = first.step(step)
    assert ret["result"] is True


def test_a_deploy_under_a_hold_with_a_job_of_another_master_is_refused_because_nobody_here_can_tell(by_hand):
    deploy = by_hand()
    deploy.place.edit(lambda text: text.replace(f"; ref {REF}", f"; job {JID}@master2; ref {REF}"))
    for test in (True, False):
        ret = deploy.other(test=test, ref=REF).run(until="updated")
        assert (ret["result"], ret["reason"]) == (False, "held")
        assert f"the job {JID} of master2 may still run under the hold {REF}" in ret["comment"]


@pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
def test_a_deploy_whose_hold_was_ended_by_hand_stops_the_next_one_here_until_it_has_ended(rehearse, resumed):
    first = rehearse()
    first.run(until="applied")
    first.place.edit(lambda text: text.replace(line(first), "Held by: nobody"))
    if resumed:
        with first.place.token("alice") as alice:
            alice.acquire("upgrade", ref=REF)
    second = first.other(**({"ref": REF} if resumed else {}))
    ret = second.run()
    assert (ret["result"], ret["reason"]) == (False, "held")
    assert ret["comment"].startswith(
        f"the job {first.record.jid} still runs here under the hold {first.record.ref}, al"
    )
    # The second one's own hold is as it was before.
    assert second.status["ref"] == (REF if resumed else None)
    assert second.status["job"] is None
    assert len(second.entries) == (0 if resumed else 1)
    assert first.step("applied")["reason"] == "not_yours"
    first.step("rebooted")
    first.step("released")
    third = first.other(**({"ref": REF} if resumed else {}))
    assert third.run()["result"] is True


def test_a_deploy_whose_hold_was_ended_by_name_stops_nobody(rehearse):
    first = rehearse()
    first.run(until="applied")
    with tokens.connect(first.opts, print) as bob:
        from saltext.deploytoken.deploy.release import release

        release(bob, first.opts["cachedir"], "mine", first.record.ref, "Bob", for_holder=True, force=True)
    assert first.other().run()["result"] is True


def test_whoever_waited_for_the_token_gets_it_from_a_deploy_that_has_just_released_it(rehearse, monkeypatch):
    from saltext.deploytoken.gate import live

    deploy, second = rehearse(), []
    forget = live.forget

    def released(cachedir):  # the page is free, and the first one has not come to its end
        monkeypatch.setattr(live, "forget", forget)
        second.append(deploy.other().run())

    monkeypatch.setattr(live, "forget", released)
    assert deploy.run()["result"] is True
    assert second[0]["result"] is True, second


# Sessions


def test_a_hold_taken_by_hand_carries_a_day_of_work_and_its_entry_tells_of_each_deploy(by_hand):
    deploy = by_hand(reboot=["b"])
    tried = deploy.other(test=True, ref=REF)
    for step in STEPS:
        tried.step(step)
    assert tried.returns["released"]["comment"] == "The token would stay held."
    deploy.machines.boots = {"a": [boot_id(1)], "b": [boot_id(1)] * 6 + [boot_id(2)]}
    deploy.run(until="released")
    deploy.record.commits = {"states": "1a2b3c4d5e"}
    ret = deploy.step("released")
    assert (ret["result"], ret["reason"]) == (True, None)
    first, again, away = ret["comment"].splitlines()
    assert first == f"The deploy token stays held (ref {REF})."
    assert asked(again.partition(": ")[2])["ref"] == REF
    assert away == f"To release it: salt-run deploytoken.release ref={REF}"
    assert f"salt-run deploytoken.release ref={REF}" in deploy.deploy.report({})
    assert deploy.entries == []

    second = deploy.other(ref=REF, reboot=["b"], reason="renew certificates", name="Bob")
    second.machines.boots = {"a": [boot_id(1)], "b": [boot_id(2)] * 6 + [boot_id(3)]}
    second.run()
    assert second.machines.ordered == ["b"]  # a new deploy, and not the first one once more

    third = deploy.other(ref=REF, on_success="release", reason="tidy up")
    third.machines.boots = {"a": [boot_id(1)], "b": [boot_id(3)]}
    assert third.run()["result"] is True
    (entry,) = deploy.entries
    told = [part.partition(" UTC ")[2] or part for part in entry.partition("Alice: ")[2].split("; ")]
    assert "; ".join(told) == (
        "tidy up; upgrade (*; from states 1a2b3c4d; rebooted b); renew certificates (*; by Bob; rebooted b)"
        f" (ref {REF})"
    )


def test_a_hold_of_an_orchestration_is_kept_after_a_success_on_request(rehearse):
    deploy = rehearse(on_success="hold")
    assert deploy.run()["result"] is True
    assert deploy.status["ref"] == deploy.record.ref
    again = deploy.other(ref=deploy.record.ref)
    assert again.run()["result"] is True
    assert deploy.status["held_by"] is None


def test_whoever_releases_another_s_hold_at_the_end_of_a_deploy_is_named(by_hand):
    deploy = by_hand(on_success="release", name="Bob")
    assert deploy.run()["result"] is True
    assert "Alice: upgrade; released by Bob" in deploy.entries[0]


# The way out


def test_whoever_holds_the_token_already_is_told_the_command_that_goes_on(rehearse):
    deploy = rehearse()
    with deploy.place.token("alice") as alice:
        alice.acquire("long work", ref=REF)
    first, second = deploy.run()["comment"].splitlines()
    assert first.startswith("you hold the token yourself")
    assert second.startswith("To go on under it: ")
    deploy.asked = asked(second.partition(": ")[2])
    deploy.again()
    deploy.run(until="released")
    # While it is at work, nobody is told to go on beside it.
    other = deploy.other().run()["comment"].splitlines()[1]
    assert asked(other.removeprefix("To wait for it: "))["wait"] == "15m"
    assert deploy.step("released")["result"] is True


def test_whoever_finds_the_token_held_is_told_the_command_that_waits(rehearse):
    deploy = rehearse(test=True)
    with deploy.place.token("bob") as bob:
        bob.acquire("long work", ref=REF)
    for one in (deploy, deploy.other()):
        one.step("requested")
        ret = one.step("held")
        first, second = ret["comment"].splitlines()
        assert (ret["reason"], first[:14]) == ("held", "Bob holds the ")
        assert asked(second.removeprefix("To wait for it: "))["wait"] == "15m"


# By hand


def opener(master):
    """What opens the token as Alice does."""
    return functools.partial(tokens.connect, master.opts, print)


@pytest.fixture
def master(rehearse):
    """The options of a master, on which Alice holds the token by hand."""
    deploy = rehearse()
    with deploy.place.token("alice") as alice:
        alice.acquire("a day of work", ref=REF)
    return deploy


def test_work_by_hand_is_on_the_page_while_it_lasts_and_in_the_entry_later(master):
    told = []
    at_work = functools.partial(work.by_hand, master.opts, opener(master), told.append, REF)
    with at_work(JID, lambda: "12:05 UTC rebooted web1"):
        assert f"; job {JID}@" in line(master)
        with pytest.raises(errors.Held, match=f"the job {JID} runs under the hold {REF}"):
            at_work("20261122224500123456", lambda: None).__enter__()
        with at_work(JID, lambda: "a step of the same job"):
            pass
        assert f"; job {JID}@" in line(master)
    assert "; job" not in line(master)
    with pytest.raises(errors.Failed), at_work(JID, lambda: None):
        raise errors.Failed("web2 did not come back")
    assert "; job" not in line(master)
    assert not master.locks
    assert not told
    with tokens.connect(master.opts, print) as alice:
        assert "a day of work; 12:05 UTC rebooted web1 (ref " in alice.release()["entry"]
    with pytest.raises(errors.NotYours, match=f"the hold {REF} is over"):
        at_work(JID, lambda: None).__enter__()


def test_work_by_hand_whose_hold_was_ended_says_so(master):
    def end():
        with tokens.connect(master.opts, print) as bob:
            bob.release("mine", REF, "Bob", for_holder=True, force=True)

    with pytest.raises(errors.NotYours), work.by_hand(master.opts, opener(master), print, REF, JID, lambda: "x"):
        end()
    assert not master.locks


def test_work_by_hand_waits_for_no_deploy_whose_hold_was_ended(master):
    name = jobs.name(master.opts, JID)
    with jobs.alone(master.opts["cachedir"], "0badc0de", JID) as begin:
        begin(True)
        with pytest.raises(errors.Held, match=f"{JID} still runs here under the hold 0badc0de"):
            work.by_hand(master.opts, opener(master), print, REF, "20261122224500123456", lambda: "x").__enter__()
    assert name not in line(master)
    assert "; job" not in line(master)
