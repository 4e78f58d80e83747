"""Real Unix users, with real tmux and screen servers of theirs. Needs root, as adding a user does."""

import contextlib
import dataclasses
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile

import psutil

from tests.support import wait


class User:
    """A Unix user of its own: ``name``, ``uid``, ``home``."""

    def __init__(self, name, uid, gid, home):
        self.name, self.uid, self.gid, self.home = name, uid, gid, pathlib.Path(home)

    def environment(self, **more):
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": "/bin/bash",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **more,
        }

    def run(self, *command, check=True, **environment):
        """Run a command as this user, with a clean environment: what it printed."""
        done = subprocess.run(
            [str(word) for word in command],
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd=self.home,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert not check or done.returncode == 0, f"{command} as {self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def processes(self):
        found = []
        for candidate in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if candidate.uids().real == self.uid and candidate.status() != psutil.STATUS_ZOMBIE:
                    found.append(candidate)
        return found


class Users:
    """Makes users, and removes them again with everything that they left running."""

    def __init__(self):
        self._users = {}
        self._folder = None

    def __call__(self, label="ana"):
        """The user with this label, made when first asked for. The real name is unlike any other on the machine."""
        if label not in self._users:
            self._users[label] = self._make(label)
        return self._users[label]

    def _make(self, label):
        assert os.geteuid() == 0, "tests with real users need root: run script/test as root"
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="deploytoken-users-")
            pathlib.Path(self._folder).chmod(0o755)
        name = f"{label}-{secrets.token_hex(3)}"
        home = pathlib.Path(self._folder, name)
        command = [
            "useradd",
            "--no-log-init",
            "-K",
            "MAIL_DIR=/nonexistent",
            "-m",
            "-d",
            home,
            "-s",
            "/bin/bash",
            name,
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        entry = pwd.getpwnam(name)
        return User(name, entry.pw_uid, entry.pw_gid, home)

    def remove(self):
        for user in self._users.values():
            for left in user.processes():
                with contextlib.suppress(psutil.Error):
                    left.kill()
            wait.until(lambda user=user: not user.processes(), what=f"the processes of {user.name} to end")
            shutil.rmtree(f"/tmp/tmux-{user.uid}", ignore_errors=True)
            shutil.rmtree(f"/run/screen/S-{user.name}", ignore_errors=True)
            # It refuses while it finds one of them as a zombie, and while somebody else changes the users.
            wait.until(lambda user=user: _succeeds("userdel", user.name), what=f"{user.name} to be removed")
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._users.clear()


def _succeeds(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return True


@dataclasses.dataclass
class Session:
    """A session: the server's ``pid``, its ``socket`` (tmux only), and how to end it."""

    user: User
    name: str
    pid: int
    socket: str | None = None
    pane_pid: int | None = None

    def tmux(self, *arguments):
        """A tmux command on this server, as its user."""
        return self.user.run("tmux", "-u", "-S", self.socket, *arguments)

    def prompt(self):
        """Wait until the shell in its tmux pane shows its prompt (again): what its start runs is over then."""
        shown = lambda: self.tmux("capture-pane", "-p", "-t", f"={self.name}:").rstrip()  # noqa: E731
        wait.until(lambda: shown().endswith(("$", "#")), what=f"the prompt in {self.name}")
        return self

    def end(self):
        """End the server by its pid, with everything below it, and what left it with ``setsid``."""
        ended = []
        for left in self.user.processes():
            with contextlib.suppress(psutil.Error):
                marks = left.environ()
                if f",{self.pid}," in marks.get("TMUX", "") or marks.get("STY", "").startswith(f"{self.pid}."):
                    left.kill()
                    ended.append(left)
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.pid)
            ended += [server, *server.children(recursive=True)]
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(psutil.TimeoutExpired):
                server.wait(5)
            for left in ended:
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
        psutil.wait_procs(ended, 60)


def tmux(user, name="ana-work", command=None, socket=None, label=None, **environment):
    """
    Start a session (and its server, where there is none on this socket) as ``user``.

    ``command`` runs in the pane (a shell when None); ``socket`` is a path (``-S``), ``label`` a name (``-L``). It runs
    by the time that this returns: first, the pane is a fork of the server, and then a shell that is told it.
    """
    where = ["-S", socket] if socket else ["-L", label] if label else []
    base = ["tmux", "-u", "-f", "/dev/null", *where]
    user.run(
        *base, "new-session", "-d", "-x", "200", "-y", "50", "-s", name, *([command] if command else []), **environment
    )
    row = user.run(*base, "list-panes", "-t", f"={name}", "-F", "#{pid}\t#{socket_path}\t#{pane_pid}", **environment)
    pid, path, pane = row.splitlines()[0].split("\t")

    def begun():
        program, *words = psutil.Process(int(pane)).cmdline()
        return pathlib.Path(program).name != "tmux" and words[:1] != ["-c"]

    wait.until(begun, what=f"{command or 'a shell'} to run")
    return Session(user, name, int(pid), path, int(pane))


def screen(user, name="ana-work", *command):
    """Start a detached GNU screen session as ``user``."""
    before = {candidate.pid for candidate in user.processes()}
    user.run("screen", "-dmS", name, *command)

    def server():
        for candidate in user.processes():
            with contextlib.suppress(psutil.Error):
                if candidate.pid not in before and candidate.name().lower() == "screen" and candidate.ppid() == 1:
                    return candidate.pid
        return None

    return Session(user, name, wait.until(server, what="screen's server"))
