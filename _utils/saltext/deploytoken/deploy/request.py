"""
What a person asks for in a deploy, checked as a whole before anything is done.

The checks are the parsers of the steps themselves, so that a dry run refuses what the run would refuse.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from saltext.deploytoken import errors, page, values
from saltext.deploytoken.busy import consent
from saltext.deploytoken.busy.consent import Consent
from saltext.deploytoken.machines import reboots, states
from saltext.deploytoken.machines.reboots import Health
from saltext.deploytoken.machines.states import Task
from saltext.deploytoken.values import Batch

#: The key of a run's pillar under which a request stands.
KEY = "deploytoken"

EXAMPLE = '{"deploytoken": {"target": "web*", "reason": "upgrade PostgreSQL"}}'
#: What to do with the token at the end.
ENDS = ("hold", "release")
#: These mean nothing without ``reboot``.
OF_REBOOTS = ("reboot_batch", "reboot_pause", "health")
#: ``reboot``: those machines that say that they need it.
REQUIRED = "required"


@dataclasses.dataclass(frozen=True)
class Request:
    """
    A checked request; docs/procedure.md describes each key.

    ``target`` is a text, or a list of IDs; times are in seconds; ``reboot`` is True for all machines, a list of them
    in order, or :data:`REQUIRED`. ``on_success`` is None for what suits the hold. ``task`` is what is done on each
    machine; it has keys of its own.
    """

    target: str | list[str]
    reason: str
    target_type: str = "glob"
    task: Task = states.HIGHSTATE
    consent: Consent | None = None
    on_failure: str = "hold"
    on_success: str | None = None
    ref: str | None = None
    name: str | None = None
    wait: float | None = None
    expect: float | None = None
    wait_idle: float | None = None
    reboot: bool | str | list[str] = False
    reboot_batch: int = 1
    reboot_pause: float = 0.0
    reboot_timeout: float = 300.0
    health: Health = reboots.PING
    batch: Batch | None = None
    test: bool = False
    ssh: bool = False


#: The keys of a request.
KEYS = (*(field.name for field in dataclasses.fields(Request) if field.name != "task"), *states.KEYS)


def parse(raw: Any, nobody: str = page.DEFAULT.nobody) -> Request:
    """
    Return the :class:`Request` that stands under ``deploytoken`` in the orchestration's pillar.

    A key without a value is the same as no key. ``nobody`` is the page's word for a free token.

    :raises errors.Invalid: a key is missing, misspelt or of the wrong kind; the message names it.
    """
    if not isinstance(raw, Mapping):
        raise errors.Invalid(f"say what to deploy and why, as in pillar='{EXAMPLE}'")
    for name in raw:
        if name not in KEYS:  # YAML reads `on` as True
            raise errors.Invalid(f"{KEY}.{name}: no such key; known are: {', '.join(KEYS)}")
    found = {name: value for name, value in raw.items() if value is not None}
    for name in ("target", "reason"):
        if name not in found:
            raise errors.Invalid(f"{KEY}.{name}: missing, as in pillar='{EXAMPLE}'")
    listed = isinstance(found["target"], list)
    if listed and found.setdefault("target_type", "list") != "list":
        raise errors.Invalid(f"{KEY}.target: is a list, so {KEY}.target_type must be list, or left out")
    for name in OF_REBOOTS:
        if name in found and not found.get("reboot"):
            raise errors.Invalid(f"{KEY}.{name}: means nothing without {KEY}.reboot")
    parsers: dict[str, Callable[[Any, str], Any]] = {
        "target": values.names if listed else values.text,
        "reason": lambda value, key: page.check_reason(values.text(value, key), key),
        "target_type": values.text,
        "consent": consent.parse,
        "on_failure": _end,
        "on_success": _end,
        "ref": values.ref,
        "name": lambda value, key: page.check_name(values.text(value, key), key, nobody),
        "wait": values.duration,
        "expect": values.positive_duration,
        "wait_idle": values.duration,
        "reboot": lambda value, key: (
            value if isinstance(value, bool) or value == REQUIRED else values.names(value, key)
        ),
        "reboot_batch": lambda value, key: values.number(value, key, 1000),
        "reboot_pause": values.duration,
        "reboot_timeout": values.positive_duration,
        "health": reboots.health,
        "batch": values.batch,
        "test": values.boolean,
        "ssh": values.boolean,
    }
    task = states.task({name: found.pop(name) for name in states.KEYS if name in found}, f"{KEY}.")
    return Request(**{name: parsers[name](value, f"{KEY}.{name}") for name, value in found.items()}, task=task)


def command(raw: Mapping[str, Any]) -> str:
    """Return the command that asks for this, ready to paste."""
    # Escaped, a character beyond 16 bits would be two, which YAML takes for nonsense.
    asked = json.dumps({KEY: dict(raw)}, ensure_ascii=False)
    return f"salt-run state.orchestrate deploytoken.deploy pillar={shlex.quote(asked)}"


def _end(value: Any, key: str) -> str:
    if value not in ENDS:
        raise errors.Invalid(f"{key}: {value!r} is none of {', '.join(ENDS)}")
    return str(value)
