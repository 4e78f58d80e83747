"""Only a clear answer of a machine is one, and only a positive "idle" is idle; without any daemon."""

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.busy import consent, verdict, waiting
from saltext.deploytoken.machines import base, ssh
from tests.support.machines import IDLE, Scripted, busy

(BLOCKER,) = busy("kf", "x")["blockers"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "did not answer within 3 seconds"),
        (False, "did not answer"),
        ({}, "did not answer"),
        ("Minion did not return. [No response]", "did not answer"),
        ({"out": "no_return", "ret": "x", "retcode": 1}, "did not answer"),
        ({"retcode": 0}, "answered nothing to use"),
        ({"ret": "'busy.check' is not available.", "retcode": 254}, "failed: 'busy.check' is not available."),
        ({"ret": "Traceback\n  File\nValueError: \x1b[1m", "retcode": 1}, "failed: ValueError:  [1m"),
        (
            {
                "ret": "ERROR executing 'busy.check': The following keyword arguments are not valid: asking=[]",
                "retcode": 1,
            },
            "has an older busy.check than this master: run `salt '*' saltutil.sync_modules`",
        ),
        ({"ret": IDLE}, "failed"),
        ({"ret": IDLE, "retcode": 1}, "failed"),
    ],
)
def test_everything_but_a_clean_return_is_a_failure_with_a_reason(answer, why):
    assert why in base.problem(answer, 3, (0, 7))


@pytest.mark.parametrize("code", [0, 7])
def test_a_clean_return_is_an_answer(code):
    assert base.problem({"ret": IDLE, "retcode": code}, 3, (0, 7)) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "idle",
        [],
        {},
        {"idle": True},
        {**IDLE, "idle": 1},
        {**IDLE, "idle": None},
        {**IDLE, "blockers": None},
        {**IDLE, "checks": "tmux"},
        {**IDLE, "blockers": [BLOCKER]},
        {**IDLE, "unknowns": [{"probe": "p", "why": "x"}]},
        {**IDLE, "idle": False},
        {**IDLE, "idle": False, "blockers": ["x"]},
        {**IDLE, "idle": False, "blockers": [{"id": "kf/p/x"}]},
        {**IDLE, "idle": False, "blockers": [{**BLOCKER, "id": "other/p/x"}]},
        {**IDLE, "idle": False, "unknowns": [{}]},
        {**IDLE, "idle": False, "unknowns": [{"probe": "p", "why": None}]},
        *({**IDLE, "idle": False, "blockers": [{**BLOCKER, "age": age}]} for age in ("5", float("nan"), True)),
        *({**IDLE, "idle": False, "blockers": [{**BLOCKER, key: ["x"]}]} for key in BLOCKER),
        {**IDLE, "info": [{"what": "x"}]},
        # Nothing that a terminal would obey.
        {**IDLE, "note": "\x1b[2J"},
        {**IDLE, "info": [{**BLOCKER, "what": "a\nkf: idle"}]},
        *(
            {**IDLE, "idle": False, "blockers": [{**BLOCKER, key: "kf/\x1b[2J"}]}
            for key in ("id", "what", "user", "ask")
        ),
        {**IDLE, "idle": False, "unknowns": [{"probe": "p", "why": "\x1b[2J"}]},
    ],
)
def test_an_answer_that_is_not_busy_checks_or_contradicts_itself_is_none(answer):
    assert verdict.is_clear("kf", answer) is False


@pytest.mark.parametrize(
    "answer",
    [
        IDLE,
        {**IDLE, "idle": False, "blockers": [BLOCKER]},
        {**IDLE, "idle": False, "unknowns": [{"probe": "p", "why": "x"}]},
    ],
)
def test_a_clear_answer_is_taken(answer):
    assert verdict.is_clear("kf", answer) is True


def test_pending_jobs_are_stuck_only_where_nothing_runs():
    def job(minion, name, state):
        return {"id": f"{minion}/scrapyd/{name}", "state": state}

    left = [job("a", "1", "running"), job("a", "2", "pending"), job("b", "3", "pending"), {"id": "b/tmux/x"}]

    assert waiting.pending_alone(left) == ["b/scrapyd/3"]


TIMES = waiting.Times(limit=0.5, interval=0.1, settle=0.05, stuck=0.2)


def wait(machines, agreed=None, times=TIMES, tell=lambda line: None):
    return waiting.wait(lambda: verdict.look(machines, "*"), agreed, times, tell)


def job(state):
    return busy("kf", f"kingfisher:{state}:1", state=state)["blockers"][0]


