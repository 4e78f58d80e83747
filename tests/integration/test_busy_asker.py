"""Whoever asks from a terminal on a server is not in their own way, nor in that of others who only ask or wait."""

import json

import psutil
import pytest

from tests.support.pane import Pane
from tests.support.wait import until


@pytest.fixture
def pane(cluster, tmux_session, tmp_path):
    """``pane("ana-asks")``: root's pane in that session, on the machine of kingfisher-main, which probes tmux."""
    cluster.pillar_of("kingfisher-main", busy={"tmux": {"users": ["root"]}})
    cluster.ask("*", "saltutil.refresh_pillar", wait=True)
    return lambda name, command=None: Pane(tmux_session, tmp_path, name, command)


def test_whoever_asks_from_a_pane_is_not_what_the_server_is_busy_with(cluster, pane):
    ana = pane("ana-asks")

    for before in ("", "sudo -n"):
        assert ana.type(cluster, "salt-run", "busy.check", "kingfisher-main", before=before).ended()[0] == 0, ana.told
    _, answers = ana.type(cluster, "salt", "-t", "60", "kingfisher-main", "busy.check").ended()
    assert answers["kingfisher-main"]["blockers"] == []

    pane("ben-import", "sleep 7777")
    code, answer = ana.type(cluster, "salt-run", "busy.check", "kingfisher-main").ended()
    assert (code, [one["what"] for one in answer["blockers"]]) == (7, ["ben-import: sleep 7777"])


def test_two_people_who_wait_in_their_panes_do_not_wait_for_each_other(cluster, pane):
    work = pane("cem-import", "sleep 7777")
    both = [pane("ana-waits"), pane("ben-waits")]
    times = ["timeout=10m", "interval=1s", "settle=1s"]
    for one in both:
        one.type(cluster, "salt-run", "busy.wait", "kingfisher-main", *times)
    for one in both:
        until(lambda one=one: "waiting for" in one.told or one.over, 400, "both to wait")
        assert not one.over, one.told
    assert cluster.run("busy.check", "kingfisher-main").data["message"].startswith("1 thing running (ask cem-import")
    psutil.Process(work.session.pane_pid).kill()

    assert [one.ended()[0] for one in both] == [0, 0]
    for one in both:
        # For a moment, what was killed has no more than the name of its program.
        told = [line for line in one.told.splitlines() if line.startswith("  ")]
        assert told[0].startswith("  cem-import: sleep 7777 on kingfisher-main"), one.told
        assert all(": sleep" in line for line in told), one.told


def test_a_deploy_in_a_pane_does_not_stop_itself_and_one_that_waits_for_the_token_stops_nobody(cluster, pane):
    cluster.sls("nothing", {"nothing": {"test.succeed_without_changes": []}})
    deploy = {"target": "kingfisher-main", "reason": "upgrade", "sls": ["nothing"], "wait": "15m"}
    ref = cluster.run("deploytoken.acquire", reason="repair").data["ref"]
    ana = pane("ana-deploys")
    pillar = f"pillar={json.dumps({'deploytoken': deploy})}"
    ana.type(cluster, "salt-run", "state.orchestrate", "deploytoken.deploy", pillar)
    until(lambda: "waiting" in ana.told or ana.over, 400, "the deploy to wait for the token")
    assert not ana.over, ana.told

    assert cluster.run("busy.check", "kingfisher-main").code == 0
    assert cluster.run("deploytoken.release", ref=ref, summary="repaired").code == 0
    assert ana.ended()[0] == 0, ana.told
