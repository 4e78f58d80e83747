"""How a deploy ends: what is released and what is kept, what the History says, and which commands go on."""

import json
import re
import shlex

import pytest

from saltext.deploytoken import page
from tests.support.deploys import Rehearsal
from tests.support.machines import boot_id, busy, states

FAILS = {"ret": states(False, comment="port 80 is in use\nmore"), "retcode": 2}


@pytest.fixture
def rehearse(tmp_path):
    """``rehearse(**asked)``: a deploy of the machines a and b."""
    return lambda **asked: Rehearsal(tmp_path, **asked)


def kept(deploy):
    """Run the deploy, and return what it says of a token that it keeps."""
    ret = deploy.run()
    assert ret["result"] is False, ret
    assert deploy.status["ref"] == deploy.record.ref
    assert deploy.entries == []
    return ret["comment"]


def entry(deploy):
    """Run the deploy, and return the entry with which it gives the token back."""
    ret = deploy.run()
    assert ret["result"] is True, ret
    assert deploy.status["held_by"] is None
    (found,) = deploy.entries
    return found


def asked(command):
    """The request in a command that runs again."""
    words = shlex.split(command)
    assert words[:3] == ["salt-run", "state.orchestrate", "deploytoken.deploy"]
    return json.loads(words[3].removeprefix("pillar="))["deploytoken"]


def test_a_success_is_released(rehearse):
    assert "Alice: upgrade (ref " in entry(rehearse())


def test_a_machine_that_was_asked_whether_it_is_idle_and_not_deployed_is_a_failure(rehearse):
    deploy = rehearse()
    deploy.run(until="released")
    del deploy.record.applied.minions["b"]
    assert "no answer from b" in deploy.step("released")["comment"]


def test_a_highstate_without_a_clear_success_is_a_failure(rehearse):
    deploy = rehearse()
    deploy.machines.returns["b"] = FAILS
    assert "1 of 2 minions failed: b: nginx: port 80 is in use." in kept(deploy)


@pytest.mark.parametrize("on_failure", ["hold", "release"])
def test_a_step_that_raised_may_have_begun_and_keeps_the_token_held(rehearse, on_failure):
    deploy = rehearse(on_failure=on_failure)
    deploy.machines.returns["a"] = KeyError("surprise")
    told = kept(deploy)
    assert "KeyError" in told
    assert "salt -L a,b state.running" in told


