"""The ``deploytoken`` runner through a real ``salt-run``, on SQLite: exit code, JSON, and text for people."""

import contextlib
import json
import pathlib
import re
import socket
import sqlite3
import time

import pytest
from salt import payload
from salt.version import __version__ as salt_version

from tests.support import process
from tests.support.wait import until

STORE = "sqlite:///{}/token.db"


@pytest.fixture
def salt(loaders, tmp_path):
    """The runner as Salt loads it, which is faster than ``salt-run``, and its exit code."""
    made = loaders(deploytoken={"store": STORE.format(tmp_path), "name": "Alice"}, output="json")
    assert made.runners["deploytoken.init"]()["created"] is True
    return made


@pytest.fixture
def config(master_config, tmp_path):
    made = master_config({"store": STORE.format(tmp_path), "name": "Alice"})
    assert ok(made.run("deploytoken.init"))["created"] is True
    return made


def ok(answer):
    assert answer.code == 0, answer
    assert not answer.traceback, answer
    return answer.data


def refused(answer, code, reason):
    assert (answer.code, answer.data["reason"], answer.data["retcode"]) == (code, reason, code), answer
    assert not answer.traceback, answer
    assert "\n" not in answer.data["message"]
    return answer.data


def test_the_token_goes_from_hand_to_hand(config):
    taken = ok(config.run("deploytoken.acquire", reason="upgrade PostgreSQL", expect="2h"))
    assert (taken["held_by"], taken["reason"]) == ("Alice", "upgrade PostgreSQL")
    assert re.fullmatch("[0-9a-f]{8}", taken["ref"])

    # The same name is no excuse: a second terminal is a second contender.
    held = refused(config.run("deploytoken.acquire", reason="me too"), 3, "held")
    assert held["token"]["ref"] == taken["ref"]
    assert "Alice" in held["message"]
    assert "upgrade PostgreSQL" in held["message"]

    status = ok(config.run("deploytoken.status"))
    assert (status["ref"], status["overdue"], status["job"]) == (taken["ref"], False, None)
    assert 0 <= status["age"] < 180
    assert status["url"].startswith("sqlite:////")

    refused(config.run("deploytoken.release", summary="done", ref="f0f0f0f0"), 4, "not_yours")
    wrong = refused(config.run("deploytoken.takeover", ref="f0f0f0f0", reason="urgent"), 4, "not_yours")
    assert wrong["token"]["ref"] == taken["ref"]
    taken2 = ok(config.run("deploytoken.takeover", ref=taken["ref"], reason="urgent", name="Bob"))
    assert (taken2["held_by"], taken2["displaced"]["ref"]) == ("Bob", taken["ref"])

    released = ok(config.run("deploytoken.release", summary="upgraded", ref=taken2["ref"], rebooted="web1,web2"))
    assert (released["held_by"], released["released"]) == (None, taken2["ref"])
    assert "rebooted web1, web2" in released["entry"]
    again = ok(config.run("deploytoken.release", summary="upgraded", ref=taken2["ref"]))
    assert again["entry"] == released["entry"]

    past = ok(config.run("deploytoken.history"))
    assert [(hold["held_by"], hold["ended"], hold["ended_by"]) for hold in past["holds"]][1] == (
        "Alice",
        "taken over",
        "Bob",
    )
    assert past["holds"][0]["entry"] == released["entry"]
    assert past["complete"] is True
    assert "data" not in past

    table = config.run("deploytoken.history", out=None)
    assert table.code == 0
    lines = table.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "taken over by" in table.stdout
    assert taken["ref"] in table.stdout
    assert not table.stdout.lstrip().startswith("{")


def test_a_wrong_argument_exits_with_2_in_one_line(config):
    assert "it takes: reason, name" in refused(config.run("deploytoken.acquire", reson="x"), 2, "invalid")["message"]
    people = config.run("deploytoken.acquire", out=None)
    assert (people.code, people.traceback) == (2, False)
    assert "reason: needed" in people.stdout


@pytest.mark.parametrize(
    ("function", "named", "key"),
    [
        ("acquire", {}, "reason"),
        ("acquire", {"reason": "two\nlines"}, "reason"),
        ("acquire", {"reason": "x", "wait": "soon"}, "wait"),
        ("acquire", {"reason": "x", "ref": "xyz"}, "ref"),
        ("acquire", {"reason": "x", "ref": "abcdef0"}, "ref"),
        ("acquire", {"reason": "x", "ref": "abcdef012"}, "ref"),
        ("acquire", {"reason": "x", "expect": "9999999d"}, "expect"),
        ("acquire", {"reason": "x", "jid": "../../etc/passwd"}, "jid"),
        ("acquire", {"reson": "x"}, "acquire"),
        ("release", {}, "summary"),
        ("takeover", {"reason": "x"}, "ref"),
        ("history", {"limit": 0}, "limit"),
        ("doctor", {"scratch": ""}, "scratch"),
        ("doctor", {"scratch": "https://example.org/projects/a/wiki/B"}, "scratch"),
    ],
)
def test_every_wrong_argument_is_named(salt, function, named, key):
    answer = salt.runners[f"deploytoken.{function}"](**named)

    assert (answer["reason"], answer["retcode"], salt.retcode) == ("invalid", 2, 2)
    assert answer["message"].startswith(f"{key}: ")
    assert "\n" not in answer["message"]


