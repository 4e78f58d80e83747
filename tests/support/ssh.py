"""
A real sshd on loopback, and rosters whose entries are all this machine. Needs root, as logging in as root does.

It has its own port, host key, client key and list of authorized keys, and knows nothing of the machine's own.
"""

import os
import pathlib
import shutil
import signal
import subprocess

from tests.support import process, wait

SSHD = pathlib.Path("/usr/sbin/sshd")


class Sshd:
    """``sshd.roster("docs", "web")``: entries for Salt's roster. ``sshd.port``, ``sshd.key``, ``sshd.log``."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.key, self.log = self.folder / "client", self.folder / "log"
        self.known_hosts = self.folder / "known_hosts"
        self.port = self._process = None

    def command(self):
        """Write keys and a configuration, and return the command that starts it in the foreground."""
        assert os.geteuid() == 0, "tests over ssh need root: run script/test as root"
        assert SSHD.exists(), "openssh-server is needed: script/test installs it"
        self.folder.mkdir(exist_ok=True)
        for key in (self.folder / "host", self.key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        authorized = self.folder / "authorized"
        shutil.copy(f"{self.key}.pub", authorized)
        self.port = process.free_port()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {(self.folder / 'host.pub').read_text()}")
        settings = {
            "ListenAddress": "127.0.0.1",
            "Port": self.port,
            "HostKey": self.folder / "host",
            # By a command, which root runs: a user who logs in cannot read a file below a test's folder.
            "AuthorizedKeysFile": "none",
            "AuthorizedKeysCommand": f"/bin/cat {authorized}",
            "AuthorizedKeysCommandUser": "root",
            "PidFile": "none",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "StrictModes": "no",  # the keys are below a temporary folder
            "UsePAM": "no",
            "Subsystem": "sftp internal-sftp",  # scp sends the thin over sftp
        }
        (self.folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        return [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"]

    def start(self):
        pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, which its service makes at each boot
        self._process = process.start(self.command(), self.log)
        wait.until(lambda: process.listening(self.port), what=f"sshd:\n{process.tail(self.log)}")
        return self

    def stop(self):
        if self._process is not None:
            process.end(self._process)

    def freeze(self):
        """From now on it accepts connections, as the kernel does, and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def entry(self, name, **more):
        """
        A roster entry with this id.

        Each has a folder of its own for what Salt sends: two ids on one machine would share it otherwise, and each
        would run with the other's.
        """
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "priv": str(self.key),
            "thin_dir": str(self.folder / "thin" / name),
            "set_path": "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin",
            "ssh_options": [f"UserKnownHostsFile={self.known_hosts}", "BatchMode=yes"],
            **more,
        }

    def other_key(self):
        """A key that opens nothing."""
        key = self.folder / "other"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        return key

    def roster(self, *names, **more):
        return {name: self.entry(name, **more) for name in names}
