"""
The master's configuration under the one key ``deploytoken``, checked as a whole before anything is done.

.. code-block:: yaml

    deploytoken:
      store: https://crm.example.org/projects/ocds/wiki/Deploy_token   # as copied from the browser
      api_key: sdb://vault/redmine_api_key      # or api_key_file: /etc/salt/redmine.key
      name: Alice                               # default: first and last name of the API key's owner
      timeout: 10                               # seconds, for the whole of one request
      deadline: 60                              # seconds, for one acquire or release with its resends
      nobody: nobody                            # the word on the page for a free token
      history:
        heading: History
        entry: '* {until} {name}: {summary}{notes} (ref {ref})'
        newest: first                           # or last
      ssh_gate: false                           # true: salt-ssh runs no states without the token

``store: sqlite:////var/lib/deploytoken/token.db`` keeps the page in a local file instead.
"""

import ssl
import stat
import string
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from saltext.deploytoken import errors, page, values

#: What an entry template may name.
ENTRY_FIELDS = ("since", "until", "name", "reason", "summary", "notes", "ref")

_BOTH_WAYS = (
    "deploytoken: not configured; put into the master's configuration either"
    " `deploytoken: {store: 'https://REDMINE/projects/PROJECT/wiki/PAGE', api_key_file: FILE}`"
    " or, for one master alone, `deploytoken: {store: 'sqlite:////var/lib/deploytoken/token.db'}`"
)


@dataclass(frozen=True)
class History:
    """How past holds are written on the page."""

    heading: str = "History"
    entry: str = "* {until} {name}: {summary}{notes} (ref {ref})"
    newest: str = "first"


@dataclass(frozen=True)
class Config:
    """The checked configuration; see the module's text for each key."""

    store: str
    api_key: str | None = None
    name: str | None = None
    timeout: float = 10.0
    deadline: float = 60.0
    nobody: str = "nobody"
    verify: bool | str = True  # never False
    history: History = History()
    repositories: object = None
    ssh_gate: bool = False

    def __repr__(self):
        # A key must not end up in a log or a traceback.
        return f"Config(store={self.store!r})"


def parse(opts):
    """
    Return the :class:`Config` in ``opts["deploytoken"]``.

    ``opts`` (dict)
        The master's options.

    :raises errors.Invalid: with the key at fault in the message.
    """
    raw = section(opts)
    _refuse_unknown(raw, {"api_key_file", *Config.__dataclass_fields__}, "deploytoken")
    if not raw.get("store"):
        raise errors.Invalid(_BOTH_WAYS)
    return Config(
        store=_store(raw),
        api_key=_api_key(raw),
        name=_text(raw, "name"),
        timeout=_seconds(raw, "timeout", Config.timeout),
        deadline=_seconds(raw, "deadline", Config.deadline),
        nobody=_nobody(raw),
        verify=_verify(raw),
        history=_history(raw.get("history")),
        repositories=raw.get("repositories"),
        ssh_gate=values.boolean(raw.get("ssh_gate", Config.ssh_gate), "deploytoken.ssh_gate"),
    )


def section(opts):
    """
    Return the raw ``deploytoken`` section of ``opts``, a dict; empty when it is missing.

    :raises errors.Invalid: when it is not a mapping.
    """
    raw = opts.get("deploytoken") or {}
    if not isinstance(raw, dict):
        raise errors.Invalid(f"deploytoken: must be a mapping with a `store`, not {type(raw).__name__}")
    return raw


def check_key_file(opts):
    """Yield the doctor's check of the rights on ``api_key_file``, if there is one."""
    path = section(opts).get("api_key_file")
    if path:
        open_to_all = Path(path.strip()).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
        text = (
            f"everybody can read {path}; run `chmod o-rwx {path}`" if open_to_all else f"{path} is not for everybody"
        )
        yield "key file", not open_to_all, text


def _refuse_unknown(raw, known, key):
    for name in raw:
        if name not in known:
            raise errors.Invalid(f"{key}.{name}: no such key; known are: {', '.join(sorted(known))}")


