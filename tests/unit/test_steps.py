"""
The steps of a deploy are not fooled: only a clear success of their runner is one.

What Salt makes of runners that fail (measured on 3008.3): without ``full_return`` a text that looks like any answer;
with it ``success: True`` for whatever a runner returned, ``False`` and ``None`` included, and for a ``TypeError``.
"""

import atexit
import subprocess
import sys

import pytest
from salt.utils.immutabletypes import freeze

from tests.support import steps

REF = "f9c2a1b0"
MINIONS = {minion: {"result": True, "changed": [], "failed": [], "silent": False, "seconds": 1} for minion in "ab"}
APPLIED = {"minions": MINIONS, "failed": [], "not_started": [], "expected": ["a", "b"], "returns": {}}

#: Each step: how it is called, and what its runner returns when all is well.
STEPS = {
    "deploystates.applied": ({"target": "*", "ref": REF}, APPLIED),
    "busy.idle": ({"target": "*"}, {"idle": True, "expected": ["a", "b"], "minions": {}, "consented": None}),
    "deployrepos.latest": ({}, {"repositories": {"a": {"before": "1", "after": "2", "behind": 0, "subjects": []}}}),
    "deploytoken.held": ({"reason": "x", "ref": REF}, {"held_by": "Alice", "ref": REF, "reason": "x", "since": "y"}),
}


def run(name, answer, running=(), **more):
    state, _, function = name.partition(".")
    asked = []

    def runner(function, kwargs):
        asked.append(kwargs)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    salt = steps.salt(runner)
    module = steps.load(state, opts={"test": False}, pillar={}, salt=salt, running=freeze(dict(running)))
    try:
        return getattr(module, function)("step", **{**STEPS.get(name, [{}])[0], **more}), asked
    finally:
        if name == "deploytoken.held":
            atexit.unregister(module._say)  # these tests end as well, without a deploy


@pytest.mark.parametrize("name", STEPS)
def test_a_clear_success_is_one(name):
    ret, _ = run(name, {"return": STEPS[name][1], "success": True})
    assert ret["result"] is True, ret


NO_ANSWERS = [
    None,
    "",
    "Exception occurred in runner: Traceback …\nKeyError: 'x'",
    KeyError("busy.check"),
    {},
    {"return": None, "success": True},
    {"return": False, "success": True},
    {"return": True, "success": True},
    {"return": {}, "success": True},
    {"return": {"result": True}, "success": True},
    {"return": "'x' is not available.", "success": True},
    {"return": "Passed invalid arguments: …", "success": True},
    {"return": ["a"], "success": True},
]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("answer", NO_ANSWERS, ids=str)
def test_whatever_else_a_runner_returns_fails_the_step(name, answer):
    ret, _ = run(name, answer)
    assert ret["result"] is False
    assert ret["comment"].strip()
    assert ret["changes"] == {}


@pytest.mark.parametrize("name", STEPS)
def test_a_success_with_a_return_code_is_none(name):
    assert run(name, {"return": {**STEPS[name][1], "retcode": 5}, "success": True})[0]["result"] is False
    assert run(name, {"return": STEPS[name][1], "success": False})[0]["result"] is False
    assert run(name, {"return": STEPS[name][1]})[0]["result"] is False


def test_a_token_that_was_taken_is_a_change_and_one_that_was_confirmed_is_none():
    token = STEPS["deploytoken.held"][1]
    taken, _ = run("deploytoken.held", {"return": {**token, "taken": True}, "success": True})
    assert taken["changes"] == {"held_by": {"old": None, "new": "Alice"}, "ref": REF}
    confirmed, _ = run("deploytoken.held", {"return": {**token, "taken": False}, "success": True})
    assert (confirmed["result"], confirmed["changes"]) == (True, {})


def test_a_token_that_somebody_else_holds_is_refused_in_the_runner_s_words():
    held = {"reason": "held", "message": "Bob holds the token; wait", "token": {"held_by": "Bob"}, "retcode": 3}
    ret, _ = run("deploytoken.held", {"return": held, "success": False})
    assert (ret["result"], ret["comment"], ret["changes"]) == (False, "Bob holds the token; wait", {})


def applied(**changed):
    return run("deploystates.applied", {"return": {**APPLIED, **changed}, "success": True})[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"minions": {}},
        {"minions": {}, "expected": []},
        {"minions": {"a": MINIONS["a"]}},
        {"expected": ["a", "b", "c"]},
        {"expected": None},
        {"failed": ["b"]},
        {"not_started": ["c"]},
        {"minions": {**MINIONS, "b": {**MINIONS["b"], "result": False}}},
        {"minions": {**MINIONS, "b": {**MINIONS["b"], "result": "True"}}},
    ],
    ids=str,
)
def test_states_are_applied_only_if_everybody_who_was_expected_says_so(changed):
    assert applied(**changed)["result"] is False


