"""
What the doctor looks at in a Redmine, without writing.

A key that is rejected still reads a public page, and so does one that may not write: neither shows before the day of
the deploy. Measured on Redmine 5.0.4: with the REST API off, ``/users/current.json`` answers 403, and 401 for a
rejected key; the roles and their permissions can be read by every user with a key.
"""

import json
import time
from email.utils import parsedate_to_datetime

from saltext.deploytoken import errors

#: Seconds. Times on the page are in minutes.
MOST_OFF = 60


def run(store):
    """Yield a name, True, False or None (cannot be told), and a line, for each check of the Redmine ``store``."""
    try:
        status, headers, body = store.get("/users/current.json?include=memberships")
    except errors.StoreError as exc:
        yield "server", False, str(exc)
        return
    yield "server", True, f"{store.base} answers"
    yield _clock(headers.get("Date"))
    user = _json(status, body, "user")
    if status == 403:
        yield (
            "REST API",
            False,
            "it is off: an administrator switches it on in Administration, Settings, API (Enable REST web service)",
        )
        return
    if status == 401:
        # With the REST API off, this would be 403.
        yield "REST API", True, "it is on"
        yield (
            "key",
            False,
            "the API key is rejected, even if the page is public and can be read: take the key from My account in"
            " Redmine, and see that its user is active",
        )
        return
    if user is None:
        yield (
            "REST API",
            False,
            f"{store.base}/users/current.json does not answer as Redmine's API does (status {status}): a login page or"
            " a proxy in between, or deploytoken.store not exact?",
        )
        return
    yield "REST API", True, "it is on"
    yield "key", True, f"it is {user.get('firstname', '')} {user.get('lastname', '')}'s ({user.get('login')})"
    try:
        yield _edit(store, user)
    except errors.StoreError as exc:
        yield "edit", None, str(exc)
    except (AttributeError, LookupError, TypeError):  # another form than Redmine's, somewhere in it
        yield "edit", None, "the roles cannot be read; scratch=… tries to write"


def _clock(date):
    try:
        off = round(time.time() - parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError, OverflowError):
        return "clock", None, "the server does not tell its time"
    if abs(off) > MOST_OFF:
        way = "ahead of" if off > 0 else "behind"
        return "clock", False, f"this machine is {abs(off)} s {way} the server; set both by NTP"
    return "clock", True, f"{abs(off)} s from the server's"


def _edit(store, user):
    """The right to edit, as far as it can be known without writing."""
    project = _json(*_get(store, f"/projects/{store.project}.json"), "project")
    if project is None:
        return "edit", False, f"the project {store.project} cannot be read; check deploytoken.store and the membership"
    if project.get("status") == 5:
        return "edit", False, f"the project {store.project} is closed, so its pages cannot be saved; reopen it"
    if user.get("admin") is True:
        return "edit", True, "the key's user is an administrator; a key with fewer rights would do"
    mine = [item for item in user.get("memberships") or [] if item.get("project", {}).get("id") == project.get("id")]
    roles = [role for item in mine for role in item.get("roles", [])]
    # Who is no member has the role that Redmine makes first.
    found = [_json(*_get(store, f"/roles/{role['id']}.json"), "role") for role in roles or [{"id": 1}]]
    if None in found or not (roles or found[0].get("name") == "Non member"):
        return "edit", None, "the roles cannot be read; scratch=… tries to write"
    names = ", ".join(role["name"] for role in found)
    if any("edit_wiki_pages" in role.get("permissions", ()) for role in found):
        return "edit", True, f"as {names}; whether the page is protected shows only when it is written"
    return "edit", False, f"as {names}, the key's user may not edit wiki pages; give the role that right"


def _get(store, path):
    status, _, body = store.get(path)
    return status, body


def _json(status, body, key):
    try:
        value = json.loads(body)[key] if status == 200 else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
