"""Who is typing: the person who says so, or else the configured one, or else whom the store or the system knows."""

import getpass

import pytest

from saltext.deploytoken import config, errors, people


class Store:
    def __init__(self, name=None):
        self.name = name

    def operator(self):
        return self.name


def operator(given=None, configured=None, known=None, **options):
    name = {} if configured is None else {"name": configured}
    parsed = config.parse({"deploytoken": {"store": "sqlite:////nowhere", **name, **options}})
    return people.operator(given, parsed, Store(known))


def test_a_name_that_is_given_comes_before_the_configured_one_and_that_before_the_stores():
    assert operator("Alice", "Ops", "Boss") == "Alice"
    assert operator(None, "Ops", "Boss") == "Ops"
    assert operator(None, None, "Boss") == "Boss"


def test_without_any_name_the_line_says_how_to_give_one():
    with pytest.raises(errors.Invalid, match=r"^name: cannot tell who is typing; give name=… or configure"):
        operator()


@pytest.mark.parametrize("names", [("Al(ice", None, None), (None, "Al(ice", None), (None, None, "Al(ice")])
def test_a_name_that_the_page_cannot_carry_is_refused_wherever_it_comes_from(names):
    with pytest.raises(errors.Invalid, match=r"^name: '\(' cannot stand on the page"):
        operator(*names)


def test_nobodys_name_is_the_teams_own_word():
    with pytest.raises(errors.Invalid, match="is the word for a free token"):
        operator("Niemand", nobody="niemand")
    assert operator("Nobody", nobody="niemand") == "Nobody"


def test_under_sudo_the_person_is_typing_and_not_root(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")
    assert people.login() == "alice"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert people.login() == "root"


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_on_this_machine_has_none(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", fail)
    assert people.login() is None
