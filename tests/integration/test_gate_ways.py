"""Every way of running states on a gated minion, on a real master: closed without the hold's ref, open with it."""

import concurrent.futures
import itertools
import json
import pathlib
import re

import pytest

from saltext.deploytoken import config, people
from saltext.deploytoken.token import Token
from tests.support.gate import age
from tests.support.proxy import BEFORE, Hold, drop
from tests.support.salt import CHECKOUT
from tests.support.wait import until

REF = "f9c2a1b0"
WITH_REF = {"deploytoken": {"ref": REF}}
GATE = "deploytoken.gate"
EXECUTORS = ["deploygate", "direct_call"]


@pytest.fixture(scope="module")
def gated(_cluster):
    """A minion with the executor. It is gone again after this module: other tests count the minions."""
    options = {"module_executors": EXECUTORS, "module_dirs": [str(CHECKOUT)], "schedule": {}}
    # A highstate would sync the modules, which are there already, in two seconds.
    _cluster.minion("gated", sync=False, autoload_dynamic_modules=False, **options)
    yield "gated"
    _cluster.dismiss("gated")


@pytest.fixture
def mark(cluster, gated, tmp_path, request):
    """The file that every state of these tests makes: it must not be there after a refused run."""
    path = tmp_path / "changed"
    cluster.top(**{"*": [GATE, "work"]})
    cluster.sls("work", {"work": {"file.touch": [{"name": str(path)}]}})
    cluster.sls("top2", {"base": {"*": ["work"]}})
    cluster.sls("elsewhere", {"elsewhere": {"file.touch": [{"name": str(path)}]}}, cluster.other)
    if "saltenv" in request.node.name:  # a highstate runs what the top files of all saltenvs say together
        cluster.sls("top", {"other": {"*": ["elsewhere"]}}, cluster.other)
    return path


def touch(path):
    return {path.name: {"file.touch": [{"name": str(path)}]}}


@pytest.fixture
def token(cluster):
    """The token of the cluster's wiki page, in this process."""
    with Token(config.parse({"deploytoken": cluster.token}), account=people.account(cluster.master.config)) as opened:
        yield opened


@pytest.fixture
def held(token):
    token.acquire("upgrade PostgreSQL", ref=REF)


def cachedir(cluster):
    return pathlib.Path(cluster.master.config["cachedir"])


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
        "an SLS of another saltenv": ("state.sls", ["elsewhere"], {"saltenv": "other", "pillarenv": "other"}),
        "a highstate of another saltenv": ("state.apply", [], {"saltenv": "other"}),
        "a run_request": ("state.run_request", [], {}),
    }


@pytest.mark.parametrize("way", ways(""))
def test_no_way_of_running_states_passes_the_executor(cluster, mark, gated, way):
    function, positional, named = ways(str(mark))[way]
    answer = cluster.ask(gated, function, *positional, **named)
    assert "Refused: nobody holds the deploy token" in answer[gated], answer
    assert not mark.exists()


@pytest.mark.parametrize("way", sorted(set(ways("")) - {"a run_request", "low", "template_str", "single"}))
def test_with_the_ref_every_way_is_open(cluster, mark, gated, held, way):
    function, positional, named = ways(str(mark))[way]
    answer = cluster.ask(gated, function, *positional, **named, pillar=WITH_REF)
    assert mark.exists(), answer


@pytest.mark.parametrize("way", ["apply", "apply an SLS"])
def test_salt_call_is_gated_as_well(cluster, mark, gated, token, way):
    function, positional, named = ways(str(mark))[way]
    answer = cluster.call(gated, function, *positional, **named)
    assert answer.code != 0, answer
    assert "Refused" in answer.stderr
    assert not mark.exists()
    token.acquire("upgrade PostgreSQL", ref=REF)
    assert cluster.call(gated, function, *positional, **named, pillar=WITH_REF).code == 0
    assert mark.exists()


def scheduled(wait, job):
    """What the minion's scheduler sends back for this job."""
    return wait(lambda tag, data: data.get("schedule") == job and tag.endswith("/ret/gated"), f"the job {job}")


def test_of_the_schedule_what_begins_with_the_gate_s_state_is_refused_and_the_rest_is_listed(cluster, mark, gated):
    cluster.sls("includes", {"include": [GATE], **touch(mark)})
    jobs = {"highstate": ("state.highstate", []), "includes": ("state.apply", ["includes"])}
    bare = mark.with_name("bare")
    cluster.sls("bare", touch(bare))
    with cluster.events() as wait:
        for job, (function, positional) in {**jobs, "bare": ("state.apply", ["bare"])}.items():
            when = {"seconds": 3600, "run_on_start": True, "return_job": True, "persist": False}
            added = cluster.ask(gated, "schedule.add", job, function=function, job_args=positional, **when)
            assert added[gated]["result"], added
            answer = scheduled(wait, job)
            if job in jobs:
                (row,) = answer["return"].values()
                assert row["comment"].startswith("Refused: nobody holds the deploy token"), answer
                assert not mark.exists()
    assert bare.exists(), "the scheduler passes the executor by: if it no longer does, say so in docs/gate.md"
    found = cluster.ask(gated, "deploygate.ways")[gated]
    for job in ("highstate", "includes", "bare"):
        cluster.ask(gated, "schedule.delete", job, persist=False)
    assert [found[key] for key in ("executor", "gate_state", "live_token")] == [True, True, True]
    (line,) = found["open"]
    assert line.startswith("The scheduled job bare (state.apply) passes")


