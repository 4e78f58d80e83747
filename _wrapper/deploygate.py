"""
The gate's rule over salt-ssh
=============================

.. versionadded:: 0.1.0

Over salt-ssh the far side knows neither master nor token: this machine compiles all that runs there. So this machine
asks the rule of the execution module :py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`, for the target and
with its pillar. ``deploytoken/gate.sls`` asks while it is compiled. The wrapper :py:mod:`state
<saltext.deploytoken.wrapper.state>` asks before every function that runs states.

The configuration is that of the gate on a master: the keys ``deploytoken`` and ``ext_pillar``, in the configuration
that salt-ssh uses.
"""

import salt.loader


def check(pillar=None, test=False, fun="state.apply"):
    """
    Say whether a run of states on the target is allowed now. Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh 'docs' deploygate.check
        salt-ssh 'docs' deploygate.check pillar='{"deploytoken": {"ref": "f9c2a1b0"}}'

    The arguments and the answer are those of the execution module :py:func:`deploygate.check
    <saltext.deploytoken.modules.deploygate.check>`.
    """
    return _rule("deploygate.check", pillar, test, fun)


def admit(pillar=None, test=False, fun="state.apply"):
    """
    Decide as :py:func:`check` about a run that begins now if it is allowed. ``deploytoken/gate.sls`` and the wrapper
    ``state`` call this.

    CLI Example:

    .. code-block:: bash

        salt-ssh 'docs' deploygate.admit pillar='{"deploytoken": {"break_glass": "the site is down", "by": "Alice"}}'

    The arguments and the answer are those of the execution module :py:func:`deploygate.admit
    <saltext.deploytoken.modules.deploygate.admit>`.
    """
    return _rule("deploygate.admit", pillar, test, fun)


def _rule(name, pillar, test, fun):
    """What the rule says, asked here for the target."""
    far = dict(__opts__)
    here = dict(far["__master_opts__"])
    # The target's name and environment, with all else from here. So does Salt itself to compile the target's pillar.
    opts = {**far, **here, "file_client": "local"}
    opts.update({key: far.get(key) for key in ("id", "grains", "saltenv", "pillarenv")})
    rule = salt.loader.minion_mods(opts)
    if name not in rule:
        comment = "Refused: the gate's execution module is not here. Run `salt-run saltutil.sync_modules`."
        return {"allowed": False, "mode": "enforce", "comment": comment, "warning": False}
    return rule[name](pillar=pillar, test=test, fun=fun)
