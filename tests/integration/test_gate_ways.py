"""Every way of running states on a gated minion, on a real master: closed without the hold's ref, open with it."""

import time

import pytest

from tests.support.salt import CHECKOUT

# `salt --static`, which reads the answers here, exits 0 even if every minion fails (3008.3): nothing asserts its code.
REF = "f9c2a1b0"
WITH_REF = {"deploy": {"ref": REF}}
GATE = "deploytoken.gate"


@pytest.fixture(scope="module")
def gated(_cluster):
    """A minion with the executor. It is gone again after this module: other tests count the minions."""
    _cluster.minion("gated", module_executors=["deploygate", "direct_call"], module_dirs=[str(CHECKOUT)], schedule={})
    yield "gated"
    _cluster.dismiss("gated")


@pytest.fixture
def mark(cluster, gated, tmp_path):
    """The file that every state of these tests makes: it must not be there after a refused run."""
    path = tmp_path / "changed"
    cluster.top(**{"*": [GATE, "work"]})
    cluster.sls("work", {"work": {"file.touch": [{"name": str(path)}]}})
    cluster.sls("top2", {"base": {"*": ["work"]}})
    return path


def acquire(cluster, ref=REF, reason="upgrade PostgreSQL"):
    answer = cluster.run("deploytoken.acquire", reason=reason, ref=ref)
    assert answer.code == 0, answer


def release(cluster, ref=REF):
    answer = cluster.run("deploytoken.release", summary="done", ref=ref)
    assert answer.code == 0, answer


def ways(path):
    """Function, positional and named arguments, of every function of Salt that runs states on a minion."""
    high = {"work": {"file": ["touch", {"name": path}]}}
    low = {"state": "file", "fun": "touch", "name": path, "__id__": "work"}
    text = f"work:\n  file.touch:\n    - name: {path}\n"
    return {
        "apply": ("state.apply", [], {}),
        "apply an SLS": ("state.apply", ["work"], {}),
        "highstate": ("state.highstate", [], {}),
        "highstate without its gate": ("state.highstate", [], {"exclude": [{"sls": GATE}]}),
        "sls": ("state.sls", ["work"], {}),
        "sls_id": ("state.sls_id", ["work", "work"], {}),
        "single": ("state.single", ["file.touch"], {"name": path}),
        "top": ("state.top", ["top2.sls"], {}),
        "high": ("state.high", [high], {}),
        "low": ("state.low", [low], {}),
        "template_str": ("state.template_str", [text], {}),
        "concurrent": ("state.sls", ["work"], {"concurrent": True}),
        "queued": ("state.sls", ["work"], {"queue": True}),
        "another saltenv": ("state.sls", ["work"], {"saltenv": "base", "pillarenv": "base"}),
        "a run_request": ("state.run_request", [], {}),
    }


@pytest.mark.parametrize("way", ways(""))
def test_no_way_of_running_states_passes_the_executor(cluster, mark, gated, way):
    function, positional, named = ways(str(mark))[way]
    answer = cluster.salt(gated, function, *positional, **named)
    assert "Refused: nobody holds the deploy token" in answer.data[gated], answer
    assert not mark.exists()


@pytest.mark.parametrize("way", sorted(set(ways("")) - {"a run_request", "low", "template_str", "single"}))
def test_with_the_ref_every_way_is_open(cluster, mark, gated, way):
    acquire(cluster)
    function, positional, named = ways(str(mark))[way]
    answer = cluster.salt(gated, function, *positional, **named, pillar=WITH_REF)
    assert mark.exists(), answer


@pytest.mark.parametrize("way", ["apply", "apply an SLS"])
def test_salt_call_is_gated_as_well(cluster, mark, gated, way):
    function, positional, named = ways(str(mark))[way]
    answer = cluster.call(gated, function, *positional, **named)
    assert answer.code != 0, answer
    assert "Refused" in answer.stderr
    assert not mark.exists()
    acquire(cluster)
    assert cluster.call(gated, function, *positional, **named, pillar=WITH_REF).code == 0
    assert mark.exists()


def test_batches_are_gated(cluster, mark, gated):
    answer = cluster.command("salt", "-b", "1", gated, "state.apply", "work")
    assert "Refused" in answer.stdout, answer
    assert not mark.exists()


def test_of_several_functions_in_one_publish_the_one_that_runs_states_is_refused(cluster, mark, gated):
    answer = cluster.command("salt", "--static", gated, "test.ping,state.sls", ",", "work")
    assert answer.data[gated]["test.ping"] is True, answer
    assert "Refused" in answer.data[gated]["state.sls"]
    assert not mark.exists()


