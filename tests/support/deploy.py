"""What tests ask of an orchestrated deploy and of its answer."""

import contextlib
import pathlib
import signal

import psutil
import yaml

from tests.support.salt import Config, Result, states
from tests.support.wait import until

#: Its steps, in order.
STEPS = [
    "request",
    "repositories",
    "idle",
    "token",
    "update",
    "still idle",
    "boots",
    "deploy",
    "reboots",
    "cleanup",
    "report",
]
REASON = "upgrade PostgreSQL"
BOTH = {"target": "docs,kingfisher-main", "target_type": "list"}


def deploy(site, target="docs", reason=REASON, **more):
    return site.orchestrate(target=target, reason=reason, **more)


def held(site):
    return site.run("deploytoken.status").data


def results(answer):
    return {row["__id__"]: row["result"] for row in states(answer)}


def step(answer, name):
    return next(row for row in states(answer) if row["__id__"] == name)


def comment(answer, name):
    return step(answer, name)["comment"]


def variant(site, folder, **options):
    """The site's master with other options; for what ``salt-run`` reads itself."""
    folder = pathlib.Path(folder)
    folder.mkdir()
    (folder / "master").write_text(yaml.safe_dump({**site.options, **options}))
    return Config(folder)


def impatient(site, folder):
    """The site's master, with little patience for minions that are silent."""
    return variant(site, folder, timeout=2, gather_job_timeout=2, deploytoken={**site.token, "patience": 4})


class Midway:
    """Deploys in the background, which wait on each minion in the middle of their states until they may ``go``."""

    def __init__(self, site, folder):
        self.site = site
        self.folder = pathlib.Path(folder)
        self.started = []
        wait = f"touch {folder}/began-{{{{ grains.id }}}}; while ! test -e {folder}/go; do sleep 0.1; done"
        done = f"{folder}/done-{{{{ grains.id }}}}"
        site.sls("work", f"work:\n  cmd.run:\n    - name: '{wait}'\ndone:\n  file.touch:\n    - name: {done}\n")

    def start(self, config=None, target="docs", reason=REASON, **more):
        pillar = {"deploytoken": {"target": target, "reason": reason, **more}}
        started = (config or self.site).popen("state.orchestrate", "deploytoken.deploy", pillar=pillar)
        self.started.append(started)
        return started

    def begun(self, minion="docs"):
        mark = self.folder / f"began-{minion}"
        ended = lambda: self.started and all(one.poll() is not None for one in self.started)  # noqa: E731
        until(lambda: mark.exists() or ended(), timeout=400, what=f"the states to begin on {minion}")
        assert mark.exists(), [self.end(one) for one in self.started]

    def go(self):
        (self.folder / "go").touch()

    def done(self, minion="docs"):
        """Whether the minion has ended its states."""
        return (self.folder / f"done-{minion}").exists()

    def end(self, started):
        """Wait for a deploy to end: its Result."""
        stdout, stderr = started.communicate(timeout=600)
        return Result(started.args, started.returncode, stdout, stderr)

    def clean(self):
        """Let everything end, on the minions too."""
        self.go()
        for started in self.started:
            started.kill()
            started.communicate()
        until(self._nothing_runs, timeout=240, what="the states to end")

    def _nothing_runs(self):
        answers = self.site.ask("docs,kingfisher-main", "state.running", target_type="list")
        return len(answers) == 2 and not any(answers.values())


@contextlib.contextmanager
def stopped(daemon):
    """All processes of a daemon stand still: it is silent, and its connections are open."""
    main = psutil.Process(daemon.pid)
    family = [main, *main.children(recursive=True)]
    try:
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGSTOP)
        yield
    finally:
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGCONT)
