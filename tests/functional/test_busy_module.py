"""``busy.check`` on a minion: each probe by itself, all bounded, and nothing but a clear "idle" is idle."""

import contextlib
import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import sys
import textwrap
import time
import types

import psutil
import pytest
import salt.payload

from tests.support import minion, process
from tests.support.wait import until

IDLE = "return {'blockers': [], 'unknowns': [], 'info': []}"
ONE = "return {'blockers': [{'id': 'x', 'what': 'y', 'since': 1700000000}], 'unknowns': [], 'info': []}"


@pytest.fixture
def check(checkout, tmp_path):
    """``check(busy, {module: body of its probe})``: the answer, and the return code."""

    def check(busy=None, probes=(), asking=None, **more):
        folder = tmp_path / "modules" / "_modules"
        folder.mkdir(parents=True, exist_ok=True)
        for name, body in dict(probes).items():
            source = f"import sys, time\n\ndef probe(**settings):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
            (folder / f"{name}.py").write_text(source)
        functions = minion.functions(checkout, tmp_path, busy, modules=[folder.parent], **more)
        return functions["busy.check"](asking), functions.busy_context.get("retcode", 0)

    return check


def test_a_minion_without_configured_checks_is_idle_and_says_so(check):
    for busy in (None, {}):
        answer, code = check(busy)
        assert (answer["idle"], answer["checks"], answer["note"], code) == (True, [], "no checks configured", 0)


def test_an_answer_says_in_which_boot_it_was_given(check):
    assert check()[0]["boot"] == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_idle_probes_make_an_idle_minion_and_one_blocker_a_busy_one(check):
    probes = {"p_idle": IDLE, "p_one": ONE}

    idle, code = check({"p_idle": {}}, probes)
    assert (idle["idle"], idle["checks"], code) == (True, ["p_idle"], 0)

    busy, code = check({"p_idle": None, "p_one": True}, probes)
    (blocker,) = busy["blockers"]
    assert (busy["idle"], code) == (False, 7)
    assert blocker["id"] == "kingfisher-main/p_one/x"
    assert blocker["since"] == "2023-11-14T22:13:20Z"
    assert blocker["age"] == pytest.approx(time.time() - 1700000000, abs=60)
    assert (blocker["probe"], blocker["what"], blocker["user"], blocker["ask"]) == ("p_one", "y", None, None)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('hunter2')", "failed with RuntimeError in probe"),
        ("raise TypeError('hunter2')", "failed with TypeError"),
        ("sys.exit(0)", "failed"),
        ("return None", "not three lists"),
        ("return []", "not three lists"),
        ("return {'blockers': []}", "not three lists"),
        ("return {'blockers': ['x'], 'unknowns': [], 'info': []}", "not three lists"),
        ("return {'blockers': (), 'unknowns': [], 'info': []}", "not three lists"),
        ("return {'blockers': [], 'unknowns': [{}], 'info': []}", "no reason given"),
        ("from salt.exceptions import CommandExecutionError as E; raise E('cannot look')", "cannot look"),
        (
            "from salt.exceptions import SaltInvocationError as E; raise E('older_than: no')",
            "busy.p_bad.older_than: no",
        ),
        ("return {'blockers': [{'id': str(n)} for n in range(300)], 'unknowns': [], 'info': []}", "100 blockers more"),
    ],
)
def test_a_bad_probe_is_unknown_and_does_not_hide_the_others(check, body, why):
    answer, code = check({"p_bad": {"password": "hunter2"}, "p_one": {}}, {"p_bad": body, "p_one": ONE})

    assert (answer["idle"], code) == (False, 7)
    assert "kingfisher-main/p_one/x" in [blocker["id"] for blocker in answer["blockers"]]
    assert why in next(unknown["why"] for unknown in answer["unknowns"] if unknown["probe"] == "p_bad")
    assert "hunter2" not in json.dumps(answer)


