"""The master and the minions of the tests are real, and run what is in this checkout."""

import contextlib
import subprocess

import psutil
import pytest

from tests.support.salt import states


def test_salt_run_needs_no_daemon(master_config):
    config = master_config()
    answer = config.run("test.arg", "one", reason="two words", many=["a", 1])
    assert answer.code == 0
    assert answer.data["args"] == ["one"]
    assert answer.data["kwargs"] == {"reason": "two words", "many": ["a", 1]}


def test_a_command_that_is_forked_does_what_one_of_its_own_does_and_ends_when_its_time_is_over(master_config):
    config = master_config()
    for words in (["test.arg", "ö", "a=[1]"], ["deploytoken.status"], ["test.arg", "--no-such-option"]):
        forked = config.command("salt-run", *words)
        own = subprocess.run(forked.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/")
        assert (forked.code, forked.stdout, forked.stderr) == (own.returncode, own.stdout, own.stderr)

    with pytest.raises(subprocess.TimeoutExpired):
        config.command("salt-run", "test.sleep", "600", timeout=3)


def test_salt_run_knows_this_checkouts_runners(master_config):
    answer = master_config().run("deploytoken.status")
    assert (answer.code, answer.data["reason"]) == (2, "invalid"), answer


def test_salt_run_takes_the_token_of_its_own_configuration(master_config, redmine):
    page = redmine.new_page("Held by: nobody\n\nh2. History\n")
    config = master_config({"store": page, "api_key": redmine.key("alice"), "name": "Alice"})
    assert config.run("deploytoken.status").data["held_by"] is None
    assert config.run("deploytoken.acquire", reason="upgrade").code == 0
    assert "Alice" in redmine.text(page)


def test_minions_answer_and_are_synced(cluster):
    answers = cluster.salt("*", "sys.list_functions", "busy").data
    assert set(answers) == {"kingfisher-main", "docs"}
    assert all("busy.check" in functions for functions in answers.values())


def test_states_and_pillar_reach_the_minions(cluster):
    cluster.pillar_of("docs", colour="green")
    cluster.sls("web", {"colour": {"test.show_notification": [{"text": "{{ pillar.colour }}"}]}})
    answer = cluster.call("docs", "state.apply", "web")
    assert answer.code == 0, answer
    assert "green" in answer.stdout


def test_orchestrations_run_on_the_master(cluster):
    cluster.sls("orch", {"ping": {"salt.function": [{"name": "test.ping"}, {"tgt": "*"}]}})
    answer = cluster.orchestrate("orch")
    assert answer.code == 0, answer
    assert [row["result"] for row in states(answer)] == [True]


def test_the_master_reads_its_token_through_the_proxy(cluster):
    assert cluster.run("deploytoken.status").data["held_by"] is None
    assert cluster.wiki.methods()[0] == "GET"


@pytest.mark.usefixtures("cluster")
def test_nothing_listens_beyond_loopback():
    children = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = set()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # a minion's job, which has ended
            found = child.net_connections("inet")
            listening |= {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
    assert "127.0.0.1" in listening
    assert listening <= {"127.0.0.1", "::1"}
