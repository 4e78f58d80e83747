"""What a state of an orchestration can tell of the pillar overrides that the orchestration was started with."""

import concurrent.futures

import pytest

from saltext.deploytoken.deploy import overrides
from tests.support.wait import until

SHOW = """
import pathlib

from saltext.deploytoken.deploy import overrides
from tests.support.wait import until

def found(name):
    jid = __orchestration_jid__  # at once: another thread's may stand there later

    def together(moment):
        # All that run at a time have come so far.
        pathlib.Path(f"{name}/{moment}-{jid}").touch()
        there = lambda: len(list(pathlib.Path(name).glob(f"{moment}-*"))) == __pillar__["deploytoken"]["together"]
        until(there, what="the others")

    together("begun")
    told = repr(overrides.beside(jid))
    together("asked")
    return {"name": name, "result": True, "changes": {}, "comment": told}
"""


@pytest.fixture
def orchestrate(loaders, tmp_path):
    """``orchestrate(jid, pillar)``: what a state in the middle of an orchestration with these overrides is told."""
    for name in ("modules/_states", "states", "pillar", "moments"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "modules/_states/show.py").write_text(SHOW)
    (tmp_path / "states/show.sls").write_text(f"show:\n  show.found:\n    - name: {tmp_path}/moments\n")
    (tmp_path / "pillar/top.sls").write_text("base:\n  '*':\n    - team\n")
    (tmp_path / "pillar/team.sls").write_text("app: {version: 1}\nteam: {user: deploy}\n")
    loaded = loaders(
        file_roots={"base": [str(tmp_path / "states")]},
        pillar_roots={"base": [str(tmp_path / "pillar")]},
        module_dirs=[str(tmp_path / "modules")],
    )
    # Which of two threads would fail to make, if both find it missing.
    (tmp_path / "loaders/cache/accumulator").mkdir(parents=True)

    def run(jid, pillar):
        # As the runner state.orchestrate calls it.
        answer = loaded.modules["state.sls"]("show", pillar=pillar, __pub_jid=jid, orchestration_jid=jid)
        return next(iter(answer.values()))["comment"]

    return run


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({}, "[]"),
        ({"app": {"version": 2}}, "['app']"),  # which the team's own pillar has as well
        ({"zone": 1, "app": None}, "['app', 'zone']"),
        ({7: "x"}, "['7']"),
    ],
    ids=str,
)
def test_a_state_knows_what_stands_beside_the_request_and_not_what_the_teams_pillar_has(orchestrate, beside, told):
    assert orchestrate("20261130082559267522", {"deploytoken": {"together": 1}, **beside}) == told


def test_of_two_orchestrations_in_one_process_each_knows_its_own(orchestrate, tmp_path):
    """As the reactor runs them."""
    request = {"deploytoken": {"together": 2}}
    with concurrent.futures.ThreadPoolExecutor() as threads:
        one = threads.submit(orchestrate, "20261130082618485395", {**request, "one": 1})
        until((tmp_path / "moments/begun-20261130082618485395").exists, what="the first to begin")
        two = threads.submit(orchestrate, "20261130082619955780", {**request, "two": 2})
        assert (one.result(), two.result()) == ("['one']", "['two']")


def test_without_an_orchestration_it_cannot_be_told():
    assert overrides.beside("20261130082559267522") is None
    assert overrides.beside(None) is None
