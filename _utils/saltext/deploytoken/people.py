"""
Who is typing: the person, and not the account that the machine uses.
"""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from saltext.deploytoken import errors, page

if TYPE_CHECKING:
    from saltext.deploytoken.config import Config
    from saltext.deploytoken.stores.base import Store


def operator(given: str | None, config: Config, store: Store) -> str:
    """
    Return the operator's name: the one given with the command, the configured one, or the one that the store knows.

    :raises errors.Invalid: there is none, or the page cannot carry it.
    """
    name = given or config.name or store.operator()
    if not name:
        raise errors.Invalid("name: cannot tell who is typing; give name=… or configure deploytoken.name")
    return page.check_name(name, nobody=config.rules.nobody)


def login() -> str | None:
    """Return who is logged in on this machine: under sudo the person, and not root. None if the system has no name."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return None