def test_at_the_minion_s_start_an_sls_is_refused_by_the_executor_and_a_highstate_by_the_gate_s_state(cluster, mark):
    starters = {
        "state.sls": {"startup_states": "sls", "sls_list": ["work"], "module_executors": EXECUTORS},
        "state.highstate": {"startup_states": "highstate"},
    }
    answers = {}

    def begin(fun):
        cluster.minion(fun, sync=False, module_dirs=[str(CHECKOUT)], **starters[fun])

    def come(_tag, data):
        if data.get("fun") in starters and data.get("id") == data["fun"]:
            answers[data["fun"]] = str(data["return"])
        return answers.keys() == starters.keys()

    with cluster.events() as wait:
        try:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(begin, starters))
            wait(come, "both starts")
        finally:
            cluster.dismiss(*starters)
    for answer in answers.values():
        assert "Refused: nobody holds the deploy token" in answer
    assert not mark.exists()


def test_a_queued_run_is_asked_again_when_it_begins(cluster, mark, gated, token, held):
    go, begun = mark.with_name("go"), mark.with_name("begun")
    cluster.sls("slow", {"slow": {"cmd.run": [{"name": f"touch {begun}; until [ -e {go} ]; do sleep 0.1; done"}]}})
    with cluster.events() as wait:
        try:
            cluster.command("salt", "--async", gated, "state.apply", "slow", "pillar=" + json.dumps(WITH_REF))
            until(begun.exists, 240, "the first run to begin")
            assert cluster.ask(gated, "deploygate.ways")[gated]["open"] == [], "a run of states opens nothing"
            words = ("state.sls", "work", "queue=True", "pillar=" + json.dumps(WITH_REF))
            job = re.search(r"\d{20}", cluster.command("salt", "--async", gated, *words).stdout).group()
            queues = pathlib.Path(cluster.minions[gated].config["cachedir"]) / "queues"
            until(lambda: list(queues.rglob(f"queued_*_{job}.p")), 240, "the second run to be queued")
            token.release("done", ref=REF)
            age(cachedir(cluster))
        finally:
            go.touch()
        answer = wait(lambda tag, data: tag == f"salt/job/{job}/ret/{gated}", "the second run")
    assert "Refused: nobody holds the deploy token" in str(answer["return"]), answer
    assert not mark.exists()


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
    assert cluster.ask(gated, "state.show_top") == {gated: {}}
    assert cluster.ask(gated, "test.ping") == {gated: True}


@pytest.mark.parametrize("minion", ["gated", "docs"])
def test_a_forged_pillar_opens_nothing(cluster, mark, minion):
    forged = {"held_by": "Mallory", "ref": REF, "reason": "x", "since": "now"}
    answer = cluster.ask(minion, "state.apply", pillar={"deploytoken": forged, "deploygate": "off"})
    assert "Refused: nobody holds the deploy token" in str(answer[minion]), answer
    assert not mark.exists()


def test_a_test_run_passes_and_changes_nothing(cluster, mark, gated):
    answer = cluster.ask(gated, "state.apply", test=True)
    assert [row["result"] for row in answer[gated].values()] == [True, None], answer
    assert not mark.exists()


def test_a_function_that_does_not_honour_test_does_not_pass_with_it(cluster, mark, gated):
    function, positional, named = ways(str(mark))["low"]
    answer = cluster.ask(gated, function, *positional, **named, test=True)
    assert "Refused" in answer[gated], answer
    assert not mark.exists()


def test_the_top_file_s_gate_stops_a_highstate_before_any_state(cluster, mark, token):
    answer = cluster.ask("docs", "state.apply")
    (row,) = answer["docs"].values()
    assert row["comment"].startswith("Refused: nobody holds the deploy token")
    token.acquire("upgrade PostgreSQL", ref=REF)
    age(cachedir(cluster))
    answer = cluster.ask("docs", "state.apply")
    (row,) = answer["docs"].values()
    assert "Ask Alice" in row["comment"]
    assert not mark.exists()
    answer = cluster.ask("docs", "state.apply", pillar=WITH_REF)
    assert mark.exists(), answer


def test_a_hold_that_ended_or_was_taken_over_closes_the_gate(cluster, mark, gated, token, held):
    assert cluster.ask(gated, "deploygate.check", pillar=WITH_REF)[gated]["allowed"]
    token.take_over("Alice is away", ref=REF, name="Bob")
    age(cachedir(cluster))
    answer = cluster.ask(gated, "state.apply", pillar=WITH_REF)
    assert "is over" in answer[gated], answer
    assert "Bob" in answer[gated]
    assert not mark.exists()


