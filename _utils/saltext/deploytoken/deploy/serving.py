"""
What Salt serves once the repositories have moved: the master's own files, and those of its git remotes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saltext.deploytoken import errors
from saltext.deploytoken.repositories.git import UNATTENDED, Functions, Git, Refused, explanation, without_password
from saltext.deploytoken.repositories.settings import Repository, distinct_ends
from saltext.deploytoken.text import count, last_line, printable

#: How long one remote may take, in seconds; Salt has no limit of its own (3008.3).
LIMIT = Repository.timeout

#: Seconds between two tries to get Salt's lock of a remote, which the master takes each minute.
_PAUSE = 0.2


def forget_file_lists(opts: Mapping[str, Any]) -> None:
    """
    Have the lists of served files made anew.

    An orchestration fills them as it begins, before the repositories move, and a list serves for 20 s (3008.3). A file
    that the update brought would be missing in a ``file.recurse``, an ``include`` with a glob, or a sync of modules,
    and nothing would fail.
    """
    import salt.fileserver  # late: every salt-run imports every runner

    salt.fileserver.Fileserver(dict(opts)).clear_file_list_cache(load={"saltenv": None, "fsbackend": None})


def has_remotes(opts: Mapping[str, Any]) -> bool:
    """Return whether this master serves from git remotes of its own (gitfs, git_pillar)."""
    return bool(_gitfs(opts) or _pillars(opts))


def renew(opts: Mapping[str, Any], functions: Functions, saltenv: str = "base") -> dict[str, str]:
    """
    Have Salt serve what the repositories and the master's own git remotes (gitfs, git_pillar) have now.

    The master fetches its remotes each minute, and a failure only stands in its log. Here they are fetched at once.
    The running master needs no word of it: its processes read the refs of the same clones at each file and each pillar
    (3006.29 and 3008.3). A master without such remotes has only its file lists made anew.

    ``opts``
        The master's options.
    ``functions``
        Salt's execution functions by name: ``cmd.run_all``.
    ``saltenv``
        The environment that is deployed.

    Returns ``{name: commit}``, with short ids, of what each remote serves in that environment. A name is the remote's
    own, or the end of its address.

    :raises errors.Repositories: a remote cannot be fetched; all of them are named.
    :raises errors.Invalid: a variable in the environment points git to another repository.
    """
    try:
        if not has_remotes(opts):
            return {}
        fetched = _fetch(opts, saltenv)
        if problems := [f"{remote} {remote.problem}" for remote in fetched if remote.problem]:
            raise errors.Repositories(
                f"{count(len(problems), 'git remote')} of the master cannot be served from: {' | '.join(problems)}"
            )
        return _commits(fetched, functions)
    finally:
        forget_file_lists(opts)


@dataclass
class _Remote:
    """
    One remote of the master.

    role
        ``gitfs`` or ``git_pillar``.
    id
        As it is configured; empty where the configuration as a whole failed.
    url, name
        Its address, and its own name, if any.
    folder, lock
        Salt's clone of it, and the file that exists while a process of Salt's fetches it.
    refs
        What is served of it in the environment, the first that exists.
    problem
        Why it could not be fetched.
    """

    role: str
    id: str = ""
    url: str = ""
    name: str = ""
    folder: str = ""
    lock: str = ""
    refs: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        return printable(without_password(f"{self.role} {self.id}")).strip()


def _gitfs(opts: Mapping[str, Any]) -> list[Any]:
    """Return the configured remotes of gitfs, if the file server uses it."""
    used = {"git", "gitfs"}.intersection(opts.get("fileserver_backend") or [])
    return list(opts.get("gitfs_remotes") or []) if used else []


def _pillars(opts: Mapping[str, Any]) -> list[Any]:
    """Return the lists of remotes of each git_pillar."""
    return [item["git"] for item in opts.get("ext_pillar") or [] if "git" in item]


def _fetch(opts: Mapping[str, Any], saltenv: str) -> list[_Remote]:
    """
    Fetch all remotes, in a process of its own, and return them.

    Only so can a remote that hangs be given up on with all of git's processes. It has no terminal, so nobody is asked.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_fetch_all, args=(sender, dict(opts), saltenv))
    child.start()
    sender.close()
    found: list[_Remote] = []
    current = _Remote("git")
    try:
        while receiver.poll(LIMIT):
            # Each one comes twice, before and after it is fetched; at the end comes an empty one.
            current, done = receiver.recv()
            if done and not current:
                return found
            if done:
                found.append(current)
                current = _Remote("git")
        current.problem = _why_so_long(current, child.pid)
    except EOFError:
        current.problem = "could not be fetched: the process ended"
    finally:
        if child.pid and child.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
        child.join()
        receiver.close()
    return [*found, current]


