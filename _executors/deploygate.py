"""
Ask the gate before every function that runs states.

.. versionadded:: 0.1.0

In the minion's configuration:

.. code-block:: yaml

    module_executors:
      - deploygate
      - direct_call

A gate in the top file does not see ``state.apply foo``, ``state.sls_id``, ``state.single`` or ``exclude=``. An
executor sees every function that is published to a minion, or called with ``salt-call``; but nothing that the minion
starts by itself. The rule is one and stands in the execution module :py:mod:`deploygate
<saltext.deploytoken.modules.deploygate>`.

A minion that has the setting but not this file refuses every published function. Sync it first, or with
``salt --module-executors='[direct_call]' '*' saltutil.sync_executors``.
"""

from salt.exceptions import CommandExecutionError

# The modules that run states on this minion, the second in a new snapshot of it (SUSE's; Salt 3006). Which of their
# functions do is for the rule to say.
RUN_STATES = ("state.", "transactional_update.")


def execute(opts, data, func, args, kwargs):
    """
    Refuse a run that is not allowed, by raising. To return None leaves everything else to the next executor.
    """
    for name in _names(data, func):
        if not name.startswith(RUN_STATES):
            continue
        if "deploygate.check" not in __salt__:
            raise CommandExecutionError(
                "Refused: the gate's execution module is not on this minion. Run `salt MINION saltutil.sync_modules`."
            )
        answer = __salt__["deploygate.check"](pillar=kwargs.get("pillar"), test=kwargs.get("test"), fun=name)
        if answer.get("allowed") is not True:
            raise CommandExecutionError(answer.get("comment") or "Refused: the gate gave no answer.")


def _names(data, func):
    """The function to run. Of several in one publish, ``data["fun"]`` lists all; the loader's object says which."""
    names = data.get("fun")
    if isinstance(names, str):
        return [names]
    name = getattr(func, "name", func)
    return [name] if name in names else list(names)
