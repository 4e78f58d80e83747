"""Runners called by the steps of an orchestration, through Salt's own client: loaded once, each judged by itself."""

import socket

import pytest

from tests.support.loaders import Loaders

RUNNERS = """
import pathlib

with (pathlib.Path(__file__).parent / "loaded").open("a") as loaded:
    loaded.write("once\\n")

def fine(value=None):
    return {"value": value, "fun": __opts__.get("fun")}

def code():
    return {"message": "code 3", "retcode": 3}

def context():
    __context__["retcode"] = 3
    return {"value": 1}

def exception():
    raise ValueError("an exception")

def wrong_type():
    raise TypeError("a wrong type")

def end():
    raise SystemExit(0)

def nothing():
    return None

def true():
    return True
"""


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    folder = tmp_path_factory.mktemp("master")
    (folder / "runners").mkdir()
    (folder / "runners" / "odd.py").write_text(RUNNERS)
    made = Loaders(folder / "master", runner_dirs=[str(folder / "runners")], fun="state.orchestrate")
    with socket.socket(socket.AF_UNIX) as bus:
        # Where nobody listens for events, Salt waits a second for each.
        bus.bind(f"{made.opts['sock_dir']}/master_event_pull.ipc")
        bus.listen()
        yield made


FAILURES = {
    "odd.code": "code 3",
    "odd.context": "did not succeed",
    "odd.exception": "an exception",
    "odd.wrong_type": "odd.wrong_type: ",
    "odd.end": "SystemExit",
    "odd.nothing": "None",
    "odd.true": "True",
    "odd.absent": "saltutil.sync_runners",
}


@pytest.mark.parametrize("function", FAILURES)
def test_whatever_is_no_success_is_a_failure_and_the_next_call_is_judged_anew(master, function):
    call = master.modules["deployrunner.call"]

    assert FAILURES[function] in call(function)["failure"]
    assert call("odd.fine", value=function) == {"value": function, "fun": "state.orchestrate"}


def test_the_runners_are_loaded_once_for_all_calls_of_an_orchestration(master):
    for value in (1, 2, 3):
        assert master.modules["deployrunner.call"]("odd.fine", value=value)["value"] == value

    (loaded,) = master.opts["runner_dirs"]
    with open(f"{loaded}/loaded") as lines:
        assert len(lines.readlines()) == 1


def test_a_minion_does_not_load_it(tmp_path):
    assert "deployrunner.call" not in Loaders(tmp_path, kind="minion").modules