def test_reboots_that_raised_may_have_begun_and_keep_the_token_held(rehearse, monkeypatch):
    deploy = rehearse(on_failure="release", reboot=True)
    monkeypatch.setattr(deploy.machines, "call_all", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in kept(deploy)


@pytest.mark.parametrize("on_failure", ["hold", "release"])
def test_a_machine_that_may_still_run_its_states_keeps_the_token_held(rehearse, on_failure):
    deploy = rehearse(on_failure=on_failure)
    deploy.machines.returns["b"] = "went silent in the middle"
    assert "salt -L b state.running" in kept(deploy)


@pytest.mark.parametrize("batch", [None, 1], ids=["before", "between two batches"])
def test_a_token_that_was_taken_over_is_neither_released_nor_said_to_be_held(rehearse, batch, monkeypatch):
    deploy = rehearse(batch=batch)
    deploy.run(until="applied")
    follow = deploy.machines.follow

    def take_over():
        with deploy.place.token("bob") as bob:
            bob.take_over("the site is down", ref=deploy.record.ref, force=True)

    def meanwhile(*args, **kwargs):
        yield from follow(*args, **kwargs)
        if deploy.status["held_by"] == "Alice":
            take_over()

    monkeypatch.setattr(deploy.machines, "follow", meanwhile)
    if batch is None:
        take_over()
    deploy.step("applied")
    deploy.step("rebooted")
    ret = deploy.step("released")
    assert (ret["result"], ret["reason"]) == (False, "not_yours")
    assert "Bob holds the token" in ret["comment"]
    assert "stays held" not in ret["comment"]
    assert "deploytoken.release" not in ret["comment"]
    ((why, command),) = ret["next"]
    assert why.startswith("To deploy what is left")
    assert "ref" not in asked(command)
    assert deploy.status["held_by"] == "Bob"
    word = "FAILED" if batch else "nothing deployed"
    assert re.search(rf"Alice: upgrade \({word}: .*; its hold was ended meanwhile \(ref ", deploy.entries[0])


def test_a_token_that_is_kept_comes_with_the_commands_that_go_on(rehearse):
    deploy = rehearse(reason="it's")
    deploy.machines.returns["b"] = FAILS
    again, away = (line.partition(": ")[2] for line in kept(deploy).splitlines()[-2:])
    ref = deploy.record.ref
    assert asked(again) == {"target": "*", "reason": "it's", "ref": ref}
    assert shlex.split(away) == ["salt-run", "deploytoken.release", f"ref={ref}", "summary=it's"]


def test_on_failure_release_says_failed(rehearse):
    deploy = rehearse(on_failure="release")
    deploy.machines.returns["b"] = FAILS
    assert "upgrade (FAILED: 1 of 2 minions failed: b: nginx: port 80 is in use)" in entry(deploy)


def blocked_at_the_second_look(deploy, **more):
    deploy.machines.busy["b"] = [busy("b", **more), busy("b", **more)]
    deploy.machines.busy["b"][0] = {**deploy.machines.busy["b"][0], "idle": True, "blockers": []}
    return deploy


def test_what_never_began_is_given_back_with_the_reason(rehearse):
    deploy = blocked_at_the_second_look(rehearse(), ask="Jane")
    assert "upgrade (nothing deployed: 1 thing running (ask Jane): spider on b) (ref " in entry(deploy)


def test_what_never_began_stays_with_the_hold_that_was_resumed(rehearse):
    deploy = rehearse()
    with deploy.place.token("alice") as alice:
        deploy.asked["ref"] = alice.acquire("upgrade")["ref"]
    deploy.deploy = deploy.new()
    assert "nothing" not in kept(blocked_at_the_second_look(deploy))


@pytest.mark.parametrize(
    "words",
    [
        "a|b: no line 'Held  by: …', was taken over by Bob",
        # Two spaces: a copy of the rule that makes words harmless worked in another order.
        "was taken  over by Bob",
        "Held\u00a0by : Bob",
        "x" * 3000,
    ],
)
def test_no_words_of_a_machine_s_keep_the_token_held(rehearse, words):
    deploy = rehearse(on_failure="release")
    deploy.machines.returns["b"] = {"ret": states(False, comment=words), "retcode": 2}
    found = entry(deploy)
    assert "(FAILED: " in found
    assert page.TAKEN_OVER not in found
    assert len(found) < 600


def test_a_machine_on_which_other_states_run_keeps_the_token_held(rehearse):
    deploy = rehearse(on_failure="release")
    since = "was started at 2026, Nov 30 09:15:00.1 with jid 20261130091500123456"
    words = f'The function "state.highstate" is running as PID 4711 and {since}'
    deploy.machines.returns["b"] = {"ret": [words], "retcode": 1}
    assert "salt -L b state.running" in kept(deploy)


def test_no_words_of_a_session_to_whose_interruption_somebody_agreed_keep_the_token_held(rehearse):
    deploy = rehearse(consent="Jane Doe")
    deploy.machines.busy["a"] = busy("a", what="it was taken  over by Bob, held  by: him")
    assert "with the consent of Jane Doe: it was ended by Bob, holder: him (a/p/spider)" in entry(deploy)


def test_the_command_that_goes_on_agrees_to_no_more_than_was_found_first(rehearse):
    deploy = rehearse(consent="Jane Doe")
    deploy.machines.busy["a"] = busy("a")
    deploy.machines.returns["b"] = FAILS
    again = asked(kept(deploy).splitlines()[-2].partition(": ")[2])
    assert again["consent"] == [{"by": "Jane Doe", "for": ["a/p/spider"]}]


def test_the_commits_are_in_the_entry(rehearse):
    deploy = rehearse()
    deploy.run(until="released")
    deploy.record.commits = {"states": "1a2b3c4d5e", "private": "99887766aa"}
    deploy.step("released")
    assert "Alice: upgrade; from states 1a2b3c4d, private 99887766 (ref " in deploy.entries[0]


def test_a_consent_that_was_not_needed_is_not_told(rehearse):
    assert "consent" not in entry(rehearse(consent="Jane Doe"))


def test_machines_that_rebooted_are_in_the_entry(rehearse):
    deploy = rehearse(reboot=["b"])
    deploy.machines.boots = {"a": [boot_id(1)] * 2 + [boot_id(2)], "b": [boot_id(1)] * 6 + [boot_id(2)]}
    assert "upgrade; rebooted a (by itself), b (ref " in entry(deploy)
    assert deploy.machines.ordered == ["b"]


def stuck(deploy):
    """``a`` comes back from its reboot, and ``b`` does not."""
    deploy.machines.boots = {"a": [boot_id(1)] * 6 + [boot_id(2)], "b": [boot_id(1)]}
    return deploy


STUCK = {"reboot": True, "reboot_batch": 1, "reboot_timeout": 1}


def test_a_machine_that_does_not_come_back_keeps_the_token_held(rehearse):
    told = kept(stuck(rehearse(**STUCK)))
    assert "b did not reboot within 1 second" in told
    # The command that goes on reboots only those that are left.
    assert asked(told.splitlines()[-2].partition(": ")[2])["reboot"] == ["b"]


def test_on_failure_release_says_which_machine_has_not_come_back(rehearse):
    found = entry(stuck(rehearse(**STUCK, on_failure="release")))
    assert "upgrade (FAILED: b did not reboot within 1 second" in found
    assert "; rebooted a (ref " in found


def test_the_command_that_goes_on_after_all_reboots_reboots_nobody(rehearse, monkeypatch):
    deploy = rehearse(reboot=True)
    deploy.machines.boots = {minion: [boot_id(1)] * 6 + [boot_id(2)] for minion in "ab"}
    deploy.run(until="released")
    monkeypatch.setattr("saltext.deploytoken.token.Token.release", away)
    again = asked(dict(deploy.step("released")["next"])["To run again under the same hold"])
    assert again == {"target": "*", "reason": "upgrade", "ref": deploy.record.ref}


def test_an_interruption_between_reboots_keeps_the_token_held(rehearse, monkeypatch):
    deploy = rehearse(**STUCK, on_failure="release")
    order = deploy.machines.collect_returns

    def interrupted(ids, fun, *args, **kwargs):
        found = order(ids, fun, *args, **kwargs)
        if fun == "system.reboot":
            raise SystemExit(0)
        return found

    monkeypatch.setattr(deploy.machines, "collect_returns", interrupted)
    kept(deploy)
    looks = dict(deploy.returns["released"]["next"])
    assert looks["To see what is back"] == "salt-run deployreboots.ids a target_type=list"
    assert "To see what still runs" not in looks


def away(*_args, **_kwargs):
    from saltext.deploytoken import errors

    raise errors.StoreError("the wiki is away")


def test_a_release_that_fails_says_how_to_release(rehearse, monkeypatch):
    deploy = rehearse()
    monkeypatch.setattr("saltext.deploytoken.token.Token.release", away)
    told = kept(deploy)
    # An interruption or a doubt says so as well, and then it may have been released.
    assert f"The deploy token may still be held (ref {deploy.record.ref}): the wiki is away" in told
    assert f"salt-run deploytoken.release ref={deploy.record.ref}" in told


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(0)], ids=repr)
def test_an_interrupted_release_says_that_the_token_may_be_held_and_how_to_release_it(rehearse, monkeypatch, signal):
    def interrupted(*_args, **_kwargs):
        raise signal

    deploy = rehearse()
    monkeypatch.setattr("saltext.deploytoken.token.Token.release", interrupted)
    told = kept(deploy)
    assert f"The deploy token may still be held (ref {deploy.record.ref}): Interrupted; `salt-run" in told
    assert f"salt-run deploytoken.release ref={deploy.record.ref}" in told


