"""
A machine that can be rebooted: a real salt-minion in mount and PID namespaces of its own.

Its boot id is a file of its own, and its ``shutdown`` ends everything that runs in it, at once, as a reboot does.
Needs root. The network is the test's, so that it finds the master on loopback.
"""

import pathlib
import signal
import sys
import time

import yaml

from tests.support import process
from tests.support.ssh import Sshd
from tests.support.wait import until

HERE = pathlib.Path(__file__).parent
CHECKOUT = HERE.parent.parent


class Machine:
    """
    The machine ``id`` of a :py:class:`tests.support.salt.Cluster`, in the folder ``folder``.

    ``mode`` says what becomes of the next ``shutdown``:

    ``reboot``
        it goes down, and boots again.
    ``off``
        it goes down, and stays so until there is another mode.
    ``same``
        it goes down, and comes back with the boot id from before.
    ``refuse``, ``ignore``
        it does not go down, with an error and without.
    """

    def __init__(self, cluster, id, folder):
        self._make(id, folder)
        self._cluster = cluster
        master = cluster.options
        options = {
            "id": id,
            "master": "127.0.0.1",
            "master_port": master["ret_port"],
            "publish_port": master["publish_port"],
            "root_dir": str(self.folder),
            "log_level_logfile": "info",
            "module_dirs": [str(CHECKOUT)],
            "module_executors": ["deploygate", "direct_call"],
            "default_include": "",
            "acceptance_wait_time": 1,
            "recon_default": 200,
            "random_reauth_delay": 1,
        }
        (self.folder / "etc" / "minion").write_text(yaml.safe_dump(options))
        minion = pathlib.Path(sys.executable).with_name("salt-minion")
        self._command = [sys.executable, minion, "-c", self.folder / "etc"]

    def _make(self, id, folder):
        self.id = id
        self.folder = pathlib.Path(folder)
        self._process = self.took = None
        for name in ("bin", "run", "etc"):
            (self.folder / name).mkdir(parents=True)
        shutdown = self.folder / "bin" / "shutdown"
        shutdown.write_text((HERE / "shutdown.sh").read_text().replace("@FOLDER@", str(self.folder)))
        shutdown.chmod(0o755)
        self.mode = "reboot"

    @property
    def mode(self):
        return (self.folder / "mode").read_text()

    @mode.setter
    def mode(self, word):
        (self.folder / "mode").write_text(word)

    @property
    def boot_id(self):
        """The boot id that it has now, or had last."""
        return (self.folder / "boot_id").read_text().strip()

    @property
    def orders(self):
        """The arguments of each ``shutdown`` so far."""
        path = self.folder / "orders"
        return path.read_text().splitlines() if path.exists() else []

    def start(self):
        spaces = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        # unshare is deaf to SIGTERM while it waits (util-linux 2.38).
        self._process = process.start(
            [*spaces, "sh", HERE / "machine.sh", self.folder, *self._command],
            self.folder / "machine.log",
            at_death=signal.SIGKILL,
        )
        self._started = time.monotonic()
        return self

    def up(self):
        """Wait until its minion answers."""
        until(
            lambda: self._cluster.ask(self.id, "test.ping", timeout=5) == {self.id: True}, 240, f"{self.id} to answer"
        )
        self.took = self.took or time.monotonic() - self._started
        return self

    @property
    def patience(self):
        """A duration in which it comes back for sure, and no more than needed: tests wait in vain for so long."""
        return f"{max(20, round(2 * self.took))}s"

    def forget(self):
        """Forget the orders so far."""
        (self.folder / "orders").unlink(missing_ok=True)

    def end(self):
        self._process.kill()
        process.end(self._process)

    def stop(self):
        self.end()
        self._cluster.command("salt-key", "-y", "-d", self.id)


class SshMachine(Machine):
    """A machine without Salt, with a sshd. ``entry`` is its entry in a roster."""

    def __init__(self, id, folder):
        self._make(id, folder)
        self._sshd = Sshd(self.folder / "sshd")
        self._command = self._sshd.command()

    @property
    def entry(self):
        entry = self._sshd.entry(self.id)
        return {**entry, "set_path": f"{self.folder}/bin:{entry['set_path']}"}

    def up(self):
        until(lambda: process.listening(self._sshd.port), what=f"the sshd of {self.id}")
        return self

    def stop(self):
        self.end()
