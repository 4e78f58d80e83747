"""
Each way of installation that the README has: its own lines, one after the other, on a fresh master with a minion.

What is put in their place: folders, the address of the repository, and what starts a service or needs a network.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from tests.support import process
from tests.support.salt import MINION, Config
from tests.support.wait import until

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = dict(
    re.findall(r"^<!-- install: (\w+) -->\n```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
)
RESTART = "systemctl restart salt-master\n"
ADDRESS = "https://git.example.org/deploytoken.git"


@pytest.fixture(scope="module")
def repository(checkout, tmp_path_factory):
    """This checkout as a repository with the branch main, for whoever clones it."""
    folder = tmp_path_factory.mktemp("repository") / "deploytoken"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "build", "dist", "*.egg-info", "_build", "ref", "tests", "pictures"
    )
    shutil.copytree(checkout, folder, ignore=ignored)
    who = ("-c", "user.name=Ana", "-c", "user.email=ana@example.org")
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder.as_uri()


class Machine:
    """A master and the minion ``docs``, as Salt's packages leave them, below one folder in place of ``/``."""

    def __init__(self, root, repository):
        self.root, self.repository = root, repository
        self.python = root / "extras"  # in place of the folder in which salt-pip installs
        self.daemons = {}
        # The last is what a master that has run before leaves.
        for path in ("etc/salt/master.d", "etc/minion", "srv/salt", "bin", "root", "var/cache/salt/master/proc"):
            (root / path).mkdir(parents=True)
        ports = {"publish_port": process.free_port(), "ret_port": process.free_port()}
        common = {"user": "root", "log_level": "error", "sock_dir": str(root / "sock")}
        master = {
            **common,
            **ports,
            "root_dir": str(root),
            "interface": "127.0.0.1",
            "auto_accept": True,
            "worker_threads": 3,
            "timeout": 60,  # the machine may have other work
            "gather_job_timeout": 30,
            "file_roots": {"base": [str(root / "srv/salt")]},
        }
        minion = {
            **common,
            **MINION,
            "root_dir": str(root / "minion"),
            "sock_dir": str(root / "minion/sock"),
            "id": "docs",
            "master_port": ports["ret_port"],
            "publish_port": ports["publish_port"],
        }
        (root / "etc/salt/master").write_text(yaml.safe_dump(master))
        (root / "etc/minion/minion").write_text(yaml.safe_dump(minion))
        (root / "srv/salt/top.sls").write_text("base: {'*': [web]}\n")
        (root / "srv/salt/web.sls").write_text("web: {test.succeed_with_changes: []}\n")
        self.config = Config(root / "etc/salt")
        for name in ("salt", "salt-run"):
            self._program(name, f'exec {self._salt(name)} -c {root}/etc/salt "$@"')
        self._program("salt-pip", f'exec {sys.executable} -m pip "$@"')

    def _salt(self, name):
        return pathlib.Path(sys.executable).with_name(name)

    def _program(self, name, line):
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    @property
    def environment(self):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
        offline = {
            "PIP_TARGET": str(self.python),
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
        }
        path = f"{self.root}/bin:{clean['PATH']}"
        return {**clean, **offline, "PATH": path, "PYTHONPATH": str(self.python), "HOME": str(self.root / "root")}

    def start(self, name="master"):
        folder = self.root / ("etc/salt" if name == "master" else "etc/minion")
        command = [self._salt(f"salt-{name}"), "-c", folder]
        self.daemons[name] = process.start(command, self.root / f"{name}.log", cwd="/", env=self.environment)

    def stop(self, name="master"):
        # At once, with all its processes: to end by itself takes it five seconds.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.daemons[name].pid, signal.SIGKILL)
        self.daemons.pop(name).wait()

    def restart(self):
        """``systemctl restart salt-master``, and the minion has found it. Nothing of the one before would stay."""
        self.start()
        from salt.client import LocalClient
        from salt.exceptions import SaltException

        def answers():
            with contextlib.suppress(SaltException), LocalClient(str(self.root / "etc/salt/master")) as client:
                return client.cmd("docs", "test.ping", timeout=2, gather_job_timeout=2).get("docs")

        log = self.root / "master.log"
        until(lambda: process.listening(self.config.options["ret_port"]), 120, f"the master: {process.tail(log)}")
        until(answers, 120, "the minion to find its master")

    def type(self, lines):
        """What a person sees who pastes these lines; one that fails ends it."""
        lines = re.sub(r"/(?:etc/salt|srv|var/lib/deploytoken)/", lambda found: f"{self.root}{found[0]}", lines)
        lines = lines.replace(ADDRESS, self.repository)
        typed = subprocess.run(
            ["bash", "-ec", lines],
            cwd=self.root / "root",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert typed.returncode == 0, f"{lines}\n{typed.stdout}\n{typed.stderr}"
        return typed.stdout

    def salt_run(self, *words):
        return subprocess.run(
            [self.root / "bin/salt-run", *words], env=self.environment, capture_output=True, text=True, timeout=300
        )


@pytest.fixture
def machine(tmp_path_factory, repository):
    # A short name: a socket's path has room for 107 bytes.
    made = Machine(tmp_path_factory.mktemp("m"), repository)
    made.start("minion")
    try:
        yield made
    finally:
        for name in list(made.daemons):
            made.stop(name)


def test_the_readme_has_three_ways_each_with_one_restart():
    assert list(BLOCKS) == ["file_roots", "gitfs", "pip"]
    assert [block.count("restart") for block in BLOCKS.values()] == [1, 1, 1]


@pytest.mark.parametrize("way", BLOCKS)
def test_the_lines_of_the_readme_install_all_of_it_and_then_a_deploy_works(machine, way):
    before, after = BLOCKS[way].split(RESTART)

    machine.type(before)
    machine.restart()
    shown = machine.type(after)

    checks = re.findall(r"^(ok|FAIL|\?) +([\w ]+): ", shown, re.M)
    assert [name for mark, name in checks if mark != "ok"] == ["no gate"], shown
    assert {"file server", "orchestration", "external pillar", "minions", "live token"} <= {name for _, name in checks}
    deployed = machine.salt_run(
        "state.orchestrate", "deploytoken.deploy", 'pillar={"deploytoken": {"target": "docs", "reason": "version 2"}}'
    )
    assert deployed.returncode == 0, deployed
    assert "DEPLOYED" in deployed.stdout, deployed
    assert "NOTHING DEPLOYED" not in deployed.stdout
