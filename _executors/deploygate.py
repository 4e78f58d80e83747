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

# What only shows, or stops, a run. Every other function of `state` is taken to change the minion, those of later Salts
# included.
HARMLESS = (
    "state.check_request",
    "state.clear_cache",
    "state.clear_request",
    "state.disable",
    "state.enable",
    "state.event",
    "state.get_pauses",
    "state.graph",
    "state.graph_highstate",
    "state.id_exists",
    "state.list_disabled",
    "state.pause",
    "state.running",
    "state.show_highstate",
    "state.show_low_sls",
    "state.show_lowstate",
    "state.show_sls",
    "state.show_state_usage",
    "state.show_states",
    "state.show_top",
    "state.sls_exists",
    "state.soft_kill",
)
# Those that keep to `test=True`. Others (state.low, state.template, …) take the argument, and change things all the
# same.
HONOUR_TEST = (
    "state.apply",
    "state.high",
    "state.highstate",
    "state.pkg",
    "state.single",
    "state.sls",
    "state.sls_id",
    "state.top",
)


def execute(opts, data, func, args, kwargs):
    """
    Refuse a run that is not allowed, by raising. To return None leaves everything else to the next executor.
    """
    for name in _names(data, func):
        if not name.startswith("state.") or name in HARMLESS:
            continue
        if "deploygate.check" not in __salt__:
            raise CommandExecutionError(
                "Refused: the gate's execution module is not on this minion. Run `salt MINION saltutil.sync_modules`."
            )
        test = name in HONOUR_TEST and kwargs.get("test") is True
        answer = __salt__["deploygate.check"](pillar=kwargs.get("pillar"), test=test, fun=name)
        if answer.get("allowed") is not True:
            raise CommandExecutionError(answer.get("comment") or "Refused: the gate gave no answer.")


def _names(data, func):
    """The function to run. Of several in one publish, ``data["fun"]`` lists all; the loader's object says which."""
    names = data.get("fun")
    if isinstance(names, str):
        return [names]
    name = getattr(func, "name", func)
    return [name] if name in names else list(names)
