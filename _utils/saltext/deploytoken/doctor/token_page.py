"""
The doctor's checks of the token: its configuration, its page and the scratch page.
"""

from __future__ import annotations

import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from saltext.deploytoken import errors, page
from saltext.deploytoken.page import Rules
from saltext.deploytoken.stores.base import Check, Conflict, Missing, Store
from saltext.deploytoken.token import Token

#: What begins a line under History, in words.
_FORMS = {"*": "list items with *", "-": "list items with -", "|": "table rows"}

#: An entry of each form.
_SUCH_AS = {
    "*": page.DEFAULT.entry,
    "-": page.DEFAULT.entry.replace("*", "-", 1),
    "|": "| {until} | {name} | {summary}{notes} | {ref} |",
}


def configured(token: Token) -> Iterator[Check]:
    """Yield the checks of the configuration, which has been understood."""
    yield Check("configuration", True, f"understood; the token is on {token.store.url}")
    for what, path in token.config.secret_files.items():
        if Path(path).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            yield Check(what, False, f"{path} is open to everybody; run `chmod o-rwx {path}`")
        else:
            yield Check(what, True, f"{path} is not open to everybody")


def page_checks(token: Token) -> Iterator[Check]:
    """Yield the checks of the server and of the token's page."""
    for check in token.store.checks():
        yield check
        if check.name == "server" and check.ok is False:
            return
    rules = token.config.rules
    try:
        found = token.store.read()
    except errors.StoreError as exc:
        yield Check("page", False, str(exc))
        return
    try:
        hold = page.read(found.text, rules)
        yield Check("page", True, f"version {found.version}, held by {hold.name if hold else 'nobody'}")
    except errors.StoreError as exc:
        yield Check("page", False, str(exc))
    if page.has_section(found.text, rules.heading):
        yield Check("heading", True, f"has the heading {rules.heading}")
    else:
        yield Check(
            "heading",
            None,
            f"no heading {rules.heading}: the next release adds one at the page's end;"
            " set deploytoken.history.heading if it has another name",
        )
    yield from _form(found.text, rules)
    try:
        token.store.read_version(found.version)
        yield Check("versions", True, "old versions can be read")
    except errors.StoreError as exc:
        yield Check("versions", False, f"old versions cannot be read, as history and a doubtful release must: {exc}")
    try:
        yield Check("name", True, f"holds are taken as {token.operator()}, unless name=… says otherwise")
    except errors.Error as exc:
        yield Check("name", False, str(exc))


def _form(text: str, rules: Rules) -> Iterator[Check]:
    """Whether an entry has the form of those that stand under History: else it would land below them."""
    mark = page.entry_mark(rules.entry)[0]
    forms = page.entry_forms(text, rules.heading)
    if forms and mark not in forms:
        there = " and ".join(_FORMS[form] for form in _FORMS if form in forms)
        yield Check(
            "entries",
            False,
            f"under {rules.heading} stand {there}, and the next entry would land below them, as one of the"
            f" {_FORMS[mark]}: set deploytoken.history.entry to their form, such as '{_SUCH_AS[min(forms)]}'",
        )
    elif forms:
        yield Check("entries", True, f"the next entry has the form of those under {rules.heading}: {_FORMS[mark]}")


def scratch_checks(store: Store, address: str) -> Iterator[Check]:
    """Try a late write on a page that has nothing to do with the token."""
    other = store.beside(address, "scratch")
    try:
        try:
            text = other.read().text
        except Missing:
            raise errors.Invalid(
                f"scratch: {other.url} does not exist; create it in the wiki, with any text"
            ) from None
        # By its text and not by its address: one page can have several addresses.
        if page.count_holders(text):
            raise errors.Invalid(f"scratch: {other.url} has a line 'Held by:', so it is a token's page; give another")
        yield _late_write(other)
    except errors.StoreError as exc:
        yield Check("conflict", False, str(exc))
    finally:
        other.close()


def _late_write(other: Store) -> Check:
    try:
        # No page has a version 0, so this write is late, whatever happens in the meantime.
        other.write(f"Too late {uuid.uuid4().hex}\n", 0, "deploytoken.doctor: must be refused")
    except Conflict:
        return Check("conflict", True, "a late write is refused; the right to edit wiki pages is there")
    return Check(
        "conflict",
        False,
        f"a late write was accepted ({other.url} is overwritten): something on the way drops the version; do not keep"
        " a token here until that is found",
    )
