"""The screen probe, against real GNU Screen servers of real users."""

import pytest
from salt.exceptions import SaltInvocationError

from tests.support import minion
from tests.support.wait import until


@pytest.fixture
def probe(checkout, tmp_path):
    return minion.functions(checkout, tmp_path)["screen.probe"]


def test_a_command_in_a_session_blocks_and_tells_session_and_user(probe, screen_session):
    session = screen_session("ana", "ana-import-data", "sleep", "7777")
    user = session.user.name

    def seen():
        (blocker,) = probe(users=[user])["blockers"]
        return blocker if blocker["what"] == "ana-import-data: sleep 7777" else None

    blocker = until(seen, what="the command to run")
    assert blocker["id"].startswith(f"{user}:")
    assert blocker["user"] == user
    assert blocker["ask"] == f"ana-import-data ({user})"


def test_a_shell_at_its_prompt_is_information_or_blocks_if_told_to(probe, screen_session):
    user = screen_session("ana", "ana-idle").user.name

    def seen(key, **settings):
        return [item["what"] for item in probe(users=[user], **settings)[key]] == ["ana-idle: a shell"]

    until(lambda: seen("info"), what="the prompt")
    until(lambda: seen("blockers", idle_shells="block"), what="the prompt to block")


def test_sessions_of_everybody_are_found_and_mistakes_named(probe, screen_session, users):
    session = screen_session("ben", "ben-work", "sleep", "7777")
    until(lambda: any("ben-work" in one["what"] for one in probe()["blockers"]), what="the session")

    assert probe(users=[users("ana").name])["blockers"] == []
    assert session.pid
    with pytest.raises(SaltInvocationError, match="idle_shells"):
        probe(idle_shells=True)


def test_a_screen_that_was_started_by_its_path_is_one(probe, users):
    user = users("ana")
    user.run("/usr/bin/screen", "-dmS", "ana-by-path", "sleep", "7777")
    try:
        seen = lambda: [one["what"] for one in probe(users=[user.name])["blockers"]]  # noqa: E731
        until(lambda: seen() == ["ana-by-path: sleep 7777"], what="the session")
    finally:
        user.run("screen", "-S", "ana-by-path", "-X", "quit")
        until(lambda: not user.processes(), what="the session to end")


def test_a_job_that_left_its_session_is_still_the_sessions(probe, screen_session):
    session = screen_session("ana", "ana-left", "sh", "-c", "setsid -f sleep 7777; exec sleep 8888")
    user = session.user.name
    both = ["ana-left: sleep 7777", "ana-left: sleep 8888"]

    until(lambda: sorted(one["what"] for one in probe(users=[user])["blockers"]) == both, what="both to be seen")


def test_a_user_that_does_not_exist_is_an_error_and_not_idle(probe):
    with pytest.raises(SaltInvocationError, match="no user 'ocdskfz'"):
        probe(users=["ocdskfz"])