@pytest.fixture
def limits(checkout, tmp_path):
    """``limits(SECONDS=1)``: the module with another limit."""

    def limits(**seconds):
        module = (checkout / "_modules/busy.py").read_text()
        for name, value in seconds.items():
            module, times = re.subn(rf"^{name} = \d+", f"{name} = {value}", module, flags=re.MULTILINE)
            assert times == 1
        (tmp_path / "modules/_modules").mkdir(parents=True)
        (tmp_path / "modules/_modules/busy.py").write_text(module)

    return limits


def test_a_probe_that_hangs_is_given_up_and_the_others_are_asked(limits, check):
    limits(SECONDS=1)

    answer, _ = check({"p_hangs": {}, "p_one": {}}, {"p_hangs": "time.sleep(7777)", "p_one": ONE})

    assert [blocker["probe"] for blocker in answer["blockers"]] == ["p_one"]
    assert answer["unknowns"] == [{"probe": "p_hangs", "why": "did not answer within 1 seconds"}]


def test_probes_that_hang_do_not_take_the_time_of_those_after_them(limits, check):
    limits(SECONDS=2, TOTAL=3, LEAST=1)
    hung = {f"p_{letter}": "time.sleep(7777)" for letter in "ab"}

    answer, _ = check({**{name: {} for name in hung}, "p_one": {}}, {**hung, "p_one": ONE})

    assert [blocker["probe"] for blocker in answer["blockers"]] == ["p_one"]
    assert [unknown["probe"] for unknown in answer["unknowns"]] == list(hung)


def test_a_lookup_of_a_password_that_hangs_is_given_up(limits, tmp_path, check):
    limits(SECONDS=1)
    (tmp_path / "modules/_modules/sdb.py").write_text("import time\n\ndef get(uri):\n    time.sleep(7777)\n")

    answer, _ = check({"p_idle": {"password": "sdb://vault/x"}, "p_one": {}}, {"p_idle": IDLE, "p_one": ONE})

    assert [blocker["probe"] for blocker in answer["blockers"]] == ["p_one"]
    assert answer["unknowns"] == [{"probe": "p_idle", "why": "did not answer within 1 seconds"}]


@pytest.mark.parametrize(
    ("busy", "why"),
    [
        ([], "busy: a mapping"),
        ("tmux", "busy: a mapping"),
        ({"tmxu": {}}, "busy.tmxu: this minion has no function tmxu.probe"),
        ({"tmux": 3}, "busy.tmux: settings are needed"),
        ({"tmux": []}, "busy.tmux: this probe takes a mapping of settings"),
        (
            {"tmux": {"idle-shell": 1}},
            "busy.tmux.idle-shell: no such key; known are: idle_shells, ignore, timeout, users",
        ),
        ({"tmux": {"idle_shells": True}}, "busy.tmux.idle_shells: True is neither"),
        ({"tmux": {"users": ["no-such-user"]}}, "busy.tmux.users: there is no user"),
        ({"tmux": {"timeout": "soon"}}, "busy.tmux.timeout: 'soon' is not a duration"),
        ({"screen": {"users": "ana"}}, "busy.screen.users: a list"),
        ({"processes": {}}, "busy.processes.patterns: needed"),
        ({"processes": {"patterns": ["x"], "older_than": "soon"}}, "busy.processes.older_than: 'soon' is not"),
        ({"processes": {"patterns": ["x", {"match": ""}]}}, "busy.processes.patterns.1.match: is empty"),
        ({"scrapyd": [3]}, "busy.scrapyd.0: a mapping"),
        ({"scrapyd": []}, "busy.scrapyd: a list of one server or more"),
        ({"scrapyd": {"instances": [], "crawls": False}}, "busy.scrapyd.instances: a list of one server or more"),
        ({"scrapyd": [{}, {"url": "x"}]}, "busy.scrapyd.1.url: an address"),
        ({"scrapyd": {"instances": [{"pasword": "x"}]}}, "busy.scrapyd.instances.0.pasword: no such key"),
        ({"scrapyd": {"password": 12345}}, "busy.scrapyd.password: must be text"),
        ({"scrapyd": {"crawls": "no"}}, "busy.scrapyd.crawls: 'no' is not true or false"),
        ({"postgres": [{}, {"timeout": True}]}, "busy.postgres.1.timeout: True is not a duration"),
        ({"postgres": {"user": 3}}, "busy.postgres.user: must be text"),
        ({"who": {"block": "maybe"}}, "busy.who.block: 'maybe' is not true or false"),
        ({"scrapyd": {"password": "sdb://nowhere/x"}}, "busy.scrapyd.password: sdb://nowhere/x has no value"),
        ({"scrapyd": [{"password": "sdb://nowhere/x"}]}, "busy.scrapyd.0.password: sdb://nowhere/x has no value"),
        ({"../x": {}}, "busy.../x"),
    ],
)
def test_malformed_configuration_is_unknown_and_names_the_key(check, busy, why):
    answer, code = check(busy)

    assert (answer["idle"], code) == (False, 7)
    assert answer["unknowns"][0]["why"].startswith(why)
    assert "12345" not in json.dumps(answer)


