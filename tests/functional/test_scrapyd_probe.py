"""The scrapyd probe, against real Scrapyds, old ones and the newest, and against answers that no Scrapyd gives."""

import http.server
import json
import os
import re
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time

import psutil
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from tests.support import minion
from tests.support.wait import until

NOWHERE = "http://127.0.0.1:1"  # a port where nothing listens


@pytest.fixture(scope="module")
def guarded(scrapyd_factory):
    """A second Scrapyd, which wants a password."""
    return scrapyd_factory(username="deploy", password="hunter2-secret")


@pytest.fixture
def functions(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)


@pytest.fixture
def probe(functions):
    return functions["scrapyd.probe"]


def test_an_empty_scrapyd_is_idle(functions, probe, scrapyd):
    assert probe(url=scrapyd.url) == {"blockers": [], "unknowns": [], "info": []}


def test_running_and_pending_jobs_block_with_the_note_of_who_started_them(probe, scrapyd):
    ids = [scrapyd.schedule(note=f"Started by Ana {number}") for number in range(3)]
    for job in ids[:2]:
        scrapyd.running(job)

    answer, listed = probe(instances=[{"url": scrapyd.url}]), probe(url=scrapyd.url, crawls=False)

    assert answer["unknowns"] == listed["unknowns"] == []
    assert [one["id"] for one in listed["blockers"]] == [one["id"] for one in answer["blockers"]]
    found = {blocker["id"]: blocker for blocker in answer["blockers"]}
    assert set(found) == {f"kingfisher:collect:{job[:6]}" for job in ids}
    assert [found[f"kingfisher:collect:{job[:6]}"]["state"] for job in ids] == ["running", "running", "pending"]
    for number, job in enumerate(ids):
        assert found[f"kingfisher:collect:{job[:6]}"]["ask"] == f"Started by Ana {number}"
    running = found[f"kingfisher:collect:{ids[0][:6]}"]
    assert abs(time.time() - running["since"]) < 120
    assert running["user"] == psutil.Process().username()


def test_a_spider_that_survived_its_scrapyd_is_found_and_only_once(probe, scrapyd):
    pid = scrapyd.orphan()
    try:
        assert scrapyd.status()["running"] == 0

        (blocker,) = probe(url=scrapyd.url)["blockers"]

        assert blocker["state"] == "process"
        assert blocker["id"].startswith("kingfisher:collect:")
        assert probe(url=scrapyd.url, crawls=False)["blockers"] == []
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_same_job_has_the_same_id_before_and_after_a_crash_of_scrapyd(probe, scrapyd):
    job = scrapyd.running()
    (before,) = probe(url=scrapyd.url)["blockers"]
    scrapyd.kill()
    try:
        down = probe(url=scrapyd.url)
        assert [blocker["id"] for blocker in down["blockers"]] == [before["id"]]
        assert "Connection refused" in down["unknowns"][0]["why"]
    finally:
        os.kill(job["pid"], signal.SIGKILL)
        scrapyd.start()


def test_a_crawl_of_crons_is_found(probe, scrapyd, tmp_path):
    (tmp_path / "scrapy").write_text("import time; time.sleep(7777)")
    command = [
        sys.executable,
        str(tmp_path / "scrapy"),
        "crawl",
        "-L",
        "INFO",
        "nightly",
        "-a",
        "note=From cron",
        "-a",
        "key=s3",
    ]
    crawl = subprocess.Popen(["timeout", "7777", *command])
    try:
        until(lambda: psutil.Process(crawl.pid).children(), what="the crawl to begin")
        (blocker,) = probe(url=scrapyd.url)["blockers"]
    finally:
        for child in psutil.Process(crawl.pid).children():
            child.kill()
        crawl.kill()
        crawl.wait()

    assert re.fullmatch(rf"-:nightly:{crawl.pid}\.\d+", blocker["id"])
    assert blocker["ask"] == "From cron"
    assert "s3" not in json.dumps(blocker)


