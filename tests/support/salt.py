"""
Run Salt's commands on a configuration of the test's own.

:py:class:`Config` is a configuration folder and its commands; it needs no daemon for runners and orchestrations.
:py:class:`Cluster` is a real master with real minions on loopback, started by pytest-salt-factories.
"""

import contextlib
import dataclasses
import functools
import getpass
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import yaml

from tests.support import salt_fork
from tests.support.process import free_port
from tests.support.wait import until

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


def tree(base):
    """
    A file root with this checkout's folders for Salt, and nothing else.

    Salt lists a whole file root again and again; with a virtual environment in it, a sync takes a minute.
    """
    root = pathlib.Path(base) / "tree"
    root.mkdir(parents=True, exist_ok=True)
    for folder in (*CHECKOUT.glob("_[a-z]*"), CHECKOUT / "deploytoken"):
        link = root / folder.name
        if not link.is_symlink():
            link.symlink_to(folder)
    return str(root)


@dataclasses.dataclass(repr=False)
class Result:
    """A finished command: exit ``code``, ``stdout``, ``stderr``, and ``data``, which is the parsed JSON (or None)."""

    command: list
    code: int
    stdout: str
    stderr: str

    @functools.cached_property
    def data(self):
        """The last JSON document on stdout (progress may stand before it)."""
        for start, character in enumerate(self.stdout):
            line_starts = start == 0 or self.stdout[start - 1] == "\n"
            if line_starts and character not in " \n]}":
                try:
                    return json.loads(self.stdout[start:])
                except ValueError:
                    continue
        return None

    @property
    def traceback(self):
        """
        Whether a person was shown a traceback; but for one of Salt's own (3008.3), which any orchestration with a
        ``salt.runner`` step can show when Python has ended already, and its loaders load once more.
        """
        shown = re.sub(r"Failed to import returner .*\nTraceback .*\n(?: .*\n)*TypeError: .*", "", self.stderr)
        return "Traceback (most recent call last)" in self.stdout + shown

    def __repr__(self):
        """All of it: what a test that fails shows of its command is all that is left of it."""
        return f"$ {' '.join(map(str, self.command))}\nexit {self.code}\n{self.stdout}\n{self.stderr}"


