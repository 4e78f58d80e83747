"""What the tests stand on is real, and the faults happen as promised."""

import http.client
import json

import psutil
import pytest
import requests

from tests.support.process import end
from tests.support.proxy import AFTER, BEFORE, Hold, delay, drop, duplicate, html, redirect, status, truncate
from tests.support.wait import until


def put(page, text, version, key, timeout=20):
    return requests.put(
        f"{page}.json",
        json={"wiki_page": {"text": text, "version": version}},
        headers={"X-Redmine-API-Key": key},
        timeout=timeout,
        allow_redirects=False,
    )


def test_redmine_is_a_compare_and_swap(redmine):
    page = redmine.new_page("one")
    assert put(page, "two", 1, redmine.key("alice")).status_code == 204
    assert put(page, "three", 1, redmine.key("bob")).status_code == 409
    assert [version["text"] for version in redmine.versions(page)] == ["one", "two"]
    assert redmine.versions(page)[1]["author"]["name"] == redmine.name("alice")


def test_redmine_refuses_who_may_not(redmine):
    page = redmine.new_page("one")
    assert redmine.get(f"{page}.json", "rita")[0] == 200
    assert put(page, "two", 1, redmine.key("rita")).status_code == 403
    assert redmine.get(f"{page}/1.json", "carol")[0] == 403
    assert redmine.get(f"{page}.json", "mallory")[0] == 403
    assert redmine.get(f"{page}.json", "lou")[0] == 401
    with redmine.setting("rest_api_enabled", "0"):
        assert redmine.get(f"{page}.json", "alice")[0] == 403
    assert redmine.get(f"{page}.json", "alice")[0] == 200


def test_redmine_projects_can_be_shut(redmine):
    page = redmine.new_page("one", "closed")
    with redmine.shut("closed", "closed"):
        assert redmine.get(f"{page}.json", "alice")[0] == 200
        assert put(page, "two", 1, redmine.key("alice")).status_code == 403
    with redmine.shut("closed", "archived"):
        assert redmine.get(f"{page}.json", "alice")[0] == 403
    assert redmine.text(page) == "one"


def test_redmine_pages_can_be_protected_and_renamed(redmine):
    page = redmine.new_page("one")
    renamed = redmine.rename(page, "Renamed_token")
    assert redmine.text(renamed) == "one"
    assert redmine.get(f"{page}.json")[0] == 302
    redmine.protect(renamed)
    assert put(renamed, "two", 1, redmine.key("alice")).status_code == 403


def test_proxy_passes_everything_and_keeps_connections(redmine, proxy):
    page = redmine.new_page("one")
    with requests.Session() as session:
        session.headers["X-Redmine-API-Key"] = redmine.key("alice")
        for text in ("one", "one"):
            assert session.get(f"{proxy.at(page)}.json").json()["wiki_page"]["text"] == text
    assert proxy.methods() == ["GET", "GET"]
    assert {request.connection for request in proxy.log} == {1}


@pytest.mark.parametrize(
    ("fault", "applied"),
    [(drop(BEFORE), False), (drop(AFTER), True)],
    ids=repr,
)
def test_proxy_loses_answers(redmine, proxy, fault, applied):
    page = redmine.new_page("one")
    proxy.faults([None, fault], only="PUT")
    assert put(proxy.at(page), "two", 1, redmine.key("alice")).status_code == 204
    with pytest.raises(requests.ConnectionError):
        put(proxy.at(page), "three", 2, redmine.key("alice"))
    assert redmine.text(page) == ("three" if applied else "two")


@pytest.mark.parametrize(
    ("fault", "code", "applied"),
    [
        (status(503), 503, []),
        (status(500, AFTER), 500, [204]),
        (html(), 200, []),
        (html(AFTER), 200, [204]),
        (redirect("http://127.0.0.1:1/"), 302, []),
        (duplicate(), 204, [204, 204]),
    ],
    ids=repr,
)
def test_proxy_answers_otherwise(redmine, proxy, fault, code, applied):
    page = redmine.new_page("one")
    proxy.faults(fault)
    answer = put(proxy.at(page), "two", 1, redmine.key("alice"))
    assert answer.status_code == code
    assert proxy.log[0].applied == applied
    assert redmine.text(page) == ("two" if applied else "one")
    assert ("<html>" in answer.text) == (code == 200)


