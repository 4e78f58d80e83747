"""
A machine that systemd runs: the real one, as process 1 of namespaces of its own, with D-Bus and logind.

Needs root, and Debian's systemd, dbus and libpam-systemd. It has no other units than these, no network, and its
shutdown ends nothing but itself.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys

import psutil
import salt.exceptions

from tests.support import minion, process
from tests.support.wait import until

HERE = pathlib.Path(__file__).parent
CHECKOUT = HERE.parent.parent
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(CHECKOUT)}
SYSTEM = pathlib.Path("/usr/lib/systemd/system")
PACKAGED = ("dbus.service", "dbus.socket", "user.slice", "user@.service", "user-runtime-dir@.service", "user-.slice.d")
LOGIND = """
[Unit]
Requires=dbus.socket
After=dbus.socket
[Service]
Type=dbus
BusName=org.freedesktop.login1
ExecStart=/lib/systemd/systemd-logind
RuntimeDirectory=systemd/sessions systemd/seats systemd/users systemd/inhibit systemd/shutdown
"""  # without what the packaged one asks of the kernel, some of which is not to be had in namespaces
UNITS = {
    "default.target": "[Unit]\nRequires=systemd-logind.service\nAfter=systemd-logind.service basic.target\n",
    "systemd-logind.service": LOGIND,
    "dbus-org.freedesktop.login1.service": LOGIND,
    **dict.fromkeys(
        (f"{name}.target" for name in ("basic", "paths", "shutdown", "slices", "sockets", "sysinit", "timers")),
        "[Unit]\nDefaultDependencies=no\n",
    ),
}


def probe_with(folder, constant, value):
    """Write the probe with another constant into the folder ``_modules`` in ``folder``."""
    text = (CHECKOUT / "_modules" / "systemd.py").read_text()
    text, times = re.subn(rf"^{constant} = \S+", f"{constant} = {value!r}", text, flags=re.MULTILINE)
    assert times == 1
    (folder / "_modules").mkdir()
    (folder / "_modules" / "systemd.py").write_text(text)


class Systemd:
    """
    The machine, with its files in ``folder``. What tests start there is called ``test-…``.

    In ``folder`` is also a probe for which what has just begun counts at once, so that tests need not wait.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._group = f"deploytoken-{os.getpid()}-{secrets.token_hex(4)}"
        for name in ("units", "etc", "groups", "minion"):
            (self.folder / name).mkdir()
        for name, text in UNITS.items():
            (self.folder / "units" / name).write_text(text)
        for name in PACKAGED:
            copy = shutil.copytree if (SYSTEM / name).is_dir() else shutil.copy
            copy(SYSTEM / name, self.folder / "units" / name)
        (self.folder / "log").touch()
        probe_with(self.folder, "SHORT", 0)

    def start(self):
        command = ["unshare", "--mount", HERE / "systemd.sh", self.folder, self._group]
        self._process = process.start(command, self.folder / "boot.log", at_death=signal.SIGKILL)
        self._enter = until(self._entrance, what="systemd to be process 1")
        until(lambda: self.run("systemctl", "is-active", "default.target", check=False) == "active\n", what="systemd")
        return self

    @functools.cached_property
    def _asker(self):
        """Asks the probe, again and again: Salt takes its time to load."""
        words = [*self._enter, sys.executable, "-m", __name__, CHECKOUT, self.folder]
        return subprocess.Popen(
            list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
        )

    def _entrance(self):
        """The words before a command that let it run in there, once it is what it says."""
        assert self._process.poll() is None, process.tail(self.folder / "boot.log")
        found = [child.pid for child in psutil.Process(self._process.pid).children() if child.name() == "systemd"]
        return found and ["nsenter", "--all", f"--target={found[0]}"]

    def run(self, *command, user=None, check=True):
        """Run a command there, as root or as a user (tests.support.users.User): what it printed."""
        become, environment = [], ENVIRONMENT
        if user:
            become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.uid}", "--clear-groups"]
            environment = {**ENVIRONMENT, "XDG_RUNTIME_DIR": f"/run/user/{user.uid}"}
        done = subprocess.run(
            [*self._enter, *become, *map(str, command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, *words, user=None):
        """``systemd-run`` with these words: what it printed."""
        return self.run("systemd-run", *(["--user"] if user else []), *words, user=user)

    def unit(self, name, text):
        """Have a unit with this text. A name with a slash is that of a drop-in: ``test-a.service.d/b.conf``."""
        path = self.folder / "etc" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.run("systemctl", "daemon-reload")

    @contextlib.contextmanager
    def inhibited(self, *options):
        """While an inhibitor lasts: the words of ``systemd-inhibit``."""
        command = [*self._enter, "systemd-inhibit", *options, "sh", "-c", "echo there; read end"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
        ) as inhibiting:
            assert inhibiting.stdout.readline() == "there\n"
            yield
            inhibiting.communicate("", 60)

    def look(self, **settings):
        """The answer of the probe ``systemd``; its message, if it raises an error."""
        self._asker.stdin.write(json.dumps(settings) + "\n")
        self._asker.stdin.flush()
        return json.loads(self._asker.stdout.readline())

    def clean(self):
        """End what tests have started, and forget their units."""
        until(lambda: [self.run("systemctl", "stop", "test-*", "user@*")], what="all to stop")
        self.run("systemctl", "reset-failed")
        for path in (self.folder / "etc").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.run("systemctl", "daemon-reload")

    @contextlib.contextmanager
    def stopped(self, name, owner=0):
        """While a program there stands still: ``systemd`` or ``systemd-logind``, of a user."""
        inside = psutil.Process(self._process.pid).children(recursive=True)
        (still,) = [one for one in inside if one.name() == name and one.uids().real == owner]
        still.suspend()
        try:
            yield
        finally:
            still.resume()

    def end(self):
        self._process.kill()  # unshare is deaf to SIGTERM while it waits (util-linux 2.38)
        process.end(self._process)
        if "_asker" in vars(self):
            self._asker.communicate(timeout=60)  # ended with all else
        remove = ["unshare", "--mount", HERE / "systemd.sh", self.folder, self._group, "remove"]
        until(
            lambda: subprocess.run(remove, capture_output=True).returncode == 0, what="its control group to be empty"
        )


def answers(checkout, folder):
    """For each line with settings, the probe's answer as a line."""
    functions = minion.functions(checkout, folder / "minion", modules=[folder])
    for line in sys.stdin:
        try:
            answer = functions["systemd.probe"](**json.loads(line))
        except salt.exceptions.SaltException as error:
            answer = str(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    answers(*map(pathlib.Path, sys.argv[1:3]))
