"""A deploy without daemons: its steps over scripted machines and a real SQLite token."""

from pathlib import Path

from salt.config import apply_master_config

from saltext.deploytoken import people
from saltext.deploytoken.deploy import tokens
from saltext.deploytoken.deploy.steps import Deploy
from tests.support.machines import Scripted
from tests.support.places import SqlitePlace

#: The functions of the steps, in the order of deploy.sls.
STEPS = ["requested", "fetched", "idle", "held", "updated", "idle", "noted", "applied", "rebooted", "released"]


class Rehearsal:
    """
    A deploy of machines ``a`` and ``b``; ``asked`` is the request, beside a target and a reason.

    ``run()`` carries out the steps as an orchestration would: one that fails stops those that require it.
    """

    def __init__(self, folder, test=False, **asked):
        self.place = SqlitePlace(folder)
        folders = {
            "cachedir": str(folder / "cache"),
            "sock_dir": str(folder),
            "extension_modules": str(folder / "ext"),
        }
        self.opts = apply_master_config({**self.place.options("alice"), **folders})
        # Whoever runs the tests is Alice.
        self.place.accounts["alice"] = people.account(self.opts)
        self.asked = {"target": "*", "reason": "upgrade", **asked}
        self.machines = Scripted("a", "b")
        self.told = []
        self.deploy = self.new(test)
        self.returns = {}

    def new(self, test=False):
        deploy = Deploy({**self.opts, "test": test}, {}, self.asked, self.told.append)
        deploy.__dict__["_machines"] = self.machines
        return deploy

    def again(self, **more):
        """The same deploy once more, with ``more`` in its request."""
        self.asked = {**self.asked, **more}
        self.deploy = self.new()

    def other(self, test=False, **asked):
        """Another deploy on this master, of machines of its own."""
        found = object.__new__(Rehearsal)
        found.__dict__.update(self.__dict__, machines=Scripted("a", "b"), told=[], returns={})
        found.asked = {"target": "*", "reason": "upgrade", **asked}
        found.deploy = found.new(test)
        return found

    @property
    def record(self):
        return self.deploy.record

    def step(self, name):
        self.returns[name] = self.deploy.carry_out(name, name)
        return self.returns[name]

    def run(self, until=None):
        """Carry out the steps, but for those from ``until`` on; return what the last one returned."""
        stopped, last = False, None
        for name in STEPS:
            if name == until:
                break
            tail = {"rebooted": "noted", "released": "held"}.get(name)
            if not stopped or (tail and self.record.steps.get(tail) and self.record.steps[tail].result):
                last = self.step(name)
                stopped = last["result"] is False or stopped
        return last

    @property
    def status(self):
        with tokens.connect(self.opts, print) as token:
            return token.status()

    @property
    def locks(self):
        """The files that say which job is at work here."""
        return sorted((Path(self.opts["cachedir"]) / "deploytoken").glob("*.lock"))

    @property
    def entries(self):
        return [line for line in self.place.text().splitlines() if line.startswith("* ")]
