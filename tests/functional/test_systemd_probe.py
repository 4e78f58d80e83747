"""The systemd probe, against a real systemd as process 1, with logind and a user's own systemd."""

import importlib.util
import json
import re
import sys
import time

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from tests.support import minion
from tests.support.systemd import Systemd, probe_with
from tests.support.wait import until

NOTHING = {"blockers": [], "unknowns": [], "info": []}
LONG = ("sleep", "7777")
SERVICE = "[Service]\nType={}\nExecStart=sleep 7777\n"


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    machine = Systemd(tmp_path_factory.mktemp("systemd"))
    try:
        yield machine.start()
    finally:
        machine.end()


@pytest.fixture
def machine(booted):
    yield booted
    booted.clean()


def units(answer):
    """The names of the units that block, or who inhibits."""
    assert answer["unknowns"] == answer["info"] == []
    return [blocker["id"].split(":")[1] for blocker in answer["blockers"]]


def test_what_somebody_started_with_systemd_run_blocks_while_it_runs_and_each_run_is_another(machine):
    assert machine.look() == NOTHING
    machine.begin("--unit=test-import", "--uid=daemon", *LONG)
    (first,) = machine.look()["blockers"]

    assert re.fullmatch(r"daemon:test-import\.service:[0-9a-f]{8}", first["id"])
    assert (first["what"], first["user"], first["ask"]) == ("test-import.service: sleep 7777", "daemon", "daemon")
    assert 0 <= time.time() - first["since"] < 240
    assert machine.look()["blockers"][0]["id"] == first["id"]

    machine.run("systemctl", "stop", "test-import.service")
    assert machine.look() == NOTHING
    machine.begin("--unit=test-import", *LONG)
    (second,) = machine.look()["blockers"]
    assert (second["user"], second["id"] != first["id"]) == ("root", True)


def test_what_is_over_or_waits_to_be_tried_again_is_no_work(machine):
    machine.begin("--unit=test-over", "--remain-after-exit", "true")
    machine.begin("--unit=test-failed", "false")
    machine.begin("--unit=test-again", "--property=Restart=always", "--property=RestartSec=1h", "false")
    states = ["exited", "failed", "auto-restart"]
    shown = ("systemctl", "show", "--value", "--property=SubState")
    names = [f"test-{name}.service" for name in ("over", "failed", "again")]
    until(lambda: machine.run(*shown, *names).split() == states, what="the ends")

    assert machine.look() == NOTHING


def test_a_timer_that_waits_is_no_work_and_its_service_is_while_it_runs(machine):
    machine.unit("test-backup.service", SERVICE.format("simple"))
    machine.unit("test-backup.timer", "[Timer]\nOnActiveSec=1h\n")
    machine.run("systemctl", "start", "test-backup.timer")
    machine.begin("--unit=test-later", "--on-active=1h", *LONG)
    assert machine.look() == NOTHING

    machine.run("systemctl", "start", "test-backup.service")
    machine.begin("--unit=test-now", "--on-active=0", *LONG)
    until(lambda: len(machine.look()["blockers"]) == 2, what="the timer")
    assert sorted(blocker["what"] for blocker in machine.look()["blockers"]) == [
        "test-backup.service (test-backup.timer): sleep 7777",
        "test-now.service (test-now.timer): sleep 7777",
    ]


def test_a_task_without_a_timer_is_work_and_a_daemon_or_a_scope_is_not(machine):
    machine.unit("test-daemon.service", SERVICE.format("simple"))
    machine.unit("test-task.service", SERVICE.format("oneshot"))
    machine.run("systemctl", "start", "--no-block", "test-daemon.service", "test-task.service")
    # As a session, a container or a pane of tmux: others started what is in it.
    machine.run("sh", "-c", "systemd-run --scope --unit=test-scope sleep 7777 >/dev/null 2>&1 &")
    until(lambda: machine.run("systemctl", "is-active", "test-daemon.service", "test-scope.scope"), what="all")

    assert units(machine.look()) == ["test-task.service"]


def test_what_a_user_started_in_a_systemd_of_their_own_blocks_as_well(machine, users):
    ana = users("ana")
    machine.run("systemctl", "start", f"user@{ana.uid}.service")
    assert machine.look() == NOTHING
    machine.begin("--unit=test-mine", *LONG, user=ana)

    (blocker,) = machine.look()["blockers"]
    assert blocker["id"].startswith(f"{ana.name}:test-mine.service:")
    assert (blocker["user"], blocker["ask"]) == (ana.name, ana.name)
    assert machine.look(ignore=["nothing", f"user@{ana.uid}.*"]) == NOTHING
    with machine.stopped("systemd", ana.uid):
        answer = machine.look(timeout=0.5)
    assert answer["blockers"] == []
    why = f"systemd of {ana.name} could not be asked: systemctl did not answer within 0.5 seconds"
    assert answer["unknowns"] == [{"why": why}]


