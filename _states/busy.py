"""
What ``busy.check`` says of this machine, as a state: for the runner of that name, where it asks over salt-ssh.

.. versionadded:: 0.1.0

There, pillar comes along with states and not with functions. ``deploytoken/busy.sls`` is all that this is for.
"""


def asked(name):
    """
    Have this machine say what the execution module's ``busy.check`` says, in the return's ``answer``.

    .. code-block:: bash

        salt-ssh 'docs' state.apply deploytoken.busy test=True

    name
        Not used.

    Pillar says who asks, under ``deploytoken:asking``. It only looks, so that it does the same with ``test=True``.
    There are never changes.
    """
    said = __pillar__.get("deploytoken")
    answer = __salt__["busy.check"](asking=said.get("asking") if isinstance(said, dict) else None)
    comment = "Idle" if answer.get("idle") is True else "Not idle"
    return {"name": name, "result": True, "comment": comment, "changes": {}, "answer": answer}
