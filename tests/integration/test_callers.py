"""
Whoever starts a deploy, and in whatever way: it is carried out, the answer says so, the page and its versions name
whoever it was, and the token is free again.
"""

import getpass
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import requests

from tests.support import process
from tests.support.deploy import REASON, STEPS, deploy, held
from tests.support.salt import CAROL, Result
from tests.support.ssh import Sshd
from tests.support.wait import until

REQUEST = {"deploytoken": {"target": "docs", "reason": REASON, "sls": "part"}}
RUN = ["state.orchestrate", "deploytoken.deploy"]
SALT_RUN = pathlib.Path(sys.executable).with_name("salt-run")


def command(site):
    return [str(SALT_RUN), "-c", str(site.folder), "--out=json", *RUN, f"pillar={json.dumps(REQUEST)}"]


def check(site, redmine, returned, account, name=None):
    """``returned`` is the return of an orchestration: by machine, by state. ``name`` is the account's, if no other."""
    rows = sorted(next(iter(returned.values())).values(), key=lambda row: row["__run_num__"])
    assert {row["__id__"]: row["result"] for row in rows} == dict.fromkeys(STEPS, True), rows
    assert rows[-1]["comment"].startswith("DEPLOYED\n"), rows[-1]
    assert (site.folder_of_test / "part").exists()
    text = redmine.text(site.page)
    assert "Held by: nobody" in text
    newest = next(line for line in text.splitlines() if line.startswith("* "))
    entry = re.fullmatch(rf"\* .* UTC {name or account}: {REASON} \(ref ([a-f][0-9a-f]{{7}})\).*", newest)
    assert entry, text
    whose = [
        re.search(r" by=(\S+?)(?= jid=|: )", version["comments"]) for version in versions(redmine, site, entry[1])
    ]
    assert {found and found[1] for found in whose} == {f"{account}@{site.master.id}"}


def versions(redmine, site, ref):
    """The page's versions that were written under this ref, newest first."""
    number, found = redmine.read(site.page)["version"], []
    while f" ref={ref} " in (version := redmine.read(site.page, number))["comments"]:
        found.append(version)
        number -= 1
    assert len(found) > 1, version
    return found


@pytest.fixture
def site(site, tmp_path):
    site.folder_of_test = tmp_path
    return site


@pytest.fixture
def sudoer(users, site):
    """A person who may run salt-run as root, and nothing else."""
    user = users("olive")
    rule = pathlib.Path("/etc/sudoers.d") / user.name
    assert rule.parent.exists(), "sudo is needed: script/test installs it"
    with open(os.open(rule, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o440), "w", encoding="ascii") as file:
        file.write(f"{user.name} ALL=(root) NOPASSWD: {SALT_RUN}\n")
    yield user
    rule.unlink()


def test_under_sudo(site, redmine, sudoer):
    """Salt then calls the caller sudo_olive, and a client of that user has no key to authenticate with."""
    answer = Result([], 0, sudoer.run("sudo", "-n", *command(site)), "")
    check(site, redmine, answer.data["data"], sudoer.name)


def test_without_a_terminal_a_home_or_standard_input(site, redmine, tmp_path):
    """As cron and systemd start a command, and worse."""
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command(site)],
            env={"PATH": "/usr/bin:/bin"},
            stdout=out,
            stderr=err,
            start_new_session=True,
            cwd="/",
            timeout=300,
        )
    answer = Result(done.args, done.returncode, (tmp_path / "out").read_text(), (tmp_path / "err").read_text())
    assert (answer.code, answer.traceback) == (0, False), answer
    check(site, redmine, answer.data["data"], getpass.getuser(), redmine.name("alice"))


def test_over_ssh_without_a_terminal(site, redmine, tmp_path):
    sshd = Sshd(tmp_path / "sshd").start()
    try:
        words = ["-T", "-p", str(sshd.port), "-i", str(sshd.key), "-o", f"UserKnownHostsFile={sshd.known_hosts}"]
        ssh = ["ssh", "-F", "none", *words, "-o", "BatchMode=yes", "root@127.0.0.1", shlex.join(command(site))]
        done = subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    finally:
        sshd.stop()
    answer = Result(ssh, done.returncode, done.stdout, done.stderr)
    assert answer.code == 0, answer
    check(site, redmine, answer.data["data"], "root", redmine.name("alice"))


REACTION = """
deploy:
  runner.state.orchestrate:
    - args:
      - mods: deploytoken.deploy
      - pillar: {{ data["data"]["pillar"] | json }}
"""


def ended(wait, user):
    """Wait for the orchestration that this user started: what it returned."""

    def it_did(tag, data):
        return tag.endswith("/ret") and data.get("fun") == "runner.state.orchestrate" and data["user"] == user

    return wait(it_did, f"the orchestration of {user}")["return"]


def react(site):
    """Have the reactor deploy: what that returned."""
    site.sls("reaction", REACTION)
    with site.events() as wait:
        site.ask("docs", "event.send", "team/deploy", {"pillar": REQUEST})
        return ended(wait, "Reactor")


def test_a_reactor(site, redmine):
    returned = react(site)
    assert returned["retcode"] == 0, returned
    check(site, redmine, returned["data"], "reactor")


def test_what_failed_under_a_reactor_can_be_gone_on_with_by_hand(site):
    """The process of the reactor goes on when the deploy has ended."""
    site.sls("part", {"part": {"test.fail_without_changes": []}})
    assert react(site)["retcode"] == 1
    hold = held(site)
    assert not (hold["job"] or {}).get("running"), hold
    site.sls("part", {"part": {"test.succeed_without_changes": []}})
    answer = deploy(site, sls="part", ref=hold["ref"])
    assert answer.code == 0, answer


@pytest.fixture(scope="module")
def api(_cluster, tmp_path_factory):
    """``api(client)``: a person of whom only salt-api knows asks for the deploy, or for ``call``; the answer."""
    log = tmp_path_factory.mktemp("api") / "log"
    started = process.start([SALT_RUN.with_name("salt-api"), "-c", _cluster.folder], log)
    port = _cluster.options["rest_cherrypy"]["port"]
    until(lambda: process.listening(port), what=f"salt-api:\n{process.tail(log)}")

    def ask(client, **call):
        call = call or {"fun": "state.orchestrate", "mods": "deploytoken.deploy", "pillar": REQUEST}
        asked = [{"client": client, **call, **CAROL}]
        answer = requests.post(f"http://127.0.0.1:{port}/run", json=asked, timeout=300)
        assert answer.status_code == 200, answer.text
        return answer.json()["return"][0]

    yield ask
    process.end(started)


def test_salt_api_and_waiting_for_the_answer(site, redmine, api):
    answer = api("runner")
    assert answer["retcode"] == 0, answer
    check(site, redmine, answer["data"], "carol")


def test_salt_api_and_by_hand(site, redmine, api):
    """Salt writes its caller into other globals than the runner's own."""
    taken = api("runner", fun="deploytoken.acquire", reason=REASON)
    assert taken["held_by"] == "carol"
    released = api("runner", fun="deploytoken.release", summary=REASON, ref=taken["ref"])
    assert f" UTC carol: {REASON} (ref " in released["entry"]
    whose = [version["comments"] for version in versions(redmine, site, taken["ref"])]
    assert all(f" by=carol@{site.master.id}: " in comment for comment in whose), whose


def test_salt_api_and_not_waiting(site, redmine, api):
    with site.events() as wait:
        assert api("runner_async")["jid"]
        returned = ended(wait, "carol")
    assert returned["retcode"] == 0, returned
    check(site, redmine, returned["data"], "carol")
