"""
The repositories that are deployed from: what state they are in, and how to bring them up to date.

.. versionadded:: 0.1.0

By hand, the procedure is "switch to the branch, pull, and check the output". Here nobody reads the output, so
everything that a person would stop at is a refusal instead, and a refused repository is left as it was: its working
tree, its index, its branches and the branch it is on. Only remote-tracking branches (``refs/remotes/...``) move.

The master serves these working trees as they are, to every minion and at any time. So all repositories are looked at,
and fetched, before the first one is touched; one that is refused keeps the others where they are, because new states
over an old pillar are worse than old states.

Git is run through Salt's own functions, which the caller hands over as a mapping: this module does not import Salt.
What Salt's ``git`` module has no function for (``log``, ``ls-remote --symref``), or cannot do safely, runs through its
``cmd.run_all``: ``git.fetch`` and ``git.merge`` take neither a time limit nor an environment, and
``cmd.run_all(timeout=...)`` ends git but not the ``ssh`` below it, which then keeps the pipe, and with it
``salt-run``, open. coreutils' ``timeout`` ends both.
"""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import time
from dataclasses import dataclass

from saltext.deploytoken import errors

TIMEOUT = 60
"""Seconds that all talk with one repository's remote may take together, unless configured."""

SUBJECTS = 100
"""How many subjects are listed: they go to the job cache, and a year of commits should not."""

FILES = 5
"""How many files a refusal names."""

KEYS = ("path", "branch", "remote", "timeout")

IN_PROGRESS = (
    ("rebase-merge", "a rebase", "git rebase --continue, or --abort"),
    ("rebase-apply", "a rebase or git am", "git rebase --continue, or --abort"),
    ("MERGE_HEAD", "a merge", "git commit, or git merge --abort"),
    ("CHERRY_PICK_HEAD", "a cherry-pick", "git cherry-pick --continue, or --abort"),
    ("REVERT_HEAD", "a revert", "git revert --continue, or --abort"),
    ("sequencer", "a cherry-pick or revert of several commits", "git cherry-pick --continue, or --abort"),
    ("BISECT_LOG", "a bisect", "git bisect reset"),
)
"""Files in the git directory that exist while something is half done, what that is, and the way out of it."""

ENVIRONMENT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")
"""Variables with which git would look at another repository than the one whose path it is given."""

NOBODY_TO_ASK = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS_REQUIRE": "never"}
"""The environment of a git that may talk to a remote: it opens the terminal by itself, whatever its input is."""


@dataclass(frozen=True)
class Repository:
    """
    One configured repository.

    name
        What it is called in answers: its key, or as much of the end of its path as tells it from the others.
    path
        The top folder of its working tree.
    branch
        The branch to deploy from; ``None`` for the one that the remote names as its default.
    remote
        The remote to bring it up to date with.
    timeout
        Seconds that the remote may take in all.
    """

    name: str
    path: str
    branch: str | None = None
    remote: str = "origin"
    timeout: float = TIMEOUT


class Refused(Exception):
    """This repository cannot be deployed from as it is; the text says why and what to do."""


