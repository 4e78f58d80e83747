"""The steps of a deploy are not fooled: only a clear success is one, and each learns from the one record."""

import json
import shlex
import subprocess
import sys

import pytest

from saltext.deploytoken.machines import asking
from tests.support.deploys import STEPS, Rehearsal
from tests.support.machines import IDLE, busy, states
from tests.support.salt import CHECKOUT


@pytest.fixture
def rehearse(tmp_path):
    """``rehearse(test=False, **asked)``: a deploy of the machines a and b."""
    made = []

    def start(**more):
        made.append(Rehearsal(tmp_path, **more))
        return made[-1]

    yield start
    for one in made:
        one.step("released")  # nothing is left to be told at the exit of Python


def test_a_deploy_goes_from_the_request_to_the_history(rehearse):
    deploy = rehearse()
    assert deploy.run()["result"] is True
    assert {name: ret["result"] for name, ret in deploy.returns.items()} == dict.fromkeys(STEPS, True)
    assert deploy.status["held_by"] is None
    (entry,) = deploy.entries
    assert entry.endswith(f"Alice: upgrade (ref {deploy.record.ref})")
    run, fun, kwarg = deploy.machines.asked[-1]
    assert (run, fun, kwarg["pillar"]) == (["a", "b"], "state.highstate", {"deploytoken": {"ref": deploy.record.ref}})


def test_what_goes_on_is_told_under_the_name_of_each_state(rehearse):
    deploy = rehearse()
    deploy.machines.returns["b"] = {"ret": states(False, comment="port 80 is in use"), "retcode": 2}
    deploy.run()
    assert deploy.told[:4] == ["requested …", "requested: done", "fetched …", "fetched: done"]
    assert "a: done in 0 s, no changes" in deploy.told
    assert "applied: 1 of 2 minions failed: b: nginx: port 80 is in use" in deploy.told


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_step_without_a_checked_request_does_nothing(rehearse, step):
    deploy = rehearse(raeson="x")
    ret = deploy.run() or {}
    assert (ret["result"], ret["reason"]) == (False, "invalid")
    assert "deploytoken.raeson" in ret["comment"]
    assert deploy.step(step)["result"] is False
    assert deploy.machines.asked == []
    assert deploy.status["held_by"] is None


def test_a_configuration_that_is_wrong_stops_the_request(rehearse):
    deploy = rehearse()
    deploy.opts["deploytoken"]["repositories"] = [{"pth": "/srv"}]
    deploy.deploy = deploy.new()
    assert "deploytoken.repositories.0" in deploy.run()["comment"]


def test_a_configured_name_that_the_page_cannot_carry_stops_the_request(rehearse):
    deploy = rehearse()
    deploy.opts["deploytoken"]["name"] = "Alice (Ops)"
    deploy.deploy = deploy.new()
    assert "name: '('" in deploy.run()["comment"]


def test_a_token_that_somebody_else_holds_stops_the_deploy_in_the_token_s_words(rehearse):
    deploy = rehearse()
    with deploy.place.token("bob") as bob:
        bob.acquire("long work")
    ret = deploy.run()
    assert (ret["result"], ret["reason"], ret["changes"]) == (False, "held", {})
    assert ret["comment"].startswith("Bob holds the token")


def test_a_token_that_was_taken_is_a_change_and_one_that_was_confirmed_is_none(rehearse):
    deploy = rehearse()
    deploy.run(until="noted")
    ref = deploy.record.ref
    assert deploy.returns["held"]["changes"] == {"held_by": {"old": None, "new": "Alice"}, "ref": ref}
    deploy.asked["ref"], deploy.deploy = ref, deploy.new()
    deploy.run(until="noted")
    assert (deploy.returns["held"]["result"], deploy.returns["held"]["changes"]) == (True, {})


def test_a_busy_machine_stops_the_deploy_with_a_command_that_has_all_the_consent_that_is_needed(rehearse):
    deploy = rehearse(consent={"by": "Ann", "for": ["b/p/old"]})
    deploy.machines.busy["a"] = {
        **busy("a"),
        "blockers": [
            one
            for name, ask in (("x", "Jane"), ("y", "Joe"), ("z", "Jane"))
            for one in busy("a", name, ask=ask)["blockers"]
        ],
    }
    ret = deploy.run()
    assert (ret["result"], ret["reason"]) == (False, "busy")
    first, why, command = ret["comment"].splitlines()
    assert first.startswith("3 things running (ask Jane, Joe): x on a; y on a; z on a")
    assert "Jane and Joe agree" in why
    given = {"by": "Ann", "for": ["b/p/old"]}
    asked = json.loads(shlex.split(command)[-1].removeprefix("pillar="))["deploytoken"]
    assert asked == {
        **deploy.asked,
        "consent": [given, {"by": "Jane", "for": ["a/p/x", "a/p/z"]}, {"by": "Joe", "for": ["a/p/y"]}],
    }
    # As it is, it works.
    deploy.asked, deploy.deploy = asked, None
    deploy.deploy = deploy.new()
    assert deploy.run()["result"] is True
    assert "with the consent of Jane: x (a/p/x); z (a/p/z) and Joe: y (a/p/y)" in deploy.entries[0]


