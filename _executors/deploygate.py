"""
Ask the gate before every function that runs states
===================================================

.. versionadded:: 0.1.0

In the minion's configuration:

.. code-block:: yaml

    module_executors:
      - deploygate
      - direct_call

A gate in the top file does not see ``state.apply foo``, ``state.sls_id``, ``state.single`` or ``exclude=``. An executor sees every
function that is published to a minion, or called with ``salt-call``; but nothing that the minion starts by itself. The rule
is one and stands in the execution module :py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`.

A minion that has the setting but not this file refuses every published function. Sync it first, or with
``salt --module-executors='[direct_call]' '*' saltutil.sync_executors``.
"""

from salt.exceptions import CommandExecutionError

# What only shows, or stops, a run. Every other function of `state` is taken to change the minion, those of later Salts included.
HARMLESS = frozenset(
    "state." + name
    for name in (
        "check_request clear_cache clear_request disable enable event get_pauses graph graph_highstate id_exists list_disabled "
        "pause running show_highstate show_low_sls show_lowstate show_sls show_state_usage show_states show_top sls_exists "
        "soft_kill"
    ).split()
)
# Those that keep to `test=True`. Others (state.low, state.template, …) take the argument, and change things all the same.
HONOUR_TEST = frozenset("state." + name for name in "apply high highstate pkg single sls sls_id top".split())


def execute(opts, data, func, args, kwargs):
    """
    Refuse a run that is not allowed, by raising; return None to leave everything else to the next executor.
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
    return None


def _names(data, func):
    """The name of the function to run. Of several in one publish, ``data["fun"]`` lists all, and the loader's object says which."""
    names = data.get("fun")
    if isinstance(names, str):
        return [names]
    name = getattr(func, "name", func)
    return [name] if name in names else list(names)
