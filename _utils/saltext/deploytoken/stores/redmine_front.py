"""
What stands between this machine and a Redmine: a proxy, TLS, a web server that asks who is there.

Redmine itself is asked with the API key. A company's web server in front may want HTTP basic authentication or a
client certificate first, and the way there may lead through a proxy. Each of these is an attribute of a requests
session. What is refused on the way has not reached Redmine, and the message names the key of the configuration.

- Where the API key is given, Redmine looks at no ``Authorization``: with that of another of its users the key's owner
  acts, and with a rejected key nobody (5.0.4, 6.0.5, 6.1.5). So it does no harm that the header reaches Redmine.
- Redmine's own 401 asks for ``Basic realm="Redmine API"``, from 3.4 to 7.0. Another realm is of somebody in front.
- Redmine's own 403 has no body where JSON is asked for (5.0.4, 6.0.5, 6.1.5). One with a page is of somebody in front.
- Without a client certificate, or with a wrong one, nginx (1.22) answers with status 400; others end the connection.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import quote

import requests
from requests.auth import HTTPBasicAuth

from saltext.deploytoken import errors
from saltext.deploytoken.stores.base import Unanswered

if TYPE_CHECKING:
    from saltext.deploytoken.config import Config

_OWN_REALM = 'realm="Redmine API"'
_IN_FRONT = "a web server in front of Redmine"


def session(config: Config) -> requests.Session:
    """Return a session that gets through to Redmine, as the API key's owner."""
    made = requests.Session()
    # Not from the environment: a .netrc entry would replace the key, a proxy would see it.
    made.trust_env = False
    made.verify, made.cert = config.verify, config.cert
    made.headers["X-Redmine-API-Key"] = config.api_key or ""
    if config.auth:
        # In bytes: of text, requests (2.34) sends only Latin-1. Servers compare UTF-8 (RFC 7617).
        made.auth = HTTPBasicAuth(config.auth.username.encode(), config.auth.password.encode())
    if config.proxy:
        made.proxies["all"] = _with_credentials(config.proxy, config)
    return made


def _with_credentials(proxy: str, config: Config) -> str:
    """Return the proxy's address as requests takes it. It sends credentials as Latin-1: here, the bytes of UTF-8."""
    if config.proxy_auth is None:
        return proxy
    words = (config.proxy_auth.username, config.proxy_auth.password)
    name, password = (quote(word.encode().decode("latin-1"), safe="") for word in words)
    return proxy.replace("://", f"://{name}:{password}@", 1)


def refuse(host: str, config: Config, status: int, challenge: str, body: bytes) -> None:
    """
    Raise for an answer by which somebody in front of Redmine refuses to ask it.

    ``challenge`` is the answer's header ``WWW-Authenticate``.
    """
    if status == 401 and challenge and _OWN_REALM not in challenge:
        if not re.search(r"\bbasic\b", challenge, re.I):
            raise errors.StoreError(
                f"{host}: {_IN_FRONT} asks for a log-in that only browsers have; ask its administrator to let programs"
                " in by HTTP basic authentication or a client certificate"
            )
        if config.auth is None:
            raise errors.StoreError(
                f"{host}: {_IN_FRONT} asks for HTTP basic authentication; set deploytoken.auth.username and"
                " deploytoken.auth.password_file"
            )
        raise errors.StoreError(
            f"{host}: {_IN_FRONT} rejects the name or the password of deploytoken.auth; correct them (the API key is"
            " another thing, and was not looked at)"
        )
    if status == 403 and b"<html" in body.lower():
        raise errors.StoreError(
            f"{host}: {_IN_FRONT} refuses the request (status 403); ask its administrator to let this machine through"
        )
    if status == 407:
        raise _unknown_to_proxy(config)
    if status == 400 and b"SSL certificate" in body:
        if config.cert is None:
            raise errors.StoreError(f"{host}: {_IN_FRONT} asks for a client certificate; set deploytoken.cert")
        raise errors.StoreError(f"{host}: {_IN_FRONT} rejects the client certificate; check deploytoken.cert")


def failure(host: str, config: Config, exc: Exception) -> errors.StoreError:
    """Return what to raise for an error of requests or urllib3, whose own texts are long."""
    cause = _innermost(exc)
    via_proxy = isinstance(exc, requests.exceptions.ProxyError)
    # Other errors of TLS may come after the write was sent, such as an end without a farewell.
    if isinstance(cause, ssl.SSLCertVerificationError):
        return errors.StoreError(
            f"{config.proxy if via_proxy else host}: the certificate is not accepted"
            f" ({cause.verify_message.rstrip('.')}); correct the address or the certificate, or set deploytoken.verify"
            " to the file of its CA"
        )
    if via_proxy:
        return _no_way(host, config, cause)
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return Unanswered(
            f"{host} ends the TLS connection ({cause.reason}); does it ask for a client certificate, and does it know"
            " that of deploytoken.cert?"
        )
    return silent(host, type(cause).__name__)


def silent(host: str, how: str) -> Unanswered:
    """Return what to raise where no answer comes; ``how`` says in which way."""
    return Unanswered(f"{host} does not answer ({how}); is it up, and deploytoken.store right?")


def _no_way(host: str, config: Config, cause: BaseException) -> errors.StoreError:
    # The status is nowhere but in this text of http.client's (Python 3.10 to 3.13).
    refusal = re.search(r"Tunnel connection failed: (\d+)", str(cause))
    if refusal and refusal[1] == "407":
        return _unknown_to_proxy(config)
    how = f"status {refusal[1]}" if refusal else type(cause).__name__
    return Unanswered(
        f"the proxy {config.proxy} makes no connection to {host} ({how}); is it up, does it allow this address, and is"
        " deploytoken.proxy right?"
    )


def _unknown_to_proxy(config: Config) -> errors.StoreError:
    if config.proxy_auth is None:
        return errors.StoreError(
            f"the proxy {config.proxy} asks for a name and a password; write deploytoken.proxy as a mapping of url,"
            " username and password_file"
        )
    return errors.StoreError(
        f"the proxy {config.proxy} rejects the name or the password of deploytoken.proxy; correct them"
    )


def _innermost(exc: BaseException) -> BaseException:
    """Return the error at the bottom of those that requests and urllib3 wrap around it: its own text is short."""
    while True:
        wrapped = (getattr(exc, "reason", None), getattr(exc, "original_error", None), *exc.args[:1])
        inner = next((each for each in wrapped if isinstance(each, Exception)), None)
        if inner is None:
            return exc
        exc = inner