def test_those_are_deployed_who_were_asked_whether_they_are_idle():
    busy = {
        "busy_|-idle_|-idle_|-idle": {"expected": ["a", "b", "z"], "__run_num__": 2},
        "busy_|-still idle_|-still idle_|-idle": {"expected": ["b", "a"], "__run_num__": 4},
    }
    _, (asked,) = run("deploystates.applied", {"return": APPLIED, "success": True}, busy)
    assert (asked["target"], asked["target_type"]) == ("a,b", "list")


def test_the_boot_ids_are_those_that_the_last_look_heard():
    answers = {"a": {"note": None, "boot": "1"}, "b": {"boot": "2"}}
    idle, _ = run("busy.idle", {"return": {**STEPS["busy.idle"][1], "minions": answers}, "success": True})
    assert idle["boots"] == {"a": "1", "b": "2"}
    before = {"busy_|-idle_|-idle_|-idle": {"expected": ["a", "b"], "boots": {"a": "0"}, "__run_num__": 2}}
    last = {"busy_|-still idle_|-still idle_|-idle": {**idle, "__run_num__": 4}}
    ret, (asked,) = run("deployreboots.noted", {"return": {"boots": idle["boots"]}, "success": True}, before | last)
    assert (ret["result"], ret["boots"], asked["known"]) == (True, idle["boots"], idle["boots"])


@pytest.mark.parametrize("word", ["subset", "allow_fail", "fail_minions", "expect_minions", "failhard", "tgt"])
def test_what_makes_salt_state_succeed_without_a_minion_cannot_be_asked_for(word):
    deploy = {"target": "*", "reason": "x", word: True}
    module = steps.load("deploytoken", pillar={"deploytoken": deploy}, salt=steps.salt(None))
    ret = module.requested("request")
    assert ret["result"] is False
    assert word in ret["comment"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({True: "x", 5: "y", "raeson": "z"}, "deploy: 5, True, raeson is none of target"),
        ({"wait": "soon"}, "deploytoken.wait is neither a number of seconds nor a duration"),
        ({"wait_idle": True}, "deploytoken.wait_idle is neither"),
    ],
)
def test_a_wrong_key_is_refused_by_its_own_name_before_anything_is_asked(more, word):
    deploy = {"target": "*", "reason": "x", "wait": "1.5h", "wait_idle": None, **more}
    ret = steps.load("deploytoken", pillar={"deploytoken": deploy}, salt=steps.salt(None)).requested("request")
    assert (ret["result"], word in ret["comment"]) == (False, True), ret


def test_a_wait_is_a_number_or_a_duration_or_none():
    deploy = {"target": "*", "reason": "x", "wait": "1.5h", "wait_idle": None}
    ret = steps.load("deploytoken", pillar={"deploytoken": deploy}, salt=steps.salt(None)).requested("request")
    assert ret["result"] is True, ret


def test_a_master_that_was_synced_by_halves_is_told_what_to_sync():
    module = steps.load("deploytoken", pillar={"deploytoken": {"target": "*", "reason": "x"}}, salt={})
    ret = module.requested("request")
    assert ret["result"] is False
    assert "salt-run saltutil.sync_all" in ret["comment"]


INTERRUPTED = """
import sys
from tests.support import steps

def runner(function, kwargs):
    if function == sys.argv[1]:
        raise SystemExit(0)  # as Salt does on Ctrl-C and SIGTERM
    return {"return": {"held_by": "Alice", "ref": "f9c2a1b0"}, "success": sys.argv[1] != "refused"}

pillar = {"deploytoken": {"target": "web*", "reason": "it's"}}
module = steps.load("deploytoken", opts={"test": False}, pillar=pillar, salt=steps.salt(runner), running={})
module.held("token", "it's", "f9c2a1b0")
if sys.argv[1] == "end":
    module.released("cleanup", "it's", "f9c2a1b0")
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("between two steps", "The deploy token stays held (ref f9c2a1b0): the deploy was ended in the middle.\n"),
        ("deploytoken.acquire", "The deploy token may be held (ref f9c2a1b0): "),
        ("refused", ""),
        ("end", ""),
    ],
)
def test_whoever_ends_python_between_two_steps_is_told_of_the_hold_and_nobody_else(end, told):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, end], cwd=steps.CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert done.stderr.strip().startswith(told.strip())
    assert ("salt-run deploytoken.release ref=f9c2a1b0" in done.stderr) is bool(told)
    assert ('"ref": "f9c2a1b0"' in done.stderr) is bool(told)
