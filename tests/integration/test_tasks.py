"""What a deploy does on its minions, typed by hand: states, one of them, or a function, and what is said of it."""

import sys

import pytest
from salt.config import master_config

from saltext.deploytoken import config, machines
from saltext.deploytoken.machines import reboots
from saltext.deploytoken.token import Token
from tests.support import process
from tests.support.salt import argument
from tests.support.wait import until

REF = "f9c2a1b0"


@pytest.fixture(scope="module")
def _fresh(_cluster, probe):
    """The cluster's minions without what other tests left in their pillar."""
    _cluster.ask("*", "saltutil.refresh_pillar", wait=True)


@pytest.fixture
def held(cluster, _fresh):
    """The cluster, whose token is held under REF."""
    with Token(config.parse({"deploytoken": cluster.token})) as token:
        token.acquire("upgrade PostgreSQL", ref=REF)
    return cluster


def apply(site, target="docs", code=0, ref=REF, **more):
    # As words: `function` is also an argument here.
    words = [f"{name}={argument(value)}" for name, value in more.items()]
    answer = site.run("deploystates.apply", target, f"ref={ref}", *words)
    assert answer.code == code, answer
    assert not answer.traceback, answer
    return answer.data


def test_a_failed_state_says_what_its_command_wrote_and_in_which_job_all_of_it_stands(held):
    broken = "echo on stdout; echo one >&2; echo ERROR: two >&2; exit 1"
    script = held.sls("script", f"#!/bin/sh\n{broken}\n")
    states = {
        "run": {"cmd.run": [{"name": broken}]},
        "script": {"cmd.script": [{"source": "salt://script.sls"}]},
        "module": {"module.run": [{"name": "cmd.run_all"}, {"cmd": f"sh -c '{broken}'"}]},
        "after": {"cmd.run": [{"name": "true"}, {"require": [{"cmd": "run"}]}]},
    }
    held.sls("broken", states)
    answer = apply(held, code=9, sls="broken")
    script.unlink()
    failed = {row["id"]: row["comment"] for row in answer["minions"]["docs"]["failed"]}
    assert set(failed) == {"run", "script", "module"}, failed
    for comment in failed.values():
        assert comment.endswith("one / ERROR: two"), failed
    jid = answer["minions"]["docs"]["jid"]
    assert answer["message"].endswith(f"; all of it: salt-run jobs.lookup_jid {jid}")
    assert "on stdout" in held.run("jobs.lookup_jid", jid).stdout


def test_one_state_of_an_sls_with_pillar_beside_the_ref(held, tmp_path):
    words = "{{{{ pillar['site'] }}}} {{{{ pillar['deploytoken']['ref'] }}}}"
    state = f"{{0}}:\n  file.managed:\n    - name: {{1}}/{{0}}\n    - contents: {words}\n"
    held.sls("two", state.format("one", tmp_path) + state.format("other", tmp_path))
    answer = apply(held, sls="two", sls_id="one", pillar={"site": "hello"})
    assert answer["minions"]["docs"]["changed"] == ["one"]
    assert ((tmp_path / "one").read_text(), (tmp_path / "other").exists()) == (f"hello {REF}\n", False)


def test_a_function_runs_in_batches_until_it_fails_and_is_not_run_in_a_test(held, tmp_path):
    both = {"target_type": "list", "batch": 1}
    touch = {"name": "file.touch", "arg": [str(tmp_path / "touched")]}
    tested = apply(held, "docs,kingfisher-main", function=touch, test=True, **both)
    assert tested["message"] == "file.touch would be run; what it would change cannot be told"
    assert (tested["minions"], (tmp_path / "touched").exists()) == ({}, False)

    done = apply(held, "docs,kingfisher-main", function=touch, **both)
    assert (tmp_path / "touched").exists()
    assert [done["minions"][minion]["answer"] for minion in ("docs", "kingfisher-main")] == ["returned True"] * 2

    fails = {"name": "cmd.run", "arg": ["echo out; echo no space left >&2; exit 3"]}
    stopped = apply(held, "docs,kingfisher-main", 9, function=fails, **both)
    assert stopped["minions"]["docs"]["failed"] == [{"id": None, "comment": "no space left"}]
    assert stopped["not_started"] == ["kingfisher-main"]


def test_no_batch_begins_under_somebodys_work_that_began_meanwhile(held, tmp_path):
    counter = tmp_path / "counter"
    held.pillar_of("kingfisher-main", busy={"counter": {"path": str(counter)}})
    held.ask("kingfisher-main", "saltutil.refresh_pillar", wait=True)
    # The states of the first minion start a spider on the second.
    held.sls("spider", {"spider": {"cmd.run": [{"name": f"echo 9 > {counter}"}]}})
    target = {"target": "docs,kingfisher-main", "target_type": "list", "batch": 1, "sls": "spider"}
    answer = apply(held, code=7, **target)
    assert "spider uganda on kingfisher-main" in answer["message"]
    assert (list(answer["minions"]), answer["not_started"]) == (["docs"], ["kingfisher-main"])
    agreed = {"by": "Jane Doe", "for": ["kingfisher-main/counter/*"]}
    assert apply(held, consent=agreed, **target)["not_started"] == []


def test_a_minion_that_runs_states_already_is_at_work_and_its_job_is_named(held, tmp_path):
    wait = f"touch {tmp_path}/began; while ! test -e {tmp_path}/go; do sleep 0.1; done"
    held.sls("waits", {"waits": {"cmd.run": [{"name": wait}]}})
    held.sls("other", {"other": {"test.succeed_without_changes": []}})
    held.command("salt", "--async", "docs", "state.sls", "waits", out=None)
    try:
        until((tmp_path / "began").exists, 240, "the states to begin")
        answer = apply(held, code=9, sls="other", consent={"by": "Jane Doe", "for": ["docs/*"]})
    finally:
        (tmp_path / "go").touch()
    until(lambda: held.ask("docs", "state.running") == {"docs": []}, 240, "the states to end")
    summary = answer["minions"]["docs"]
    assert (summary["at_work"], summary["silent"]) == (True, False), answer
    [said] = [row["comment"] for row in summary["failed"]]
    assert said.startswith("state.sls runs there already, since 20"), said
    command = said.partition(": salt-run ")[2].partition(" shows")[0].split()
    assert "waits" in held.run(*command).stdout


def test_health_checks_of_the_documentation_fail_when_the_service_is_down(held, tmp_path):
    port = process.free_port()
    checks = {
        "network.connect": ["127.0.0.1", port],
        "http.query": [f"http://127.0.0.1:{port}/"],
        "cmd.retcode": [f"bash -c ': < /dev/tcp/127.0.0.1/{port}'"],
    }
    servers = reboots.Servers(machines.connect(master_config(str(held.folder / "master"))))
    healths = [reboots.health({"function": check, "arg": arg}) for check, arg in checks.items()]
    look = lambda: [servers.unhealthy(["docs"], health, REF, 15) for health in healths]  # noqa: E731
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port]
    service = process.start(serve, tmp_path / "log", cwd=tmp_path)
    try:
        until(lambda: process.listening(port), what="the service")
        assert look() == [{}, {}, {}]
    finally:
        process.end(service)
    for check, ill in zip(checks, look(), strict=True):
        assert ill["docs"].startswith(f"{check}: "), ill
