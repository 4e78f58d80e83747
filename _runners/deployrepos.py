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

An update checks out the repository's branch if another one is checked out, fast-forwards it, and brings its submodules
along. A repository is **refused**, with exit code 8 and a reason, and stays exactly as it was, if

- it has uncommitted changes (untracked and ignored files are fine, unless the update would put a file in their place),
  also in a file that is marked as ``skip-worktree`` or ``assume-unchanged``, and also in a submodule;
- its branch has commits that are not pushed, or has diverged from the remote's, or the remote's was rewritten;
- a submodule cannot be had at the commit that the branch has, or has commits of its own;
- a merge, rebase, cherry-pick, revert or bisect is in progress, or one of git's locks exists, such as ``index.lock``;
- no branch is checked out (detached head), or the remote has no such branch;
- the remote cannot be reached, refuses, asks for a password, or does not answer in time;
- the path is not a repository, or has no such remote;
- another update of it is under way, and does not end within the repository's ``timeout``.

If one is refused, the others are looked at, and none moves: the master serves these folders as they are, and nobody
has tested a new one beside an old one.
"""

from saltext.deploytoken import cli


@cli.command
def update(ref=None):
    """
    Fetch every repository, check out its branch, fast-forward it, bring its submodules along: all of them, or none.

    Then the master serves the new files at once, and has its own git remotes (gitfs, git_pillar) fetched.

    CLI Example:

    .. code-block:: bash

        salt-run deployrepos.update
        salt-run deployrepos.update ref=3f9c2a1b
        salt-run deployrepos.update --out=json

    ref (str)
        The hold under which this is done. Needed while somebody holds the deploy token: that deploy reads these
        repositories, batch after batch. Without a configured ``deploytoken.store``, nobody can hold it.

    Returns ``repositories``, a dictionary of their names (the end of their paths) to:

    path, branch, remote
        Which one, on which branch, from where.
    before, after, target
        The commits that were and are checked out, and the one that the remote has.
    behind
        How many commits are still missing: 0.
    subjects
        The subjects of the commits that came in, newest first, at most 100.
    on_branch, was_on_branch
        Only if it is not ``branch``: the branch that is checked out, or was before the update.
    submodules
        Only if some moved: their paths, each with the commits ``before`` and ``after``. One that was not checked out
        has no commit before, and one that is gone has none after.
    problem
        Only if it is refused: why.

    Returns ``served`` if the master has git remotes of its own: their names with the short id of the commit that is
    now served. Returns a ``message`` as well if no repositories are configured, which is a success. Exits with code 2
    if the configuration is wrong, with code 3 if somebody holds the token under another ref or a deploy is at work
    under this one, with code 6 if nobody can tell who holds it, and with code 8 if any repository is refused; the
    answer then has all of them.
    """
    # Late: every salt-run imports every runner.
    from saltext.deploytoken import errors, repositories, values
    from saltext.deploytoken.deploy import serving

    ref = None if ref is None else values.ref(ref)
    configured, functions = _configured(), _functions()
    try:
        answer = repositories.update(configured, functions, lambda: _refuse_others(ref))
    except BaseException:
        # It may have failed in the middle.
        serving.forget_file_lists(__opts__)
        raise
    try:
        served = serving.renew(__opts__, functions)
    except errors.Repositories as error:
        error.details.update(answer)
        raise
    return {**answer, "served": served} if served else answer


@cli.command
def status():
    """
    Say what :py:func:`update` would do. Fetches, and changes nothing else: no file, no branch.

    CLI Example:

    .. code-block:: bash

        salt-run deployrepos.status

    Returns what :py:func:`update` returns, but ``before`` and ``after`` are both the commit that is checked out,
    ``target`` is the commit that an update would check out, ``behind`` is the number of commits that it would bring,
    and ``subjects`` are theirs. ``submodules`` are those that it would move: if somebody pulled by hand, they are old
    though the repository is not. Exits with the same codes, but for those of the token, which is not asked for.
    """
    from saltext.deploytoken import repositories

    configured = _configured()
    return repositories.status(configured, _functions() if configured else {})


def _configured():
    from saltext.deploytoken import config
    from saltext.deploytoken.repositories import settings

    # Not config.parse, which needs a store: repositories can be brought up to date without a token.
    return settings.parse(config.section(__opts__).get("repositories"))


def _refuse_others(ref):
    """Refuse while somebody holds the token under another ref than this one, or under none."""
    from saltext.deploytoken import config, errors
    from saltext.deploytoken.deploy import jobs, tokens

    if not config.section(__opts__).get("store"):
        return
    with tokens.connect(__opts__, cli.say, cli.user()) as token:
        status = token.status()
        mine = ref is not None and status["ref"] == ref
        if mine and status["ended_before"]:
            token.require_held(ref)
    job = status["job"]
    if mine and job and job["running"] is not False and job["jid"] != jobs.orchestration(__opts__["cachedir"]):
        raise errors.Held(
            f"the job {job['jid']} is at work under the hold {ref}, or may be, and reads these repositories: nothing "
            "was updated. Wait until it has ended",
            token=status,
        )
    if mine or not status["held_by"]:
        return
    why = f" ({status['reason']})" if status["reason"] else ""
    own = f"; if that hold is yours, run: salt-run deployrepos.update ref={status['ref']}" if status["ref"] else ""
    raise errors.Held(
        f"{status['held_by']} holds the deploy token{why}, and may be deploying from these repositories: nothing was "
        f"updated. Wait until it is released{own}",
        token=status,
    )


def _functions():
    """Return Salt's execution functions. The git module wants a minion's options, with grains and a pillar."""
    import salt.loader

    opts = {**__opts__, "grains": salt.loader.grains(__opts__), "pillar": {}}
    return salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))
