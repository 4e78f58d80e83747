"""
Apply states to minions under the deploy token, with a verdict for each minion.

.. versionadded:: 0.1.0

What ``salt MINIONS state.apply pillar='{"deploytoken": {"ref": …}}'`` does, with a verdict for each minion that was
expected: only a clear success is one. It can go in batches. Before each, it asks whether the token is still held, and
after one with a failure, no other is begun.
"""

import functools

from saltext.deploytoken import cli, config, errors, machines, values


@cli.command
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

    target, target_type (str)
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``compound``, ``nodegroup``, …
    ref (str)
        The hold under which they run, as :py:func:`deploytoken.acquire` prints it. Not needed with ``test=True``.
    sls (list)
        These SLS (a list, or separated by commas) instead of the highstate.
    batch (int or str)
        How many minions at a time: ``2``, or ``25%``. Default: all at once, with one publish.
    saltenv (str)
        The environment to take the states from.
    test (bool)
        The states only say what they would change.
    states (bool)
        Return what the minions returned, as well.
    ssh (bool)
        Go over salt-ssh, to the machines in the roster, with no master running.

    Returns ``minions``: for each that was begun, ``result`` (True or False), ``changed`` (ids of states), ``failed``
    (``id`` and ``comment`` of each state that did), ``silent`` (it gave no return, and may still run its states) and
    ``seconds``; ``failed`` and ``not_started`` (lists of minions), ``expected``; and with ``states`` also ``returns``.

    Each minion's end is printed on standard error as it comes. Exits with code 9 if a minion failed, 4 if the token is
    not held under ``ref`` any more, 2 if an argument is wrong, 6 if the wiki cannot be asked, and 7 if the target
    matches nobody or names a minion that does not exist.
    """
    # Late: every salt-run imports every runner.
    from saltext.deploytoken.deploy import allowed
    from saltext.deploytoken.machines import states as running

    test, states = values.boolean(test, "test"), values.boolean(states, "states")
    if ref is None and not test:
        raise errors.Invalid("ref: needed; `salt-run deploytoken.acquire` prints it")
    ref = None if ref is None else values.ref(ref)
    reached = machines.connect(__opts__, ssh)
    fun, kwarg = running.call(
        ref,
        None if sls is None else values.words(sls, "sls"),
        None if saltenv is None else values.text(saltenv, "saltenv"),
        test,
    )
    size = None if batch is None else values.batch(batch)
    applied = running.Applied(reached.require(_target(target), target_type))
    try:
        running.apply(
            applied,
            size.split(applied.expected) if size else [applied.expected],
            functools.partial(reached.follow, fun=fun, kwarg=kwarg, tell=cli.say),
            lambda: allowed.require_held(config.parse(__opts__), ref),
            cli.say,
            test,
        )
    except errors.Error as error:
        error.details.update(_data(applied, states))
        raise
    return _data(applied, states)


def _target(target):
    return target if isinstance(target, list) else values.text(target, "target")


def _data(applied, states):
    return {**applied.data(), **({"returns": applied.returns} if states else {})}
