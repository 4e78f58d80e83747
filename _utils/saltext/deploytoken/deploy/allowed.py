"""
Whether something may go on, at this moment: the token is held under the ref, and the machines are idle.
"""

from __future__ import annotations

from collections.abc import Callable

from saltext.deploytoken.busy import verdict
from saltext.deploytoken.busy.consent import Consent
from saltext.deploytoken.config import Config
from saltext.deploytoken.machines.base import Machines
from saltext.deploytoken.token import Token


def require_held(config: Config, ref: str) -> None:
    """
    Ask the store whether the token is held under ``ref`` now.

    :raises errors.NotYours: it is not. See :py:meth:`Token.require_held
        <saltext.deploytoken.token.Token.require_held>` for the others.
    """
    with Token(config) as token:
        token.require_held(ref)


def reboots(config: Config, machines: Machines, ref: str, agreed: Consent | None) -> Callable[[list[str]], None]:
    """Return what is to be called with the machines of each batch before it; it raises if they must not reboot."""

    def allow(ids: list[str]) -> None:
        require_held(config, ref)
        verdict.judge(verdict.look(machines, ids, "list"), agreed)

    return allow