def test_pillar_counts_before_the_minions_configuration_and_false_switches_a_probe_off(check):
    answer, _ = check(
        pillar={"busy": {"p_one": False}}, opts_busy={"p_one": {}, "p_idle": {}}, probes={"p_one": ONE, "p_idle": IDLE}
    )

    assert (answer["idle"], answer["checks"]) == (True, ["p_idle"])


def test_a_pillar_that_did_not_render_is_unknown(check):
    answer, _ = check(pillar={"_errors": ["Rendering SLS 'busy' failed"]})

    assert answer["idle"] is False
    assert "pillar has errors" in answer["unknowns"][0]["why"]


def test_two_ids_that_are_made_harmless_stay_two(check):
    ids = [{"id": "a*"}, {"id": "a?"}, {"id": "b" * 300}, {"id": "b" * 299}]
    body = f"return {{'blockers': {ids}, 'unknowns': [], 'info': []}}"
    answer, _ = check({"p_ids": {}}, {"p_ids": body})

    assert len({blocker["id"] for blocker in answer["blockers"]}) == 4


ASKING = """
asking = [process["pid"] for process in __salt__["proctable.listing"]() if process["asking"]]
return {"blockers": [], "unknowns": [], "info": [{"id": str(pid), "what": "asks"} for pid in asking]}
"""


@pytest.fixture
def asker(tmp_path):
    """A process that asks, with one below it; both are below a third one, which has one more."""
    below = "sleep 7777 & echo $! >> pids; wait"
    script = f"echo $$ > pids; sh -c 'echo $$ >> pids; {below}' & {below}"
    started = process.start(["sh", "-c", script], tmp_path / "log", cwd=tmp_path)
    pids = tmp_path / "pids"
    try:
        until(lambda: pids.exists() and len(pids.read_text().split()) == 4, what="all four")
        above, *others = map(int, pids.read_text().split())
        (asks,) = [one for one in others if pathlib.Path(f"/proc/{one}/comm").read_text() == "sh\n"]
        yield types.SimpleNamespace(above=above, pid=asks, others=[one for one in others if one != asks])
    finally:
        process.end(started)


def mark(pid):
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return {"boot": boot, "namespace": os.readlink("/proc/self/ns/pid"), "pid": pid, "start": start}


def test_whoever_asks_is_known_to_the_probes_with_what_it_runs_and_what_runs_it(checkout, tmp_path, check, asker):
    def asking(*marks):
        answer, _ = check({"asks": {}}, {"asks": ASKING}, asking=list(marks))
        return {int(one["id"].rpartition("/")[2]) for one in answer["info"]}

    below = {one for one in asker.others if psutil.Process(one).ppid() == asker.pid}
    family = {asker.above, asker.pid, *asker.others}
    assert len(below) == 1
    assert asking() & family == set()
    assert os.getpid() in asking()
    assert asking(mark(asker.pid)) & family == {asker.above, asker.pid, *below}
    assert asking(mark(asker.pid)) - family == asking()

    sound = mark(asker.pid)
    others = [{**sound, key: value} for key in sound for value in ("1", 1, None, ["1"], -1)]
    lacking = [{name: sound[name] for name in sound if name != key} for key in sound]
    for wrong in (*others, *lacking, None, "x", 7, [], {}, [sound]):
        assert asking(wrong) & family == set(), wrong
    assert asking({**sound, "start": int(sound["start"])}, None) & family == {asker.above, asker.pid, *below}


