"""Whom a target means, as the master knows it before anybody is asked."""

import pathlib

import pytest
from salt.exceptions import SaltClientError

from saltext.deploytoken import errors
from saltext.deploytoken.machines import master
from saltext.deploytoken.machines.master import Master


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
        ("web1 or nobody*", "compound", ["web1"]),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
def test_a_target_means_these_minions(opts, target, target_type, expected, cached):
    """Without a minion or a master that could be asked: ids alone decide, whatever the master caches."""
    machines = Master({**opts, "minion_data_cache": cached})

    assert machines.expect(target, target_type) == (expected, {})


def test_a_listed_minion_without_a_key_is_named(opts):
    expected, unknown = Master(opts).expect("web1, web9", "list")
    assert expected == ["web1"]
    assert "salt-key" in unknown["web9"]


@pytest.mark.parametrize(
    ("target", "target_type", "expected"),
    [
        ("web1 or web9", "compound", ["web1"]),
        ("web* and not web9", "compound", ["web1", "web2", "web3"]),
        ("E@web[12] and not L@web1,web9", "compound", ["web2"]),
        ("old", "nodegroup", ["db"]),
    ],
)
def test_an_id_in_a_target_that_has_no_key_is_named_above_all_where_it_is_an_exception(
    opts, target, target_type, expected
):
    machines = Master({**opts, "nodegroups": {"old": ["db", "web9"]}})

    found, unknown = machines.expect(target, target_type)
    assert (found, list(unknown)) == (expected, ["web9"])
    with pytest.raises(errors.Busy, match="web9 has no accepted key"):
        machines.require(target, target_type)


def test_a_comma_in_a_pattern_is_refused_before_anybody_is_asked(opts):
    """3008 alone would take it for a list, and leave db9 out without a word."""
    for ask in (Master(opts).expect, Master(opts).ask_busy, Master(opts).require):
        with pytest.raises(errors.Invalid, match=r"^target: 'web1,db9' is a pattern, .* target_type: list"):
            ask("web1,db9")


def test_where_the_master_cannot_be_asked_the_line_says_so(opts):
    asked = Master({**opts, "minion_data_cache": False}).ask_busy("env:prod", "grain")

    assert asked.expected == ["db", "web1", "web2", "web3"]
    assert asked.answers == {}
    assert all(why.startswith("could not be asked: ") for why in asked.failed.values())


def test_a_type_that_salt_does_not_have_is_refused(opts):
    with pytest.raises(errors.Invalid, match="target_type: 'globb' is none of glob"):
        Master(opts).expect("web*", "globb")


def test_of_several_questions_an_answer_has_what_was_said_to_each(monkeypatch):
    answers = {
        "a": {"x.y": "1", "x.z": False},
        "ordered": ["1", False],  # `multifunc_ordered` in the minion's configuration
        "half": {"x.y": "1"},
        "refuses": "Minion in blackout mode.",
        "short": ["1"],
        "empty": None,
    }
    heard = {minion: {"ret": ret, "retcode": 0} for minion, ret in answers.items()}
    machines = Master({})
    monkeypatch.setattr(machines, "collect_returns", lambda *args, **kwargs: heard)
    found = machines.call_all(list(answers), {"x.y": ["1"], "x.z": []})
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
    machines = Master(opts)

    def client(cls):
        monkeypatch.setattr(machines, "_client", lambda: cls(interruption))

    client(Interrupted)
    for ask in (
        lambda: machines.ask_busy("web1"),
        lambda: machines.collect_returns(["web1"], "test.ping"),
        lambda: list(machines.follow(["web1"], "test.ping", (), {}, print)),
    ):
        with pytest.raises(type(interruption)):
            ask()
    client(InterruptedLater)
    with pytest.raises(type(interruption)):
        list(machines.follow(["web1"], "test.ping", (), {}, print))


def test_one_look_alone_does_not_make_a_minion_silent():
    now = 0
    silence = master.Silence(60, clock=lambda: now)
    assert silence.lasts({"a", "b", "c"}, {"a": True, "b": False}) == {}
    now = 60 - 1
    # Heard again: b goes on, and the silence of c is over.
    assert silence.lasts({"a", "b", "c"}, {"b": True, "c": True}) == {}
    now += 60
    lost = silence.lasts({"a", "b", "c"}, {"b": False})
    assert list(lost) == ["a"]
    assert "does not answer any more" in lost["a"]
    lost = silence.lasts({"b", "c"}, {"b": False})
    assert list(lost) == ["b"]
    assert "ended without a return" in lost["b"]


@pytest.mark.parametrize("patience", ["soon", 0, True])
def test_a_patience_that_is_none_is_refused_by_name(opts, patience):
    with pytest.raises(errors.Invalid, match=r"^deploytoken\.patience: "):
        Master({**opts, "deploytoken": {"patience": patience}})


def test_a_client_is_made_for_the_user_of_the_master_and_not_for_the_caller(tmp_path):
    """In an orchestration under sudo, Salt sets `user` to sudo_alice, of whom there is no key."""
    (tmp_path / "master").write_text("user: salt\n")
    opts = {"conf_file": str(tmp_path / "master"), "user": "sudo_alice"}
    assert Master(opts).opts["user"] == "salt"


def test_a_list_is_required_in_its_order_and_whole(opts):
    assert Master(opts).require("web2,db,web2", "list") == ["web2", "db"]
    with pytest.raises(errors.Busy, match="web9 has no accepted key"):
        Master(opts).require(["web2", "web9"], "list")
    with pytest.raises(errors.Busy, match="matches no minion"):
        Master(opts).require("nobody*")
