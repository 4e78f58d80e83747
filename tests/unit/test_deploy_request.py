"""What a person asks for: each key goes through the parser of the step that it is for, and is refused by its name."""

import json
import re
import shlex

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.busy.consent import Consent, Grant
from saltext.deploytoken.deploy import request
from saltext.deploytoken.machines import states
from saltext.deploytoken.machines.reboots import Health
from saltext.deploytoken.machines.states import Function, Task
from saltext.deploytoken.values import Batch

WHOLE = {
    "target": "web* and not web9",
    "target_type": "compound",
    "reason": "upgrade: 'it' \"all\" # now",
    "sls": "web, db",
    "sls_id": "nginx",
    "pillar": {"nginx": {"workers": 4}},
    "consent": {"by": "Jane Doe", "for": ["web1/tmux/*"]},
    "on_failure": "release",
    "ref": "f9c2a1b0",
    "name": "Bob",
    "wait": "1.5h",
    "wait_idle": "2h",
    "expect": "1.5h",
    "on_success": "hold",
    "reboot": ["web2", "web1"],
    "reboot_batch": 2,
    "reboot_pause": "2m",
    "reboot_timeout": "1.5m",
    "health": {"sls": "smoke"},
    "batch": "25%",
    "saltenv": "other",
    "pillarenv": "third",
    "test": True,
    "ssh": True,
}
LEAST = {"target": "docs", "reason": "x"}


def test_every_key_is_understood():
    # A function is instead of states.
    assert {*WHOLE, "function"} == set(request.KEYS)
    assert request.parse({**LEAST, "function": "pkg.upgrade"}).task == Task(function=Function("pkg.upgrade"))
    assert request.parse({**LEAST, "reboot": "required"}).reboot == "required"
    own = {"sls": ["web", "db"], "sls_id": "nginx", "pillar": {"nginx": {"workers": 4}}}
    assert request.parse(WHOLE) == request.Request(
        **{
            **{name: value for name, value in WHOLE.items() if name not in states.KEYS},
            "task": Task(**own, saltenv="other", pillarenv="third"),
            "reboot_pause": 120,
            "consent": Consent((Grant("Jane Doe", ("web1/tmux/*",)),)),
            "wait": 5400,
            "wait_idle": 7200,
            "expect": 5400,
            "reboot_timeout": 90,
            "health": Health(Task(sls=["smoke"])),
            "batch": Batch(25, percent=True),
        }
    )


def test_a_key_without_a_value_is_no_key_and_the_rest_has_its_defaults():
    assert request.parse({**LEAST, **dict.fromkeys(set(WHOLE) - set(LEAST))}) == request.Request("docs", "x")


def test_a_list_of_ids_is_a_list_whatever_the_default_is():
    found = request.parse({"target": ["web1", "web2"], "reason": "x"})
    assert (found.target, found.target_type) == (["web1", "web2"], "list")


@pytest.mark.parametrize("raw", [None, "x", [], ["target"], 5])
def test_a_request_that_is_none_says_what_is_wanted(raw):
    with pytest.raises(errors.Invalid, match="say what to deploy and why"):
        request.parse(raw)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"target": None}, "target"),
        ({"target": {"a": 1}}, "target"),
        ({"target": []}, "target"),
        ({"target": ["docs"], "target_type": "glob"}, "target"),
        ({"target_type": ["glob"]}, "target_type"),
        ({"reason": None}, "reason"),
        ({"reason": " "}, "reason"),
        # What a later step would refuse: these reached the token, after the repositories had moved.
        ({"reason": "upgrade PostgreSQL (15 to 16)"}, "reason"),
        ({"reason": "upgrade; since today"}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"name": "Alice (Ops)"}, "name"),
        ({"name": "nobody"}, "name"),
        ({"name": ""}, "name"),
        ({"reboot": True, "reboot_timeout": "400d"}, "reboot_timeout"),
        ({"reboot": True, "reboot_timeout": "0"}, "reboot_timeout"),
        ({"wait": "soon"}, "wait"),
        ({"wait": "400d"}, "wait"),
        ({"wait_idle": True}, "wait_idle"),
        ({"sls": []}, "sls"),
        ({"consent": "WHO AGREED"}, "consent"),
        ({"consent": {"by": "Jane", "for": []}}, "consent.for"),
        ({"consent": ["Jane", {"by": "WHO AGREED"}]}, "consent.1.by"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"on_failure": ["hold"]}, "on_failure"),
        ({"ref": 12345678.0}, "ref"),
        ({"ref": "f9c2"}, "ref"),
        ({"batch": "0"}, "batch"),
        ({"batch": "150%"}, "batch"),
        ({"batch": True}, "batch"),
        ({"saltenv": {"a": 1}}, "saltenv"),
        ({"sls_id": "nginx"}, "sls_id"),
        ({"function": "state.apply"}, "function"),
        ({"function": {"name": "system.reboot"}}, "function.name"),
        ({"function": "pkg.upgrade", "sls": "web"}, "sls"),
        ({"pillar": ["a"]}, "pillar"),
        ({"pillar": {"deytoken": 1, "deploytoken": {"ref": "f9c2a1b0"}}}, "pillar.deploytoken"),
        ({"reboot_pause": "2m"}, "reboot_pause"),
        ({"test": "yes"}, "test"),
        ({"ssh": "no"}, "ssh"),
        ({"reboot": "no one" * 0}, "reboot"),
        ({"reboot": []}, "reboot"),
        ({"reboot": {"a": 1}}, "reboot"),
        ({"reboot_batch": 2}, "reboot_batch"),
        ({"reboot": True, "reboot_batch": 0}, "reboot_batch"),
        ({"health": "test.ping"}, "health"),
        ({"reboot": True, "health": "nginx"}, "health"),
        ({"reboot": True, "health": {"sls": [""]}}, "health.sls"),
        ({"raeson": "x"}, "raeson"),
        ({True: "x"}, "True"),
        # Words with which salt.state succeeds without a minion.
        *(({word: True}, word) for word in ("subset", "allow_fail", "fail_minions", "expect_minions", "failhard")),
    ],
    ids=str,
)
def test_a_wrong_key_is_refused_by_its_whole_name(wrong, key):
    with pytest.raises(errors.Invalid, match=rf"^deploytoken\.{re.escape(key)}: ") as caught:
        request.parse({**LEAST, **wrong})
    assert "\n" not in str(caught.value)


def test_the_word_for_a_free_token_is_the_configured_one():
    with pytest.raises(errors.Invalid, match="the word for a free token"):
        request.parse({**LEAST, "name": "niemand"}, nobody="niemand")


def test_the_command_asks_for_the_same_again():
    words = shlex.split(request.command(WHOLE))
    assert words[:3] == ["salt-run", "state.orchestrate", "deploytoken.deploy"]
    assert json.loads(words[3].removeprefix("pillar=")) == {"deploytoken": WHOLE}
