"""
Reboot servers under the deploy token: in order, one after the other, and only on while each comes back well.

.. versionadded:: 0.1.0

Linux makes a boot ID at each boot. A server counts as rebooted when it answers with another boot ID than before; one
that answers with the old one is not back yet. Nobody reboots anything without the token: before each batch, this asks
the wiki page whether the token is still held under ``ref``, and the servers of the batch whether they are still idle.

The exit codes are those of all runners of this extension: 3 (``held``) when another job is at work under that hold, 4
(``not_yours``) when the token is not held under that ref any more, 7 (``busy``) when something runs that a reboot
would interrupt or the target matches nobody, and 9 (``failed``) when a server gives no boot ID, does not come back, or
is not well. After Ctrl-C (130), a server that was ordered to reboot does so all the same, and is named.
"""

import functools

from saltext.deploytoken import cli, errors, machines, values
from saltext.deploytoken.busy import consent as agreement


@cli.command
def ids(target=None, target_type="glob", ref=None, wait=None, ssh=False):
    """
    Say which boot the minions are in, and which do not answer. Nothing is changed on them.

    CLI Example:

    .. code-block:: bash

        salt-run deployreboots.ids 'web*'
        salt-run deployreboots.ids 'web*' ref=f9c2a1b0 wait=5m

    target, target_type (str)
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``grain``, ``compound``, …
    ref (str)
        Remember the first boot ID of each minion under this hold, and say which have another one since.
    wait (duration)
        How long to wait for minions that do not answer or have a shutdown scheduled, such as ``5m``. Default: not at
        all.
    ssh (bool)
        Ask the machines in the roster over salt-ssh, with no master running.

    Returns ``boots`` (by minion), ``here`` (the minions with the boot ID of this very machine), and with ``ref``
    ``rebooted``: by minion, ``ordered`` if :py:func:`reboot` did it, or ``by itself``. If a minion does not answer,
    exits with code 9 and has ``failed`` as well: by minion, why.
    """
    from saltext.deploytoken import text
    from saltext.deploytoken.machines import reboots

    reached = machines.connect(__opts__, ssh)
    patience = 0 if wait is None else values.duration(wait, "wait")
    notes = None if ref is None else reboots.Notes(__opts__["cachedir"], values.ref(ref))
    expected = reached.require(_target(target), target_type)
    boots, failed = reboots.settle(reboots.Servers(reached), expected, patience, cli.say)
    here = reboots.here()
    answer = {"boots": boots, "here": [minion for minion in expected if here and boots.get(minion) == here]}
    if notes:
        notes.keep(boots)
        answer["rebooted"] = notes.rebooted(boots)
    if failed:
        raise errors.Failed(f"no boot ID: {text.join_reasons(failed)}", failed=failed, **answer)
    return answer


@cli.command
def required(target=None, target_type="glob", ssh=False):
    """
    Say which minions need a reboot, by their own word. Nothing is changed on them.

    CLI Example:

    .. code-block:: bash

        salt-run deployreboots.required 'web*'

    On Debian and Ubuntu, the file ``/var/run/reboot-required`` says so. If none of the packages that write it is
    there, the answer is unknown. On Red Hat's systems, ``needs-restarting -r`` says so. On other systems, the file
    means yes, and its absence nothing.

    target, target_type (str)
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``grain``, ``compound``, …
    ssh (bool)
        Ask the machines in the roster over salt-ssh, with no master running.

    Returns ``required``: the minions that need a reboot, in the order of a list, else that of the alphabet. If one
    cannot tell, exits with code 9 and has ``failed`` as well: by minion, why.
    """
    from saltext.deploytoken import text
    from saltext.deploytoken.machines import reboots

    reached = machines.connect(__opts__, ssh)
    needing, unknown = reboots.required(reboots.Servers(reached), reached.require(_target(target), target_type))
    if unknown:
        raise errors.Failed(text.join_reasons(unknown), failed=unknown, required=needing)
    return {"required": needing}