@pytest.mark.parametrize("function", ["status", "history", "doctor"])
def test_without_configuration_every_command_shows_how(loaders, function):
    salt = loaders()
    answer = salt.runners[f"deploytoken.{function}"]()

    assert (answer["reason"], salt.retcode) == ("invalid", 2)
    assert answer["message"].startswith("deploytoken: not configured")


def test_a_store_that_is_not_there_exits_with_6_and_says_what_to_do(master_config, tmp_path):
    answer = refused(master_config({"store": STORE.format(tmp_path)}).run("deploytoken.status"), 6, "store")

    assert "deploytoken.init" in answer["message"]
    assert not (tmp_path / "token.db").exists()


@pytest.mark.parametrize("function", ["history", "doctor"])
def test_nothing_creates_a_store_that_is_not_there(loaders, tmp_path, function):
    salt = loaders(deploytoken={"store": STORE.format(tmp_path)})
    answer = salt.runners[f"deploytoken.{function}"]()

    assert (answer["reason"], salt.retcode) == ("store", 6)
    assert "deploytoken.init" in json.dumps(answer)
    assert not (tmp_path / "token.db").exists()


def test_the_doctor_has_a_line_for_each_check_and_exits_with_0(config):
    checks = ok(config.run("deploytoken.doctor"))["checks"]
    names = [check["name"] for check in checks]
    assert names == [
        *("configuration", "folder", "file", "database", "page", "heading", "versions", "name"),
        *("file server", "orchestration", "external pillar", "minions"),
    ]
    # No master runs here, so these two cannot be told.
    assert [check["name"] for check in checks if check["ok"] is not True] == ["external pillar", "minions"]

    people = config.run("deploytoken.doctor", out=None)
    assert people.code == 0
    lines = people.stdout.splitlines()
    assert [line[6:].partition(":")[0] for line in lines] == names
    assert [line[:6] for line in lines] == ["ok    " if check["ok"] else "?     " for check in checks]


def test_a_program_gets_data_from_every_command_whoever_called_it(config, tmp_path):
    from salt.config import master_config
    from salt.runner import RunnerClient

    client = RunnerClient(master_config(str(config.folder / "master")))

    assert client.cmd("deploytoken.history", print_event=False)["holds"] == []
    assert {check["name"] for check in client.cmd("deploytoken.doctor", print_event=False)["checks"]} >= {"page"}
    (tmp_path / "token.db").unlink()
    assert client.cmd("deploytoken.doctor", print_event=False)["checks"][-1]["name"] == "minions"
    people = config.run("deploytoken.history", out=None)
    assert people.code == 6
    assert people.stdout.startswith("there is no token in ")


def test_the_doctor_exits_with_6_and_says_how_to_mend_what_it_found(config, tmp_path):
    (tmp_path / "token.db").chmod(0o666)

    people = config.run("deploytoken.doctor", out=None)

    assert people.code == 6
    assert "1 of 12 checks failed: file" in people.stdout
    assert f"FAIL  file: everybody may write to {tmp_path}/token.db; run `chmod o-w" in people.stdout


@pytest.mark.parametrize(
    ("harm", "failed"),
    [
        (lambda path: path.write_bytes(b"not a database" * 1000), ["database", "page"]),
        (lambda path: path.unlink(), ["file", "page"]),
        (lambda path: edit(path, "Held by: nobody\n\nHeld by: Alice\n\nh2. History\n"), ["page"]),
        (lambda path: edit(path, "h2. History\n"), ["page"]),
    ],
    ids=["damaged", "missing", "two holders", "no holder"],
)
def test_the_doctor_finds_what_is_broken(salt, tmp_path, harm, failed):
    harm(tmp_path / "token.db")

    answer = salt.runners["deploytoken.doctor"]()

    assert (answer["reason"], salt.retcode) == ("store", 6)
    assert [check["name"] for check in answer["checks"] if check["ok"] is False] == failed


def test_a_missing_heading_is_no_failure(salt, tmp_path):
    edit(tmp_path / "token.db", "Held by: nobody\n")

    checks = {check["name"]: check for check in salt.runners["deploytoken.doctor"]()["checks"]}

    assert checks["heading"]["ok"] is None
    assert "deploytoken.history.heading" in checks["heading"]["text"]


def edit(path, text):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE page SET text = ?", (text,))


