"""How ``deploytoken.released`` reads the steps before it. They are frozen, as Salt hands them to a state."""

import json
import shlex

import pytest
from salt.utils.immutabletypes import freeze

from saltext.deploytoken import page
from tests.support import steps

REF = "f9c2a1b0"


def summary_of(result=True, silent=False):
    failed = [] if result else [{"id": "nginx", "comment": "port 80 is in use"}]
    return {"result": result, "changed": [], "failed": failed, "silent": silent, "seconds": 1.0}


class Orchestration:
    """A state's dunders in an orchestration, with minions a and b, and a token that remembers what it was told."""

    def __init__(self):
        self.module = steps.load("deploytoken")
        self.told = []
        self.release_fails, self.reason = None, "store"
        self.steps = {
            "busy_|-idle_|-idle_|-idle": {"result": True, "expected": ["a", "b"], "consented": None},
            "busy_|-still idle_|-still idle_|-idle": {"result": True, "expected": ["a", "b"], "consented": None},
            "deploystates_|-deploy_|-deploy_|-applied": {
                "result": True,
                "comment": "a: 1 changed; b: no changes",
                "minions": {"a": summary_of(), "b": summary_of()},
                "failed": [],
                "not_started": [],
                "reason": None,
            },
            "deployreboots_|-reboots_|-reboots_|-done": {
                "result": True,
                "comment": "All answer",
                "rebooted": [],
                "left": [],
                "reason": None,
            },
        }
        self.module.__opts__ = {"test": False}
        self.module.__pillar__ = {"deploytoken": {"target": "it's", "reason": "upgrade"}}
        self.module.__salt__ = steps.salt(self.runner)

    @property
    def reboots(self):
        return self.steps["deployreboots_|-reboots_|-reboots_|-done"]

    @property
    def applied(self):
        return self.steps["deploystates_|-deploy_|-deploy_|-applied"]

    def runner(self, function, kwargs):
        self.told.append((function, kwargs))
        if self.release_fails:
            refusal = {"reason": self.reason, "message": self.release_fails, "retcode": 6, "held_by": "Alice"}
            return {"success": True, "return": refusal}
        return {"success": True, "return": {"held_by": None, "ref": None, "entry": "* entry"}}

    def released(self, **kwargs):
        self.module.__running__ = freeze(self.steps)
        return self.module.released("cleanup", "upgrade", REF, **kwargs)


@pytest.fixture
def orchestration():
    return Orchestration()


def kept(orchestration, **kwargs):
    ret = orchestration.released(**kwargs)
    assert ret["result"] is False
    assert orchestration.told == []
    return ret["comment"]


def summary(orchestration, **kwargs):
    ret = orchestration.released(**kwargs)
    assert ret["result"] is True, ret
    ((function, told),) = orchestration.told
    assert function == "deploytoken.release"
    assert told["ref"] == REF
    return told


def test_success_is_released(orchestration):
    assert summary(orchestration) == {"summary": "upgrade", "ref": REF}


def test_a_minion_that_was_asked_whether_it_is_idle_and_not_deployed_is_a_failure(orchestration):
    del orchestration.applied["minions"]["b"]
    assert "no answer from b" in kept(orchestration)


def test_a_success_of_nobody_is_not_released_as_one(orchestration):
    orchestration.applied["minions"] = {}
    assert "nothing deployed" in summary(orchestration)["summary"]


@pytest.mark.parametrize("result", [False, None, "True"])
def test_a_highstate_without_a_clear_success_is_a_failure(orchestration, result):
    orchestration.applied.update(result=result, comment="1 of 2 minions failed: b\nmore")
    assert "1 of 2 minions failed: b" in kept(orchestration)


@pytest.mark.parametrize("on_failure", ["hold", "release"])
def test_a_step_that_fell_over_may_have_begun_and_keeps_the_token_held(orchestration, on_failure):
    orchestration.applied.update(result=False, minions={}, reason="unknown", comment="KeyError: 'x'")
    told = kept(orchestration, on_failure=on_failure)
    assert "KeyError" in told
    assert "salt -L a,b state.running" in told
    # What Salt makes of an exception in a state has nothing else.
    orchestration.applied.clear()
    orchestration.applied.update(result=False, comment="An exception occurred in this state: KeyError", changes={})
    assert "KeyError" in kept(orchestration, on_failure=on_failure)


def test_reboots_that_fell_over_may_have_begun_and_keep_the_token_held(orchestration):
    stuck(orchestration)
    orchestration.reboots.update(reason="unknown", comment="KeyError: 'x'")
    assert "KeyError" in kept(orchestration, on_failure="release")


def silent(orchestration):
    minions = {"a": summary_of(), "b": summary_of(False, silent=True)}
    orchestration.applied.update(result=False, reason="failed", comment="1 of 2 minions failed: b", minions=minions)


@pytest.mark.parametrize("on_failure", ["hold", "release"])
def test_a_minion_that_may_still_be_at_it_keeps_the_token_held(orchestration, on_failure):
    silent(orchestration)
    assert "salt -L b state.running" in kept(orchestration, on_failure=on_failure)


def test_a_token_that_was_taken_over_is_neither_released_nor_said_to_be_held(orchestration):
    orchestration.applied.update(result=False, reason="not_yours", comment="the hold is over, Bob holds the token")
    told = kept(orchestration)
    assert "Bob holds the token" in told
    assert "stays held" not in told
    assert "deploytoken.release" not in told


