"""The ``deploytoken`` runner through a real ``salt-run``, on SQLite: exit code, JSON, and text for people."""

import contextlib
import json
import pathlib
import re
import shlex
import socket
import sqlite3
import time

import pytest
from salt import payload
from salt.minion import load_args_and_kwargs
from salt.utils.args import parse_input
from salt.version import __version__ as salt_version

from tests.support import process
from tests.support.places import SqlitePlace
from tests.support.salt import states
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
    assert (held["token"]["ref"], held["own"]) == (taken["ref"], True)
    assert "you hold the token yourself" in held["message"]
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

    released = ok(
        config.run("deploytoken.release", summary="upgraded", ref=taken2["ref"], rebooted="web1,web2", name="Bob")
    )
    assert (released["held_by"], released["released"], released["released_by"]) == (None, taken2["ref"], "Bob")
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


def test_who_ends_a_hold_is_named_beside_who_took_it(config):
    alice, bob = ({"environment": {"SUDO_USER": name}} for name in ("alice", "bob"))
    taken = ok(config.run("deploytoken.acquire", reason="upgrade", **alice))
    assert taken["held_by"] == "alice"
    assert ok(config.run("deploytoken.status", **bob))["account"] == "alice@main"

    # One configuration, two people: a bare release is no way to end another's hold.
    refused(config.run("deploytoken.release", summary="mine", **bob), 4, "not_yours")
    done = ok(config.run("deploytoken.release", ref=taken["ref"], for_holder=True, **bob))
    assert (done["released"], done["released_by"]) == (taken["ref"], "bob")
    assert done["entry"].endswith(f" alice: upgrade; released by bob (ref {taken['ref']})")

    (past,) = ok(config.run("deploytoken.history"))["holds"]
    assert (past["held_by"], past["account"], past["ended_by"]) == ("alice", "alice@main", "bob@main")
    table = config.run("deploytoken.history", out=None).stdout
    assert re.search(r"alice +released by +upgrade\n.* bob@main ", table)


def typed(salt, words, **more):
    """Type a command as it stands there, and then ``more`` behind it: what ``salt-run`` makes of the words."""
    program, function, *arguments = shlex.split(words)
    assert program == "salt-run"
    positional, named = load_args_and_kwargs(salt.runners[function], parse_input(arguments))
    named.pop("__kwarg__", None)
    salt.context.clear()
    return salt.runners[function](*positional, **named, **more)


def pasted(salt, answer, **more):
    """Paste the only command in a refusal."""
    (command,) = re.findall("`(salt-run [^`]*)`", answer["message"])
    done = typed(salt, command, **more)
    assert salt.retcode == 0, (command, done)
    return done


#: Which a shell, and then Salt, could take for something else.
REASON = 'it\'s 50% "done": $HOME & more – Käthe'


def test_the_commands_in_refusals_do_as_pasted_what_they_say(salt):
    ref = typed(salt, 'salt-run deploytoken.acquire reason="upgrade PostgreSQL" expect=2h')["ref"]

    # What is asked for under the own ref differs from what stands.
    other = typed(salt, f"salt-run deploytoken.acquire ref={ref} reason={shlex.quote(REASON)}")
    assert pasted(salt, other)["reason"] == REASON

    # Somebody else's hold: on purpose, by its ref, and the reason is the one that was given.
    held = typed(salt, f"salt-run deploytoken.acquire name=Bob reason={shlex.quote(REASON)}")
    assert (held["reason"], held["own"]) == ("held", False)
    assert "wait=15m" in held["message"]
    for words in ("release", "release summary=mine", f"release ref={ref}", f"extend ref={ref} expect=2h"):
        not_his = typed(salt, f"salt-run deploytoken.{words} name=Bob")
        assert (not_his["reason"], salt.retcode) == ("not_yours", 4)
        assert "ask Alice" in not_his["message"]
    no_ref = typed(salt, f"salt-run deploytoken.takeover reason={shlex.quote(REASON)} name=Bob")
    assert (no_ref["reason"], salt.retcode) == ("invalid", 2)
    assert f"takeover ref={ref} reason=WHY`" in typed(salt, "salt-run deploytoken.takeover")["message"]
    taken = pasted(salt, no_ref, name="Bob")
    assert (taken["held_by"], taken["reason"], taken["displaced"]["ref"]) == ("Bob", REASON, ref)

    # One's own.
    own = typed(salt, 'salt-run deploytoken.acquire name=Bob reason="and more"')
    assert (own["reason"], own["own"]) == ("held", True)
    bobs = pasted(salt, own, name="Bob")
    assert (bobs["released"], bobs["released_by"]) == (taken["ref"], "Bob")
    assert bobs["entry"].endswith(f" Bob: {REASON} (ref {taken['ref']})")

    # Another's, ended for that person.
    ref = typed(salt, "salt-run deploytoken.acquire reason=again")["ref"]
    done = pasted(salt, typed(salt, "salt-run deploytoken.release name=Bob"), name="Bob")
    assert (done["released"], done["released_by"]) == (ref, "Bob")
    assert done["entry"].endswith(f" Alice: again; released by Bob (ref {ref})")

    # Nobody's.
    nobodys = typed(salt, f"salt-run deploytoken.takeover reason={shlex.quote(REASON)}")
    assert pasted(salt, nobodys)["reason"] == REASON


