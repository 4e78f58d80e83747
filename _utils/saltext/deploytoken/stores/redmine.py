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
- A write is answered with 204, before Redmine 4.1 with 200 and an empty body. Many proxies answer anything with an
  empty 200: then the page is read.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from saltext.deploytoken import errors
from saltext.deploytoken.stores import redmine_checks, redmine_front
from saltext.deploytoken.stores.base import Check, Conflict, Hidden, Missing, Page, Store, Unanswered
from saltext.deploytoken.text import printable, shortened

if TYPE_CHECKING:
    from saltext.deploytoken.config import Config

#: The status, the headers and the body of an answer.
_Answer = tuple[int, Mapping[str, str], bytes]

_PAGE = re.compile(r"(?P<base>.*)/projects/(?P<project>[^/]+)/wiki/(?P<title>[^/]+?)(?:\.json)?/?")

#: 10,000 History entries are about 1 MB; anything larger is not our page.
_MOST_BYTES = 16 * 1024 * 1024

_IN_BETWEEN = "does a cache or a proxy in between mix up its answers?"


class Redmine(Store):
    """The wiki page whose address was copied from the browser."""

    def __init__(self, config: Config) -> None:
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
        self._session = redmine_front.session(config)

    def read(self) -> Page:
        return self._page(*self._request("GET", f"{self.url}.json"))

    def read_version(self, number: int) -> Page:
        found = self._page(*self._request("GET", f"{self.url}/{number:d}.json"))
        if found.version != number:
            raise errors.StoreError(f"{self.url}: asked for version {number}, and got {found.version}; {_IN_BETWEEN}")
        return found

    def write(self, text: str, version: int, comment: str) -> None:
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

    def _shows(self, text: str) -> bool:
        try:
            return self.read().text == text
        except errors.StoreError as exc:
            raise Unanswered(str(exc)) from None

    def create(self, text: str, comment: str) -> bool:
        try:
            self.read()
            return False
        except Missing:
            pass
        # A new page gets this version. Without one, a late copy would overwrite the page as it is by then.
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

    def markup(self) -> str | None:
        # The API does not tell. In the place of a missing page comes the form for its text, with the scripts of the
        # site's markup: the one form that Redmine shows to an API key (5.0.4, 6.0.5 and 6.1.5). Not so where the
        # site has no markup, or that of a plug-in.
        try:
            status, _, body = self._send("GET", self.url, accept="text/html")
        except errors.StoreError:
            return None  # creating the page says why
        found = re.search(rb"<script[^>]+/jstoolbar/(textile|markdown|common_mark)\b", body) if status == 200 else None
        return found and ("textile" if found[1] == b"textile" else "markdown")

    def operator(self) -> str | None:
        user = self._object(*self._request("GET", f"{self.base}/users/current.json"), "user")
        name = f"{user.get('firstname') or ''} {user.get('lastname') or ''}".strip()
        return name or str(user.get("login") or "") or None

    def beside(self, address: str, key: str) -> Redmine:
        try:
            other = Redmine(dataclasses.replace(self._config, store=address))
        except (errors.Invalid, ValueError):
            raise errors.Invalid(
                f"{key}: {address!r} is not a wiki page's address, as copied from the browser"
            ) from None
        # The API key goes along.
        if other.base != self.base:
            other.close()
            raise errors.Invalid(f"{key}: must be a page in the same Redmine, {self.base}")
        return other

    def checks(self) -> Iterator[Check]:
        return redmine_checks.run(self)

    def ask(self, path: str, key: str) -> tuple[int, Mapping[str, str], dict[str, Any] | None]:
        """
        Return the status and the headers of a GET, and the object under ``key`` in its body; for the doctor.

        No status of Redmine's is an error here; without such an object, it is None.
        """
        status, headers, body = self._send("GET", f"{self.base}{path}")
        return status, headers, _parsed(status, body, key)

    def close(self) -> None:
        self._session.close()

    def _put(self, fields: dict[str, Any]) -> tuple[int, bytes]:
        return self._request("PUT", f"{self.url}.json", {"wiki_page": fields})

    def _page(self, status: int, body: bytes) -> Page:
        found = self._object(status, body, "wiki_page")
        text, version = found.get("text"), found.get("version")
        if not isinstance(text, str) or type(version) is not int or version < 1 or not _is_whole(text):
            raise errors.StoreError(f"{self.url}: the answer has no text or no version; is this a Redmine wiki page?")
        # A cache that mixes up its answers: the text of one page would be written to another.
        title = str(found.get("title"))
        if _letters(title) != _letters(unquote(self.title)):
            raise errors.StoreError(
                f"{self.url}: the answer is of another page, {shortened(title, 100)!r}; {_IN_BETWEEN}"
            )
        author = found.get("author")
        return Page(
            text=text,
            version=version,
            author=_printable(author.get("name")) if isinstance(author, dict) else None,
            comment=_printable(found.get("comments")) or "",
            saved=_printable(found.get("updated_on")),
        )

    def _object(self, status: int, body: bytes, key: str) -> dict[str, Any]:
        found = _parsed(status, body, key)
        if found is None:
            raise errors.StoreError(
                f"{self._host} did not answer as Redmine's API does (status {status}): a login page or a proxy in"
                " between? Open the address with .json at its end"
            )
        return found

    def _request(self, method: str, url: str, data: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Return the status and body of an answer that is neither an error nor a redirect."""
        status, headers, body = self._send(method, url, data)
        self._refuse(status, headers.get("Location"), body)
        return status, body

    def _send(
        self, method: str, url: str, data: dict[str, Any] | None = None, accept: str = "application/json"
    ) -> _Answer:
        """
        Return the status, headers and body of an answer, whatever it is, unless it comes from in front of Redmine.

        The whole takes ``timeout`` seconds at most. requests (2.34) bounds each read of the socket, but neither
        headers that come byte by byte nor the look-up of a name. So each request runs in a thread, and this waits for
        the thread.

        A late request counts as unanswered, as if it were lost in the network: it may still reach Redmine, later than
        this. It can only bring the text and the version that it was given, and only once. So, like a resend, it
        changes nothing (the text stands), conflicts (the page has moved on), or is the write in doubt. It keeps its
        session, because requests does not promise that two threads can share one, and ends with the answer.
        """
        answer: futures.Future[_Answer] = futures.Future()
        session, timeout = self._session, self._config.timeout

        def ask() -> None:
            try:
                answer.set_result(self._exchange(session, method, url, data, accept, timeout))
            except BaseException as exc:  # raised again below, whatever it is
                answer.set_exception(exc)

        # A daemon, so that the command does not wait for it when it ends.
        threading.Thread(target=ask, daemon=True).start()
        # Ctrl-C and signal handlers are not delayed: they come to the thread that waits here.
        if not futures.wait([answer], timeout).done:
            self._session = redmine_front.session(self._config)
            raise redmine_front.silent(self._host, f"not within {timeout:g} seconds")
        status, headers, body = answer.result()
        redmine_front.refuse(self._host, self._config, status, headers.get("WWW-Authenticate", ""), body)
        return status, headers, body

    def _exchange(
        self,
        session: requests.Session,
        method: str,
        url: str,
        data: dict[str, Any] | None,
        accept: str,
        timeout: float,
    ) -> _Answer:
        try:
            with session.request(
                method,
                url,
                json=data,
                headers={"Accept": accept},
                timeout=timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = b""
                for chunk in response.iter_content(65536):
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise Unanswered(f"{self._host} answers without end; try again, or ask its administrator")
        # Where an answer is not HTTP, requests lets some errors of urllib3 through, and ValueError.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:
            raise redmine_front.failure(self._host, self._config, exc) from None
        return response.status_code, response.headers, body

    def _refuse(self, status: int, location: str | None, body: bytes) -> None:
        """Raise for a status that is a refusal; in our words, because Redmine's bodies are empty."""
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
            raise Hidden(
                f"{self.url}: the API key's user may not do this; give the role the rights to view and edit wiki pages"
                " and to view wiki history, see that project and page are not locked, and enable the REST API"
            )
        if status == 404:
            raise Missing(
                f"{self.url} does not exist; check project and page in deploytoken.store, or create the page once with"
                " `salt-run deploytoken.init`"
            )
        if status == 422:
            raise errors.StoreError(f"{self.url}: Redmine refuses the text: {_reasons(body)}")
        if 400 <= status < 500 and status != 409:
            raise errors.StoreError(f"{self.url} answers with status {status}; check deploytoken.store")


def _without_query(location: str | None) -> str:
    return shortened(re.sub(r"[^\x21-\x7e]", "?", (location or "nowhere").split("?")[0]))


def _printable(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _is_whole(text: str) -> bool:
    """Return whether no half of a character is in it: JSON can name one, and nothing can print or keep it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _letters(title: str) -> str:
    """Return the letters of a page's title, which are the same in every spelling: Redmine has _ for a space, say."""
    return re.sub(r"[\W_]", "", title).casefold()


def _parsed(status: int, body: bytes, key: str) -> dict[str, Any] | None:
    """Return the object under ``key`` in Redmine's JSON, or None where there is none."""
    try:
        value = json.loads(body)[key] if status == 200 else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _reasons(body: bytes) -> str:
    """Return why Redmine refuses a text, in its own words."""
    try:
        reasons = "; ".join(map(str, json.loads(body)["errors"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        reasons = ""
    return shortened(printable(reasons)) or "no reason given"
