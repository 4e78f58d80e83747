"""The doctor says where several people would be one, and says nothing of a machine that one person uses."""

import pathlib
import pwd

import pytest

from saltext.deploytoken import people
from saltext.deploytoken.doctor import accounts

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"


@pytest.fixture
def check(monkeypatch, tmp_path):
    """``check(names, root=[…], alice=[…])``: the doctor's words, with these lines in the authorized_keys of each."""
    system = {"root": 0, "backup": 34, "alice": 1001, "bob": 1002}

    def known(user):
        return pwd.struct_passwd((user, "x", system[user], 0, "", str(tmp_path / user), "/bin/sh"))

    monkeypatch.setattr(accounts.pwd, "getpwnam", known)
    monkeypatch.setattr(accounts.people, "login", lambda: "root")
    monkeypatch.setattr(accounts, "_sudoers", lambda: iter(["bob"]))

    def run(names=None, **keys):
        for user, lines in keys.items():
            folder = pathlib.Path(tmp_path, user, ".ssh")
            folder.mkdir(parents=True)
            (folder / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))
        found = list(accounts.checks(names or {}, people.Account("alice", "main", plain=False)))
        assert [(one.name, one.ok) for one in found] in ([], [("people", None)])
        return found[0].text if found else ""

    return run


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ({}, {}),
        ({"alice": "Alice", "root": "Alice", "bob": "Bob"}, {}),
        ({}, {"root": [f"{KEY} alice@laptop", f"{KEY} Alice@desktop"], "bob": [f"{KEY} bob@home"]}),
        ({}, {"root": ["", "# bob@old", f"{KEY} alice@laptop", f"{KEY} root@backup", f"{KEY} backup@backup"]}),
        ({}, {"root": [f"{KEY} alice@laptop", f'command="rrsync /srv",restrict {KEY} bob@backup']}),
        ({}, {"root": [KEY, f"{KEY} rsa-key-20240101", f"{KEY} rsa-key-20260101", "nonsense bob@x"]}),
    ],
)
def test_one_person_for_each_account_is_no_finding(check, names, keys):
    assert check(names, **keys) == ""


def test_two_logins_with_one_name_may_be_two_people(check):
    words = check({"alice": "Ops", "bob": "Ops", "carol": "Carol", "root": "Ops"})
    assert words.startswith("alice and bob have the one name Ops on the page: if they are several people, give each")


@pytest.mark.parametrize("user", ["root", "alice", "bob"])
def test_one_account_that_the_keys_of_several_people_open(check, user):
    options = 'from="10.0.0.*,!10.0.0.9" '
    keys = [f"{KEY} dora@laptop", f"{options}{KEY} erin@example.org", f"sk-{KEY}@openssh.com x", f"{KEY} finn@x.org "]
    assert check(**{user: keys}).startswith(
        f"the ssh keys of dora, erin and finn open the one account {user}: let each"
    )


def test_this_machine_can_be_asked():
    assert isinstance(list(accounts.checks({}, people.Account("dora\0", "main", plain=False))), list)
