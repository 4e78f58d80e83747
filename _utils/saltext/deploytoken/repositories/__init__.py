"""
The repositories that are deployed from: brought up to date all together, or not at all.

The master serves these working trees as they are, to every minion and at any time. So all of them are looked at, and
fetched, before the first one moves. One that is refused keeps the others where they are, because new states over an
old pillar are worse than old states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saltext.deploytoken import errors
from saltext.deploytoken.repositories.git import Functions, Refused
from saltext.deploytoken.repositories.settings import Repository
from saltext.deploytoken.repositories.tree import WorkingTree


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
    return _answer(_inspected(repositories, functions))


def update(repositories: Sequence[Repository], functions: Functions) -> dict[str, Any]:
    """
    Fetch, have the branch checked out, fast-forward: all of the repositories, or none.

    Takes, returns and raises what :func:`status` does.
    """
    trees = _inspected(repositories, functions)
    _answer(trees)
    for tree in trees:
        try:
            tree.move()
        except Refused as error:
            # Nobody could see this one coming: a full disk, a hook that fails, somebody else's git.
            tree.problem = str(error)
            break
    return _answer(trees)


def _inspected(repositories: Sequence[Repository], functions: Functions) -> list[WorkingTree]:
    trees = [WorkingTree(repository, functions) for repository in repositories]
    for tree in trees:
        try:
            tree.inspect()
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
        moved = [tree.repository.name for tree in trees if tree.moved]
        refused = f"{len(problems)} of {len(trees)} repositories" if len(trees) > 1 else "The repository"
        others = f"updated before that: {', '.join(moved)}" if moved else "nothing was updated"
        raise errors.Repositories(
            f"{refused} cannot be deployed from ({others}): {' | '.join(problems)}", repositories=answers
        )
    return {"repositories": answers}
