"""The tmux probe, against real tmux servers of real users."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest
from salt.exceptions import SaltInvocationError

from tests.support import minion
from tests.support.users import User
from tests.support.wait import until

BASH = "/bin/bash"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "SHELL": BASH, "LANG": "C.UTF-8"}
SETSID = "setsid -f {}; exec sleep 7777"


@pytest.fixture
def probe(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)["tmux.probe"]


def test_a_command_in_a_session_blocks_and_tells_session_user_and_since(probe, tmux_session):
    session = tmux_session("ana", "ana-import-data", "sleep 7777")

    answer = probe(users=[session.user.name])

    (blocker,) = answer["blockers"]
    assert blocker["id"].startswith(f"{session.user.name}:{session.pane_pid}.")
    assert blocker["what"] == "ana-import-data: sleep 7777"
    assert blocker["user"] == session.user.name
    assert blocker["ask"] == f"ana-import-data ({session.user.name})"
    assert blocker["since"] == pytest.approx(psutil.Process(session.pane_pid).create_time())
    assert answer["unknowns"] == []


def test_a_shell_at_its_prompt_is_information_or_blocks_if_told_to(probe, tmux_session):
    session = tmux_session("ana", "ana-idle").prompt()
    user = [session.user.name]
    until(lambda: not probe(users=user)["blockers"], what="the shell to wait for its user")

    assert [item["what"] for item in probe(users=user)["info"]] == ["ana-idle: a shell"]
    assert [item["what"] for item in probe(users=user, idle_shells="block")["blockers"]] == ["ana-idle: a shell"]


@pytest.mark.parametrize("where", ["label", "socket", "unlinked", "TMUX_TMPDIR", "inherited TMUX"])
def test_a_session_is_found_on_any_socket(probe, users, tmux_session, monkeypatch, where):
    user = users("ana")
    options = {
        "label": {"label": "elsewhere"},
        "socket": {"socket": str(user.home / "own.sock")},
        "TMUX_TMPDIR": {"TMUX_TMPDIR": str(user.home)},
    }.get(where, {})
    session = tmux_session("ana", "ana-anywhere", "sleep 7777", **options)
    if where == "unlinked":
        pathlib.Path(session.socket).unlink()
    if where == "inherited TMUX":
        monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")

    answer = probe(users=[user.name])

    name = "(no name)" if where == "unlinked" else "ana-anywhere"
    assert [one["what"] for one in answer["blockers"]] == [f"{name}: sleep 7777"]
    assert answer["unknowns"] == []


def test_a_second_server_on_the_socket_of_an_unlinked_one_does_not_lend_it_its_names(probe, users, tmux_session):
    first = tmux_session("ana", "ana-first", "sleep 7777")
    pathlib.Path(first.socket).unlink()
    second = tmux_session("ana", "ana-second", "sleep 8888")

    answer = probe(users=[first.user.name])

    assert sorted(blocker["what"] for blocker in answer["blockers"]) == [
        "(no name): sleep 7777",
        "ana-second: sleep 8888",
    ]
    assert first.pid != second.pid


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        ("sleep 7777 &", "sleep 7777"),
        ("while :; do :; done", "bash"),
        ("vi -n", "vi"),
        ("(sleep 7777)", "sleep 7777"),
        ("bash -c 'sleep 7777; true'", "sleep 7777"),
        ("setsid -f sleep 7777", "sleep 7777"),
        ("sleep 7777 | sleep 8888", "sleep 7777 + sleep 8888"),
        ("bash -c 'sleep 7777 & sleep 8888 & wait'", "sleep 7777, sleep 8888"),
    ],
)
def test_work_below_a_shell_is_seen_however_it_was_begun(probe, tmux_session, typed, what):
    session = tmux_session("ana", "ana-shell").prompt()
    if typed.startswith("vi"):
        session.user.run("sh", "-c", "command -v sleep")
        typed, what = "tail -f /dev/null", "tail"
    session.tmux("send-keys", "-t", "=ana-shell:", typed, "Enter")

    def seen():
        return [blocker["what"] for blocker in probe(users=[session.user.name])["blockers"]]

    wanted = [f"ana-shell: {one}" for one in what.split(" + ")]
    until(lambda: seen() == wanted, what=f"{what} to be seen")


def test_a_script_that_sleeps_in_a_builtin_is_work(probe, users, tmux_session):
    user = users("ana")
    script = user.home / "import.sh"
    script.write_text("read line < <(exec sleep 7777)\n" * 2)
    tmux_session("ana", "ana-script", f"exec bash {script}")

    assert [blocker["what"] for blocker in probe(users=[user.name])["blockers"]] == ["ana-script: bash import.sh"]


@pytest.fixture
def root_session(users, tmux_session):
    """A session of root with a shell at its prompt. What ana's processes there leave behind is ended."""
    yield tmux_session(User("root", 0, 0, "/root"), "root-shell", SHELL=BASH).prompt()
    for left in users("ana").processes():
        left.kill()


