"""
The live deploy token, for the gate
===================================

.. versionadded:: 0.1.0

An external pillar tells minions who holds the token without showing them the wiki's API key. It goes into the master's
configuration (of a masterless minion: into its own), beside the key ``deploytoken`` that configures the token itself:

.. code-block:: yaml

    ext_pillar:
      - deploytoken:

Put it last: a later external pillar could overwrite its answer. The master finds a new external pillar when it starts.

It answers only the gate (:py:mod:`deploygate <saltext.deploytoken.modules.deploygate>`). Every other compilation of
pillar gets nothing from it and does not wait for the wiki. So a wiki that cannot be reached closes the gate and
disturbs nothing else.
"""

from saltext.deploytoken.gate import live


def ext_pillar(minion_id, pillar, conf=None, extra_minion_data=None):
    """
    Return the live token under the pillar key ``deploytoken``, to a gate that asks for it.

    minion_id
        (string) The minion that asks.

    pillar
        (dict) The pillar so far; not used.

    conf
        The value of ``deploytoken`` in ``ext_pillar``; not used.

    extra_minion_data
        (dict) What the minion sent along. The gate sends its question:
        ``{"deploytoken": {"nonce": …, "ref": …, "fun": …, "break_glass": {"by": …, "why": …}}}``.

    The answer has ``held_by``, ``ref``, ``reason`` and ``since``, or ``error`` in one line. Its ``nonce`` shows that
    it answers this very question and does not come out of a cache.
    """
    question = extra_minion_data.get("deploytoken") if isinstance(extra_minion_data, dict) else None
    if not isinstance(question, dict) or not question.get("nonce"):
        return {}
    return {"deploytoken": {**live.answer(__opts__, minion_id, question), "nonce": question["nonce"]}}
