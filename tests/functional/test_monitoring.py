"""The recipes of docs/monitoring.md, as they stand there, tell how the token stands."""

import pathlib
import re
import stat
import subprocess
import sys

import pytest
from salt.output import out_format

from tests.support.places import SqlitePlace

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
HOLD = 'Held by: Alice (it\'s an "age": 7; since 2020-01-01 00:00 UTC{}; ref abcdef01)'
PAGES = {
    "free": "Held by: nobody",
    "held": HOLD.format(""),
    "overdue": HOLD.format("; expected until 2020-01-01 02:00 UTC"),
    "unreadable": "Held by: nobody\n\nHeld by: Alice",
}
WORDS = {
    "free": "nobody holds the token",
    "held": "Alice holds the token since 2020-01-01 00:00 UTC",
    "overdue": "it was expected until 2020-01-01 02:00 UTC: ask Alice",
    "unreadable": "2 lines 'Held by: …'",
}


def recipe(kind, begins=""):
    """The code of this kind on the page that begins so; there is one."""
    page = (CHECKOUT / "docs/monitoring.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{kind}\n({begins}.*?)```", page, re.DOTALL)
    return found


class Master:
    """A shell in which ``salt-run`` and ``sudo`` are ours; the page says ``now``."""

    def __init__(self, folder, now):
        self.place = SqlitePlace(folder)
        self.place.edit(lambda text: PAGES[now])
        self.tools = folder / "bin"
        self.tools.mkdir()
        self.tool("sudo", 'shift; exec "$@"')

    def tool(self, name, does):
        (self.tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (self.tools / name).chmod(0o755)

    def real(self, config):
        """Have a real ``salt-run``, which takes seconds each time."""
        self.tool("salt-run", f'exec {pathlib.Path(sys.executable).with_name("salt-run")} -c {config.folder} "$@"')

    def quick(self, salt):
        """Have one that says what Salt's loaders and outputters say."""
        answer = salt.runners["deploytoken.status"](check=True)
        for out in ("json", "deploytoken"):
            (self.tools / out).write_text(out_format(answer, out, salt.opts) + "\n")
        words = "deploytoken.status check=True --out="
        shows = f"case $* in '{words}'*) cat {self.tools}/${{3#--out=}} ;; *) exit 99 ;; esac; exit {salt.retcode}"
        self.tool("salt-run", shows)

    def run(self, script, *arguments):
        environment = {"PATH": f"{self.tools}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        command = ["/bin/sh", "-c", script, "recipe", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def master(loaders, master_config, tmp_path, now):
    made = Master(tmp_path, now)
    options = made.place.options("alice")
    if now == "overdue":
        made.real(master_config(**options))
    else:
        made.quick(loaders(**options))
    return made


@pytest.mark.parametrize("now", PAGES)
def test_each_recipe_tells_how_the_token_stands(master, tmp_path, now):
    # cron mails what is printed.
    line = next(line for line in recipe("text", "MAILTO").splitlines() if "root " in line)
    mailed = master.run(line.partition("root ")[2])
    assert (WORDS[now] in mailed.stdout) is (now in ("overdue", "unreadable")), mailed
    assert bool(mailed.stdout) is (now in ("overdue", "unreadable")), mailed
    assert "%" not in line  # cron ends the command there

    # Nagios shows the first line.
    check = master.run(recipe("sh"))
    assert check.returncode == {"free": 0, "held": 0, "overdue": 1, "unreadable": 3}[now], check
    assert WORDS[now] in check.stdout.splitlines()[0], check

    folder = tmp_path / "node exporter"
    folder.mkdir()
    (folder / "deploytoken.prom").write_text("old")
    assert master.run(recipe("bash"), str(folder)).returncode == 0
    (file,) = folder.iterdir()
    assert file.name == "deploytoken.prom"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    text = file.read_text()
    found = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
    age = found.pop("deploytoken_age_seconds", None)
    assert (age is not None and age > 10**8) is (now in ("held", "overdue")), text
    assert (
        found
        == {
            "free": {"deploytoken_readable": 1, "deploytoken_held": 0, "deploytoken_overdue": 0},
            "held": {"deploytoken_readable": 1, "deploytoken_held": 1, "deploytoken_overdue": 0},
            "overdue": {"deploytoken_readable": 1, "deploytoken_held": 1, "deploytoken_overdue": 1},
            "unreadable": {"deploytoken_readable": 0},
        }[now]
    )


@pytest.mark.parametrize("now", ["free"])
def test_a_recipe_without_salt_does_not_say_that_all_is_well(master, tmp_path):
    master.tool("salt-run", "echo there is no salt-run here >&2; exit 127")

    assert master.run(recipe("text", "MAILTO").partition("root ")[2]).stdout == "there is no salt-run here\n"
    assert master.run(recipe("sh")).returncode == 3
    master.run(recipe("bash"), str(tmp_path))
    assert (tmp_path / "deploytoken.prom").read_text() == "deploytoken_readable 0\n"
    assert not list(tmp_path.glob(".deploytoken.*"))