def _type(session, *lines):
    for line in lines:
        session.tmux("send-keys", "-t", f"={session.name}:", line, "Enter")


def _shown(probe, **settings):
    return sorted(one["what"] for one in probe(**settings)["blockers"])


def test_work_below_su_is_its_users_and_that_of_whose_session_it_is(probe, users, root_session):
    ana, ben = users("ana").name, users("ben").name
    _type(root_session, f"su - {ana} -c 'sleep 7777; true'")

    until(lambda: _shown(probe, users=[ana]) == ["root-shell: sleep 7777"], what="it to be ana's")
    (blocker,) = probe(users=["root"])["blockers"]
    assert (blocker["user"], blocker["ask"]) == (ana, "root-shell (root)")
    assert probe(users=[ben]) == {"blockers": [], "unknowns": [], "info": []}


@pytest.mark.parametrize(
    ("inner", "session"),
    [
        ("su {}", "root-shell"),
        ("su - {}", "root-shell"),
        # sudo's inner shell has a terminal of its own, so nothing tells which session that was in.
        ("sudo -iu {}", "(no name)"),
    ],
)
def test_what_outlived_the_shell_of_another_user_in_a_pane_is_work(probe, users, root_session, inner, session):
    ana = users("ana")
    _type(root_session, inner.format(ana.name))
    until(lambda: [one.name() for one in ana.processes()] == ["bash"], what="the inner shell")
    root_session.prompt()
    _type(root_session, "nohup sleep 7777 &")
    until(lambda: "sleep" in [one.name() for one in ana.processes()], what="the job to run")
    _type(root_session, "exit")
    until(lambda: [one.name() for one in ana.processes()] == ["sleep"], what="only the job to be left")

    until(lambda: _shown(probe, users=[ana.name]) == [f"{session}: sleep 7777"], what="it to be seen")


RETITLED = """
import os, setproctitle, time
if os.fork():
    os._exit(0)
os.setsid()
setproctitle.setproctitle("importer: " + "x" * 4000)
time.sleep(7777)
"""


def test_a_job_that_left_its_session_and_wrote_over_its_environment_is_work(probe, tmux_session, tmp_path):
    session = tmux_session(User("root", 0, 0, "/root"), "root-title", SHELL=BASH).prompt()
    script = tmp_path / "worker.py"
    script.write_text(RETITLED)
    _type(session, f"{sys.executable} {script}")

    def worker():
        found = [one for one in probe(users=["root"])["blockers"] if one["what"].startswith("root-title: ")]
        pid = int(found[0]["id"].partition(":")[2].partition(".")[0]) if found else None
        return pid if pid and psutil.Process(pid).ppid() == 1 else None

    pid = until(worker, what="the worker to have left, and to be seen")
    assert "TMUX=" not in pathlib.Path(f"/proc/{pid}/environ").read_text(errors="replace")