def parse(value):
    """
    Check the configured repositories.

    value
        What stands under ``deploytoken: repositories:``: nothing, a list of paths or of mappings with ``path`` and,
        optionally, ``branch``, ``remote`` (default ``origin``) and ``timeout`` (seconds, default 60), or a mapping of
        names to such.

    Returns a list of :class:`Repository`, in the order of the configuration. Raises ``errors.Invalid``, which names
    the key.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        items = [(f"deploytoken.repositories.{name}", str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"deploytoken.repositories[{index}]", None, item) for index, item in enumerate(value)]
    else:
        raise errors.Invalid(
            f"deploytoken.repositories must be a list of repositories, each with a path, not {_kind(value)}"
        )
    fields = [_fields(key, item) for key, _, item in items]
    paths = [field["path"] for field in fields]
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise errors.Invalid(f"{items[index][0]}.path: {path} is configured twice")
    tails = _tails(paths)
    return [
        Repository(name=name or tail, **field) for (_, name, _), tail, field in zip(items, tails, fields, strict=True)
    ]


def _fields(key, item):
    if isinstance(item, str):
        item = {"path": item}
    if not isinstance(item, dict):
        raise errors.Invalid(f"{key} must be a path, or a mapping with a path, not {_kind(item)}")
    unknown = [str(name) for name in item if name not in KEYS]
    if unknown:
        raise errors.Invalid(f"{key}.{unknown[0]} is not known: the keys are {', '.join(KEYS)}")
    # A key without a value ("branch:") is the same as no key.
    item = {name: value for name, value in item.items() if value is not None}
    path = item.get("path")
    if not isinstance(path, str) or not path.strip():
        raise errors.Invalid(f"{key}.path is missing: the folder of the repository")
    if not os.path.isabs(path):
        raise errors.Invalid(f"{key}.path must be absolute, not {path}")
    item["path"] = os.path.normpath(path)
    for name in ("branch", "remote"):
        if name in item and not _is_ref(item[name]):
            raise errors.Invalid(f"{key}.{name} must be the name of a {name}, not {item[name]!r}")
    if "timeout" in item:
        timeout = item["timeout"]
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise errors.Invalid(f"{key}.timeout must be a number of seconds above 0, not {timeout!r}")
    return item


def _kind(value):
    return {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _is_ref(value):
    """Whether git would take this as a branch's name (the rules of ``git check-ref-format --branch``)."""
    return (
        isinstance(value, str)
        and bool(value)
        and not re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)", value)
        and not value.startswith(("-", "/", "."))
        and not value.endswith(("/", "."))
        and value not in ("@", "HEAD")
    )


def _tails(paths):
    """Name each path by its last part, or by as many as it takes: ``salt/private`` and ``pillar/private``."""
    tails = []
    for path in paths:
        parts = pathlib.PurePath(path).parts
        for length in range(1, len(parts) + 1):
            tail = parts[-length:]
            if sum(pathlib.PurePath(other).parts[-length:] == tail for other in paths) == 1:
                break
        tails.append(str(pathlib.PurePath(*tail)))
    return tails


def status(repositories, functions, failure):
    """
    Look at the repositories and at their remotes, and change nothing but the remote-tracking branches.

    repositories
        A list of :class:`Repository`.
    functions
        Salt's execution modules (``git.*`` and ``cmd.run_all``), as a mapping of names to functions.
    failure
        The exception, or tuple of them, that these functions raise when git fails.

    Returns a dictionary of names to ``path``, ``branch``, ``remote``, ``before`` and ``after`` (the commit that is
    checked out, twice), ``behind`` (how many commits an update would bring), ``subjects`` (theirs, newest first, at
    most 100) and, when another branch is checked out, ``on_branch``. Raises ``errors.Repositories`` if any repository
    is refused, with all of them in its details: a refused one has a ``problem``.
    """
    return {"repositories": _report(_inspect_all(repositories, functions, failure))}


def update(repositories, functions, failure):
    """
    Fetch, be on the branch, fast-forward: all of the repositories, or none.

    The arguments are those of :func:`status`, and so is what is returned, with ``after`` as the commit that is checked
    out now, ``behind`` 0 and, where another branch had been checked out, ``was_on_branch``. Raises
    ``errors.Repositories`` if any repository is refused.
    """
    states = _inspect_all(repositories, functions, failure)
    _report(states)
    for state in states:
        try:
            state.move()
        except Refused as error:
            # Only what could not be seen beforehand gets here: a full disk, a hook that fails, somebody else's git.
            state.problem = str(error)
            break
    return {"repositories": _report(states)}


def _inspect_all(repositories, functions, failure):
    states = [State(repository, functions, failure) for repository in repositories]
    for state in states:
        try:
            state.inspect()
        except Refused as error:
            state.problem = str(error)
    return states