def _why_so_long(remote: _Remote, pid: int | None) -> str:
    with contextlib.suppress(OSError), open(remote.lock, encoding="utf-8") as file:
        owner = file.readline().strip()
        if owner != str(pid):
            return (
                f"has been locked by process {owner or 'unknown'} for more than {LIMIT:g} s: if that does not run, "
                f"run salt-run cache.clear_git_lock {remote.role} type=update"
            )
    return f"did not answer within {LIMIT:g} s: is it reachable from here?"


def _fetch_all(sender: Any, opts: dict[str, Any], saltenv: str) -> None:
    os.setsid()
    os.environ.update(UNATTENDED)
    # Salt warns at each try to get a lock, and shows a traceback of what it cannot use. All that is told here.
    logging.disable()
    for role, make in _sources(opts):
        try:
            source = make()
            for remote in source.remotes:
                about = _about(role, remote, saltenv)
                remote.fetch = functools.partial(_fetch_one, sender, about, remote.fetch)
            # Both go over the remotes and call fetch(). They also do what follows a change: the list of environments,
            # an event, and the clones that git_pillar has of other branches.
            source.update() if role == "gitfs" else source.fetch_remotes()
        except Exception as error:
            why = last_line(error) or type(error).__name__
            sender.send((_Remote(role, problem=f"cannot be used: {why}; the log of the master has more"), True))
    sender.send((None, True))
    sender.close()


def _sources(opts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each role, and a function that makes Salt's object with its remotes, as Salt itself makes it."""
    import salt.utils.gitfs as salt_gitfs
    from salt.fileserver import gitfs
    from salt.pillar import git_pillar

    if remotes := _gitfs(opts):
        settings = {
            "per_remote_overrides": gitfs.PER_REMOTE_OVERRIDES,
            "per_remote_only": gitfs.PER_REMOTE_ONLY,
        }
        yield "gitfs", functools.partial(salt_gitfs.GitFS, opts, remotes, **settings)
    for remotes in _pillars(opts):
        settings = {
            "per_remote_overrides": git_pillar.PER_REMOTE_OVERRIDES,
            "per_remote_only": git_pillar.PER_REMOTE_ONLY,
            "global_only": git_pillar.GLOBAL_ONLY,
        }
        yield "git_pillar", functools.partial(salt_gitfs.GitPillar, opts, remotes, **settings)


def _about(role: str, remote: Any, saltenv: str) -> _Remote:
    if role == "git_pillar":
        wanted = [remote.get_checkout_target()]
    else:
        wanted = [remote.ref(saltenv)] if remote.env_is_exposed(saltenv) else []
    wanted += [remote.fallback] if wanted and remote.fallback else []
    refs = [form.format(ref) for ref in wanted if ref for form in ("refs/remotes/origin/{}", "refs/tags/{}", "{}")]
    lock = os.path.join(remote.get_salt_working_dir(), "update.lk")
    name = getattr(remote, "name", None) or ""
    return _Remote(role, str(remote.id), str(remote.url), name, remote.get_cachedir(), lock, tuple(refs))


def _fetch_one(sender: Any, about: _Remote, fetch: Any) -> Any:
    """Do what ``fetch`` does, and send how it went. False means that it failed, or that another process fetches."""
    sender.send((about, False))
    changed: Any = False
    try:
        while (changed := fetch()) is False and os.path.exists(about.lock):
            time.sleep(_PAUSE)
        if changed is False:
            about.problem = "cannot be fetched: the log of the master has more"
    except Exception as error:
        # GitPython has git's own words between quotation marks, below its own (3.1 and 3.2).
        said = re.sub(r"^\s*stderr: '|'$", "", str(getattr(error, "stderr", None) or error).strip())
        about.problem = f"cannot be fetched: {explanation(said)}"
    sender.send((about, True))
    return changed


def _commits(remotes: list[_Remote], functions: Functions) -> dict[str, str]:
    urls = list(dict.fromkeys(remote.url.removesuffix(".git") for remote in remotes))
    ends = dict(zip(urls, distinct_ends([without_password(url) for url in urls]), strict=True))
    found: dict[str, str] = {}
    for remote in remotes:
        commit, ref = _served(remote, functions)
        name = remote.name or ends[remote.url.removesuffix(".git")]
        if commit:
            found[name if found.get(name, commit) == commit else f"{name} {ref}"] = commit
    return found


def _served(remote: _Remote, functions: Functions) -> tuple[str, str]:
    """Return the short id of the commit that is served, and the branch or tag; empty if it serves none here."""
    git = Git(remote.folder, functions)
    for ref in remote.refs:
        try:
            commit = git.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        except Refused:
            continue
        return commit[:8], re.sub(r"^refs/(remotes/origin|tags)/", "", ref)
    return "", ""