def test_an_id_stays_while_the_work_goes_on_whatever_becomes_of_its_session(probe, tmux_session):
    session = tmux_session("ana", "ana-import", "sleep 7777")
    before = [one["id"] for one in probe()["blockers"] if one["user"] == session.user.name]

    session.tmux("rename-session", "ana-other")
    session.tmux("new-session", "-d", "-t", "ana-other", "-s", "ana-beside")
    after = [one["id"] for one in probe()["blockers"] if one["user"] == session.user.name]
    pathlib.Path(session.socket).unlink()
    nameless = [one["id"] for one in probe()["blockers"] if one["user"] == session.user.name]

    assert before == after == nameless
    assert len(before) == 1


def test_every_member_of_a_group_of_jobs_is_named_and_the_group_keeps_its_id(probe, tmux_session):
    """Of a script, the shell is the job: what it runs next is the same work."""
    session = tmux_session("ana", "ana-group").prompt()
    _type(session, "exec sh -c 'sleep 7777 & sleep 8888 & wait'")
    user = [session.user.name]
    what = "ana-group: sleep 7777, sleep 8888"
    until(lambda: _shown(probe, users=user) == [what], what="both to be named")
    (before,) = probe(users=user)["blockers"]

    psutil.Process(session.pane_pid).children()[0].kill()

    until(lambda: _shown(probe, users=user) == ["ana-group: sleep 8888"], what="one to be left")
    assert [one["id"] for one in probe(users=user)["blockers"]] == [before["id"]]


def test_a_pane_whose_command_has_ended_is_nobodys(probe, tmux_session):
    """tmux keeps its process id, which another process may have by now."""
    session = tmux_session("ana", "ana-dead", "sleep 7777")
    session.tmux("set-option", "-g", "remain-on-exit", "on")
    os.kill(session.pane_pid, signal.SIGKILL)
    until(lambda: session.tmux("list-panes", "-a", "-F", "#{pane_dead}").strip() == "1", what="the pane to be dead")

    assert probe(users=[session.user.name]) == {"blockers": [], "unknowns": [], "info": []}


def test_tmux_is_asked_by_its_own_program_wherever_that_is(tmp_path, users):
    user = users("ana")
    program = user.home / "tmux-next"
    shutil.copy(shutil.which("tmux"), program)
    user.run(program, "-f", "/dev/null", "-L", "next", "new-session", "-d", "-s", "ana-next", "sleep 7777")
    ask = minion.command(tmp_path, {"tmux": {"users": [user.name]}})
    # The other one is out of the way.
    ask = ["unshare", "--mount", "sh", "-c", f"mount --bind /bin/false {shutil.which('tmux')} && {ask}"]

    def shown():
        done = subprocess.run(ask, capture_output=True, text=True, timeout=240, check=True)
        return [one["what"] for one in json.loads(done.stdout.splitlines()[-1])["blockers"]]

    try:
        assert shown() == ["ana-next: sleep 7777"]
        program.unlink()  # as an upgrade does
        assert shown() == ["ana-next: sleep 7777"]
    finally:
        user.run("tmux", "-L", "next", "kill-server")
        until(lambda: not user.processes(), what="the server to end")


def test_the_session_of_a_user_who_was_deleted_is_idle_like_any_other(probe):
    uid, folder = 54321, tempfile.mkdtemp()
    os.chown(folder, uid, uid)
    socket = f"{folder}/s"
    as_nobody = ["setpriv", f"--reuid={uid}", "--clear-groups", "tmux", "-f", "/dev/null", "-S", str(socket)]
    subprocess.run([*as_nobody, "new-session", "-d", "-s", "gone", BASH], check=True, cwd="/", env=ENVIRONMENT)
    try:
        # `users` cannot name them.
        mine = lambda key: [one["what"] for one in probe()[key] if str(uid) in one["id"]]  # noqa: E731
        until(lambda: not mine("blockers"), what="the shell to show its prompt")
        assert "(no name): a shell" in mine("info")
        assert any(f"there is no user '{uid}'" in what for what in mine("info"))
        assert probe()["unknowns"] == []
    finally:
        subprocess.run([*as_nobody, "kill-server"], check=True, cwd="/", env=ENVIRONMENT)
        shutil.rmtree(folder)


