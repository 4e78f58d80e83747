"""Whose hold it is, as the page and the version's comment have it: whoever typed, also behind sudo and su."""

import contextlib
import getpass
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from saltext.deploytoken import page, stores
from saltext.deploytoken.config import parse

STEP = "take:\n  salt.runner:\n    - name: deploytoken.acquire\n    - reason: upgrade\n"

# Salt's own scheduler, as a master runs it: a process for each job. Started by carol, with sudo.
SCHEDULED = """
import sys
import salt.config, salt.runner, salt.utils.schedule
opts = salt.config.master_config(sys.argv[1])
opts["schedule"] = {"nightly": {"function": "deploytoken.acquire", "kwargs": {"reason": "upgrade"}}}
with salt.runner.RunnerClient(opts) as client:
    schedule = salt.utils.schedule.Schedule(opts, client.functions_dict(), cleanup=[], standalone=True)
    schedule.run_job("nightly")
    for process in schedule._subprocess_list.processes:
        process.join()
"""


@pytest.fixture
def config(master_config, tmp_path):
    made = master_config(
        {"store": f"sqlite:///{tmp_path}/token.db", "people": {"alice": "Alice Adams"}, "name": "Team"},
        file_roots=[tmp_path / "states"],
    )
    made.database = tmp_path / "token.db"
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "take.sls").write_text(STEP)
    with contextlib.closing(stores.connect(parse(made.options))) as store:
        assert store.create(page.initial("textile", page.DEFAULT), "init")
    return made


def taken(config):
    """Who holds the token on the page, and whose hold it is in the version's comment."""
    with sqlite3.connect(config.database) as connection:
        text, comment = connection.execute("SELECT text, comment FROM page ORDER BY version DESC LIMIT 1").fetchone()
    return re.search(r"Held by: (.*?) \(", text)[1], re.search(
        r"^acquire .* by=(\S+)(?: jid=\d+)?: upgrade$", comment
    )[1]


def test_whoever_typed_sudo_in_an_orchestrations_step(config):
    answer = config.run("state.orchestrate", "take", environment={"SUDO_USER": "alice"})
    assert answer.code == 0, answer
    assert taken(config) == ("Alice Adams", "alice@main")


def test_whoever_logged_in_before_su(config, users):
    """Only the kernel knows then: pam_loginuid tells it, when sshd, login or cron lets somebody in."""
    olive = users("olive")
    login = 'echo "$0" > /proc/self/loginuid && exec "$@"'
    answer = config.command(
        "salt-run", "deploytoken.acquire", "reason=upgrade", wrapper=["sh", "-c", login, olive.uid]
    )
    assert answer.code == 0, answer
    assert taken(config) == (olive.name, f"{olive.name}@main")


def test_the_doctor_says_whose_keys_open_one_account(config, users):
    olive = users("olive")
    keys = olive.home / ".ssh" / "authorized_keys"
    keys.parent.mkdir()
    keys.write_text(
        "".join(f"ssh-ed25519 AAAAC3Nz {owner}\n" for owner in ("olive@laptop", "peter@home", "root@backup"))
    )
    answer = config.run("deploytoken.doctor", environment={"SUDO_USER": olive.name})
    found = {row["name"]: row for row in answer.data["checks"]}
    assert found["name"]["text"].startswith(f"holds are taken as {olive.name}, unless"), answer
    assert found["people"]["ok"] is None
    assert f"the ssh keys of olive and peter open the one account {olive.name}: let each" in found["people"]["text"]


def test_root_alone_is_the_one_who_uses_this_machine(config):
    assert config.run("deploytoken.acquire", reason="upgrade").code == 0
    assert taken(config) == ("Team", f"{getpass.getuser()}@main")


def test_the_schedule_and_not_whoever_started_its_daemon(config):
    environment = {**os.environ, "SUDO_USER": "carol"}
    command = [sys.executable, "-c", SCHEDULED, config.folder / "master"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    assert taken(config) == ("schedule", "schedule@main")
