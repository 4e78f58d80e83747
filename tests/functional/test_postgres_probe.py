"""The postgres probe (module pgactivity), against a real PostgreSQL."""

import contextlib
import json
import os
import signal
import subprocess

import psutil
import pytest
from salt.exceptions import SaltInvocationError

from tests.support import minion, process
from tests.support import postgres as support
from tests.support.wait import until

OTHERS = "pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@pytest.fixture
def ask(checkout, tmp_path, postgres):
    def ask(modules=(), **settings):
        functions = minion.functions(checkout, tmp_path, modules=modules)
        there = {"user": postgres.user, "host": postgres.host, "port": postgres.port, "role": "postgres"}
        return functions["pgactivity.probe"](**{**there, **settings})

    return ask


@pytest.fixture
def ask_later(checkout, tmp_path, ask):
    """As ``ask``, but a moment is over at once."""
    module = (checkout / "_modules/pgactivity.py").read_text()
    assert module.count("MOMENT = 60\n") == 1
    (tmp_path / "later/_modules").mkdir(parents=True)
    (tmp_path / "later/_modules/pgactivity.py").write_text(module.replace("MOMENT = 60\n", "MOMENT = 0\n"))
    return lambda **settings: ask(modules=[tmp_path / "later"], **settings)


@pytest.fixture
def client(postgres):
    """``with client(statement)``: a psql that has run it, and then waits for more."""

    @contextlib.contextmanager
    def client(statement, name="psql"):
        environment = {**os.environ, "PGAPPNAME": name}
        words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": "/", "text": True, "env": environment}
        psql = subprocess.Popen(postgres.psql("-q", "-A", "-t"), **words)

        def run(statement):
            psql.stdin.write(f"{statement};\n\\echo done\n")
            psql.stdin.flush()
            while psql.stdout.readline().strip() != "done":
                assert psql.poll() is None

        run(statement)
        try:
            yield run
        finally:
            psql.stdin.close()
            psql.wait(60)

    return client


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


def test_a_long_transaction_blocks_between_two_of_its_queries_as_well(ask, client):
    """As pg_dump's, and those of an import that computes in between: a look need not hit a query."""
    with client("BEGIN; /* an import */ SELECT pg_sleep(0.5)"):
        assert [one["what"] for one in ask(older_than=0.5)["blockers"]] == ["SELECT in postgres: an import"]
        assert ask(older_than="1h")["blockers"] == []


def test_a_transaction_that_was_forgotten_is_no_work(ask, ask_later, client):
    with client("BEGIN; SELECT 1"):
        assert len(ask(older_than=0)["blockers"]) == 1
        assert ask_later(older_than=0)["blockers"] == []
    with client("BEGIN; SELECT 1", "pg_dump"):  # as pg_dump --schema-only, or the first of pg_dump --jobs
        assert len(ask_later(older_than=0)["blockers"]) == 1


@pytest.mark.parametrize("words", [["--inserts"], []])
def test_a_dump_that_waits_for_its_reader_is_work_however_long_it_waits(ask_later, postgres, words):
    rows = 20000 if words else 100  # of a large table, COPY would be active all the time
    postgres.query(f"CREATE TABLE dumped AS SELECT repeat('x', 1000) FROM generate_series(1, {rows})")
    there = ["-h", postgres.host, "-p", str(postgres.port), "-U", "postgres", "postgres"]
    dump = subprocess.Popen([support.programs() / "pg_dump", *words, *there], stdout=subprocess.PIPE, cwd="/")
    try:
        last = f"SELECT state FROM {OTHERS} AND query ~ '^(FETCH|COPY)'"
        until(lambda: postgres.query(last) == "idle in transaction", what="the dump to wait")

        looks = [ask_later(older_than=0)["blockers"] for _ in range(2)]

        assert [(one["what"], one["id"]) for one in looks[0]] == [(one["what"], one["id"]) for one in looks[1]]
        (blocker,) = looks[0]
        assert blocker["what"] == f"{'FETCH' if words else 'COPY'} in postgres: pg_dump"
        assert ask_later(older_than="1h")["blockers"] == []
    finally:
        dump.kill()
        dump.communicate()
        postgres.query("DROP TABLE dumped")


def test_whatever_works_on_rows_that_it_has_fetched_is_work(ask_later, client):
    with client("BEGIN; DECLARE rows CURSOR FOR SELECT 1; /* a report */ FETCH 1 FROM rows"):
        assert [one["what"] for one in ask_later(older_than=0)["blockers"]] == ["FETCH in postgres: a report"]


