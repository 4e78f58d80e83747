"""
Reboots of real minions under the token: in order, one after the other, and only on while each comes back well.

The minions run in namespaces of their own, where `shutdown -r` ends everything and gives another boot id.
"""

import json
import re
import shlex
import signal

import pytest

from tests.support import deploy as support
from tests.support import process
from tests.support.deploy import comment
from tests.support.machine import Machine
from tests.support.salt import Result
from tests.support.wait import until

REF = "f9c2a1b0"


@pytest.fixture(scope="module")
def _machines(_cluster, tmp_path_factory):
    made = [Machine(_cluster, name, tmp_path_factory.mktemp(name)) for name in ("web1", "web2")]
    try:
        for machine in made:
            machine.start()
        yield [machine.up() for machine in made]
    finally:
        for machine in made:
            machine.stop()


@pytest.fixture
def machines(cluster, _machines):
    """The machines web1 and web2, up, without orders, and with an empty highstate."""
    cluster.top(**{"*": ["deploytoken.gate"]})
    for machine in _machines:
        machine.mode = "reboot"
    for machine in _machines:
        machine.up().forget()
    return _machines


@pytest.fixture
def held(cluster, machines):
    """The cluster, whose token is held under REF."""
    answer = cluster.run("deploytoken.acquire", reason="new kernel", ref=REF)
    assert answer.code == 0, answer
    return cluster


def reboot(cluster, *minions, ref=REF, within="240s", **more):
    # As words: `timeout` is also how long the test waits.
    words = ["target_type=list", f"ref={ref}", f"timeout={within}"]
    return cluster.run("deployreboots.reboot", ",".join(minions), *words, **more)


def test_servers_are_rebooted_in_order_one_after_the_other(held, machines):
    web1, web2 = machines
    before = {machine.id: machine.boot_id for machine in machines}
    port = held.options["ret_port"]
    answer = reboot(
        held, "web2", "web1", health={"function": "network.connect", "arg": ["127.0.0.1", port]}, pause="1s"
    )
    assert answer.code == 0, answer
    assert answer.data["rebooted"] == {
        machine.id: {"old": before[machine.id], "new": machine.boot_id} for machine in (web1, web2)
    }
    assert all(boot["old"] != boot["new"] for boot in answer.data["rebooted"].values())
    steps = [line.split(" ", 1)[1][:12] for line in answer.stderr.splitlines() if " web" in line]
    assert steps == ["web2: reboot", "web2: is bac", "waiting 1 se", "web1: reboot", "web1: is bac"], answer.stderr
    assert (web1.orders, web2.orders) == (["-r now"], ["-r now"])

    seen = held.run("deployreboots.ids", "web*", ref=REF).data
    assert seen["rebooted"] == {"web1": "ordered", "web2": "ordered"}
    assert seen["boots"] == {machine.id: machine.boot_id for machine in machines}


def test_a_server_that_does_not_come_back_stops_the_rest(held, machines):
    web1, web2 = machines
    web1.mode = "off"
    answer = reboot(held, "web1", "web2", within="10s")
    assert answer.code == 9, answer
    assert answer.data["failed"] == {"web1": "has not come back within 10 seconds"}
    assert answer.data["left"] == ["web1", "web2"]
    assert "not rebooted: web2" in answer.data["message"]
    assert web2.orders == []

    away = held.run("deployreboots.ids", "web1,web2", target_type="list")
    assert (away.code, list(away.data["failed"])) == (9, ["web1"])
    web1.mode = "reboot"
    back = held.run("deployreboots.ids", "web1,web2", target_type="list", wait="240s")
    assert (back.code, back.data["boots"]["web1"]) == (0, web1.boot_id), back


@pytest.mark.parametrize(
    ("mode", "within", "why"),
    [
        ("refuse", "60s", 'refuses to reboot: Operation inhibited by "backup"'),
        ("ignore", "5s", "did not reboot within 5 seconds: it still has the boot ID from before"),
        ("same", None, "did not reboot within .*: it still has the boot ID from before"),
    ],
)
def test_a_server_that_answers_without_a_reboot_is_not_taken_for_one_that_came_back(held, machines, mode, within, why):
    machines[0].mode = mode
    answer = reboot(held, "web1", "web2", within=within or machines[0].patience)
    assert answer.code == 9, answer
    assert list(answer.data["failed"]) == ["web1"]
    assert re.fullmatch(why, answer.data["failed"]["web1"]), answer
    assert machines[1].orders == []