def test_a_hold_that_a_person_typed_is_taken_over_by_a_command_as_pasted(salt, tmp_path):
    edit(tmp_path / "token.db", "Held by: Käthe O'Neil\n\nh2. History\n")
    for words in (f"acquire reason={shlex.quote(REASON)}", f"takeover reason={shlex.quote(REASON)}"):
        refusal = typed(salt, f"salt-run deploytoken.{words}")
        assert "held_by=" in refusal["message"]
    taken = pasted(salt, refusal)
    assert (taken["reason"], taken["displaced"]["held_by"]) == (REASON, "Käthe O'Neil")


def test_a_refusal_offers_no_ref_of_a_hold_that_is_over(salt):
    ref = typed(salt, "salt-run deploytoken.acquire reason=upgrade")["ref"]
    typed(salt, "salt-run deploytoken.release")
    for words in (f"acquire ref={ref} resume=True", f"acquire ref={ref} reason=x", f"extend ref={ref} expect=1h"):
        over = typed(salt, f"salt-run deploytoken.{words}")
        assert (over["reason"], salt.retcode) == ("not_yours", 4)
        assert not re.search("`salt-run [^`]*ref=", over["message"])


def test_a_hold_is_extended_and_says_so(salt):
    ref = typed(salt, "salt-run deploytoken.acquire reason=upgrade expect=1h")["ref"]
    first = typed(salt, "salt-run deploytoken.status")
    more = typed(salt, "salt-run deploytoken.extend expect=3h")
    assert (more["ref"], more["reason"], more["since"]) == (ref, "upgrade", first["since"])
    assert more["expected_until"] > first["expected_until"]
    assert typed(salt, f"salt-run deploytoken.extend ref={ref} reason='and reindex'")["reason"] == "and reindex"
    status = typed(salt, "salt-run deploytoken.status")
    assert (status["expected_until"], status["reason"]) == (more["expected_until"], "and reindex")


def test_a_job_that_may_run_is_ended_under_only_by_force_and_its_entry_says_so(salt):
    for end in ("release", "takeover reason=urgent"):
        ref = typed(salt, "salt-run deploytoken.acquire reason=upgrade jid=20261122223000123456")["ref"]
        for more in ("", " for_holder=True" if end == "release" else ""):
            held = typed(salt, f"salt-run deploytoken.{end} ref={ref}{more}")
            assert (held["reason"], salt.retcode) == ("held", 3)
            assert "force=true" in held["message"]
        done = typed(salt, f"salt-run deploytoken.{end} ref={ref} force=true")
        assert "by force, over the job 20261122223000123456@main" in done["entry"]


def status(salt, text, page):
    """The answer to ``status check=True`` with this line on the page, and the exit code."""
    edit(page, f"Held by: {text}\n\nh2. History\n")
    return typed(salt, "salt-run deploytoken.status check=True"), salt.retcode


