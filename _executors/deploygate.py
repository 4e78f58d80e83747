"""
Asks the gate before every function that runs states.

.. versionadded:: 0.1.0

In the minion's configuration:

.. code-block:: yaml

    module_executors:
      - deploygate
      - direct_call

A gate in the top file does not see ``state.apply foo``, ``state.sls_id``, ``state.single`` or ``exclude=``. An
executor sees every function that is published to a minion or called with ``salt-call``, but nothing that the minion
starts by itself. The rule is in the execution module :py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`.

A minion with this setting but without this file refuses every published function. So sync the file first. Afterwards,
only ``salt --module-executors='[direct_call]' '*' saltutil.sync_executors`` can. For the same reason the executor
refuses a run that would sync from an environment without this extension: Salt would then remove this file.

This file depends on Salt alone, because it travels to the minions without the rest of this extension.
"""

from salt.exceptions import CommandExecutionError

# The modules that run states on this minion; SUSE's transactional_update runs them in a new snapshot of it (Salt
# 3006). The rule knows which of their functions do.
RUN_STATES = ("state.", "transactional_update.")
# Salt's sync removes the synced files that the environment it asks does not have: this one as well.
SYNC = "saltutil.sync_"


def execute(opts, data, func, args, kwargs):
    """
    Refuse a run that is not allowed by raising an error. Else return None, which leaves the call to the next executor.
    """
    for name in _names(data, func):
        if name.startswith(RUN_STATES):
            if "deploygate.admit" not in __salt__:
                lacks = "Refused: the gate's execution module is not on this minion."
                raise CommandExecutionError(f"{lacks} Run `salt MINION saltutil.sync_modules`.")
            _keep(name, args, kwargs)
            answer = __salt__["deploygate.admit"](pillar=kwargs.get("pillar"), test=kwargs.get("test"), fun=name)
            if answer.get("allowed") is not True:
                raise CommandExecutionError(answer.get("comment") or "Refused: the gate gave no answer.")
        elif name.startswith(SYNC) and "deploygate.keeps" in __salt__:
            _keep(name, args, kwargs)


def _keep(name, args, kwargs):
    """Refuse, whatever the mode, a run whose sync would remove the gate: after it, this minion would refuse all."""
    answer = __salt__["deploygate.keeps"](fun=name, args=args, kwargs=kwargs)
    if answer.get("keeps") is not True:
        raise CommandExecutionError(f"Refused: {answer.get('why')}")


def _names(data, func):
    """The functions to ask about. Of several in one publish, ``data["fun"]`` lists all, and ``func`` is the one."""
    names = data.get("fun")
    if isinstance(names, str):
        return [names]
    name = getattr(func, "name", func)
    return [name] if name in names else list(names)
