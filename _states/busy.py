"""
Have the minions idle before something is done to them, as a step of an orchestration.

.. versionadded:: 0.1.0

.. code-block:: yaml

    kingfisher is idle:
      busy.idle:
        - target: kingfisher*

See the ``busy`` runner for what is asked. This state is for the master (``salt-run state.orchestrate``).
"""


def idle(name, target=None, target_type="glob", consent=None, wait_idle=None, ssh=False):
    """
    Make sure that the minions are idle, or that somebody agreed to what is interrupted.

    name
        Not used.

    target, target_type
        Which minions.

    consent
        Who agreed: a name, or ``{by: NAME, for: [ids or globs]}``.

    wait_idle
        How long to wait for the minions to become idle: ``30m``, ``2h``. Default: not at all.

    ssh
        Ask over salt-ssh those who are in the roster.

    It only looks, so that it does the same with ``test=True``, except that it does not wait.

    There are never changes. For the states that come after it, the return has ``consented``, what the consent covered
    (``by`` and ``to``), the minions that the target means in ``expected``, and the boot ids that they gave in
    ``boots``.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}, "consented": None, "expected": []}
    ret["boots"] = {}
    function, arguments = "busy.check", {"target": target, "target_type": target_type, "consent": consent, "ssh": ssh}
    if wait_idle and not __opts__["test"]:
        function, arguments["timeout"] = "busy.wait", wait_idle
    answer = __salt__["deployrunner.call"](function, **arguments)
    ret["consented"], ret["expected"] = answer.get("consented"), answer.get("expected", [])
    if answer.get("idle") is True and "failure" not in answer and ret["expected"]:
        ret["result"] = True
        answers = answer.get("minions") or {}
        notes = {minion: (answers.get(minion) or {}).get("note") for minion in ret["expected"]}
        ret["boots"] = {minion: answer.get("boot") for minion, answer in answers.items()}
        ret["comment"] = "Idle: " + ", ".join(f"{name} ({note})" if note else name for name, note in notes.items())
        covered = (ret["consented"] or {}).get("to")
        if covered:
            agreed = ", ".join(blocker["id"] for blocker in covered)
            ret["comment"] = f"{ret['consented']['by']} agreed to the interruption of {agreed}"
        return ret
    lines = [answer.get("failure", f"The runner {function} did not say that the minions are idle")]
    if answer.get("consent_lines"):
        lines += ["If the people named agree, write down who did, and run again with:", *answer["consent_lines"]]
    ret["comment"] = "\n".join(lines)
    return ret


def asked(name):
    """
    Have this machine say what the execution module's ``busy.check`` says, in the return's ``answer``.

    For the runner, where it asks over salt-ssh: there, pillar comes along with states and not with functions.
    ``deploytoken/busy.sls`` is all that it is for.

    .. code-block:: bash

        salt-ssh 'docs' state.apply deploytoken.busy test=True

    name
        Not used.

    It only looks, so that it does the same with ``test=True``. There are never changes.
    """
    answer = __salt__["busy.check"]()
    comment = "Idle" if answer.get("idle") is True else "Not idle"
    return {"name": name, "result": True, "comment": comment, "changes": {}, "answer": answer}
