"""
The master's configuration under the key ``deploytoken``, checked as a whole before anything is done.

.. code-block:: yaml

    deploytoken:
      store: https://crm.example.org/projects/ocds/wiki/Deploy_token   # as copied from the browser
      api_key: sdb://vault/redmine_api_key      # or api_key_file: /etc/salt/redmine.key
      people: {alice: Alice Adams}              # by login: names for the page
      name: Alice                               # of root, where one person uses it; default: the API key's owner
      timeout: 10                               # seconds, for the whole of one request
      deadline: 60                              # seconds, for one acquire or release with its resends
      nobody: nobody                            # the word on the page for a free token
      history:
        heading: History
        entry: '* {until} {name}: {summary}{notes} (ref {ref})'
        newest: first                           # or last
      repositories: [/srv/deploy]               # see saltext.deploytoken.repositories.settings
      ssh_gate: false                           # true: salt-ssh runs no states without the token
      patience: 60                              # seconds that a minion may be silent while its states run

``store: sqlite:////var/lib/deploytoken/token.db`` keeps the page in a local file instead.
"""

from __future__ import annotations

import os
import pwd
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from saltext.deploytoken import errors, page, values
from saltext.deploytoken.repositories import settings
from saltext.deploytoken.repositories.settings import Repository

KEYS = (
    "store",
    "api_key",
    "api_key_file",
    "name",
    "people",
    "timeout",
    "deadline",
    "nobody",
    "verify",
    "history",
    "repositories",
    "ssh_gate",
    "patience",
)
#: Below ``history``.
HISTORY_KEYS = ("heading", "entry", "newest")

_BOTH_WAYS = (
    "deploytoken: not configured; put into the master's configuration either"
    " `deploytoken: {store: 'https://REDMINE/projects/PROJECT/wiki/PAGE', api_key_file: FILE}`"
    " or, for one master alone, `deploytoken: {store: 'sqlite:////var/lib/deploytoken/token.db'}`"
)


@dataclass(frozen=True)
class Config:
    """
    The checked configuration; see the module's text for each key.

    ``rules`` are the keys ``nobody`` and ``history``. ``api_key`` is the key itself, also where it comes from
    ``api_key_file``.
    """

    store: str
    api_key: str | None = None
    api_key_file: str | None = None
    name: str | None = None
    people: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    deadline: float = 60.0
    verify: bool | str = True  # never False
    rules: page.Rules = page.DEFAULT
    repositories: tuple[Repository, ...] = ()
    ssh_gate: bool = False
    patience: float = 60.0

    def __repr__(self) -> str:
        # A key must not end up in a log or a traceback.
        return f"Config(store={self.store!r})"


def parse(opts: Mapping[str, Any]) -> Config:
    """
    Return the :class:`Config` in ``opts["deploytoken"]``.

    ``opts`` (dict)
        The master's options.

    :raises errors.Invalid: with the whole path of the key at fault in the message.
    """
    raw = section(opts)
    _refuse_unknown(raw, KEYS, "deploytoken")
    if not raw.get("store"):
        raise errors.Invalid(_BOTH_WAYS)
    rules = _rules(raw)
    return Config(
        store=_store(raw),
        api_key=_api_key(raw),
        api_key_file=_key_file(raw),
        name=_line(raw, "name"),
        people=_people(raw, rules.nobody),
        timeout=_seconds(raw, "timeout", Config.timeout),
        deadline=_seconds(raw, "deadline", Config.deadline),
        verify=_verify(raw),
        rules=rules,
        repositories=settings.parse(raw.get("repositories")),
        ssh_gate=values.boolean(raw.get("ssh_gate", Config.ssh_gate), "deploytoken.ssh_gate"),
        patience=patience(opts),
    )