def _report(states):
    answer = {state.repository.name: state.answer() for state in states}
    problems = [f"{state.repository.name}: {state.problem}" for state in states if state.problem]
    if not problems:
        return answer
    count = f"{len(problems)} of {len(states)} repositories" if len(states) > 1 else "The repository"
    moved = [state.repository.name for state in states if state.moved]
    rest = f"updated before that: {', '.join(moved)}" if moved else "nothing was updated"
    raise errors.Repositories(f"{count} cannot be deployed from ({rest}): {' | '.join(problems)}", repositories=answer)


class State:
    """
    One repository on its way: first looked at, then moved.

    Everything that can be known without moving is looked at by :meth:`inspect`, in the order in which a person would
    want to hear of it; :meth:`move` then has nothing left to refuse but what changed since.
    """

    def __init__(self, repository, functions, failure):
        self.repository = repository
        self.path = repository.path
        self.functions = functions
        self.failure = failure
        self.branch = repository.branch
        self.on_branch = None
        self.was_on_branch = None
        self.before = None
        self.after = None
        self.target = None
        self.behind = None
        self.subjects = []
        self.problem = None
        self.moved = False

    @property
    def tracking(self):
        """The full name of the remote-tracking branch: a tag or a file of the same name cannot be meant."""
        return f"refs/remotes/{self.repository.remote}/{self.branch}"

    def answer(self):
        """What is returned about this repository."""
        answer = {
            "path": self.path,
            "branch": self.branch,
            "remote": self.repository.remote,
            "before": self.before,
            "after": self.after,
            "behind": self.behind,
            "subjects": self.subjects,
        }
        if self.on_branch and self.on_branch != self.branch:
            answer["on_branch"] = self.on_branch
        if self.was_on_branch:
            answer["was_on_branch"] = self.was_on_branch
        if self.problem:
            answer["problem"] = self.problem
        return answer

    def inspect(self):
        """Look at the working tree, then at the remote, then at how the two compare. Raises :class:`Refused`."""
        self._look_at_tree()
        self._look_at_remote()
        self._compare()

    def move(self):
        """
        Be on the branch, at the remote's commit. Raises :class:`Refused`, with the repository as it was.

        On another branch, the branch is moved first, where it stands (``git fetch .`` refuses anything but a
        fast-forward, and a branch that another working tree has checked out), and then checked out once: so there is
        no moment at which an older version of the branch is being served.

        ``--no-overwrite-ignore``, because git takes ignored files to be worthless and overwrites them without a word
        if a commit adds a file at their place (measured on git 2.39.5). On a master those can be keys.
        """
        if self.on_branch == self.branch and not self.behind:
            return
        try:
            if self.on_branch == self.branch:
                self._write_files("merge", "--ff-only", "--no-overwrite-ignore", self.tracking)
            else:
                self._switch()
        except Refused as error:
            raise Refused(f"{error}. It was left {self._where()}") from None
        started_on = self.on_branch
        self.after = self._git("git.revision")
        self.on_branch = self._head()
        self.was_on_branch = started_on if started_on != self.on_branch else None
        self.moved = True
        if (self.after, self.on_branch) != (self.target, self.branch):
            raise Refused(
                f"it was updated, and is now at {self.after[:8]} on {self.on_branch} instead of {self.target[:8]} on "
                f"{self.branch}: somebody else is working in {self.path}"
            )
        self.behind = 0

    def _switch(self):
        local, name = self._local(), f"refs/heads/{self.branch}"
        if local is None:
            self._run("update-ref", name, self.target, "")
        elif local != self.target:
            self._git("git.fetch", remote=".", refspecs=[f"{self.tracking}:{name}"])
        try:
            self._checkout(self.branch)
        except Refused:
            # A hook that fails makes git fail after it has switched.
            if self._head() == self.branch:
                with contextlib.suppress(Refused):
                    self._checkout(self.on_branch)
            if self._head() != self.branch:
                back = [name, local] if local else ["-d", name]
                self._run("update-ref", *back, self.target)
            raise
        if local is None:
            # Not checkout --track: where the remote's refspec does not cover the branch (a clone with
            # --single-branch), it fails.
            for key, value in (("remote", self.repository.remote), ("merge", name)):
                self._git("git.config_set", f"branch.{self.branch}.{key}", value=value)

    def _checkout(self, branch):
        # "--", so that a file of that name is not taken for it.
        self._write_files("checkout", "--no-overwrite-ignore", branch, "--")

    def _write_files(self, *arguments):
        """
        Run git where it writes files.

        Not by Salt's functions, which take no environment: a filter (such as LFS's), a hook, or the rest of a partial
        clone may be got from a remote now, and would ask for a password on the terminal.
        """
        self._finish(
            self.functions["cmd.run_all"](["git", *arguments], **self._options(env={**NOBODY_TO_ASK, **self._ssh()}))
        )

    def _head(self):
        """The branch that is checked out, if any. (``git.current_branch`` says ``heads/main`` beside a tag main.)"""
        name = self._git("git.rev_parse", "HEAD", opts=["--symbolic-full-name"])
        return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None

    def _where(self):
        """Say where the repository really is after a failure, rather than where it should be."""
        try:
            commit, branch = self._git("git.revision"), self._head()
        except Refused as error:
            return f"in a state that cannot be read ({error})"
        if commit == self.before and branch == self.on_branch:
            return f"as it was, at {commit[:8]} on {branch}"
        return f"at {commit[:8]} on {branch}; it was at {self.before[:8]} on {self.on_branch}"

    def _look_at_tree(self):
        if not os.path.isdir(self.path):
            raise Refused(f"there is no folder {self.path}: clone the repository there, or correct its path")
        top, folder = self._top()
        # A missing clone inside of another repository would otherwise be taken for that other one.
        if os.path.realpath(top) != os.path.realpath(self.path):
            raise Refused(
                f"{self.path} is not a repository, but a folder inside of {top}: clone it, or correct its path"
            )
        for name, what, way in IN_PROGRESS:
            if os.path.lexists(os.path.join(folder, name)):
                raise Refused(f"{what} is in progress in {self.path}: finish it ({way})")
        lock = os.path.join(folder, "index.lock")
        if os.path.lexists(lock):
            raise Refused(f"git is at work in {self.path}, or was ended in the middle: wait, or remove {lock}")
        try:
            self.before = self.after = self._git("git.rev_parse", "HEAD^{commit}", opts=["--verify", "--quiet"])
        except Refused:
            raise Refused(f"{self.path} has no commits yet: clone it again") from None
        self.on_branch = self._head()
        if self.on_branch is None:
            raise Refused(
                f"no branch is checked out in {self.path} (detached head at {self.before[:8]}): keep what is needed "
                f"from there, and switch to {self.branch or 'the branch'}"
            )
        changed = sorted(
            name for kind, names in self._git("git.status").items() if kind != "untracked" for name in names
        )
        if changed:
            raise Refused(f"uncommitted changes in {self.path} ({_some(changed)}): commit, stash or discard them")

    def _top(self):
        try:
            if self._git("git.rev_parse", opts=["--is-bare-repository"]) == "true":
                raise Refused(f"{self.path} is a bare repository, without files to deploy: clone it")
            lines = self._git("git.rev_parse", opts=["--show-toplevel", "--absolute-git-dir"]).splitlines()
        except Refused as error:
            if "dubious ownership" in str(error):
                raise Refused(
                    f"{self.path} belongs to another user, and git does not trust it: run this as its owner, or run "
                    f"git config --global --add safe.directory {shlex.quote(self.path)}"
                ) from None
            if "not a git repository" in str(error):
                raise Refused(f"{self.path} is not a repository: clone it, or correct its path") from None
            raise
        if len(lines) != 2:
            raise Refused(f"{self.path} is not the top of a repository's files: correct its path")
        return lines

    def _look_at_remote(self):
        remote = self.repository.remote
        remotes = self._git("git.remotes")
        if remote not in remotes:
            known = f"it has {', '.join(sorted(remotes))}" if remotes else "it has none"
            raise Refused(f"{self.path} has no remote {remote} ({known}): add it, or correct the configured remote")
        ends = time.monotonic() + self.repository.timeout
        if self.branch is None:
            # Asked, because refs/remotes/origin/HEAD is a note from the day of the clone: it misses a renamed branch.
            answer = self._ask(ends, "ls-remote", "--symref", remote, "HEAD")
            match = re.search(r"^ref: refs/heads/(\S+)\tHEAD$", answer, re.MULTILINE)
            if not match:
                raise Refused(f"the remote {remote} of {self.path} names no default branch: configure its branch")
            self.branch = match[1]
        # Named in full on both sides: a clone's own refspec need not cover the branch, nor put it in this place.
        self._ask(ends, "fetch", remote, f"+refs/heads/{self.branch}:{self.tracking}")
        self.target = self._git("git.rev_parse", f"{self.tracking}^{{commit}}", opts=["--verify"])

    def _compare(self):
        local = self._local()
        if local is not None:
            ours, theirs = self._count(f"refs/heads/{self.branch}...{self.tracking}")
            upstream = f"{self.repository.remote}/{self.branch}"
            if ours and theirs:
                raise Refused(
                    f"{self.branch} and {upstream} have diverged in {self.path} ({_commits(ours)} here, "
                    f"{_commits(theirs)} there): rebase or merge, and push"
                )
            if ours:
                raise Refused(
                    f"{_commits(ours)} on {self.branch} in {self.path} not pushed to {upstream}: push, or take back"
                )
        self.behind = self._count(f"HEAD...{self.tracking}")[1]
        if self.behind:
            lines = self._log("--format=%s", f"--max-count={SUBJECTS}", f"HEAD..{self.tracking}").splitlines()
            # A commit's subject is somebody else's text, and goes to a terminal.
            self.subjects = [re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line) for line in lines]
        self._look_for_collisions()

    def _look_for_collisions(self):
        """
        Refuse if a file that is not in git stands where the target has one.

        Git itself refuses that for untracked files, when it gets there; looked for beforehand, it keeps all
        repositories where they are. For ignored files, git has to be told to (see :meth:`move`).
        """
        if self.target == self.before:
            return
        names = self._run("diff", "--name-only", "--diff-filter=A", "--no-renames", "-z", "HEAD", self.target)
        added = set(filter(None, names.split("\0")))
        # Without --exclude-standard, what is ignored is listed as well. A repository inside of this one ends with "/".
        others = {name.rstrip("/") for name in self._run("ls-files", "--others", "-z").split("\0") if name}
        above_added = {parent for name in added for parent in _parents(name)}
        found = [
            name for name in others if name in added or name in above_added or not added.isdisjoint(_parents(name))
        ]
        if found:
            raise Refused(
                f"files that are not in git stand in {self.path} where {self.branch} has some "
                f"({_some(sorted(found))}): move them out of the way"
            )

    def _local(self):
        """The commit of the local branch; ``None`` if there is none."""
        name = f"refs/heads/{self.branch}"
        for line in self._run("for-each-ref", "--format=%(refname) %(objectname)", name).splitlines():
            found, _, commit = line.partition(" ")
            if found == name:  # for-each-ref lists what is below that name, too
                return commit
        return None

    def _count(self, revisions):
        ours, theirs = self._run("rev-list", "--left-right", "--count", revisions).split()
        return int(ours), int(theirs)

    def _log(self, *arguments):
        # The user's log.showSignature would add lines.
        return self._run("log", "--no-show-signature", "--no-color", *arguments, "--")

    def _git(self, function, *args, **kwargs):
        """Run a function of Salt's git module here; its failure is a refusal with git's own words."""
        if function not in self.functions:
            raise Refused("git is not installed on this machine: install it")
        # git.config_set takes the place as a keyword, as the only one.
        if function == "git.config_set":
            kwargs["cwd"] = self.path
        else:
            args = (self.path, *args)
        try:
            return self.functions[function](*args, ignore_retcode=True, **kwargs)
        except self.failure as error:
            raise Refused(_reason(str(error).partition(" failed: ")[2] or str(error))) from None

    def _run(self, *arguments):
        """Run git here for what Salt's git module has no function for."""
        return self._finish(self.functions["cmd.run_all"](["git", *arguments], **self._options()))

    def _ask(self, ends, *arguments):
        """Run git against the remote, without a person to ask, and not beyond ``ends``."""
        left = max(ends - time.monotonic(), 0.1)
        command = ["git", *arguments]
        if shutil.which("timeout"):
            # In a process group of its own: git's children (ssh, git-remote-https) end with it.
            command = ["timeout", "--kill-after=5", f"{left:.1f}", *command]
        options = self._options(
            timeout=left + 10,
            env={**NOBODY_TO_ASK, **self._ssh()},
        )
        try:
            result = self.functions["cmd.run_all"](command, **options)
        except self.failure as error:
            raise Refused(_reason(str(error))) from None
        name = f"the remote {self.repository.remote} of {self.path}"
        if result["retcode"] in (124, 137) or time.monotonic() > ends:
            raise Refused(f"{name} did not answer within {self.repository.timeout:g} s: is it reachable from here?")
        try:
            return self._finish(result)
        except Refused as error:
            if "find remote ref" in str(error):
                raise Refused(
                    f"{name} has no branch {self.branch}: push it, or correct the configured branch"
                ) from None
            raise Refused(f"{name} cannot be read: {error}") from None

    def _ssh(self):
        """Have ssh fail where it would ask for a password or about a host's key; keep the key that is configured."""
        command = os.environ.get("GIT_SSH_COMMAND")
        if not command:
            if os.environ.get("GIT_SSH"):
                return {}
            # Not git.config_get, which reads the repository's own configuration only. Nothing there: code 1, no
            # output.
            result = self.functions["cmd.run_all"](["git", "config", "--get", "core.sshCommand"], **self._options())
            command = result["stdout"].strip() or "ssh"
        try:
            program = os.path.basename(shlex.split(command)[0])
        except (ValueError, IndexError):
            return {}
        return {"GIT_SSH_COMMAND": f"{command} -o BatchMode=yes"} if program == "ssh" else {}

    def _options(self, **more):
        return {"cwd": self.path, "python_shell": False, "ignore_retcode": True, **more}

    @staticmethod
    def _finish(result):
        if result["retcode"] != 0:
            raise Refused(_reason(result["stderr"] or result["stdout"] or f"git ended with code {result['retcode']}"))
        return result["stdout"]


def _parents(name):
    """The folders that a file is in, within the repository."""
    return [str(parent) for parent in pathlib.PurePosixPath(name).parents][:-1]


def _commits(number):
    return f"{number} commit" if number == 1 else f"{number} commits"


def _some(names):
    more = len(names) - FILES
    return ", ".join(names[:FILES]) + (f" and {more} more" if more > 0 else "")


def _reason(text):
    """
    Reduce what git says to one line, without passwords.

    The first line that is no warning says what happened; below it stand the names of files, indented, and advice.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    said = (
        [line for line in lines if not re.match(r"(?i)warning:|hint:|\*\* |From |Switched to |Your branch is ", line)]
        or lines
        or ["git failed"]
    )
    line = re.sub(r"^(fatal|error|remote): (ERROR: )?", "", said[0].strip())
    files = [name.strip() for name in said[1:] if name.startswith("\t")]
    if files:
        line = f"{line.rstrip(':')} ({_some(files)})"
    line = re.sub(r"://[^/@\s]+@", "://***@", line)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line).rstrip(".")
