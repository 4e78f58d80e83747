"""Terminals of real people: while nothing runs in them, no look is alarmed; and no look misses a job."""

import collections
import functools
import multiprocessing
import re

import pytest

from tests.support import desktops, minion
from tests.support.wait import until

AT_ONCE = 4  # a look mostly sleeps while something may be over in a moment


@pytest.fixture
def probes(checkout, tmp_path):
    """What both probes say of some users and root: the ``what`` of each blocker, and why something is unknown."""
    functions = minion.functions(checkout, tmp_path)

    def look(*users):
        answers = [functions[probe](users=["root", *users]) for probe in ("tmux.probe", "screen.probe")]
        # Whoever runs the tests may have terminals as well.
        blockers = [one for answer in answers for one in answer["blockers"]]
        ours = [one["what"] for one in blockers if "desk-" in one["what"] or one["user"] in users]
        return ours + [one["why"] for answer in answers for one in answer["unknowns"]]

    return look


@pytest.fixture(scope="module")
def desktop(users, tmp_path_factory):
    made = desktops.Desktop(users, tmp_path_factory.mktemp("desktop"))
    try:
        yield made.start()
    finally:
        made.end()


def wrong_looks(wrong, looks):
    """Call a function so many times, and return what it found wrong, if anything."""
    fork = multiprocessing.get_context("fork")
    found = fork.SimpleQueue()

    def look():
        try:
            found.put([wrong() for _ in range(looks // AT_ONCE)])
        except BaseException as error:
            found.put([repr(error)])

    lookers = [fork.Process(target=look) for _ in range(AT_ONCE)]
    for looker in lookers:
        looker.start()
    answers = [answer for _ in lookers for answer in found.get()]
    for looker in lookers:
        looker.join()
    assert len(answers) == looks, answers
    return [answer for answer in answers if answer]


def until_right(wrong, what):
    def right():
        found = wrong()
        assert not found, found
        return True

    until(right, 120, what)


# What is typed in each shell, and what a probe says then; None where the shell is at its prompt.
HALF, TWO_LINES, CHILD = ("echo half of a", None), ("echo 'one\r", None), ("sleep 7777\r", "sleep 7777")
USUAL = [
    HALF,
    CHILD,
    ("sleep 7777 &\r", "sleep 7777"),
    ("bash read.sh\r", "bash read.sh"),
    ("bash sleep.sh\r", "bash sleep.sh"),
]
STATES = {
    "bash": [
        *USUAL,
        TWO_LINES,
        ("read x\r", "bash"),
        ("read -t 600 x\r", "bash"),
        ("read -n 1 x\r", "bash"),
        ("read -s -n 1 x\r", "bash"),
        ("sleep 7777 & wait\r", "bash"),
        ("read -t 600 x < <(sleep 7777)\r", "bash"),
        ("(read x)\r", "bash"),
        ("x=$(sleep 7777)\r", "bash"),
    ],
    "bash -o vi": [HALF, CHILD],
    "bash --noediting": [HALF, CHILD, ("read x\r", "bash")],
    "bash --rcfile .bashrc": [HALF, CHILD],
    "zsh": [
        *USUAL,
        TWO_LINES,
        ("zmodload zsh/zselect; zselect -t 60000\r", "zsh"),
        ("read -k x\r", "zsh"),
        ("read -s -k x\r", "zsh"),
        ("read x\r", "zsh"),
        ("sleep 7777 & wait\r", "zsh"),
        ("zmodload zsh/sched; sched +1:00 true\r", None),
        ("TMOUT=600; TRAPALRM() { : }\r", None),
    ],
    "env DESK=ksh93 ENV=./.bashrc ksh93": [
        HALF,
        TWO_LINES,
        ("sleep 7777\r", "ksh93"),
        ("sleep 7777 &\r", "ksh93"),
        ("/bin/sleep 7777\r", "sleep 7777"),
        ("read -n 1 x\r", "ksh93"),
        ("sleep 7777 & wait\r", "ksh93"),
    ],
    "env DESK=mksh ENV=./.bashrc mksh": [
        *USUAL,
        TWO_LINES,
        ("read x\r", "mksh"),
        ("read -t 600 x\r", "mksh"),
        ("read -n 1 x\r", "mksh"),
        ("sleep 7777 & wait\r", "mksh"),
    ],
    "env DESK=dash ENV=./.bashrc dash": [
        *USUAL,
        TWO_LINES,
        ("read x\r", "dash"),
        ("sleep 7777 & wait\r", "dash"),
    ],
    "env DESK=ash ENV=./.bashrc ./ash": [
        *USUAL,
        TWO_LINES,
        ("read x\r", "ash"),
        ("read -t 600 x\r", "ash"),
        ("read -s -n 1 x\r", "ash"),
    ],
    "fish": [*USUAL, TWO_LINES, ("sleep 7777 & ; wait\r", "fish")],
    "tcsh": [*USUAL, ("set x = $<\r", "csh"), ("sleep 7777 & ; wait\r", "csh")],
}


def test_every_shell_is_told_at_its_prompt_from_at_work(probes, users):
    user = users("desk-shells")
    desktops.furnish(user)
    cases = [(command, *state) for command, states in STATES.items() for state in states]
    terminals = {desktops.Terminal(user, f"{number:03}"): case for number, case in enumerate(cases)}

    def wrong():
        found = collections.defaultdict(set)
        for what in probes(user.name):
            session, _, job = what.partition(": ")
            found[session].add(job)
        return [
            (*case, found[terminal.session])
            for terminal, case in terminals.items()
            if (case[2] not in found[terminal.session] if case[2] else found[terminal.session])
        ]

    try:
        for terminal, (command, _, _) in terminals.items():
            terminal.begin(command)
        for terminal, (command, typed, _) in terminals.items():
            terminal.wait(re.match(r"(?:env DESK=)?(\w+)", command)[1])
            terminal.type(typed, enter="")
        until_right(wrong, "every shell to be told")

        assert [wrong() for _ in range(3)] == [[]] * 3
    finally:
        desktops.end(user)


def test_a_desktop_on_which_nothing_runs_is_idle_in_200_of_200_looks(probes, desktop):
    alarms = functools.partial(probes, desktop.ana.name, desktop.ben.name)
    until_right(alarms, "everything to be at rest")

    assert wrong_looks(alarms, 200) == []


@pytest.mark.parametrize(("restless", "looks"), [(False, 200), (True, 40)], ids=["200 looks", "40 looks"])
def test_one_job_hidden_in_each_place_is_found_in_every_look(probes, desktop, restless, looks):
    seen = desktop.hide(restless)

    def missed():
        found = probes(desktop.ana.name, desktop.ben.name)
        return [name for name, job in seen.items() if not any(re.fullmatch(job, what) for what in found)]

    until_right(missed, "all jobs to be found")

    assert wrong_looks(missed, looks) == []
