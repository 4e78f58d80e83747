"""
Bring the repositories that are deployed from up to date, or say why they cannot be.

.. versionadded:: 0.1.0

This is the first step of a deploy: "ensure that the repositories are on their branch and are up to date". They are
configured in the master's configuration:

.. code-block:: yaml

    deploytoken:
      repositories:
        - path: /srv/deploy
        - path: /srv/deploy/salt/private
          branch: master      # default: the remote's default branch
          remote: origin      # the default
          timeout: 60         # the default: seconds that the remote may take in all

A repository is brought up to date by a fast-forward, and by switching to its branch if another one is checked out. It
is **refused**, and left exactly as it was, with exit code 8 and a reason, if

- it has uncommitted changes (untracked files are fine, unless the update would put a file in their place: git refuses
  that for untracked files, but overwrites ignored ones, so these are looked for as well);
- its branch has commits that are not pushed, or has diverged from the remote's;
- a merge, rebase, cherry-pick, revert or bisect is in progress, or ``index.lock`` exists;
- no branch is checked out (detached head), or the remote has no such branch;
- the remote cannot be reached, refuses, asks for a password, or does not answer in time;
- the path is not a repository, or has no such remote.

If one is refused, the others are looked at, and none is moved: the master serves these folders as they are, and a new
one beside an old one is a mixture that nobody has tested. Submodules are not updated.
"""

from saltext.deploytoken import cli as door


@door.command
def update():
    """
    Fetch every repository, be on its branch, and fast-forward: all of them, or none.

    CLI Example:

    .. code-block:: bash

        salt-run deployrepos.update
        salt-run deployrepos.update --out=json

    Returns ``repositories``, a dictionary of their names (the end of their paths) to:

    path, branch, remote
        Which one, on which branch, from where.
    before, after
        The commits that were and are checked out.
    behind
        How many commits are still missing: 0.
    subjects
        The subjects of the commits that came in, newest first, at most 100.
    on_branch, was_on_branch
        Only if it is not ``branch``: the branch that is checked out, or was before the update.
    problem
        Only if it is refused: why.

    and a ``message``, if none are configured, which is a success. Exits with code 2 if the configuration is wrong, and
    8 if any repository is refused; what is returned then has all of them.
    """
    return _run("update")


@door.command
def status():
    """
    Say what :py:func:`update` would do. Fetches, and changes nothing else: no file, no branch.

    CLI Example:

    .. code-block:: bash

        salt-run deployrepos.status

    Returns what :py:func:`update` returns, with ``before`` and ``after`` both as the commit that is checked out,
    ``behind`` as the number of commits that an update would bring, and ``subjects`` as theirs. Exits with the same
    codes.
    """
    return _run("status")


def _run(what):
    # Late: every salt-run imports every runner.
    import os

    import salt.loader
    from salt.exceptions import CommandExecutionError

    from saltext.deploytoken import errors
    from saltext.deploytoken.repositories import tree as repositories

    configured = __opts__.get("deploytoken") or {}
    if not isinstance(configured, dict):
        raise errors.Invalid("deploytoken must be a mapping in the master's configuration")
    found = repositories.parse(configured.get("repositories"))
    if not found:
        return {
            "repositories": {},
            "message": "No repositories are configured (deploytoken.repositories): there is nothing to update",
        }
    for name in repositories.ENVIRONMENT:
        if name in os.environ:
            raise errors.Invalid(f"{name} is set in the environment, and points git to another repository: unset it")
    # The whole of the master's options are for a master: the git module wants a minion's, with grains.
    opts = dict(__opts__, grains=salt.loader.grains(__opts__), pillar={})
    functions = salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))
    return getattr(repositories, what)(found, functions, CommandExecutionError)
