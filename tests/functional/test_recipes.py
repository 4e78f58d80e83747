"""The recipes of docs/recipes.md, as they stand there, with real processes and locks, and with recorded answers."""

import os
import pathlib
import re

import psutil
import pytest
import yaml

from tests.support import minion, process
from tests.support.wait import until

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/recipes.md"
# What Podman 4.3.1 and RabbitMQ 3.10.8 answered.
ANSWERS = {
    "podman": "7de76ca4c26a\tnightly (localhost/local/busybox:latest)\tAna, data team\n"
    "658db3bf2f22\tunasked (localhost/local/busybox:latest)\t\n",
    "rabbitmqctl": "imports\t1\nwaiting\t0\nidle\t0\n",
}
ARGUMENTS = {
    "podman": "ps --filter label=deploy.busy "
    '--format {{.ID}}\\t{{.Names}} ({{.Image}})\\t{{index .Labels "deploy.busy"}}',
    "rabbitmqctl": "-q -s list_queues name messages_unacknowledged",
}


@pytest.fixture
def recipe(checkout, tmp_path, users):
    """``recipe("Backups")``: a function that asks the probes as it stands there. Its programs are in ``.home``."""
    user = users("ana")

    def recipe(title):
        text = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        # The files in which backups lock would be those of this machine.
        text = text.replace("/run/lock", str(user.home))
        busy = {}
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            busy.update(yaml.safe_load(block)["busy"])
        for program in busy.get("command", []):
            (script,) = re.findall(r"```sh\n(#!.*?)```", text, re.DOTALL)
            path, _, arguments = program["run"].partition(" ")
            installed = user.home / pathlib.Path(path).name
            installed.write_text(script)
            installed.chmod(0o755)
            program.update(run=f"{installed} {arguments}", env={"PATH": f"{user.home}:/usr/bin:/bin"}, timeout=15)
            if program["user"] != "root":
                program["user"] = user.name
        if "processes" in busy:  # without the backups of this machine
            patterns = busy["processes"]["patterns"]
            patterns = [{"match": one} if isinstance(one, str) else one for one in patterns]
            busy["processes"]["patterns"] = [{**one, "user": user.name} for one in patterns]
        return minion.functions(checkout, tmp_path, busy)["busy.check"]

    recipe.user, recipe.home = user, user.home
    return recipe


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*command, **options):
        started.append(process.start(command, tmp_path / "log", **options))
        return started[-1]

    yield start
    for one in started:
        process.end(one)


def ids(answer):
    assert answer["unknowns"] == []
    return [blocker["id"].partition("/")[2] for blocker in answer["blockers"]]


@pytest.mark.parametrize(
    ("title", "tool", "found"),
    [
        (
            "Containers",
            "podman",
            {"busy-containers/7de76ca4c26a": "Ana, data team", "busy-containers/658db3bf2f22": None},
        ),
        ("RabbitMQ", "rabbitmqctl", {"busy-queues/imports": "the data team"}),
    ],
)
def test_what_a_service_lists_blocks_and_a_service_that_is_down_is_unknown(recipe, tmp_path, title, tool, found):
    ask = recipe(title)
    stub, said = recipe.home / tool, recipe.home / "answer"
    stub.write_text(f"#!/bin/sh\n[ \"$*\" = '{ARGUMENTS[tool]}' ] || exit 64\ncat {said}\n")
    stub.chmod(0o755)

    said.write_text(ANSWERS[tool])
    answer = ask()
    assert answer["unknowns"] == []
    assert {one["id"].removeprefix("kingfisher-main/command/"): one["ask"] for one in answer["blockers"]} == found
    said.write_text("")
    assert ask()["idle"] is True
    said.unlink()
    (unknown,) = ask()["unknowns"]
    assert "ended with exit code 1: cat: " in unknown["why"]


def test_backups_are_found_as_processes_and_by_their_locks(recipe, start):
    ask = recipe("Backups")
    lock, other = (recipe.home / name for name in ("backup.lock", "export.lock"))
    assert ask()["idle"] is True
    borg = recipe.home / "borg"
    borg.write_text("#!/bin/sh\nsleep 7777; true\n")
    borg.chmod(0o755)

    program = start(borg, "create", user=recipe.user.uid)
    until(lambda: [one.rpartition(".")[0] for one in ids(ask())] == [f"processes/borg:{program.pid}"], what="Borg")
    process.end(program)

    # flock itself, and a shell that had flock lock a file of its own.
    for file, holder in (
        (lock, ["flock", lock, "sleep", "7777"]),
        (other, ["bash", "-c", f"exec 9> {other}; flock 9; sleep 7777; true"]),
    ):
        held = start(*holder)
        (blocker,) = until(lambda: ask()["blockers"], what="the lock")
        assert (blocker["what"], blocker["ask"]) == (str(file), "Ana")
        assert ask()["blockers"][0]["id"] == blocker["id"]
        process.end(held)
        until(lambda: ask()["idle"], what="its end")


def test_a_job_of_a_ci_runner_is_found_and_a_runner_at_rest_is_idle(recipe, start):
    ask, runner, job = recipe("CI runners"), recipe.home / "buildbot-worker", recipe.home / "job"
    os.mkfifo(job)
    job.chmod(0o666)
    # As Buildbot's does, the program waits, and then starts a shell.
    runner.write_text(f'#!/bin/sh\nread words < {job}\nsh -c "$words"; true\n')
    runner.chmod(0o755)
    worker = start(runner, user=recipe.user.uid)

    until(lambda: psutil.Process(worker.pid).name() == "buildbot-worker", what="the worker")
    assert ask()["idle"] is True
    job.write_text("sleep 7777; true\n")
    shell = until(lambda: psutil.Process(worker.pid).children(), what="the job")[0]
    until(
        lambda: [one.rpartition(".")[0] for one in ids(ask())] == [f"processes/buildbot-worker:{shell.pid}"], what="it"
    )
    job.unlink()
