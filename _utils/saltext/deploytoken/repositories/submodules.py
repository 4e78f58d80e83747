"""
Submodules: brought along to the commits that their superproject's commit names.

``git merge`` and ``git checkout`` move the note of a submodule's commit, and none of its files (2.39.5): old states
would be served as new ones. So what is missing of them is fetched before anything moves, and they move right after
their superproject, without asking any remote. What is left out on purpose stays so (``submodule.NAME.update none``, or
``submodule.NAME.active false``, in the clone's configuration).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken.repositories import work
from saltext.deploytoken.repositories.git import Functions, Git, Refused, some_of
from saltext.deploytoken.text import count

#: Takes a repository, a name for its remote, and git's arguments, and asks that remote in time or raises Refused.
Ask = Callable[..., str]

#: What git itself sets where it fetches submodules: their addresses come from a commit, and not from a person.
_FROM_COMMIT = {"GIT_PROTOCOL_FROM_USER": "0"}


@dataclass(frozen=True)
class Parent:
    """
    A repository with submodules: the superproject, or a submodule with some of its own.

    git
        Reads its commits.
    top
        Its working tree, which may be missing yet.
    modules
        The folder in which git keeps its submodules' repositories.
    url
        Its own address, from which relative ones go on.
    before, after
        The commit that is checked out (empty if none is), and the one to be.
    """

    git: Git
    top: str
    modules: str
    url: str
    before: str
    after: str


@dataclass(frozen=True)
class _Move:
    """One submodule to move: ``path`` within the working tree ``top``, to ``commit``."""

    top: str
    path: str
    commit: str


class Submodules:
    """The submodules of the working tree ``top``, and theirs in turn."""

    def __init__(self, top: str, functions: Functions, ask: Ask) -> None:
        self._top = top
        self._functions = functions
        self._ask = ask
        self._branch = ""
        self._moves: list[_Move] = []
        self._gone: list[tuple[str, str]] = []

    def answer(self) -> dict[str, Any]:
        """Return ``{path: {"before": commit or None, "after": commit or None}}`` of those that are to move."""
        moved = {
            self._shown(move.top, move.path): {
                "before": self._head(os.path.join(move.top, move.path)) or None,
                "after": move.commit,
            }
            for move in self._moves
        }
        gone = {
            self._shown(top, path): {"before": self._head(os.path.join(top, path)) or None, "after": None}
            for top, path in self._gone
        }
        return {**moved, **gone}

    def inspect(self, superproject: Parent, branch: str) -> None:
        """
        Look at the submodules, and fetch the commits that they lack. Moves nothing.

        ``branch``
            What the superproject's commit is called in messages.

        :raises Refused: one of them cannot be brought along, or holds work that is nowhere else.
        """
        self._branch = branch
        self._inspect(superproject)

    def _inspect(self, parent: Parent) -> None:
        links = work.links(parent.git, parent.after)
        earlier = work.links(parent.git, parent.before) if parent.before not in ("", parent.after) else {}
        for path in earlier.keys() - links.keys():
            if self._present(parent.top, path):
                self._refuse_to_lose(os.path.join(parent.top, path))
                self._gone.append((parent.top, path))
        known = _described(parent.git, parent.after) if links else {}
        for path, commit in sorted(links.items()):
            about = known.get(path, {})
            name = about.get("name", "")
            if name and _left_out(parent.git, name, about):
                continue
            url = parent.git.config(f"submodule.{name}.url") or _resolved(about.get("url", ""), parent.url)
            if not url or ".." in name.split("/") or os.path.isabs(name):
                raise Refused(
                    f"{self._branch} has a submodule {self._shown(parent.top, path)} without a name and an address in "
                    ".gitmodules: add it there, or remove it with git rm --cached"
                )
            self._look(parent, path, commit, os.path.join(parent.modules, name), url, earlier.get(path, commit))

    def _look(self, parent: Parent, path: str, commit: str, folder: str, url: str, recorded: str) -> None:
        place = os.path.join(parent.top, path)
        shown = self._shown(parent.top, path)
        head = ""
        if self._present(parent.top, path):
            git = Git(place, self._functions)
            folder = git.run("rev-parse", "--absolute-git-dir")
            head = self._head(place)
            work.refuse_in_progress(place, folder)
            if head:
                work.refuse_changes(git, f"the submodule {place}")
        elif os.path.isdir(place) and (names := sorted(os.listdir(place))):
            raise Refused(
                f"files that are not in git stand in {place}, where {self._branch} has a submodule "
                f"({some_of(names)}): move them out of the way"
            )
        store = self._fetch(shown, commit, folder, url)
        if head != commit:
            if head:
                if head != recorded:
                    self._refuse_own_commits(git, place, path, parent)
                work.refuse_collisions(git, f"the submodule {place}", head, commit, self._branch)
            self._moves.append(_Move(parent.top, path, commit))
        remote = _remote(store)
        self._inspect(
            Parent(store, place, os.path.join(folder, "modules"), store.config(f"remote.{remote}.url"), head, commit)
        )

    def _fetch(self, shown: str, commit: str, folder: str, url: str) -> Git:
        """Return the submodule's repository, in which ``commit`` is."""
        name = f"the remote of the submodule {shown} of {self._top}"
        if not os.path.isdir(folder):
            try:
                self._clone(name, folder, url)
            except OSError as error:
                raise Refused(f"{folder} cannot be written to: {error.strerror}") from None
        # core.worktree may name a folder that is not there (yet).
        store = Git(folder, self._functions, "--git-dir=.", "--work-tree=.")
        try:
            for wanted in ((), (commit,)):
                if _has(store, commit):
                    return store
                options = ("fetch", "--quiet", "--no-recurse-submodules", _remote(store), *wanted)
                self._ask(store, name, *options, **_FROM_COMMIT)
        except Refused as error:
            if "not our ref" not in str(error):
                sync = f"git -C {shlex.quote(self._top)} submodule sync --recursive"
                raise Refused(f"{error}. If its address has changed, run: {sync}") from None
        if not _has(store, commit):
            raise Refused(f"{name} has no commit {commit[:8]}, which {self._branch} needs: push it there")
        return store

    def _clone(self, name: str, folder: str, url: str) -> None:
        """Clone to where git submodule looks for it, in one step: a clone can be ended in the middle."""
        modules = os.path.dirname(folder)
        os.makedirs(modules, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=modules, prefix=".cloned-") as scratch:
            made = os.path.join(scratch, "git")
            options = ("--quiet", "--no-checkout", "--no-recurse-submodules", "--origin=origin")
            where = (f"--separate-git-dir={made}", "--", url, os.path.join(scratch, "tree"))
            self._ask(Git(self._top, self._functions), name, "clone", *options, *where, **_FROM_COMMIT)
            os.rename(made, folder)

    def _refuse_own_commits(self, git: Git, place: str, path: str, parent: Parent) -> None:
        own = int(git.run("rev-list", "--count", "HEAD", "--not", "--remotes", "--tags"))
        if own:
            raise Refused(
                f"{count(own, 'commit')} in the submodule {place} not pushed, nor in {self._branch}: push them and "
                f"commit the submodule, or take them back (git -C {shlex.quote(parent.top)} submodule update "
                f"{shlex.quote(path)})"
            )

    def _refuse_to_lose(self, place: str) -> None:
        """Refuse if the submodule, which the new commit no longer has, holds files that are nowhere else."""
        git = Git(place, self._functions)
        if os.path.isdir(os.path.join(place, ".git")):
            raise Refused(
                f"{self._branch} no longer has the submodule {place}, whose repository lies inside of it: move it out "
                "of the way"
            )
        work.refuse_changes(git, f"the submodule {place}")
        if found := work.untracked(git):
            raise Refused(
                f"files that are not in git stand in the submodule {place}, which {self._branch} no longer has "
                f"({some_of(found)}): move them out of the way"
            )
        for path in work.links(git, "HEAD"):
            if self._present(place, path):
                self._refuse_to_lose(os.path.join(place, path))

    # Moving

    def leave(self) -> None:
        """
        Take away the working trees of submodules that are gone: git leaves them, and they would go on being served.

        :raises Refused: one could not be removed.
        """
        for top, path in self._gone:
            place = os.path.join(top, path)
            try:
                shutil.rmtree(place)
                os.mkdir(place)  # as git expects it of a submodule that is not checked out
            except OSError as error:
                raise Refused(f"{place} cannot be removed: {error.strerror}") from None

    def come_back(self) -> None:
        """Put back, as far as that goes, what :meth:`leave` took away."""
        for top, path in self._gone:
            with contextlib.suppress(Refused):
                self._update(top, path)

    def move(self) -> None:
        """
        Check out the wanted commits. Nothing is fetched any more.

        :raises Refused: git failed, or somebody else is working in one of them.
        """
        for move in self._moves:
            self._update(move.top, move.path)
            if self._head(os.path.join(move.top, move.path)) != move.commit:
                raise Refused(f"somebody else is working in the submodule {self._shown(move.top, move.path)}")

    @property
    def pending(self) -> list[str]:
        """The submodules that are not where they are to be."""
        return [
            self._shown(move.top, move.path)
            for move in self._moves
            if self._head(os.path.join(move.top, move.path)) != move.commit
        ]

    def _update(self, top: str, path: str) -> None:
        git = Git(top, self._functions, "--literal-pathspecs")
        git.run("submodule", "--quiet", "update", "--init", "--no-fetch", "--checkout", "--", path)

    def _head(self, place: str) -> str:
        """Return the commit that is checked out in a submodule; an empty string if none is."""
        if os.path.lexists(os.path.join(place, ".git")):
            with contextlib.suppress(Refused):
                return Git(place, self._functions).run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        return ""

    def _present(self, top: str, path: str) -> bool:
        return os.path.lexists(os.path.join(top, path, ".git"))

    def _shown(self, top: str, path: str) -> str:
        return os.path.relpath(os.path.join(top, path), self._top)


