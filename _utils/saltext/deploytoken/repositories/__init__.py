"""
The repositories that are deployed from: brought up to date all together, or not at all.

The master serves these working trees as they are, to every minion and at any time. So all of them are looked at, and
fetched, before the first one moves. One that is refused keeps the others where they are, because new states over an
old pillar are worse than old states. Two runs at once would see each other's half: one of them waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saltext.deploytoken import errors
from saltext.deploytoken.repositories.git import Functions, Refused
from saltext.deploytoken.repositories.settings import Repository
from saltext.deploytoken.repositories.tree import Locks, WorkingTree
from saltext.deploytoken.text import printable


def status(repositories: Sequence[Repository], functions: Functions) -> dict[str, Any]:
    """
    Look at the repositories and at their remotes. Fetch, and change nothing else.

    ``repositories``
        The configured ones; see :func:`saltext.deploytoken.repositories.settings.parse`.
    ``functions``
        Salt's execution functions by name: ``git.*`` and ``cmd.run_all``.

    Returns ``{"repositories": {name: …}}``, and a ``message`` if there are none; the runner ``deployrepos`` documents
    the keys of each.

    :raises errors.Repositories: at least one repository is refused; all of them are in the details.
    :raises errors.Invalid: a variable in the environment points git to another repository.
    """
    with Locks() as locks:
        return _answer(_inspected(repositories, functions, locks))


def update(
    repositories: Sequence[Repository], functions: Functions, allowed: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """
    Fetch, have the branch checked out, fast-forward, bring submodules along: all of the repositories, or none.

    ``allowed``
        Called once, after all of them have been looked at and before the first moves; what it raises ends the update.

    Otherwise takes, returns and raises what :func:`status` does.
    """
    with Locks() as locks:
        trees = _inspected(repositories, functions, locks)
        _answer(trees)
        allowed()
        for tree in trees:
            try:
                tree.move()
            except Refused as error:
                # Nobody could see this one coming: a full disk, a hook that fails, somebody else's git.
                tree.problem = str(error)
                break
        return _answer(trees)


def _inspected(repositories: Sequence[Repository], functions: Functions, locks: Locks) -> list[WorkingTree]:
    trees = [WorkingTree(repository, functions) for repository in repositories]
    for tree in trees:
        try:
            tree.inspect(locks)
        except Refused as error:
            tree.problem = str(error)
    return trees


def _answer(trees: Sequence[WorkingTree]) -> dict[str, Any]:
    answers = {tree.repository.name: tree.answer() for tree in trees}
    if not trees:
        return {
            "repositories": answers,
            "message": "No repositories are configured (deploytoken.repositories): there is nothing to update",
        }
    problems = [f"{tree.repository.name}: {tree.problem}" for tree in trees if tree.problem]
    if problems:
        refused = f"{len(problems)} of {len(trees)} repositories" if len(trees) > 1 else "The repository"
        done = {
            "updated before that": [tree.repository.name for tree in trees if tree.moved],
            "updated in part": [tree.repository.name for tree in trees if tree.partly],
        }
        told = "; ".join(f"{what}: {', '.join(names)}" for what, names in done.items() if names)
        message = f"{refused} cannot be deployed from ({told or 'nothing was updated'}): {' | '.join(problems)}"
        raise errors.Repositories(printable(message), repositories=answers)
    return {"repositories": answers}
