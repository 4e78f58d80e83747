"""
The deploy token, shown on real services: run by ``script/demo``, in its virtual environment.

A throw-away salt-master and salt-minion, a token in SQLite, two git repositories with a remote, a Scrapyd with a
spider and, where it is installed, tmux; all of it on loopback and in one temporary folder. Every step says beforehand
how it must end, and the demo stops with code 1 at the first one that ends in another way.
"""

import argparse
import contextlib
import getpass
import io
import json
import os
import pathlib
import pwd
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.parse
import urllib.request
import zipfile

import psutil

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
BIN = pathlib.Path(sys.executable).parent
FOLDERS = ("_executors", "_modules", "_output", "_pillar", "_runners", "_states", "_utils", "deploytoken")
MARK = "DEPLOYTOKEN_DEMO"
"""An environment variable: whatever carries it, with the folder as its value, was started by this demo."""

WIDTH = 80
WHATEVER = object()
"""In place of an exit code: any is fine."""
SPIDER = '''
import scrapy


class Slow(scrapy.Spider):
    """Asks Scrapyd for its own status, once a second: a spider that is busy for as long as it takes."""

    name = "slow"
    custom_settings = {"DOWNLOAD_DELAY": 1, "TELNETCONSOLE_ENABLED": False, "LOG_LEVEL": "ERROR"}

    async def start(self):
        for request in self.start_requests():
            yield request

    def start_requests(self):
        for number in range(3600):
            yield scrapy.Request(f"http://127.0.0.1:PORT/daemonstatus.json?{number}", callback=self.parse)

    def parse(self, response):
        pass
'''


class Unexpected(Exception):
    """A step did not end as narrated."""


def logins():
    """Whoever runs this: behind sudo, or logged in before su. All of them are Alice here."""
    found = {os.environ.get("SUDO_USER")}
    with contextlib.suppress(OSError, ValueError, KeyError, OverflowError):
        found.add(pwd.getpwuid(int(pathlib.Path("/proc/self/loginuid").read_text(encoding="ascii"))).pw_name)
    return sorted(name for name in found if name and name != "root")


