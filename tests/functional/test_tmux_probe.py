"""The tmux probe, against real tmux servers of real users."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

import psutil
import pytest
from salt.exceptions import SaltInvocationError

from tests.support import minion
from tests.support.wait import until

SETSID = "setsid -f {}; exec sleep 7777"


@pytest.fixture
def probe(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)["tmux.probe"]


def ids(answer, key="blockers"):
    return [item["id"] for item in answer[key]]


def test_a_command_in_a_session_blocks_and_tells_session_user_and_since(probe, tmux_session):
    session = tmux_session("ana", "ana-import-data", "sleep 7777")

    answer = probe(users=[session.user.name])

    (blocker,) = answer["blockers"]
    assert blocker["id"] == f"{session.user.name}:ana-import-data:{session.pane_pid}"
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
    assert ids(answer) == [f"{user.name}:{name}:{session.pane_pid}"]
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
        ("sleep 7777 | cat", "sleep 7777"),
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

    until(lambda: seen() == [f"ana-shell: {what}"], what=f"{what} to be seen")


def test_a_script_that_sleeps_in_a_builtin_is_work(probe, users, tmux_session):
    user = users("ana")
    script = user.home / "import.sh"
    script.write_text("read line < <(exec sleep 7777)\n" * 2)
    tmux_session("ana", "ana-script", f"exec bash {script}")

    assert [blocker["what"] for blocker in probe(users=[user.name])["blockers"]] == ["ana-script: bash import.sh"]


def test_su_in_a_pane_hides_nothing(probe, users, tmux_session):
    ben = users("ben")
    session = tmux_session("ana", "ana-su", "exec sleep 7777")
    assert [blocker["user"] for blocker in probe(users=[session.user.name])["blockers"]] == [session.user.name]
    assert probe(users=[ben.name])["blockers"] == []


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
    assert "did not answer within 0.3 seconds" in answer["unknowns"][0]["why"]


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

    assert "so it was not asked" in answer["unknowns"][0]["why"]
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

    for _ in range(40):
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
    assert [one["what"] for one in found["blockers"] if "root-asks" in one["id"]] == beside
    assert len([one for one in found["info"] if "root-asks" in one["id"]]) == (0 if beside else 1)


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

    assert len(answer["blockers"]) == len(answer["unknowns"]) == 4
    assert sum("not asked" in one["why"] for one in answer["unknowns"]) >= 2


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
