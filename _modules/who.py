"""
People who are logged in
========================

A probe of :py:func:`busy.check <busy.check>`. People who are logged in block nothing, unless ``block`` is set.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along
"""

import os

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
    Tell :py:func:`busy.check <busy.check>` which people are logged in, according to the login records (utmp).

    block
        Whether each of them blocks a deploy. If so, and if this machine keeps no login records, the answer is unknown.
        Default: False, which makes them information.

    Returns the three lists of a probe: see the module ``busy``.

    Raises SaltInvocationError if ``block`` is neither true nor false.

    CLI Example:

    .. code-block:: bash

        salt-call who.probe
    """
    __salt__["proctable.checked"]({"block": block}, {"block": "boolean"})
    if not any(map(os.path.exists, RECORDS)):
        why = "this machine keeps no login records (utmp)"
        return {"blockers": [], "unknowns": [{"why": why}] if block else [], "info": [{"id": "utmp", "what": why}]}
    people = [
        {
            # Somebody else, or the same person another time, may be on this terminal later.
            "id": f"{person.name}:{person.terminal or '?'}:{int(person.started)}",
            "user": person.name,
            "what": f"logged in on {person.terminal or '?'}" + (f" from {person.host}" if person.host else ""),
            "since": person.started,
            "ask": person.name,
        }
        for person in psutil.users()
    ]
    return {"blockers": people if block else [], "unknowns": [], "info": [] if block else people}
