"""A deploy from a laptop: over salt-ssh, through a real sshd, with no Salt daemon anywhere."""

import contextlib
import dataclasses
import json
import pathlib
import sqlite3
import subprocess
import sys

import psutil
import pytest
import yaml

from tests.support import process
from tests.support.machine import SshMachine
from tests.support.pane import Pane
from tests.support.process import free_port
from tests.support.salt import Config, states
from tests.support.ssh import Sshd
from tests.support.wait import until


@dataclasses.dataclass
class Laptop:
    """A laptop's configuration folder, and the machines in its roster, which all are this one."""

    config: Config
    sshd: Sshd
    base: pathlib.Path
    user: object

    @property
    def store(self):
        return self.base / "token.db"

    def roster(self, **entries):
        (self.base / "roster").write_text(yaml.safe_dump(entries))

    def text(self):
        with contextlib.closing(sqlite3.connect(self.store)) as database:
            return database.execute("select text from page order by version desc limit 1").fetchone()[0]

    def out(self, name):
        """The file that the states of this roster entry write."""
        return self.base / f"out-{name}"

    def ssh(self, target, function, *words):
        return self.config.command("salt-ssh", target, function, *words)


@pytest.fixture(scope="module")
def _laptop(tmp_path_factory, users):
    base = tmp_path_factory.mktemp("laptop")
    for folder in ("sshd", "states", "pillar"):
        (base / folder).mkdir()
    user = users("ana")
    top = {"base": {"*": ["deploytoken.gate", "web"]}}
    (base / "states" / "top.sls").write_text(yaml.safe_dump(top))
    (base / "pillar" / "top.sls").write_text(yaml.safe_dump({"base": {"*": ["busy"]}}))
    (base / "pillar" / "busy.sls").write_text(yaml.safe_dump({"busy": {"tmux": {"users": [user.name]}}}))
    config = Config.make(
        base / "salt",
        deploytoken={"store": f"sqlite:///{base}/token.db", "name": "Alice", "ssh_gate": True},
        file_roots=[base / "states"],
        pillar_roots={"base": [str(base / "pillar")]},
        ext_pillar=[{"deploytoken": None}],
        roster_file=str(base / "roster"),
        thin_extra_mods="psutil",
    )
    sshd = Sshd(base / "sshd")
    try:
        yield Laptop(config, sshd.start(), base, user)
    finally:
        sshd.stop()


@pytest.fixture
def laptop(_laptop):
    """Two machines, and a free token."""
    _laptop.roster(**_laptop.sshd.roster("docs", "web"))
    web = f"{_laptop.base}/out-{{{{ grains.id }}}}:\n  file.managed:\n    - contents: version 2\n"
    (_laptop.base / "states" / "web.sls").write_text(web)
    for left in (_laptop.store, _laptop.out("docs"), _laptop.out("web")):
        left.unlink(missing_ok=True)
    assert _laptop.config.run("deploytoken.init").code == 0
    return _laptop


def test_a_deploy_over_ssh_goes_all_the_way_to_the_history(laptop):
    done = laptop.config.orchestrate(target="*", reason="publish version 2", ssh=True)

    assert done.code == 0, done
    assert [laptop.out(name).read_text() for name in ("docs", "web")] == ["version 2\n"] * 2
    text = laptop.text()
    assert "Held by: nobody" in text
    assert "Alice: publish version 2" in text
    # On standard error, Salt 3008 ends every orchestration without a master with a traceback of its own.
    assert "Traceback" not in done.stdout


def test_work_on_a_server_stops_a_deploy_over_ssh_and_names_whom_to_ask(laptop, tmux_session):
    tmux_session(laptop.user, "ana-upgrade", "sleep 1000")

    stopped = laptop.config.orchestrate(target="*", reason="publish version 2", ssh=True)

    assert stopped.code == 1, stopped
    assert f"(ask ana-upgrade ({laptop.user.name}))" in stopped.stdout
    assert "ana-upgrade: sleep 1000 on docs" in stopped.stdout
    assert "\nHeld by: nobody\n" in laptop.text()
    assert not laptop.out("docs").exists()
    assert not laptop.out("web").exists()


def test_a_deploy_over_ssh_from_a_pane_on_the_server_does_not_stop_itself(laptop, tmux_session, tmp_path):
    pillar = laptop.base / "pillar" / "busy.sls"
    kept = pillar.read_text()
    pillar.write_text(yaml.safe_dump({"busy": {"tmux": {"users": ["root"]}}}))
    try:
        pane = Pane(tmux_session, tmp_path, "ana-deploys")
        asked = {"target": "docs", "reason": "publish version 2", "ssh": True}
        pillar_of_run = f"pillar={json.dumps({'deploytoken': asked})}"
        pane.type(laptop.config, "salt-run", "state.orchestrate", "deploytoken.deploy", pillar_of_run)
        assert pane.ended()[0] == 0, pane.told
    finally:
        pillar.write_text(kept)
    assert laptop.out("docs").exists()


