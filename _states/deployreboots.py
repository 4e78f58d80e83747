"""
Reboots, as steps of an orchestration: who rebooted by itself, who is away, and the reboots that were asked for.

.. versionadded:: 0.1.0

.. code-block:: yaml

    boots:
      deployreboots.noted:
        - ref: f9c2a1b0
        - reboot: [web2, web1]

    # … what may reboot servers …

    reboots:
      deployreboots.done:
        - ref: f9c2a1b0
        - after: deploy

See the ``deployreboots`` runner for what counts as a reboot. These states are for the master (``salt-run
state.orchestrate``).
"""

import copy


def noted(name, ref=None, reboot=False, test=False, ssh=False):
    """
    Note the boot ids of the minions that ``busy.idle`` found, for :py:func:`done` to tell who rebooted.

    They told it there; only if that is not so for all of them, they are asked.

    name
        Not used.

    ref
        (string) The hold. It may be older than this orchestration, and its first boot ids are those that count.

    reboot
        Who is to be rebooted later: ``True`` for all, or a list of minions, in order. One that is not deployed to, or
        that is the master's own machine, is refused now rather than then.

    test
        (bool) Remember nothing, as ``test=True`` for the whole orchestration does.

    ssh
        Ask over salt-ssh those who are in the roster.

    A minion that gives no boot id fails this. There are never changes. The return's ``boots`` has the boot ids,
    ``order`` who is to be rebooted, and ``fresh`` who has rebooted by order under this hold already, with the boot id
    from before.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}, "boots": {}, "order": [], "fresh": {}}
    minions = _asked()
    if not minions:
        ret["comment"] = "It is not known which minions were expected"
        return ret
    ret["order"] = minions if reboot is True else list(dict.fromkeys(reboot or []))
    strange = [minion for minion in ret["order"] if minion not in minions]
    if strange:
        ret["comment"] = f"deploytoken.reboot names {', '.join(strange)}, which the target does not mean"
        return ret
    remember = {} if test or __opts__["test"] else {"ref": ref}
    answer = __salt__["deployrunner.call"](
        "deployreboots.ids", target=minions, target_type="list", ssh=ssh, known=_idle().get("boots"), **remember
    )
    ret["boots"], ret["fresh"] = answer.get("boots") or {}, answer.get("fresh") or {}
    own = [minion for minion in ret["order"] if minion in (answer.get("here") or [])]
    if "failure" in answer:
        ret["comment"] = answer["failure"]
    elif sorted(ret["boots"]) != minions:
        ret["comment"] = "The runner deployreboots.ids did not give the boot id of every minion"
    elif own:
        ret["comment"] = (
            f"deploytoken.reboot means {', '.join(own)}, which has the boot id of the machine that this runs on (or is a "
            "container that shows its host's): leave it out, and reboot it by hand"
        )
    else:
        ret["result"], ret["comment"] = True, f"Noted for {', '.join(minions)}"
    return ret


def done(name, ref, after, batch=1, timeout=300, health=None, consent=None, test=False, ssh=False):
    """
    Wait for minions that are rebooting by themselves, and then reboot those that :py:func:`noted` says.

    name
        Not used.

    ref
        (string) The hold under which they are rebooted. If it ends, nobody else is.

    after
        (string) The id of the state that must have succeeded. If it did not, nobody is rebooted, and this only tells
        who is away.

    batch
        (int) How many at a time.

    timeout
        How long to wait for who is away, and how long one batch may take: seconds, or ``10m``.

    health
        What tells that a server is well; see :py:func:`deployreboots.reboot
        <saltext.deploytoken.runners.deployreboots.reboot>`.

    consent
        Who agreed to the interruption of what still runs.

    test
        (bool) Only say who would be rebooted, as ``test=True`` for the whole orchestration does.

    ssh
        Go over salt-ssh, to those who are in the roster.

    Changes are the boot ids before and after. Who does not come back, or is not well, fails this and stops the rest.
    The return has ``rebooted``, a list of words for the History; ``away``: by minion, why; ``left``: who is still to
    be rebooted; and ``reason``, the word for what went wrong, or None.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}, "rebooted": [], "away": {}}
    ret["reason"] = None
    steps = copy.deepcopy(dict(__running__))  # frozen, and a copy of it is not
    noted = _last(steps, "noted")
    before, order = noted.get("boots") or {}, noted.get("order") or []
    ret["left"] = order
    if test or __opts__["test"]:
        ret["result"] = None if order else True
        some = f", {batch} at a time: {', '.join(order)}" if order else ": nobody"
        ret["comment"] = f"Would be rebooted{some}"
        return ret
    deploy = next((step for step in steps.values() if step.get("__id__") == after), {})
    # Whose states may still run, or who interrupts, is not waited for: the token is kept in any case.
    at_it = any(summary.get("silent") for summary in (deploy.get("minions") or {}).values())
    wait = None if at_it or deploy.get("reason") == "interrupted" else timeout
    # Who rebooted in an earlier attempt, and was left as it is by the states of this one, need not reboot once more.
    same = [minion for minion, summary in (deploy.get("minions") or {}).items() if _unchanged(summary)]
    same += deploy.get("not_started") or []
    fresh = {minion: boot for minion, boot in (noted.get("fresh") or {}).items() if minion in same}
    asked = {"target": sorted(before), "target_type": "list", "ref": ref, "ssh": ssh, "fresh": fresh}
    answer = __salt__["deployrunner.call"]("deployreboots.ids", wait=wait, **asked)
    boots, how = answer.get("boots") or {}, dict(answer.get("rebooted") or {})
    ret["reason"] = answer.get("reason")
    if "failure" in answer:
        ret["away"] = answer.get("failed") or {}
        ret["comment"] = answer["failure"]
    elif sorted(boots) != sorted(before):
        ret["comment"] = "The runner deployreboots.ids did not give the boot id of every minion"
    elif not order or deploy.get("result") is not True:
        ret["result"] = True
        ret["comment"] = "All answer" + (f"; nobody is rebooted, because {after} failed" if order else "")
    else:
        answer = __salt__["deployrunner.call"](
            "deployreboots.reboot",
            target=order,
            target_type="list",
            ref=ref,
            batch=batch,
            timeout=timeout,
            health=health,
            consent=consent,
            before={**before, **fresh},
            ssh=ssh,
        )
        rebooted, ret["reason"] = answer.get("rebooted") or {}, answer.get("reason")
        if "failure" in answer and not ret["reason"]:
            ret["reason"] = "unknown"  # it fell over, and nobody knows who was ordered by then
        boots.update({minion: boot["new"] for minion, boot in rebooted.items()})
        how.update({minion: how.get(minion, "ordered") for minion in rebooted})
        ret["away"], ret["left"] = answer.get("failed") or {}, answer.get("left") or []
        if "failure" in answer:
            ret["comment"], ret["left"] = answer["failure"], answer.get("left", order)
        elif sorted(rebooted) != sorted(order):
            ret["comment"] = "The runner deployreboots.reboot did not say that all were rebooted"
        else:
            ret["result"], ret["comment"] = True, f"Rebooted, and well: {', '.join(order)}"
    ret["changes"] = {
        minion: {"old": before[minion], "new": boot}
        for minion, boot in sorted(boots.items())
        if boot != before.get(minion, boot)
    }
    ret["rebooted"] = [minion if how[minion] == "ordered" else f"{minion} (by itself)" for minion in sorted(how)]
    return ret


def _unchanged(summary):
    return summary.get("result") is True and not summary.get("changed")


def _asked():
    """Whom the last ``busy.idle`` of this orchestration found."""
    return sorted(_idle().get("expected") or [])


def _idle():
    return copy.deepcopy(dict(_last(__running__, "idle", "busy")))  # frozen, and a copy of it is not


def _last(steps, function, state="deployreboots"):
    """The last return of a function; a step's key is ``STATE_|-ID_|-NAME_|-FUNCTION``."""
    found = [step for key, step in steps.items() if key.startswith(f"{state}_|-") and key.endswith(f"_|-{function}")]
    return max(found, key=lambda step: step.get("__run_num__", 0), default={})
