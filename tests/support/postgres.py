"""A private PostgreSQL cluster in a temporary folder, on loopback and a Unix socket there."""

import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

from tests.support import process, wait


def programs():
    """The folder of the newest server's programs."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise AssertionError("the PostgreSQL server is not installed: run script/test, which installs it")
    return found[-1].parent


class Postgres:
    """``host`` is the folder of the socket; ``url`` for TCP. Runs as ``user`` (postgres, or whoever tests)."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="deploytoken-pg-"))
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.host = str(self.folder)
        self.port = process.free_port()
        self.log = self.folder / "log"
        self._process = None

    def _options(self):
        if os.geteuid():
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def start(self):
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user, self.user)
        data = self.folder / "data"
        command = [programs() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **self._options())
        assert done.returncode == 0, done.stderr
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self.folder}",
            "fsync=off",
        ]
        command = [programs() / "postgres", "-D", data]
        for setting in settings:
            command += ["-c", setting]
        self._process = process.start(command, self.log, cwd="/", **self._options())
        wait.until(lambda: self.query("SELECT 1") == "1", 120, "PostgreSQL to answer")
        return self

    def psql(self, *arguments):
        """A psql command line for this server."""
        return ["psql", "-X", "-h", self.host, "-p", str(self.port), "-U", "postgres", "-d", "postgres", *arguments]

    def query(self, sql):
        """What psql prints for this statement, unaligned and without headings."""
        done = subprocess.run(self.psql("-Atc", sql), capture_output=True, text=True, cwd="/", timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def session(self, *sql):
        """A client of its own that runs these statements in the background (ended with :py:func:`process.end`)."""
        return process.start(
            self.psql(*(f"--command={one}" for one in sql)), self.folder.parent / f"{self.folder.name}.client", cwd="/"
        )

    def stop(self):
        if self._process:
            # SIGINT: PostgreSQL's fast shutdown, which does not wait for its clients.
            self._process.send_signal(2)
            process.end(self._process, 20)
        self.folder.with_name(f"{self.folder.name}.client").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
