"""Whatever comes over the line instead of Redmine's answer: one line, no traceback, and no token that is not there."""

import contextlib
import gzip
import json
import socket
import threading
import zlib

import pytest

from saltext.deploytoken import config, doctor, errors
from saltext.deploytoken.stores.base import Unanswered
from saltext.deploytoken.token import Token
from tests.support.alone import load_alone

output = load_alone("_output/deploytoken.py").output
KEY = "0123456789abcdef0123456789abcdef01234567"
FREE = {"title": "T", "text": "Held by: nobody\n", "version": 3}


def http(body, *headers, status=b"200 OK", protocol=b"HTTP/1.1", length=True):
    headers = [*headers, b"Content-Length: %d" % len(body)] if length else headers
    headers = [*headers, b"Connection: close"]  # which it does: nobody is to ask on the same one again
    return b"\r\n".join([protocol + b" " + status, *headers, b"", body])


def answer(**changes):
    return http(json.dumps({"wiki_page": {**FREE, **changes}}).encode())


def raw(text):
    """A page as JSON that Python would not write."""
    return http(b'{"wiki_page": {"title": "T", "text": "Held by: nobody", %s}}' % text)


GOOD = answer()
BOMB = zlib.compress(b" " * (20 << 20))

#: Not understood, so a write's fate is open.
GARBAGE = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status 999": http(b"", status=b"999 Odd"),
    "less than promised": b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n{",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n{}",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "a chunk of less than nothing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a header without an end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
    "a thousand headers": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    "what is not gzip": http(b"{}", b"Content-Encoding: gzip"),
    "a bomb": http(BOMB, b"Content-Encoding: deflate"),
    "a redirect to nowhere on earth": http(b"", b"Location: http://[::1", status=b"302 Found"),
    "a redirect in no encoding": http(b"", b"Location: http://\xff\xfe/\x1b[31m", status=b"307 Moved"),
}
#: Understood, and not Redmine's.
OTHER = {
    "a version as text": answer(version="3"),
    "a version with a point": answer(version=3.0),
    "version 0": answer(version=0),
    "version -3": answer(version=-3),
    "a version that is no number": raw(b'"version": NaN'),
    "a version without end": raw(b'"version": 1e400'),
    "a version of 5000 digits": raw(b'"version": ' + b"9" * 5000),
    "no version": raw(b'"comments": ""'),
    "no text": answer(text=None),
    "another page": answer(title="Other"),
    "half a character": http(b'{"wiki_page": {"title": "T", "text": "Held by: \\ud800", "version": 3}}'),
    "a title without end": answer(title="x" * 100_000),
    "no title": http(b'{"wiki_page": {"text": "Held by: nobody", "version": 3}}'),
    "not UTF-8": raw(b'"version": 3, "comments": "\xff"'),
    "brackets without end": http(b"[" * 200_000),
    "HTML": http(b"<html>Sign in</html>", b"Content-Type: text/html"),
    "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" + GOOD,
}
#: A page all the same.
PAGE = {
    "HTTP/1.0": http(GOOD.split(b"\r\n\r\n")[1], protocol=b"HTTP/1.0", length=False),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,
    "gzip": http(gzip.compress(GOOD.split(b"\r\n\r\n")[1]), b"Content-Encoding: gzip"),
    "a key twice": raw(b'"version": 1, "version": 3'),
    "fields of other kinds": answer(comments=5, updated_on=7, author={"name": 9}),
    "the title as a person would write it": answer(title="t"),
}


@contextlib.contextmanager
def server(get, put=b"HTTP/1.1 204 No Content\r\n\r\n"):
    """Answers each GET and each PUT with these bytes, and hangs up; yields its port."""

    def answer(connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            method = lines.readline()[:3]
            headers = dict(line.rstrip().split(b": ", 1) for line in iter(lines.readline, b"\r\n"))
            lines.read(int(headers.get(b"Content-Length", 0)))
            connection.sendall(get if method == b"GET" else put)
            connection.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def token(port, title="T", timeout=30):
    store = f"http://127.0.0.1:{port}/projects/p/wiki/{title}"
    return Token(
        config.parse(
            {"deploytoken": {"store": store, "api_key": KEY, "name": "Alice", "timeout": timeout, "deadline": 0.3}}
        )
    )


def one_line(caught):
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("what", GARBAGE)
def test_a_look_that_is_answered_with_garbage_is_unanswered(what):
    with server(GARBAGE[what]) as port, token(port) as alice, pytest.raises(Unanswered) as caught:
        alice.acquire("upgrade")
    one_line(caught)


@pytest.mark.parametrize("what", OTHER)
def test_a_look_that_is_answered_with_something_else_is_refused(what):
    with server(OTHER[what]) as port, token(port) as alice, pytest.raises(errors.StoreError) as caught:
        alice.acquire("upgrade")
    assert not isinstance(caught.value, Unanswered)
    one_line(caught)


@pytest.mark.parametrize("what", [*GARBAGE, *OTHER, "a page"])
def test_a_write_that_is_answered_with_anything_else_is_doubt_and_never_the_token(what):
    with server(GOOD, {**GARBAGE, **OTHER, "a page": GOOD}[what]) as port, token(port) as alice:
        with pytest.raises(errors.InDoubt) as caught:
            alice.acquire("upgrade")
    one_line(caught)


def test_a_name_that_is_slow_to_resolve_is_waited_for_no_longer_than_a_request(monkeypatch):
    """The write that left no earlier is doubt: it may be on its way when the name is known."""
    slow, known, find = threading.Event(), threading.Event(), socket.getaddrinfo

    def resolve(*args, **kwargs):
        if slow.is_set():
            known.wait(60)
        return find(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with server(GOOD) as port, token(port, timeout=2) as alice:
        slow.set()
        try:
            with pytest.raises(Unanswered, match="not within 2 seconds"):
                alice.status()
            slow.clear()
            found = alice.store.read()
            slow.set()  # each answer ends the connection, so the write has to look the name up again
            with pytest.raises(Unanswered, match="not within 2 seconds"):
                alice.store.write("Held by: Alice\n", found.version, "")
        finally:
            known.set()


@pytest.mark.parametrize(
    "body",
    [b'{"errors": ["no \\u001b[2J good\\n' + b"x" * 100_000 + b'"]}', b'{"errors": 5}', b"\xff", b"<html>", b""],
)
def test_a_refusal_of_the_text_is_one_line_whatever_its_words(body):
    with server(GOOD, http(body, status=b"422 Unprocessable")) as port, token(port) as alice:
        with pytest.raises(errors.StoreError, match="Redmine refuses the text") as caught:
            alice.store.write("Held by: Alice\n", 3, "")
    one_line(caught)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"405 Method Not Allowed", b"413 Content Too Large"])
