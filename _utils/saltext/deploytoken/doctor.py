"""
Checks of the whole setup, ahead of time: what would go wrong on the day, and what to do about it.

Only reads, except that :func:`examine` with ``scratch`` tries a write there that must be refused.
"""

import dataclasses
import uuid
from urllib.parse import urlsplit

from saltext.deploytoken import config, errors, page
from saltext.deploytoken.stores import connect
from saltext.deploytoken.stores.base import Conflict, Missing
from saltext.deploytoken.token import Token

_MARKS = {True: "ok  ", False: "FAIL", None: "?   "}


def examine(opts, scratch=None, lines=False):
    """
    Return ``checks``, each with ``name``, ``ok`` (True, False, or None where it cannot be told) and ``text``.

    ``opts`` (dict)
        The master's options.
    ``scratch`` (str)
        The address of a page in the same Redmine that may be written to.
    ``lines`` (bool)
        Return one text with a line for each check instead.

    :raises errors.Invalid: for the configuration, or a scratch page that is none.
    :raises errors.StoreError: when a check fails; ``checks`` are in its details.
    """
    done = []
    try:
        with Token(config.parse(opts)) as token:
            done += _configuration(opts, token)
            done += _setup(token)
            if scratch is not None:
                done += _scratch(token, scratch)
    except errors.Invalid as exc:
        exc.details["checks"] = _shown([*done, ("configuration", False, str(exc))], lines)
        raise
    shown = _shown(done, lines)
    if failed := [name for name, ok, _ in done if ok is False]:
        raise errors.StoreError(
            f"{len(failed)} of {len(done)} checks failed: {', '.join(failed)}; each line says what to do", checks=shown
        )
    return "\n".join(shown) if lines else {"checks": shown}


def _configuration(opts, token):
    yield "configuration", True, f"understood; the token is on {token.store.url}"
    yield from config.check_key_file(opts)
    if token.config.ssh_gate:
        from saltext.deploytoken import roster  # late: salt-ssh's client is a heavy import

        yield "salt-ssh", *roster.check_gate(opts)
    parts = urlsplit(token.store.url)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield "encryption", None, "the API key goes over the network in clear; use an https:// address"


def _setup(token):
    reachable = True
    for name, ok, text in token.store.checks():
        yield name, ok, text
        reachable = reachable and not (name == "server" and ok is False)
    if not reachable:
        return
    try:
        found = token.store.read()
    except errors.StoreError as exc:
        yield "page", False, str(exc)
        return
    try:
        hold = page.read(found.text, token.rules.nobody)
        yield "page", True, f"version {found.version}, held by {hold.name if hold else 'nobody'}"
    except errors.StoreError as exc:
        yield "page", False, str(exc)
    if page.has_section(found.text, token.rules.heading):
        yield "heading", True, f"has the heading {token.rules.heading}"
    else:
        yield (
            "heading",
            None,
            f"no heading {token.rules.heading}: the next release adds one at the page's end;"
            " set deploytoken.history.heading if it has another name",
        )
    try:
        token.store.read_version(found.version)
        yield "versions", True, "old versions can be read"
    except errors.StoreError as exc:
        yield "versions", False, f"old versions cannot be read, as history and a doubtful release must: {exc}"
    try:
        yield "name", True, f"holds are taken as {token.operator()}, unless name=… says otherwise"
    except errors.Error as exc:
        yield "name", False, str(exc)


def _scratch(token, address):
    """Try a write that comes too late, on a page that has nothing to do with the token."""
    if urlsplit(token.config.store).scheme == "sqlite":
        raise errors.Invalid("scratch: only for a wiki page; with SQLite, leave it out")
    try:
        other = connect(dataclasses.replace(token.config, store=address))
    except (errors.Invalid, ValueError):
        raise errors.Invalid(
            f"scratch: {address!r} is not a wiki page's address, as copied from the browser"
        ) from None
    try:
        # The API key goes along.
        if getattr(other, "base", None) != token.store.base:
            raise errors.Invalid(f"scratch: must be a page in the same Redmine, {token.store.base}")
        try:
            text = other.read().text
        except Missing:
            raise errors.Invalid(
                f"scratch: {other.url} does not exist; create it in the wiki, with any text"
            ) from None
        # By its text and not by its address, of which one page can have several.
        if page.count_holders(text):
            raise errors.Invalid(f"scratch: {other.url} has a line 'Held by:', so it is a token's page; give another")
        yield _late_write(other)
    except errors.StoreError as exc:
        yield "conflict", False, str(exc)
    finally:
        other.close()


def _late_write(other):
    try:
        # No page has a version 0, so this one comes too late whatever happens in the meantime.
        other.write(f"Too late {uuid.uuid4().hex}\n", 0, "deploytoken.doctor: must be refused")
    except Conflict:
        return "conflict", True, "a write that comes too late is refused; the right to edit wiki pages is there"
    return (
        "conflict",
        False,
        f"a write that came too late was accepted ({other.url} is overwritten): something on the way drops the"
        " version; do not keep a token here until that is found",
    )


def _shown(checks, lines):
    # Names and roles are what the wiki says.
    checks = [(name, ok, page.printable(text)) for name, ok, text in checks]
    if lines:
        return [f"{_MARKS[ok]}  {name}: {text}" for name, ok, text in checks]
    return [{"name": name, "ok": ok, "text": text} for name, ok, text in checks]
