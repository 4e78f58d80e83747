"""What the gate costs: executor and gate state of one run ask one question, and never share more than that."""

import pathlib
import time

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from saltext.deploytoken import config
from saltext.deploytoken.gate.glass import pending
from saltext.deploytoken.token import Token
from tests.support.salt import Config

REF = "f9c2a1b0"
RUN = {"deploytoken": {"ref": REF}}


@pytest.fixture
def options(tmp_path):
    count = f"sh -c 'echo >>{tmp_path}/asked; echo {{}}'"
    return {
        "deploytoken": {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"},
        "ext_pillar": [{"cmd_json": count}, {"deploytoken": None}],
    }


@pytest.fixture
def token(options):
    with Token(config.parse(options)) as opened:
        opened.store.create("Held by: nobody\n\nh2. History\n", "init")
        opened.acquire("upgrade", ref=REF)
        yield opened


@pytest.fixture
def call(options, tmp_path):
    """``call(executors)``: a gated highstate by ``salt-call``, and how often it had the pillar compiled."""

    def highstate(*executors):
        minion = {**options, "module_executors": list(executors), "autoload_dynamic_modules": False}
        folder = tmp_path / str(len(executors))
        made = Config.make(folder, **minion)
        (made.folder / "master").rename(made.folder / "minion")
        (folder / "tree" / "top.sls").write_text(yaml.safe_dump({"base": {"*": ["deploytoken.gate"]}}))
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        answer = made.command(
            "salt-call", "--local", "state.highstate", f'pillar={{"deploytoken": {{"ref": "{REF}"}}}}'
        )
        assert answer.code == 0, answer
        return len(asked.read_text().splitlines())

    return highstate


def test_executor_and_state_of_one_run_ask_once(call, token):
    assert call("deploygate", "direct_call") == call("direct_call")


@pytest.fixture
def gates(loaders, options, token):
    """``executor(run)`` and ``state(run)`` in one process: whether a run with that pillar is allowed."""
    loaded = loaders("minion", **options)

    def executor(run):
        try:
            loaded.executors["deploygate.execute"]({}, {"fun": "state.apply"}, "state.apply", [], {"pillar": run})
        except CommandExecutionError:
            return False
        return True

    def state(run):
        # The last answer, which all gates may use for 3 seconds, is gone.
        (pathlib.Path(loaded.opts["cachedir"]) / "deploytoken" / "live.json").unlink(missing_ok=True)
        return loaded.modules["deploygate.admit"](pillar=run, fun="deploygate.passed")["allowed"]

    return executor, state


def test_what_the_executor_heard_serves_one_state_and_no_second(gates, token, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)  # it serves for seconds only, which a busy machine may take
    executor, state = gates
    assert executor(RUN)
    token.release("done", ref=REF)
    assert state(RUN)
    assert not state(RUN)


@pytest.mark.parametrize(
    "other", [None, {}, {"deploytoken": {"ref": "a0a0a0a0"}}, {"deploytoken": {"ref": REF, "by": "Bob"}}]
)
def test_it_serves_no_other_run(gates, token, other):
    executor, state = gates
    assert executor(RUN)
    token.release("done", ref=REF)
    assert not state(other)
    assert not state(RUN)


def test_it_serves_for_seconds_only(gates, token, monkeypatch):
    executor, state = gates
    assert executor(RUN)
    token.release("done", ref=REF)
    later = time.monotonic() + 4
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not state(RUN)


def test_a_refusal_serves_nobody(gates, token):
    executor, state = gates
    later = {"deploytoken": {"ref": "a0a0a0a0"}}
    token.release("done", ref=REF)
    assert not executor(later)
    token.acquire("once more", ref="a0a0a0a0")
    assert state(later)


def test_glass_that_is_broken_once_is_told_once(gates, token, options, loaders):
    executor, state = gates
    glass = {"deploytoken": {"break_glass": "the site is down", "by": "Bob"}}
    assert executor(glass)
    token.release("done", ref=REF)
    assert state(glass)
    (run,) = pending(loaders("minion", **options).opts["cachedir"])
    assert run.fun == "state.apply"


def test_a_page_that_was_set_back_to_an_ended_hold_opens_no_gate(gates, token):
    _, state = gates
    held = token.store.read()
    token.release("done", REF)
    token.store.write(held.text, held.version + 1, "Revert to version 2")

    assert token.status()["ref"] == REF
    assert not state(RUN)
