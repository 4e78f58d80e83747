"""
One working tree: look at it, compare it with its remote, move it.

By hand, the procedure is "switch to the branch, pull, and check the output". Here nobody reads the output. So
everything that would stop a person is a refusal, and a refused repository stays as it was: its working tree, its
index, its branches and the branch that is checked out. Only remote-tracking branches (``refs/remotes/...``) move.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltext.deploytoken import files
from saltext.deploytoken.repositories import work
from saltext.deploytoken.repositories.git import Functions, Git, Refused, some_of
from saltext.deploytoken.repositories.settings import Repository
from saltext.deploytoken.repositories.submodules import Parent, Submodules
from saltext.deploytoken.text import count, printable

#: How many subjects are listed. They go to the job cache, where a year of commits would be too much.
SUBJECTS = 100


@dataclass(frozen=True)
class Position:
    """What is checked out: a commit, and the branch, if any. Both are empty as long as nobody has looked."""

    commit: str = ""
    branch: str = ""

    def __str__(self) -> str:
        return f"{self.commit[:8]} on {self.branch or 'no branch'}"


class Locks(contextlib.ExitStack):
    """The repositories that one run works on, until its end: no other run does so meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: set[str] = set()

    def take(self, path: str, folder: str, patience: float) -> None:
        """
        Wait for the repository with git's ``folder``, whose working tree is ``path``, and keep it.

        Git has a lock for each of its files, and fails at once if another git has it ("cannot lock ref", 2.39.5).

        :raises Refused: another run still works on it after ``patience`` seconds, or the folder cannot be written to.
        """
        folder = os.path.realpath(folder)
        if folder in self._taken:  # several working trees can belong to one repository
            return
        try:
            self.enter_context(files.locked(Path(folder, "deploytoken-update"), patience))
        except TimeoutError:
            raise Refused(
                f"another update of {path} is under way, and was waited for during {patience:g} s: wait until it has "
                "ended, and run this again"
            ) from None
        except OSError as error:
            raise Refused(f"{folder} cannot be written to: {error.strerror}") from None
        self._taken.add(folder)