def argument(value):
    """A value as the command line wants it; what is not a string travels as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def arguments(positional, named):
    return [argument(value) for value in positional] + [f"{name}={argument(value)}" for name, value in named.items()]


class Config:
    """The configuration folder ``folder``: of a running master, or (``Config.make``) of one that needs no daemon."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._background = []

    @classmethod
    def make(cls, base, deploytoken=None, file_roots=(), bus=True, **options):
        """
        A master's configuration below the folder ``base``.

        deploytoken
            The key of that name; nothing is configured when None.
        file_roots
            Folders before the checkout (which always is the last).
        bus
            Whether there is an event bus, to which nobody listens. Without one, as on a machine without a master, each
            event costs a second in which Salt tries to connect without a pause (3008.3), and each salt-run has two.
        options
            Any other key of the master's configuration, instead of what stands here.
        """
        base = pathlib.Path(base)
        paths = {name: base / name for name in ("etc", "cache", "pki", "sock", "run")}
        for path in (*paths.values(), base / "cache" / "proc"):
            path.mkdir(parents=True, exist_ok=True)
        config = {
            "root_dir": "/",
            "user": getpass.getuser(),
            "id": "main",
            "cachedir": str(paths["cache"]),
            "pki_dir": str(paths["pki"]),
            "sock_dir": str(paths["sock"]),
            "pidfile": str(paths["run"] / "master.pid"),
            "sqlite_queue_dir": str(paths["cache"] / "queues"),
            "token_dir": str(paths["cache"] / "tokens"),
            "extension_modules": str(paths["cache"] / "extmods"),
            "default_include": "",
            "log_file": str(base / "log"),
            "log_level": "error",
            "interface": "127.0.0.1",
            "grains_cache": True,  # the master's own, of which no test changes one
            "module_dirs": [str(CHECKOUT)],
            "file_roots": {"base": [*map(str, file_roots), tree(base)]},
            "pillar_roots": {"base": [str(base / "pillar")]},
            **options,
        }
        if deploytoken is not None:
            config["deploytoken"] = deploytoken
        (paths["etc"] / "master").write_text(yaml.safe_dump(config))
        made = cls(paths["etc"])
        if bus:
            made._bus = socket.socket(socket.AF_UNIX)
            made._bus.bind(str(paths["sock"] / "master_event_pull.ipc"))
            made._bus.listen(4096)
        return made

    @property
    def options(self):
        return yaml.safe_load((self.folder / "master").read_text())

    def update(self, **options):
        """Change keys of the configuration (of one that has no daemon)."""
        (self.folder / "master").write_text(yaml.safe_dump({**self.options, **options}))

    def command(self, program, *words, out="json", timeout=600, environment=None, wrapper=()):
        """
        A Salt program on this configuration, in a process of its own (tests.support.salt_fork).

        ``wrapper`` is a command that runs it, as a child process.
        """
        command = [*map(str, wrapper), str(pathlib.Path(sys.executable).with_name(program)), "-c", str(self.folder)]
        command += [f"--out={out}"] if out else []
        command += [str(word) for word in words]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = {**clean, **(environment or {})}
        if not wrapper:
            return Result(command, *salt_fork.run(command, timeout, environment))
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def run(self, function, *positional, out="json", timeout=600, environment=None, **named):
        """``salt-run FUNCTION ARGUMENTS``."""
        words = arguments(positional, named)
        return self.command("salt-run", function, *words, out=out, timeout=timeout, environment=environment)

    def popen(self, function, *positional, **named):
        """``salt-run`` in the background, for tests of what happens meanwhile: a Popen with text pipes."""
        program = pathlib.Path(sys.executable).with_name("salt-run")
        started = subprocess.Popen(
            [program, "-c", self.folder, "--out=json", function, *arguments(positional, named)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        self._background.append(started)
        return started

    def orchestrate(self, sls="deploytoken.deploy", /, timeout=600, out="json", test=None, **deploy):
        """``salt-run state.orchestrate SLS pillar='{"deploytoken": {…}}'``; the named arguments are the deploy's."""
        named = {"pillar": {"deploytoken": deploy}}
        if test is not None:
            named["test"] = test
        return self.run("state.orchestrate", sls, out=out, timeout=timeout, **named)


def states(result):
    """The state results of an orchestration, in the order in which they ran: a list of dictionaries."""
    data = (result.data or {}).get("data") or {}
    rows = [row for answers in data.values() if isinstance(answers, dict) for row in answers.values()]
    return sorted(rows, key=lambda row: row.get("__run_num__", 0))


#: Of a minion that finds its master again soon, and that does little when it has nothing to do.
MINION = {
    "master": "127.0.0.1",
    "recon_default": 200,
    "recon_max": 1000,
    "random_reauth_delay": 1,
    "loop_interval": 0.5,
    "log_level_logfile": "info",
}


#: A person whom salt-api lets start runners, and nobody else knows.
CAROL = {"eauth": "sharedsecret", "username": "carol", "password": "kept between salt-api and its callers"}


def callers():
    """A master's options for those who start a deploy otherwise than by salt-run: its reactor, and salt-api."""
    return {
        "reactor": [{"team/deploy": ["salt://reaction.sls"]}],
        "external_auth": {CAROL["eauth"]: {CAROL["username"]: ["@runner"]}},
        "sharedsecret": CAROL["password"],
        "netapi_enable_clients": ["runner", "runner_async"],
        "rest_cherrypy": {"host": "127.0.0.1", "port": free_port(), "disable_ssl": True},
    }


class Cluster(Config):
    """
    A running master and its minions.

    ``cluster.run``, ``cluster.orchestrate``: salt-run on the master. ``cluster.salt("*", "test.ping")``: by minion.
    ``cluster.call("kingfisher-main", "state.apply")``: salt-call on that minion. ``cluster.minions``: id → daemon.
    """

    def __init__(self, factories, folder, deploytoken, name="main", **options):
        self.factories = factories
        self.states = pathlib.Path(folder) / "states"
        self.other = pathlib.Path(folder) / "other"
        self.pillar = pathlib.Path(folder) / "pillar"
        for path in (self.states, self.other, self.pillar):
            path.mkdir(parents=True, exist_ok=True)
        self.minions = {}
        overrides = {
            "interface": "127.0.0.1",
            "publish_port": free_port(),
            "ret_port": free_port(),
            "timeout": 5,
            "gather_job_timeout": 15,
            "grains_cache": True,
            "file_roots": {"base": [str(self.states), tree(folder)], "other": [str(self.other)]},
            "pillar_roots": {"base": [str(self.pillar)]},
            "ext_pillar": [{"deploytoken": None}],
            "deploytoken": deploytoken,
            "log_level_logfile": "info",
            **options,
        }
        self.master = factories.salt_master_daemon(name, overrides=overrides)
        # Started by somebody with sudo, who then types nothing (saltext.deploytoken.people).
        self.master.environ["SUDO_USER"] = "mallory"
        super().__init__(self.master.config_dir)

    def start(self):
        # Before the master starts: it looks for external pillars once.
        synced = self.run("saltutil.sync_all")
        assert synced.code == 0, synced
        self.master.start(start_timeout=180)
        return self

    def minion(self, minion_id, sync=True, **options):
        """
        A running minion of this id, started when first asked for; ``options`` are its configuration.

        sync
            Give it this checkout's modules. One with ``module_dirs`` has them already.
        """
        if minion_id not in self.minions:
            daemon = self.master.salt_minion_daemon(minion_id, overrides={**MINION, **options})
            daemon.start(start_timeout=240)
            self.minions[minion_id] = daemon
            if sync:
                synced = self.salt(minion_id, "saltutil.sync_all")
                assert minion_id in (synced.data or {}), synced
        return self.minions[minion_id]

    def dismiss(self, *minion_ids):
        """End these minions, and take them off the master's list: other tests count whom they meet."""
        for minion_id in minion_ids:
            if minion_id in self.minions:
                _kill(self.minions.pop(minion_id))
            self.command("salt-key", "-y", "-d", minion_id, out=None)

    def salt(self, target, function, *positional, timeout=60, target_type="glob", **named):
        """``salt TARGET FUNCTION``; ``.data`` holds the answers by minion."""
        types = {"glob": [], "list": ["-L"], "compound": ["-C"], "grain": ["-G"], "pcre": ["-E"]}[target_type]
        words = arguments(positional, named)
        return self.command("salt", "--static", "-t", str(timeout), *types, target, function, *words)

    def ask(self, target, function, /, *positional, timeout=60, target_type="glob", **named):
        """
        The answers by minion (none while the master is away): as with ``salt``, and without the seconds that a process
        of its own takes.
        """
        from salt.client import LocalClient
        from salt.exceptions import SaltClientError

        with contextlib.suppress(SaltClientError), LocalClient(str(self.folder / "master")) as client:
            patience = {"timeout": timeout, "gather_job_timeout": timeout}
            return client.cmd(target, function, positional, tgt_type=target_type, kwarg=named, **patience)
        return {}

    @contextlib.contextmanager
    def ghost(self, minion_id="ghost"):
        """A minion whose key is accepted, and that is not there, inside the block."""
        keys = pathlib.Path(self.master.config["pki_dir"]) / "minions"
        shutil.copy(keys / "docs", keys / minion_id)
        try:
            yield minion_id
        finally:
            (keys / minion_id).unlink()

    def call(self, minion_id, function, *positional, **named):
        """``salt-call`` with the minion's configuration; ``.data["local"]`` is the answer."""
        config = Config(self.minions[minion_id].config_dir)
        return config.command("salt-call", function, *arguments(positional, named))

    def idle_minion(self, minion_id, **options):
        """The configuration of a minion that runs no daemon, for its ``salt-call``; the master has ``auto_accept``."""
        daemon = self.master.salt_minion_daemon(minion_id, overrides={**MINION, **options})
        return Config(daemon.config_dir)

    @contextlib.contextmanager
    def events(self):
        """
        The master's event bus from now on: ``wait(wanted, what)`` returns the data of the first event for which
        ``wanted(tag, data)`` is true.
        """
        from salt import config as salt_config
        from salt.utils import event as salt_event

        opts = salt_config.master_config(str(self.folder / "master"))
        with salt_event.get_master_event(opts, opts["sock_dir"], listen=True) as bus:
            assert bus.connect_pub(timeout=10)

            def wait(wanted, what, timeout=120):
                def come():
                    while found := bus.get_event(wait=0.1, full=True, no_block=False):
                        if wanted(found["tag"], found["data"]):
                            return found["data"]
                    return None

                return until(come, timeout, what)

            yield wait

    def top(self, **states):
        """Write top.sls: ``top(**{"*": ["deploytoken.gate", "web"]})``."""
        (self.states / "top.sls").write_text(yaml.safe_dump({"base": states}))

    def sls(self, name, text, root=None):
        """Write a state file (text, or data that becomes YAML) into the writable root, or that of another saltenv."""
        path = (root or self.states) / f"{name.replace('.', '/')}.sls"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    def pillar_of(self, target, **data):
        """Write pillar for a target (all other pillar files of the tests go): ``pillar_of("*", busy={…})``."""
        for old in self.pillar.glob("*.sls"):
            old.unlink()
        (self.pillar / "top.sls").write_text(yaml.safe_dump({"base": {target: ["test"]}}))
        (self.pillar / "test.sls").write_text(yaml.safe_dump(data))

    def clean(self):
        """End what a test that failed left in the background, and remove what tests wrote into the writable roots."""
        while self._background:
            with self._background.pop() as started:
                started.kill()
        for root in (self.states, self.other, self.pillar):
            for path in root.rglob("*.sls"):
                path.unlink()

    def stop(self):
        for daemon in [*self.minions.values(), self.master]:
            _kill(daemon)


def _kill(daemon):
    """End a daemon with all its processes at once: to end by itself takes it five seconds."""
    daemon.slow_stop = False
    daemon.terminate()
