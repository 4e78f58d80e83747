"""
The deploy token in states: the gate on minions, and the holding and releasing in an orchestration
===================================================================================================

.. versionadded:: 0.1.0

``deploytoken.gate`` goes first into the top file (see ``deploytoken/gate.sls``). The others are steps of
``deploytoken/deploy.sls`` and run on the master, where they reach the token through its runner.

This file depends on nothing but Salt: it travels to the minions alone.
"""


def gate(name):
    """
    Refuse the run here unless the deploy token is held and the run carries that hold's ref.

    .. code-block:: yaml

        deploy token:
          deploytoken.gate:
            - order: first
            - failhard: True

    name
        A name for people; nothing depends on it.

    The rule, and how to go on when it refuses, is in :py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    if "deploygate.check" not in __salt__:
        ret["comment"] = (
            "Refused: the gate's execution module is not on this minion. Run `salt MINION saltutil.sync_modules`."
        )
        return ret
    # The run's own pillar, overrides included; `pillar.get` gives asterisks here (Salt 3008).
    answer = __salt__["deploygate.check"](
        pillar=dict(__pillar__), test=__opts__.get("test") is True, fun="deploytoken.gate"
    )
    ret["result"] = answer.get("allowed") is True
    ret["comment"] = answer.get("comment") or "Refused: the gate gave no answer."
    if answer.get("warning"):
        ret["warnings"] = [ret["comment"]]
    return ret
