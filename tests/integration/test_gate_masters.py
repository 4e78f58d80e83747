"""A master that is not set up as docs/gate.md says: the gate stays closed, and the line says what to do."""

import json

import pytest

from saltext.deploytoken import config
from saltext.deploytoken.token import Token
from tests.support.salt import CHECKOUT, Cluster

# An external pillar after ours, which treats each minion differently. It raises for the gate's question alone: an
# earlier pillar with an error in it would already be the one in the cache.
UNRULY = """
def ext_pillar(minion_id, pillar, conf, extra_minion_data=None):
    if minion_id == "raises" and extra_minion_data:
        raise RuntimeError("out of order")
    if minion_id == "overwrites":
        return {"deploytoken": {**pillar.get("deploytoken", {}), "nonce": "of its own"}}
    return {"deploytoken": "nonsense"} if minion_id == "nonsense" else {}
"""


@pytest.fixture(scope="module")
def crooked(salt_factories, tmp_path_factory):
    """A running master with ``pillar_cache`` and the unruly external pillar, and its token."""
    folder = tmp_path_factory.mktemp("crooked")
    store = {"store": f"sqlite:///{folder}/token.db", "name": "Alice"}
    options = {"pillar_cache": True, "ext_pillar": [{"deploytoken": None}, {"unruly": None}]}
    master = Cluster(salt_factories, folder, store, name="crooked", auto_accept=True, **options)
    (master.states / "_pillar").mkdir()
    (master.states / "_pillar" / "unruly.py").write_text(UNRULY)
    with Token(config.parse({"deploytoken": store})) as token:
        token.store.create("Held by: nobody\n\nh2. History\n", "init")
        try:
            yield master.start(), token
        finally:
            master.stop()


@pytest.fixture
def apply(crooked, tmp_path):
    """``apply(minion_id)``: ``state.apply`` with the ref of the hold; whether it ran, and the answer."""
    master, token = crooked
    minions = {}
    mark = tmp_path / "changed"
    master.sls("work", {"work": {"file.touch": [{"name": str(mark)}]}})

    def run(minion_id):
        if minion_id not in minions:
            options = {"module_executors": ["deploygate", "direct_call"], "module_dirs": [str(CHECKOUT)]}
            minions[minion_id] = master.idle_minion(minion_id, autoload_dynamic_modules=False, **options)
        mark.unlink(missing_ok=True)
        pillar = json.dumps({"deploytoken": {"ref": ref}})
        answer = minions[minion_id].command("salt-call", "state.apply", "work", f"pillar={pillar}")
        return mark.exists(), answer

    ref = token.acquire("upgrade")["ref"]
    yield run
    if token.status()["held_by"]:
        token.release("done")


def test_an_answer_out_of_pillar_cache_opens_nothing(crooked, apply):
    _, token = crooked
    changed, answer = apply("one")
    assert changed, f"the question that fills the cache is answered for itself: {answer}"
    token.release("done")
    changed, answer = apply("one")
    assert not changed
    assert "Refused: the live deploy token in the pillar of this minion is stale" in answer.stdout + answer.stderr


def test_what_other_external_pillars_do_never_opens_the_gate(apply):
    changed, answer = apply("well")
    assert changed, answer
    for minion_id, words in [
        ("overwrites", "stale or not from the external pillar"),
        ("nonsense", "no live deploy token"),
        ("raises", "Pillar failed to render"),
    ]:
        changed, answer = apply(minion_id)
        assert not changed
        assert words in answer.stdout + answer.stderr, answer


def test_a_minion_does_not_lose_its_gate_to_another_environment(crooked):
    master, _ = crooked
    minion = master.idle_minion("synced", module_executors=["deploygate", "direct_call"])
    synced = minion.command("salt-call", "--module-executors=[direct_call]", "saltutil.sync_all", "saltenv=base")
    assert "executors.deploygate" in synced.data["local"]["executors"], synced
    master.sls("top", {"other": {"*": ["elsewhere"]}}, master.other)
    try:
        for words in (["saltenv=other"], []):  # named; and as the only environment with states for this minion
            answer = minion.command("salt-call", "state.apply", "test=True", *words)
            lost = "(_executors, _modules, _output, _states)"  # a minion does not need what else was synced
            assert f"would sync from other, and Salt would remove this extension {lost} from this" in answer.stderr, (
                answer
            )
    finally:
        (master.other / "top.sls").unlink()
