"""
One release with everything that its History entry tells: reboots, consent, and broken glass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saltext.deploytoken import page, text
from saltext.deploytoken.gate import glass, live
from saltext.deploytoken.token import Token


def release(
    token: Token,
    cachedir: str,
    summary: str,
    ref: str | None = None,
    name: str | None = None,
    rebooted: Sequence[str] = (),
    consent: str | None = None,
    commits: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """
    Release the token; see :py:meth:`Token.release <saltext.deploytoken.token.Token.release>`.

    ``rebooted`` names the servers that rebooted, ``consent`` the person who agreed, and to what, and ``commits`` what
    was deployed, by repository. The entry also names everybody who broke the glass of a gate since the last release.
    """
    notes = []
    if commits:
        deployed = ", ".join(f"{name} {text.short(commit)}" for name, commit in commits.items())
        notes.append(("commits", f"from {deployed}"))
    if rebooted:
        notes.append(("rebooted", f"rebooted {', '.join(rebooted)}"))
    if consent is not None:
        notes.append(("consent", f"with the consent of {consent}"))
    broken = glass.pending(cachedir)
    reports = glass.notes(broken)
    answer = token.release(summary, ref, name, [*notes, *(("glass", report) for report in reports)])
    live.forget(cachedir)
    # An entry that stood already was written without them.
    if all(page.inert(report) in (answer["entry"] or "") for report in reports):
        glass.forget(cachedir, broken)
    return answer