def test_a_write_that_is_refused_for_any_other_reason_is_no_doubt(status):
    with server(GOOD, http(b"<html>", status=status)) as port, token(port) as alice:
        with pytest.raises(errors.StoreError, match=f"answers with status {status[:3].decode()}; check") as caught:
            alice.acquire("upgrade")
    assert type(caught.value) is errors.StoreError
    one_line(caught)


def test_where_a_redirect_points_is_said_without_commands_and_without_its_query():
    away = http(b"", b"Location: http://127.0.0.2/\x1b[31m?key=" + KEY.encode(), status=b"302 Found")
    with server(away) as port, token(port) as alice:
        with pytest.raises(errors.StoreError, match=r"redirects to http://127\.0\.0\.2/\?\[31m: ") as caught:
            alice.acquire("upgrade")
    one_line(caught)


@pytest.mark.parametrize(
    "odd",
    [
        {"user": {"memberships": 5}},
        {"user": {"memberships": [5]}},
        {"user": {"memberships": [{"project": 5}]}},
        {"user": {"memberships": [{"project": {"id": 1}, "roles": [{}]}]}},
        {"user": {"memberships": [{"project": {"id": 1}, "roles": 5}]}},
        {"role": {"name": ["Manager"], "permissions": []}},
        {"role": {"name": "Manager", "permissions": None}},
        {"user": {"firstname": ["\x1b[2J"], "lastname": "\x1b]0;", "login": "\ud800"}},
    ],
    ids=json.dumps,
)
def test_the_doctor_takes_whatever_the_wiki_says_of_rights_and_finds_none_in_it(odd, loaders):
    member = {"memberships": [{"project": {"id": 1}, "roles": [{"id": 3}]}]}
    whole = {"user": member, "project": {"id": 1}, "role": {}, "wiki_page": FREE, **odd}
    date = b"Date: Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    with server(http(json.dumps(whole).encode(), date)) as port:
        opts = {"store": f"http://127.0.0.1:{port}/projects/p/wiki/T", "api_key": KEY, "name": "Alice"}
        found = doctor.examine(loaders(deploytoken=opts).opts)["checks"]
    checks = {check["name"]: check for check in found}
    assert checks["edit"]["ok"] is None
    assert checks["clock"]["ok"] is None
    assert all(check["text"].isprintable() for check in found)


def test_no_words_of_the_wiki_reach_a_terminal_as_commands():
    odd = answer(
        text="Held by: \x1b[31mBob (up\x1b[2Jgrade; since 2026-11-22 22:30 UTC; ref 3f9c2a1b)\n",
        version=1,
        author={"name": "\x1b]0;Bob\x07"},
        comments="\x1b[1m \ud800",
        updated_on="9999-12-31T23:59:59-23:00",
    )
    with server(odd) as port, token(port) as alice:
        assert "".join(map(str, alice.status().values())).isprintable()
        found = alice.history(10)
        assert [hold["held_by"] for hold in found["holds"]] == ["[31mBob"]
        read = alice.store.read()
        assert f"{read.author}{read.comment}{read.saved}".isprintable()
        assert output(found).replace("\n", "").isprintable()
        with pytest.raises(errors.Held) as caught:
            alice.acquire("upgrade")
    one_line(caught)


@pytest.mark.parametrize("what", PAGE)
def test_what_is_odd_and_still_a_page_is_read(what):
    with server(PAGE[what]) as port, token(port) as alice:
        assert alice.acquire("upgrade")["version"] == 4


@pytest.mark.parametrize(("title", "said"), [("Deploy%20token", "Deploy_token"), ("%C3%9Cbersicht", "Übersicht")])
def test_a_title_is_known_in_every_way_that_it_is_written(title, said):
    with server(answer(title=said)) as port, token(port, title) as alice:
        assert alice.status()["held_by"] is None


def test_a_version_that_is_answered_with_another_one_is_refused():
    """A cache that mixes them up would have a history told that never was."""
    message = "asked for version 2, and got 3"
    with server(GOOD) as port, token(port) as alice, pytest.raises(errors.StoreError, match=message):
        alice.store.read_version(2)
