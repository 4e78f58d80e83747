"""
Events on the master's bus, and lines for the person at the terminal, for what happens to the token.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def notify(opts: Mapping[str, Any], say: Callable[[str], None], event: str, data: Mapping[str, Any]) -> None:
    """
    Fire ``deploytoken/EVENT`` on the master's bus, and say what the final answer may come too late for.

    ``opts``
        The master's options.
    ``say``
        Called with a line of progress.
    ``event``
        ``acquired``, ``extended``, ``released``, ``takenover``, ``waiting`` or ``refused``.

    Never raises because of the bus: what was done is done, whether or not anybody hears of it.
    """
    if event == "waiting":
        reason = f" ({data['reason']})" if data.get("reason") else ""
        say(f"{data['held_by']} holds the token{reason}; waiting, {data['left']} s left")
    if event in ("acquired", "takenover"):
        # Salt prints the answer later, up to a second, and none after Ctrl-C in the meantime (3008.3).
        say(f"{data['held_by']} holds the token (ref {data['ref']})")
    try:
        if _master_listens(opts):
            import salt.utils.event  # late: every salt-run imports every runner

            with salt.utils.event.get_master_event(dict(opts), opts["sock_dir"], listen=False) as bus:
                bus.fire_event(dict(data), f"deploytoken/{event}")  # it adds a stamp
    except Exception:
        log.warning("The event deploytoken/%s was not sent", event, exc_info=True)


def _master_listens(opts: Mapping[str, Any]) -> bool:
    """Whether a master would hear an event: without one, Salt waits a second for each (measured on 3006 and 3008)."""
    address: Any = str(Path(opts["sock_dir"]) / "master_event_pull.ipc")
    family = socket.AF_UNIX
    if opts.get("ipc_mode") == "tcp":
        address, family = ("127.0.0.1", int(opts["tcp_master_pull_port"])), socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(1)
        try:
            connection.connect(address)
        except OSError:
            return False
    return True
