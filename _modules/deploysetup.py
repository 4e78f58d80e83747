"""
What of this extension is on this minion
========================================

``salt-run deploytoken.doctor`` compares it with what is on the master.

.. versionadded:: 0.1.0

This file depends on Salt alone, because it travels to the minions without the rest of this extension.
"""

import hashlib
import pathlib

# What a minion needs, each in the folder of Salt's that it is synced to.
FILES = (
    "executors/deploygate.py",
    "modules/busy.py",
    "modules/command.py",
    "modules/deploygate.py",
    "modules/deploysetup.py",
    "modules/pgactivity.py",
    "modules/processes.py",
    "modules/proctable.py",
    "modules/scrapyd.py",
    "modules/screen.py",
    "modules/systemd.py",
    "modules/terminals.py",
    "modules/tmux.py",
    "modules/who.py",
    "output/busy.py",
    "states/busy.py",
    "states/deploygate.py",
)


def digests():
    """
    Return the SHA-256 digest of each file of this extension; None for one that is not here. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' deploysetup.digests

    A version number would say what somebody meant to install; this is what is there.
    """
    here = pathlib.Path(__file__).resolve().parent
    # In a minion's cache and in a package, the folders beside this one are called as above; in a checkout, `_modules`.
    prefix = here.name.removesuffix("modules")
    return {name: _digest(here.parent / f"{prefix}{name}") for name in FILES}


def report():
    """
    Return ``files``, the :py:func:`digests`, and ``gate``, what :py:func:`deploygate.ways
    <saltext.deploytoken.modules.deploygate.ways>` says. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' deploysetup.report

    One function for both, so that each minion is asked once. ``gate`` is empty where that module is missing.
    """
    ways = __salt__.get("deploygate.ways")
    gate = ways() if ways else {}
    return {"files": digests(), "gate": gate if isinstance(gate, dict) else {}}


def _digest(path):
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
