"""
The doctor's check of people: where several of them would be one, for the page or for the question whose hold it is.

It knows who could type here, and not who does. So it never fails: it only says what cannot be told.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from saltext.deploytoken import people
from saltext.deploytoken.people import Account
from saltext.deploytoken.stores.base import Check

#: Groups whose members use sudo, as distributions set it up.
_SUDOERS = ("sudo", "wheel", "admin")

#: A line of authorized_keys, with the login before the @ of its comment. Other comments name no person.
_KEY = re.compile(r"(?P<options>.*?)(?:^|\s)(?:ssh|ecdsa|sk)-\S+\s+AAAA\S+\s+(?P<owner>[^\s@]+)@\S*\s*")


def checks(names: Mapping[str, str], account: Account) -> Iterator[Check]:
    """
    Yield a check where several people look like one; nothing where there is no sign of it.

    ``names``
        ``people`` of the configuration.
    ``account``
        Who asks the doctor.
    """
    signs = [
        f"{_and(users)} have the one name {name} on the page: if they are several people, give each their own in"
        " deploytoken.people"
        for name, users in _namesakes(names)
    ]
    signs += [
        f"the ssh keys of {_and(owners)} open the one account {user}: let each log in as themselves and use sudo, or"
        " give name=… with each command"
        for user, owners in _shared({"root", people.login(), account.user, *names, *_sudoers()})
    ]
    if signs:
        yield Check("people", None, "; ".join(signs))


def _namesakes(names: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Names that several logins have. Root is nobody's second login: one person may use it with and without sudo."""
    logins = sorted(set(names) - {"root", people.login()})
    for name in sorted({names[user] for user in logins}):
        if len(users := [user for user in logins if names[user] == name]) > 1:
            yield name, users


def _shared(users: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The accounts of this machine that the ssh keys of several people open, and those people."""
    for user in sorted(users):
        try:
            lines = Path(pwd.getpwnam(user).pw_dir, ".ssh", "authorized_keys").read_text(errors="replace").splitlines()
        except (KeyError, ValueError, OSError):  # a user of salt-api alone, and what this user may not read
            continue
        found = [match for line in lines if (match := _KEY.fullmatch(line.strip()))]
        # A key that runs a command of its own, such as a backup's, types nothing.
        owners = {match["owner"].casefold() for match in found if "command=" not in match["options"]}
        if len(owners := {owner for owner in owners if not _of_the_system(owner)}) > 1:
            yield user, sorted(owners)


def _sudoers() -> Iterator[str]:
    for group in _SUDOERS:
        try:
            yield from grp.getgrnam(group).gr_mem
        except KeyError:
            continue


def _of_the_system(user: str) -> bool:
    """Whether this is no person's login, such as root's or backup's."""
    try:
        return pwd.getpwnam(user).pw_uid < 1000
    except (KeyError, ValueError):
        return False


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]])