@pytest.mark.parametrize("asking", [None, [], {}, "x", 7, True, {"pid": 1}])
def test_a_question_that_does_not_say_who_asks_is_answered(check, asking):
    assert check(asking=asking)[0]["idle"] is True


def test_who_asked_is_forgotten_after_the_answer(checkout, tmp_path):
    functions = minion.functions(checkout, tmp_path)
    functions["busy.check"](asking=[mark(os.getpid())])
    assert "busy.asking" not in functions.busy_context


SALT_CALL = [str(pathlib.Path(sys.executable).parent / "salt-call"), "--local", "--log-level=quiet"]


@pytest.fixture
def salt_call(tmp_path):
    """``with salt_call("state.apply", "waits"):`` while that runs on the same minion; such a job's file is given."""

    @contextlib.contextmanager
    def salt_call(*words, before="true"):
        go, folder = tmp_path / "go", tmp_path / "cache" / "proc"
        go.unlink(missing_ok=True)
        (tmp_path / "states").mkdir(exist_ok=True)
        wait = f"while ! test -e {go}; do sleep 0.1; done"
        (tmp_path / "states" / "waits.sls").write_text(f"waits:\n  cmd.run:\n    - name: '{wait}'\n")
        (tmp_path / "minion").write_text(
            json.dumps(
                {
                    "id": "kingfisher-main",
                    "root_dir": str(tmp_path),
                    "cachedir": str(tmp_path / "cache"),
                    "file_client": "local",
                    "file_roots": {"base": [str(tmp_path / "states")]},
                }
            )
        )
        command = ["sh", "-c", f'{before}; exec "$@"', "sh", *SALT_CALL, "--config-dir", tmp_path, *words]
        running = process.start(command, tmp_path / "log")
        try:
            until(lambda: folder.is_dir() and any(one.stat().st_size for one in folder.iterdir()), what="the job")
            yield running, next(folder.iterdir())
        finally:
            go.touch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(20)
            process.end(running)

    return salt_call


def test_states_that_run_are_a_blocker_until_they_end_and_name_who_runs_them(check, salt_call):
    # As if daemon had logged in and called sudo, where the test may do so.
    with salt_call("state.apply", "waits", before="echo 1 > /proc/self/loginuid") as (running, file):
        logged_in = int(pathlib.Path(f"/proc/{running.pid}/loginuid").read_text())
        before = file.read_bytes()
        answer, code = check()
        assert file.read_bytes() == before  # to look changes nothing

    (blocker,) = answer["blockers"]
    assert (code, answer["idle"], answer["checks"]) == (7, False, [])
    assert "note" not in answer
    assert blocker["id"] == f"kingfisher-main/salt/{file.name}"
    user = pwd.getpwuid(logged_in if logged_in != 2**32 - 1 else os.getuid()).pw_name
    assert (blocker["probe"], blocker["what"], blocker["user"], blocker["ask"]) == ("salt", "state.apply", user, user)
    assert 0 <= blocker["age"] < 60
    assert running.wait(20) == 0
    assert (check()[0]["idle"], check()[0]["note"]) == (True, "no checks configured")


def test_states_that_were_killed_run_no_more(check, salt_call):
    with salt_call("state.apply", "waits") as (running, file):
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert file.exists()
        assert check()[0]["idle"] is True