def test_a_server_whose_service_is_down_stops_the_rest(held, machines):
    check = {"function": "network.connect", "arg": ["127.0.0.1", port := process.free_port()]}
    answer = reboot(held, "web1", "web2", within=machines[0].patience, health=check)
    assert answer.code == 9, answer
    why = f"network.connect: Unable to connect to 127.0.0.1 (127.0.0.1) on tcp port {port}"
    assert answer.data["failed"] == {"web1": f"came back, and is not well: {why}"}
    assert machines[1].orders == []


def test_health_can_be_an_sls_that_goes_through_the_gate_and_a_batch_reboots_at_once(held, machines):
    held.sls("smoke", {"smoke": {"test.succeed_without_changes": []}})
    answer = reboot(held, "web1", "web2", batch=2, health={"sls": "smoke"})
    assert answer.code == 0, answer
    steps = [line.split(" ", 1)[1][:12] for line in answer.stderr.splitlines() if " web" in line]
    assert steps[:2] == ["web1: reboot", "web2: reboot"], answer.stderr


def test_nobody_reboots_without_the_token_nor_over_somebody_elses_work(held, machines, redmine):
    assert held.run("deployreboots.reboot", "web1").code == 2
    answer = reboot(held, "web1", ref="0badc0de")
    assert (answer.code, answer.data["reason"]) == (4, "not_yours"), answer

    held.pillar_of("web1", busy={"missing": {}})
    held.ask("web1", "saltutil.refresh_pillar", wait=True)
    answer = reboot(held, "web1")
    assert (answer.code, answer.data["reason"]) == (7, "busy"), answer
    held.pillar_of("web1")
    held.ask("web1", "saltutil.refresh_pillar", wait=True)

    # The hold ends while the first of two reboots.
    check = {"function": "file.file_exists", "arg": [str(machines[0].folder / "well")]}
    process = held.popen("deployreboots.reboot", ["web1", "web2"], target_type="list", ref=REF, health=check)
    until(lambda: machines[0].orders, 240, "web1 to be rebooted")
    redmine.edit(held.page, "Held by: nobody\n\nh2. History\n", "bob")
    (machines[0].folder / "well").touch()
    data = json.loads(process.communicate(timeout=600)[0])
    assert data["reason"] == "not_yours", data
    assert (list(data["rebooted"]), data["left"]) == (["web1"], ["web2"])
    assert machines[1].orders == []


def test_servers_say_whether_they_need_a_reboot_and_one_that_cannot_tell_is_named(held, machines):
    required = lambda: held.run("deployreboots.required", "web2,web1", target_type="list")  # noqa: E731
    # A Debian on which nothing writes the file.
    answer = required()
    assert (answer.code, list(answer.data["failed"])) == (9, ["web2", "web1"]), answer
    assert "nothing there writes /var/run/reboot-required" in answer.data["failed"]["web1"]

    held.ask("web1", "file.touch", "/var/run/reboot-required")
    needs = machines[1].folder / "bin" / "needs-restarting"
    held.ask("web2", "grains.setval", "os_family", "RedHat")
    try:
        assert "not found (is yum-utils" in required().data["failed"]["web2"]
        for words, code, needing in (("not be necessary", 0, ["web1"]), ("Reboot is required", 1, ["web2", "web1"])):
            needs.write_text(f"#!/bin/sh\n[ $1 = -r ] && echo '{words}.' && exit {code}\n")
            needs.chmod(0o755)
            answer = required()
            assert (answer.code, answer.data) == (0, {"required": needing}), answer
    finally:
        needs.unlink(missing_ok=True)
        held.ask("web2", "grains.delval", "os_family", destructive=True)
        held.ask("web1", "file.remove", "/var/run/reboot-required")


def test_a_target_of_nobody_or_of_this_very_machine_is_refused(held):
    for answer in (reboot(held, "web3"), held.run("deployreboots.reboot", "nobody*", ref=REF)):
        assert (answer.code, answer.data["reason"]) == (7, "busy"), answer
    answer = reboot(held, "docs", "web1")  # a minion without namespaces of its own
    assert answer.code == 2
    assert "docs has the boot ID of the machine" in answer.data["message"]


# The orchestration.


def deploy(cluster, **more):
    return support.deploy(cluster, ["web1", "web2"], "new kernel", **{"reboot_timeout": "240s", **more})


def entry(cluster, redmine):
    return next((line for line in redmine.text(cluster.page).splitlines() if line.startswith("* ")), "")