def test_the_next_query_of_a_connection_is_another_one(ask, postgres):
    session = postgres.session("SELECT pg_sleep(7777), 'first'", "SELECT pg_sleep(7777), 'second'")
    found = []
    try:
        for word in ("first", "second"):
            active = f"{OTHERS} AND query LIKE '%{word}%'"
            until(lambda active=active: postgres.query(f"SELECT count(*) FROM {active}") == "1", what=word)
            found += [ask(older_than=0)["blockers"][0]["id"] for _ in range(2)]
            postgres.query(f"SELECT pg_cancel_backend(pid) FROM {active}")
    finally:
        process.end(session)

    assert found[0] == found[1] != found[2] == found[3]
    assert found[0].partition(".")[0] == found[2].partition(".")[0]  # the same process


def test_a_base_backup_is_work_from_its_first_minute_and_its_stream_of_changes_is_none(ask, postgres, tmp_path):
    postgres.query("DROP ROLE IF EXISTS watcher; CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
    there = ["-h", postgres.host, "-p", str(postgres.port), "-U", "postgres", "-D", tmp_path / "base"]
    command = [support.programs() / "pg_basebackup", *there, "--max-rate=32k", "-c", "fast"]
    backup = process.start(command, tmp_path / "log", cwd="/")
    senders = "pg_stat_replication WHERE state IN ('streaming', 'backup')"
    try:
        until(lambda: postgres.query(f"SELECT count(*) FROM {senders}") == "2", what="the backup, and its stream")

        (blocker,), (again,) = (ask(role="watcher", database="postgres")["blockers"] for _ in range(2))

        assert (blocker["what"], blocker["user"]) == ("base backup: pg_basebackup", "postgres")
        assert blocker["id"] == again["id"]
        assert blocker["id"].startswith("-:postgres:")
    finally:
        postgres.query(f"SELECT pg_terminate_backend(pid) FROM {senders}")
        process.end(backup)
        until(lambda: postgres.query(f"SELECT count(*) FROM {senders}") == "0", what="the end of the backup")


def test_a_session_that_has_begun_a_backup_is_work_until_it_ends_it(ask, client):
    with client("/* Ana copies */ SELECT pg_backup_start('nightly', true)") as run:
        (blocker,) = ask()["blockers"]
        assert blocker["what"] == "base backup in postgres: Ana copies"
        assert [one["id"] for one in ask()["blockers"]] == [blocker["id"]]
        run("SELECT pg_backup_stop()")
        assert ask()["blockers"] == []
        run("SELECT pg_backup_start('at once', true)\\; SELECT pg_backup_stop()")
        assert ask()["blockers"] == []
        run("SELECT 'pg_start_backup(''PostgreSQL 14'', true, false)'")  # which has another name for it
        assert len(ask()["blockers"]) == 1


def test_sessions_of_backup_programs_are_known_by_name_whatever_they_asked_last(ask, ask_later, client):
    """These keep their session awake. Barman also has short sessions, to look."""
    with client("SELECT 1", "pgBackRest [backup]"), client("SELECT 1", "pgBackRest [check]"):
        (blocker,) = ask()["blockers"]
        assert blocker["what"] == "base backup in postgres: pgBackRest [backup]"
    with client("SELECT 1", "barman") as run:
        assert ask()["blockers"] == []
        before = ask_later()["blockers"]
        run("SELECT 2")
        assert len(before) == 1
        assert ask_later()["blockers"] == before


def test_two_who_ask_do_not_wait_for_each_other(checkout, ask, ask_later, client):
    source = {}
    exec((checkout / "_modules/pgactivity.py").read_text(), source)
    with client(source["QUERY"].format(seconds=0, moment=0).replace("\n", " ")):
        assert ask()["blockers"] == ask_later()["blockers"] == []


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


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ([], "busy.postgres: a list of one server or more"),
        ({"instances": []}, "busy.postgres.instances: a list of one server or more"),
        ([{}, {"role": ""}], "busy.postgres.1.role: is empty"),
        ({"host": " "}, "busy.postgres.host: is empty"),
        ({"database": None}, "busy.postgres.database: is empty"),
        ({"password": 123}, "busy.postgres.password: must be text"),
        ({"port": "5432a"}, "busy.postgres.port: '5432a' is not the number of a port"),
        ({"port": 0}, "busy.postgres.port: 0 is not"),
        ({"port": True}, "busy.postgres.port: True is not"),
        ({"older_than": "1h30m"}, "busy.postgres.older_than: '1h30m' is not a duration"),
        ({"older_than": -3600}, "busy.postgres.older_than: -3600 is not a duration"),
        ({"older_than": None}, "busy.postgres.older_than: is empty"),
    ],
)
def test_a_setting_that_asks_nothing_is_named(checkout, tmp_path, settings, why):
    (unknown,) = minion.functions(checkout, tmp_path, {"postgres": settings})["busy.check"]()["unknowns"]

    assert unknown["why"].startswith(why)