def test_a_state_that_asks_is_not_in_its_own_way(checkout, tmp_path, salt_call):
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "asks.sls").write_text("asks:\n  busy.asked: []\n")
    with salt_call("state.apply", "waits") as (_, file):
        command = [
            *SALT_CALL,
            "--config-dir",
            tmp_path,
            "--module-dirs",
            checkout,
            "state.apply",
            "asks",
            "concurrent=True",
        ]
        done = subprocess.run([*command, "--out=json"], capture_output=True, text=True)
        ((_, row),) = json.loads(done.stdout)["local"].items()
        assert [one["id"] for one in row["answer"]["blockers"]] == [f"kingfisher-main/salt/{file.name}"]


JOB = {"jid": "20261130093000123456", "tgt": "*", "user": "sudo_alice", "arg": [{"password": "hunter2"}]}


@pytest.fixture
def job(tmp_path):
    """``job(fun)``: what Salt notes of a job, here of a process that is called as Salt's are; or the bytes ``raw``."""
    code = "import threading; threading.Thread(target=input).start()"
    salt_like = subprocess.Popen([sys.executable, "-c", code, "salt-minion"], stdin=subprocess.PIPE)
    (tmp_path / "cache" / "proc").mkdir(parents=True)

    def job(fun="state.highstate", raw=None, **more):
        noted = salt.payload.dumps({**JOB, "pid": salt_like.pid, "fun": fun, **more})
        (tmp_path / "cache" / "proc" / JOB["jid"]).write_bytes(noted if raw is None else raw)

    job.threads = lambda: sorted(int(one.name) for one in pathlib.Path(f"/proc/{salt_like.pid}/task").iterdir())
    yield job
    process.end(salt_like)


@pytest.mark.parametrize(
    ("fun", "more", "what", "user"),
    [
        ("state.highstate", {}, "state.highstate", "alice"),
        ("state.sls_id", {"user": "carol"}, "state.sls_id", "carol"),
        (["test.ping", "state.apply"], {}, "test.ping, state.apply", "alice"),
        ("state.highstate", {"user": None, "schedule": "nightly"}, "state.highstate (schedule: nightly)", None),
        ("state.highstate", {"user": None, "jid": "req"}, "state.highstate", None),
        ("state.event", {}, "state.event", "alice"),
        ("state.of_a_later_salt", {}, "state.of_a_later_salt", "alice"),
        ("test.ping", {}, None, None),
        ("state.show_highstate", {}, None, None),
        (["state.show_sls", "state.sls_exists"], {}, None, None),
    ],
)
def test_a_job_of_a_minion_blocks_if_it_applies_states_and_says_for_whom(check, job, fun, more, what, user):
    job(fun, **more)
    answer, _ = check()

    assert [(one["what"], one["user"]) for one in answer["blockers"]] == ([(what, user)] if what else [])
    assert "hunter2" not in json.dumps(answer)
    assert [one["since"] for one in answer["blockers"] if more.get("jid") != "req"] in ([], ["2026-11-30T09:30:00Z"])


def test_a_job_whose_id_another_process_has_now_runs_no_more(check, job, tmp_path):
    other = process.start(["sleep", "7777"], tmp_path / "log")
    try:
        job(pid=other.pid)
        assert check()[0]["idle"] is True
    finally:
        process.end(other)


def test_a_job_whose_id_a_thread_of_salt_has_now_runs_no_more(check, job):
    until(lambda: len(job.threads()) > 1, what="the thread")
    job(pid=job.threads()[1])
    assert check()[0]["idle"] is True


def test_over_salt_ssh_states_from_any_computer_block_and_test_runs_do_not(checkout, tmp_path):
    here, other = (tmp_path / f".root_{name}_salt" / "running_data" for name in ("0a4d", "c1f0"))
    (other / "cache" / "proc").mkdir(parents=True)
    begin = [sys.executable, "-c", "input()", "salt-call", "state.pkg"]
    tests, applies = (subprocess.Popen([*begin, test], stdin=subprocess.PIPE) for test in ("test=True", "test=None"))
    try:
        for pid in (tests.pid, applies.pid):
            noted = {"pid": pid, "fun": "state.pkg", "jid": f"202611300930{pid:08}", "tgt": "salt-call"}
            (other / "cache" / "proc" / noted["jid"]).write_bytes(salt.payload.dumps(noted))
        answer = minion.functions(checkout, here, {})["busy.check"]()
    finally:
        process.end(tests)
        process.end(applies)

    assert [one["id"] for one in answer["blockers"]] == [f"kingfisher-main/salt/202611300930{applies.pid:08}"]


