"""
Who acts: the person, and not the account that the machine uses.

What Salt says of whoever called a runner function (``__user__``; in an orchestration's states, ``opts["user"]``),
measured on 3006.29 and 3008.3:

==============================================  ==============================================
started by                                      Salt says
==============================================  ==============================================
``salt-run``                                    the user as whom it runs: ``root``
``sudo salt-run``                               ``sudo_alice``; under Salt's own ``user: salt``, only ``salt``
``su -``, then ``salt-run``                     ``root``; the kernel still knows who logged in
a script, ``salt-call saltutil.runner``         ``UNKNOWN``
salt-api, ``salt-run --eauth``                  the user's name there
``salt MINION saltutil.runner``                 the name in ``publisher_acl``, or ``sudo_alice``
a reactor                                       ``Reactor``
the schedule                                    the user as whom the daemon runs: ``root``
a minion, under ``peer_run``                    as ``salt-run`` in the place of the daemon
==============================================  ==============================================

A daemon's own environment and login say who started the daemon, so they count only for what was typed.
"""

from __future__ import annotations

import multiprocessing
import os
import pwd
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saltext.deploytoken import page

if TYPE_CHECKING:
    from saltext.deploytoken.config import Config
    from saltext.deploytoken.stores.base import Store

#: The accounts of what no person typed.
REACTOR, SCHEDULE = "reactor", "schedule"

#: Salt's commands that run a runner function in the process that a person started; all else is a daemon (``__cli``).
_TYPED = ("salt-run", "salt-call")

#: What stands in an account as it is. All else is written as bytes, ``%20``, so that two accounts never become one.
_NOT_PLAIN = re.compile(r"[^\w.@\\+$-]|\A_|_\Z")


@dataclass(frozen=True)
class Account:
    """
    Who acts, as one word such as ``alice@master1``: for the versions' comments, and to compare whose a hold is.

    ``user``
        The login, the user of salt-api or ``publisher_acl``, or ``reactor`` or ``schedule``.
    ``master``
        The master's ID, without ``_master`` at its end.
    ``plain``
        Nobody is known behind it: it is root, or the user as whom Salt runs.
    """

    user: str
    master: str
    plain: bool

    def __str__(self) -> str:
        return _NOT_PLAIN.sub(_as_bytes, f"{self.user}@{self.master}")


def account(opts: Mapping[str, Any], user: str | None = None) -> Account:
    """
    Return the :class:`Account` of whoever started what runs here.

    ``opts``
        The master's options.
    ``user``
        What Salt says of the caller: ``__user__`` in a runner, ``opts["user"]`` in an orchestration's states.
    """
    if opts.get("__cli") in _TYPED:
        found = _typing()
    elif _scheduled():
        found = SCHEDULE
    else:
        found = _of_job(user)
    own = login()
    return Account(found or own, master(opts), plain=found in (None, "root", own))


def master(opts: Mapping[str, Any]) -> str:
    """Return the master's name: its ID, without ``_master`` at its end."""
    return str(opts.get("id") or socket.gethostname()).removesuffix("_master")


def operator(given: str | None, config: Config, store: Store, account: Account) -> str:
    """
    Return the operator's name on the page.

    The first that there is: the name given with the command, that of the account in ``deploytoken.people``, the
    account's user unless it is plain, ``deploytoken.name``, the name that the store knows, and the account's user.

    :raises errors.Invalid: the page cannot carry it.
    """
    listed = f"deploytoken.people.{account.user}"

    def names() -> Iterator[tuple[str, str | None]]:
        yield "name", given
        yield listed, config.people.get(account.user)
        yield listed, None if account.plain else account.user
        yield "deploytoken.name", config.name
        yield "name", store.operator()
        yield listed, account.user

    key, name = next((key, name) for key, name in names() if name)
    return page.check_name(name, key, config.rules.nobody)


def login() -> str:
    """Return the user as whom this process runs: by name, or by number if the system has no name."""
    uid = os.geteuid()
    return _name_of(uid) or str(uid)


def _typing() -> str | None:
    """The person who typed this command: the one behind sudo, or who logged in before ``su``; None for root."""
    return next((name for name in (os.environ.get("SUDO_USER"), _logged_in()) if name and name != "root"), None)


def _logged_in() -> str | None:
    """
    Who logged in, as the kernel remembers it across ``su``; None where no login set it, as in many containers.

    os.getlogin() would then believe utmp, where a terminal can still be in the name of whoever had it before.
    """
    try:
        return _name_of(int(Path("/proc/self/loginuid").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def _of_job(user: str | None) -> str | None:
    """The person behind a daemon's job, in which Salt says ``user``."""
    if not user or user == "UNKNOWN":
        return None
    if user == "Reactor":
        return REACTOR
    # Whoever started this daemon with sudo: under peer_run, Salt takes it for the caller (3006.29, 3008.3).
    if user == f"sudo_{os.environ.get('SUDO_USER')}":
        return None
    return user.removeprefix("sudo_")


def _scheduled() -> bool:
    """Whether this is a job of the daemon's schedule, which Salt runs in a process or thread of this name."""
    names = multiprocessing.current_process().name, threading.current_thread().name
    return any(name.startswith("Schedule(name=") for name in names)


def _as_bytes(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))
