"""What ``busy.check`` and ``busy.wait`` say, and where, on real minions: to everybody the same, and no secret."""

import base64
import textwrap

import pytest

from tests.support.salt import Config

SECRET = "hunter2-of-the-probe"

NAMED = """
import pathlib, time

def probe(path):
    \"\"\"The lines of the file are what runs.\"\"\"
    lines = pathlib.Path(path).read_text().splitlines()
    more = {"user": "scrapyd", "since": time.time() - 90000, "ask": "Jane Doe"}
    jobs = [{"id": line, "what": line, **more} for line in lines]
    return {"blockers": jobs, "unknowns": [], "info": []}
"""


@pytest.fixture(scope="module")
def probes(_cluster):
    """One more probe on all minions, which reads what runs from a file."""
    folder = _cluster.states / "_modules"
    folder.mkdir(exist_ok=True)
    (folder / "named.py").write_text(NAMED)
    _cluster.salt("*", "saltutil.sync_modules")
    yield
    (folder / "named.py").unlink()
    _cluster.salt("*", "saltutil.sync_modules")


@pytest.fixture
def runs(cluster, probes, tmp_path):
    """``runs("a", "b")``: what runs on kingfisher-main."""
    path = tmp_path / "runs"

    def runs(*lines):
        path.write_text("".join(f"{line}\n" for line in lines))

    runs()
    cluster.pillar_of("kingfisher-main", busy={"named": {"path": str(path)}})
    cluster.salt("*", "saltutil.refresh_pillar", wait=True)
    return runs


def table(answer):
    return [line.rstrip() for line in answer.stdout.splitlines() if line.strip()]


def test_the_minion_the_master_and_the_runner_show_people_the_same_short_table(cluster, runs):
    runs("spider_a", "spider_b")
    local = Config(cluster.minions["kingfisher-main"].config_dir)

    by_salt = table(cluster.command("salt", "-t", "60", "kingfisher-main", "busy.check", out=None))
    by_call = table(local.command("salt-call", "busy.check", out=None))
    by_runner = table(cluster.run("busy.check", "kingfisher-main", out=None))

    rows = [
        "  1 day       named     scrapyd      spider_a",
        "                                     ask: Jane Doe",
        "  1 day       named     scrapyd      spider_b",
        "                                     ask: Jane Doe",
    ]
    assert by_salt[:5] == ["kingfisher-main: busy", *rows]
    assert by_call[:5] == ["local: busy", *rows]
    assert by_runner[by_runner.index("kingfisher-main: busy") :][:5] == ["kingfisher-main: busy", *rows]
    for lines in (by_salt, by_call, by_runner):
        assert max(map(len, lines)) <= 80
        assert "\x1b" not in "".join(lines)

    runs()
    idle = table(cluster.command("salt", "-t", "60", "kingfisher-main", "busy.check", out=None))
    assert idle == ["kingfisher-main: idle"]
    assert table(local.command("salt-call", "busy.check", out=None)) == ["local: idle"]
    assert "kingfisher-main: idle" in table(cluster.run("busy.check", "kingfisher-main", out=None))


def test_no_log_and_no_answer_has_the_password(cluster, scrapyd_factory, tmp_path):
    scrapyd = scrapyd_factory(username="deploy", password=SECRET)
    job = scrapyd.schedule()
    scrapyd.running(job)
    instance = {"url": scrapyd.url, "username": "deploy", "password": "sdb://secrets/SCRAPYD_PASSWORD"}
    (tmp_path / "minion").write_text(
        textwrap.dedent(f"""
            id: alone
            root_dir: {tmp_path}
            file_client: local
            log_file: {tmp_path}/log
            module_dirs: [{cluster.options["file_roots"]["base"][-1]}]
            secrets: {{driver: env}}
            busy: {{scrapyd: [{instance}]}}
        """)
    )

    answer = Config(tmp_path).command(
        "salt-call",
        "--local",
        "--log-level=trace",
        "--log-file-level=trace",
        "busy.check",
        environment={"SCRAPYD_PASSWORD": SECRET},
    )

    assert answer.data["local"]["unknowns"] == [], answer
    assert [one["id"][:25] for one in answer.data["local"]["blockers"]] == ["alone/scrapyd/kingfisher:"]
    everything = answer.stdout + answer.stderr + (tmp_path / "log").read_text()
    assert "LazyLoaded scrapyd.probe" in everything  # the log is there, and is as told
    assert SECRET not in everything
    assert base64.b64encode(f"deploy:{SECRET}".encode()).decode() not in everything
    scrapyd.finish()
