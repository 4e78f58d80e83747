"""A person at a prompt in a terminal: root's tmux pane, in which Salt's commands are typed."""

import json
import pathlib
import shlex
import sys

from tests.support.users import User
from tests.support.wait import until

BIN = pathlib.Path(sys.executable).parent


class Pane:
    """
    A pane of root in a session ``name``, with the files of what is typed there in ``folder``.

    ``start`` is the fixture ``tmux_session``; ``command`` runs in the place of a shell.
    """

    def __init__(self, start, folder, name, command=None):
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir()
        (self.folder / ".bash_profile").write_text("PS1='$ '\n")
        root = User("root", 0, 0, self.folder)
        self.session = start(root, name, command, socket=f"{folder}/tmux")

    def type(self, config, program, *words, before=""):
        """Type one of Salt's commands on a configuration, behind the words ``before``."""
        command = shlex.join(map(str, [BIN / program, "-c", config.folder, "--out=json", *words]))
        out, err, code = (self.folder / name for name in ("out", "err", "code"))
        code.unlink(missing_ok=True)
        self.session.prompt()
        line = f"{before} {command} > {out} 2> {err}; echo $? > {code}.new; mv {code}.new {code}"
        self.session.tmux("send-keys", "-t", f"={self.session.name}:", "-l", line)
        self.session.tmux("send-keys", "-t", f"={self.session.name}:", "Enter")
        return self

    @property
    def told(self):
        """What the command has written on standard error so far."""
        path = self.folder / "err"
        return path.read_text() if path.exists() else ""

    @property
    def over(self):
        """Whether the command has ended."""
        return (self.folder / "code").exists()

    def ended(self, timeout=400):
        """Wait for the command to end: its exit code, and its answer."""
        until(lambda: self.over, timeout, "the command in the pane to end")
        return int((self.folder / "code").read_text()), json.loads((self.folder / "out").read_text())
