"""
What the doctor checks in a Redmine, without writing.

A key that is rejected still reads a public page, and so does one that may not write: neither shows before the day of
the deploy. Measured on Redmine 5.0.4: with the REST API off, ``/users/current.json`` answers 403, and 401 for a
rejected key; every user with a key can read the roles and their permissions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from saltext.deploytoken import errors
from saltext.deploytoken.stores.base import Check

if TYPE_CHECKING:
    from saltext.deploytoken.stores.redmine import Redmine

#: How far the clocks may differ, in seconds. Times on the page are in minutes.
MOST_OFF = 60

_UNREADABLE = "the roles cannot be read; scratch=… tries to write"


def run(store: Redmine) -> Iterator[Check]:
    """Yield the checks of the Redmine ``store``."""
    address = urlsplit(store.base)
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield Check("encryption", None, "the API key goes over the network in clear; use an https:// address")
    try:
        status, headers, user = store.ask("/users/current.json?include=memberships", "user")
    except errors.StoreError as exc:
        yield Check("server", False, str(exc))
        return
    yield Check("server", True, f"{store.base} answers")
    yield _clock(headers.get("Date"))
    if status == 403:
        yield Check(
            "REST API",
            False,
            "it is off: an administrator switches it on in Administration, Settings, API (Enable REST web service)",
        )
        return
    if status == 401:
        # With the REST API off, this would be 403.
        yield Check("REST API", True, "it is on")
        yield Check(
            "key",
            False,
            "the API key is rejected, even if the page is public and can be read: take the key from My account in"
            " Redmine, and see that its user is active",
        )
        return
    if user is None:
        yield Check(
            "REST API",
            False,
            f"{store.base}/users/current.json does not answer as Redmine's API does (status {status}): a login page or"
            " a proxy in between, or deploytoken.store not exact?",
        )
        return
    yield Check("REST API", True, "it is on")
    yield Check("key", True, f"it is {user.get('firstname', '')} {user.get('lastname', '')}'s ({user.get('login')})")
    try:
        yield _edit(store, user)
    except errors.StoreError as exc:
        yield Check("edit", None, str(exc))
    except (AttributeError, LookupError, TypeError):  # somewhere in it, another form than Redmine's
        yield Check("edit", None, _UNREADABLE)


def _clock(date: str | None) -> Check:
    try:
        off = round(time.time() - parsedate_to_datetime(date or "").timestamp())
    except (TypeError, ValueError, OverflowError):
        return Check("clock", None, "the server does not give its time")
    if abs(off) > MOST_OFF:
        way = "ahead of" if off > 0 else "behind"
        return Check("clock", False, f"this machine is {abs(off)} s {way} the server; set both by NTP")
    return Check("clock", True, f"{abs(off)} s from the server's")


def _edit(store: Redmine, user: dict[str, Any]) -> Check:
    """Return whether the user has the right to edit, as far as that shows without a write."""
    _, _, project = store.ask(f"/projects/{store.project}.json", "project")
    if project is None:
        return Check(
            "edit",
            False,
            f"the project {store.project} cannot be read; check deploytoken.store and the membership",
        )
    if project.get("status") == 5:
        return Check("edit", False, f"the project {store.project} is closed, so its pages cannot be saved; reopen it")
    if user.get("admin") is True:
        return Check("edit", True, "the key's user is an administrator; a key with fewer rights would do")
    mine = [item for item in user.get("memberships") or [] if item.get("project", {}).get("id") == project.get("id")]
    roles = [role for item in mine for role in item.get("roles", [])]
    # A user without a membership has the role that Redmine makes first.
    found = [_role(store, role["id"]) for role in roles or [{"id": 1}]]
    known = [role for role in found if role is not None]
    if len(known) < len(found) or not (roles or known[0].get("name") == "Non member"):
        return Check("edit", None, _UNREADABLE)
    names = ", ".join(role["name"] for role in known)
    if any("edit_wiki_pages" in role.get("permissions", ()) for role in known):
        return Check("edit", True, f"as {names}; whether the page is protected shows only when it is written")
    return Check("edit", False, f"as {names}, the key's user may not edit wiki pages; give the role that right")


def _role(store: Redmine, number: Any) -> dict[str, Any] | None:
    return store.ask(f"/roles/{number}.json", "role")[2]