def test_what_runs_no_states_is_not_gated(cluster, gated):
    answers = cluster.salt(gated, "state.show_top").data, cluster.salt(gated, "test.ping").data
    assert answers[0][gated] == {}
    assert answers[1][gated] is True


@pytest.mark.parametrize("minion", ["gated", "docs"])
def test_a_forged_pillar_opens_nothing(cluster, mark, minion):
    forged = {"held_by": "Mallory", "ref": REF, "reason": "x", "since": "now"}
    answer = cluster.salt(minion, "state.apply", pillar={"deploytoken": forged, "deploygate": "off", **WITH_REF})
    assert "Refused" in answer.stdout
    assert not mark.exists()


def test_a_test_run_passes_and_changes_nothing(cluster, mark, gated):
    answer = cluster.salt(gated, "state.apply", test=True)
    assert [row["result"] for row in answer.data[gated].values()] == [True, None], answer
    assert not mark.exists()


def test_test_is_believed_only_of_functions_that_keep_to_it(cluster, mark, gated):
    function, positional, named = ways(str(mark))["low"]
    answer = cluster.salt(gated, function, *positional, **named, test=True)
    assert "Refused" in answer.stdout, answer
    assert not mark.exists()


def test_the_top_file_s_gate_stops_a_highstate_before_any_state(cluster, mark):
    answer = cluster.salt("docs", "state.apply")
    (row,) = answer.data["docs"].values()
    assert row["comment"].startswith("Refused: nobody holds the deploy token")
    acquire(cluster)
    refused = cluster.salt("docs", "state.apply")
    assert "Ask Alice" in refused.stdout, refused
    assert not mark.exists()
    answer = cluster.salt("docs", "state.apply", pillar=WITH_REF)
    assert mark.exists(), answer


def test_a_hold_that_ended_or_was_taken_over_closes_the_gate(cluster, mark, gated):
    acquire(cluster)
    assert cluster.salt(gated, "deploygate.check", pillar=WITH_REF).data[gated]["allowed"]
    assert cluster.run("deploytoken.takeover", ref=REF, reason="Alice is away", name="Bob").code == 0
    time.sleep(3.1)  # the age that an answer may have; see saltext.deploytoken.live
    answer = cluster.salt(gated, "state.apply", pillar=WITH_REF)
    assert "is over" in answer.data[gated], answer
    assert "Bob" in answer.data[gated]
    assert not mark.exists()


def test_a_wiki_that_is_away_closes_the_gate_and_disturbs_nothing_else(cluster, mark, gated, redmine):
    acquire(cluster)
    with redmine.stopped():
        for minion in (gated, "docs"):
            answer = cluster.salt(minion, "state.apply", pillar=WITH_REF)
            assert "Refused: who holds the deploy token cannot be told" in answer.stdout, answer
        assert not mark.exists()
        assert set(cluster.salt("*", "test.ping").data) == {gated, "docs", "kingfisher-main"}
        assert "_errors" not in cluster.salt(gated, "pillar.items").data[gated]
        assert "Refused" not in cluster.salt(gated, "state.apply", pillar=WITH_REF, test=True).stdout
    time.sleep(3.1)  # an error is shared for as long as an answer
    answer = cluster.salt(gated, "state.apply", pillar=WITH_REF)
    assert mark.exists(), answer


def test_many_minions_cost_the_wiki_one_or_two_requests_and_no_key_reaches_them(cluster, gated, redmine):
    acquire(cluster)
    time.sleep(3.1)
    before = len(cluster.wiki.methods())
    answer = cluster.salt("*", "deploygate.check", pillar=WITH_REF)
    assert {minion: told["allowed"] for minion, told in answer.data.items()} == dict.fromkeys(
        ["gated", "docs", "kingfisher-main"], True
    )
    assert 1 <= len(cluster.wiki.methods()) - before <= 2
    assert redmine.key("alice") not in cluster.salt("*", "pillar.items", unmask=True).stdout


def test_broken_glass_passes_and_raises_an_event(cluster, mark, gated):
    answer = cluster.salt(gated, "state.apply", pillar={"deploy": {"break_glass": "the site is down", "by": "Alice"}})
    assert mark.exists(), answer
    assert "Glass broken by Alice: the site is down" in answer.stdout


def test_warn_runs_and_warns(cluster, mark, gated):
    cluster.pillar_of("*", deploygate="warn")
    answer = cluster.salt(gated, "state.apply")
    assert mark.exists(), answer
    assert "NOT ENFORCED HERE" in answer.stdout