def test_who_inhibits_a_shutdown_is_named_and_who_only_delays_it_is_not(machine):
    with (
        machine.inhibited("--what=sleep:idle", '--who=Bäckup "2"', "--why=nightly, until\t6\\n"),
        machine.inhibited("--what=shutdown", "--mode=delay", "--who=upgrades"),
        machine.inhibited("--what=idle:handle-lid-switch", "--who=film"),
    ):
        answer = machine.look()
        (blocker,) = answer["blockers"]
        assert re.fullmatch(r'inhibitor:Bäckup "2":\d+\.\d+', blocker["id"])
        assert blocker["what"] == "inhibits sleep:idle: nightly, until\t6\\n"
        assert (blocker["user"], blocker["ask"]) == ("root", 'root (Bäckup "2")')
        assert answer["unknowns"] == []
        assert machine.look()["blockers"][0]["id"] == blocker["id"]
        assert machine.look(ignore=["Bäckup*"]) == NOTHING
    until(lambda: machine.look() == NOTHING, what="its end")


def test_where_logind_does_not_run_nothing_inhibits_and_nobody_starts_it(machine):
    machine.run("systemctl", "stop", "systemd-logind.service")
    try:
        assert machine.look() == NOTHING
        assert machine.run("systemctl", "is-active", "systemd-logind.service", check=False) == "inactive\n"
    finally:
        machine.run("systemctl", "start", "systemd-logind.service")


def test_who_asks_is_not_in_the_way(machine, checkout, tmp_path):
    """As a deploy that a timer starts, or one that inhibits a shutdown while it lasts."""
    busy = json.dumps({"systemd": {}})
    asks = (sys.executable, "-m", "tests.support.minion", checkout, tmp_path, busy)
    there = [f"--setenv=PYTHONPATH={checkout}", "--unit=test-deploy", "--pipe", "--wait", "--quiet"]
    inhibits = ["systemd-inhibit", "--who=deploy", "sh", "-c", '"$@" | cat', "sh"]
    machine.begin("--unit=test-import", *LONG)

    answer = json.loads(machine.begin(*there, *inhibits, *asks))
    assert [blocker["what"] for blocker in answer["blockers"]] == ["test-import.service: sleep 7777"]
    assert answer["unknowns"] == []


def test_what_is_over_soon_is_no_blocker(machine, checkout, tmp_path):
    """As the health checks of containers, of which there is always one."""
    machine.begin("--unit=test-long", *LONG)
    forever = [f"--property={each}" for each in ("Restart=always", "RestartSec=0", "StartLimitIntervalSec=0")]
    machine.begin("--unit=test-checks", *forever, "sleep", "0.5")
    busy = json.dumps({"systemd": {}})

    answer = json.loads(machine.run(sys.executable, "-m", "tests.support.minion", checkout, tmp_path, busy))
    assert [blocker["what"] for blocker in answer["blockers"]] == ["test-long.service: sleep 7777"]


def test_who_does_not_answer_is_unknown_and_hides_nothing_else(machine):
    machine.begin("--unit=test-import", *LONG)
    with machine.stopped("systemd-logind"):
        answer = machine.look(timeout=0.5)
    assert units({**answer, "unknowns": []}) == ["test-import.service"]
    assert answer["unknowns"] == [{"why": "logind could not be asked: busctl did not answer within 0.5 seconds"}]

    with machine.stopped("systemd"):
        answer = machine.look(timeout=0.5)
    assert answer["unknowns"][0] == {"why": "systemd could not be asked: systemctl did not answer within 0.5 seconds"}


def test_a_machine_that_systemd_does_not_run_is_unknown(checkout, tmp_path):
    probe_with(tmp_path, "BOOTED", str(tmp_path / "missing"))
    with pytest.raises(CommandExecutionError, match="systemd does not run this machine"):
        minion.functions(checkout, tmp_path, modules=[tmp_path])["systemd.probe"]()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ignore": "man-db.service"}, "ignore: a list of one glob or more is needed"),
        ({"ignore": []}, "ignore: a list of one glob or more is needed"),
        ({"ignore": ["a", ""]}, "ignore.1: '' is no glob of some units' names"),
        ({"ignore": ["*"]}, r"ignore.0: '\*' is no glob of some units' names"),
        ({"ignore": [7]}, "ignore.0: 7 is no glob of some units' names"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a duration"),
    ],
)
def test_a_wrong_setting_is_named(checkout, tmp_path, settings, why):
    with pytest.raises(SaltInvocationError, match=why):
        minion.functions(checkout, tmp_path)["systemd.probe"](**settings)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("_units", ""),
        ("_units", "Id=dbus.service\nActiveState=active\n"),
        ("_locks", ""),
        ("_locks", "a(ssssuu) 1\n"),
        ("_locks", 'a(ssssuu) 1 "shutdown" "x" "y" "block" 0\n'),
        ("_locks", 'a(ssssuu) 2 "shutdown" "x" "y" "block" 0 1\n'),
        ("_locks", 'a(ssssut) 1 "shutdown" "x" "y" "block" 0 1\n'),
        ("_locks", 'a(ssssuu) 1 "shutdown" "x\\" "y" "block" 0 1\n'),
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(checkout, function, said):
    spec = importlib.util.spec_from_file_location("systemd_probe", checkout / "_modules" / "systemd.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__salt__ = {"proctable.run": lambda *_, **__: {"retcode": 0, "stdout": said, "stderr": ""}}
    with pytest.raises(CommandExecutionError, match="answered something else"):
        getattr(module, function)(5, *["root"] * (function == "_units"))
