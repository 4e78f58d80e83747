"""
People who are logged in
========================

A probe of :py:func:`busy.check <busy.check>`: information, unless ``block`` is set.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along
"""

import os

from salt.exceptions import SaltInvocationError

try:
    import psutil

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False

RECORDS = ("/run/utmp", "/var/run/utmp")


def __virtual__():
    if HAS_PSUTIL:
        return True
    return False, "psutil is not installed"


def probe(block=False):
    """
    Tell :py:func:`busy.check <busy.check>` who is logged in, as the system's login records (utmp) have it.

    block
        Whether a person who is logged in blocks a deploy. Without login records, it then is unknown who is. Default:
        False.

    Returns the three lists of a probe, as the module ``busy`` describes them.

    Raises SaltInvocationError for settings that are wrong.

    CLI Example:

    .. code-block:: bash

        salt-call who.probe
    """
    if not isinstance(block, bool):
        raise SaltInvocationError(f"block: {block!r} is neither true nor false")
    if not any(map(os.path.exists, RECORDS)):
        why = "this machine keeps no login records (utmp)"
        return {"blockers": [], "unknowns": [{"why": why}] if block else [], "info": [{"id": "utmp", "what": why}]}
    people = [
        {
            "id": f"{person.name}:{person.terminal or '?'}",
            "user": person.name,
            "what": f"logged in on {person.terminal or '?'}" + (f" from {person.host}" if person.host else ""),
            "since": person.started,
            "ask": person.name,
        }
        for person in psutil.users()
    ]
    return {"blockers": people if block else [], "unknowns": [], "info": [] if block else people}