def test_a_consent_is_remembered_from_every_look(rehearse):
    deploy = rehearse(consent={"by": "Jane Doe", "for": ["a/p/*"]})
    deploy.machines.busy["a"] = [busy("a", "one"), busy("a", "two")]
    assert deploy.run()["result"] is True
    assert "with the consent of Jane Doe: one (a/p/one); two (a/p/two)" in deploy.entries[0]


def test_a_name_alone_agrees_to_what_was_found_first_and_to_nothing_later(rehearse):
    deploy = rehearse(consent="Jane Doe")
    deploy.machines.busy["a"] = [busy("a", "one"), busy("a", "two")]
    assert deploy.run()["result"] is True
    assert deploy.returns["idle"]["comment"].startswith("1 thing running: two on a")
    assert "nothing deployed: 1 thing running: two on a" in deploy.entries[0]


def states_run(minion, **more):
    """What a minion says on which somebody's states run."""
    answer = busy(minion, "state.highstate", age=60, **more)
    return {**answer, "blockers": [{**answer["blockers"][0], "id": f"{minion}/salt/20261130", "probe": "salt"}]}


def test_whoever_waits_for_the_token_is_not_refused_because_of_its_holder_s_states(rehearse):
    deploy = rehearse(wait="1s", consent="Jane Doe")
    deploy.machines.busy["a"] = [states_run("a"), IDLE]
    assert deploy.run()["result"] is True
    assert deploy.told[5] == "idle: done"
    assert not any("Jane Doe" in entry for entry in deploy.entries)

    deploy.again(consent=None)
    deploy.machines.busy["a"] = states_run("a")
    first = "Idle: a, b; asked again under the token: state.highstate on a for 1 minute"
    assert deploy.run(until="held")["comment"] == first
    # A hold that goes on is nobody else's.
    deploy.again(ref="f9c2a1b0")
    assert deploy.run(until="held")["comment"].startswith("1 thing running: state.highstate on a")


def test_states_that_run_under_the_token_stop_whoever_waited_for_it_whatever_a_bare_name_agreed_to(rehearse):
    deploy = rehearse(wait="1s", consent="Jane Doe")
    deploy.machines.busy["a"] = states_run("a")
    ret = deploy.run()
    assert deploy.returns["held"]["result"] is True
    assert (deploy.returns["idle"]["result"], deploy.returns["idle"]["reason"]) == (False, "busy")
    assert ret["result"] is True
    assert "nothing deployed: 1 thing running: state.highstate on a" in deploy.entries[0]


def test_a_dry_run_says_that_states_run_which_would_stop_it_under_the_token(rehearse):
    deploy = rehearse(test=True, wait="1s")
    deploy.machines.busy["a"] = states_run("a")
    assert deploy.run(until="held")["result"] is True
    deploy.step("updated")
    assert deploy.step("idle")["comment"].startswith("1 thing running: state.highstate on a")


def test_states_that_were_passed_over_are_asked_for_before_anything_begins_whatever_the_steps_are(rehearse):
    """A team's own orchestration may ask but once."""
    deploy = rehearse(wait="1s")
    deploy.machines.busy["a"] = states_run("a")
    for step in ("requested", "fetched", "idle", "held", "noted", "applied"):
        deploy.step(step)
    ret = deploy.returns["applied"]
    assert (ret["result"], ret["reason"], ret["not_started"]) == (False, "busy", ["a", "b"])


@pytest.mark.parametrize("more", [{}, {"wait": "0s"}])
def test_whoever_does_not_wait_for_the_token_is_refused_because_of_states_that_run(rehearse, more):
    deploy = rehearse(**more)
    deploy.machines.busy["a"] = states_run("a")
    assert deploy.run()["comment"].startswith("1 thing running: state.highstate on a")


def test_whoever_waits_for_the_token_is_still_refused_because_of_all_else_that_runs(rehearse):
    deploy = rehearse(wait="1s")
    deploy.machines.busy = {"a": states_run("a"), "b": busy("b")}
    assert deploy.run()["comment"].startswith("1 thing running: spider on b")


