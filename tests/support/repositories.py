"""Git repositories as a master has them: a remote, the clone on the master, and a colleague who pushes."""

import atexit
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@pytest.fixture
def environment(monkeypatch):
    """Salt's git inherits the environment: nobody's own configuration may decide a test."""
    for name in set(os.environ) - set(ENV):
        monkeypatch.delenv(name)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


def git(path, *arguments):
    return subprocess.run(
        ["git", *arguments], cwd=path, check=True, capture_output=True, text=True, env=ENV, timeout=120
    ).stdout.strip()


def commit(path, name, text, subject):
    file = pathlib.Path(path, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    git(path, "add", "--force", name)
    git(path, "commit", "--quiet", "--message", subject)
    return git(path, "rev-parse", "HEAD")


def snapshot(path):
    """All of a repository that a refusal must leave as it was (remote-tracking branches move on a fetch)."""
    files = {
        str(file.relative_to(path)): os.readlink(file) if file.is_symlink() else file.read_bytes()
        for file in sorted(pathlib.Path(path).rglob("*"))
        if ".git" not in file.relative_to(path).parts and (file.is_symlink() or file.is_file())
    }
    refs = git(path, "for-each-ref", "refs/heads", "refs/stash")
    return files, refs, pathlib.Path(path, ".git/HEAD").read_text(), git(path, "ls-files", "--stage")


class Origin:
    """A remote, the clone on the master (``path``), and a colleague who pushes."""

    def __init__(self, folder, name, made=False):
        self.remote = folder / f"{name}.git"
        self.path = folder / name
        self.colleague = folder / f"{name}-colleague"
        self._branch = "main"  # the colleague's
        if made:  # they are there already
            return
        made = _prepared()
        for source, copy in (("remote", self.remote), ("colleague", self.colleague), ("clone", self.path)):
            shutil.copytree(made / source, copy)
            config = copy / ("config" if copy == self.remote else ".git/config")
            config.write_text(config.read_text().replace(str(made / "remote"), str(self.remote)))

    def push(self, name="top.sls", text="base: {'*': [web]}\n", subject="Add web", branch="main"):
        """The colleague pushes a commit, and nobody has fetched it yet."""
        if branch != self._branch:
            known = git(self.colleague, "branch", "--format=%(refname:short)").split()
            git(self.colleague, "switch", "--quiet", *([] if branch in known else ["--create"]), branch)
            self._branch = branch
        made = commit(self.colleague, name, text, subject)
        git(self.colleague, "push", "--quiet", "origin", branch)
        return made

    @property
    def head(self):
        return git(self.path, "rev-parse", "HEAD")


@functools.cache
def _prepared():
    """Make the three once in a process, with git: copies of them cost a tenth."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="repositories-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "remote")
    git(folder, "clone", "--quiet", folder / "remote", "colleague")
    # Whether it is time for housekeeping is one process more for each of the colleague's commits.
    git(folder / "colleague", "config", "maintenance.auto", "false")
    commit(folder / "colleague", "top.sls", "base: {}\n", "Start")
    commit(folder / "colleague", ".gitignore", "*.key\n", "Ignore keys")
    git(folder / "colleague", "push", "--quiet", "origin", "HEAD:main")
    git(folder, "clone", "--quiet", folder / "remote", "clone")
    for path in ("remote", "colleague", "clone"):  # one file to copy, and no folder for each object
        git(folder / path, "repack", "-a", "-d", "--quiet")
    for sample in folder.rglob("hooks/*.sample"):
        sample.unlink()
    return folder