def _described(git: Git, commit: str) -> dict[str, dict[str, str]]:
    """Return what ``.gitmodules`` of a commit says: ``{path: {"name", "url", "update"}}``."""
    found: dict[str, dict[str, str]] = {}
    try:
        items = git.names("config", "--blob", f"{commit}:.gitmodules", "--list", "-z")
    except Refused:
        return {}
    for item in items:
        key, _, value = item.partition("\n")
        if match := re.fullmatch(r"submodule\.(.+)\.(path|url|update)", key, re.DOTALL):
            found.setdefault(match[1], {"name": match[1]})[match[2]] = value
    return {about["path"]: about for about in found.values() if "path" in about}


def _left_out(git: Git, name: str, about: dict[str, str]) -> bool:
    update = git.config(f"submodule.{name}.update") or about.get("update", "")
    return update == "none" or git.config(f"submodule.{name}.active") in ("false", "no", "off", "0")


def _resolved(url: str, base: str) -> str:
    """Return an address of ``.gitmodules``. One that begins with ``./`` or ``../`` goes on from the superproject's."""
    base, separator, relative = base.rstrip("/"), "/", False
    while step := re.match(r"\.\.?/", url):
        url, relative = url[step.end() :], True
        if step[0] == "../":
            # Of git@host:states.git, all there is to leave is what stands behind the colon.
            separator = "/" if "/" in base else ":"
            base = base.rpartition(separator)[0]
    if not relative:
        return url
    return f"{base}{separator}{url}" if base else ""


def _remote(git: Git) -> str:
    remotes = git.run("remote").split()
    return "origin" if "origin" in remotes or not remotes else remotes[0]


def _has(git: Git, commit: str) -> bool:
    try:
        git.run("cat-file", "-e", f"{commit}^{{commit}}")
    except Refused:
        return False
    return True
