"""A real Chromium, without a window, that can reach this machine alone: for pictures of pages."""

import base64
import itertools
import json
import os
import pathlib
import shutil
import tempfile

from tests.support import process

FLAGS = (
    "--headless",
    "--no-sandbox",  # as root, Chromium starts in no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # Whatever a page asks of another host than this one is not found.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class Browser:
    """
    ``with Browser() as browser: browser.open(url); browser.picture("page.png", "#content")``.

    It is told what to do over two pipes, with the DevTools protocol: nobody else can reach it.
    """

    def __init__(self, width=960, height=600, scale=1.25, dark=False):
        self.size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.dark = dark
        self._numbers = itertools.count(1)

    def __enter__(self):
        program = shutil.which("chromium")
        if not program:
            raise AssertionError("Chromium is not installed: run script/screenshots, which installs it")
        self.folder = tempfile.mkdtemp(prefix="deploytoken-browser-")
        its_input, self._out = os.pipe()
        self._in, its_output = os.pipe()
        # Chromium reads from 3 and writes to 4.
        pipes = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        command = [program, *FLAGS, f"--user-data-dir={self.folder}/profile", "about:blank"]
        self._process = process.start(
            ["/bin/bash", "-c", pipes, str(its_input), str(its_output), *command],
            pathlib.Path(self.folder) / "log",
            pass_fds=(its_input, its_output),
        )
        os.close(its_input)
        os.close(its_output)
        self._answers = os.fdopen(self._in, "rb", buffering=0)
        self._rest = b""
        page = next(each for each in self._tell("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self._tell("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._tell("Page.enable")
        self._tell("Emulation.setDeviceMetricsOverride", **self.size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(self, *_):
        os.close(self._out)
        process.end(self._process)
        self._answers.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, url):
        """Open a page, and wait until it has loaded."""
        self._loaded = False
        self._tell("Page.navigate", url=url)
        self._wait_for_page()

    def evaluate(self, expression):
        """What a JavaScript expression comes to on the page."""
        answer = self._tell("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def follow(self, expression):
        """Evaluate what leads to another page, and wait until that has loaded."""
        self._loaded = False
        self.evaluate(expression)
        self._wait_for_page()

    def picture(self, path, selector="body", until=None, below=0):
        """Write a PNG of an element; ``until`` is the one that it ends with, ``below`` the pixels after it."""
        box, end = self._box(selector), self._box(until or selector)
        box["height"] = end["y"] + end["height"] - box["y"] + below
        shot = self._tell("Page.captureScreenshot", clip={**box, "scale": 1}, captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _box(self, selector):
        return self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height} })()"
        )

    def _wait_for_page(self):
        while not self._loaded:
            self._hear()

    def _tell(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _hear(self):
        while b"\0" not in self._rest:
            read = self._answers.read(1 << 16)
            if not read:
                raise RuntimeError(f"Chromium ended:\n{process.tail(pathlib.Path(self.folder) / 'log')}")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(message)
        if answer.get("method") == "Page.loadEventFired":
            self._loaded = True
        return answer