def test_credentials_open_scrapyd_and_appear_nowhere(checkout, tmp_path, guarded):
    pillar = {"busy": {"scrapyd": [{"url": guarded.url, "username": "deploy", "password": "hunter2-secret"}]}}
    functions = minion.functions(checkout, tmp_path, pillar=pillar)

    assert functions["busy.check"]()["unknowns"] == []
    assert functions["scrapyd.status"]() == {
        "running": 0,
        "pending": 0,
        "idle": True,
        "node_name": os.uname().nodename,
    }
    assert functions["scrapyd.jobs"](guarded.url) == []
    pillar = {"busy": {"scrapyd": {"instances": pillar["busy"]["scrapyd"], "crawls": False}}}
    assert minion.functions(checkout, tmp_path, pillar=pillar)["scrapyd.status"]()["idle"] is True

    in_url = guarded.url.replace("//", "//deploy:wrong-secret@")
    for settings in ({"url": guarded.url, "password": "wrong-secret"}, {"url": in_url}):
        refused = minion.functions(checkout, tmp_path, {"scrapyd": settings})["busy.check"]()
        assert "wants another username and password" in refused["unknowns"][0]["why"]
        assert "secret" not in json.dumps(refused)


def test_a_scrapyd_that_hangs_costs_its_time_out(probe, scrapyd):
    os.kill(scrapyd.pid, signal.SIGSTOP)
    try:
        answer = probe(url=scrapyd.url, timeout=0.5)  # or it would hang for ever
    finally:
        os.kill(scrapyd.pid, signal.SIGCONT)

    assert "did not answer within 0.5 seconds" in answer["unknowns"][0]["why"]


def test_one_bad_instance_does_not_hide_the_other(probe, scrapyd):
    scrapyd.running()

    answer = probe(instances=[{"url": NOWHERE}, {"url": scrapyd.url, "name": "second"}])

    assert answer["blockers"][0]["id"].startswith("second/kingfisher:collect:")
    assert len(answer["unknowns"]) == 1


