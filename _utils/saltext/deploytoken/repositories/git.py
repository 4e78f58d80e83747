"""
Git in one folder, run through Salt's functions: it asks nobody, and what it says becomes one line.

Where Salt's ``git`` module has a function, that is used. The rest runs through ``cmd.run_all``: ``log`` and
``ls-remote --symref`` have no function, ``git.status`` takes no options, and ``git.fetch``, ``git.merge`` and
``git.checkout`` take neither a time limit nor an environment.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from salt.exceptions import CommandExecutionError

from saltext.deploytoken import errors
from saltext.deploytoken.text import printable

#: Salt's execution functions by name: ``git.*`` and ``cmd.run_all``.
Functions = Mapping[str, Callable[..., Any]]

#: Variables with which git would look at another repository than the one whose path it is given.
_REDIRECTING = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
)

#: Git opens the terminal by itself to ask for a password, whatever its input is; this forbids it.
UNATTENDED = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS_REQUIRE": "never"}

#: How coreutils' ``timeout`` ends when the time is over: after SIGTERM, and after SIGKILL.
_TIMED_OUT = (124, 137)

#: A message names at most so many files.
_FILES = 5


class Refused(Exception):
    """This repository cannot be deployed from as it is; the text says why and what to do, and is printable."""

    def __init__(self, message: str) -> None:
        # It may hold the name of a file or folder, which anybody may have chosen, and goes to a terminal.
        super().__init__(printable(message))


class Git:
    """
    Git in the folder ``path``.

    ``options`` stand before every command. Every method raises :class:`Refused`, with git's own words in one line, if
    git fails.

    :raises errors.Invalid: a variable in the environment points git to another repository.
    """

    def __init__(self, path: str, functions: Functions, *options: str) -> None:
        for name in _REDIRECTING:
            if name in os.environ:
                raise errors.Invalid(
                    f"{name} is set in the environment, and points git to another repository: unset it"
                )
        self.path = path
        self._functions = functions
        # Submodules are brought along by this extension itself, whatever the user's configuration says.
        self._command = ("git", "-c", "submodule.recurse=false", *options)

    def salt(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a function of Salt's git module returns for this folder; ``function`` is its name."""
        if f"git.{function}" not in self._functions:
            raise Refused("git is not installed on this machine: install it")
        # git.config_set is the only one that takes the folder as a keyword.
        if function == "config_set":
            kwargs["cwd"] = self.path
        else:
            args = (self.path, *args)
        try:
            return self._functions[f"git.{function}"](*args, ignore_retcode=True, **kwargs)
        except CommandExecutionError as error:
            raise Refused(explanation(str(error).partition(" failed: ")[2] or str(error))) from None

    def run(self, *arguments: str, stdin: str | None = None, **environment: str) -> str:
        """
        Return the output of ``git`` with these arguments, and these variables in its environment.

        It asks nobody for a password. Even a command that writes files may fetch some: for a filter such as LFS's, for
        a hook, or for the rest of a partial clone.
        """
        environment = {**self._environment, **environment}
        return self._output(self._run([*self._command, *arguments], env=environment, stdin=stdin))

    def names(self, *arguments: str, **environment: str) -> list[str]:
        """Return the parts of an output that ends each with a NUL, as ``-z`` has it."""
        return [part for part in self.run(*arguments, **environment).split("\0") if part]

    def config(self, key: str) -> str:
        """Return the value of a configuration's key, from wherever git reads it; an empty string if there is none."""
        # Not git.config_get, which reads the repository's own configuration only. If nothing is configured, git ends
        # with code 1 and no output.
        return str(self._run([*self._command, "config", "--get", key])["stdout"]).strip()

    def ask(self, *arguments: str, deadline: float, **environment: str) -> str:
        """
        Return the output of ``git`` with these arguments, which ask a remote.

        ``deadline``
            When to give up, on the clock of :func:`time.monotonic`.

        :raises TimeoutError: the remote did not answer in time.
        """
        command = [*self._command, *arguments]
        environment = {**self._environment, **environment}
        left = max(deadline - time.monotonic(), 0.1)
        if shutil.which("timeout"):
            # The time limit of cmd.run_all ends git, but not the ssh below it. That keeps the pipe open, and salt-run
            # with it. coreutils' timeout ends all of git's children, too.
            command = ["timeout", "--kill-after=5", f"{left:.1f}", *command]
        result = self._run(command, timeout=left + 10, env=environment)
        if result["retcode"] in _TIMED_OUT or time.monotonic() > deadline:
            raise TimeoutError
        return self._output(result)

    @cached_property
    def _environment(self) -> dict[str, str]:
        """Git's environment: nobody to ask, and an ssh that fails where it would ask; the configured key stays."""
        command = os.environ.get("GIT_SSH_COMMAND", "")
        if not command and os.environ.get("GIT_SSH"):
            return UNATTENDED
        if not command:
            command = self.config("core.sshCommand") or "ssh"
        try:
            program = os.path.basename(shlex.split(command)[0])
        except (ValueError, IndexError):
            return UNATTENDED
        return {**UNATTENDED, "GIT_SSH_COMMAND": f"{command} -o BatchMode=yes"} if program == "ssh" else UNATTENDED

    def _run(self, command: Sequence[str], **options: Any) -> dict[str, Any]:
        try:
            result: dict[str, Any] = self._functions["cmd.run_all"](
                command, cwd=self.path, python_shell=False, ignore_retcode=True, **options
            )
        except CommandExecutionError as error:
            raise Refused(explanation(str(error))) from None
        return result

    @staticmethod
    def _output(result: Mapping[str, Any]) -> str:
        if result["retcode"] != 0:
            said = result["stderr"] or result["stdout"]
            raise Refused(explanation(said or f"git ended with code {result['retcode']}"))
        return str(result["stdout"])


def explanation(output: str) -> str:
    """
    Return the one line of git's output that says what happened, without passwords.

    It is the first line that is no warning. Below it stand the names of files, indented, which go behind it in
    parentheses, and advice.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    chatter = re.compile(r"(?i)warning:|hint:|\*\* |From |Switched to |Your branch is ")
    said = [line for line in lines if not chatter.match(line)] or lines or ["git failed"]
    line = re.sub(r"^(fatal|error|remote): (ERROR: )?", "", said[0].strip())
    if files := [name.strip() for name in said[1:] if name.startswith("\t")]:
        line = f"{line.rstrip(':')} ({some_of(files)})"
    return printable(without_password(line)).rstrip(".")


def without_password(text: str) -> str:
    """Return ``text`` with none of the passwords that addresses in it may hold."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def some_of(files: Sequence[str]) -> str:
    """Return ``a.sls, b.sls and 4 more`` for names of files, which anybody may have chosen."""
    more = len(files) - _FILES
    return printable(", ".join(files[:_FILES])) + (f" and {more} more" if more > 0 else "")