def test_a_queue_behind_a_job_that_somebody_agreed_to_is_not_stuck():
    machines = Scripted("kf")
    machines.busy["kf"] = {**busy("kf"), "blockers": [job("running"), job("pending")]}
    with pytest.raises(errors.Busy, match=r"^Still not idle after") as caught:
        wait(machines, consent.parse({"by": "Jane", "for": [job("running")["id"]]}))
    assert [one["id"] for one in caught.value.details["blockers"]] == [job("pending")["id"]]


def test_a_queue_of_which_nothing_runs_is_stuck():
    machines = Scripted("kf")
    machines.busy["kf"] = {**busy("kf"), "blockers": [job("pending")]}
    with pytest.raises(errors.Busy, match=r"^Stuck: 1 job pending") as caught:
        wait(machines)
    assert [one["id"] for one in caught.value.details["stuck"]] == [job("pending")["id"]]


def test_work_that_begins_during_a_wait_is_not_what_jane_agreed_to_before():
    machines = Scripted("kf")
    machines.busy["kf"] = [busy("kf", "old"), busy("kf", "new"), *[busy("kf", "old")] * 3]
    told = []
    found, _ = wait(machines, consent.parse("Jane"), tell=told.append)
    assert "new on kf" in told[0]
    assert str(found) == "Jane agreed to the interruption of kf/p/old"
    assert consent.data(found.agreed) == [{"by": "Jane", "for": ["kf/p/old"]}]


def test_a_verdict_has_what_was_agreed_to_and_by_whom():
    machines = Scripted("a", "b")
    machines.busy = {"a": busy("a"), "b": busy("b")}
    found = verdict.look(machines, "*")
    done = verdict.judge(found, consent.parse([{"by": "Jane", "for": ["a/*"]}, "Ben"]))
    assert str(done) == "Jane agreed to the interruption of a/p/spider; Ben agreed to the interruption of b/p/spider"
    assert {one["by"]: [each["id"] for each in one["to"]] for one in done.data()["consented"]} == {
        "Jane": ["a/p/spider"],
        "Ben": ["b/p/spider"],
    }
    # A later look has nothing to do with Ben.
    machines.busy["b"] = busy("b", "other")
    with pytest.raises(errors.Busy, match="other on b") as caught:
        verdict.judge(verdict.look(machines, "*"), done.agreed)
    assert caught.value.details["consent"] == [*consent.data(done.agreed), {"by": "WHO AGREED", "for": ["b/p/other"]}]


def test_an_idle_machine_needs_nobody_s_consent():
    done = verdict.judge(verdict.look(Scripted("a"), "*"), consent.parse("Jane"))
    assert (str(done), done.agreed, done.data()["consented"]) == ("Idle: a", None, [])


def test_idle_is_what_two_looks_find_that_are_further_apart_than_a_moment():
    machines = Scripted("kf")
    machines.busy["kf"] = [IDLE, busy("kf"), IDLE, IDLE, IDLE]
    told = []
    found, _ = wait(machines, tell=told.append)
    assert (found.found.expected, len(told)) == (["kf"], 1)
    assert len(machines.asked) >= 4


def test_a_wait_uses_all_of_its_time():
    """A limit that is no multiple of the interval: the last look is at its end, and not one interval before."""
    machines = Scripted("kf")
    machines.busy["kf"] = [busy("kf"), busy("kf"), IDLE, IDLE]
    times = waiting.Times(limit=0.3, interval=0.2, settle=0.05, stuck=60)
    assert wait(machines, times=times)[0].found.expected == ["kf"]


def test_a_target_that_matches_nobody_is_not_waited_for():
    with pytest.raises(errors.Busy, match="matches no minion"):
        wait(Scripted())


def test_a_target_that_matches_nobody_is_one_reason_everywhere():
    machines = Scripted("kf")
    for ask in (lambda: verdict.judge(verdict.look(machines, "x"), None), lambda: machines.require("x")):
        with pytest.raises(errors.Busy, match=r"^The target 'x' matches no minion \(salt-key"):
            ask()


@pytest.mark.parametrize(
    "states",
    [
        *({}, [], "No matching sls", {"a": {}}, {"a": 5}, {"a": {"answer": None}}),
        {"a": {"answer": IDLE}, "b": {"result": False}},
    ],
)
def test_a_run_of_states_that_does_not_say_it_is_no_answer(states):
    assert verdict.is_clear("kf", ssh.answer_of_state(states)) is False