@cli.command
def reboot(
    target=None,
    target_type="glob",
    ref=None,
    batch=1,
    timeout="5m",
    health=None,
    consent=None,
    pause=None,
    ssh=False,
):
    """
    Reboot minions, so many at a time, and wait for each until it is back and well. The first that fails stops the
    rest.

    CLI Example:

    .. code-block:: bash

        salt-run deployreboots.reboot web2,web1 target_type=list ref=f9c2a1b0
        salt-run deployreboots.reboot 'web*' ref=f9c2a1b0 batch=2 timeout=10m pause=5m
        salt-run deployreboots.reboot 'web*' ref=f9c2a1b0 health='{function: network.connect, arg: [127.0.0.1, 443]}'
        salt-run deployreboots.reboot 'web*' ref=f9c2a1b0 health='{sls: web.smoke}'

    target, target_type (str)
        Which minions. A list is rebooted in its order, everything else in that of the alphabet.
    ref (str)
        The hold of the deploy token under which they are rebooted. If it ends meanwhile, so does this.
    batch (int)
        How many at a time. Default: 1.
    timeout (duration)
        How long one batch may take, from the order until all of it is well. Default: ``5m``.
    health (str or dict)
        What shows that a server is well: a function, or ``{function: NAME, arg: [...], kwarg: {...}}``, which must
        succeed as for :py:func:`deploystates.apply <saltext.deploytoken.runners.deploystates.apply>`, and return
        something; or ``{sls: NAMES}``, which are applied and must succeed. It is tried again until ``timeout``; one
        try may take a minute. Default: ``test.ping``.
    consent (str or dict)
        Who agreed to what a reboot interrupts, as of :py:func:`busy.check <saltext.deploytoken.runners.busy.check>`.
    pause (duration)
        How long to wait between a batch that rebooted and the next one. Default: not at all.
    ssh (bool)
        Go over salt-ssh, to the machines in the roster, with no master running.

    Returns ``rebooted``: by minion, its ``old`` and ``new`` boot ID. When it stops, there are also ``failed`` (by
    minion, why) and ``left`` (those, and the minions still to be rebooted, in order).
    """
    from saltext.deploytoken.deploy import allowed, tokens, work
    from saltext.deploytoken.machines import reboots

    if ref is None:
        raise errors.Invalid("ref: needed, nobody reboots without the token; `salt-run deploytoken.status` shows it")
    ref, agreed = values.ref(ref), agreement.parse(consent)
    reached, check = machines.connect(__opts__, ssh), reboots.health(health)
    batch, patience = values.number(batch, "batch", 1000), values.positive_duration(timeout, "timeout")
    pause = 0 if pause is None else values.duration(pause, "pause")
    order = reached.require(_target(target), target_type)
    done = {}
    words = functools.partial(_words, done)
    connect = functools.partial(tokens.connect, __opts__, cli.say, cli.user())
    try:
        with work.by_hand(__opts__, connect, cli.say, ref, cli.jid(), words):
            try:
                done |= reboots.reboot(
                    reboots.Servers(reached),
                    order,
                    batch=batch,
                    patience=patience,
                    check=check,
                    ref=ref,
                    allowed=allowed.batch(connect, reached, ref, agreed),
                    notes=reboots.Notes(__opts__["cachedir"], ref),
                    tell=cli.say,
                    pause=pause,
                )
            except errors.Error as error:
                done |= error.details.get("rebooted", {})
                raise
    except errors.Error as error:
        error.details.setdefault("rebooted", done)
        raise
    return {"rebooted": done}


def _words(done):
    """What was done, for the entry that ends the hold; None if nobody rebooted."""
    from saltext.deploytoken.deploy import ending

    return ending.line("rebooted", list(done), []) if done else None


def _target(target):
    return target if isinstance(target, list) else values.text(target, "target")
