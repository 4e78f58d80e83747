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
          timeout: 60         # the default: how long the remote may take in all, in seconds; also 2m

An update checks out the repository's branch if another one is checked out, and fast-forwards it. A repository is
**refused**, with exit code 8 and a reason, and stays exactly as it was, if

- it has uncommitted changes (untracked and ignored files are fine, unless the update would put a file in their place);
- its branch has commits that are not pushed, or has diverged from the remote's;
- a merge, rebase, cherry-pick, revert or bisect is in progress, or ``index.lock`` exists;
- no branch is checked out (detached head), or the remote has no such branch;
- the remote cannot be reached, refuses, asks for a password, or does not answer in time;
- the path is not a repository, or has no such remote.

If one is refused, the others are looked at, and none moves: the master serves these folders as they are, and nobody
has tested a new one beside an old one. Submodules are not updated.
"""

from saltext.deploytoken import cli


@cli.command
def update():
    """
    Fetch every repository, check out its branch, and fast-forward: all of them, or none.

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

    Returns a ``message`` as well if no repositories are configured, which is a success. Exits with code 2 if the
    configuration is wrong, and with code 8 if any repository is refused; the answer then has all of them.
    """
    return _run("update")


@cli.command
def status():
    """
    Say what :py:func:`update` would do. Fetches, and changes nothing else: no file, no branch.

    CLI Example:

    .. code-block:: bash

        salt-run deployrepos.status

    Returns what :py:func:`update` returns, but ``before`` and ``after`` are both the commit that is checked out,
    ``behind`` is the number of commits that an update would bring, and ``subjects`` are theirs. Exits with the same
    codes.
    """
    return _run("status")


def _run(what):
    # Late: every salt-run imports every runner.
    from saltext.deploytoken import config, repositories
    from saltext.deploytoken.repositories import settings

    # Not config.parse, which needs a store: repositories can be brought up to date without a token.
    configured = settings.parse(config.section(__opts__).get("repositories"))
    return getattr(repositories, what)(configured, _functions() if configured else {})


def _functions():
    """Return Salt's execution functions. The git module wants a minion's options, with grains and a pillar."""
    import salt.loader

    opts = {**__opts__, "grains": salt.loader.grains(__opts__), "pillar": {}}
    return salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))