@pytest.fixture
def fake():
    """An HTTP server with these answers: {path: (status, body)}, or a function that writes one."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path, (404, "<html>No Such Resource</html>"))
            if callable(answer):
                answer(self.wfile)
                return
            status, body = answer
            body = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere.json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    answers["url"] = f"http://127.0.0.1:{server.server_port}"

    def secure(certificate, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        return answers["url"].replace("http:", "https:")

    answers["secure"] = secure
    yield answers
    server.shutdown()
    server.server_close()


OK = {"status": "ok", "node_name": "vm", "finished": 0}


def drip(line):
    line.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(1000):
        line.write(b" ")
        line.flush()
        time.sleep(0.1)


def slow_headers(line):
    for _ in range(1000):
        line.write(b"H")
        line.flush()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, "<html>Traceback</html>"), "something else than JSON"),
        ((200, "[]"), "something else than JSON"),
        ((200, "[" * 100000), "something else than JSON"),
        ((200, {"status": "error", "message": "no \x1b[31m"}), "to daemonstatus.json"),
        ((200, {**OK, "running": 0}), "did not say how many"),
        ((200, {**OK, "running": "0", "pending": 0}), "did not say how many"),
        ((200, {**OK, "running": False, "pending": 0}), "did not say how many"),
        ((200, {"running": 0, "pending": 0}), "to daemonstatus.json"),
        ((404, "<html></html>"), "HTTP 404"),
        ((500, "boom"), "HTTP 500"),
        ((302, ""), "HTTP 302"),
        ((200, b"x" * (17 * 1024 * 1024)), "more than"),
        (drip, "did not answer within 0.3 seconds"),
        (slow_headers, "did not answer within 0.3 seconds"),
        (lambda line: line.write(b"\xff\xfe nonsense\r\n\r\n"), "could not be asked"),
        (lambda line: None, "could not be asked"),
    ],
)
def test_no_other_answer_is_idle(probe, fake, monkeypatch, answer, why):
    monkeypatch.setenv("http_proxy", NOWHERE)
    fake["/daemonstatus.json"] = answer
    fake["/elsewhere.json"] = (200, {**OK, "running": 0, "pending": 0})
    begin = time.monotonic()

    found = probe(url=fake["url"], timeout=0.3 if answer in (drip, slow_headers) else 60, crawls=False)

    assert found["blockers"] == []
    assert why in found["unknowns"][0]["why"]
    assert time.monotonic() - begin < 60


# 1.2 lists the jobs of one project at a time; before 1.5, no list has the arguments of a job.
@pytest.mark.parametrize("version", ["1.2.1", "1.4.3"])
def test_an_old_scrapyd_tells_what_runs_and_waits_and_by_whom(probe, scrapyd_factory, version):
    scrapyd = scrapyd_factory(version=version, max_proc=1)
    assert probe(url=scrapyd.url) == {"blockers": [], "unknowns": [], "info": []}

    running, pending = (scrapyd.schedule(note=f"Started by {name}") for name in ("Ana", "Ben"))
    pid = scrapyd.running(running)["pid"]
    listed = probe(url=scrapyd.url, crawls=False)
    whole = probe(url=scrapyd.url)

    ids = [f"kingfisher:collect:{job[:6]}" for job in (running, pending)]
    for answer in (listed, whole):
        assert answer["unknowns"] == []
        assert [(one["id"], one["state"]) for one in answer["blockers"]] == [(ids[0], "running"), (ids[1], "pending")]
    # Only the process of a running job tells the note, and a pending job has none.
    assert [one["ask"] for one in whole["blockers"]] == ["Started by Ana", None]
    assert listed["blockers"][0]["since"] == pytest.approx(whole["blockers"][0]["since"], abs=60)

    scrapyd.kill()
    try:
        (orphan,) = probe(url=scrapyd.url)["blockers"]
        assert (orphan["id"], orphan["ask"]) == (ids[0], "Started by Ana")
    finally:
        os.kill(pid, signal.SIGKILL)


def test_what_runs_is_known_without_the_list_that_brings_along_all_finished_jobs(probe, scrapyd, guarded):
    for job in [scrapyd.schedule() for _ in range(2)]:
        scrapyd.running(job)
    listed = probe(url=scrapyd.url, crawls=False)
    log = scrapyd.log.read_text().count("listjobs.json")

    known = probe(url=scrapyd.url)

    assert scrapyd.log.read_text().count("listjobs.json") == log
    assert {one["id"] for one in known["blockers"]} == {one["id"] for one in listed["blockers"]}
    assert {one["state"] for one in known["blockers"]} == {"running"}
    # Not if anything does not fit: the address is another one than where those crawls were started from.
    guarded.running()
    elsewhere = {"url": guarded.url, "name": "b", "username": guarded.username, "password": guarded.password}
    try:
        both = probe(instances=[{"url": scrapyd.url, "name": "a"}, elsewhere])
    finally:
        guarded.finish()
    assert sorted(one["id"][:2] for one in both["blockers"] if one["state"] == "running") == ["a/", "a/", "b/"]


def test_a_job_whose_id_somebody_chose_is_another_one_when_it_comes_again(probe, scrapyd):
    found = {True: [], False: []}
    for _ in range(2):
        scrapyd.running(scrapyd.schedule(jobid="nightly"))
        for crawls, ids in found.items():
            for _ in range(2):
                ids += [one["id"] for one in probe(url=scrapyd.url, crawls=crawls)["blockers"]]
        scrapyd.finish()

    for ids in found.values():
        assert ids[0] == ids[1] != ids[2] == ids[3]


def test_consent_to_a_pending_job_covers_it_when_it_runs_unless_somebody_chose_its_id(probe, scrapyd):
    first = [scrapyd.running()["id"] for _ in range(2)]
    own, chosen = scrapyd.schedule(), scrapyd.schedule(jobid="nightly")
    pending = {one["id"] for one in probe(url=scrapyd.url)["blockers"] if one["state"] == "pending"}
    for job in first:
        os.kill(scrapyd.running(job)["pid"], signal.SIGKILL)
    for job in (own, chosen):
        scrapyd.running(job)

    running = {one["id"] for one in probe(url=scrapyd.url)["blockers"]}

    assert pending & running == {f"kingfisher:collect:{own[:6]}"}
    assert len(pending | running) == 3


@pytest.mark.parametrize(("reused", "version"), [("nightly", None), (None, None), ("nightly", "1.2.1")])
def test_an_orphan_and_a_pending_job_with_its_id_are_two_things(probe, scrapyd_factory, reused, version):
    """Somebody chooses an id that was chosen before, or that Scrapyd made for another job."""
    scrapyd = scrapyd_factory(max_proc=1, version=version)
    job = scrapyd.schedule(**({"jobid": reused} if reused else {}))
    orphan = scrapyd.running(job)["pid"]
    (before,) = probe(url=scrapyd.url)["blockers"]
    filler = scrapyd.schedule()
    scrapyd.schedule(jobid=job)
    scrapyd.kill()
    scrapyd.start()
    scrapyd.running(filler)
    try:
        looks = [probe(url=scrapyd.url) for _ in range(2)]
        assert looks[0] == looks[1]
        assert looks[0]["unknowns"] == []
        found = {one["state"]: one for one in looks[0]["blockers"] if filler[:6] not in one["id"]}
        assert sorted(found) == ["pending", "process"]
        assert found["pending"]["id"] not in (before["id"], found["process"]["id"])
        assert f":{orphan}." in found["process"]["id"]
        if reused:
            assert found["process"]["id"] == before["id"]
    finally:
        os.kill(orphan, signal.SIGKILL)
        scrapyd.finish()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("pending", [True, False])
def test_jobs_with_one_id_on_two_scrapyds_are_two_things(probe, scrapyd, scrapyd_factory, named, pending):
    other = scrapyd_factory(max_proc=1 if pending else 2)
    pids = {one: one.running(one.schedule(jobid="nightly", note=one.url))["pid"] for one in (scrapyd, other)}
    if pending:  # with the same id once more
        other.schedule(jobid="nightly")
    instances = [{"url": scrapyd.url}, {"url": other.url, **({"name": "second"} if named else {})}]

    looks = [probe(instances=order) for order in (instances, instances, instances[::-1])]
    other.finish()

    assert [look["unknowns"] for look in looks] == [[], [], []]
    blockers = [sorted(look["blockers"], key=lambda one: one["id"]) for look in looks]
    assert blockers[0] == blockers[1] == blockers[2]
    running = {one["ask"]: one["id"] for one in blockers[0] if one["state"] == "running"}
    assert set(running) == {scrapyd.url, other.url}  # each with the note of its own process
    for one, pid in pids.items():
        prefix = "second/" if named and one is other else ""
        assert re.fullmatch(rf"{prefix}kingfisher:collect:nightly:{pid}\.\d+", running[one.url])
    waiting = [one["id"] for one in blockers[0] if one["state"] == "pending"]
    assert len(waiting) == (1 if pending else 0)
    assert all(one.startswith("second/" if named else other.url.removeprefix("http://") + "/") for one in waiting)


@pytest.mark.parametrize(
    ("words", "spider"),
    [
        (["crawl", "nightly"], "nightly"),
        (["--nolog", "crawl", "nightly"], "nightly"),
        (["--loglevel=INFO", "crawl", "-s", "X=y", "nightly"], "nightly"),
        (["runspider", "/srv/nightly.py"], "nightly.py"),
        (["incrementalupdate", "nightly"], "nightly"),
        (["shell"], "shell"),
        (["list"], None),
        (["version", "-v"], None),
        ([], None),
    ],
)
def test_every_command_of_scrapy_that_may_crawl_is_found(probe, tmp_path, words, spider):
    (tmp_path / "scrapy").write_text("import time; time.sleep(7777)")
    crawl = subprocess.Popen([sys.executable, str(tmp_path / "scrapy"), *words])
    try:
        blockers = probe(url=NOWHERE)["blockers"]
    finally:
        crawl.kill()
        crawl.wait()

    mine = [one["id"].rpartition(".")[0] for one in blockers if f":{crawl.pid}." in one["id"]]
    assert mine == ([f"-:{spider}:{crawl.pid}"] if spider else [])


def test_an_orphan_of_another_runner_than_scrapyds_own_is_found(probe, tmp_path):
    (tmp_path / "runner.py").write_text("import time; time.sleep(7777)")
    command = [sys.executable, "runner.py", "crawl", "nightly", "-a", "note=Ana", "-a", "_job=nightly-7"]
    crawl = subprocess.Popen(command, cwd=tmp_path)
    try:
        found = {one["id"].rpartition(".")[0]: one["ask"] for one in probe(url=NOWHERE)["blockers"]}
    finally:
        crawl.kill()
        crawl.wait()

    assert found[f"-:nightly:nightly-7:{crawl.pid}"] == "Ana"


def test_scrapyd_behind_a_path_and_a_certificate_of_its_own(probe, fake, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    fake["/spiders/daemonstatus.json"] = (200, {**OK, "running": 0, "pending": 0})
    url = fake["secure"](certificate, key) + "/spiders/"

    untrusted = probe(url=url, crawls=False)
    trusted = probe(url=url, crawls=False, ca_file=str(certificate))

    assert "its certificate is not trusted" in untrusted["unknowns"][0]["why"]
    assert "ca_file" in untrusted["unknowns"][0]["why"]
    assert trusted == {"blockers": [], "unknowns": [], "info": []}
    with pytest.raises(SaltInvocationError, match="ca_file: No such file"):
        probe(url=url, ca_file="/nonexistent.pem")


@pytest.fixture
def crawls(tmp_path):
    """``crawls(id, project)``: the process of a crawl, started by this test, as by a Scrapyd that listens here."""
    (tmp_path / "runner.py").write_text("import time; time.sleep(7777)")
    started = []

    def start(identity, project="kingfisher"):
        command = [sys.executable, "runner.py", "crawl", "collect", "-a", f"_job={identity}"]
        environment = {**os.environ, "SCRAPY_PROJECT": project}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment))
        return started[-1].pid

    yield start
    for crawl in started:
        crawl.kill()
        crawl.wait()


@pytest.fixture
def says(fake):
    """``says(running, pending)``: from now on, the fake Scrapyd says that it has these jobs."""

    def says(running=(), pending=()):
        counts = {"running": len(running), "pending": len(pending)}
        fake["/daemonstatus.json"] = (200, {**OK, **counts})
        fake["/listjobs.json"] = (200, {**OK, "running": list(running), "pending": list(pending)})

    return says


def a_job(identity, pid=None, **more):
    return {"id": identity, "project": "kingfisher", "spider": "collect", **({"pid": pid} if pid else {}), **more}


def test_a_job_whose_process_is_not_seen_is_taken_from_the_list_and_no_other_crawl_for_it(probe, fake, says, crawls):
    """The fake Scrapyd counts two jobs, and the process that listens there, which is this test, has one crawl."""
    pid = crawls("one")
    says(running=[a_job("one", 4194304, start_time="2026-11-30 10:00:00.5"), a_job("two")])

    blockers = probe(url=fake["url"])["blockers"]

    place = fake["url"].removeprefix("http://")
    mine = [(one["state"], one["id"]) for one in blockers if ":collect:" in one["id"]]
    assert [state for state, _ in mine] == ["running", "running", "process"]
    assert re.fullmatch(rf"{place}/kingfisher:collect:one:\w+", mine[0][1])
    assert re.fullmatch(rf"{place}/kingfisher:collect:two:\w+", mine[1][1])
    assert mine[2][1].startswith(f"kingfisher:collect:one:{pid}.")
    again = a_job("one", 4194304, start_time="2026-11-30 11:00:00.5")  # whatever the process id, another start
    says(running=[again, a_job("two")])
    later = {one["id"] for one in probe(url=fake["url"])["blockers"]}
    assert mine[0][1] not in later
    assert mine[1][1] in later


def test_a_job_in_a_container_is_listed_once_though_its_scrapyd_sees_other_process_ids(probe, fake, says, tmp_path):
    (tmp_path / "runner.py").write_text("import time; time.sleep(7777)")
    command = f"exec {sys.executable} runner.py crawl collect -a _job=nightly"
    inside = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", command]
    container = subprocess.Popen(inside, cwd=tmp_path, env={**os.environ, "SCRAPY_PROJECT": "kingfisher"})
    try:
        crawl = until(lambda: psutil.Process(container.pid).children(), what="the container")[0]
        until(lambda: "crawl" in crawl.cmdline(), what="the crawl")
        says([a_job("nightly", 1)])
        ids = [one["id"].rpartition(".")[0] for one in probe(url=fake["url"])["blockers"] if "nightly" in one["id"]]
    finally:
        container.kill()
        container.wait()

    assert ids == [f"kingfisher:collect:nightly:{crawl.pid}"]


def test_a_crawl_of_a_container_is_not_taken_for_a_job_of_the_scrapyd_at_that_port_here(probe, fake, says, tmp_path):
    """The instance may be a tunnel to another machine. A container's Scrapyd has the same port in its own network."""
    (tmp_path / "runner.py").write_text("import time; time.sleep(7777)")
    program = (
        "import socket, subprocess, sys\n"
        f"line = socket.create_server(('0.0.0.0', {fake['url'].rpartition(':')[2]}))\n"
        "subprocess.run([sys.executable, 'runner.py', 'crawl', 'collect', '-a', '_job=inside'])"
    )
    environment = {**os.environ, "SCRAPY_PROJECT": "kingfisher"}
    container = subprocess.Popen(["unshare", "--net", sys.executable, "-c", program], cwd=tmp_path, env=environment)
    started = []
    try:
        started += until(lambda: psutil.Process(container.pid).children(), what="the container")
        until(lambda: "crawl" in started[0].cmdline(), what="the crawl")
        says([a_job("elsewhere", 4194304)])
        found = {one["what"] for one in probe(url=fake["url"])["blockers"] if ":collect:" in one["id"]}
    finally:
        for one in started:
            one.kill()
        container.kill()
        container.wait()

    assert found == {"kingfisher/collect is running", "kingfisher/collect runs outside of Scrapyd"}