def test_a_wiki_that_is_away_closes_the_gate_and_disturbs_nothing_else(cluster, mark, gated, held):
    cluster.wiki.faults(lambda *_: drop(BEFORE))
    for minion in (gated, "docs"):
        answer = cluster.ask(minion, "state.apply", pillar=WITH_REF)
        assert "Refused: cannot tell who holds the deploy token" in str(answer[minion]), answer
    assert not mark.exists()
    assert set(cluster.ask("*", "test.ping")) == {gated, "docs", "kingfisher-main"}
    assert "_errors" not in cluster.ask(gated, "pillar.items")[gated]
    assert "Refused" not in str(cluster.ask(gated, "state.apply", pillar=WITH_REF, test=True))
    cluster.wiki.clear()
    age(cachedir(cluster))
    answer = cluster.ask(gated, "state.apply", pillar=WITH_REF)
    assert mark.exists(), answer


def test_a_wiki_that_hangs_closes_the_gate_in_time_for_all_who_wait(cluster, gated, held):
    before = len(cluster.wiki.methods())
    hold = Hold()
    cluster.wiki.faults(lambda _method, _path, _n: hold)
    try:
        # The wiki answers none before this ends.
        answer = cluster.ask("*", "deploygate.check", pillar=WITH_REF)
        asked = len(cluster.wiki.methods()) - before
    finally:
        hold.release()
        cluster.wiki.settled()
    assert set(answer) == {gated, "docs", "kingfisher-main"}
    for verdict in answer.values():
        assert verdict["comment"].startswith("Refused: cannot tell who holds the deploy token"), answer
        assert not verdict["allowed"]
    assert 1 <= asked <= 3, "one request for all who wait; and one or two more where the machine is slow"


def test_many_minions_cost_the_wiki_one_request_for_seconds_and_no_key_reaches_them(cluster, gated, held, redmine):
    before = len(cluster.wiki.methods())
    answer = cluster.ask("*", "deploygate.check", pillar=WITH_REF)
    assert {minion: verdict["allowed"] for minion, verdict in answer.items()} == dict.fromkeys(
        ["gated", "docs", "kingfisher-main"], True
    )
    asked = [request.at for request in cluster.wiki.log[before:]]
    # All at once, or where the machine is busy and one of them late, again when the first answer is too old for it.
    assert asked
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(asked)), asked
    pillars = cluster.ask("*", "pillar.items", unmask=True)
    assert set(pillars) == {"gated", "docs", "kingfisher-main"}
    assert redmine.key("alice") not in str(pillars)


def test_broken_glass_passes_is_logged_and_announced_and_stands_in_the_next_history_entry(
    cluster, mark, gated, redmine, token
):
    log = pathlib.Path(cluster.minions[gated].config["log_file"])
    before = log.stat().st_size
    with cluster.events() as wait:
        glass = {"break_glass": "the site is down", "by": "Bob"}
        answer = cluster.ask(gated, "state.apply", pillar={"deploytoken": glass})
        event = wait(lambda tag, data: tag == "deploytoken/gate/broken", "the event")
    assert mark.exists(), answer
    assert "Glass broken by Bob: the site is down" in str(answer)
    assert event["id"] == gated
    assert (event["data"]["by"], event["data"]["why"]) == ("Bob", "the site is down")
    assert "Glass broken by Bob: the site is down" in log.read_bytes()[before:].decode()
    token.acquire("mend the site", ref=REF)
    released = cluster.run("deploytoken.release", summary="mended", ref=REF)
    assert "Bob broke the glass on gated: the site is down" in released.data["entry"]
    assert released.data["entry"] in redmine.text(cluster.page)


def test_warn_runs_and_warns(cluster, mark, gated):
    cluster.pillar_of("*", deploygate="warn")
    answer = cluster.ask(gated, "state.apply")
    assert mark.exists(), answer
    assert "NOT ENFORCED HERE" in str(answer)


def test_a_warning_of_the_executor_alone_is_on_the_event_bus_and_in_a_terminal(cluster, mark, gated):
    cluster.pillar_of("*", deploygate="warn")
    words = "NOT ENFORCED HERE (deploygate: warn). Would be refused: nobody holds the deploy token"
    with cluster.events() as wait:
        answer = cluster.ask(gated, "state.apply", "work")
        event = wait(lambda tag, data: tag == "deploytoken/gate/warned", "the event")
    assert mark.exists(), answer
    assert event["id"] == gated
    assert event["data"]["comment"].startswith(words)
    assert words in cluster.call(gated, "state.apply", "work").stderr


def test_off_asks_nothing(cluster, mark, gated):
    cluster.pillar_of("*", deploygate="off")
    answer = cluster.ask(gated, "state.apply")
    assert mark.exists(), answer
    assert "The gate of this minion is off" in str(answer)