def test_a_program_that_calls_itself_a_server_is_no_tmux_and_is_not_asked(probe, users):
    user = users("ana")
    path = user.home / "asked"
    listens = f"""
import ctypes, socket, subprocess
listening = socket.socket(socket.AF_UNIX)
listening.bind({str(path)!r})
listening.listen()
subprocess.Popen(["sleep", "7777"], start_new_session=True)
ctypes.CDLL(None).prctl(15, b"import: server")
listening.accept()
"""
    with subprocess.Popen(["/usr/bin/python3", "-c", listens], user=user.uid, start_new_session=True) as process:
        try:
            until(lambda: psutil.Process(process.pid).name() == "import: server", what="it to call itself so")
            assert path.is_socket()
            assert probe(users=[user.name]) == {"blockers": [], "unknowns": [], "info": []}
            assert process.poll() is None  # nobody has connected
        finally:
            for one in user.processes():
                one.kill()


def test_a_team_names_what_else_is_no_work(probe, tmux_session):
    session = tmux_session("ana", "ana-agent", "sleep 7777")
    user = [session.user.name]

    assert _shown(probe, users=user, ignore=["sleep 8*"]) == ["ana-agent: sleep 7777"]
    assert _shown(probe, users=user, ignore=["sleep 7*"]) == []
    assert _shown(probe, users=user, ignore=["sleep"]) == []
    with pytest.raises(SaltInvocationError, match="ignore: a list of names"):
        probe(ignore="sleep")


HOSTILE = [
    "a b",
    "é✓",
    "*",
    "x" * 300,
    "\x1b[31mred\x1b[0m",
    "new\nline",
    "tab\tbed",
    "[a-z]",
    "$(reboot)",
    "\u202eevil",
    "a/b",
    '"',
]


def test_a_hostile_name_comes_out_harmless_and_not_as_a_glob(checkout, tmp_path, users, tmux_session):
    session = tmux_session("ana", "plain", "sleep 7777")
    check = minion.functions(checkout, tmp_path, {"tmux": {"users": [session.user.name]}})["busy.check"]

    for name in HOSTILE:
        session.tmux("rename-session", name)
        answer = check()

        (blocker,) = answer["blockers"]
        assert all(
            text.isprintable() and len(text) <= 160 for text in (blocker["id"], blocker["what"], blocker["ask"])
        )
        assert not set(blocker["id"]) & set("*?[]$()\" \\'"), name
        assert blocker["what"].endswith(": sleep 7777"), name
        assert "plain" not in blocker["id"], name
        assert answer["unknowns"] == [], name


def test_a_grouped_session_lists_its_work_once_under_both_names(probe, tmux_session):
    session = tmux_session("ana", "ana-one", "sleep 7777")
    session.tmux("new-session", "-d", "-t", "ana-one", "-s", "ana-two")

    assert [blocker["what"] for blocker in probe(users=[session.user.name])["blockers"]] == [
        "ana-one+ana-two: sleep 7777"
    ]


def test_a_stopped_server_costs_a_time_out_and_its_work_is_still_seen(probe, tmux_session):
    session = tmux_session("ana", "ana-stopped", "sleep 7777")
    os.kill(session.pid, signal.SIGSTOP)
    try:
        answer = probe(users=[session.user.name], timeout="0.3s")
    finally:
        os.kill(session.pid, signal.SIGCONT)

    assert [blocker["what"] for blocker in answer["blockers"]] == ["(no name): sleep 7777"]
    assert "did not answer within 0.3 seconds" in answer["info"][0]["what"]