def test_proxy_truncates_the_body(redmine, proxy):
    page = redmine.new_page("one")
    proxy.faults(truncate())
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    path = proxy.at(page).removeprefix(proxy.url)
    connection.request("GET", f"{path}.json", headers={"X-Redmine-API-Key": redmine.key("alice")})
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()


def test_proxy_makes_ghosts_that_apply_after_their_client_gave_up(redmine, proxy):
    page = redmine.new_page("one")
    ghost = Hold()
    proxy.faults([ghost, delay(0.01), delay(0.01, AFTER)], only="PUT")
    with pytest.raises(requests.Timeout):
        put(proxy.at(page), "two", 1, redmine.key("alice"), timeout=0.2)
    ghost.wait()
    assert redmine.text(page) == "one"
    ghost.release()
    until(lambda: redmine.text(page) == "two", what="the ghost to land")
    proxy.settled()
    assert put(proxy.at(page), "three", 2, redmine.key("alice")).status_code == 204
    assert put(proxy.at(page), "four", 3, redmine.key("alice")).status_code == 204
    assert json.loads(proxy.log[0].body)["wiki_page"]["text"] == "two"


def test_redmine_can_be_down(redmine):
    page = redmine.new_page("one")
    with redmine.stopped(), pytest.raises(OSError, match="refused"):
        redmine.text(page)
    assert redmine.text(page) == "one"


def test_scrapyd_runs_a_deployed_spider_until_it_is_ended(scrapyd):
    job = scrapyd.running(scrapyd.schedule(note="Started by Ana"))
    assert "note=Started by Ana" in psutil.Process(job["pid"]).cmdline()
    assert scrapyd.status()["running"] == 1
    scrapyd.finish()
    assert scrapyd.status()["running"] == 0
    assert not psutil.pid_exists(job["pid"])


def test_scrapyd_cancels_and_queues(scrapyd):
    first, second, third = (scrapyd.schedule() for _ in range(3))
    scrapyd.running(first)
    scrapyd.running(second)
    assert [row["id"] for row in scrapyd.jobs()["pending"]] == [third]
    scrapyd.cancel(first)
    scrapyd.running(third)


def test_scrapyd_leaves_orphans_behind_when_it_is_killed(scrapyd_factory):
    scrapyd = scrapyd_factory()
    pid = scrapyd.orphan()
    assert scrapyd.status()["running"] == 0
    assert psutil.pid_exists(pid)
    scrapyd.stop()
    until(lambda: not psutil.pid_exists(pid), what="the orphan to be ended")


def test_scrapyd_wants_its_password(scrapyd_factory):
    scrapyd = scrapyd_factory(username="ana", password="a secret")
    assert requests.get(f"{scrapyd.url}/daemonstatus.json", timeout=10).status_code == 401
    assert scrapyd.status()["status"] == "ok"


def test_tmux_servers_belong_to_real_users(users, tmux_session, tmp_path):
    plain = tmux_session("ana", "ana-upgrade", "sleep 1000")
    named = tmux_session("ben", "ben-load", "sleep 1001", label="other")
    assert users("ana").uid != users("ben").uid
    for session, command in ((plain, "sleep 1000"), (named, "sleep 1001")):
        assert psutil.Process(session.pid).uids().real == session.user.uid
        assert " ".join(psutil.Process(session.pane_pid).cmdline()) == command
        assert session.name in session.tmux("list-sessions")
    plain.end()
    assert not psutil.pid_exists(plain.pid)
    assert not psutil.pid_exists(plain.pane_pid)


def test_screen_sessions_belong_to_real_users(screen_session):
    session = screen_session("ana", "ana-export", "sleep", "1002")
    assert psutil.Process(session.pid).uids().real == session.user.uid


def test_postgres_answers_and_shows_its_clients(postgres):
    client = postgres.session("SELECT pg_sleep(1000)")
    try:
        until(
            lambda: postgres.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") == "1",
            what="the query to run",
        )
    finally:
        end(client)
