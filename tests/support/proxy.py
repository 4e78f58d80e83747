"""
A proxy that makes the faults which networks and servers make, in front of any HTTP server.

.. code-block:: python

    with FaultProxy(redmine.url) as proxy:
        page = proxy.at(page)                              # the same address, through the proxy
        proxy.faults([drop(AFTER)], only="PUT")            # the first PUT is applied, its answer is lost
        ...
        assert [request.method for request in proxy.log] == ["GET", "PUT", "PUT"]

A fault is given per request: by an iterable (one entry per request, ``None`` for no fault; what comes after its end
passes), or by a function ``(method, path, n)`` where ``n`` counts the matching requests from 1.
"""

import contextlib
import dataclasses
import http.client
import http.server
import socket
import threading
import time
import urllib.parse

from tests.support import wait

BEFORE, AFTER = "before", "after"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade"}
LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><form>Login</form></body></html>"


class Fault:
    """What happens to one request: ``forward()`` sends it on (later, or twice, if need be) and returns the answer."""

    def __init__(self, name, act):
        self.name = name
        self._act = act

    def __call__(self, handler, forward):
        return self._act(handler, forward)

    def __repr__(self):
        return self.name


@dataclasses.dataclass
class Answer:
    status: int
    headers: list
    body: bytes
    truncate: bool = False


@dataclasses.dataclass
class Request:
    """
    One request that reached the proxy, when (``at``, in seconds of the monotonic clock), and the upstream's status for
    each time that it was forwarded (``applied``).
    """

    n: int
    method: str
    path: str
    headers: dict
    body: bytes
    connection: int
    fault: Fault | None = None
    applied: list = dataclasses.field(default_factory=list)
    at: float = dataclasses.field(default_factory=time.monotonic)


def drop(when):
    """The connection ends without an answer, ``BEFORE`` or ``AFTER`` the request was applied."""

    def act(_handler, forward):
        if when == AFTER:
            forward()

    return Fault(f"drop {when}", act)


def status(code, when=BEFORE, body=b"", content_type="text/plain", **headers):
    """This status instead of the real answer, ``BEFORE`` (never applied) or ``AFTER`` (applied)."""

    def act(_handler, forward):
        if when == AFTER:
            forward()
        body_ = body.encode() if isinstance(body, str) else body
        return Answer(code, [("Content-Type", content_type), *headers.items()], body_)

    return Fault(f"{code} {when}", act)


def html(when=BEFORE, body=LOGIN_PAGE):
    """HTTP 200 with an HTML page, as of a captive portal or a login page."""
    return status(200, when, body, "text/html; charset=utf-8")


def redirect(location, code=302, when=BEFORE):
    return status(code, when, Location=location)


def delay(seconds, when=BEFORE):
    """
    ``BEFORE``: the request is held back, and applied after that time even when its client has long given up (a
    "ghost"). ``AFTER``: applied at once, answered late.
    """

    def act(handler, forward):
        if when == AFTER:
            answer = forward()
            handler.proxy.ending.wait(seconds)
            return answer
        return None if handler.proxy.ending.wait(seconds) else forward()

    return Fault(f"delay {seconds} s {when}", act)


def drip(when=BEFORE):
    """
    The answer's headers come byte by byte and without end, each well within any time-out, after the request was
    applied or (``BEFORE``) without.
    """

    def act(handler, forward):
        if when == AFTER:
            forward()
        with contextlib.suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while not handler.proxy.ending.wait(0.05):
                handler.wfile.write(b".")

    return Fault(f"drip {when}", act)


class Hold(Fault):
    """
    Like :py:func:`delay`, but until the test says :py:meth:`release`: for a ghost without a race against the clock.
    :py:meth:`wait` returns when the request is being held.
    """

    def __init__(self, when=BEFORE):
        super().__init__(f"hold {when}", self._hold)
        self.when = when
        self.reached, self._released = threading.Event(), threading.Event()

    def wait(self, timeout=120):
        assert self.reached.wait(timeout), "no request reached the hold"

    def release(self):
        self._released.set()

    def _hold(self, handler, forward):
        answer = forward() if self.when == AFTER else None
        self.reached.set()
        while not self._released.wait(0.05):
            if handler.proxy.ending.is_set():
                return None
        return answer or forward()