def test_the_status_as_a_check_says_by_its_exit_code_who_holds_the_token(salt, tmp_path):
    page = tmp_path / "token.db"
    hold = "Alice (upgrade; since 2020-01-01 00:00 UTC{}; ref abcdef01)"

    free, code = status(salt, "nobody", page)
    assert (code, free["held_by"], free["message"]) == (0, None, "nobody holds the token")
    held, code = status(salt, hold.format(""), page)
    assert (code, held["reason"], held["held_by"], held["overdue"]) == (3, "held", "Alice", False)
    assert held["message"] == "Alice holds the token since 2020-01-01 00:00 UTC (upgrade)"
    late, code = status(salt, hold.format("; expected until 2020-01-01 02:00 UTC"), page)
    assert (code, late["reason"], late["overdue"]) == (10, "overdue", True)
    assert late["message"].endswith("; it was expected until 2020-01-01 02:00 UTC: ask Alice")
    assert {*free} - {"message"} == {*held} - {"message", "retcode"} == {*late} - {"message", "retcode"}
    by_hand, code = status(salt, "Bob", page)
    assert (code, by_hand["message"]) == (3, "Bob holds the token")
    unread, code = status(salt, "Bob\n\nHeld by: Alice", page)
    assert (code, unread["reason"]) == (6, "store")
    # Without the argument, a status is a success whatever it says.
    status(salt, hold.format(""), page)
    assert typed(salt, "salt-run deploytoken.status")["held_by"] == "Alice"
    assert salt.retcode == 0


def test_the_status_says_of_a_page_that_was_set_back_when_the_hold_had_ended(loaders, tmp_path):
    place = SqlitePlace(tmp_path)
    salt = loaders(**place.options("alice"))
    typed(salt, "salt-run deploytoken.acquire reason=upgrade")
    held = place.text()
    typed(salt, "salt-run deploytoken.release")
    place.edit(lambda text: held)

    back = typed(salt, "salt-run deploytoken.status")
    assert back["ended_before"] == 3
    assert "ended before, in version 3; the page was set back" in back["message"]
    assert typed(salt, "salt-run deploytoken.status check=True")["ended_before"] == 3
    assert salt.retcode == 3
    pasted(salt, back)
    assert typed(salt, "salt-run deploytoken.status")["message"] == "nobody holds the token"


