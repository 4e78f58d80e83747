"""
The gate's state: it refuses a run in which it stands first.

.. versionadded:: 0.1.0

It goes first into the top file, as ``deploytoken/gate.sls`` (see ``docs/gate.md``). The rule is in the execution
module :py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`.

This file depends on Salt alone, because it travels to the minions without the rest of this extension.
"""


def passed(name, answer=None):
    """
    Refuse the run here unless somebody holds the deploy token and the run carries the ref of that hold.

    .. code-block:: yaml

        deploy token:
          deploygate.passed:
            - order: first
            - failhard: True

    name
        For people; it changes nothing.

    answer
        (dict) The rule's answer for this run, if the rule was asked while the run was compiled. So it is over
        salt-ssh, where the far side knows no master. Default: ask the rule here.

    A refusal fails this state. Its comment says how to go on.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    if answer is None:
        if "deploygate.admit" not in __salt__:
            ret["comment"] = "Refused: this minion lacks the gate's module. Run `salt MINION saltutil.sync_modules`."
            return ret
        # The run's own pillar, overrides included; `pillar.get` gives asterisks here (Salt 3008).
        run = dict(__pillar__)
        answer = __salt__["deploygate.admit"](pillar=run, test=__opts__.get("test"), fun="deploygate.passed")
    if not isinstance(answer, dict):
        answer = {}
    ret["result"] = answer.get("allowed") is True
    ret["comment"] = answer.get("comment") or "Refused: the gate gave no answer."
    if answer.get("warning"):
        ret["warnings"] = [ret["comment"]]
    return ret
