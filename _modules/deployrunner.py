"""
Call runners from the states of an orchestration, all through one client.

.. versionadded:: 0.1.0

``saltutil.runner`` makes a client for each call, and each client loads all runners and a minion of the master's,
grains included (3008.3); for the steps of a deploy, that was more work than all that their runners do. Here the first
call makes the client, and the others find it in ``__context__``, which the states of one orchestration share.

For the master alone (``salt-run state.orchestrate``). The minions, which sync it like all modules, do not load it.
"""

import weakref

_CLIENT = "deployrunner.client"


def __virtual__():
    # As saltutil.runner tells them apart (3008.3): a minion's options have no job cache of the master's.
    return "master_job_cache" in __opts__ or (False, "deployrunner is for the orchestrations of a master")


def call(function, **kwargs):
    """
    Run a runner, and return its answer; what went wrong is one line under ``failure``.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd deployrunner.call busy.check target='web*'

    function
        The runner, as ``busy.check``. All other arguments are the runner's own.

    Only a dictionary that a runner returned as a success has no ``failure``. An exception, a runner that does not
    exist, a return code other than 0, and whatever is no dictionary: each is a failure.
    """
    client = __context__.get(_CLIENT)
    if client is None:
        client = __context__[_CLIENT] = _client()
    # The runners share a context too, and Salt takes a return code in it for that of the call that just ended.
    client.context.pop("retcode", None)
    try:
        # Without full_return, a runner that raises returns a text, like any other.
        answer = client.cmd(function, kwarg=kwargs, print_event=False, full_return=True)
    except Exception as error:  # a KeyError where there is no such runner
        return {"failure": f"{function} cannot be run: {error!r}. Is it synced (`salt-run saltutil.sync_runners`)?"}
    value = answer.get("return") if isinstance(answer, dict) else answer
    if not isinstance(value, dict):
        # Of a traceback, the last line says what went wrong.
        lines = [line.strip() for line in str(value).splitlines() if line.strip()]
        return {"failure": f"{function}: {lines[-1] if lines else 'no answer'}"}
    if value.get("retcode") or answer.get("success") is not True:
        return {**value, "failure": value.get("message") or f"The runner {function} did not succeed"}
    return value


def _client():
    # Late: minions load this module too, if only to learn that it is not for them.
    import salt.runner

    client = salt.runner.RunnerClient(__opts__)
    # Left to itself until Python ends, this minion loads its returners once more then, and shows a traceback (3008.3).
    weakref.finalize(client, client.mminion.destroy)
    return client
