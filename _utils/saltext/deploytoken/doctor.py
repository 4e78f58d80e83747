"""
Checks of the whole setup, ahead of time: what would go wrong on the day, and what to do about it.

Only reads, except that :func:`examine` with ``scratch`` tries a write there that must be refused.
"""

from __future__ import annotations

import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from saltext.deploytoken import config, errors, page
from saltext.deploytoken.config import Config
from saltext.deploytoken.stores.base import Check, Conflict, Missing, Store
from saltext.deploytoken.text import printable
from saltext.deploytoken.token import Token


def examine(opts: Mapping[str, Any], scratch: str | None = None) -> dict[str, Any]:
    """
    Return ``checks``, each with ``name``, ``ok`` (True, False, or None where it cannot tell) and ``text``.

    ``opts`` (dict)
        The master's options.
    ``scratch`` (str)
        The address of a page in the same Redmine that may be written to.

    :raises errors.Invalid: the configuration is wrong, or the scratch page is none.
    :raises errors.StoreError: a check failed.

    The details of both errors have the ``checks`` so far.
    """
    done: list[Check] = []
    try:
        with Token(config.parse(opts)) as token:
            done += _configuration(opts, token)
            done += _page(token)
            if scratch is not None:
                done += _scratch(token.store, scratch)
    except errors.Invalid as exc:
        exc.details["checks"] = _data([*done, Check("scratch" if done else "configuration", False, str(exc))])
        raise
    checks = _data(done)
    if failed := [check.name for check in done if check.ok is False]:
        raise errors.StoreError(
            f"{len(failed)} of {len(done)} checks failed: {', '.join(failed)}; each line says what to do",
            checks=checks,
        )
    return {"checks": checks}


def _data(checks: Iterable[Check]) -> list[dict[str, Any]]:
    # Names and roles come from the wiki.
    return [{"name": name, "ok": ok, "text": printable(text)} for name, ok, text in checks]


def _configuration(opts: Mapping[str, Any], token: Token) -> Iterator[Check]:
    yield Check("configuration", True, f"understood; the token is on {token.store.url}")
    yield from _key_file(token.config)
    if token.config.ssh_gate:
        from saltext.deploytoken.machines import ssh  # late: salt-ssh's client is a heavy import

        yield Check("salt-ssh", *ssh.check_gate(opts))


def _key_file(configured: Config) -> Iterator[Check]:
    path = configured.api_key_file
    if path is None:
        return
    if Path(path).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Check("key file", False, f"{path} is open to everybody; run `chmod o-rwx {path}`")
    else:
        yield Check("key file", True, f"{path} is not open to everybody")


def _page(token: Token) -> Iterator[Check]:
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
    try:
        token.store.read_version(found.version)
        yield Check("versions", True, "old versions can be read")
    except errors.StoreError as exc:
        yield Check("versions", False, f"old versions cannot be read, as history and a doubtful release must: {exc}")
    try:
        yield Check("name", True, f"holds are taken as {token.operator()}, unless name=… says otherwise")
    except errors.Error as exc:
        yield Check("name", False, str(exc))


def _scratch(store: Store, address: str) -> Iterator[Check]:
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
