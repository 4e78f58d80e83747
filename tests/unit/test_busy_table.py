"""The table of busy.check: short, for people, within 80 columns."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[2] / "_output" / "busy.py"
SPEC = importlib.util.spec_from_file_location("busy_output", PATH)
table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(table)

IDLE = {"idle": True, "checks": ["tmux"], "blockers": [], "unknowns": [], "info": []}
NOTHING = {**IDLE, "checks": [], "note": "no checks configured"}
BLOCKER = {
    "id": "kf/tmux/ocdskfs:ana-load:12",
    "probe": "tmux",
    "user": "ocdskfs",
    "what": "ana-load: python manage.py",
    "since": "2026-11-22T22:30:00Z",
    "age": 93600,
    "ask": "ana-load (ocdskfs)",
}
BUSY = {**IDLE, "idle": False, "blockers": [BLOCKER], "unknowns": [{"probe": "scrapyd", "why": "refused " * 20}]}


def test_a_minions_answer_says_since_when_what_whose_and_whom_to_ask():
    text = table.output({"kf": BUSY, "docs": NOTHING})

    assert text.splitlines()[:4] == [
        "docs: idle (no checks configured)",
        "kf: busy",
        "  26 hours    tmux      ocdskfs      ana-load: python manage.py",
        "                                     ask: ana-load (ocdskfs)",
    ]
    assert "  unknown     scrapyd   -            refused" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        ({**IDLE, "idle": "no"}, "unknown"),
        ({**IDLE, "idle": False}, "unknown"),
        ({**IDLE, "unknowns": BUSY["unknowns"]}, "unknown"),
        ({**BUSY, "idle": True}, "busy"),
    ],
)
def test_only_what_is_clearly_idle_is_shown_as_idle(odd, word):
    assert table.output({"kf": odd}).splitlines()[0] == f"kf: {word}"


def test_the_runners_answer_adds_the_silent_and_a_command_to_paste():
    command = "salt-run busy.check target='kf*' consent='" + "x" * 100 + "'"
    answer = {
        "message": "1 thing running",
        "minions": {"kf": BUSY},
        "failed": {"mute": "did not answer within 15 seconds"},
        "consented": [{"by": "Jane", "to": [{**BLOCKER, "id": "kf/tmux/other"}]}],
        "next": ["If ana-load (ocdskfs) agrees", command],
    }
    text = table.output(answer)

    for line in (
        "1 thing running",
        "mute",
        "did not answer",
        "Jane agreed",
        "  kf/tmux/other",
        "If ana-load (ocdskfs) agrees:",
    ):
        assert line in text
    assert text.splitlines()[-1] == f"  {command}"
    assert "agrees" not in table.output({**answer, "next": None})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "?"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 minute"),
        (90, "90 s"),
        (7199, "119 minutes"),
        (7200, "2 hours"),
        (86400, "1 day"),
        (200000, "2 days"),
    ],
)
def test_ages_are_words(seconds, words):
    assert table._age(seconds) == words


@pytest.mark.parametrize(
    "data", ["text", None, {}, {"kf": "Minion did not return"}, {"message": "wrong"}, {"kf": False}]
)
def test_whatever_else_comes_is_shown_and_breaks_nothing(data):
    assert isinstance(table.output(data), str)
