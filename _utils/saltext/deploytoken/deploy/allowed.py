"""
Whether something may go on, at this moment: the token is held under the ref, and the machines are idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saltext.deploytoken.busy import verdict
from saltext.deploytoken.busy.consent import Consent
from saltext.deploytoken.busy.verdict import Verdict
from saltext.deploytoken.machines.base import Machines
from saltext.deploytoken.token import Token

#: Opens the token.
Connect = Callable[[], Token]


def require_held(connect: Connect, ref: str) -> None:
    """
    Ask the store whether the token is held under ``ref`` now.

    :raises errors.NotYours: it is not. See :py:meth:`Token.require_held
        <saltext.deploytoken.token.Token.require_held>` for the others.
    """
    with connect() as token:
        token.require_held(ref)


def batch(
    connect: Connect,
    machines: Machines,
    ref: str,
    agreed: Consent | None,
    seen: Callable[[Verdict], None] | None = None,
) -> Callable[[Sequence[str]], None]:
    """
    Return what is to be called with the machines of each batch before it; it raises if nothing may be done to them.

    ``seen`` is called with the verdict on them.
    """

    def allow(ids: Sequence[str]) -> None:
        require_held(connect, ref)
        found = verdict.judge(verdict.look(machines, list(ids), "list"), agreed)
        if seen:
            seen(found)

    return allow
