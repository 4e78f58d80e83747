"""Only a clear answer of a minion is one: the judgement of the runner and of ``minions``, without any daemon."""

import importlib.util
import pathlib

import pytest

from saltext.deploytoken.machines import master as minions

PATH = pathlib.Path(__file__).parents[2] / "_runners" / "busy.py"
SPEC = importlib.util.spec_from_file_location("busy_runner", PATH)
runner = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(runner)

IDLE = {"idle": True, "checks": [], "blockers": [], "unknowns": [], "info": []}
BLOCKER = {"id": "kf/p/x", "probe": "p", "user": None, "what": "x", "age": None, "ask": None}


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
        ({"ret": "Traceback\n  File\nValueError: \x1b[1m", "retcode": 1}, "failed: ValueError: ?[1m"),
        ({"ret": IDLE}, "failed"),
        ({"ret": IDLE, "retcode": 1}, "failed"),
    ],
)
def test_everything_but_a_clean_return_is_a_failure_with_a_reason(answer, why):
    assert why in minions.problem(answer, 3, (0, 7))


@pytest.mark.parametrize("code", [0, 7])
def test_a_clean_return_is_an_answer(code):
    assert minions.problem({"ret": IDLE, "retcode": code}, 3, (0, 7)) is None


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
    assert runner._clear("kf", answer) is False


@pytest.mark.parametrize(
    "answer",
    [
        IDLE,
        {**IDLE, "idle": False, "blockers": [BLOCKER]},
        {**IDLE, "idle": False, "unknowns": [{"probe": "p", "why": "x"}]},
    ],
)
def test_a_clear_answer_is_taken(answer):
    assert runner._clear("kf", answer) is True


def test_pending_jobs_are_stuck_only_where_nothing_runs():
    def job(minion, name, state):
        return {"id": f"{minion}/scrapyd/{name}", "state": state}

    left = [job("a", "1", "running"), job("a", "2", "pending"), job("b", "3", "pending"), {"id": "b/tmux/x"}]

    assert runner._idling(left) == ["b/scrapyd/3"]


def test_a_queue_behind_a_job_that_somebody_agreed_to_is_not_stuck(monkeypatch):
    running, pending = (
        {**BLOCKER, "id": f"kf/scrapyd/kingfisher:{state}:1", "probe": "scrapyd", "state": state}
        for state in ("running", "pending")
    )
    found = {"target": "kf", "whom": "", "expected": ["kf"], "failed": {}, "unknowns": []}
    found.update(minions={"kf": {**IDLE, "idle": False}}, blockers=[running, pending])
    monkeypatch.setattr(runner, "_look", lambda *_: found)
    monkeypatch.setattr(runner, "__opts__", {}, raising=False)

    answer = runner.wait(
        "kf", timeout="0.5s", interval="0.1s", stuck="0.2s", consent={"by": "Jane", "for": [running["id"]]}
    )

    assert answer["message"].startswith("Still not idle after")
    assert [one["id"] for one in answer["blockers"]] == [pending["id"]]


@pytest.mark.parametrize(
    "states",
    [
        *({}, [], "No matching sls", {"a": {}}, {"a": 5}, {"a": {"answer": None}}),
        {"a": {"answer": IDLE}, "b": {"result": False}},
    ],
)
def test_a_run_of_states_that_does_not_say_it_is_no_answer(states):
    assert runner._clear("kf", runner._of_state(states)) is False
