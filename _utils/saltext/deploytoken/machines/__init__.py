"""
Many machines: who is expected, who answered, states, and reboots.

They are reached through a master (:py:mod:`saltext.deploytoken.machines.master`) or over salt-ssh
(:py:mod:`saltext.deploytoken.machines.ssh`). Both are one interface, :py:class:`Machines
<saltext.deploytoken.machines.base.Machines>`, so that nothing else asks which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saltext.deploytoken import values

if TYPE_CHECKING:
    from saltext.deploytoken.machines.base import Machines


def connect(opts: Mapping[str, Any], ssh: Any = False, key: str = "ssh") -> Machines:
    """
    Return the machines of a master's configuration: its minions, or with ``ssh`` those in the roster.

    ``key`` (str)
        What the value of ``ssh`` is called where a person wrote it.

    :raises errors.Invalid: ``ssh`` is neither True nor False.
    """
    # Late: Salt's clients are heavy imports, and every salt-run imports every runner.
    if values.boolean(ssh, key):
        from saltext.deploytoken.machines.ssh import Ssh

        return Ssh(opts)
    from saltext.deploytoken.machines.master import Master

    return Master(opts)
