"""
Reboot servers under the deploy token: in order, one after the other, and only on while each comes back well.

.. versionadded:: 0.1.0

A reboot is told by the boot id, which Linux makes anew at each boot. A server counts as rebooted when it answers with
another one than before; one that answers with the old one is not back yet. Nobody reboots anything without the token:
before each batch, the wiki page is asked whether it is still held under ``ref``, and the servers of the batch whether
they are still idle.

The exit codes are those of all runners of this extension: 4 (``not_yours``) when the token is not held under that ref
any more, 7 (``busy``) when something runs that a reboot would interrupt, and 9 (``failed``) when a server gives no
boot id, does not come back, or is not well. After Ctrl-C (130), a server that was ordered to reboot does so all the
same, and is named.
"""

from saltext.deploytoken import cli as door
from saltext.deploytoken import errors, values


@door.command
def ids(target=None, target_type="glob", ref=None, wait=None, ssh=False, fresh=None, known=None):
    """
    Say which boot the minions are in, and who does not answer. Nothing is changed on them.

    CLI Example:

    .. code-block:: bash

        salt-run deployreboots.ids 'web*'
        salt-run deployreboots.ids 'web*' ref=f9c2a1b0 wait=5m

    target, target_type
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``grain``, ``compound``, …
    ref (str)
        Remember the first boot id of each minion under this hold, and say who has another one since.
    wait (duration)
        How long to wait for who does not answer or has a shutdown scheduled, such as ``5m``. Default: not at all.
    ssh
        Ask over salt-ssh those who are in the roster, with no master running.
    fresh (dict)
        For orchestrations: after states, what this returned as ``fresh`` before them, of those that they left as they
        were. Of all others, it is forgotten.
    known (dict)
        For orchestrations: the boot ids that the minions gave just now. If it has one of each, nobody is asked.

    Returns ``boots`` (by minion), ``here`` (the minions with the boot id of this very machine), and with ``ref``
    ``rebooted``: by minion, ``ordered`` if :py:func:`reboot` did it, or ``by itself``; and ``fresh``: who has rebooted
    since :py:func:`reboot` ordered it, with the boot id from before. If somebody does not answer, exits with code 9
    and has ``failed`` as well: by minion, why.
    """
    from saltext.deploytoken.machines import master as minions
    from saltext.deploytoken.machines import reboots

    opts = minions.over_ssh(__opts__, ssh)
    expected = _expected(opts, target, target_type)
    patience = 0 if wait is None else values.duration(wait, "wait")
    notes = reboots.Notes(__opts__["cachedir"], _ref(ref)) if ref is not None else None
    boots, failed = reboots.known(known, expected), {}
    if boots is None:
        boots, failed = reboots.settled(reboots.Servers(opts), expected, patience, door.say)
    here = reboots.here()
    answer = {"boots": boots, "here": [minion for minion in expected if boots.get(minion) == here]}
    if notes:
        answer["fresh"] = {minion: boot for minion, boot in notes.fresh.items() if boots.get(minion, boot) != boot}
        notes.fresh = dict(fresh or {})
        notes.keep(boots)
        answer["rebooted"] = notes.rebooted(boots)
    if failed:
        said = "; ".join(f"{minion} {why}" for minion, why in sorted(failed.items()))
        raise errors.Failed(f"No boot id: {said}", failed=failed, **answer)
    return answer