def test_a_deploy_asks_along_with_the_others_until_it_holds_the_token(rehearse):
    deploy = rehearse()
    folder = deploy.opts["cachedir"]
    others = lambda: list(asking.files.place(folder).glob("*.asking"))  # noqa: E731
    deploy.run(until="held")
    assert len(others()) == 1
    deploy.step("held")
    assert others() == []


def test_before_each_later_batch_its_machines_are_asked_again(rehearse):
    deploy = rehearse(batch=1)
    deploy.machines.busy["b"] = [IDLE, IDLE, busy("b")]
    deploy.run(until="rebooted")
    ret = deploy.returns["applied"]
    assert (ret["result"], ret["reason"], ret["not_started"]) == (False, "busy", ["b"])
    assert ret["comment"].startswith("1 thing running: spider on b")
    assert deploy.record.looks == ["before the token", "after the update", "before batch 2"]
    deploy.step("released")
    assert deploy.status["ref"] == deploy.record.ref


def test_a_run_that_would_take_this_extension_off_a_machine_stops_before_the_token(rehearse):
    deploy = rehearse(saltenv="dev")
    deploy.machines.ill = {"a": {"keeps": False, "why": "x would be removed."}, "b": {"keeps": True, "why": "fine"}}
    ret = deploy.run()
    assert (ret["result"], ret["reason"]) == (False, "invalid")
    assert ret["comment"] == "deploytoken.saltenv: a says: x would be removed."
    assert deploy.status["held_by"] is None


def test_a_key_beside_the_request_is_refused_by_name(rehearse):
    deploy = rehearse()
    deploy.deploy._beside = ["app", "db"]
    assert deploy.run()["comment"].startswith("app, db: stands beside deploytoken in the orchestration's pillar")


def test_a_function_is_run_in_the_place_of_states(rehearse):
    deploy = rehearse(function={"name": "service.restart", "arg": ["nginx"]})
    deploy.machines.returns = {"a": {"ret": True, "retcode": 0}, "b": {"ret": False, "retcode": 0}}
    deploy.run(until="rebooted")
    assert deploy.machines.asked[-1] == (["a", "b"], "service.restart", {})
    assert deploy.returns["applied"]["failed"] == ["b"]


def test_a_function_is_not_run_in_a_test(rehearse):
    deploy = rehearse(test=True, function="pkg.upgrade")
    for step in STEPS:
        deploy.step(step)
    assert deploy.returns["applied"]["comment"] == "pkg.upgrade would be run; what it would change cannot be told"
    assert all(fun == "glob" for _, fun, *_ in deploy.machines.asked)


def test_those_that_need_it_after_the_states_are_rebooted(rehearse, monkeypatch):
    deploy = rehearse(reboot="required", reboot_timeout=1)
    answers = [([], {}), (["b"], {})]
    monkeypatch.setattr("saltext.deploytoken.machines.reboots.required", lambda *_: answers.pop(0))
    deploy.run()
    assert (deploy.machines.ordered, deploy.record.reboots.order) == (["b"], ["b"])


def test_a_machine_that_cannot_tell_whether_it_needs_a_reboot_stops_the_deploy_before_the_states(
    rehearse, monkeypatch
):
    deploy = rehearse(reboot="required")
    unknown = ([], {"a": "cannot tell whether it needs a reboot: x"})
    monkeypatch.setattr("saltext.deploytoken.machines.reboots.required", lambda *_: unknown)
    deploy.run()
    assert deploy.returns["noted"]["comment"] == "a cannot tell whether it needs a reboot: x"
    assert "nothing deployed" in deploy.entries[0]


def test_without_a_busy_check_nothing_is_deployed_or_noted(rehearse):
    deploy = rehearse()
    deploy.step("requested")
    deploy.step("held")
    for step in ("noted", "applied"):
        ret = deploy.step(step)
        assert (ret["result"], ret["reason"]) == (False, "busy")
    assert deploy.step("released")["result"] is True


def test_those_are_deployed_that_the_last_look_found(rehearse):
    deploy = rehearse()
    deploy.run(until="noted")
    deploy.machines.ids.append("late")
    deploy.step("noted")
    deploy.step("applied")
    assert deploy.machines.asked[-1][0] == ["a", "b"]


def test_a_machine_that_does_not_say_that_it_succeeded_fails_the_step(rehearse):
    deploy = rehearse()
    deploy.machines.returns["b"] = {"ret": states("True"), "retcode": 0}
    deploy.run(until="rebooted")
    ret = deploy.returns["applied"]
    assert (ret["result"], ret["reason"], ret["failed"]) == (False, "failed", ["b"])
    assert ret["changes"]["ret"] == {"b": states("True")}