def test_plain_salt_ssh_brings_no_pillar_and_so_knows_nothing_of_being_idle(laptop):
    answer = laptop.ssh("docs", "busy.check")

    assert answer.data["docs"]["idle"] is False, answer
    assert "salt-run busy.check TARGET ssh=True" in answer.data["docs"]["unknowns"][0]["why"]


def test_a_server_without_any_pillar_is_idle_over_ssh_until_states_run_there(laptop, tmp_path):
    top, began, go = laptop.base / "pillar" / "top.sls", tmp_path / "began", tmp_path / "go"
    wait = f"touch {began}; while ! test -e {go}; do sleep 0.1; done"
    (laptop.base / "states" / "waits.sls").write_text(f"waits:\n  cmd.run:\n    - name: '{wait}'\n")
    kept = top.read_text()
    top.write_text("{}\n")
    try:
        idle = laptop.config.run("busy.check", "web", ssh=True)
        ref = laptop.config.run("deploytoken.acquire", reason="publish version 2").data["ref"]
        salt_ssh = pathlib.Path(sys.executable).with_name("salt-ssh")
        words = ["web", "state.apply", "waits", f'pillar={{"deploytoken": {{"ref": "{ref}"}}}}']
        running = process.start([salt_ssh, "-c", laptop.config.folder, *words], tmp_path / "log")
        until(lambda: began.exists() or running.poll() is not None, what="the states to begin")
        busy = laptop.config.run("busy.check", "web", ssh=True)
    finally:
        go.touch()
        top.write_text(kept)
    assert running.wait(60) == 0, (tmp_path / "log").read_text()

    assert idle.code == 0, idle
    assert idle.data["minions"]["web"]["note"] == "no checks configured"
    assert busy.code == 7, busy
    (blocker,) = busy.data["blockers"]
    assert (blocker["what"], blocker["id"].rpartition("/")[0]) == ("state.pkg", "web/salt")


def test_whoever_cannot_be_asked_over_ssh_is_unknown_and_says_why(laptop, users, tmux_session):
    sshd, bob = laptop.sshd, users("bob")
    tmux_session(laptop.user, "ana-upgrade", "sleep 1000")
    # A new user's account is locked, which is more than having no password.
    subprocess.run(["usermod", "--password", "*", bob.name], check=True)
    laptop.roster(
        docs=sshd.entry("docs"),
        down=sshd.entry("down", port=free_port()),
        stranger=sshd.entry("stranger", priv=str(sshd.other_key())),
        unknown=sshd.entry("unknown", ssh_options=["UserKnownHostsFile=/dev/null"]),
        snakeless=sshd.entry("snakeless", set_path=str(laptop.base)),
        guest=sshd.entry("guest", user=bob.name, thin_dir=str(bob.home / "thin")),
    )

    answer = laptop.config.run("busy.check", target="*", ssh=True)

    assert answer.code == 7, answer
    assert sorted(answer.data["minions"]) == ["docs", "guest"]
    assert [blocker["what"] for blocker in answer.data["minions"]["docs"]["blockers"]] == ["ana-upgrade: sleep 1000"]
    assert "as root" in str(answer.data["minions"]["guest"]["unknowns"])
    failed = answer.data["failed"]
    assert sorted(failed) == ["down", "snakeless", "stranger", "unknown"]
    assert "Connection refused" in failed["down"]
    assert "Permission denied" in failed["stranger"]
    assert "host key is not known here" in failed["unknown"]
    assert "no python3 on its PATH" in failed["snakeless"]
    assert not answer.traceback, answer


def test_whoever_hangs_over_ssh_has_not_answered_in_time_and_nobody_waits_for_ever(laptop, tmp_path):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nsleep 1000\n")
    python.chmod(0o755)
    frozen = Sshd(tmp_path / "frozen").start()
    try:
        frozen.freeze()
        laptop.roster(
            frozen=frozen.entry("frozen"), hangs=laptop.sshd.entry("hangs", set_path=f"{tmp_path}:/usr/bin:/bin")
        )
        answer = laptop.config.run("busy.check", "*", "timeout=1", ssh=True, timeout=200)
    finally:
        frozen.stop()

    assert answer.code == 7, answer
    assert answer.data["failed"]["hangs"] == "did not answer within 10 seconds over ssh, and may still run it"
    assert "timed out" in answer.data["failed"]["frozen"]
    assert not answer.traceback, answer
    mark = f"Port={laptop.sshd.port}"
    until(lambda: not any(mark in str(one.info) for one in psutil.process_iter(["cmdline"])), what="ssh to be ended")


