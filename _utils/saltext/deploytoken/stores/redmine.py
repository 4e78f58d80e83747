"""
A store on a Redmine wiki page.

The rules below were measured on Redmine 5.0.4, on SQLite and PostgreSQL; the save logic is the same from 4.0 on.

- A PUT with an integer ``version`` inside ``wiki_page`` is a compare-and-swap. Without it, or with one anywhere else,
  it overwrites unconditionally. One whose text equals the current text answers 204 whatever its version and changes
  nothing, so only a text that is unique proves whose write it was.
- A PUT to a page that is missing creates it, under the version that it carries. Creation is therefore a separate
  act, and a 201 elsewhere an error.
- Any time-out, broken connection or 5xx leaves the write's fate open: it may land seconds later.
- A redirected PUT would become a GET that answers 200, and the API key would go to the other host: no redirect is
  followed.
- A rejected key reads a public page with status 200, and fails only when it writes.
- A write is answered with 204, before Redmine 4.1 with 200 and an empty body. So many a proxy answers to anything:
  then the page is looked at.
"""

import json
import re
import ssl
import threading
from concurrent import futures
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from saltext.deploytoken import errors, page
from saltext.deploytoken.stores.base import Conflict, Missing, Page, Store, Unanswered

_PAGE = re.compile(r"(?P<base>.*)/projects/(?P<project>[^/]+)/wiki/(?P<title>[^/]+?)(?:\.json)?/?")

#: 10,000 History entries are about 1 MB; what is larger is not our page.
_MOST_BYTES = 16 * 1024 * 1024

_IN_BETWEEN = "does a cache or a proxy in between mix up its answers?"


