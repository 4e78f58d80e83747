"""What a request asks for reaches its steps, in their order: `deploytoken/deploy.sls`, as Salt compiles it."""

import pytest

from tests.support.deploy import STEPS

REF = "f9c2a1b0"
CONSENT = {"by": "Jane Doe", "for": ["web1/tmux/*"]}
REQUEST = {
    "target": "web* and not web9",
    "target_type": "compound",
    "reason": "upgrade: 'it' \"all\" # now",
    "sls": ["web", "db"],
    "consent": CONSENT,
    "on_failure": "release",
    "ref": REF,
    "name": "Bob",
    "wait": "15m",
    "wait_idle": "2h",
    "reboot": ["web2", "web1"],
    "reboot_batch": 2,
    "reboot_timeout": "10m",
    "health": {"sls": "smoke"},
    "batch": "25%",
    "saltenv": "other",
    "ssh": True,
}
TARGET = {"target": REQUEST["target"], "target_type": "compound", "ssh": True}
#: By step: what it is given, and which step it requires.
GIVEN = {
    "request": ({}, None),
    "repositories": ({"test": False}, "request"),
    "idle": ({**TARGET, "consent": CONSENT, "wait_idle": "2h"}, "repositories"),
    "token": (
        {"reason": REQUEST["reason"], "ref": REF, "resume": True, "by": "Bob", "wait": "15m", "test": False},
        "idle",
    ),
    "still idle": ({**TARGET, "consent": CONSENT}, "token"),
    "boots": ({"ref": REF, "reboot": ["web2", "web1"], "ssh": True, "test": False}, "still idle"),
    "deploy": (
        {**TARGET, "ref": REF, "sls": ["web", "db"], "batch": "25%", "environment": "other", "test": False},
        "boots",
    ),
    "reboots": (
        {"ref": REF, "after": "deploy", "batch": 2, "timeout": "10m", "health": {"sls": "smoke"}, "consent": CONSENT}
        | {"ssh": True, "test": False},
        "boots",
    ),
    "cleanup": (
        {"reason": REQUEST["reason"], "ref": REF, "resumed": True, "on_failure": "release", "test": False},
        "token",
    ),
    "report": ({"test": False, "ref": REF}, None),
}
SALTS_OWN = {"state", "fun", "name", "__id__", "__sls__", "__env__", "order", "failhard", "require"}


@pytest.fixture
def steps(loaders):
    """``steps({…})``: what that request compiles to, in order."""
    # A master-wide failhard would skip the cleanup; what a step says itself is stronger.
    loaded = loaders("minion", failhard=True)
    return lambda deploy: loaded.modules["state.show_low_sls"]("deploytoken.deploy", pillar={"deploytoken": deploy})


def test_each_key_of_a_request_reaches_the_steps_that_it_is_for(steps, loaders):
    found = steps(REQUEST)
    assert [low["__id__"] for low in found] == STEPS
    for low in found:
        given, after = GIVEN[low["__id__"]]
        assert {key: value for key, value in low.items() if key not in SALTS_OWN} == given, low["__id__"]
        assert [name for one in low.get("require", []) for name in one.values()] == ([after] if after else [])
        assert low["failhard"] is False
    every = loaders("minion").states["deploytoken.requested"].__globals__["REQUEST"]
    assert {*REQUEST, "test"} == set(every), "a new key: say here which steps it is for"


def test_in_a_test_no_step_waits_for_another_and_each_knows(steps):
    found = steps({**REQUEST, "test": True})
    assert not any("require" in low for low in found)
    assert {low["__id__"]: low["test"] for low in found if "test" in low} == dict.fromkeys(
        ["repositories", "token", "boots", "deploy", "reboots", "cleanup", "report"], True
    )
    (idle,) = (low for low in found if low["__id__"] == "idle")
    assert idle["wait_idle"] is None
