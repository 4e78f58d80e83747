"""
A real master with many real minions on this machine.

Each minion is the command ``salt-minion``, without the second process that would start it again if it ended
(``--disable-keepalive``): about 90 MB each. They are started a few at a time, because each takes seconds of CPU to
start; once there, they wait.
"""

import collections
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import psutil
import salt.client
import salt.config
import salt.payload
import yaml

from tests.support import process
from tests.support.salt import CHECKOUT, Config
from tests.support.wait import until

AT_ONCE = 5
PATIENCE = 300  # seconds; a busy machine takes long to start so many


class Fleet(Config):
    """``fleet.grow(20)`` has 20 minions; ``run``, ``orchestrate`` and ``command`` are those of a ``Config``."""

    def __init__(self, bench, deploytoken=None):
        base = bench.path("fleet")
        self._bench, self._base = bench, base
        self.states, self.pillar = base / "states", base / "pillar"
        self.states.mkdir()
        self.pillar.mkdir()
        self._ports = {"publish_port": process.free_port(), "ret_port": process.free_port()}
        made = Config.make(
            base,
            deploytoken,
            file_roots=[self.states],
            bus=False,  # the master's own
            auto_accept=True,
            ext_pillar=[{"deploytoken": None}],
            # No minion is away here. A late one has too little CPU, and gets more time.
            timeout=PATIENCE,
            gather_job_timeout=PATIENCE,
            **self._ports,
        )
        super().__init__(made.folder)
        self.minions = {}
        bench.stack.callback(self._end)
        bench.say("starting a master")
        self._master = self._start("salt-master", self.folder, base / "master.out")
        until(lambda: process.listening(self._ports["ret_port"]), 120, "the master to listen")
        self.client = salt.client.LocalClient(mopts=salt.config.client_config(str(self.folder / "master")))
        bench.stack.callback(self.client.destroy)

    def _start(self, program, folder, output, *words):
        command = [pathlib.Path(sys.executable).with_name(program), "-c", folder, *words]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return process.start(command, output, cwd="/", env=clean)

    def grow(self, count):
        """Start minions until there are this many; return when all of them answer."""
        while len(self.minions) < count:
            new = [f"m{number:02}" for number in range(len(self.minions) + 1, count + 1)][:AT_ONCE]
            for minion in new:
                self.minions[minion] = self._minion(minion)
            until(lambda wanted=new: self._answer(wanted), PATIENCE, f"{', '.join(new)} to answer", interval=0.5)
            self._bench.say(f"minions: {len(self.minions)}")

    def _minion(self, name):
        folder = self._base / name
        config = {
            "id": name,
            "root_dir": "/",
            "conf_file": str(folder / "minion"),
            "pki_dir": str(folder / "pki"),
            "cachedir": str(folder / "cache"),
            "extension_modules": str(folder / "cache" / "extmods"),
            "sock_dir": str(folder),  # Salt's sockets have long names, and Linux allows a hundred characters
            "pidfile": str(folder / "pid"),
            "log_file": str(folder / "log"),
            "default_include": "",
            "master": "127.0.0.1",
            "master_port": self._ports["ret_port"],
            "publish_port": self._ports["publish_port"],
            "user": self.options["user"],
            "module_dirs": [str(CHECKOUT)],
            "module_executors": ["deploygate", "direct_call"],
            "acceptance_wait_time": 1,
            "log_level": "error",
        }
        folder.mkdir()
        (folder / "minion").write_text(yaml.safe_dump(config))
        return self._start("salt-minion", folder, folder / "output", "--disable-keepalive")

    def _answer(self, minions):
        ended = [name for name in minions if self.minions[name].poll() is not None]
        if ended:
            raise RuntimeError(f"{ended[0]} ended:\n{process.tail(self._base / ended[0] / 'output')}")
        # Ask only when they are known: else the client prints that no minions matched.
        keys = self._base / "pki" / "minions"
        if not all((keys / name).exists() for name in minions):
            return False
        return set(self.ask(minions, "test.ping", timeout=10)) == set(minions)

    def ask(self, minions, function, *arguments, timeout=PATIENCE, **named):
        """One publish from this process, without the start of a command: the answers by minion."""
        return self.client.cmd(
            sorted(minions),
            function,
            arguments,
            kwarg=named,
            tgt_type="list",
            timeout=timeout,
            gather_job_timeout=timeout,
        )

    def salt(self, function, *words, **named):
        """
        ``salt '*' FUNCTION``, as it is typed: what every minion returned, none of which may be missing.

        Not ``--static``, which makes a batch of it (3008.3): one question more, and without ``--module-executors``.
        """
        given = [f"{key}={value}" for key, value in named.items()]
        done = self.command("salt", "--out-indent=-1", *words, "*", function, *given)
        returns = {}
        for line in done.stdout.splitlines():
            with contextlib.suppress(ValueError):
                returns.update(json.loads(line))
        if done.code or set(returns) != set(self.minions):
            raise RuntimeError(f"{function} did not succeed on all {len(self.minions)} minions: {str(done)[:4000]}")
        return returns

    def ran(self, function, *positional, **named):
        """``salt-run FUNCTION``, which must succeed."""
        done = self.run(function, *positional, **named)
        if done.code:
            raise RuntimeError(str(done)[:4000])
        return done

    def publishes(self):
        """The functions published to minions so far, and how often. The job cache has runners as well."""
        loads = (self._base / "cache" / "jobs").glob("*/*/.load.p")
        jobs = [salt.payload.loads(path.read_bytes()) for path in loads if path.with_name(".minions.p").exists()]
        names = [job["fun"] if isinstance(job["fun"], str) else " + ".join(job["fun"]) for job in jobs]
        return collections.Counter(name for name in names if not name.startswith("runner."))

    def memory(self):
        """Megabytes that the master's processes do not share."""
        master = psutil.Process(self._master.pid)
        used = 0
        for one in [master, *master.children(recursive=True)]:
            try:
                used += one.memory_full_info().uss
            except psutil.NoSuchProcess:
                continue
        return round(used / 1e6, 1)

    def peak(self, program, *words):
        """The peak memory of a command, in megabytes."""
        command = [str(pathlib.Path(sys.executable).with_name(program)), "-c", str(self.folder), *words]
        nowhere = subprocess.DEVNULL
        started = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {started.returncode}")
        return round(usage.ru_maxrss / 1e3, 1)

    def _end(self):
        # Ask all of them first, so that they end at the same time.
        servers = [*self.minions.values(), *([self._master] if hasattr(self, "_master") else [])]
        for one in servers:
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        for one in servers:
            process.end(one)