def test_a_kept_token_comes_with_the_commands_that_go_on(orchestration):
    orchestration.applied["result"] = False
    orchestration.module.__pillar__["deploytoken"]["ref"] = "a0a0a0a0"
    again, away = (shlex.split(line.partition(": ")[2]) for line in kept(orchestration).splitlines()[-2:])
    assert again[:3] == ["salt-run", "state.orchestrate", "deploytoken.deploy"]
    asked = json.loads(again[3].removeprefix("pillar="))
    assert asked == {"deploytoken": {"target": "it's", "reason": "upgrade", "ref": REF}}
    assert away == ["salt-run", "deploytoken.release", f"ref={REF}", "summary=upgrade"]


def test_on_failure_release_says_failed(orchestration):
    orchestration.applied.update(result=False, comment="1 of 2 minions failed: b: nginx")
    told = summary(orchestration, on_failure="release")
    assert told["summary"] == "upgrade (FAILED: 1 of 2 minions failed: b: nginx)"


def not_begun(orchestration):
    orchestration.applied.update(result=False, __state_ran__=False, comment="One or more requisite failed", minions={})
    busy = orchestration.steps["busy_|-still idle_|-still idle_|-idle"]
    busy.update(result=False, comment="b is busy\nask Jane", __state_ran__=True)


def test_what_never_began_is_given_back_with_the_reason(orchestration):
    not_begun(orchestration)
    assert summary(orchestration)["summary"] == "upgrade (nothing deployed: b is busy)"


def test_no_words_of_a_minion_s_or_the_wiki_s_keep_the_token_held(orchestration):
    not_begun(orchestration)
    busy = orchestration.steps["busy_|-still idle_|-still idle_|-idle"]
    busy["comment"] = "a|b: no line 'Held  by: …', \x1b[31m was taken over by Bob"
    told = summary(orchestration)["summary"]
    assert told == "upgrade (nothing deployed: a b: no line 'holder: …', [31m was ended by Bob)"
    assert page.check_summary(told) == told


def test_what_never_began_stays_with_whom_it_was_resumed_from(orchestration):
    not_begun(orchestration)
    kept(orchestration, resumed=True)


def test_consent_is_told_with_what_it_was_for(orchestration):
    blocker = {"id": "a/tmux/ocdskfs", "what": "tmux session"}
    orchestration.steps["busy_|-idle_|-idle_|-idle"]["consented"] = {"by": "Jane Doe", "to": [blocker]}
    assert summary(orchestration)["consent"] == "Jane Doe: tmux session (a/tmux/ocdskfs)"


def test_consent_that_was_not_needed_is_not_told(orchestration):
    orchestration.steps["busy_|-idle_|-idle_|-idle"]["consented"] = {"by": "Jane Doe", "to": []}
    assert "consent" not in summary(orchestration)


def test_who_rebooted_is_told(orchestration):
    orchestration.reboots["rebooted"] = ["a", "b (by itself)"]
    assert summary(orchestration)["rebooted"] == ["a", "b (by itself)"]


def stuck(orchestration, **pillar):
    orchestration.reboots.update(result=False, comment="b has not come back", rebooted=["a"], left=["b"])
    orchestration.module.__pillar__["deploytoken"].update(reboot=True, reboot_batch=1, **pillar)


def test_who_does_not_come_back_keeps_the_token_held(orchestration):
    stuck(orchestration)
    assert "b has not come back" in kept(orchestration)


def asked(words):
    return json.loads(shlex.split(words)[3].removeprefix("pillar="))["deploytoken"]


def test_the_command_that_goes_on_reboots_only_those_that_are_left(orchestration):
    stuck(orchestration)
    assert asked(kept(orchestration).splitlines()[-2].partition(": ")[2])["reboot"] == ["b"]


def test_the_command_that_goes_on_after_all_reboots_reboots_nobody(orchestration):
    stuck(orchestration)
    orchestration.reboots.update(result=True, left=[])
    orchestration.release_fails = "the wiki is away"
    again = asked(dict(orchestration.released()["next"])["To run again under the same hold"])
    assert again == {"target": "it's", "reason": "upgrade", "ref": REF}


def test_on_failure_release_says_who_has_not_come_back(orchestration):
    stuck(orchestration)
    told = summary(orchestration, on_failure="release")
    assert (told["summary"], told["rebooted"]) == ("upgrade (FAILED: b has not come back)", ["a"])


def test_an_interruption_between_reboots_keeps_the_token_held(orchestration):
    stuck(orchestration)
    orchestration.reboots.update(reason="interrupted", away={"b": "was ordered to reboot, and does so all the same"})
    kept(orchestration, on_failure="release")
    looks = dict(orchestration.released()["next"])
    assert looks["To see who is back"] == "salt-run deployreboots.ids b target_type=list"
    assert "To see what still runs" not in looks


def test_a_release_that_fails_says_how_to_release(orchestration):
    orchestration.release_fails = "the wiki is away"
    ret = orchestration.released()
    assert ret["result"] is False
    # An interruption or a doubt is told so as well, and then it may have been released.
    assert f"The deploy token may still be held (ref {REF}): the wiki is away" in ret["comment"]
    assert f"salt-run deploytoken.release ref={REF}" in ret["comment"]


def test_a_hold_that_turns_out_to_be_over_is_not_said_to_be_held(orchestration):
    orchestration.release_fails, orchestration.reason = (
        "the hold is not the current one, Bob holds the token",
        "not_yours",
    )
    ret = orchestration.released()
    assert ret["result"] is False
    assert ret["comment"].startswith(
        f"The hold {REF} was ended while this deploy ran: the hold is not the current one"
    )
    assert "still be held" not in ret["comment"]
    assert ret["next"] == [("To see who ended it", "salt-run deploytoken.history")]


def test_a_test_run_releases_nothing(orchestration):
    orchestration.module.__opts__ = {"test": True}
    assert orchestration.released()["result"] is None
    assert orchestration.told == []
