"""
Apply states to minions under the deploy token, and say who did what.

.. versionadded:: 0.1.0

What ``salt MINIONS state.apply pillar='{"deploytoken": {"ref": …}}'`` does, with a verdict for each minion that was
expected: success is only what says so. It can go in batches. Before each, the token is looked at, and after one with
a failure, no other is begun.
"""

import functools

from saltext.deploytoken import cli as door
from saltext.deploytoken import config, errors, values
from saltext.deploytoken.machines import states as applying


@door.command
def apply(
    target=None, ref=None, target_type="glob", sls=None, batch=None, saltenv=None, test=False, states=False, ssh=False
):
    """
    Run the highstate, or named SLS, on the minions.

    CLI Example:

    .. code-block:: bash

        salt-run deploystates.apply 'web*' ref=f9c2a1b0
        salt-run deploystates.apply 'web*' ref=f9c2a1b0 sls=nginx,site batch=25%
        salt-run deploystates.apply 'web*' test=True

    target, target_type
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``compound``, ``nodegroup``, …
    ref
        The hold under which they run, as :py:func:`deploytoken.acquire` prints it. Not needed with ``test=True``.
    sls
        These SLS (a list, or separated by commas) instead of the highstate.
    batch
        How many minions at a time: ``2``, or ``25%``. Default: all at once, with one publish.
    saltenv
        The environment to take the states from.
    test
        The states only say what they would change.
    states
        Return what the minions returned, as well.
    ssh
        Go over salt-ssh, to those who are in the roster, with no master running.

    Returns ``minions``: for each that was begun, ``result`` (True or False), ``changed`` (ids of states), ``failed``
    (``id`` and ``comment`` of each state that did), ``silent`` (it gave no return, and may still be at it) and
    ``seconds``; ``failed`` and ``not_started`` (lists of minions), ``expected``; and with ``states`` also ``returns``.

    Each minion's end is told on standard error as it comes. Exits with code 9 if a minion failed, 4 if the token is
    not held under ``ref`` any more, 2 if an argument is wrong, 6 if the wiki cannot be asked, and 7 if the target
    matches nobody or names a minion that does not exist.
    """
    # Late: every salt-run imports every runner.
    from saltext.deploytoken.machines import master as minions

    test, states = values.boolean(test, "test"), values.boolean(states, "states")
    if not test and ref is None:
        raise errors.Invalid("ref: needed; `salt-run deploytoken.acquire` prints it")
    target = target if isinstance(target, list) else values.text(target, "target")
    opts = minions.over_ssh(__opts__, ssh)
    expected, unknown = minions.expect(opts, target, target_type)
    for minion, why in sorted(unknown.items()):
        raise errors.Busy(f"{minion} {why}")
    if not expected:
        raise errors.Busy(f"The target {target!r} matches no minion ({minions.whom(opts)})")
    kwarg = {"queue": False, "test": test, "pillar": {"deploytoken": {"ref": ref}}}
    if saltenv is not None:
        kwarg["saltenv"] = values.text(saltenv, "saltenv")
    if sls is not None:
        kwarg["mods"] = values.words(sls, "sls")
    fun = "state.highstate" if sls is None else "state.sls"
    publish = functools.partial(minions.follow, opts, fun=fun, kwarg=kwarg, tell=door.say)
    groups, ours = applying.batches(expected, batch), functools.partial(_ours, ref)
    try:
        found = applying.apply(groups, publish, ours, door.say, test)
    except errors.Error as error:
        error.details["expected"] = expected
        if not states:
            error.details.pop("returns", None)
        raise
    found["expected"] = expected
    if not states:
        del found["returns"]
    return found


def _ours(ref):
    """Look at the token, as it is now."""
    from saltext.deploytoken.token import Token

    ref = values.ref(ref)
    with Token(config.parse(__opts__)) as token:
        status = token.status()
    if status["ref"] != ref:
        now = f"{status['held_by']} holds the token ({status['reason']})" if status["held_by"] else "nobody holds it"
        raise errors.NotYours(f"the hold {ref} is over, {now}; nothing more is started", token=status)
