"""
What one step of a deploy learns for the next: one record, which every step reads and writes.

It lives in the process of the orchestration and nowhere else. What a step returns to Salt is for people and programs;
no step reads another one's return.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from saltext.deploytoken.busy.consent import Blocker, Consent
from saltext.deploytoken.deploy.request import Request
from saltext.deploytoken.machines.reboots import Boots
from saltext.deploytoken.machines.states import Applied
from saltext.deploytoken.page import Hold

#: The reason of a step that raised something unexpected: nobody knows how far it came.
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Step:
    """How a step ended: Salt's ``result``; what it says, in one line; and the word for what went wrong, or None."""

    result: bool | None
    line: str
    reason: str | None = None


@dataclasses.dataclass
class Reboots:
    """
    The reboots of a deploy.

    ``before`` has the boot IDs from before the states, and ``fresh`` the machines that have rebooted under this hold
    already, with their boot ID from before that. ``order``: the machines to reboot. ``left``: those of them that are
    still to be rebooted. ``away`` (why): those that have not come back. ``after`` has the boot IDs at the end, and
    ``rebooted`` words for the History.
    """

    before: Boots = dataclasses.field(default_factory=dict)
    fresh: Boots = dataclasses.field(default_factory=dict)
    order: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    away: dict[str, str] = dataclasses.field(default_factory=dict)
    after: Boots = dataclasses.field(default_factory=dict)
    rebooted: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Record:
    """
    What is known of one deploy so far.

    asked
        The request as a person wrote it; ``request`` is the same, checked, or None if it was refused.
    test
        Nothing is changed; all of it is only looked at.
    caller, jid
        Who started it, as Salt says, and the job of the orchestration.
    ref
        The ref under which it runs. ``held`` says whether the token is held under it.
    hold
        That hold, once it is there. ``by_hand`` says whether a person took it, and ``by`` who this deploy's person is,
        if it is another's.
    plan
        What the update of the repositories would bring, by name: ``old``, ``new`` (commits) and ``subjects``.
    remotes
        Whether a test leaves out what the master's own git remotes have, because only a deploy fetches them.
    commits
        The commits that are deployed, by repository.
    expected, boots
        The machines that the last busy check found, and the boot IDs that came with their answers.
    passed
        Whether the last of these checks passed over states that were running.
    looks
        When the machines were asked whether they are idle, in words.
    consent
        Who agreed to the interruption of what, as asked for; after the first look, of that and nothing else.
    consents
        What was interrupted with consent, by blocker ID: ``(name, blocker)``.
    applied
        What became of the states; None before they begin.
    steps
        How each step that has run ended, by the name of its function, in order.
    entry
        The History entry of the release.
    ways
        Why and how to go on: pairs of words and a command.
    """

    asked: Mapping[str, Any]
    test: bool
    ref: str
    caller: str | None = None
    jid: str | None = None
    request: Request | None = None
    held: bool = False
    hold: Hold | None = None
    by_hand: bool = False
    by: str | None = None
    plan: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    remotes: bool = False
    commits: dict[str, str] = dataclasses.field(default_factory=dict)
    expected: list[str] = dataclasses.field(default_factory=list)
    boots: dict[str, Any] = dataclasses.field(default_factory=dict)
    passed: bool = False
    looks: list[str] = dataclasses.field(default_factory=list)
    consent: Consent | None = None
    consents: dict[str, tuple[str, Blocker]] = dataclasses.field(default_factory=dict)
    applied: Applied | None = None
    reboots: Reboots = dataclasses.field(default_factory=Reboots)
    steps: dict[str, Step] = dataclasses.field(default_factory=dict)
    entry: str | None = None
    ways: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    @property
    def resumed(self) -> bool:
        """Whether the hold is older than this deploy, which only gives back what it took itself."""
        return bool(self.request and self.request.ref)

    def consented(self) -> str | None:
        """Return the people who agreed, and to what, in one line; None if nothing ran that needed it."""
        if not self.consents:
            return None
        told: dict[str, list[str]] = {}
        for key, (name, blocker) in sorted(self.consents.items()):
            told.setdefault(name, []).append(f"{blocker['what']} ({key})")
        return " and ".join(f"{name}: {'; '.join(what)}" for name, what in sorted(told.items()))
