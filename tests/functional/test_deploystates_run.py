"""``salt-run deploystates.apply`` before any minion is reached: what is refused, and with which code."""

import pathlib

import pytest

REF = "f9c2a1b0"


@pytest.fixture
def salt(loaders, tmp_path):
    """A master that is down, and knows the minions web1 and web2."""
    salt = loaders(deploytoken={"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"})
    keys = pathlib.Path(salt.opts["pki_dir"]) / "minions"
    keys.mkdir(parents=True)
    for minion in ("web1", "web2"):
        (keys / minion).touch()
    salt.runners["deploytoken.init"]()
    return salt


@pytest.mark.parametrize(
    ("named", "code", "reason", "words"),
    [
        ({}, 2, "invalid", "ref: needed"),
        ({"ref": "x"}, 2, "invalid", "8 hex digits"),
        ({"ref": REF, "batch": "two"}, 2, "invalid", "batch: 'two'"),
        ({"ref": REF, "target_type": "globb"}, 2, "invalid", "target_type"),
        ({"ref": REF, "test": "maybe"}, 2, "invalid", "test"),
        ({"ref": REF, "sls_id": "site"}, 2, "invalid", "sls_id: needs sls"),
        ({"ref": REF, "pillar": {"deploytoken": {}}}, 2, "invalid", "pillar.deploytoken: leave it out"),
        ({"ref": REF, "function": "state.apply"}, 2, "invalid", "function: state.apply is for sls"),
        ({"ref": REF, "function": "pkg.upgrade", "sls": "web"}, 2, "invalid", "sls: is for states"),
        ({"ref": REF, "consent": {"to": "x"}}, 2, "invalid", "consent"),
        ({"ref": REF, "target": "db*"}, 7, "busy", "matches no minion"),
        ({"ref": REF, "target": "web1,db", "target_type": "list"}, 7, "busy", "db has no accepted key"),
        ({"ref": REF}, 4, "not_yours", "nobody holds it"),
    ],
)
def test_what_is_not_clear_or_not_held_is_refused_before_anything_runs(salt, named, code, reason, words):
    answer = salt.runners["deploystates.apply"](**{"target": "web*", **named})
    assert (salt.retcode, answer["reason"]) == (code, reason), answer
    assert words in answer["message"]
    assert answer.get("minions", {}) == {}


def test_a_master_that_is_down_stops_it_before_anything_begins(salt, capsys):
    salt.runners["deploytoken.acquire"](reason="upgrade", ref=REF)
    answer = salt.runners["deploystates.apply"](target="web*", ref=REF, batch=1)
    assert (salt.retcode, answer["reason"]) == (7, "busy"), answer
    assert (answer["minions"], answer["not_started"]) == ({}, ["web1", "web2"])
    assert "web1 could not be asked" in answer["message"]
    assert "batch" not in capsys.readouterr().err