@pytest.mark.parametrize("end", ["taken over by Bob", "upgrade; released by Bob"])
def test_a_hold_that_turns_out_to_be_over_is_not_said_to_be_held(rehearse, end):
    deploy = rehearse()
    deploy.run(until="released")
    with deploy.place.token("bob") as bob:
        if end.startswith("taken"):
            bob.take_over("the site is down", ref=deploy.record.ref, force=True)
        else:  # in the same words as the deploy would
            bob.release("upgrade", deploy.record.ref, for_holder=True, force=True)
    ret = deploy.step("released")
    assert ret["result"] is False
    assert ret["comment"].startswith(f"The hold {deploy.record.ref} was ended while this deploy ran: ")
    assert "still be held" not in ret["comment"]
    assert ret["next"] == [("To see who ended it", "salt-run deploytoken.history")]
    # What it did is in the History all the same, above the entry of whoever ended the hold.
    own, other = deploy.entries
    assert f"Alice: upgrade; its hold was ended meanwhile (ref {deploy.record.ref})" in own
    assert end in other
    assert not list(deploy.locks)


def test_the_end_is_judged_by_the_states_that_began_and_not_by_what_a_step_forgot_to_say(rehearse):
    deploy = rehearse(on_failure="release")
    deploy.run(until="applied")
    deploy.record.steps.pop("idle")
    assert "nothing deployed: no state was applied" in deploy.step("released")["comment"]