def _text(raw, name, key="deploytoken"):
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or any(not char.isprintable() for char in value):
        raise errors.Invalid(f"{key}.{name}: must be one line of text")
    return value.strip()


def _store(raw):
    value = _text(raw, "store")
    try:
        # Of what is no address, the one is found by taking it apart, the other by asking for the port.
        urlsplit(value).port  # noqa: B018
    except ValueError:
        raise errors.Invalid(
            "deploytoken.store: is no address that a browser would take; copy it from there"
        ) from None
    return value


def _seconds(raw, name, default):
    key = f"deploytoken.{name}"
    value = values.duration(raw.get(name, default), key)
    if not value or value > 3600:
        raise errors.Invalid(f"{key}: must be more than 0 and at most 3600 seconds")
    return value


def _nobody(raw):
    value = _text(raw, "nobody")
    # It stands where a name stands, and must be read back as a name is.
    return Config.nobody if value is None else page.check_name(value, "deploytoken.nobody", nobody="")


def _verify(raw):
    """
    Return True, or the path of a file that certificates are verified with; nothing switches verification off.

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


def _api_key(raw):
    if "api_key" in raw and "api_key_file" in raw:
        raise errors.Invalid("deploytoken.api_key: give api_key or api_key_file, not both")
    if "api_key" in raw:
        value = raw["api_key"]
        if isinstance(value, int | float):
            raise errors.Invalid("deploytoken.api_key: YAML reads it as a number; put it into quotes")
        # Salt resolves sdb:// itself: a missing secret becomes None, an unknown profile stays as it is written.
        if not isinstance(value, str) or not value.strip() or value.startswith("sdb://"):
            raise errors.Invalid("deploytoken.api_key: empty, or an sdb:// address that Salt could not resolve")
        return _printable_key(value, "api_key")
    if "api_key_file" in raw:
        path = _text(raw, "api_key_file")
        if not path:
            raise errors.Invalid("deploytoken.api_key_file: must be the path of a file")
        try:
            value = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or "not plain text"
            raise errors.Invalid(f"deploytoken.api_key_file: cannot read {path}: {reason}") from None
        if not value.strip():
            raise errors.Invalid(f"deploytoken.api_key_file: {path} is empty")
        return _printable_key(value, "api_key_file")
    return None


def _printable_key(value, name):
    value = value.strip()
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise errors.Invalid(f"deploytoken.{name}: holds characters that no API key has")
    return value


def _history(raw):
    if raw is None:
        return History()
    if not isinstance(raw, dict):
        raise errors.Invalid("deploytoken.history: must be a mapping of heading, entry, newest")
    _refuse_unknown(raw, History.__dataclass_fields__, "deploytoken.history")
    values = {name: _text(raw, name, "deploytoken.history") for name in raw}
    history = History(**{name: value for name, value in values.items() if value is not None})
    page.check_heading(history.heading, "deploytoken.history.heading")
    if history.newest not in ("first", "last"):
        raise errors.Invalid("deploytoken.history.newest: must be first or last")
    try:
        parts = [part for part in string.Formatter().parse(history.entry) if part[1] is not None]
    except ValueError as exc:
        raise errors.Invalid(f"deploytoken.history.entry: {exc}") from None
    fields = {field for _, field, _, _ in parts}
    if wrong := sorted(fields - set(ENTRY_FIELDS)):
        raise errors.Invalid(
            f"deploytoken.history.entry: unknown field {{{wrong[0]}}}; known are: {', '.join(ENTRY_FIELDS)}"
        )
    if formatted := next((field for _, field, spec, conversion in parts if spec or conversion), None):
        # Each is a text, and stands as it is: a release could fail over a format, or not find its entry again.
        raise errors.Invalid(f"deploytoken.history.entry: {formatted} takes no format; write {{{formatted}}}")
    if not history.entry.startswith(("* ", "- ", "|")):
        raise errors.Invalid("deploytoken.history.entry: must be a list item ('* …', '- …') or a table row ('| … |')")
    if "ref" not in fields:
        # By its ref, a release that is tried twice finds the entry that it wrote the first time.
        raise errors.Invalid("deploytoken.history.entry: must have {ref} in it")
    return history