def test_of_two_orchestrations_that_resume_one_hold_the_second_is_refused(salt, tmp_path):
    first, second = "20261122223000123456", "20261122223000999999"
    ref = typed(salt, "salt-run deploytoken.acquire reason=upgrade")["ref"]
    assert typed(salt, f"salt-run deploytoken.acquire ref={ref} resume=True jid={first}")["taken"] is False
    refused = typed(salt, f"salt-run deploytoken.acquire ref={ref} resume=True jid={second}")
    assert (refused["reason"], salt.retcode) == ("held", 3)
    assert first in refused["message"]


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
        ("acquire", {"resume": True}, "ref"),
        ("release", {"summary": ""}, "summary"),
        ("release", {"for_holder": True}, "ref"),
        ("release", {"force": "no"}, "force"),
        ("takeover", {}, "ref"),
        ("takeover", {"ref": "abcdef01"}, "reason"),
        ("takeover", {"reason": "x"}, "ref"),
        ("takeover", {"reason": "x", "ref": "abcdef01", "held_by": "Bob"}, "held_by"),
        ("extend", {}, "expect"),
        ("extend", {"expect": 0}, "expect"),
        ("status", {"check": "yes"}, "check"),
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

    # Closed, its minion as well: that of 3008.3 loads every returner as it ends, and where a garbage collection ended
    # it, the import that went on in another test failed ("dictionary changed size during iteration").
    with RunnerClient(master_config(str(config.folder / "master"))) as client, client.mminion:
        known = {
            "deploytoken.history": lambda answer: answer["holds"] == [],
            "deploytoken.doctor": lambda answer: "page" in {check["name"] for check in answer["checks"]},
            "busy.check": lambda answer: (answer["reason"], answer["expected"]) == ("busy", []),
        }
        for function, fits in known.items():
            named = {"target": "web9"} if function == "busy.check" else {}
            answer = client.cmd(function, kwarg=named, print_event=False)
            assert fits(answer), answer
            assert "outputter" not in answer

        # A step of an orchestration has them among its changes.
        folder = tmp_path / "states"
        folder.mkdir()
        steps = {name: {"salt.runner": [{"name": name}]} for name in known}
        steps["busy.check"]["salt.runner"].append({"target": "web9"})
        ref = "abcdef01"
        for name, named in {"acquire": [{"reason": "by steps"}, {"ref": ref}], "release": [{"ref": ref}]}.items():
            steps[name] = {"salt.runner": [{"name": f"deploytoken.{name}"}, *named]}
        (folder / "look.sls").write_text(json.dumps(steps))
        config.update(file_roots={"base": [str(folder)]})
        done = config.run("state.orchestrate", "look")
        rows = {row["__id__"]: row["changes"]["return"] for row in states(done)}
        assert [name for name, fits in known.items() if not fits(rows[name])] == [], done
        # The job on the line is that of both steps, so nobody else is at work.
        assert rows["acquire"]["taken"] is True
        assert (rows["release"]["released"], "by force" in rows["release"]["entry"]) == (ref, False), done

        # Whoever asks through a program is who acts.
        asked = {"kwarg": {"reason": "upgrade"}, "pub_data": {"user": "carol"}, "print_event": False}
        assert client.cmd("deploytoken.acquire", **asked)["held_by"] == "carol"

        (tmp_path / "token.db").unlink()
        assert client.cmd("deploytoken.doctor", print_event=False)["checks"][-1]["name"] == "minions"
    people = config.run("deploytoken.history", out=None)
    assert people.code == 6
    assert people.stdout.startswith("there is no token in ")
    people = config.run("busy.check", target="web9", out=None)
    assert people.code == 7
    assert not people.stdout.startswith("busy.check")


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
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": job.name, "master": "main", "running": True}
        (tmp_path / "go").touch()
        deploy.communicate(timeout=240)
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": job.name, "master": "main", "running": False}

        # Under the same hold, by another job, which is killed; and the master's maintenance cleans up after it.
        (tmp_path / "go").unlink()
        deploy = start("again")
        again = min(jobs.iterdir(), key=lambda path: path.name)
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": again.name, "master": "main", "running": True}
        deploy.kill()
        deploy.wait()
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": again.name, "master": "main", "running": False}
        again.unlink()
        assert ok(config.run("deploytoken.status"))["job"] == {"jid": again.name, "master": "main", "running": False}


def test_status_says_that_a_killed_job_does_not_run_and_nothing_about_one_of_another_master(salt, tmp_path):
    jid, elsewhere = "20261122223000123456", "20261122223000999999"
    ref = salt.runners["deploytoken.acquire"](reason="upgrade", jid=jid)["ref"]
    # What Salt leaves behind when it is killed: here, a process that is there and is not Salt's, and then is gone.
    other = process.start(["sleep", "60"], tmp_path / "log", cwd="/")
    try:
        job = pathlib.Path(salt.opts["cachedir"]) / "proc" / jid
        job.write_bytes(payload.dumps({"pid": other.pid}))
        assert salt.runners["deploytoken.status"]()["job"] == {"jid": jid, "master": "main", "running": False}
    finally:
        process.end(other)
    assert salt.runners["deploytoken.status"]()["job"] == {"jid": jid, "master": "main", "running": False}
    job.write_bytes(b"\xff\x00")
    assert salt.runners["deploytoken.status"]()["job"] == {"jid": jid, "master": "main", "running": None}

    # Nobody can tell whether it runs: then the hold is ended by force or not at all.
    assert salt.runners["deploytoken.release"](ref=ref)["reason"] == "held"
    assert f"by force, over the job {jid}@main" in salt.runners["deploytoken.release"](ref=ref, force=True)["entry"]
    assert salt.runners["deploytoken.status"]()["job"] is None
    salt.runners["deploytoken.acquire"](reason="upgrade", jid=int(elsewhere))  # as the command line hands it on
    assert salt.runners["deploytoken.status"]()["job"] == {"jid": elsewhere, "master": "main", "running": None}