def test_only_what_answers_from_our_own_address_is_on_this_machine(checkout, fake):
    """Else a process here that listens at the port of a Scrapyd elsewhere would be taken for it."""
    module = {}
    exec((checkout / "_modules/scrapyd.py").read_text(), module)
    port = int(fake["url"].rpartition(":")[2])
    for source, places in (("127.0.0.1", [["127.0.0.1", port], ["0.0.0.0", port]]), ("127.0.0.3", [])):
        with socket.create_connection(("127.0.0.1", port), source_address=(source, 0)) as line:
            assert module["_places"](line) == places


def test_jobs_with_one_id_in_several_projects_are_several_things(probe, fake, says, crawls):
    pids = {name: crawls("nightly", name) for name in ("a", "b", "a:collect")}
    jobs = [a_job("nightly", pid, project=project) for project, pid in pids.items()]
    for pending in ([], [a_job("nightly", project="a")]):  # known by the processes, and by the list
        says(jobs, pending)
        blockers = probe(url=fake["url"], crawls=True)["blockers"]
        running = [one["id"].rpartition(".")[0] for one in blockers if one["state"] == "running"]
        assert running == [f"{name}:collect:nightly:{pids[name]}" for name in ("a", "b")] + [
            f"a%3Acollect:collect:nightly:{pids['a:collect']}"
        ]
        assert len({one["id"] for one in blockers}) == len(blockers)


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        ("*", "%2A"),
        ("a b/c*:d?[e]", "a%20b%2Fc%2A%3Ad%3F%5Be%5D"),
        ("2026113012001000800000000000000a", None),  # in the form of a UUID, but of no time at which Scrapyd was there
        ("6487ec", None),
    ],
)
def test_a_chosen_id_is_never_more_than_itself(checkout, tmp_path, fake, says, crawls, chosen, shown):
    check = minion.functions(checkout, tmp_path, {"scrapyd": {"url": fake["url"]}})["busy.check"]
    for _ in range(2):
        pid = crawls(chosen)
        says([a_job(chosen, pid)])
        ids = [one["id"] for one in check()["blockers"] if f":{pid}." in one["id"]]
        assert len(ids) == 1
        assert re.fullmatch(rf"kingfisher-main/scrapyd/kingfisher:collect:{shown or chosen}:{pid}\.\d+", ids[0])


