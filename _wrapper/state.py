"""
The gate before every function that runs states over salt-ssh
=============================================================

.. versionadded:: 0.1.0

This wrapper stands before Salt's own of the same name, and calls that one. With ``deploytoken: {ssh_gate: true}`` in
the configuration, it refuses a run of states that the gate's rule does not allow. Without, it asks nothing. On minions
the executor does this. But salt-ssh calls no executor before it compiles a run, and what it then sends, ``state.pkg``,
no longer says under which hold it runs (read in 3006.28 and 3008.3).

Why not the external pillar, which salt-ssh compiles before each of these functions? It can only fail, and
``force=True``, ``state.single`` and ``state.low`` run with a pillar that failed.
"""

import inspect
import os

import salt.client.ssh.wrapper.state
import salt.defaults.exitcodes
import salt.loader.lazy

SALTS_OWN = salt.client.ssh.wrapper.state
# Over salt-ssh these take `test=True` and change things all the same.
DEAF_TO_TEST = ("state.high", "state.low")


def _gated(name):
    """A function that asks the gate, and then calls Salt's own function of that name."""

    def function(*args, **kwargs):
        refused = _refused(f"state.{name}", kwargs)
        if refused:
            # As Salt's own wrapper refuses what does not compile.
            __context__["retcode"] = salt.defaults.exitcodes.EX_STATE_COMPILER_ERROR
            return [refused]
        return _salts_own()[f"state.{name}"](*args, **kwargs)

    return function


def _refused(fun, kwargs):
    """Why this run is refused, or an empty string."""
    configured = __opts__["__master_opts__"].get("deploytoken")
    if not isinstance(configured, dict) or configured.get("ssh_gate", False) is False:
        return ""
    test = kwargs.get("test") if fun not in DEAF_TO_TEST else False
    answer = __salt__["deploygate.admit"](pillar=kwargs.get("pillar"), test=test, fun=fun)
    if isinstance(answer, dict) and answer.get("allowed") is True:
        return ""
    return (answer.get("comment") if isinstance(answer, dict) else "") or "Refused: the gate gave no answer."


def _salts_own():
    """Salt's own wrapper, over the very same target, pillar and context."""
    pack = {"__opts__": __opts__, "__salt__": __salt__, "__context__": __context__}
    pack.update(__pillar__=__pillar__, __grains__=__grains__)
    return salt.loader.lazy.LazyLoader([os.path.dirname(SALTS_OWN.__file__)], __opts__, tag="wrapper", pack=pack)


for _name, _function in inspect.getmembers(SALTS_OWN, inspect.isfunction):
    if _function.__module__ == SALTS_OWN.__name__ and not _name.startswith("_"):
        _name = SALTS_OWN.__func_alias__.get(_name, _name)
        globals()[_name] = _gated(_name)