class Demo:
    """The folder, what runs in it, and the steps."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.database = self.folder / "token.db"
        self.log = self.folder / "log"
        self.states = self.folder / "srv/states"
        self.pillar = self.folder / "srv/pillar"
        self.page_file = self.folder / "srv/www/index.html"
        self.scrapyd = f"http://127.0.0.1:{free_port()}"
        self.tmux = None
        self.step_number = 0
        self.shown = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "TMUX", "SALT_"))},
            MARK: str(self.folder),
            "SALT_CONFIG_DIR": str(self.folder / "etc"),
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONWARNINGS": "ignore",
        }
        for who in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{who}_NAME": "Carol", f"GIT_{who}_EMAIL": "carol@example.org"}

    # Telling

    def title(self, text):
        self.step_number += 1
        print(f"\n{'─' * WIDTH}\n{self.step_number}. {text}\n", flush=True)

    @staticmethod
    def tell(text):
        print(textwrap.fill(" ".join(text.split()), WIDTH), end="\n\n", flush=True)

    @staticmethod
    def show(text, prefix="  "):
        """Somebody's output, in 80 columns, with what is folded kept to its indentation."""
        for line in text.rstrip().splitlines():
            indent = re.match(r"\s*", line)[0]
            print(
                textwrap.fill(
                    line.strip(),
                    WIDTH,
                    initial_indent=prefix + indent,
                    subsequent_indent=prefix + indent + "  ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                or prefix.rstrip()
            )
        print(flush=True)

    def show_page(self, text=None):
        text = text or self.page()
        self.shown = text
        print("  The wiki page now:")
        self.show(text, "  │ ")

    # Doing

    def page(self):
        """The page's text, as the store has it."""
        import sqlite3

        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT text FROM page ORDER BY version DESC LIMIT 1").fetchone()[0]

    def run(self, command, code=0, says=(), never=(), watch=False, quiet=False):
        """
        Run a command as a person would type it, show what it prints, and check how it ends.

        ``code`` is its exit code, or ``None`` for anything but 0. ``says`` and ``never`` are what its output must and
        must not contain. With ``watch``, the page is shown whenever it changes while the command runs.
        """
        words = shlex.split(command)
        if not quiet:
            print(textwrap.fill(f"$ {command}", WIDTH, subsequent_indent="    ", break_on_hyphens=False), flush=True)
        with open(self.log / "stderr", "ab") as errors, tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                words,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            remember(self.folder, process)
            ends = time.monotonic() + 120
            while process.poll() is None:
                if watch and self.page() != self.shown:
                    print("\n  Meanwhile:")
                    self.show_page()
                if time.monotonic() > ends:
                    raise Unexpected(f"`{command}` did not end within two minutes")
                time.sleep(0.05)
            output.seek(0)
            text = output.read().decode(errors="replace")
        if not quiet:
            self.show(text)
        flat = " ".join(text.split())
        if code is not WHATEVER and (process.returncode == 0 if code is None else process.returncode != code):
            wanted = "another code than 0" if code is None else code
            raise Unexpected(f"`{command}` ended with code {process.returncode}, expected {wanted}:\n{text}")
        for word in says:
            if word not in flat:
                raise Unexpected(f"`{command}` does not say {word!r}:\n{text}")
        for word in never:
            if word in flat:
                raise Unexpected(f"`{command}` says {word!r}:\n{text}")
        if not quiet and code != 0:
            print(f"  (exit code {process.returncode}, as it should be)\n", flush=True)
        return text

    def start(self, name, command, cwd=None):
        with open(self.log / name, "ab") as output:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=cwd or self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        remember(self.folder, process)

    def git(self, path, *arguments):
        subprocess.run(["git", *arguments], cwd=path, env=self.environment, check=True, capture_output=True)

    def commit(self, name, files, message):
        """Carol, a colleague, commits files to one of the repositories and pushes."""
        clone = self.folder / "carol" / name
        for file, text in files.items():
            place = clone / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        self.git(clone, "add", ".")
        self.git(clone, "commit", "--quiet", "--message", message)
        self.git(clone, "push", "--quiet", "origin", "HEAD:main")

    def check(self, condition, what):
        if not condition:
            raise Unexpected(f"not so: {what}")
        print(f"  ✓ {what}\n", flush=True)

    # Setting up

    def set_up(self):
        for folder in ("etc", "log", "carol", "remotes", "srv", "scrapyd", "root/var/cache/salt/master/proc"):
            (self.folder / folder).mkdir(parents=True)
        for folder in FOLDERS:
            if (CHECKOUT / folder).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(CHECKOUT / folder, self.folder / "srv/extension" / folder, ignore=ignore)
        self._repositories()
        self._configure()
        self.page_file.parent.mkdir()
        self.page_file.write_text("Version 1\n")
        self._start_scrapyd()
        # Before the master starts: it loads its external pillars once.
        self.run("salt-run saltutil.sync_all --out=json", quiet=True)
        self.start("master", ["salt-master", "--log-level=warning"])
        self.start("minion", ["salt-minion", "--log-level=warning"])
        self._wait_for_minion()
        # The gate is an executor: until it has arrived, every other function would be refused.
        self.run("salt --module-executors=[direct_call] --out=json docs saltutil.sync_all", quiet=True)
        self.wait(lambda: self._scrapyd("daemonstatus.json")["status"] == "ok", "Scrapyd")
        self._add_spider()

    def _repositories(self):
        for name in ("states", "pillar"):
            remote = self.folder / "remotes" / f"{name}.git"
            self.git(self.folder, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
            self.git(self.folder, "clone", "--quiet", str(remote), str(self.folder / "carol" / name))
        self.commit(
            "states",
            {
                "top.sls": "base:\n  '*':\n    - deploytoken.gate\n    - site\n",
                "site.sls": self.site(1),
            },
            "Version 1",
        )
        # Whoever's they are: found in the process table, other spiders would block the demo, rightly.
        self.crawls = not other_crawls()
        busy = {"scrapyd": {"url": self.scrapyd, "crawls": self.crawls}}
        if self._tmux_is_free():
            busy["tmux"] = {"users": [getpass.getuser()]}
        # JSON is YAML.
        self.commit(
            "pillar",
            {"top.sls": "base:\n  '*':\n    - busy\n", "busy.sls": json.dumps({"busy": busy}, indent=2)},
            "Ask Scrapyd and tmux whether they are busy",
        )
        for name in ("states", "pillar"):
            self.git(self.folder, "clone", "--quiet", str(self.folder / "remotes" / f"{name}.git"), f"srv/{name}")

    def _tmux_is_free(self):
        """Whether tmux is here, and no session of this user (this terminal, say) would block the demo, rightly."""
        self.tmux = shutil.which("tmux")
        if not self.tmux:
            self.without_tmux = "tmux is not installed: the demo does without."
        elif any(
            (process.info["name"] or "").startswith("tmux: server") and process.info["username"] == getpass.getuser()
            for process in psutil.process_iter(["name", "username"])
        ):
            self.tmux = None
            self.without_tmux = "Your own tmux sessions would block the deploy, as they should: the demo does without."
        return bool(self.tmux)

    def _configure(self):
        master, publish = free_port(), free_port()
        common = {
            "user": getpass.getuser(),
            "root_dir": str(self.folder / "root"),
            "log_level": "warning",
            "state_output": "mixed",
            "color": False,
        }
        (self.folder / "etc/master").write_text(
            json.dumps(
                {
                    **common,
                    "interface": "127.0.0.1",
                    "publish_port": publish,
                    "ret_port": master,
                    # Only this machine can connect, and all of it is gone in a moment.
                    "auto_accept": True,
                    "worker_threads": 3,
                    "timeout": 10,
                    "file_roots": {"base": [str(self.states), str(self.folder / "srv/extension")]},
                    "pillar_roots": {"base": [str(self.pillar)]},
                    "ext_pillar": [{"deploytoken": {}}],
                    "deploytoken": {
                        "store": f"sqlite:///{self.database}",
                        "name": "Alice",
                        "people": dict.fromkeys(logins(), "Alice"),
                        "repositories": [str(self.states), str(self.pillar)],
                    },
                },
                indent=2,
            )
        )
        (self.folder / "etc/minion").write_text(
            json.dumps(
                {
                    **common,
                    "id": "docs",
                    "master": "127.0.0.1",
                    "master_port": master,
                    "publish_port": publish,
                    "tcp_pub_port": free_port(),
                    "tcp_pull_port": free_port(),
                    "mine_enabled": False,
                    "module_executors": ["deploygate", "direct_call"],
                },
                indent=2,
            )
        )

    def _start_scrapyd(self):
        port = urllib.parse.urlsplit(self.scrapyd).port
        (self.folder / "scrapyd/scrapyd.conf").write_text(
            f"[scrapyd]\nbind_address = 127.0.0.1\nhttp_port = {port}\npoll_interval = 0.5\n"
        )
        self.start("scrapyd", ["scrapyd", "--pidfile="], cwd=self.folder / "scrapyd")

    def _add_spider(self):
        """Upload a project: an egg is a zip file with an entry point."""
        port = str(urllib.parse.urlsplit(self.scrapyd).port)
        egg = io.BytesIO()
        with zipfile.ZipFile(egg, "w") as archive:
            archive.writestr("EGG-INFO/PKG-INFO", "Metadata-Version: 1.0\nName: kingfisher\nVersion: 1.0\n")
            archive.writestr("EGG-INFO/entry_points.txt", "[scrapy]\nsettings = kingfisher.settings\n")
            archive.writestr("kingfisher/__init__.py", "")
            archive.writestr("kingfisher/settings.py", "SPIDER_MODULES = ['kingfisher.spiders']\n")
            archive.writestr("kingfisher/spiders/__init__.py", "")
            archive.writestr("kingfisher/spiders/slow.py", SPIDER.replace("PORT", port))
        import requests

        answer = requests.post(
            f"{self.scrapyd}/addversion.json",
            data={"project": "kingfisher", "version": "1"},
            files={"egg": egg.getvalue()},
            timeout=30,
        ).json()
        if answer.get("spiders") != 1:
            raise Unexpected(f"Scrapyd did not take the project: {answer}")

    def _scrapyd(self, resource, **data):
        body = urllib.parse.urlencode(data).encode() if data else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.scrapyd}/{resource}", body, timeout=10) as response:
            return json.load(response)

    def _wait_for_minion(self):
        def answers():
            text = self.run(
                "salt --module-executors=[direct_call] --timeout=3 --out=json docs test.version",
                code=WHATEVER,
                quiet=True,
            )
            with contextlib.suppress(ValueError):
                answer = json.loads(text)
                return isinstance(answer, dict) and str(answer.get("docs")).startswith("3")

        self.wait(answers, "the minion")

    @staticmethod
    def wait(predicate, what, timeout=180):
        ends = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                if predicate():
                    return
            if time.monotonic() > ends:
                raise Unexpected(f"waited {timeout} s in vain for {what}")
            time.sleep(0.1)

    # The story

    def play(self):
        self.free()
        self.behind()
        self.blocked_by_work()
        self.blocked_by_bob()
        self.deployed()
        self.closed_gate()
        self.by_hand()

    DEPLOY = (
        "salt-run state.orchestrate deploytoken.deploy "
        """pillar='{"deploytoken": {"target": "docs", "reason": "publish version 2"}}'"""
    )

    def free(self):
        self.title("The token: a page that says who may change the servers")
        self.run("salt-run deploytoken.init --out=yaml", says=["created: true"])
        self.show_page()

    def behind(self):
        self.title("A colleague has pushed. What would a deploy bring?")
        self.commit("states", {"site.sls": self.site(2)}, "Version 2")
        self.run("salt-run deployrepos.status --out=yaml", says=["Version 2"])

    def blocked_by_work(self):
        self.title("A deploy while something runs is blocked")
        self.spider_on()
        who = ["Jane Doe"] if self.crawls else []
        session = ["jd-import-data"] if self.tmux else []
        self.run(self.DEPLOY, code=None, says=["kingfisher/slow", *who, *session])
        self.untouched("nobody took the token", 1)
        self.spider_off()

    def blocked_by_bob(self):
        self.title("A deploy while Bob holds the token is blocked")
        text = self.run('salt-run deploytoken.acquire name=Bob reason="reboot db1" --out=yaml', says=["held_by: Bob"])
        ref = found(r"ref: '?([0-9a-f]{8})", text)
        self.show_page()
        self.run(self.DEPLOY, code=None, says=["Bob", "reboot db1"])
        self.untouched("Bob still holds the token", 1)
        self.tell("Bob is done, and says what he did:")
        self.run(
            f'salt-run deploytoken.release ref={ref} name=Bob summary="new kernel" rebooted=db1 --out=yaml',
            says=["held_by: null", f"released: {ref}"],
        )
        self.show_page()

    def deployed(self):
        self.title("The deploy, from the repositories to the History")
        self.tell(
            """The same command again. Nothing runs and the token is free, so it fetches, asks the minions whether they
            are busy, takes the token, brings the repositories up to date, asks again, runs the highstate through the
            gate, and gives the token back. Its last step is a page to read and to paste."""
        )
        self.run(f"{self.DEPLOY} --state-output=full", says=["Failed: 0", "DEPLOYED", "1 changed"], watch=True)
        self.check(self.version() == 2, "the minion has version 2")
        page = self.page()
        self.check("Held by: nobody" in page, "the token is free again")
        self.check(
            "Alice: publish version 2; from states " in page, "the History has an entry for Alice, with the commits"
        )
        if page != self.shown:
            self.show_page()

    def closed_gate(self):
        self.title("By hand: without the token, the gate is closed")
        self.commit("states", {"site.sls": self.site(3)}, "Version 3")
        self.run("salt-run deployrepos.update --out=yaml", says=["Version 3"])
        self.run("salt docs state.apply", code=None, says=["nobody holds the deploy token"])
        self.untouched("nobody holds the token", 2)

    def by_hand(self):
        self.title("By hand: acquire, apply, release")
        text = self.run('salt-run deploytoken.acquire reason="publish version 3" --out=yaml', says=["held_by: Alice"])
        ref = found(r"ref: '?([0-9a-f]{8})", text)
        self.show_page()
        self.tell("A run has to carry the ref of the hold, so that it is Alice's and not just anybody's:")
        # For three seconds, the answer that was given to one gate serves another.
        self.wait(
            lambda: "Alice" in self.run("salt docs deploygate.check", quiet=True), "the gate to have heard of Alice"
        )
        self.run("salt docs state.apply", code=None, says=["Alice", ref])
        self.untouched("Alice holds the token", 2)
        self.run(f"""salt docs state.apply pillar='{{"deploytoken": {{"ref": "{ref}"}}}}'""", says=["Failed: 0"])
        self.check(self.version() == 3, "the minion has version 3")
        self.tell("Without a summary, the History says why the token was taken:")
        self.run("salt-run deploytoken.release --out=yaml", says=["held_by: null", f"released: {ref}"])
        self.show_page()

    def untouched(self, what, version):
        """Neither the page nor the minion has changed since they were last looked at."""
        self.check(self.page() == self.shown, f"{what}: the page is as it was")
        self.check(self.version() == version, f"the minion was not touched: it has version {version}")

    def version(self):
        """Which version of the site the minion has."""
        return int(self.page_file.read_text().split()[1])

    def invitation(self):
        """What --keep says at its end."""
        return f"""
It is still running. To play with it, in this or another terminal:

  export SALT_CONFIG_DIR={self.folder}/etc PATH={BIN}:$PATH

  salt-run deploytoken.status
  salt-run deploytoken.acquire name=Bob reason="because I can"
  {self.DEPLOY}
  curl {self.scrapyd}/schedule.json -d project=kingfisher -d spider=slow
  salt docs busy.check
  tail -f {self.log}/*

And to end it:

  script/demo --end {self.folder}"""

    def site(self, version):
        return f"{self.page_file}:\n  file.managed:\n    - makedirs: True\n    - contents: Version {version}\n"

    def _tmux(self, *arguments):
        command = [self.tmux, "-S", str(self.folder / "tmux"), *arguments]
        subprocess.run(command, env=self.environment, check=True)

    def spider_on(self):
        answer = self._scrapyd("schedule.json", project="kingfisher", spider="slow", note="Started by Jane Doe")
        self.job = answer["jobid"]
        self.wait(lambda: self._scrapyd("daemonstatus.json")["running"] == 1, "the spider to run")
        self.tell("A spider runs in Scrapyd, with the note “Started by Jane Doe”.")
        if not self.crawls:
            self.tell(
                """(Other spiders run on this machine, and would block the deploy, as they should: so the demo asks its
                own Scrapyd only, and not the process table, which alone has the note of a running job.)"""
            )
        if self.tmux:
            self._tmux("-f", os.devnull, "new-session", "-d", "-s", "jd-import-data", "sleep", "3600")
            self.tell("In a tmux session called jd-import-data, something takes its time.")
        else:
            self.tell(self.without_tmux)

    def spider_off(self):
        self.tell("Jane's spider finishes" + (", and so does her import." if self.tmux else "."))
        if self.tmux:
            self._tmux("kill-server")
        # Twice: the first asks the spider to stop, the second does not wait for its last requests.
        for _ in range(2):
            self._scrapyd("cancel.json", project="kingfisher", job=self.job)
            time.sleep(0.5)
        self.wait(lambda: self._scrapyd("daemonstatus.json")["running"] == 0, "the spider to finish")


def found(pattern, text):
    match = re.search(pattern, text)
    if not match:
        raise Unexpected(f"no {pattern} in:\n{text}")
    return match[1]


def free_port():
    """One of those that the kernel gives to nobody who wants just any: it stays free until it is used."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", random.randrange(10_000, 32_768)))
            return listener.getsockname()[1]


def other_crawls():
    """Whether somebody's spiders run here, in a Scrapyd or not."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if re.search(r"\b(scrapyd\.runner|scrapy) crawl\b", line):
            return True
    return False


def remember(folder, process):
    """Note a process that leads a session of its own, and when it began: a number alone may be used again."""
    with contextlib.suppress(psutil.NoSuchProcess), open(folder / "sessions", "a") as file:
        file.write(f"{process.pid} {psutil.Process(process.pid).create_time()}\n")


def started_by(folder):
    """
    What the demo in this folder started, and what that started in turn.

    By the mark in its environment, or by the session that it belongs to: Salt's processes write their titles over
    their environment, and a tmux server leaves its session.
    """
    sessions = {}
    with contextlib.suppress(OSError):
        for line in (folder / "sessions").read_text().splitlines():
            leader, began = line.split()
            sessions[int(leader)] = float(began)
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # What has ended stays in the table until its parent has waited for it: in a container, perhaps for ever.
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            session = os.getsid(process.pid)
            is_member = session in sessions and process.create_time() >= sessions[session]
            if is_member and psutil.pid_exists(session):
                is_member = psutil.Process(session).create_time() == sessions[session]
            if is_member or process.environ().get(MARK) == str(folder):
                processes.append(process)
    return processes


def end(folder):
    """End all of it, by process id: asked first, then killed. Then the folder goes."""
    for action in ("terminate", "terminate", "kill", "kill", "kill"):
        processes = started_by(folder)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                getattr(process, action)()
        if not processes:
            break
        psutil.wait_procs(processes, timeout=8 if action == "terminate" else 2)
    if left := started_by(folder):
        print(f"Still running, in {folder}: {', '.join(str(process.pid) for process in left)}", file=sys.stderr)
        return False
    shutil.rmtree(folder)
    return True


def main():
    parser = argparse.ArgumentParser(prog="script/demo", description="Show the deploy token on throw-away services.")
    parser.add_argument("--keep", action="store_true", help="leave everything running, and say how to play with it")
    parser.add_argument("--end", metavar="DIR", help="end what --keep has left running in DIR")
    arguments = parser.parse_args()
    if arguments.end:
        folder = pathlib.Path(arguments.end).resolve()
        if not (folder / "etc/master").is_file() or not folder.name.startswith("deploytoken-demo-"):
            parser.error(f"{folder} is not the folder of a demo")
        return 0 if end(folder) else 1

    def stop(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    # Not below TMPDIR, which may be deep: the path of a socket has room for 107 characters.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="deploytoken-demo-", dir="/tmp")).resolve()
    started = time.monotonic()
    code, keep = 1, False
    demo = Demo(folder)
    try:
        print(f"Starting a master, a minion and Scrapyd on loopback, in {folder} …", flush=True)
        demo.set_up()
        demo.tell("Ready. Every command below is the real one, and what it prints is what it printed.")
        demo.play()
        print(f"{'─' * WIDTH}\nEverything went as told, in {time.monotonic() - started:.0f} seconds.", flush=True)
        code, keep = 0, arguments.keep
    except KeyboardInterrupt as error:
        print(f"\nInterrupted ({error or 'SIGINT'}).", file=sys.stderr, flush=True)
        code = 130
    except Unexpected as error:
        print(f"\nThe demo did not go as told: {error}", file=sys.stderr)
        for log in sorted((folder / "log").glob("*")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            print(f"\nThe end of {log.name}:", *lines, sep="\n  ", file=sys.stderr)
        keep = arguments.keep
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if keep:
            print(demo.invitation(), flush=True)
        else:
            print("Ending what was started …", flush=True)
            if not end(folder):
                code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
