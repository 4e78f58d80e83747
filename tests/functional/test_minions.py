"""Whom a target means, as the master knows it before anybody is asked."""

import pathlib

import pytest
from salt.exceptions import SaltClientError

from saltext.deploytoken import errors


@pytest.fixture
def opts(loaders):
    opts = loaders(nodegroups={"web": "web* and not web2", "all": "N@web or L@db,web2"}).opts
    keys = pathlib.Path(opts["pki_dir"]) / "minions"
    keys.mkdir(parents=True)
    for minion in ("web1", "web2", "web3", "db"):
        (keys / minion).touch()
    return opts


@pytest.mark.parametrize(
    ("target", "target_type", "expected"),
    [
        ("web*", "glob", ["web1", "web2", "web3"]),
        ("web1,db", "list", ["db", "web1"]),
        (["web1", "db"], "list", ["db", "web1"]),
        ("web[13]", "pcre", ["web1", "web3"]),
        ("web* and not L@web1,web3 or db", "compound", ["db", "web2"]),
        ("web", "nodegroup", ["web1", "web3"]),
        ("all", "nodegroup", ["db", "web1", "web2", "web3"]),
        ("nobody*", "glob", []),
    ],
)
def test_a_target_means_these_minions(opts, target, target_type, expected):
    from saltext.deploytoken.machines import master as minions

    assert minions.expect(opts, target, target_type) == (expected, {})


def test_a_listed_minion_without_a_key_is_named(opts):
    from saltext.deploytoken.machines import master as minions

    expected, unknown = minions.expect(opts, "web1, web9", "list")
    assert expected == ["web1"]
    assert "salt-key" in unknown["web9"]


def test_a_type_that_salt_does_not_have_is_refused(opts):
    from saltext.deploytoken.machines import master as minions

    with pytest.raises(errors.Invalid, match="target_type: 'globb' is none of glob"):
        minions.expect(opts, "web*", "globb")


def test_of_several_questions_an_answer_has_what_was_said_to_each(monkeypatch):
    from saltext.deploytoken.machines import master as minions

    answers = {
        "a": {"x.y": "1", "x.z": False},
        "ordered": ["1", False],  # `multifunc_ordered` in the minion's configuration
        "half": {"x.y": "1"},
        "refuses": "Minion in blackout mode.",
        "short": ["1"],
        "empty": None,
    }
    heard = {minion: {"ret": ret, "retcode": 0} for minion, ret in answers.items()}
    monkeypatch.setattr(minions, "within", lambda *args, **kwargs: heard)
    found = minions.several({}, list(answers), {"x.y": ["1"], "x.z": []})
    assert found == {"a": ["1", False], "ordered": ["1", False], "half": ["1", None]}


class Interrupted:
    """A client of Salt's that is interrupted while it asks the master, as the real one tells of it (3008.3)."""

    def __init__(self, interruption):
        self.interruption = interruption

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run_job(self, *_args, **_kwargs):
        try:
            try:
                raise self.interruption
            finally:
                raise RuntimeError("Event loop stopped before Future completed.")
        except Exception as error:
            raise SaltClientError(error)  # noqa: B904

    cmd = run_job


class InterruptedLater(Interrupted):
    def run_job(self, *_args, **_kwargs):
        return {"jid": "20261122223000123456"}

    get_iter_returns = Interrupted.run_job


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(0)], ids=repr)
def test_an_interruption_while_the_master_is_asked_is_not_a_master_that_is_away(opts, monkeypatch, interruption):
    from saltext.deploytoken.machines import master as minions

    def client(cls):
        monkeypatch.setattr(minions.salt.client, "get_local_client", lambda mopts: cls(interruption))

    client(Interrupted)
    for ask in (
        lambda: minions.ask(opts, "web1", "glob", "test.ping"),
        lambda: minions.within(opts, ["web1"], "test.ping"),
        lambda: list(minions.follow(opts, ["web1"], "test.ping")),
    ):
        with pytest.raises(type(interruption)):
            ask()
    client(InterruptedLater)
    with pytest.raises(type(interruption)):
        list(minions.follow(opts, ["web1"], "test.ping"))


def test_one_look_alone_does_not_make_a_minion_silent():
    from saltext.deploytoken.machines import master as minions

    now = 0
    silence = minions.Silence(clock=lambda: now)
    assert silence.lasts({"a", "b", "c"}, {"a": True, "b": False}) == {}
    now = minions.PATIENCE - 1
    # Heard again: b goes on, and the silence of c is over.
    assert silence.lasts({"a", "b", "c"}, {"b": True, "c": True}) == {}
    now += minions.PATIENCE
    lost = silence.lasts({"a", "b", "c"}, {"b": False})
    assert list(lost) == ["a"]
    assert "does not answer any more" in lost["a"]
    lost = silence.lasts({"b", "c"}, {"b": False})
    assert list(lost) == ["b"]
    assert "ended without a return" in lost["b"]