class Redmine(Store):
    """The wiki page whose address was copied from the browser."""

    def __init__(self, config):
        parts = urlsplit(config.store)
        match = _PAGE.fullmatch(parts.path)
        if not match or not parts.hostname:
            raise errors.Invalid(
                "deploytoken.store: must be a wiki page's address, such as https://HOST/projects/PROJECT/wiki/PAGE"
            )
        if parts.username or parts.password or "key=" in parts.query:
            raise errors.Invalid("deploytoken.store: holds a password or key; use deploytoken.api_key_file instead")
        if not config.api_key:
            raise errors.Invalid("deploytoken.api_key: needed for a Redmine page (or deploytoken.api_key_file)")
        self._host = f"{parts.scheme}://{parts.netloc}"
        self.base = f"{self._host}{match['base']}"
        self.project = match["project"]
        self.title = match["title"]
        self.url = f"{self.base}/projects/{self.project}/wiki/{self.title}"
        self._config = config
        self._session = self._new_session()

    def _new_session(self):
        session = requests.Session()
        # Not from the environment: a .netrc entry would replace the key, a proxy would see it.
        session.trust_env = False
        session.verify = self._config.verify
        session.headers["X-Redmine-API-Key"] = self._config.api_key
        session.headers["Accept"] = "application/json"
        return session

    def read(self):
        return self._page(self._request("GET", f"{self.url}.json"))

    def read_version(self, number):
        found = self._page(self._request("GET", f"{self.url}/{number:d}.json"))
        if found.version != number:
            raise errors.StoreError(f"{self.url}: asked for version {number}, and got {found.version}; {_IN_BETWEEN}")
        return found

    def write(self, text, version, comment):
        status, body = self._put({"text": text, "version": int(version), "comments": comment})
        if status == 204 or (status == 200 and not body.strip() and self._shows(text)):
            return
        if status == 409:
            raise Conflict
        if status == 201:
            raise errors.StoreError(
                f"{self.url} was missing, and Redmine has made a new page of this write; ask who deleted it, restore"
                " it, and only then go on"
            )
        raise Unanswered(f"{self.url} answered the write with status {status} and something that is not Redmine's")

    def _shows(self, text):
        try:
            return self.read().text == text
        except errors.StoreError as exc:
            raise Unanswered(f"{exc}") from None

    def create(self, text, comment):
        try:
            self.read()
            return False
        except Missing:
            pass
        # A new page gets this version. Without one, a copy that comes late would overwrite whatever stands by then.
        try:
            status, _ = self._put({"text": text, "version": 1, "comments": comment})
        except Missing:
            raise errors.StoreError(
                f"{self.url} was not created: no project {self.project!r}; check deploytoken.store"
            ) from None
        if status == 201:
            return True
        if status in (204, 409):
            raise errors.StoreError(f"{self.url} was created by somebody else in the same moment; look at it")
        raise errors.StoreError(f"{self.url} was not created: status {status}; look at the page, then try again")

    def operator(self):
        user = self._json(*self._request("GET", f"{self.base}/users/current.json"), "user")
        name = f"{user.get('firstname') or ''} {user.get('lastname') or ''}".strip()
        return name or user.get("login")

    def checks(self):
        from saltext.deploytoken.stores import redmine_checks

        return redmine_checks.run(self)

    def get(self, path):
        """Return status, headers and body of a GET, whatever the status; for the doctor."""
        return self._send("GET", f"{self.base}{path}")

    def close(self):
        self._session.close()

    def _put(self, fields):
        return self._request("PUT", f"{self.url}.json", {"wiki_page": fields})

    def _page(self, answer):
        found = self._json(*answer, "wiki_page")
        text, version = found.get("text"), found.get("version")
        if not isinstance(text, str) or type(version) is not int or version < 1 or not _whole(text):
            raise errors.StoreError(f"{self.url}: the answer has no text or no version; is this a Redmine wiki page?")
        # A cache that mixes up its answers: the text of one page would be written to another.
        if _letters(str(found.get("title"))) != _letters(unquote(self.title)):
            raise errors.StoreError(
                f"{self.url}: the answer is of another page, {str(found.get('title'))[:100]!r}; {_IN_BETWEEN}"
            )
        author = found.get("author")
        return Page(
            text=text,
            version=version,
            author=_text(author.get("name")) if isinstance(author, dict) else None,
            comment=_text(found.get("comments")) or "",
            saved=_text(found.get("updated_on")),
        )

    def _json(self, status, body, key):
        try:
            value = json.loads(body)[key] if status == 200 else None
        except (ValueError, KeyError, TypeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise errors.StoreError(
                f"{self._host} did not answer as Redmine's API does (status {status}): a login page or a proxy in"
                " between? Open the address with .json at its end"
            )
        return value

    def _request(self, method, url, data=None):
        """Return the status and body of an answer that is neither an error nor a redirect."""
        status, headers, body = self._send(method, url, data)
        self._refuse(status, headers.get("Location"), body)
        return status, body

    def _send(self, method, url, data=None):
        """
        Return the status, headers and body of an answer, whatever it is.

        The whole takes ``timeout`` seconds at most. requests (2.34) bounds each read of the socket, but neither
        headers that come byte by byte nor the look-up of a name, so each request has a thread, which is waited for.

        One that is late is unanswered, as if the network had it: it may still reach Redmine, even later than this.
        It can only bring what it was given, once, and under the version that it was given: as a resend does, it
        changes nothing (the text stands), conflicts (the page has moved on), or is the write in doubt. Its session
        stays with it, for requests does not promise that two threads can share one. It ends with the answer.
        """
        answer = futures.Future()
        session, timeout = self._session, self._config.timeout

        def ask():
            try:
                answer.set_result(self._exchange(session, method, url, data, timeout))
            except BaseException as exc:  # whatever it is, it is raised below
                answer.set_exception(exc)

        # A daemon: the command must not wait for it at its end either.
        threading.Thread(target=ask, daemon=True).start()
        # Ctrl-C and the handlers of signals are not held up by this: they come to the thread that waits here.
        if not futures.wait([answer], timeout).done:
            self._session = self._new_session()
            raise self._silent(f"not within {timeout:g} seconds")
        return answer.result()

    def _exchange(self, session, method, url, data, timeout):
        try:
            with session.request(
                method, url, json=data, timeout=timeout, allow_redirects=False, stream=True
            ) as response:
                body = b""
                for chunk in response.iter_content(65536):
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise Unanswered(f"{self._host} answers without end; try again, or ask its administrator")
        # urllib3's own, and ValueError: what requests lets through of answers that are no HTTP.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:
            # Other errors of TLS may come after the write was sent, such as an end without a farewell.
            if isinstance(cause := _innermost(exc), ssl.SSLCertVerificationError):
                raise errors.StoreError(
                    f"{self._host}: the certificate is not accepted ({cause.verify_message.rstrip('.')}); correct the"
                    " address or the certificate, or set deploytoken.verify to the file of its CA"
                ) from None
            raise self._silent(_short(exc)) from None
        return response.status_code, response.headers, body

    def _silent(self, how):
        return Unanswered(f"{self._host} does not answer ({how}); is it up, and deploytoken.store right?")

    def _refuse(self, status, location, body):
        """Raise for a status that is a refusal; Redmine's own bodies are empty, so the words are ours."""
        if 300 <= status < 400:
            raise errors.StoreError(
                f"{self.url} redirects to {_without_query(location)}: the page was renamed or the address not exact;"
                " correct deploytoken.store"
            )
        if status >= 500 or status in (408, 425, 429):
            raise Unanswered(f"{self._host} answers with status {status}; try again, or ask its administrator")
        if status == 401:
            raise errors.StoreError(
                f"{self._host} rejects the API key; check deploytoken.api_key and that its user is active"
            )
        if status == 403:
            raise errors.StoreError(
                f"{self.url}: the API key's user may not do this; give the role the rights to view and edit wiki pages"
                " and to view wiki history, see that project and page are not locked, and enable the REST API"
            )
        if status == 404:
            raise Missing(
                f"{self.url} does not exist; check project and page in deploytoken.store, or create the page once with"
                " `salt-run deploytoken.init`"
            )
        if status == 422:
            raise errors.StoreError(f"{self.url}: Redmine refuses the text: {_errors(body)}")
        if 400 <= status < 500 and status != 409:
            raise errors.StoreError(f"{self.url} answers with status {status}; check deploytoken.store")


def _short(exc):
    """Return the kind of a requests error, without the address, the objects and the memory addresses in its text."""
    return type(_innermost(exc)).__name__


def _innermost(exc):
    """Return the error at the bottom of those that requests and urllib3 wrap around it."""
    while True:
        inner = getattr(exc, "reason", None)
        if not isinstance(inner, Exception):
            inner = exc.args[0] if exc.args else None
        if not isinstance(inner, Exception):
            return exc
        exc = inner


def _without_query(location):
    return re.sub(r"[^\x21-\x7e]", "?", (location or "nowhere").split("?")[0])[:200]


def _text(value):
    return page.printable(value) if isinstance(value, str) else None


def _whole(text):
    """Whether there is no half of a character in it: JSON can name one, and nothing can print or keep it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _letters(title):
    """Return what is left of a page's title in every way that it is written: Redmine has _ for a space, and so on."""
    return re.sub(r"[\W_]", "", title).casefold()


def _errors(body):
    try:
        said = "; ".join(map(str, json.loads(body)["errors"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    return page.printable(said)[:200] or "no reason given"