def test_pending_jobs_that_nothing_tells_apart_are_counted(probe, fake, says):
    def ids():
        return [one["id"].rpartition("/")[2] for one in probe(url=fake["url"], crawls=False)["blockers"]]

    says(pending=[a_job("nightly"), a_job("nightly", args={"note": "Ben"}), a_job("nightly")])
    first, ben, second = ids()
    assert ben.count(":") == 3
    assert [first[-5:], second[-5:]] == [":1of2", ":2of2"]
    says(pending=[a_job("nightly", args={"note": "Ben"}), a_job("nightly")])  # nobody knows which of the two is left
    assert ids() == [ben, first.removesuffix(":1of2")]


def test_jobs_that_are_counted_but_not_listed_are_unknown(probe, fake):
    fake["/daemonstatus.json"] = (200, {**OK, "running": 2, "pending": 0})
    fake["/listjobs.json"] = (200, {**OK, "running": [], "pending": [], "finished": []})

    assert "2 jobs are running or pending, but lists 0" in probe(url=fake["url"], crawls=False)["unknowns"][0]["why"]


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "127.0.0.1:6800", "http://", "http://h:port", "http://[::1", "http://h:0", 3]
)
def test_a_wrong_setting_is_named(probe, url):
    with pytest.raises(SaltInvocationError, match="url"):
        probe(url=url)


