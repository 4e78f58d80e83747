"""
What is in a working tree, and in none of git's commits: whatever an update could lose, or would serve unseen.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Collection
from pathlib import PurePosixPath

from saltext.deploytoken.repositories.git import Git, Refused, some_of

#: Files in git's folder that exist while something is half done: what that is, and the way out of it.
_IN_PROGRESS = (
    ("rebase-merge", "a rebase", "git rebase --continue, or --abort"),
    ("rebase-apply", "a rebase or git am", "git rebase --continue, or --abort"),
    ("MERGE_HEAD", "a merge", "git commit, or git merge --abort"),
    ("CHERRY_PICK_HEAD", "a cherry-pick", "git cherry-pick --continue, or --abort"),
    ("REVERT_HEAD", "a revert", "git revert --continue, or --abort"),
    ("sequencer", "a cherry-pick or revert of several commits", "git cherry-pick --continue, or --abort"),
    ("BISECT_LOG", "a bisect", "git bisect reset"),
)


def refuse_in_progress(path: str, folder: str) -> None:
    """
    Refuse if something is half done in the working tree ``path``, whose git folder is ``folder``.

    :raises Refused: with what that is, and the way out of it.
    """
    for name, what, way in _IN_PROGRESS:
        if os.path.lexists(os.path.join(folder, name)):
            raise Refused(f"{what} is in progress in {path}: finish it ({way})")
    refuse_locks(path, os.path.join(folder, "index.lock"), os.path.join(folder, "HEAD.lock"))


def refuse_locks(path: str, *locks: str) -> None:
    """Refuse if one of git's locks exists: with it, git would fail in the middle of a move (2.39.5)."""
    for lock in locks:
        if os.path.lexists(lock):
            raise Refused(f"git is at work in {path}, or was ended in the middle: wait, or remove {lock}")


def refuse_changes(git: Git, place: str) -> None:
    """
    Refuse if tracked files are changed, also where git was told not to look. ``place`` names the working tree.

    :raises Refused: with the files.
    """
    if found := changed(git):
        raise Refused(f"uncommitted changes in {place} ({some_of(found)}): commit, stash or discard them")
    if found := _hidden(git):
        shown = f"git -C {shlex.quote(git.path)} update-index"
        names = shlex.join(found)
        raise Refused(
            f"changes in {place} that git was told not to see ({some_of(found)}): discard them, or have git see them: "
            f"{shown} --no-skip-worktree -- {names} && {shown} --no-assume-unchanged -- {names}"
        )


def changed(git: Git) -> list[str]:
    """
    Return the tracked files that are changed, staged or not.

    A submodule at another commit is no such change: somebody pulled, and git does not bring it along.
    """
    options = ("--porcelain", "-z", "--untracked-files=no", "--no-renames", "--ignore-submodules=dirty")
    entries = [(entry[0], entry[3:]) for entry in git.names("status", *options)]
    submodules = links(git, "HEAD") if any(staged == " " for staged, _ in entries) else {}
    return sorted(name for staged, name in entries if staged != " " or name not in submodules)


def _hidden(git: Git) -> list[str]:
    """
    Return the changed files that are marked as ``skip-worktree`` or ``assume-unchanged``, which git does not look at.

    A copy of the index without the marks has git look. Of what ``skip-worktree`` marks, a sparse checkout lacks the
    files, and that is no change.
    """
    marked = set()
    for entry in git.names("ls-files", "-v", "-z"):
        mark, name = entry[0], entry[2:]
        there = os.path.lexists(os.path.join(git.path, name))
        if (mark in "Ss" and there) or (mark.islower() and mark != "s"):
            marked.add(name)
    if not marked:
        return []
    with tempfile.TemporaryDirectory() as folder:
        index = os.path.join(folder, "index")
        # With its time: git looks closer at files that are as new as the index.
        shutil.copy2(os.path.join(git.path, git.run("rev-parse", "--git-path", "index")), index)
        for option in ("--no-skip-worktree", "--no-assume-unchanged"):  # git takes one at a time
            git.run("update-index", option, "--", *sorted(marked), GIT_INDEX_FILE=index)
        return sorted(marked.intersection(_differing(git, index)))


def _differing(git: Git, index: str) -> list[str]:
    """Return the files that are not as another index has them."""
    options = ("--name-only", "-z", "--no-renames", "--ignore-submodules=all")
    return git.names("-c", "diff.autoRefreshIndex=true", "diff", *options, GIT_INDEX_FILE=index)


def written(git: Git, before: str, after: str) -> tuple[list[str], list[str]]:
    """
    Return what a move from the commit ``before`` to ``after`` that failed has written, though nothing says so.

    The first list is of files that are not as they were. The second one is of those, in git or not, that are not as
    they were to be either: written in part, or somebody's own.
    """
    moved = set(git.names("diff", "--name-only", "--no-renames", "-z", before, after))
    unlike = {}
    with tempfile.TemporaryDirectory() as folder:
        for commit in (before, after):
            index = os.path.join(folder, commit)
            git.run("read-tree", commit, GIT_INDEX_FILE=index)
            unlike[commit] = moved.intersection(_differing(git, index))
    new = {name for name in added(git, before, after) if os.path.lexists(os.path.join(git.path, name))}
    others = (unlike[before] | new) & unlike[after]
    return sorted((unlike[before] | new) - (new & others)), sorted(others)


def links(git: Git, commit: str) -> dict[str, str]:
    """Return the submodules of a commit: ``{path: commit}``."""
    entries = (entry.partition("\t") for entry in git.names("ls-tree", "-r", "-z", commit))
    return {path: about.split()[2] for about, _, path in entries if about.startswith("160000 ")}


def untracked(git: Git) -> list[str]:
    """Return the files that are not in git, ignored ones as well. A repository inside this one is one name."""
    # Without --exclude-standard, this lists ignored files as well. A repository inside this one ends with "/".
    return [name.rstrip("/") for name in git.names("ls-files", "--others", "-z")]


def added(git: Git, before: str, after: str) -> list[str]:
    """Return the files that the commit ``after`` has, and ``before`` has not."""
    options = ("--name-only", "--diff-filter=A", "--no-renames", "--ignore-submodules=none", "-z")
    return git.names("diff", *options, before, after)


def refuse_collisions(git: Git, place: str, before: str, after: str, whose: str) -> None:
    """
    Refuse if a file that is not in git stands where the commit ``after`` has one.

    Git itself refuses that for untracked files, but only when it gets there. Found beforehand, it keeps all
    repositories where they are.

    :raises Refused: with the files; ``whose`` names the commit.
    """
    if found := collisions(set(added(git, before, after)), set(untracked(git))):
        raise Refused(
            f"files that are not in git stand in {place} where {whose} has some ({some_of(found)}): "
            "move them out of the way"
        )


def collisions(added: Collection[str], others: Collection[str]) -> list[str]:
    """
    Return those of ``others`` that stand in the way of a file that is ``added``.

    A file is in the way of one of its own name, of a folder of its name, and of a file that needs the name of one of
    the file's folders.
    """
    folders = {folder for name in added for folder in _parents(name)}
    return sorted(name for name in others if name in added or name in folders or not _parents(name).isdisjoint(added))


def _parents(name: str) -> set[str]:
    """Return the folders that a file is in, within the repository."""
    return {str(parent) for parent in PurePosixPath(name).parents} - {"."}
