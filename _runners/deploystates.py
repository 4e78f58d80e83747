"""
Apply states to minions, or run a function on them, under the deploy token, with a verdict for each minion.

.. versionadded:: 0.1.0

What ``salt MINIONS state.apply pillar='{"deploytoken": {"ref": …}}'`` does, with a verdict for each minion that was
expected: only a clear success is one. It can go in batches. Before each, it asks whether the token is still held, and
whether the minions of the batch are idle. After one with a failure, no other is begun.
"""

import contextlib
import functools

from saltext.deploytoken import cli, errors, machines, values
from saltext.deploytoken.busy import consent as agreement


@cli.command
def apply(
    target=None,
    ref=None,
    target_type="glob",
    sls=None,
    sls_id=None,
    function=None,
    pillar=None,
    saltenv=None,
    pillarenv=None,
    batch=None,
    consent=None,
    test=False,
    states=False,
    ssh=False,
):
    """
    Run the highstate, named SLS, one state of them, or a function, on the minions.

    CLI Example:

    .. code-block:: bash

        salt-run deploystates.apply 'web*' ref=f9c2a1b0
        salt-run deploystates.apply 'web*' ref=f9c2a1b0 sls=nginx,site batch=25%
        salt-run deploystates.apply 'web*' ref=f9c2a1b0 sls=site sls_id=certificate pillar='{site: {renew: true}}'
        salt-run deploystates.apply 'web*' ref=f9c2a1b0 function=pkg.upgrade batch=1
        salt-run deploystates.apply 'web*' ref=f9c2a1b0 function='{name: service.restart, arg: [nginx]}'
        salt-run deploystates.apply 'web*' test=True

    target, target_type (str)
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``compound``, ``nodegroup``, …
    ref (str)
        The hold under which they run, as :py:func:`deploytoken.acquire` prints it. Not needed with ``test=True``.
    sls (list)
        These SLS (a list, or separated by commas) instead of the highstate.
    sls_id (str)
        Only the state with this ID in them, with what it requires.
    function (str or dict)
        This execution function instead of states: its name, or ``{name: NAME, arg: [...], kwarg: {...}}``. It succeeds
        with return code 0, unless it returns False, an error, or a flat dictionary with False in it.
    pillar (dict)
        Pillar for the states of this run, over that of the minions.
    saltenv, pillarenv (str)
        The environments to take the states and the pillar from.
    batch (int or str)
        How many minions at a time: ``2``, or ``25%``. Default: all at once, with one publish.
    consent (str or dict)
        Who agreed to what is interrupted, as of :py:func:`busy.check <saltext.deploytoken.runners.busy.check>`.
    test (bool)
        The states only say what they would change. A function is not run.
    states (bool)
        Return what the minions returned, as well.
    ssh (bool)
        Go over salt-ssh, to the machines in the roster, with no master running.

    Returns ``minions``: for each that was begun, ``result`` (True or False), ``changed`` (IDs of states, or packages),
    ``failed`` (``id`` and ``comment`` of each state that did), ``answer`` (what a function returned, in a few words),
    ``silent`` (it gave no return, and may still be running), ``at_work`` (it refused, because states run there
    already), ``jid`` (the job) and ``seconds``; ``failed`` and ``not_started`` (lists of minions), ``expected``; and
    with ``states`` also ``returns``.

    While this runs, the page names its job; the entry that ends the hold says what was done. Each minion's end is
    printed on standard error as it comes. Exits with code 9 if a minion failed, 4 if the token is not held under
    ``ref`` any more, 3 if another job is at work under it, 2 if an argument is wrong, 6 if the wiki cannot be asked,
    and 7 if something runs that this would interrupt, or the target matches nobody or names a minion that does not
    exist.
    """
    # Late: every salt-run imports every runner.
    from saltext.deploytoken.deploy import allowed, tokens, work
    from saltext.deploytoken.machines import states as running

    test, states = values.boolean(test, "test"), values.boolean(states, "states")
    if ref is None and not test:
        raise errors.Invalid("ref: needed; `salt-run deploytoken.acquire` prints it")
    ref, agreed = None if ref is None else values.ref(ref), agreement.parse(consent)
    reached = machines.connect(__opts__, ssh)
    asked = {"sls": sls, "sls_id": sls_id, "function": function}
    task = running.task({**asked, "pillar": pillar, "saltenv": saltenv, "pillarenv": pillarenv})
    size = None if batch is None else values.batch(batch)
    applied = running.Applied(reached.require(_target(target), target_type), task)
    if test and task.untold:
        return {"message": task.untold, **_data(applied, states)}
    fun, arg, kwarg = task.call(ref, test)
    connect = functools.partial(tokens.connect, __opts__, cli.say, cli.user())
    at_work = work.by_hand(__opts__, connect, cli.say, ref, cli.jid(), functools.partial(_words, applied, target))
    try:
        with contextlib.nullcontext() if test else at_work:
            running.apply(
                applied,
                size.split(applied.expected) if size else [applied.expected],
                functools.partial(reached.follow, fun=fun, arg=arg, kwarg=kwarg, tell=cli.say),
                allowed.batch(connect, reached, ref, agreed),
                cli.say,
                test,
            )
    except errors.Error as error:
        error.details.update(_data(applied, states))
        raise
    return _data(applied, states)


def _words(applied, target):
    """What was done, for the entry that ends the hold; None if it was begun nowhere."""
    from saltext.deploytoken.deploy import ending

    if not applied.begun:
        return None
    failed = [f"FAILED on {', '.join(applied.failed)}"] if applied.failed else []
    return ending.line(f"applied {applied.task}", _target(target), failed)


def _target(target):
    return target if isinstance(target, list) else values.text(target, "target")


def _data(applied, states):
    return {**applied.data(), **({"returns": applied.returns} if states else {})}
