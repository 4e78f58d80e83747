"""``salt-run busy.check``, ``busy.wait`` and the state, on a real master: who did not clearly say idle blocks."""

import getpass
import json
import pathlib
import shlex
import sys

import pytest

from tests.support import process
from tests.support.deploy import stopped
from tests.support.salt import Result, states
from tests.support.wait import until


@pytest.fixture
def configure(cluster):
    """``configure(busy)``: what is configured for kingfisher-main in pillar; nothing for the others."""

    def configure(busy):
        cluster.pillar_of("kingfisher-main", busy=busy)
        cluster.ask("*", "saltutil.refresh_pillar", wait=True)

    configure({})
    return configure


#: A module ``busy`` that answers what stands in a file, and that has no function while there is none; or an old one.
ODD = """
import pathlib

ANSWER = pathlib.Path({!r})
if ANSWER.exists():
    def check(asking=None):
        return eval(ANSWER.read_text())
    if ANSWER.read_text() == "old":
        def check():
            return {{}}
"""


def test_minions_without_configured_checks_are_idle_and_say_so(cluster, configure):
    answer = cluster.run("busy.check", "*", consent=None)

    assert answer.code == 0, answer
    assert answer.data["idle"] is True
    assert {"docs", "kingfisher-main"} <= set(answer.data["expected"])
    assert answer.data["minions"]["docs"]["note"] == "no checks configured"
    assert answer.stderr.count("Traceback") == 0


def test_a_busy_minion_blocks_and_consent_covers_what_it_names_and_nothing_else(cluster, configure, scrapyd):
    first, second = scrapyd.schedule(note="Started by Ana"), scrapyd.schedule(note="Started by Ben")
    scrapyd.running(first), scrapyd.running(second)
    configure({"scrapyd": [{"url": scrapyd.url}]})

    busy = cluster.run("busy.check", "k*")
    assert (busy.code, busy.data["reason"]) == (7, "busy"), busy
    assert "Started by Ana" in busy.data["message"]
    ids = [f"kingfisher-main/scrapyd/kingfisher:collect:{job[:6]}" for job in (first, second)]
    assert sorted(blocker["id"] for blocker in busy.data["blockers"]) == sorted(ids)

    half = cluster.run("busy.check", "k*", consent={"by": "Jane Doe, helpdesk", "for": [ids[0]]})
    assert half.code == 7
    assert [blocker["id"] for blocker in half.data["blockers"]] == [ids[1]]
    assert [one["by"] for one in half.data["consented"]] == ["Jane Doe, helpdesk"]

    why, command = half.data["next"]
    assert why == "If Started by Ben agrees"
    agreed = cluster.command(*shlex.split(command))
    assert agreed.code == 0, agreed
    assert [one["by"] for one in agreed.data["consented"]] == ["Jane Doe, helpdesk", "Started by Ben"]
    assert [[blocker["id"] for blocker in one["to"]] for one in agreed.data["consented"]] == [[ids[0]], [ids[1]]]

    minion = cluster.salt("k*", "busy.check")
    assert minion.data["kingfisher-main"]["idle"] is False
    assert set(ids) <= {one["id"] for one in minion.data["kingfisher-main"]["blockers"]}

    table = cluster.run("busy.check", "k*", out=None).stdout
    assert max(len(line) for line in table.splitlines() if "/" not in line) <= 80
    assert "kingfisher-main: busy" in table
    assert "Started by Ana" in table
    assert "  salt-run busy.check target='k*' consent='[{" in table


def test_states_that_run_on_a_minion_block_and_name_who_runs_them(cluster, configure, tmp_path):
    began, go = tmp_path / "began", tmp_path / "go"
    wait = f"touch {began}; while ! test -e {go}; do sleep 0.1; done"
    cluster.sls("waits", f"waits:\n  cmd.run:\n    - name: '{wait}'\n")
    salt = pathlib.Path(sys.executable).with_name("salt")
    running = process.start([salt, "-c", cluster.folder, "kingfisher-main", "state.sls", "waits"], tmp_path / "log")
    try:
        until(began.exists, what="the states to begin")
        busy = cluster.run("busy.check", "*")
    finally:
        go.touch()
        running.wait(60)
        process.end(running)
    idle = cluster.run("busy.wait", "*", "timeout=1m", interval="1s", settle="1s")

    assert (busy.code, busy.data["reason"]) == (7, "busy"), busy
    (blocker,) = busy.data["blockers"]
    jid = blocker["id"].removeprefix("kingfisher-main/salt/")
    assert (blocker["what"], blocker["ask"], len(jid)) == ("state.sls", getpass.getuser(), 20)
    assert f"(ask {getpass.getuser()}): state.sls on kingfisher-main for" in busy.data["message"]
    assert idle.code == 0, idle


def test_a_target_that_matches_nobody_blocks(cluster):
    answer = cluster.run("busy.check", "kingfisherr*")

    assert (answer.code, answer.data["reason"]) == (7, "busy"), answer
    assert "'kingfisherr*' matches no minion" in answer.data["message"]


def test_an_id_in_a_list_that_no_minion_has_blocks_and_is_named(cluster):
    answer = cluster.run("busy.check", "docs,dosc", target_type="list")

    assert answer.code == 7, answer
    assert answer.data["expected"] == ["docs", "dosc"]
    assert "no accepted key" in answer.data["failed"]["dosc"]