def section(opts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what stands under ``deploytoken`` in ``opts``, unchecked; an empty dictionary if nothing does.

    For what works without a ``store``: the repositories, and ``patience``.

    :raises errors.Invalid: when it is not a mapping.
    """
    raw = opts.get("deploytoken") or {}
    if not isinstance(raw, dict):
        raise errors.Invalid(f"deploytoken: must be a mapping with a `store`, not {type(raw).__name__}")
    return raw


def patience(opts: Mapping[str, Any]) -> float:
    """
    Return the seconds that a minion may say nothing before it counts as silent; this works without a ``store``, too.

    :raises errors.Invalid: with the key in the message.
    """
    return _seconds(section(opts), "patience", Config.patience)


def _refuse_unknown(raw: Mapping[str, Any], known: Collection[str], key: str) -> None:
    for name in raw:
        if name not in known:
            raise errors.Invalid(f"{key}.{name}: no such key; known are: {', '.join(sorted(known))}")


def _line(raw: Mapping[str, Any], name: str, key: str = "deploytoken") -> str | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise errors.Invalid(f"{key}.{name}: must be one line of text")
    return value.strip()


def _store(raw: Mapping[str, Any]) -> str:
    value = _line(raw, "store") or ""
    try:
        # urlsplit() rejects some malformed addresses; reading .port rejects the rest.
        urlsplit(value).port  # noqa: B018
    except ValueError:
        raise errors.Invalid("deploytoken.store: no browser would take this address; copy it from there") from None
    return value


def _seconds(raw: Mapping[str, Any], name: str, default: float) -> float:
    key = f"deploytoken.{name}"
    value = values.duration(raw.get(name, default), key)
    if not value or value > 3600:
        raise errors.Invalid(f"{key}: must be more than 0 and at most 3600 seconds")
    return value


def _verify(raw: Mapping[str, Any]) -> bool | str:
    """
    Return True, or the path of a file of CA certificates; nothing switches verification off.

    requests would take any false value for "do not verify", and raises an OSError for a path that is not there.
    """
    value = raw.get("verify", True)
    if value is True:
        return True
    if not isinstance(value, str) or not value.startswith("/"):
        raise errors.Invalid(
            "deploytoken.verify: certificates are always verified; give the path of a file of CA certificates, or"
            " leave it out"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except ssl.SSLError:
        raise errors.Invalid(f"deploytoken.verify: {value} has no CA certificates in PEM form") from None
    except OSError as exc:
        raise errors.Invalid(f"deploytoken.verify: cannot read {value}: {exc.strerror}") from None
    return value


def _api_key(raw: Mapping[str, Any]) -> str | None:
    if "api_key" in raw and "api_key_file" in raw:
        raise errors.Invalid("deploytoken.api_key: give api_key or api_key_file, not both")
    if "api_key" in raw:
        value = raw["api_key"]
        if isinstance(value, int | float):
            raise errors.Invalid("deploytoken.api_key: YAML reads it as a number; put it into quotes")
        # Salt resolves sdb:// itself: a missing secret becomes None, an unknown profile stays as it is written.
        if not isinstance(value, str) or not value.strip() or value.startswith("sdb://"):
            raise errors.Invalid("deploytoken.api_key: empty, or an sdb:// address that Salt could not resolve")
        return _key_alone(value, "api_key")
    path = _key_file(raw)
    if path is not None:
        try:
            value = Path(path).read_text(encoding="ascii")
        except PermissionError:
            # Under Salt's own setting `user`, commands that root types run as that user (3008.3).
            user = pwd.getpwuid(os.geteuid()).pw_name
            raise errors.Invalid(
                f"deploytoken.api_key_file: {user}, as whom Salt runs here, may not read {path}; run"
                f" `chown {user} {path}`"
            ) from None
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or "not plain text"
            raise errors.Invalid(f"deploytoken.api_key_file: cannot read {path}: {reason}") from None
        if not value.strip():
            raise errors.Invalid(f"deploytoken.api_key_file: {path} is empty")
        return _key_alone(value, "api_key_file")
    return None


def _key_file(raw: Mapping[str, Any]) -> str | None:
    """Return the path of the key's file. A ``~`` is the home of the user whose process reads it."""
    if "api_key_file" not in raw:
        return None
    # os.path alone leaves an unknown `~user` as it is.
    path = os.path.expanduser(_line(raw, "api_key_file") or "")
    if not path.startswith("/"):
        # Each folder in which somebody types a command would have another key.
        raise errors.Invalid("deploytoken.api_key_file: must be the absolute path of a file")
    return path


def _key_alone(value: str, name: str) -> str:
    value = value.strip()
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise errors.Invalid(f"deploytoken.{name}: holds characters that no API key has")
    return value


def _people(raw: Mapping[str, Any], nobody: str) -> dict[str, str]:
    key = "deploytoken.people"
    people = {} if raw.get("people") is None else raw["people"]
    if not isinstance(people, dict):
        raise errors.Invalid(f"{key}: must be a mapping of logins to names, such as {{alice: Alice Adams}}")
    for user in people:
        if not isinstance(user, str):
            raise errors.Invalid(f"{key}.{user}: YAML does not read this login as text; put it into quotes")
        if user.startswith("sudo_"):
            raise errors.Invalid(f"{key}.{user}: Salt's word for sudo; write the login alone")
    return {user: page.check_name(_line(people, user, key) or "", f"{key}.{user}", nobody) for user in people}


def _rules(raw: Mapping[str, Any]) -> page.Rules:
    key = "deploytoken.history"
    history = {} if raw.get("history") is None else raw["history"]
    if not isinstance(history, dict):
        raise errors.Invalid(f"{key}: must be a mapping of {', '.join(HISTORY_KEYS)}")
    _refuse_unknown(history, HISTORY_KEYS, key)
    given = {"nobody": _line(raw, "nobody"), **{name: _line(history, name, key) for name in history}}
    rules = replace(page.DEFAULT, **{name: value for name, value in given.items() if value is not None})
    if rules.newest not in ("first", "last"):
        raise errors.Invalid(f"{key}.newest: must be first or last")
    page.check_nobody(rules.nobody, "deploytoken.nobody")
    page.check_heading(rules.heading, f"{key}.heading")
    page.check_entry(rules.entry, f"{key}.entry")
    return rules
