"""
What stands beside the request in an orchestration's pillar overrides.

``state.orchestrate … pillar=…`` overrides the pillar of the orchestration, and of no machine: a key beside the request
would be dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from saltext.deploytoken.deploy.request import KEY


def beside(jid: str | None) -> list[str] | None:
    """
    Return the keys beside the request in the pillar overrides of the orchestration ``jid``, sorted; or None if this
    cannot be told, as where a state is called and no orchestration runs.

    ``jid``
        ``__orchestration_jid__`` of its states, as a state begins: another thread's may stand there later.
    """
    import salt.state  # an orchestration has it already

    # Salt merges the overrides into the compiled pillar, and keeps them by themselves in the object that carries out
    # the states alone. The reactor carries out orchestrations in threads of one process. They share a list of these
    # objects (3008.3), or have one each (3006.29), so this one is known by its ID.
    salts = salt.state.HighState
    for running in (*getattr(salts, "stack", ()), salts.get_active()):
        if running is not None and jid is not None and running.state.jid == jid:
            overrides = running.state._pillar_override
            return sorted(str(key) for key in overrides if key != KEY) if isinstance(overrides, Mapping) else []
    return None
