"""The postgres probe (module pgactivity), against a real PostgreSQL."""

import json
import os
import signal
import subprocess

import psutil
import pytest
from salt.exceptions import SaltInvocationError

from tests.support import minion, process
from tests.support.wait import until

OTHERS = "pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@pytest.fixture
def ask(checkout, tmp_path, postgres):
    functions = minion.functions(checkout, tmp_path)

    def ask(**settings):
        there = {"user": postgres.user, "host": postgres.host, "port": postgres.port, "role": "postgres"}
        return functions["pgactivity.probe"](**{**there, **settings})

    return ask


@pytest.fixture
def query(postgres):
    started = []

    def query(*statements):
        started.append(postgres.session(*statements))
        sql = statements[-1]
        marker = sql.split("'")[1] if "'" in sql else sql[:20]
        running = f"SELECT count(*) FROM {OTHERS} AND state = 'active' AND query LIKE '%{marker}%'"
        until(lambda: postgres.query(running) != "0", what="the query to run")

    yield query
    for one in started:
        process.end(one)
    postgres.query(f"SELECT pg_terminate_backend(pid) FROM {OTHERS}")
    left = f"SELECT count(*) FROM {OTHERS}"
    until(lambda: postgres.query(left) == "0", what="the queries to end")


def test_a_query_that_is_old_enough_blocks_and_says_whose_it_is_without_its_text(ask, query):
    query("/* started by Ana\nfor the report */ SELECT pg_sleep(7777), 'hunter2'")

    (blocker,) = ask(older_than=0)["blockers"]

    assert blocker["what"] == "SELECT in postgres: started by Ana for the report"
    assert blocker["user"] == "postgres"
    assert blocker["ask"] == "postgres (psql)"
    assert "hunter2" not in json.dumps(blocker)
    assert ask(older_than="1h") == {"blockers": [], "unknowns": [], "info": []}


def test_a_short_query_of_a_long_transaction_is_as_old_as_the_transaction(ask, postgres, query):
    query("BEGIN", "SELECT pg_sleep(1)", "SELECT pg_sleep(7777), 'second'")

    assert len(ask(older_than=1)["blockers"]) == 1
    assert ask(older_than="1h")["blockers"] == []


def test_a_long_transaction_blocks_between_two_of_its_queries_as_well(ask, postgres):
    """As pg_dump's, and those of an import that computes in between: a look need not hit a query."""
    client = subprocess.Popen(
        postgres.psql("-q"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", text=True
    )
    try:
        client.stdin.write("BEGIN; /* an import */ SELECT pg_sleep(0.5);\n")
        client.stdin.flush()
        idle = f"SELECT count(*) FROM {OTHERS} AND state = 'idle in transaction' AND query LIKE '%pg_sleep%'"
        until(lambda: postgres.query(idle) != "0", 10, "the query to end")

        assert [one["what"] for one in ask(older_than=0.5)["blockers"]] == ["SELECT in postgres: an import"]
        assert ask(older_than="1h")["blockers"] == []
    finally:
        client.stdin.close()
        client.wait(10)


def test_a_role_that_cannot_see_is_unknown_and_not_idle(ask, postgres, query):
    postgres.query("CREATE ROLE blind LOGIN")
    query("SELECT pg_sleep(7777), 'unseen'")

    blind = ask(role="blind", database="postgres", older_than=0)
    postgres.query("GRANT pg_monitor TO blind")
    sighted = ask(role="blind", database="postgres", older_than=0)

    assert (blind["blockers"], len(blind["unknowns"])) == ([], 1)
    assert "pg_read_all_stats" in blind["unknowns"][0]["why"]
    assert (len(sighted["blockers"]), sighted["unknowns"]) == (1, [])


def test_a_connection_whose_activity_is_not_tracked_is_unknown_and_not_idle(ask, postgres, query):
    untracked = postgres.session("SET track_activities = off", "SELECT pg_sleep(7777), 'untracked'")
    try:
        off = f"SELECT count(*) FROM {OTHERS} AND state = 'disabled'"
        until(lambda: postgres.query(off) != "0", what="the query to run")

        assert "does not track what 1 connections do" in ask(older_than=0)["unknowns"][0]["why"]
        assert ask(older_than="1h") == {"blockers": [], "unknowns": [], "info": []}  # nor is the connection that old
    finally:
        process.end(untracked)


def test_no_server_and_no_rights_and_no_rows_are_three_different_answers(ask):
    down = ask(port=1)["unknowns"][0]["why"]
    refused = ask(role="nobody_of_that_name")["unknowns"][0]["why"]

    assert "could not be asked" in down
    assert "nobody_of_that_name" in refused
    assert ask() == {"blockers": [], "unknowns": [], "info": []}


def test_a_server_that_hangs_costs_its_time_out(ask, postgres):
    parts = [psutil.Process(postgres._process.pid)]
    for part in parts:
        os.kill(part.pid, signal.SIGSTOP)
    try:
        answer = ask(timeout="0.5s")
    finally:
        for part in parts:
            os.kill(part.pid, signal.SIGCONT)

    assert "psql did not answer within 0.5 seconds" in answer["unknowns"][0]["why"]


def test_one_bad_server_does_not_hide_another_and_mistakes_are_named(checkout, tmp_path, postgres, query):
    probe = minion.functions(checkout, tmp_path)["pgactivity.probe"]
    query("SELECT pg_sleep(7777), 'here'")
    good = {"user": postgres.user, "host": postgres.host, "port": postgres.port, "role": "postgres", "older_than": 0}

    answer = probe(instances=[{**good, "port": 1}, good])

    assert (len(answer["blockers"]), len(answer["unknowns"])) == (1, 1)
    beside = {"instances": [good], "older_than": "5m"}
    for wrong in ({"older_then": 1}, {"older_than": "soon"}, beside):
        with pytest.raises(SaltInvocationError, match=r"older_than|soon"):
            probe(**wrong)
    for nobody in ([], {}):
        with pytest.raises(SaltInvocationError, match="one server or more"):
            probe(instances=nobody)