@door.command
def reboot(
    target=None,
    target_type="glob",
    ref=None,
    batch=1,
    timeout="5m",
    health=None,
    consent=None,
    before=None,
    ssh=False,
):
    """
    Reboot minions, so many at a time, and wait for each until it is back and well. The first that fails stops the
    rest.

    CLI Example:

    .. code-block:: bash

        salt-run deployreboots.reboot web2,web1 target_type=list ref=f9c2a1b0
        salt-run deployreboots.reboot 'web*' ref=f9c2a1b0 batch=2 timeout=10m
        salt-run deployreboots.reboot 'web*' ref=f9c2a1b0 health='{function: service.status, arg: [postgresql]}'
        salt-run deployreboots.reboot 'web*' ref=f9c2a1b0 health='{sls: web.smoke}'

    target, target_type
        Which minions. A list is rebooted in its order, everything else in that of the alphabet.
    ref (str)
        The hold of the deploy token under which they are rebooted. If it ends meanwhile, so does this.
    batch (int)
        How many at a time. Default: 1.
    timeout (duration)
        How long one batch may take, from the order until all of it is well. Default: ``5m``.
    health
        What tells that a server is well: a function, which must succeed and return neither False nor None;
        ``{function: NAME, arg: [...]}``; or ``{sls: NAMES}``, which are applied and must succeed. It is tried again
        until ``timeout``; one try may take a minute. Default: ``test.ping``.
    consent
        Who agreed to what a reboot interrupts, as of :py:func:`busy.check <saltext.deploytoken.runners.busy.check>`.
    before (dict)
        Boot ids by minion. Who has another one by now is not rebooted again; its health is looked at.
    ssh
        Go over salt-ssh, to those who are in the roster, with no master running.

    Returns ``rebooted``: by minion, its ``old`` and ``new`` boot id. When it stops, there are also ``failed`` (by
    minion, why) and ``left`` (those, and who is still to be rebooted, in order).
    """
    from saltext.deploytoken.machines import master as minions
    from saltext.deploytoken.machines import reboots

    opts = minions.over_ssh(__opts__, ssh)
    expected = _expected(opts, target, target_type)
    ref = _ref(ref)
    batch = values.number(batch, "batch", 1000)
    patience = values.duration(timeout, "timeout")
    if not patience:
        raise errors.Invalid("timeout: a duration above 0 is needed, like 5m")
    if before is not None and not isinstance(before, dict):
        raise errors.Invalid("before: boot ids by minion are needed, as deployreboots.ids returns them")
    done = reboots.reboot(
        reboots.Servers(opts),
        expected,
        batch=batch,
        patience=patience,
        check=reboots.health(health, ref),
        allowed=lambda several: _allow(several, ref, consent, ssh),
        notes=reboots.Notes(__opts__["cachedir"], ref),
        tell=door.say,
        before=before,
    )
    return {"rebooted": done}


def _expected(opts, target, target_type):
    """The ids that a target means: in the order of a list, else in that of the alphabet."""
    from saltext.deploytoken.machines import master as minions

    listed = values.words(target, "target") if target_type == "list" else None
    found, unknown = minions.expect(opts, listed or values.text(target, "target"), target_type)
    if unknown:
        raise errors.Failed("; ".join(f"{minion} {why}" for minion, why in sorted(unknown.items())), failed=unknown)
    if not found:
        raise errors.Failed(f"The target {target!r} matches no minion ({minions.whom(opts)})")
    return list(dict.fromkeys(listed or found))


def _ref(ref):

    if ref is None:
        raise errors.Invalid("ref: needed, nobody reboots without the token; `salt-run deploytoken.status` shows it")
    return values.ref(ref)


def _allow(several, ref, consent, ssh):
    """Raise unless the token is held under this ref, and these minions are idle, at this moment."""
    from saltext.deploytoken import config
    from saltext.deploytoken.token import Token

    with Token(config.parse(__opts__)) as live:
        status = live.status()
    if status["ref"] != ref:
        holder = f"{status['held_by']} holds the token" if status["held_by"] else "the token is free"
        raise errors.NotYours(f"the hold {ref} is not the current one, {holder}; nobody is rebooted without it")
    answer = __salt__["busy.check"](target=",".join(several), target_type="list", consent=consent, ssh=ssh)
    if not isinstance(answer, dict) or answer.get("idle") is not True or answer.get("retcode"):
        message = answer.get("message") if isinstance(answer, dict) else answer
        raise errors.Busy(str(message or "busy.check did not say that they are idle"))
