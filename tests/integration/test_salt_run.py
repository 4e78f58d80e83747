"""
Every exit code through a real ``salt-run`` on a real Redmine: one line, the reason as data, no traceback. And the API
key nowhere, nor the password for what may stand in front: each run is at log level trace, and afterwards everything
that it left behind is searched.
"""

import contextlib
import json
import re
import signal

import pytest

from tests.support import process
from tests.support.proxy import AFTER, BEFORE, Hold, drop, html, redirect, status

TEXT = "Held by: nobody\n\nh2. History\n"
PASSWORD = "of the door in front"


@pytest.fixture(params=["api_key", "api_key_file"])
def key_as(request):
    """How the key is configured."""
    return request.param


@pytest.fixture
def page(redmine):
    return redmine.new_page(TEXT)


@pytest.fixture
def desk(master_config, redmine, proxy, page, tmp_path, key_as):
    """``desk(function, …)``: a run at level trace; at its end, the key and the password must be nowhere."""
    key = redmine.key("alice")
    file = tmp_path / "redmine.key"
    file.write_text(key)
    file.chmod(0o600)
    config = master_config(
        {
            "store": proxy.at(page),
            key_as: key if key_as == "api_key" else str(file),
            "auth": {"username": "deploy", "password": PASSWORD},
            "name": "Alice",
            "timeout": 30,
            "deadline": 3,
        },
        log_level_logfile="trace",
    )
    said = []

    def run(function, *words, out="json"):
        done = config.command("salt-run", "--log-level=trace", function, *words, out=out)
        said.append(done.stdout + done.stderr)
        assert not done.traceback, done
        return done

    run.config, run.said = config, said
    yield run
    base = config.folder.parent
    kept = [path for path in base.rglob("*") if path.is_file() and path not in (file, config.folder / "master")]
    assert base / "log" in kept
    assert (base / "log").stat().st_size > 10_000  # trace, really
    secrets = (key, PASSWORD)
    found = [str(path) for path in kept if any(secret.encode() in path.read_bytes() for secret in secrets)]
    found += [f"what {number} said" for number, text in enumerate(said) if any(secret in text for secret in secrets)]
    found += [request.path for request in proxy.log if key in request.path or key.encode() in request.body]
    found += [version["text"] + version["comments"] for version in redmine.versions(page) if key in str(version)]
    assert found == []


def refused(done, code, reason):
    answer = done.data
    assert (done.code, answer["reason"], answer["retcode"]) == (code, reason, code), done
    assert "\n" not in answer["message"]
    return answer


@pytest.mark.parametrize("key_as", ["api_key_file"], indirect=True)
def test_every_code_comes_with_its_reason_and_without_the_key(desk, proxy, redmine, page):
    assert desk("deploytoken.doctor").code == 0
    taken = desk("deploytoken.acquire", "reason=upgrade PostgreSQL", "expect=2h").data
    assert taken.pop("taken") is True
    assert set(taken) == {"held_by", "ref", "reason", "since", "expected_until", "version", "url"}
    shown = desk("deploytoken.status").data
    more = {"age": shown["age"], "overdue": False, "job": None, "account": shown["account"], "ended_before": None}
    assert shown == {**taken, **more, "message": f"Alice holds the token since {taken['since']} (upgrade PostgreSQL)"}

    assert "timeout" in refused(desk("deploytoken.acquire", "reason=x", "timeout=3"), 2, "invalid")["message"]
    assert refused(desk("deploytoken.acquire", "reason=me too"), 3, "held")["token"]["ref"] == taken["ref"]
    assert refused(desk("deploytoken.status", "check=True"), 3, "held")["ref"] == taken["ref"]
    refused(desk("deploytoken.release", "summary=x", "ref=ffffffff"), 4, "not_yours")
    for fault in (html(), redirect("https://sso.example.org/?back=1"), status(401)):
        proxy.faults(lambda *_, fault=fault: fault)
        refused(desk("deploytoken.acquire", "reason=x"), 6, "store")
    proxy.faults([])

    released = desk("deploytoken.release", "summary=done", f"ref={taken['ref']}").data
    assert released["entry"] in redmine.text(page)
    past = desk("deploytoken.history").data["holds"]
    assert [(hold["ref"], hold["ended"]) for hold in past] == [(taken["ref"], "released")]


@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_a_write_without_an_answer_ends_with_5_and_says_what_to_do(desk, proxy, redmine, page, when):
    proxy.faults(lambda *_: drop(when), only="PUT")
    answer = refused(desk("deploytoken.acquire", "reason=upgrade"), 5, "in_doubt")

    assert re.fullmatch("[0-9a-f]{8}", answer["ref"])
    assert f"a write for the hold {answer['ref']} was sent" in answer["message"]
    assert "Change nothing" in answer["message"]
    assert "`salt-run deploytoken.status`" in answer["message"]
    assert len({request.body for request in proxy.log if request.method == "PUT"}) == 1

    # What it says to do tells the truth.
    shown = desk("deploytoken.status").data
    assert shown["ref"] == (answer["ref"] if when == AFTER else None)
    if when == AFTER:
        # For people, the same line.
        people = desk("deploytoken.release", "summary=not used", f"ref={answer['ref']}", out=None)
        assert people.code == 5
        assert "in_doubt" in people.stdout
        proxy.faults([])
        assert desk("deploytoken.release", "summary=not used", f"ref={answer['ref']}").code == 0
        assert redmine.text(page).count(answer["ref"]) == 1


@pytest.mark.parametrize("key_as", ["api_key"], indirect=True)
def test_an_interruption_in_the_middle_of_a_write_ends_with_130_and_gives_it_back(desk, proxy, redmine, page):
    held = Hold()
    proxy.faults([held], only="PUT")
    desk.config.update(deploytoken={**desk.config.options["deploytoken"], "timeout": 30, "deadline": 60})
    operator = desk.config.popen("deploytoken.acquire", reason="upgrade")
    try:
        held.wait()
        operator.send_signal(signal.SIGTERM)
        held.release()
        out, err = operator.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.end(operator)
    desk.said.append(out + err)
    assert (operator.returncode, json.loads(out)["reason"]) == (130, "interrupted")
    assert "Traceback" not in out + err
    assert redmine.text(page) == TEXT
    assert len(redmine.versions(page)) == 3
