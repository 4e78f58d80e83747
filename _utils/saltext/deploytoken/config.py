"""
The master's configuration under the key ``deploytoken``, checked as a whole before anything is done.

.. code-block:: yaml

    deploytoken:
      store: https://crm.example.org/projects/ocds/wiki/Deploy_token   # as copied from the browser
      api_key: sdb://vault/redmine_api_key      # or api_key_file: /etc/salt/redmine.key
      auth:                                     # HTTP basic authentication of a web server in front of Redmine
        username: deploy
        password: sdb://vault/intranet          # or password_file: /etc/salt/intranet.password
      cert: /etc/salt/client.pem                # a client certificate with its key, or [CERTIFICATE, KEY]
      proxy: http://proxy.example.org:3128      # or a mapping of url, username, and password or password_file
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
from urllib.parse import SplitResult, urlsplit

from saltext.deploytoken import errors, page, values
from saltext.deploytoken.repositories import settings
from saltext.deploytoken.repositories.settings import Repository

KEYS = (
    "store",
    "api_key",
    "api_key_file",
    "auth",
    "cert",
    "proxy",
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
#: Below ``auth``, and below ``proxy`` beside ``url``.
AUTH_KEYS = ("username", "password", "password_file")
#: Below ``history``.
HISTORY_KEYS = ("heading", "entry", "newest")

_BOTH_WAYS = (
    "deploytoken: not configured; put into the master's configuration either"
    " `deploytoken: {store: 'https://REDMINE/projects/PROJECT/wiki/PAGE', api_key_file: FILE}`"
    " or, for one master alone, `deploytoken: {store: 'sqlite:////var/lib/deploytoken/token.db'}`"
)


@dataclass(frozen=True)
class Credentials:
    """A name and its password. ``file`` is where the password comes from, if from a file."""

    username: str
    password: str = field(repr=False)
    file: str | None = None


@dataclass(frozen=True)
class Config:
    """
    The checked configuration; see the module's text for each key.

    ``rules`` are the keys ``nobody`` and ``history``. ``api_key`` is the key itself, also where it comes from
    ``api_key_file``. ``cert`` are the files of the certificate and of its key, which may be one. ``proxy`` is an
    address without credentials; those are ``proxy_auth``.
    """

    store: str
    api_key: str | None = None
    api_key_file: str | None = None
    auth: Credentials | None = None
    cert: tuple[str, str] | None = None
    proxy: str | None = None
    proxy_auth: Credentials | None = None
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

    @property
    def secret_files(self) -> dict[str, str]:
        """The files that only Salt may read, by what they hold."""
        found = {
            "key file": self.api_key_file,
            "password file": self.auth and self.auth.file,
            "certificate's key": self.cert and self.cert[1],
            "proxy's password file": self.proxy_auth and self.proxy_auth.file,
        }
        return {what: path for what, path in found.items() if path}


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
    proxy, proxy_auth = _proxy(raw)
    return Config(
        store=_store(raw),
        api_key=_api_key(raw),
        api_key_file=_path(raw, "api_key_file"),
        auth=_auth(raw),
        cert=_cert(raw),
        proxy=proxy,
        proxy_auth=proxy_auth,
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
    if _parts(value) is None:
        raise errors.Invalid("deploytoken.store: no browser would take this address; copy it from there")
    return value


def _parts(address: str) -> SplitResult | None:
    """Return the parts of an address; None if it is malformed."""
    try:
        # urlsplit() rejects some malformed addresses; reading .port rejects the rest.
        parts = urlsplit(address)
        parts.port  # noqa: B018
    except ValueError:
        return None
    return parts


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
    value = _secret(raw, "api_key")
    if value is None:
        return None
    value = value.strip()
    if not (value.isascii() and value.isprintable()) or " " in value:
        name = "api_key" if "api_key" in raw else "api_key_file"
        raise errors.Invalid(f"deploytoken.{name}: holds characters that no API key has")
    return value


def _secret(raw: Mapping[str, Any], name: str, key: str = "deploytoken") -> str | None:
    """Return the secret under ``name``, or in the file under ``name`` with ``_file`` behind it."""
    path = _path(raw, f"{name}_file", key)
    if name not in raw:
        return path and _in_file(path, f"{key}.{name}_file")
    if path is not None:
        raise errors.Invalid(f"{key}.{name}: give {name} or {name}_file, not both")
    value = raw[name]
    if isinstance(value, int | float):
        raise errors.Invalid(f"{key}.{name}: YAML reads it as a number; put it into quotes")
    # Salt resolves sdb:// itself: a missing secret becomes None, an unknown profile stays as it is written.
    if not isinstance(value, str) or not value.strip() or value.startswith("sdb://"):
        raise errors.Invalid(f"{key}.{name}: empty, or an sdb:// address that Salt could not resolve")
    return value


def _in_file(path: str, key: str) -> str:
    """Return the secret in a file, without the ends of lines that editors put behind it."""
    try:
        value = _read(path, key).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise errors.Invalid(f"{key}: cannot read {path}: not plain text") from None
    if not value.strip():
        raise errors.Invalid(f"{key}: {path} is empty")
    return value


def _read(path: str, key: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except PermissionError:
        # Under Salt's own setting `user`, commands that root types run as that user (3008.3).
        user = pwd.getpwuid(os.geteuid()).pw_name
        raise errors.Invalid(
            f"{key}: {user}, as whom Salt runs here, may not read {path}; run `chown {user} {path}`"
        ) from None
    except OSError as exc:
        raise errors.Invalid(f"{key}: cannot read {path}: {exc.strerror}") from None


def _path(raw: Mapping[str, Any], name: str, key: str = "deploytoken") -> str | None:
    """Return the path of a file, or None without one. A ``~`` is the home of the user whose process reads it."""
    if name not in raw:
        return None
    return _absolute(_line(raw, name, key), f"{key}.{name}")


def _absolute(value: Any, key: str) -> str:
    # os.path alone leaves an unknown `~user` as it is.
    path = os.path.expanduser(value) if isinstance(value, str) else ""
    if not path.startswith("/"):
        # Each folder in which somebody types a command would have another file.
        raise errors.Invalid(f"{key}: must be the absolute path of a file")
    return path


def _auth(raw: Mapping[str, Any]) -> Credentials | None:
    value = raw.get("auth")
    if value is None:
        return None
    key = "deploytoken.auth"
    if not isinstance(value, dict):
        raise errors.Invalid(f"{key}: must be a mapping of username, and password or password_file")
    _refuse_unknown(value, AUTH_KEYS, key)
    return _credentials(value, key)


def _credentials(raw: Mapping[str, Any], key: str) -> Credentials:
    username, password = _line(raw, "username", key), _secret(raw, "password", key)
    if username is None or password is None:
        raise errors.Invalid(f"{key}: needs username, and password or password_file")
    if ":" in username:
        raise errors.Invalid(f"{key}.username: HTTP allows no colon in it")
    if not password.isprintable():
        raise errors.Invalid(f"{key}.{'password' if 'password' in raw else 'password_file'}: must be one line of text")
    return Credentials(username, password, _path(raw, "password_file", key))


def _cert(raw: Mapping[str, Any]) -> tuple[str, str] | None:
    """
    Return the files of the client certificate and of its key.

    requests would find mistakes in them when it connects, and OpenSSL would ask the terminal for a key's password.
    """
    value = raw.get("cert")
    if value is None:
        return None
    key = "deploytoken.cert"
    if not isinstance(value, str | list) or (isinstance(value, list) and len(value) != 2):
        raise errors.Invalid(f"{key}: must be a file with a certificate and its key, or a list of these two files")
    names = [key, key] if isinstance(value, str) else [f"{key}.0", f"{key}.1"]
    first, second = [value, value] if isinstance(value, str) else value
    certificate, private = _absolute(first, names[0]), _absolute(second, names[1])
    if b"-----BEGIN CERTIFICATE-----" not in _read(certificate, names[0]):
        raise errors.Invalid(f"{names[0]}: {certificate} has no certificate in PEM form")
    content = _read(private, names[1])
    if b"PRIVATE KEY-----" not in content:
        raise errors.Invalid(f"{names[1]}: {private} has no private key; give a list of both files")
    if b"ENCRYPTED" in content:
        raise errors.Invalid(
            f"{names[1]}: the key in {private} needs a password, and nobody is there to type it; write it without by"
            f" `openssl pkey -in {private} -out NEWFILE`"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, private)
    except ssl.SSLError:
        raise errors.Invalid(
            f"{names[1]}: the key in {private} is not that of the certificate in {certificate}"
        ) from None
    return certificate, private


def _proxy(raw: Mapping[str, Any]) -> tuple[str | None, Credentials | None]:
    value, key = raw.get("proxy"), "deploytoken.proxy"
    if value is None:
        return None, None
    given = value if isinstance(value, dict) else {"url": value}
    _refuse_unknown(given, ("url", *AUTH_KEYS), key)
    name = f"{key}.url" if given is value else key
    url = given.get("url")
    parts = _parts(url) if isinstance(url, str) and url.isprintable() else None
    if parts and (parts.username or parts.password):
        raise errors.Invalid(f"{name}: holds a name or password; write a mapping of url, username and password_file")
    # Less than this, requests would complete by guessing; and SOCKS it knows only with another package.
    if not parts or parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise errors.Invalid(f"{name}: must be the address of an HTTP proxy, such as http://HOST:3128")
    if parts.scheme == "https" and not _store(raw).startswith("https:"):
        # requests (2.34, with urllib3 2.8) asks for no certificate of a proxy then, and the API key would go there.
        raise errors.Invalid(f"{name}: a proxy with https:// is only verified for a store with https://; use http://")
    asks = any(item in given for item in AUTH_KEYS)
    return f"{parts.scheme}://{parts.netloc}", _credentials(given, key) if asks else None


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