def duplicate():
    """The request is applied twice, as by a retrying proxy; the second answer is returned."""

    def act(_handler, forward):
        forward()
        return forward()

    return Fault("duplicate", act)


def truncate():
    """Applied; of the answer's body only the first half arrives, although Content-Length promises all of it."""

    def act(_handler, forward):
        answer = forward()
        answer.truncate = True
        return answer

    return Fault("truncate", act)


def replace(function):
    """Applied; ``function(answer)`` changes the answer (``status``, ``headers``, ``body``) on its way back."""

    def act(_handler, forward):
        answer = forward()
        return function(answer) or answer

    return Fault("replace", act)


class FaultProxy:
    """``tls`` (an ``ssl.SSLContext`` with a certificate): it speaks TLS to its clients."""

    def __init__(self, upstream, tls=None):
        self.upstream = upstream.rstrip("/")
        self._tls = tls
        parts = urllib.parse.urlsplit(self.upstream)
        self._address = (parts.hostname, parts.port or 80)
        self.log = []
        self.ending = threading.Event()
        self._lock = threading.Lock()
        self._connections = 0
        self._busy = 0
        self._fault = lambda method, path: None

    def __enter__(self):
        proxy = self

        class Handler(_Handler):
            pass

        Handler.proxy = proxy
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        if self._tls:
            # The handshake is the handler's: one client that does not come to terms must not stop the others.
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def at(self, address):
        """An address of the upstream server, through this proxy."""
        assert address.startswith(self.upstream), f"{address} is not at {self.upstream}"
        return self.url + address[len(self.upstream) :]

    def faults(self, faults, only=None):
        """Faults for the requests to come (with ``only="PUT"``, of that method alone), instead of those set before."""
        if not callable(faults) or isinstance(faults, Fault):
            queue = iter([faults] if isinstance(faults, Fault) else faults)

            def faults(_method, _path, _n):
                return next(queue, None)

        count = 0

        def fault(method, path):
            nonlocal count
            if only and method != only:
                return None
            count += 1
            return faults(method, path, count)

        with self._lock:
            self._fault = fault

    def clear(self):
        """No more faults, and an empty log."""
        self.faults([])
        self.log.clear()

    def settled(self, timeout=60):
        """Wait until no request is on its way any more."""
        wait.until(lambda: not self._busy, timeout, "the proxy to have nothing on its way")

    def methods(self):
        """The methods of the requests so far, such as ``["GET", "PUT"]``."""
        return [request.method for request in self.log]

    # For the handler

    def connected(self):
        with self._lock:
            self._connections += 1
            return self._connections

    def begin(self, method, path, headers, body, connection):
        with self._lock:
            self._busy += 1
            request = Request(len(self.log) + 1, method, path, headers, body, connection)
            request.fault = self._fault(method, path)
            self.log.append(request)
            return request

    def done(self):
        with self._lock:
            self._busy -= 1

    def forward(self, request):
        upstream = http.client.HTTPConnection(*self._address, timeout=120)
        with contextlib.closing(upstream):
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            upstream.request(request.method, request.path, request.body or None, headers)
            answer = upstream.getresponse()
            body = answer.read()
            request.applied.append(answer.status)
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            return Answer(answer.status, kept, body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # the client hung up: that is what half of the tests are about


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections, so that tests can count them
    proxy = None

    def setup(self):
        super().setup()
        self.number = self.proxy.connected()

    def log_message(self, *_):
        pass

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = self.proxy.begin(self.command, self.path, dict(self.headers.items()), body, self.number)
        try:
            answer = self._answer(request)
        finally:
            self.proxy.done()
        if answer is None:
            self._hang_up()
        else:
            self._send(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_any  # noqa: N815

    def _answer(self, request):
        def forward():
            return self.proxy.forward(request)

        try:
            return request.fault(self, forward) if request.fault else forward()
        except OSError:
            return Answer(502, [("Content-Type", "text/plain")], b"upstream is down")

    def _send(self, answer):
        with contextlib.suppress(OSError):
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            if answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: len(answer.body) // 2] if answer.truncate else answer.body)
            if answer.truncate:
                self._hang_up()

    def _hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
