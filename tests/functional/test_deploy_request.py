"""The procedure as Salt compiles it: `deploytoken/deploy.sls`."""

import pytest

from tests.support.deploy import STEPS

REQUEST = {"target": "web*", "reason": "upgrade: 'it' \"all\" # now"}
#: By step: its state, and the step that it requires.
PROCEDURE = {
    "request": ("requested", None),
    "repositories": ("fetched", "request"),
    "idle": ("idle", "repositories"),
    "token": ("held", "idle"),
    "update": ("updated", "token"),
    "still idle": ("idle", "update"),
    "boots": ("noted", "still idle"),
    "deploy": ("applied", "boots"),
    "reboots": ("rebooted", "boots"),
    "cleanup": ("released", "token"),
    "report": ("reported", None),
}
SALTS_OWN = {"state", "fun", "name", "__id__", "__sls__", "__env__", "order", "failhard", "require"}


@pytest.fixture
def compiled(loaders):
    """``compiled({…})``: what that request compiles to, in order."""
    # A master-wide failhard would skip the cleanup; what a step says itself is stronger.
    loaded = loaders("minion", failhard=True)
    return lambda asked: loaded.modules["state.show_low_sls"]("deploytoken.deploy", pillar={"deploytoken": asked})


@pytest.mark.parametrize("asked", [REQUEST, {}, None, "x", {"test": "yes"}], ids=str)
def test_each_step_requires_the_one_before_and_none_can_skip_the_cleanup(compiled, asked):
    found = compiled(asked)
    assert [low["__id__"] for low in found] == STEPS == list(PROCEDURE)
    for low in found:
        function, after = PROCEDURE[low["__id__"]]
        assert (low["state"], low["fun"], low["failhard"]) == ("deploytoken", function, False)
        assert low.get("require", []) == ([{"deploytoken": after}] if after else [])
        assert set(low) <= SALTS_OWN


def test_in_a_test_no_step_waits_for_another(compiled):
    assert not any(low.get("require") for low in compiled({**REQUEST, "test": True}))


def test_no_step_goes_through_the_client_of_runners(loaders, monkeypatch, tmp_path):
    """It fires two events for each call, and waits a second for each where no master runs (3008.3)."""
    monkeypatch.setattr("salt.runner.RunnerClient.__init__", lambda *_: pytest.fail("a step made a client of runners"))
    configured = {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"}
    asked = {"deploytoken": {"target": "nobody*", "reason": "upgrade"}}
    salt = loaders(deploytoken=configured, pillar=asked)
    salt.runners["deploytoken.init"]()
    found = {step: salt.states[f"deploytoken.{step}"](step) for step, _ in PROCEDURE.values() if step != "reported"}
    # Each says for itself why there is nothing to do.
    assert found["idle"]["comment"].startswith("The target 'nobody*' matches no minion")
    assert found["held"]["comment"].startswith("Alice holds the deploy token")
    assert found["released"]["result"] is True
