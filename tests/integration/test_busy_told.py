"""What ``busy.check`` and ``busy.wait`` say, and where, on real minions: to everybody the same, and no secret."""

import base64
import textwrap

import pytest

from tests.support.salt import Config, states

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
    """Two more probes on all minions: one reads what runs from a file, and one hangs."""
    folder = _cluster.states / "_modules"
    folder.mkdir(exist_ok=True)
    (folder / "named.py").write_text(NAMED)
    (folder / "hangs.py").write_text("import time\n\ndef probe():\n    time.sleep(7777)\n")
    _cluster.salt("*", "saltutil.sync_modules")
    yield
    for name in ("named", "hangs"):
        (folder / f"{name}.py").unlink()
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
        "  25 hours    named     scrapyd      spider_a",
        "                                     ask: Jane Doe",
        "  25 hours    named     scrapyd      spider_b",
        "                                     ask: Jane Doe",
    ]
    assert by_salt[:5] == ["kingfisher-main: busy", *rows]
    assert by_call[:5] == ["local: busy", *rows]
    assert by_runner[by_runner.index("kingfisher-main: busy") :][:5] == ["kingfisher-main: busy", *rows]
    for lines in (by_salt, by_call, by_runner):
        assert max(len(line) for line in lines if not line.startswith("  salt-run")) <= 80  # that one is to be pasted
        assert "\x1b" not in "".join(lines)

    runs()
    idle = table(cluster.command("salt", "-t", "60", "kingfisher-main", "busy.check", out=None))
    assert idle == ["kingfisher-main: idle"]
    assert table(local.command("salt-call", "busy.check", out=None)) == ["local: idle"]
    assert "kingfisher-main: idle" in table(cluster.run("busy.check", "kingfisher-main", out=None))


def test_a_probe_that_hangs_keeps_no_salt_call_alive(cluster, probes):
    local = Config(cluster.minions["kingfisher-main"].config_dir)
    cluster.pillar_of("kingfisher-main", busy={"hangs": {}, "tmux": {"users": ["root"]}})

    answer = local.command("salt-call", "--retcode-passthrough", "busy.check")  # or it would hang for hours

    found = answer.data["local"]
    assert answer.code == 7, answer
    assert {"probe": "hangs", "why": "did not answer within 20 seconds"} in found["unknowns"]
    assert found["checks"] == ["hangs", "tmux"]


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


def test_waiting_for_idle_comes_before_the_token_and_tells_what_is_left(cluster, runs, redmine):
    runs("spider_a")
    versions = len(redmine.versions(cluster.page))
    cluster.sls("nothing", {"nothing": {"test.succeed_without_changes": []}})
    deploy = {"target": "kingfisher-main", "reason": "upgrade", "sls": ["nothing"], "wait_idle": "5m"}

    process = cluster.popen("state.orchestrate", "deploytoken.deploy", pillar={"deploytoken": deploy})
    told = []
    for line in process.stderr:
        told.append(line)
        if "spider_a on kingfisher-main for 25 hours" in line:
            assert len(redmine.versions(cluster.page)) == versions  # nothing is written while it waits
            runs()
            break
    output, more = process.communicate(timeout=400)

    assert process.returncode == 0, output + more
    assert any("waiting for 1 thing" in line for line in told)
    assert [page["comments"].split()[0] for page in redmine.versions(cluster.page)[versions:]] == [
        "acquire",
        "release",
    ]


def test_an_idle_look_at_the_end_of_the_time_gets_its_second_one(cluster, runs):
    answer = cluster.run("busy.wait", "kingfisher-main", "timeout=1s", settle="4s")

    assert answer.code == 0, answer
    assert answer.data["waited"] >= 4


def test_what_began_after_jane_agreed_blocks_and_the_history_says_what_she_agreed_to(cluster, runs, redmine):
    runs("spider_a", "spider_b")
    cluster.sls("nothing", {"nothing": {"test.succeed_without_changes": []}})
    consent = {"by": "Jane Doe, helpdesk", "for": ["kingfisher-main/named/spider_a"]}
    deploy = {
        "target": "kingfisher-main",
        "reason": "upgrade",
        "sls": ["nothing"],
        "consent": consent,
    }

    refused = cluster.orchestrate(**deploy)
    runs("spider_a")
    agreed = cluster.orchestrate(**deploy)

    assert refused.code == 1, refused
    assert states(refused)[2]["comment"].startswith("1 thing running (ask Jane Doe): spider_b on kingfisher-main for ")
    assert agreed.code == 0, agreed
    text = redmine.text(cluster.page)
    assert "Jane Doe, helpdesk" in text
    assert "spider_a" in text
    assert "spider_b" not in text


def test_a_minion_without_checks_is_said_to_be_idle_for_that_reason(cluster, runs):
    after = {"require": [{"deploytoken": "request"}]}
    cluster.sls("steps", {"request": {"deploytoken.requested": []}, "idle": {"deploytoken.idle": [after]}})

    answer = cluster.orchestrate("steps", target=["docs", "kingfisher-main"], reason="upgrade")

    assert answer.code == 0, answer
    assert states(answer)[1]["comment"] == "Idle: docs (no checks configured), kingfisher-main"
