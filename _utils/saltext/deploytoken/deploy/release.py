"""
One release with everything that its History entry tells: reboots, consent, and broken glass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saltext.deploytoken import page, text
from saltext.deploytoken.deploy import jobs
from saltext.deploytoken.gate import glass, live
from saltext.deploytoken.token import Token


def release(
    token: Token,
    cachedir: str,
    summary: str | None = None,
    ref: str | None = None,
    name: str | None = None,
    rebooted: Sequence[str] = (),
    consent: str | None = None,
    commits: Mapping[str, str] | None = None,
    *,
    for_holder: bool = False,
    force: bool = False,
    job: str | None = None,
    again: bool = True,
) -> dict[str, Any]:
    """
    Release the token; see :py:meth:`Token.release <saltext.deploytoken.token.Token.release>`.

    ``rebooted``, ``consent`` and ``commits`` are as for :func:`notes`. The entry also names everybody who broke the
    glass of a gate since the last release. A job that still runs under a hold that is ended by ``force`` stops nobody
    on this master any more.
    """
    broken = glass.pending(cachedir)
    reports = glass.notes(broken)
    told = [*notes(rebooted, consent, commits), *(("glass", report) for report in reports)]
    answer = token.release(summary, ref, name, told, for_holder=for_holder, force=force, job=job, again=again)
    live.forget(cachedir)
    if answer["released"]:
        jobs.forget(cachedir, answer["released"], forced=force)
    # An entry that stood already was written without them.
    if all(page.inert(report) in (answer["entry"] or "") for report in reports):
        glass.forget(cachedir, broken)
    return answer


def notes(
    rebooted: Sequence[str] = (), consent: str | None = None, commits: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """
    Return parts of an entry, each with the key that a refusal of it names.

    ``rebooted`` names the servers that rebooted, ``consent`` the person who agreed, and to what, and ``commits`` what
    was deployed, by repository.
    """
    found = []
    if commits:
        deployed = ", ".join(f"{name} {text.short(commit)}" for name, commit in commits.items())
        found.append(("commits", f"from {deployed}"))
    if rebooted:
        found.append(("rebooted", f"rebooted {', '.join(rebooted)}"))
    if consent is not None:
        found.append(("consent", f"with the consent of {consent}"))
    return found
