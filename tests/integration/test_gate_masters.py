"""Masters that are not set up as docs/gate.md says: the gate stays closed, and the line says what to do."""

import json

import pytest

from tests.support.salt import CHECKOUT, Cluster

REF = "f9c2a1b0"
WITH_REF = {"deploytoken": {"ref": REF}}
FORGED = {"held_by": "Mallory", "ref": REF, "reason": "x", "since": "now"}
# An external pillar after ours, which treats each minion differently.
UNRULY = f"""
def ext_pillar(minion_id, pillar, conf):
    if minion_id == "raises":
        raise RuntimeError("out of order")
    if minion_id == "overwrites":
        return {{"deploytoken": {{**{FORGED!r}, "nonce": "of its own"}}}}
    return {{"deploytoken": "nonsense"}} if minion_id == "nonsense" else {{}}
"""


@pytest.fixture(scope="module")
def master(salt_factories, tmp_path_factory):
    """``master(name, modules={…}, **options)``: a running master whose token is held under ``REF``."""
    started = []

    def start(name, modules=None, **options):
        folder = tmp_path_factory.mktemp(name)
        store = {"store": f"sqlite:///{folder}/token.db", "name": "Alice"}
        made = Cluster(salt_factories, folder, store, name=name, auto_accept=True, **options)
        started.append(made)
        for module, text in (modules or {}).items():
            path = made.states / "_pillar" / f"{module}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        made.start()
        assert made.run("deploytoken.init").code == 0
        assert made.run("deploytoken.acquire", reason="upgrade", ref=REF).code == 0
        return made

    yield start
    for made in started:
        made.stop()


@pytest.fixture
def apply(tmp_path):
    """``apply(master, minion_id)``: ``state.apply`` with the hold's ref there; whether it ran, and the answer."""
    minions = {}
    mark = tmp_path / "changed"

    def run(master, minion_id):
        if minion_id not in minions:
            options = {"module_executors": ["deploygate", "direct_call"], "module_dirs": [str(CHECKOUT)]}
            minions[minion_id] = master.idle_minion(minion_id, **options)
        mark.unlink(missing_ok=True)
        master.sls("work", {"work": {"file.touch": [{"name": str(mark)}]}})
        words = ("state.apply", "work", "pillar=" + json.dumps(WITH_REF))
        answer = minions[minion_id].command("salt-call", *words)
        return mark.exists(), answer

    return run


def test_an_answer_out_of_pillar_cache_opens_nothing(master, apply):
    cached = master("cached", pillar_cache=True)
    changed, answer = apply(cached, "one")
    assert changed, f"the question that fills the cache is answered for itself: {answer}"
    assert cached.run("deploytoken.release", summary="done", ref=REF).code == 0
    changed, answer = apply(cached, "one")
    assert not changed
    assert "Refused: the live deploy token in the pillar of this minion is stale" in answer.stdout + answer.stderr


def test_a_master_whose_external_pillar_does_not_load_keeps_the_gate_closed(master, apply):
    broken = master("broken", {"deploytoken": "import no_such_module\n"})
    changed, answer = apply(broken, "one")
    assert not changed
    assert "Refused: the pillar of this minion has no live deploy token" in answer.stderr


def test_what_other_external_pillars_do_never_opens_the_gate(master, apply):
    unruly = master("unruly", {"unruly": UNRULY}, ext_pillar=[{"deploytoken": None}, {"unruly": None}])
    changed, answer = apply(unruly, "well")
    assert changed, answer
    for minion_id, words in [
        ("overwrites", "stale or not from the external pillar"),
        ("nonsense", "no live deploy token"),
        ("raises", "Pillar failed to render"),
    ]:
        changed, answer = apply(unruly, minion_id)
        assert not changed
        assert words in answer.stdout + answer.stderr, answer