def test_a_hold_that_was_typed_is_in_the_history_and_marked(salt, tmp_path):
    edit(tmp_path / "token.db", "Held by: Carol\n")

    assert salt.runners["deploytoken.status"]()["job"] is None
    (hold,) = salt.runners["deploytoken.history"]()["holds"]

    assert (hold["held_by"], hold["ended"], hold["by_hand"]) == ("Carol", "still held", True)


def test_without_a_master_no_event_delays_or_fails_a_command(salt):
    salt.runners["deploytoken.status"]()
    salt.runners["event.send"]("both are loaded now")

    # Salt itself waits a second for each event, and every acquire and release is one.
    begun = time.monotonic()
    salt.runners["event.send"]("one")
    salt.runners["event.send"]("two")
    delay = time.monotonic() - begun
    took = []
    while not took or (min(took) >= delay / 2 and len(took) < 20):  # the machine may have other work
        begun = time.monotonic()
        ref = salt.runners["deploytoken.acquire"](reason="upgrade")["ref"]
        assert salt.runners["deploytoken.release"](summary="done", ref=ref)["released"] == ref
        took.append(time.monotonic() - begun)
    assert min(took) < delay / 2


def test_an_event_that_cannot_be_sent_fails_nothing(salt):
    folder = pathlib.Path(salt.opts["sock_dir"])
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / "master_event_pull.ipc"))
        deaf.listen()
        salt.opts["ipc_write_buffer"] = "nonsense"
        assert salt.runners["deploytoken.acquire"](reason="upgrade")["held_by"] == "Alice"
    assert salt.retcode == 0


def test_status_tells_whether_the_job_that_took_the_token_or_goes_on_under_it_still_runs(config, tmp_path):
    states = tmp_path / "states"
    states.mkdir()
    for name, resume in (("slow", False), ("again", True)):
        wait = f"touch {tmp_path}/{name}; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
        (states / f"{name}.sls").write_text(
            "token:\n  salt.runner:\n    - name: deploytoken.acquire\n    - reason: upgrade\n    - ref: aaaaaaaa\n"
            f"    - resume: {resume}\nwait:\n  cmd.run:\n    - name: '{wait}'\n    - require: [salt: token]\n"
        )
    config.update(file_roots={"base": [str(states)]})
    jobs = tmp_path / "master0/cache/proc"
    with contextlib.ExitStack() as stack:

        def start(name):
            deploy = config.popen("state.orchestrate", name)
            stack.callback(deploy.communicate, timeout=240)
            stack.callback((tmp_path / "go").touch)
            until((tmp_path / name).exists, 240, f"the orchestration {name} to have the token")
            return deploy

        deploy = start("slow")
        if not any(jobs.iterdir()):
            # Salt 3006.28 keeps no file there for its own runners: then nobody can tell, and nothing is claimed.
            assert ok(config.run("deploytoken.status"))["job"] is None
            assert salt_version.startswith("3006.")
            return
        job = min(jobs.iterdir(), key=lambda path: path.name)
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": job.name, "running": True}
        (tmp_path / "go").touch()
        deploy.communicate(timeout=240)
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": job.name, "running": False}

        # Under the same hold, by another job, which is killed; and the master's maintenance cleans up after it.
        (tmp_path / "go").unlink()
        deploy = start("again")
        again = min(jobs.iterdir(), key=lambda path: path.name)
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": again.name, "running": True}
        deploy.kill()
        deploy.wait()
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": again.name, "running": False}
        again.unlink()
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": again.name, "running": False}


def test_status_says_that_a_killed_job_does_not_run_and_nothing_about_one_of_another_master(salt, tmp_path):
    jid, elsewhere = "20261122223000123456", "20261122223000999999"
    ref = salt.runners["deploytoken.acquire"](reason="upgrade", jid=jid)["ref"]
    # What Salt leaves behind when it is killed: here, a process that is there and is not Salt's, and then is gone.
    other = process.start(["sleep", "60"], tmp_path / "log", cwd="/")
    try:
        job = pathlib.Path(salt.opts["cachedir"]) / "proc" / jid
        job.write_bytes(payload.dumps({"pid": other.pid}))
        assert salt.runners["deploytoken.status"]()["job"] == {"jid": jid, "running": False}
    finally:
        process.end(other)
    assert salt.runners["deploytoken.status"]()["job"] == {"jid": jid, "running": False}
    job.write_bytes(b"\xff\x00")
    assert salt.runners["deploytoken.status"]()["job"] == {"jid": jid, "running": None}

    salt.runners["deploytoken.release"](summary="done", ref=ref)
    assert salt.runners["deploytoken.status"]()["job"] is None
    salt.runners["deploytoken.acquire"](reason="upgrade", jid=int(elsewhere))  # as the command line hands it on
    assert salt.runners["deploytoken.status"]()["job"] == {"jid": elsewhere, "running": None}