def test_a_step_that_raises_is_one_line_and_the_log_has_the_rest(rehearse, caplog):
    deploy = rehearse()
    deploy.machines.returns["b"] = KeyError("surprise")
    deploy.run(until="rebooted")
    ret = deploy.returns["applied"]
    assert (ret["result"], ret["reason"]) == (False, "unknown")
    assert ret["comment"] == "KeyError: 'surprise'; the log has more"
    assert "Traceback" in caplog.text


def test_an_interruption_of_a_step_is_an_answer_and_the_cleanup_still_runs(rehearse):
    deploy = rehearse()
    deploy.run(until="noted")
    deploy.machines.returns["a"] = SystemExit(0)  # as Salt does on Ctrl-C and SIGTERM
    deploy.step("noted")
    ret = deploy.step("applied")
    assert (ret["result"], ret["reason"]) == (False, "interrupted")
    assert "a, b go on with their states" in ret["comment"]


def test_in_a_test_every_step_says_what_it_would_do_and_nothing_is_written(rehearse):
    deploy = rehearse(test=True, reboot=True)
    deploy.machines.returns["b"] = {"ret": states(None, changes={"x": 1}), "retcode": 0}
    before = deploy.place.versions()
    for step in STEPS:
        deploy.step(step)
    assert {name: ret["result"] for name, ret in deploy.returns.items()} == {
        **dict.fromkeys(["requested", "fetched", "idle", "updated", "noted"], True),
        **dict.fromkeys(["held", "applied", "rebooted", "released"], None),
    }
    assert deploy.returns["held"]["comment"] == "Alice would acquire the deploy token"
    assert deploy.returns["applied"]["comment"] == "a: no changes; b: 1 would change"
    assert deploy.returns["rebooted"]["comment"] == "Would be rebooted, 1 at a time: a, b"
    assert deploy.machines.asked[-1][2]["test"] is True
    assert deploy.place.versions() == before
    assert not (deploy.place._store.path.parent / "cache").exists()


def test_a_test_on_a_master_with_git_remotes_does_not_claim_to_know_their_news(rehearse):
    deploy = rehearse(test=True)
    deploy.opts.update(fileserver_backend=["gitfs"], gitfs_remotes=["file:///nonexistent"])
    deploy.deploy = deploy.new(test=True)
    deploy.run()
    assert "NOT SHOWN: what news of the master's own git remotes" in deploy.deploy.report({})


def test_a_test_of_busy_machines_still_says_what_the_states_would_change(rehearse):
    deploy = rehearse(test=True)
    deploy.machines.busy["a"] = busy("a")
    for step in STEPS:
        deploy.step(step)
    assert deploy.returns["idle"]["result"] is False
    assert deploy.returns["applied"]["comment"] == "a: no changes; b: no changes"


def test_a_test_says_who_holds_the_token(rehearse):
    with (deploy := rehearse(test=True)).place.token("bob") as bob:
        bob.acquire("long work")
    deploy.step("requested")
    ret = deploy.step("held")
    assert (ret["result"], ret["reason"]) == (False, "held")
    assert ret["comment"].startswith("Bob holds the deploy token (long work; since ")


def test_a_test_of_a_hold_that_is_over_says_so(rehearse):
    deploy = rehearse(test=True, ref="f9c2a1b0")
    deploy.step("requested")
    first, second = deploy.step("held")["comment"].splitlines()
    assert first.startswith("the hold f9c2a1b0 is over, nobody holds it")
    assert second.startswith("To deploy under a new hold: salt-run ")
    assert "f9c2a1b0" not in second


INTERRUPTED = """
import pathlib, sys
from saltext.deploytoken import errors
from saltext.deploytoken.token import Token
from tests.support.deploys import Rehearsal

end, folder = sys.argv[1], pathlib.Path(sys.argv[2])
deploy = Rehearsal(folder, target="*", reason="it's")
taken = Token.acquire

def acquire(*args, **kwargs):
    if end == "refused":
        raise errors.Held("Bob holds the token")
    if end == "fell over":
        raise BrokenPipeError
    return taken(*args, **kwargs)

Token.acquire = acquire
deploy.run(until="released")
if end == "end":
    deploy.step("released")
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("between two steps", ["The deploy token stays held (ref ", "): the deploy was ended in the middle.\n"]),
        ("fell over", ["The deploy token may be held (ref "]),
        ("refused", []),
        ("end", []),
    ],
)
def test_a_person_who_ends_python_between_two_steps_reads_of_the_hold_and_nobody_else(tmp_path, end, told):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, end, tmp_path],
        cwd=CHECKOUT,
        env={"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/_utils", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done
    said = done.stderr[done.stderr.find("The deploy token ") :] if told else done.stderr
    assert all(words in said for words in told), done.stderr
    assert ("salt-run deploytoken.release ref=" in said) is bool(told), done.stderr
    assert ('"ref": "' in said) is bool(told)