def test_a_silent_minion_blocks_and_is_named(cluster):
    with stopped(cluster.minion("docs")):
        answer = cluster.run("busy.check", "docs,kingfisher-main", "list", "timeout=10")
        consented = cluster.run("busy.check", "docs", "timeout=3", consent="Jane")

    assert answer.code == 7, answer
    assert "did not answer within 10 seconds" in answer.data["failed"]["docs"]
    assert "docs did not answer" in answer.data["message"]
    assert "kingfisher-main" in answer.data["minions"]
    assert consented.code == 7
    until(lambda: "docs" in cluster.ask("docs", "test.ping", timeout=5), 120, "docs to be back")


def test_a_minion_without_a_clear_answer_blocks_and_is_named(cluster, tmp_path):
    answer = tmp_path / "answer"
    (tmp_path / "_modules").mkdir()
    (tmp_path / "_modules" / "busy.py").write_text(ODD.format(str(answer)))
    cluster.minion("odd", module_dirs=[str(tmp_path)])
    try:
        for body, why in (
            (None, "'busy.check' is not available"),
            ("old", "has an older busy.check than this master: run `salt '*' saltutil.sync_modules`"),
            ("1 / 0", "division by zero"),
            ("{'idle': True}", "something else than busy.check"),
            ("True", "something else than busy.check"),
        ):
            if body:
                answer.write_text(body)
            found = cluster.run("busy.check", "odd", consent="Jane")
            assert found.code == 7, found
            assert why in found.data["failed"]["odd"]
            assert not found.traceback
    finally:
        cluster.dismiss("odd")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "target"),
        ({"target": "*", "target_type": "globe"}, "target_type"),
        ({"target": "*", "timeout": "soon"}, "timeout"),
        ({"target": "*", "consent": {"for": ["x"]}}, "consent"),
        ({"target": "*", "consent": {"by": "", "for": ["x"]}}, "consent"),
        ({"target": "*", "consent": {"by": "Jane", "for": []}}, "consent"),
        ({"target": "*", "force": True}, "force"),
    ],
)
def test_wrong_arguments_exit_with_2_and_are_named(master_config, arguments, why):
    words = [f"{name}={json.dumps(value)}" for name, value in arguments.items()]
    answer = master_config().run("busy.check", *words)

    assert (answer.code, answer.data["reason"]) == (2, "invalid"), answer
    assert why in answer.data["message"]


def test_waiting_ends_when_the_spider_does_and_tells_what_is_left(cluster, configure, scrapyd):
    scrapyd.running()
    configure({"scrapyd": [{"url": scrapyd.url}]})

    process = cluster.popen("busy.wait", "k*", timeout="1h", interval="1s", settle="2s")
    told = []
    for line in process.stderr:
        told.append(line)
        if "kingfisher/collect is running" in line:
            scrapyd.finish()
            break
    output, more = process.communicate(timeout=600)

    answer = Result(process.args, process.returncode, output, "".join(told) + more)
    assert answer.code == 0, answer
    assert answer.data["idle"] is True
    assert answer.data["waited"] >= 2
    assert "waiting for 1 thing" in answer.stderr


def test_waiting_gives_up_in_time_and_says_what_is_left(cluster, configure, scrapyd):
    scrapyd.running()
    configure({"scrapyd": [{"url": scrapyd.url}]})

    answer = cluster.run("busy.wait", "k*", "timeout=4s", interval="1s")

    assert answer.code == 7, answer
    assert "Still not idle after 4 seconds: 1 thing running" in answer.data["message"]
    assert "stuck" not in answer.data


def test_a_queue_that_nothing_starts_is_stuck_and_not_waited_for(cluster, configure, scrapyd_factory):
    scrapyd = scrapyd_factory(poll_interval=3600)
    job = scrapyd.schedule()
    configure({"scrapyd": {"url": scrapyd.url}})

    answer = cluster.run("busy.wait", "k*", "timeout=1h", interval="1s", stuck="3s")

    assert answer.code == 7, answer
    assert answer.data["message"].startswith("Stuck: 1 job pending for 3 seconds")
    assert answer.data["stuck"][0]["id"].endswith(job[:6])


def test_the_step_stops_an_orchestration_and_says_whom_to_ask(cluster, configure, scrapyd):
    """An orchestration of a team's own, with two of our steps and one of its own after them."""
    steps = {
        "request": {"deploytoken.requested": []},
        "idle": {"deploytoken.idle": [{"require": [{"deploytoken": "request"}]}]},
        "next": {"test.succeed_without_changes": [{"require": [{"deploytoken": "idle"}]}]},
    }
    cluster.sls("steps", steps)
    asked = {"target": "k*", "reason": "upgrade"}

    idle = cluster.orchestrate("steps", **asked)
    assert [row["result"] for row in states(idle)] == [True, True, True], idle
    assert states(idle)[1]["expected"] == ["kingfisher-main"]

    scrapyd.running(scrapyd.schedule(note="Started by Ana"))
    configure({"scrapyd": [{"url": scrapyd.url}]})
    for test in (None, True):
        busy = cluster.orchestrate("steps", test=test, **asked)
        assert [row["result"] for row in states(busy)] == [True, False, False], busy
        assert busy.code == 1
        assert "Started by Ana" in states(busy)[1]["comment"]
        assert '"by": "Started by Ana"' in states(busy)[1]["comment"]

    agreed = cluster.orchestrate("steps", **asked, consent={"by": "Jane", "for": ["kingfisher-main/scrapyd/*"]})
    assert [row["result"] for row in states(agreed)] == [True, True, True], agreed
    assert [one["by"] for one in states(agreed)[1]["consented"]] == ["Jane"]
    assert states(agreed)[1]["changes"] == {}
