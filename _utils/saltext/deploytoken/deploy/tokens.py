"""
The deploy token of this master, as every step and every command opens it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from saltext.deploytoken import config, events, people
from saltext.deploytoken.deploy import jobs
from saltext.deploytoken.machines.base import Tell
from saltext.deploytoken.token import Token


def connect(opts: Mapping[str, Any], tell: Tell, user: str | None = None) -> Token:
    """
    Return the token that is configured in the master's options ``opts``.

    ``tell`` (callable)
        Called with lines of progress.
    ``user`` (str)
        Who started this, as Salt says; see :func:`people.account`.
    """
    return Token(
        config.parse(opts),
        notify=functools.partial(events.notify, opts, tell),
        account=people.account(opts, user),
        runs=functools.partial(jobs.runs, opts),
    )