def test_a_deploy_stops_at_the_server_that_does_not_come_back_and_goes_on_with_those_that_are_left(
    cluster, machines, redmine
):
    web1, web2 = machines
    web2.mode = "off"
    answer = deploy(cluster, reboot=True, reboot_timeout=web2.patience)
    assert answer.code == 1, answer
    assert re.search(r"web2 has not come back within .* \(rebooted: web1\)", comment(answer, "reboots")), answer
    assert cluster.run("deploytoken.status").data["held_by"] is not None
    again = next(line for line in comment(answer, "cleanup").splitlines() if line.startswith("To run again"))

    web2.mode = "reboot"
    web2.up()
    # It has rebooted meanwhile; but now there is something new for it.
    cluster.sls("kernel", {"kernel": {"test.succeed_with_changes": []}})
    cluster.top(**{"*": ["deploytoken.gate"], "web2": ["kernel"]})
    resumed = cluster.command(*shlex.split(again.partition(": ")[2].replace(f'"{web2.patience}"', '"240s"')))
    assert resumed.code == 0, resumed
    assert (web1.orders, web2.orders) == (["-r now"], ["-r now", "-r now"])
    told = entry(cluster, redmine)
    assert re.search(r"FAILED: web2 has not come back .*; rebooted web1\); rebooted web2 \(ref", told), told


def test_ctrl_c_between_two_reboots_says_who_reboots_and_whoever_did_is_not_rebooted_once_more(
    cluster, machines, redmine
):
    web1, web2 = machines
    web1.mode = "off"
    pillar = {"deploytoken": {**support.BOTH, "target": "web1,web2", "reason": "new kernel", "reboot": True}}
    deploying = cluster.popen("state.orchestrate", "deploytoken.deploy", pillar=pillar)
    try:
        until(lambda: web1.orders, 400, "web1 to be rebooted")
        deploying.send_signal(signal.SIGINT)
        stdout, stderr = deploying.communicate(timeout=600)
    finally:
        deploying.kill()
    answer = Result(deploying.args, deploying.returncode, stdout, stderr)
    assert answer.code == 1, answer
    assert not answer.traceback, answer
    said = "Interrupted; web1 was ordered to reboot, and does so all the same (not rebooted: web2)"
    assert comment(answer, "reboots") == said
    assert web2.orders == []
    assert cluster.run("deploytoken.status").data["held_by"] is not None
    told = dict(line.split(": ", 1) for line in comment(answer, "cleanup").splitlines() if line.startswith("To "))
    assert told["To see what is back"] == "salt-run deployreboots.ids web1 target_type=list"

    web1.mode = "reboot"
    web1.up()
    resumed = cluster.command(*shlex.split(told["To run again under the same hold"]))
    assert resumed.code == 0, resumed
    assert (web1.orders, web2.orders) == (["-r now"], ["-r now"])
    assert "; rebooted web1, web2 (ref" in entry(cluster, redmine)


def test_a_server_that_reboots_by_itself_is_waited_for_and_noted(cluster, machines, redmine):
    web1, web2 = machines
    cluster.sls("kernel", {"shutdown -r +1": {"cmd.run": [{"onlyif": "test -e " + str(web1.folder / "bin")}]}})
    cluster.top(web1=["deploytoken.gate", "kernel"], web2=["deploytoken.gate"])
    answer = deploy(cluster, reboot=["web2", "web1"])
    assert answer.code == 0, answer
    # web1 has rebooted already by the time it is its turn.
    assert (web1.orders, web2.orders) == (["-r +1"], ["-r now"])
    assert "; rebooted web1 (by itself), web2 (ref" in entry(cluster, redmine)


def test_after_a_failed_deploy_and_in_a_test_nobody_is_rebooted(cluster, machines):
    answer = deploy(cluster, reboot=["web2", "web1"], test=True)
    assert answer.code == 0, answer
    assert comment(answer, "reboots") == "Would be rebooted, 1 at a time: web2, web1"

    assert "web9" in comment(deploy(cluster, reboot=["web9"]), "boots")

    cluster.sls("broken", {"broken": {"test.fail_without_changes": []}})
    cluster.top(**{"*": ["deploytoken.gate", "broken"]})
    answer = deploy(cluster, reboot=True)
    assert answer.code == 1, answer
    assert "nobody is rebooted" in comment(answer, "reboots")
    assert [machine.orders for machine in machines] == [[], []]
