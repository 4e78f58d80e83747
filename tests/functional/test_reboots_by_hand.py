"""
The hooks of docs/reboots-by-hand.md, as they stand there: real molly-guard, real systemd, real salt-call.

All is in a machine of its own (tests.support.systemd), and what molly-guard guards is a program that only says so.
"""

import json
import pathlib
import re
import shutil
import sys

import pytest

from tests.support.systemd import SYSTEM, Systemd

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "reboots-by-hand.md").read_text(encoding="utf-8")
GUARD = CHECKOUT / ".cache" / "debian" / "molly-guard"  # script/test unpacks it there
IMPORT = ("--unit=test-import", "sleep", "7777")


def recipe(kind):
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return found


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


class Host:
    """A machine with a masterless minion, whose only probe is that of systemd, and with molly-guard."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("bin", "lib", "etc/run.d", "minion", "systemd"):
            (folder / name).mkdir(parents=True)
        self.machine = Systemd(folder / "systemd")
        options = {
            "id": "kingfisher-main",
            "root_dir": str(folder / "minion"),
            "file_client": "local",
            "module_dirs": [str(CHECKOUT), str(self.machine.folder)],
            "busy": {"systemd": {}},
        }
        (folder / "minion" / "minion").write_text(json.dumps(options))
        real = pathlib.Path(sys.executable).with_name("salt-call")
        self.salt_call = folder / "bin" / "salt-call"
        program(self.salt_call, f'#!/bin/sh\nexec {sys.executable} {real} --local -c {folder}/minion "$@"\n')
        self._guard()

    def _guard(self):
        """molly-guard with its two folders elsewhere: this copy can reach no command that stops a machine."""
        guard = (GUARD / "lib/molly-guard/molly-guard").read_text()
        for its, ours in (("/etc/molly-guard/", "etc"), ("/lib/molly-guard/", "lib")):
            assert its in guard
            guard = guard.replace(its, f"{self.folder / ours}/")
        assert "molly-guard/" not in guard.replace(str(self.folder), "")
        for path in (GUARD / "etc/molly-guard/run.d").iterdir():
            shutil.copy(path, self.folder / "etc/run.d")
        program(self.folder / "etc/run.d/20-busy", recipe("sh"))
        for command in ("reboot", "shutdown"):
            program(self.folder / "bin" / command, guard)
            program(self.folder / "lib" / command, '#!/bin/sh\necho "it would $0 $*"\n')

    def type(self, line, terminal=True):
        """What a terminal shows after this line of a shell, and its exit code; without a terminal, what is printed."""
        typed = f"PATH={self.folder}/bin:$PATH; {line}; echo code $?"
        words = ("script", "-qec", typed, "/dev/null") if terminal else ("sh", "-c", f"{{ {typed}; }} 2>&1")
        shown, _, code = self.machine.run(*words).replace("\r", "").rpartition("code ")
        return shown, int(code)


@pytest.fixture(scope="module")
def _host(tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("host"))
    try:
        host.machine.start()
        yield host
    finally:
        host.machine.end()


@pytest.fixture
def host(_host):
    yield _host
    _host.machine.clean()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_reboot_by_hand_is_stopped_while_something_runs_and_shows_whom_to_ask(host, terminal):
    host.machine.begin(*IMPORT)
    shown, code = host.type("reboot", terminal)

    assert (code, "it would" in shown) == (7, False)
    as_on_the_page = [line for line in recipe("text").splitlines() if "import.service" not in line]
    assert [line for line in as_on_the_page if line not in shown.splitlines()] == []
    assert re.search(r"\d+ s +systemd +root +test-import\.service: sleep 7777", shown)
    (way,) = re.findall(r"without a question: /lib/molly-guard/(\S+)", shown)
    assert host.type(f"{host.folder}/lib/{way} --force") == (f"it would {host.folder}/lib/reboot --force\n", 0)


def test_a_reboot_by_hand_passes_while_nothing_runs(host):
    shown, code = host.type("shutdown -r now")

    assert (f"it would {host.folder}/lib/shutdown -r now\n" in shown, code) == (True, 0)


def test_what_salt_orders_was_asked_about_before(host):
    host.machine.begin(*IMPORT)
    order = ["--unit=salt-minion", "--pipe", "--wait", "--quiet", host.folder / "bin/shutdown", "-r", "now"]

    assert host.machine.begin(*order) == f"it would {host.folder}/lib/shutdown -r now\n"


@pytest.mark.parametrize("line", ["shutdown -c", "reboot -f"])
def test_what_molly_guard_lets_pass_as_the_page_says(host, line):
    host.machine.begin(*IMPORT)

    assert f"`{line}`" in PAGE
    assert f"it would {host.folder}/lib/{line}\n" in host.type(line)[0]


def test_a_question_without_an_answer_stops_the_reboot(host, tmp_path):
    """As while the master is away: salt-call waits for it, without end."""
    hook = host.folder / "etc/run.d/20-busy"
    program(tmp_path / "salt-call", "#!/bin/sh\nsleep 7777\n")
    program(hook, recipe("sh").replace(" 120 ", " 0.2 "))
    try:
        shown, code = host.type(f"PATH={tmp_path}:$PATH reboot")
    finally:
        program(hook, recipe("sh"))

    assert (code, "it would" in shown) == (124, False)


def test_an_upgrade_by_itself_waits_for_the_next_day_while_something_runs(host, tmp_path):
    """In its place, something that leaves a trace; it has a timer, and so it is work itself, by the probe."""
    upgraded = tmp_path / "upgraded"
    for kind in ("service", "timer"):
        host.machine.unit(f"apt-daily-upgrade.{kind}", (SYSTEM / f"apt-daily-upgrade.{kind}").read_text())
    instead = f"[Service]\nExecStartPre=\nExecStart=\nExecStart=touch {upgraded}\n"
    host.machine.unit("apt-daily-upgrade.service.d/instead.conf", instead)
    (name,) = re.findall(r"/etc/systemd/system/(\S+\.conf)", PAGE)
    host.machine.unit(name, recipe("ini").replace("/usr/bin/salt-call", str(host.salt_call)))
    host.machine.begin(*IMPORT)
    start = ("systemctl", "start", "apt-daily-upgrade.service")  # fails if the service does

    host.machine.run(*start)
    assert not upgraded.exists()
    host.machine.run("systemctl", "stop", "test-import.service")
    host.machine.run(*start)
    assert upgraded.exists()