def test_settings_that_nobody_would_read_are_named(probe):
    for settings, why in (
        ({"pasword": "x"}, "pasword: no such key"),
        ({"instances": [{}], "crawl": False}, "crawl: belongs to each of the instances"),
        ({"instances": []}, "instances: a list of one server or more"),
        ({"instances": [], "crawls": False}, "instances: a list of one server or more"),
        ({"url": ""}, "url: is empty; fill it in, or leave it out"),
        ({"password": " "}, "password: is empty"),
        ({"instances": [{}, {"name": None}]}, "instances.1.name: is empty"),
        ({"name": []}, "name: must be text"),
        ({"timeout": "1h30m"}, "timeout: '1h30m' is not a duration"),
        ({"timeout": None}, "timeout: is empty"),
        ({"timeout": -1}, "timeout: -1 is not a duration"),
        ({"instances": [{}, {"name": "b"}]}, "instances.1.url: another instance has the same"),
        ({"instances": [{"name": "a"}, {"name": "a", "url": NOWHERE}]}, "instances.1.name: another instance has"),
        ({"crawls": "no"}, "crawls: 'no' is not true or false"),
    ):
        with pytest.raises(SaltInvocationError, match=why):
            probe(**settings)


def test_the_functions_for_people_fail_loudly(functions):
    with pytest.raises(CommandExecutionError, match="Connection refused"):
        functions["scrapyd.status"](NOWHERE)


def test_a_password_is_looked_up_on_the_minion_where_it_is_an_sdb_address(loaders, guarded, monkeypatch):
    instance = {"url": guarded.url, "username": "deploy", "password": "sdb://secrets/SCRAPYD_PASSWORD"}
    salt = loaders("minion", secrets={"driver": "env"}, pillar={"busy": {"scrapyd": [instance]}})

    monkeypatch.delenv("SCRAPYD_PASSWORD", raising=False)
    assert "has no value on this minion" in salt.modules["busy.check"]()["unknowns"][0]["why"]
    monkeypatch.setenv("SCRAPYD_PASSWORD", "hunter2-secret")
    assert salt.modules["busy.check"]()["unknowns"] == []
    assert salt.modules["scrapyd.status"]()["idle"] is True