def test_a_server_is_rebooted_over_ssh_and_waited_for(laptop, tmp_path):
    machine = SshMachine("web", tmp_path / "web").start()
    try:
        laptop.roster(web=machine.up().entry)
        before = machine.boot_id
        ref = laptop.config.run("deploytoken.acquire", reason="new kernel").data["ref"]
        words = ["target_type=list", f"ref={ref}", "timeout=240s"]
        answer = laptop.config.run("deployreboots.reboot", "web", *words, ssh=True)
    finally:
        machine.stop()

    assert answer.code == 0, answer
    assert answer.data["rebooted"] == {"web": {"old": before, "new": machine.boot_id}}
    assert machine.boot_id != before
    assert machine.orders == ["-r now"]
    assert "web: is back, and well" in answer.stderr


def test_a_server_that_is_down_stops_a_deploy_over_ssh_before_anything_is_changed(laptop):
    laptop.roster(docs=laptop.sshd.entry("docs"), web=laptop.sshd.entry("web", port=free_port()))

    stopped = laptop.config.orchestrate(target="docs,web", target_type="list", reason="publish version 2", ssh=True)

    assert stopped.code == 1, stopped
    assert "Connection refused" in stopped.stdout
    assert "\nHeld by: nobody\n" in laptop.text()
    assert not laptop.out("docs").exists()


def test_a_name_that_is_not_in_the_roster_stops_a_deploy_over_ssh(laptop):
    answer = laptop.config.run("busy.check", target="wbe", target_type="list", ssh=True)
    nobody = laptop.config.run("busy.check", target="x*", ssh=True)
    compound = laptop.config.run("busy.check", target="docs or web", target_type="compound", ssh=True)

    assert (answer.code, answer.data["failed"]) == (7, {"wbe": "is not in the roster"}), answer
    assert nobody.code == 7, nobody
    assert "matches no minion (the roster shows them)" in nobody.data["message"]
    assert compound.code == 2, compound
    assert "which salt-ssh knows" in compound.data["message"]


def test_a_state_that_fails_over_ssh_keeps_the_token(laptop):
    (laptop.base / "states" / "web.sls").write_text("broken:\n  test.fail_without_changes\n")

    failed = laptop.config.orchestrate(target="docs", reason="publish version 2", ssh=True)

    assert failed.code == 1, failed
    [step] = [step for step in states(failed) if step["__id__"] == "deploy"]
    assert "broken" in step["comment"]
    assert "\nHeld by: Alice (publish version 2;" in laptop.text()
    assert "salt-run deploytoken.release ref=" in failed.stdout


def test_no_states_run_over_ssh_without_the_token(laptop):
    touch = f"name={laptop.out('docs')}"
    # Over salt-ssh, state.high is deaf to test=True.
    high = json.dumps({"touched": {"file": ["touch", {"name": str(laptop.out("docs"))}]}})
    for words in (
        ["state.apply"],
        ["state.apply", "web", "force=True"],
        ["state.single", "file.touch", touch],
        ["state.high", high, "test=True"],
    ):
        refused = laptop.ssh("docs", *words)

        assert refused.code != 0, refused
        assert "Refused: nobody holds the deploy token" in refused.stdout
        assert not refused.traceback, refused
    assert not laptop.out("docs").exists()


def test_states_run_over_ssh_with_the_ref_of_the_hold_or_as_a_test(laptop):
    tested = laptop.ssh("docs", "state.apply", "test=True")

    assert tested.code == 0, tested
    assert not laptop.out("docs").exists()

    ref = laptop.config.run("deploytoken.acquire", reason="publish version 2").data["ref"]
    forged = laptop.ssh("docs", "state.apply", 'pillar={"deploytoken": {"ref": "abcdef12", "held_by": "Mallory"}}')
    done = laptop.ssh("docs", "state.apply", f'pillar={{"deploytoken": {{"ref": "{ref}"}}}}')

    assert forged.code != 0, forged
    assert "this run carries abcdef12, which is over" in forged.stdout
    assert done.code == 0, done
    assert laptop.out("docs").read_text() == "version 2\n"


def test_the_state_in_the_top_file_is_a_gate_over_ssh_by_itself(laptop):
    configured = laptop.config.options["deploytoken"]
    laptop.config.update(deploytoken={**configured, "ssh_gate": False})
    try:
        refused = laptop.ssh("docs", "state.apply")
        laptop.store.unlink()
        away = laptop.ssh("docs", "state.apply", 'pillar={"deploytoken": {"ref": "abcdef12"}}')
    finally:
        laptop.config.update(deploytoken=configured)

    assert refused.code != 0, refused
    assert "Refused: nobody holds the deploy token" in refused.stdout
    assert away.code != 0, away
    assert "cannot tell who holds the deploy token" in away.stdout
    assert not laptop.out("docs").exists()