@pytest.mark.parametrize(
    "raw", [b"", b"\x81\xa3fun", salt.payload.dumps("x"), salt.payload.dumps({"fun": "state.sls"})]
)
def test_a_job_that_cannot_be_read_is_unknown(check, job, raw):
    job(raw=raw)
    answer, code = check()

    assert (code, answer["blockers"]) == (7, [])
    (unknown,) = answer["unknowns"]
    assert unknown["probe"] == "salt"
    assert f"cache/proc/{JOB['jid']} does not say which job" in unknown["why"]


@pytest.fixture
def scheduled(tmp_path, checkout):
    """``scheduled(text)``: what systemd notes of a shutdown that is to come."""
    file = tmp_path / "scheduled"
    module = (checkout / "_modules/busy.py").read_text()
    assert module.count('"/run/systemd/shutdown/scheduled"') == 1
    (tmp_path / "modules/_modules").mkdir(parents=True)
    changed = module.replace('"/run/systemd/shutdown/scheduled"', repr(str(file)))
    (tmp_path / "modules/_modules/busy.py").write_text(changed)
    return file


def test_a_scheduled_shutdown_is_a_blocker_that_says_what_and_when(check, scheduled):
    scheduled.write_text(
        "USEC=1796077800000000\nWARN_WALL=1\nMODE=reboot\nUID=0\nTTY=pts/0\nWALL_MESSAGE=new\\x20kernel\n"
    )
    answer, code = check()
    (blocker,) = answer["blockers"]
    assert code == 7
    assert (blocker["id"], blocker["what"]) == (
        "kingfisher-main/shutdown/reboot@2026-11-30T22:30",
        "reboot at 2026-11-30 22:30 UTC",
    )
    assert (blocker["user"], blocker["ask"], blocker["age"]) == ("root", "root", None)

    # As older versions write it.
    scheduled.write_text("USEC=1796077800000000\nWARN_WALL=1\nMODE=poweroff\n")
    (blocker,) = check()[0]["blockers"]
    assert (blocker["what"], blocker["ask"]) == ("poweroff at 2026-11-30 22:30 UTC", None)

    scheduled.unlink()
    assert check()[0]["idle"] is True


@pytest.mark.parametrize(
    "text", ["", "USEC=1796077800000000\n", "USEC=soon\nMODE=reboot\n", f"USEC={2**64 - 1}\nMODE=halt\n"]
)
def test_a_shutdown_of_which_nothing_is_known_is_unknown(check, scheduled, text):
    scheduled.write_text(text)
    answer, code = check()
    assert (code, answer["unknowns"][0]["probe"]) == (7, "shutdown")
    assert "does not say which shutdown is to come" in answer["unknowns"][0]["why"]


def test_a_note_of_a_shutdown_that_cannot_be_read_is_unknown(check, scheduled):
    scheduled.mkdir()
    assert "scheduled cannot be read" in check()[0]["unknowns"][0]["why"]


def test_nothing_running_costs_little(check, checkout, tmp_path):
    functions = minion.functions(
        checkout, tmp_path, {"tmux": {}, "screen": {}, "who": {}, "processes": {"patterns": ["rsync-of-test"]}}
    )

    def cost(function):
        times = []
        for _ in range(6):
            begin = time.process_time()
            function()
            times.append(time.process_time() - begin)
        return sorted(times[1:])[2]

    # Processor time, which other work hardly stretches; on a slow machine, or one with very many processes, in looks
    # at all of them, of which it takes five.
    look = cost(lambda: functions["proctable.listing"](commands=True))
    assert cost(functions["busy.check"]) < max(0.15, 12 * look)