def test_root_never_connects_to_a_socket_that_somebody_else_may_have_put_there(
    checkout, tmp_path, users, tmux_session
):
    functions = minion.functions(checkout, tmp_path)
    user = users("ana")
    folder = user.home / "open"
    folder.mkdir()
    folder.chmod(0o777)
    tmux_session("ana", "ana-open", "sleep 7777", socket=str(folder / "s"))

    answer = functions["tmux.probe"](users=[user.name])

    assert "so it was not asked" in answer["info"][0]["what"]
    assert [blocker["what"] for blocker in answer["blockers"]] == ["(no name): sleep 7777"]


LOOPS = {
    "while :; do sleep 0.02; done": "sleep 0.02",
    "while :; do /bin/true; done": "true",
    "while read line; do :; done <> fifo": "bash",
    "(while read line; do :; done < fifo)": "bash",
    "(while read line; do :; done <> fifo) &": "bash",
}


def test_a_loop_is_work_at_every_moment(probe, users, tmux_session):
    user = users("ana")
    user.run("mkfifo", "fifo")
    names = {}
    for number, (typed, what) in enumerate(LOOPS.items()):
        name, begun = f"ana-loop-{number}", user.home / f"begun-{number}"
        session = tmux_session("ana", name).prompt()
        session.tmux("send-keys", "-t", f"={name}:", f": > {begun.name}; {typed}", "Enter")
        until(begun.exists, what="the loop to begin")
        # The arguments of a command that ended during the look are unknown.
        names[name] = {"bash", what.split()[0], what}

    for _ in range(10):
        seen = dict(one["what"].split(": ", 1) for one in probe(users=[user.name])["blockers"])
        assert seen.keys() == names.keys()
        assert [what for name, what in seen.items() if what not in names[name]] == []


def test_shells_in_shells_are_idle(probe, users, tmux_session):
    session = tmux_session("ana", "ana-shells").prompt()
    for number, shell in enumerate(["sh", "bash"], 1):
        session.tmux("send-keys", "-t", "=ana-shells:", shell, "Enter")
        inner = psutil.Process(session.pane_pid).children
        until(lambda inner=inner, number=number: len(inner(recursive=True)) == number, what=shell)
        session.prompt()

    until(lambda: not probe(users=[session.user.name])["blockers"], what="their prompts to be idle")


def test_a_server_that_was_started_by_another_name_is_found(probe, users):
    user = users("ana")
    link = user.home / "tm"
    link.symlink_to(shutil.which("tmux"))
    user.run(link, "-f", "/dev/null", "-L", "other-name", "new-session", "-d", "-s", "ana-link", "sleep 7777")
    try:
        seen = lambda: [one["what"] for one in probe(users=[user.name])["blockers"]]  # noqa: E731
        until(lambda: seen() == ["ana-link: sleep 7777"], what="its command to be seen")
    finally:
        user.run("tmux", "-L", "other-name", "kill-server")
        until(lambda: not user.processes(), what="the server to end")


def test_what_left_a_session_is_work_even_after_the_session_has_ended(probe, users, tmux_session):
    session = tmux_session("ana", "ana-left", "setsid -f sleep 7777; exec sleep 8888")
    user, both = session.user, ["ana-left: sleep 7777", "ana-left: sleep 8888"]
    until(lambda: sorted(one["what"] for one in probe(users=[user.name])["blockers"]) == both, what="both to be seen")

    session.tmux("kill-server")
    ended = {session.pid, session.pane_pid}  # the one hangs up on the other, and does not wait for its end
    until(lambda: not ended & {one.pid for one in user.processes()}, what="the session to end")

    assert [one["what"] for one in probe(users=[user.name])["blockers"]] == ["(no name): sleep 7777"]
    assert probe(users=[users("ben").name])["blockers"] == []


