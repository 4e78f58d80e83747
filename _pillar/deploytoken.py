"""
The live deploy token, for the gate
===================================

.. versionadded:: 0.1.0

An external pillar, so that minions learn who holds the token and never see the wiki's API key. In the master's
configuration (for masterless minions: in the minion's), beside the key ``deploytoken`` that configures the token
itself:

.. code-block:: yaml

    ext_pillar:
      - deploytoken:

Let it be the last external pillar: a later one could overwrite its answer. A new external pillar needs a restart of
the master.

It answers the gate (:py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`) only. Every other compilation of
pillar gets nothing from it and does not wait for the wiki: a wiki that cannot be reached closes the gate and disturbs
nothing else.
"""

from saltext.deploytoken.gate import live


def ext_pillar(minion_id, pillar, conf=None, extra_minion_data=None):
    """
    Return the live token under the pillar key ``deploytoken``, to a gate that asks for it.

    minion_id
        (string) The minion that asks.

    pillar
        (dict) What is compiled so far; not used.

    conf
        What stands under ``deploytoken`` in ``ext_pillar``; not used.

    extra_minion_data
        (dict) What the minion sent along. The gate sends ``{"deploytoken": {"nonce", "ref", "fun", "break_glass"}}``.

    The answer holds ``held_by``, ``ref``, ``reason`` and ``since``, or ``error`` in one line; and the nonce, which
    shows that it was given to this very question and does not come out of a cache.
    """
    knock = extra_minion_data.get("deploytoken") if isinstance(extra_minion_data, dict) else None
    if not isinstance(knock, dict) or not knock.get("nonce"):
        return {}
    return {"deploytoken": {**live.answer(__opts__, minion_id, knock), "nonce": knock["nonce"]}}