class WorkingTree:
    """
    The working tree of one repository: :meth:`inspect` looks, then :meth:`move` moves it.

    Everything that can be known without moving is found by :meth:`inspect`, in the order in which a person would want
    to hear of it. So :meth:`move` has nothing left to refuse but what changed in between.

    ``repository``
        One that is configured.
    ``functions``
        Salt's execution functions by name: ``git.*`` and ``cmd.run_all``.
    """

    def __init__(self, repository: Repository, functions: Functions) -> None:
        self.repository = repository
        self.path = repository.path
        #: Empty until the remote has named its default branch.
        self.branch = repository.branch or ""
        self.start = Position()
        self.now = Position()
        #: The commit to move to.
        self.target = ""
        self.behind: int | None = None
        self.subjects: list[str] = []
        self.problem = ""
        self.moved = False
        #: Whether a move failed in the middle, and some of it stayed.
        self.partly = False
        self.submodules: dict[str, Any] = {}
        self._git = Git(repository.path, functions)
        #: Git's folder of this working tree, and the one of the repository, which can have several.
        self._folder = self._common = ""
        self._deadline = 0.0
        self._tracked_before = ""
        self._submodules = Submodules(repository.path, functions, self._ask)

    def answer(self) -> dict[str, Any]:
        """Return what callers get about this repository."""
        answer: dict[str, Any] = {
            "path": self.path,
            "branch": self.branch or None,
            "remote": self.repository.remote,
            "before": self.start.commit or None,
            "after": self.now.commit or None,
            "target": self.target or None,
            "behind": self.behind,
            "subjects": self.subjects,
        }
        if self.now.branch not in ("", self.branch):
            answer["on_branch"] = self.now.branch
        if self.start.branch != self.now.branch:
            answer["was_on_branch"] = self.start.branch
        if self.submodules:
            answer["submodules"] = self.submodules
        if self.problem:
            answer["problem"] = self.problem
        return answer

    def inspect(self, locks: Locks) -> None:
        """
        Look at the working tree, at the remote, and at how the two compare. Fetch, and change nothing else.

        ``locks``
            Keeps other runs out of the repository for as long as it lasts.

        :raises Refused: the repository cannot be deployed from.
        """
        self._inspect_folder()
        locks.take(self.path, self._common, self.repository.timeout)
        work.refuse_in_progress(self.path, self._folder)
        self._inspect_position()
        work.refuse_changes(self._git, self.path)
        self._find_branch()
        work.refuse_locks(self.path, *(f"{os.path.join(self._common, ref)}.lock" for ref in self._refs))
        self._fetch()
        self._refuse_own_commits()
        self._read_news()
        if self.target != self.start.commit:
            work.refuse_collisions(self._git, self.path, "HEAD", self.target, self.branch)
        self._inspect_submodules()

    def move(self) -> None:
        """
        Have the branch checked out, at the remote's commit.

        On another branch, the branch moves first, where it stands, and is then checked out once. So no older version
        of the branch is served at any moment. ``git fetch .`` moves it: that refuses all but a fast-forward, and a
        branch that is checked out in another working tree.

        :raises Refused: git failed, or somebody else is working here; the text says what is served now.
        """
        if self.start.branch == self.branch and not self.behind and not self.submodules:
            return
        try:
            self._submodules.leave()
            if self.start.branch != self.branch:
                self._switch()
            elif self.behind:
                # --no-overwrite-ignore: git takes ignored files to be worthless, and overwrites them without a word if
                # a commit adds a file in their place (measured on git 2.39.5). On a master they can be keys.
                self._git.run("merge", "--ff-only", "--no-overwrite-ignore", self._tracking)
        except Refused as error:
            self._submodules.come_back()
            raise Refused(f"{error}. {self._take_files_back()}") from None
        self.now = self._position()
        self.moved = True
        wanted = Position(self.target, self.branch)
        if self.now != wanted:
            raise Refused(
                f"it was updated, and is now at {self.now} instead of {wanted}: "
                f"somebody else is working in {self.path}"
            )
        try:
            self._submodules.move()
        except Refused as error:
            self.moved, self.partly = False, True
            raise Refused(
                f"{error}. {self.path} is served half updated: it is at {self.now}, and of its submodules these are "
                f"not: {some_of(self._submodules.pending)}. Remove the cause, and go on with: "
                f"git -C {shlex.quote(self.path)} submodule update --init --recursive"
            ) from None
        self.behind = 0

    @property
    def _tracking(self) -> str:
        """The remote-tracking branch by its full name, which no tag or file can have."""
        return f"refs/remotes/{self.repository.remote}/{self.branch}"

    @property
    def _local(self) -> str:
        """The local branch by its full name."""
        return f"refs/heads/{self.branch}"

    @property
    def _refs(self) -> tuple[str, str]:
        """The refs that a fetch and a move change."""
        return self._tracking, self._local

    # Looking

    def _inspect_folder(self) -> None:
        if not os.path.isdir(self.path):
            raise Refused(f"there is no folder {self.path}: clone the repository there, or correct its path")
        top, self._folder, self._common = self._find_folders()
        # A missing clone inside another repository would otherwise be taken for that other one.
        if os.path.realpath(top) != os.path.realpath(self.path):
            raise Refused(f"{self.path} is not a repository, but a folder inside {top}: clone it, or correct its path")

    def _find_folders(self) -> tuple[str, str, str]:
        """Return the top folder of the working tree, git's folder for it, and the one of the repository."""
        try:
            if self._git.salt("rev_parse", opts=["--is-bare-repository"]) == "true":
                raise Refused(f"{self.path} is a bare repository, without files to deploy: clone it")
            found = self._git.salt("rev_parse", opts=["--show-toplevel", "--absolute-git-dir", "--git-common-dir"])
        except Refused as error:
            if "dubious ownership" in str(error):
                raise Refused(
                    f"{self.path} belongs to another user, and git does not trust it: run this as its owner, or run "
                    f"git config --global --add safe.directory {shlex.quote(self.path)}"
                ) from None
            if "not a git repository" in str(error):
                raise Refused(f"{self.path} is not a repository: clone it, or correct its path") from None
            raise
        lines = found.splitlines()
        if len(lines) != 3:
            raise Refused(f"{self.path} is not the top of a repository's files: correct its path")
        return lines[0], lines[1], os.path.join(self.path, lines[2])

    def _inspect_position(self) -> None:
        try:
            self.start = self.now = self._position()
        except Refused:
            raise Refused(f"{self.path} has no commits yet: clone it again") from None
        if not self.start.branch:
            raise Refused(
                f"no branch is checked out in {self.path} (detached head at {self.start.commit[:8]}): keep what is "
                f"needed from there, and switch to {self.branch or 'the branch'}"
            )

    def _position(self) -> Position:
        # git.current_branch says "heads/main" where a tag has the same name.
        commit, _, name = self._git.run("rev-parse", "HEAD^{commit}", "--symbolic-full-name", "HEAD").partition("\n")
        return Position(commit, name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else "")

    def _find_branch(self) -> None:
        remote, remotes = self.repository.remote, self._git.salt("remotes")
        if remote not in remotes:
            known = f"it has {', '.join(sorted(remotes))}" if remotes else "it has none"
            raise Refused(f"{self.path} has no remote {remote} ({known}): add it, or correct the configured remote")
        self._deadline = time.monotonic() + self.repository.timeout
        if not self.branch:
            # refs/remotes/origin/HEAD is a note from the day of the clone. Only the remote knows of a renamed branch.
            answer = self._ask_remote("ls-remote", "--symref", remote, "HEAD")
            match = re.search(r"^ref: refs/heads/(\S+)\tHEAD$", answer, re.MULTILINE)
            if not match:
                raise Refused(f"the remote {remote} of {self.path} names no default branch: configure its branch")
            self.branch = match[1]

    def _fetch(self) -> None:
        # Both sides by their full names: a clone's own refspec need not cover the branch, nor put it in this place.
        remote, refspec = self.repository.remote, f"+{self._local}:{self._tracking}"
        self._tracked_before = self._commit_of(self._tracking)
        self._ask_remote("fetch", "--no-recurse-submodules", remote, refspec)
        self.target = self._git.salt("rev_parse", f"{self._tracking}^{{commit}}", opts=["--verify"])

    def _ask_remote(self, *arguments: str) -> str:
        name = f"the remote {self.repository.remote} of {self.path}"
        try:
            return self._ask(self._git, name, *arguments)
        except Refused as error:
            if "find remote ref" in str(error):
                raise Refused(
                    f"{name} has no branch {self.branch}: push it, or correct the configured branch"
                ) from None
            raise

    def _ask(self, git: Git, name: str, *arguments: str, **environment: str) -> str:
        """Return what ``git`` says after asking the remote ``name``. All such questions have one time limit."""
        try:
            return git.ask(*arguments, deadline=self._deadline, **environment)
        except TimeoutError:
            limit = f"{self.repository.timeout:g} s"
            raise Refused(f"{name} did not answer within {limit}: is it reachable from here?") from None
        except Refused as error:
            raise Refused(f"{name} cannot be read: {error}") from None

    def _refuse_own_commits(self) -> None:
        if not self._commit_of(self._local):
            return
        ours, theirs = self._count_commits(f"{self._local}...{self._tracking}")
        if not ours:
            return
        upstream = f"{self.repository.remote}/{self.branch}"
        once = self._once_upstream()
        own = int(self._git.run("rev-list", "--count", self._local, "--not", self._tracking, *once))
        git = f"git -C {shlex.quote(self.path)}"
        if own < ours:
            # Neither merge nor rebase without --onto: that would bring back what was removed on purpose.
            rewritten = (
                f"{upstream} was rewritten, and no longer has {count(ours - own, 'commit')} that {self.branch} in "
                f"{self.path} has"
            )
            if own:
                base = self._git.run("merge-base", self._local, *once)
                raise Refused(
                    f"{rewritten}; {count(own, 'commit')} there never pushed ({self._named(self._local, *once)}): if "
                    f"that was on purpose, move only these with {git} rebase --onto {self._tracking} {base} "
                    f"{self.branch}, and push"
                )
            raise Refused(f"{rewritten} ({self._named(self._local)}): if that was on purpose, {self._follow()}")
        if theirs:
            raise Refused(
                f"{self.branch} and {upstream} have diverged in {self.path} ({count(ours, 'commit')} here, "
                f"{self._named(self._local)}; {count(theirs, 'commit')} there): if these were made here, put them on "
                f"top with {git} rebase {self._tracking} {self.branch}, and push; if {upstream} removed them, "
                f"{self._follow()}"
            )
        raise Refused(
            f"{count(ours, 'commit')} on {self.branch} in {self.path} not pushed to {upstream} "
            f"({self._named(self._local)}): push them, or take them back"
        )

    def _once_upstream(self) -> list[str]:
        """Return the commits at which the remote's branch once was, as far as this clone has seen and remembers."""
        seen = [self._tracked_before]
        with contextlib.suppress(Refused):  # such as where no reflog is kept
            seen += self._git.run(
                "log", "--walk-reflogs", "--no-show-signature", "--format=%H", self._tracking, "--"
            ).split()
        present = self._git.run("cat-file", "--batch-check", stdin="\n".join(filter(None, seen)))
        return [line.split()[0] for line in present.splitlines() if not line.endswith("missing")]

    def _named(self, commit: str, *without: str) -> str:
        """Return the short ids and subjects of the commits that the remote does not have, newest first."""
        options = ("--no-show-signature", "--no-color", "--format=%h %s")
        return some_of(self._git.run("log", *options, commit, "--not", self._tracking, *without, "--").splitlines())

    def _follow(self) -> str:
        """Return the words for having the local branch where the remote's is."""
        git = f"git -C {shlex.quote(self.path)}"
        if self.start.branch == self.branch:
            return f"follow it with {git} reset --keep {self._tracking}"
        return f"follow it with {git} branch --force {self.branch} {self._tracking}"

    def _commit_of(self, ref: str) -> str:
        """Return the commit of a branch by its full name; an empty string if there is no such branch."""
        found = self._git.run("for-each-ref", "--format=%(refname) %(objectname)", ref)
        # for-each-ref also lists what is below that name.
        return dict(line.split() for line in found.splitlines()).get(ref, "")

    def _count_commits(self, revisions: str) -> tuple[int, int]:
        """Return how many commits only the left side of ``a...b`` has, and how many only the right side has."""
        left, right = self._git.run("rev-list", "--left-right", "--count", revisions).split()
        return int(left), int(right)

    def _read_news(self) -> None:
        _, self.behind = self._count_commits(f"HEAD...{self._tracking}")
        if self.behind:
            # --no-show-signature: the user's log.showSignature would add lines.
            options = ("--no-show-signature", "--no-color", "--format=%s", f"--max-count={SUBJECTS}")
            lines = self._git.run("log", *options, f"HEAD..{self._tracking}", "--").split("\n")
            # Anybody may have written a subject, and it goes to a terminal.
            self.subjects = [printable(line) for line in lines]

    def _inspect_submodules(self) -> None:
        if not any(work.links(self._git, commit) for commit in {self.start.commit, self.target}):
            return
        modules = os.path.join(self.path, self._git.run("rev-parse", "--git-path", "modules"))
        url = self._git.config(f"remote.{self.repository.remote}.url")
        parent = Parent(self._git, self.path, modules, url, self.start.commit, self.target)
        self._submodules.inspect(parent, self.branch)
        self.submodules = self._submodules.answer()

    # Moving

    def _switch(self) -> None:
        local = self._commit_of(self._local)
        if not local:
            self._git.run("update-ref", self._local, self.target, "")
        elif local != self.target:
            self._git.run("fetch", "--no-recurse-submodules", ".", f"{self._tracking}:{self._local}")
        try:
            self._check_out(self.branch)
        except Refused:
            self._take_back(local)
            raise
        if not local:
            # Not checkout --track: it fails if the remote's refspec does not cover the branch (a clone with
            # --single-branch).
            for key, value in (("remote", self.repository.remote), ("merge", self._local)):
                self._git.salt("config_set", f"branch.{self.branch}.{key}", value=value)

    def _take_back(self, local: str) -> None:
        """Have the earlier branch checked out again, and the local branch where it was (at ``local``, or absent)."""
        # If a hook fails, git fails after it has switched.
        if self._position().branch == self.branch:
            with contextlib.suppress(Refused):
                self._check_out(self.start.branch)
        if self._position().branch != self.branch:
            earlier = [self._local, local] if local else ["-d", self._local]
            self._git.run("update-ref", *earlier, self.target)

    def _check_out(self, branch: str) -> None:
        # "--": otherwise git could take the name for a file's.
        self._git.run("checkout", "--no-overwrite-ignore", branch, "--")

    def _take_files_back(self) -> str:
        """
        Have the files as they were, if a move failed after it had written them all, and say what is served now.

        Git writes the files first, and moves the branch last. If that last step fails, the way back is safe: git
        itself would refuse it for a file that somebody has changed since. If only some files were written, it is not.
        """
        before, after = self.start.commit, self.target
        try:
            self.now = self._position()
            if self.now.commit != before:
                self.partly = True
                return f"It was left at {self.now}; it was at {self.start}"
            with contextlib.suppress(Refused):
                self._git.run("read-tree", "-m", "-u", after, before)
            written, others = work.written(self._git, before, after)
        except Refused as error:
            self.partly = True
            return f"It was left in a state that cannot be read ({error})"
        if not written:
            return f"It was left as it was, at {self.now}"
        self.partly = True
        copy = f"Copy what is neither the old nor the new version ({some_of(others)})" if others else ""
        git = f"git -C {shlex.quote(self.path)} read-tree"
        return (
            f"{self.path} is served half updated: it is still at {self.now}, but these files are not: "
            f"{some_of(written)}. {copy or 'Remove the cause'}, and come back with: "
            f"{git} {after[:12]} && {git} --reset -u {before[:12]}"
        )
