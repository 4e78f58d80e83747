"""A real Scrapyd with a really deployed (egg) project, whose spider runs until it is cancelled or killed."""

import base64
import contextlib
import io
import json
import os
import pathlib
import signal
import sys
import urllib.parse
import urllib.request
import uuid
import zipfile

from tests.support import process, wait

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = "kingfisher"
WAITS = "The engine is up and waits"
SPIDER = '''
import scrapy
from scrapy import signals
from scrapy.exceptions import DontCloseSpider


class Waiting(scrapy.Spider):
    """Runs until it is cancelled or killed."""

    name = "%(name)s"

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.wait, signals.spider_idle)
        return spider

    async def start(self):
        return
        yield

    def start_requests(self):  # before Scrapy 2.13
        return []

    def wait(self):
        self.logger.info("%(waits)s")
        raise DontCloseSpider
'''


def egg(spiders=("collect",)):
    """The project as an egg, as scrapyd-deploy would upload it."""
    files = {
        "crawls/__init__.py": "",
        "crawls/settings.py": "SPIDER_MODULES = ['crawls.spiders']\nTELNETCONSOLE_ENABLED = False\n",
        "crawls/spiders/__init__.py": "",
        "EGG-INFO/PKG-INFO": "Metadata-Version: 1.0\nName: crawls\nVersion: 1.0\n",
        "EGG-INFO/entry_points.txt": "[scrapy]\nsettings = crawls.settings\n",
        "EGG-INFO/top_level.txt": "crawls\n",
    }
    for name in spiders:
        files[f"crawls/spiders/{name}.py"] = SPIDER % {"name": name, "waits": WAITS}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as egg_file:
        for name, text in files.items():
            egg_file.writestr(name, text)
    return archive.getvalue()


class Scrapyd:
    """
    One Scrapyd: the newest, or an old ``version``. ``max_proc`` spiders run at once, the others are pending.

    :py:meth:`schedule` starts a job, :py:meth:`running` waits for it, :py:meth:`finish` ends all jobs.
    """

    def __init__(self, folder, username="", password="", max_proc=2, poll_interval=0.2, version=None):
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.program = pathlib.Path(sys.executable).with_name("scrapyd")
        if version:
            self.program = CHECKOUT / f".venv-scrapyd-{version}" / "bin" / "scrapyd"
            self.environment["PYTHONPATH"] = str(CHECKOUT / "tests" / "scrapyd")
            assert self.program.exists(), f"Scrapyd {version} is not installed: run script/test once"
        self.folder = pathlib.Path(folder)
        self.username, self.password = username, password
        self.log = self.folder / "scrapyd.log"
        self.port = process.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes = []
        (self.folder / "scrapyd.conf").write_text(
            "[scrapyd]\nbind_address = 127.0.0.1\n"
            f"http_port = {self.port}\nmax_proc = {max_proc}\npoll_interval = {poll_interval}\n"
            f"username = {username}\npassword = {password}\n"
            "eggs_dir = eggs\nlogs_dir = logs\ndbs_dir = dbs\nitems_dir =\n"
        )

    @property
    def pid(self):
        return self._processes[-1].pid

    def start(self, deploy=True):
        """Start it (again: on the same port, with the same queue)."""
        self._processes.append(
            process.start(
                [self.program],
                self.log,
                cwd=self.folder,
                env=self.environment,
            )
        )

        def up():
            if self._processes[-1].poll() is not None:
                raise RuntimeError(f"Scrapyd ended:\n{process.tail(self.log)}")
            return process.listening(self.port) and self.status()["status"] == "ok"

        wait.until(up, 180, "Scrapyd to answer")
        if deploy and not (self.folder / "eggs" / PROJECT).exists():
            self._deploy()
        return self

    def kill(self):
        """The server alone is killed: its spiders run on as orphans, which the next :py:meth:`start` does not know."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    def stop(self):
        """End the servers, and all spiders that they have started."""
        for started in self._processes:
            process.end(started)
        self._processes.clear()

    # The API

    def request(self, path, fields=None, body=None, content_type="application/x-www-form-urlencoded"):
        data = urllib.parse.urlencode(fields).encode() if fields is not None else body
        request = urllib.request.Request(f"{self.url}/{path}", data=data)
        if data is not None:
            request.add_header("Content-Type", content_type)
        if self.username:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read())

    def _deploy(self):
        border = uuid.uuid4().hex
        parts = b"".join(
            f'--{border}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"
            for name, more, value in (
                ("project", "", PROJECT.encode()),
                ("version", "", b"1"),
                ("egg", '; filename="crawls.egg"', egg()),
            )
        )
        body = parts + f"--{border}--\r\n".encode()
        answer = self.request("addversion.json", body=body, content_type=f"multipart/form-data; boundary={border}")
        assert answer["status"] == "ok", answer

    def status(self):
        return self.request("daemonstatus.json")

    def jobs(self):
        return self.request(f"listjobs.json?project={PROJECT}")

    def schedule(self, spider="collect", **arguments):
        """Start a job, for example ``schedule(note="Started by Ana")``: its id."""
        answer = self.request("schedule.json", {"project": PROJECT, "spider": spider, **arguments})
        assert answer["status"] == "ok", answer
        return answer["jobid"]

    def running(self, job=None, timeout=180):
        """Schedule a job, or take this one, and wait until its spider runs: the job's row of listjobs.json."""
        job = job or self.schedule()

        def look():
            return next((row for row in self.jobs()["running"] if row["id"] == job), None)

        return wait.until(look, timeout, f"job {job} to run")

    def cancel(self, job, timeout=180):
        """Cancel a running job, once its spider can hear it: a SIGINT while Scrapy still loads may be lost."""

        def hears():
            return any(WAITS in log.read_text() for log in (self.folder / "logs" / PROJECT).glob(f"*/{job}.log"))

        wait.until(hears, timeout, f"the engine of job {job}")
        return self.request("cancel.json", {"project": PROJECT, "job": job})

    def finish(self, timeout=180):
        """Take back all pending jobs, kill all running ones, and wait until Scrapyd is idle."""

        def idle():
            status = self.status()
            if status["running"] == status["pending"] == 0:
                return True
            jobs = self.jobs()
            for job in jobs["pending"]:
                self.request("cancel.json", {"project": PROJECT, "job": job["id"]})
            for job in jobs["running"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job["pid"], signal.SIGKILL)
            return False

        wait.until(idle, timeout, "Scrapyd to be idle")

    def orphan(self):
        """Leave one running spider behind, as a crash of Scrapyd does: the pid of the spider; Scrapyd is up again."""
        job = self.running()
        self.kill()
        self.start()
        return job["pid"]
