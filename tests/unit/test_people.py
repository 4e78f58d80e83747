"""Who acts: the person behind sudo, su, salt-api or an ACL, and never whoever started a daemon."""

import os
import pwd
import re
import threading

import pytest
from hypothesis import given, strategies

from saltext.deploytoken import config, errors, page, people

TYPED = {"__cli": "salt-run", "id": "main_master", "user": "root"}
DAEMON = {**TYPED, "__cli": "salt-master"}
OWN = people.login()


@pytest.fixture(autouse=True)
def nobody_typed(monkeypatch):
    """Whoever runs this test is not found by it."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(people, "_logged_in", lambda: None)


class Store:
    def __init__(self, name=None):
        self.name = name

    def operator(self):
        assert self.name != "not asked"
        return self.name


def operator(given=None, account=None, known=None, **options):
    parsed = config.parse({"deploytoken": {"store": "sqlite:////nowhere", **options}})
    return people.operator(given, parsed, Store(known), account or ROOT)


ROOT = people.Account("root", "main", plain=True)
ALICE = people.Account("alice", "main", plain=False)
PEOPLE = {"alice": "Alice Adams", "root": "Ops"}


@pytest.mark.parametrize(
    ("given", "account", "people", "name", "known", "expected"),
    [
        ("Bob", ALICE, PEOPLE, "Team", "not asked", "Bob"),
        (None, ALICE, PEOPLE, "Team", "not asked", "Alice Adams"),
        (None, ALICE, {"bob": "Bob"}, "Team", "not asked", "alice"),
        (None, ALICE, {}, None, "not asked", "alice"),
        (None, ROOT, PEOPLE, "Team", "not asked", "Ops"),
        (None, ROOT, {"alice": "Alice"}, "Team", "not asked", "Team"),
        (None, ROOT, {}, None, "Boss", "Boss"),
        (None, ROOT, {}, None, None, "root"),
        (None, people.Account("reactor", "main", plain=False), {}, "Team", "not asked", "reactor"),
        (None, people.Account("reactor", "main", plain=False), {"reactor": "Robot"}, "Team", "not asked", "Robot"),
    ],
)
def test_a_known_person_is_never_hidden_behind_the_teams_name_or_the_api_keys_owner(
    given, account, people, name, known, expected
):
    named = {} if name is None else {"name": name}
    assert operator(given, account, known, people=people, **named) == expected


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("name", {"given": "Al(ice"}),
        ("name", {"known": "Al(ice"}),
        ("deploytoken.name", {"name": "Al(ice"}),
        ("deploytoken.people.Al(ice", {"account": people.Account("Al(ice", "main", plain=False)}),
    ],
)
def test_a_name_that_the_page_cannot_carry_is_refused_with_the_key_that_would_change_it(key, arguments):
    with pytest.raises(errors.Invalid, match=rf"^{re.escape(key)}: '\(' cannot stand on the page"):
        operator(**arguments)


def test_nobodys_name_is_the_teams_own_word():
    with pytest.raises(errors.Invalid, match="is the word for a free token"):
        operator("Niemand", nobody="niemand")
    assert operator("Nobody", nobody="niemand") == "Nobody"


@pytest.mark.parametrize(
    ("opts", "said", "sudo", "login", "expected", "plain"),
    [
        # What was typed: the process knows, and Salt says less, or nothing.
        (TYPED, "root", None, None, OWN, True),
        (TYPED, "sudo_alice", "alice", None, "alice", False),
        (TYPED, "salt", "alice", None, "alice", False),
        (TYPED, "UNKNOWN", "alice", "carol", "alice", False),
        (TYPED, "root", None, "carol", "carol", False),
        (TYPED, "sudo_root", "root", "carol", "carol", False),
        (TYPED, "sudo_root", "root", "root", OWN, True),
        (TYPED, OWN, None, OWN, OWN, True),
        ({**TYPED, "__cli": "salt-call"}, "UNKNOWN", "alice", None, "alice", False),
        # A daemon that carol started: its job's user, and never carol.
        (DAEMON, "alice", "carol", "carol", "alice", False),
        (DAEMON, "sudo_alice", "carol", "carol", "alice", False),
        (DAEMON, "sudo_carol", "carol", "carol", OWN, True),
        (DAEMON, "Reactor", "carol", "carol", "reactor", False),
        (DAEMON, "root", "carol", "carol", "root", True),
        (DAEMON, OWN, "carol", "carol", OWN, True),
        (DAEMON, "UNKNOWN", "carol", "carol", OWN, True),
        (DAEMON, None, "carol", "carol", OWN, True),
        # A command that is none of Salt's, and a configuration that names none.
        ({**TYPED, "__cli": "deploy.py"}, "UNKNOWN", "carol", "carol", OWN, True),
        ({"id": "main"}, None, "carol", "carol", OWN, True),
    ],
)
def test_the_account_is_the_persons_own(monkeypatch, opts, said, sudo, login, expected, plain):
    if sudo:
        monkeypatch.setenv("SUDO_USER", sudo)
    monkeypatch.setattr(people, "_logged_in", lambda: login)
    account = people.account(opts, said)
    assert (str(account), account.plain) == (f"{expected}@main", plain)


def test_a_job_of_the_schedule_is_named_as_such(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "carol")
    found = []
    job = threading.Thread(
        target=lambda: found.append(people.account(DAEMON, "root")), name="Schedule(name=nightly, jid=2026)"
    )
    job.start()
    job.join()
    assert found == [people.Account("schedule", "main", plain=False)]


def test_without_an_id_the_master_is_this_host(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "web1")
    assert str(people.account({"__cli": "salt-run"})) == f"{OWN}@web1"


@pytest.mark.parametrize("error", [KeyError, OverflowError])
def test_a_user_without_a_name_on_this_machine_is_a_number(monkeypatch, error):
    def fail(uid):
        raise error

    monkeypatch.setattr(pwd, "getpwuid", fail)
    assert people.login() == str(os.geteuid())


@given(*[strategies.text(min_size=1, max_size=8)] * 3)
def test_an_account_is_one_word_that_a_comment_and_the_page_can_carry_and_no_other_accounts(user, other, master):
    word = str(people.Account(user, master, plain=False))
    assert re.fullmatch(r"by=(\S+): .*", f"by={word}: a reason: why")[1] == word
    assert page.check_name(word) == word
    assert (str(people.Account(other, master, plain=False)) == word) == (user == other)