def test_whoever_has_the_process_id_of_an_ended_server_now_is_not_asked_about_what_left_it(probe, users):
    ana, ben = users("ana"), users("ben")
    with subprocess.Popen(["sleep", "8888"], user=ben.uid) as other:
        marked = ana.environment(TMUX=f"/tmp/tmux-{ana.uid}/default,{other.pid},0")
        with subprocess.Popen(["sleep", "7777"], user=ana.uid, env=marked) as left:
            try:
                (blocker,) = probe(users=[ana.name])["blockers"]
                assert (blocker["what"], blocker["ask"]) == ("(no name): sleep 7777", ana.name)
                assert probe(users=[ben.name])["blockers"] == []
            finally:
                left.kill()
                other.kill()


@pytest.mark.parametrize(("command", "beside"), [("{}; exec sleep 7777", []), (SETSID, ["root-asks: sleep 7777"])])
def test_the_process_that_asks_from_within_a_session_does_not_work_there(tmp_path, command, beside):
    """As ``salt-call busy.check``, typed in tmux, or started with setsid from there."""
    answer, socket = tmp_path / "answer", tmp_path / "socket"
    ask = minion.command(tmp_path, {"tmux": {"users": ["root"]}})
    server = ["tmux", "-f", "/dev/null", "-S", str(socket)]
    inside = command.format(f"sh -c {shlex.quote(f'({ask}) > {answer}.new; mv {answer}.new {answer}')}")
    subprocess.run([*server, "new-session", "-d", "-s", "root-asks", inside], check=True)
    try:
        until(answer.exists, 240, "the answer")
    finally:
        subprocess.run([*server, "kill-server"], check=True)

    found = json.loads(answer.read_text())
    assert [one["what"] for one in found["blockers"] if "root-asks" in one["what"]] == beside
    assert len([one for one in found["info"] if "root-asks" in one["what"]]) == (0 if beside else 1)


def test_the_pipe_of_whoever_asks_does_not_work_either(tmp_path, root_session):
    answer = tmp_path / "answer"
    ask = minion.command(tmp_path, {"tmux": {"users": ["root"]}})
    _type(root_session, f"({ask}) 2>&1 | grep idle | tee {answer}.new; mv {answer}.new {answer}")
    until(answer.exists, 240, "the answer")

    found = json.loads(answer.read_text().splitlines()[-1])

    assert [one["what"] for one in found["blockers"] if one["what"].startswith("root-shell: ")] == []


def test_many_servers_that_hang_cost_two_time_outs_and_hide_nobody(probe, users, tmux_session):
    user = users("ana")
    sessions = [tmux_session("ana", f"ana-{number}", "sleep 7777", label=f"hung-{number}") for number in range(4)]
    for session in sessions:
        os.kill(session.pid, signal.SIGSTOP)
    try:
        answer = probe(users=[user.name], timeout=0.3)
    finally:
        for session in sessions:
            os.kill(session.pid, signal.SIGCONT)

    assert len(answer["blockers"]) == len(answer["info"]) == 4
    assert sum("not asked" in one["what"] for one in answer["info"]) >= 2


def test_a_user_that_does_not_exist_and_other_mistakes_are_named(probe):
    with pytest.raises(SaltInvocationError, match="no user 'nobody-of-that-name'"):
        probe(users=["nobody-of-that-name"])
    with pytest.raises(SaltInvocationError, match="idle_shells"):
        probe(idle_shells="perhaps")
    with pytest.raises(SaltInvocationError, match="users"):
        probe(users="ana")


def test_nothing_is_left_of_a_session_that_ended(probe, users, tmux_session):
    session = tmux_session("ana", "ana-gone", "sleep 7777")
    session.end()

    assert probe(users=[session.user.name]) == {"blockers": [], "unknowns": [], "info": []}


def test_everybodys_sessions_are_found_without_a_list_of_users(checkout, tmp_path, users, tmux_session):
    tmux_session("ana", "ana-x", "sleep 7777")
    tmux_session("ben", "ben-x", "sleep 8888")

    panes = minion.functions(checkout, tmp_path)["tmux.sessions"]()

    assert {"ana-x", "ben-x"} <= {pane["session"] for pane in panes}
