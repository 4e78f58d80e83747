"""
Apply states to minions under the deploy token, as a step of an orchestration.

.. versionadded:: 0.1.0

.. code-block:: yaml

    deploy:
      deploystates.applied:
        - target: web*
        - ref: f9c2a1b0
        - batch: 25%

See the ``deploystates`` runner for what counts as success. This state is for the master (``salt-run
state.orchestrate``). It takes the place of ``salt.state``, whose batches succeed without a minion that is down, and
whose ``failhard`` skips the cleanup.
"""


def applied(name, target, ref, target_type="glob", sls=None, batch=None, environment=None, test=False, ssh=False):
    """
    Have the highstate, or named SLS, applied on every minion that the target means.

    name
        Not used.

    target, target_type
        Which minions. If a ``busy.idle`` came before, those that it found: a target may mean others a minute later,
        whom nobody has asked.

    ref
        The hold under which the states run.

    sls
        These SLS instead of the highstate.

    batch
        How many minions at a time: ``2``, or ``25%``. Default: all at once.

    environment
        The environment to take the states from (``saltenv`` is a word of Salt's own in a state).

    test
        Have the states only say what they would change, as ``test=True`` for the whole orchestration does.

    ssh
        Go over salt-ssh, to those who are in the roster.

    Changes are what the minions returned, of those that changed something or failed, as those of ``salt.state``. The
    return's ``minions`` has a summary of each that was begun, ``not_started`` those that were not, and ``reason`` the
    word for what went wrong, or None.
    """
    test = test or __opts__["test"]
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    ret.update(minions={}, failed=[], not_started=[], reason=None)
    asked = _asked()
    if asked:
        target, target_type = ",".join(asked), "list"
    answer = __salt__["deployrunner.call"](
        "deploystates.apply",
        target=target,
        target_type=target_type,
        ref=ref,
        sls=sls,
        batch=batch,
        saltenv=environment,
        test=test,
        states=True,
        ssh=ssh,
    )
    for key in ("minions", "failed", "not_started"):
        ret[key] = answer.get(key) or ret[key]
    minions, returns = ret["minions"], answer.get("returns") or {}
    shown = {one: returns.get(one) for one in minions if minions[one]["changed"] or not minions[one]["result"]}
    if shown:
        ret["changes"] = {"out": "highstate", "ret": shown}
    # Success is what says so, for everybody who was expected.
    whole = sorted(minions) == answer.get("expected") and all(one["result"] is True for one in minions.values())
    if minions and whole and not ("failure" in answer or ret["failed"] or ret["not_started"]):
        ret["result"] = None if test and shown else True
        ret["comment"] = "; ".join(f"{one}: {_changed(minions[one], test)}" for one in sorted(minions))
        return ret
    ret["reason"] = answer.get("reason") or "unknown"
    ret["comment"] = answer.get("failure", "The runner deploystates.apply did not say that all minions succeeded")
    return ret


def _asked():
    """Whom the last ``busy.idle`` of this orchestration found, or an empty list."""
    steps = [step for key, step in __running__.items() if key.startswith("busy_|-") and key.endswith("_|-idle")]
    steps.sort(key=lambda step: step.get("__run_num__", 0))
    return sorted(steps[-1].get("expected") or []) if steps else []


def _changed(summary, test):
    changed = summary["changed"]
    return f"{len(changed)} {'would change' if test else 'changed'}" if changed else "no changes"
