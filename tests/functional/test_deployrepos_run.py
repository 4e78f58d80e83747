"""The ``deployrepos`` runner and state, through a real ``salt-run`` (which needs no master daemon)."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.functional.test_deployrepos import Origin, environment, snapshot  # noqa: F401

CHECKOUT = pathlib.Path(__file__).parents[2]
SALT_RUN = pathlib.Path(sys.executable).with_name("salt-run")


@pytest.fixture
def salt_run(tmp_path):
    (tmp_path / "root/var/cache/salt/master/proc").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    (tmp_path / "states").mkdir()
    (tmp_path / "states/steps.sls").write_text(
        "repositories:\n  deployrepos.latest: []\n"
        "next:\n  file.touch:\n"
        f"    - name: {tmp_path}/ran\n    - require: [{{deployrepos: repositories}}]\n"
    )

    def salt_run(configured, *arguments):
        config = {
            "root_dir": str(tmp_path / "root"),
            "module_dirs": [str(CHECKOUT)],
            "file_roots": {"base": [str(tmp_path / "states")]},
            "deploytoken": configured,
        }
        (tmp_path / "conf/master").write_text(json.dumps(config))
        done = subprocess.run(
            [SALT_RUN, "--config-dir", tmp_path / "conf", "--out=json", *arguments],
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.returncode, json.loads(done.stdout)

    return salt_run


@pytest.fixture
def origin(tmp_path):
    return Origin(tmp_path, "states-repository")


def test_without_configured_repositories_there_is_nothing_to_do(salt_run):
    code, answer = salt_run({}, "deployrepos.update")

    assert code == 0
    assert answer["repositories"] == {}
    assert "deploytoken.repositories" in answer["message"]


def test_an_update_exits_with_0_and_says_what_came_in(salt_run, origin):
    after = origin.push(subject="Add web")

    code, answer = salt_run({"repositories": [str(origin.path)]}, "deployrepos.update")

    assert code == 0
    assert answer["repositories"]["states-repository"]["subjects"] == ["Add web"]
    assert origin.head == after


@pytest.mark.parametrize("what", ["update", "status"])
def test_a_refusal_exits_with_8_and_says_why(salt_run, origin, what):
    (origin.path / "top.sls").write_text("half done\n")

    code, answer = salt_run({"repositories": [str(origin.path)]}, f"deployrepos.{what}")

    assert (code, answer["reason"], answer["retcode"]) == (8, "repositories", 8)
    assert "uncommitted changes" in answer["message"]
    assert "uncommitted changes" in answer["repositories"]["states-repository"]["problem"]


@pytest.mark.parametrize("configured", [{"repositories": ["relative"]}, {"repositories": 3}, ["repositories"]])
def test_a_wrong_configuration_exits_with_2_and_names_the_key(salt_run, configured):
    code, answer = salt_run(configured, "deployrepos.update")

    assert (code, answer["reason"]) == (2, "invalid")
    assert answer["message"].startswith("deploytoken")


def test_a_variable_that_points_git_elsewhere_exits_with_2(salt_run, origin, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(origin.colleague / ".git"))

    code, answer = salt_run({"repositories": [str(origin.path)]}, "deployrepos.update")

    assert (code, answer["reason"]) == (2, "invalid")
    assert "GIT_DIR" in answer["message"]


def state(answer):
    (states,) = answer["data"].values()
    return next(item for key, item in states.items() if key.startswith("deployrepos_"))


def test_the_state_updates_and_lets_the_next_step_run(salt_run, origin, tmp_path):
    before, after = origin.head, origin.push(subject="Add web")

    code, answer = salt_run({"repositories": [str(origin.path)]}, "state.orchestrate", "steps")

    assert (code, state(answer)["result"], state(answer)["comment"]) == (0, True, "Updated: states-repository")
    assert state(answer)["changes"] == {"states-repository": {"old": before, "new": after, "subjects": ["Add web"]}}
    assert (tmp_path / "ran").exists()


def test_the_state_in_test_mode_says_what_is_behind_and_changes_nothing(salt_run, origin):
    origin.push(subject="Add web")
    before = snapshot(origin.path)

    code, answer = salt_run({"repositories": [str(origin.path)]}, "state.orchestrate", "steps", "test=True")

    assert (code, state(answer)["result"]) == (0, None)
    assert state(answer)["comment"] == "Would be updated: states-repository"
    assert state(answer)["changes"] == {"states-repository": {"behind": 1, "subjects": ["Add web"]}}
    assert snapshot(origin.path) == before


@pytest.mark.parametrize(
    ("configured", "comment"),
    [
        ({"repositories": ["/nonexistent/repository"]}, "there is no folder /nonexistent/repository"),
        ({"repositories": ["relative"]}, "deploytoken.repositories[0].path must be absolute"),
    ],
)
def test_the_state_fails_in_one_line_and_stops_the_next_step(salt_run, tmp_path, configured, comment):
    code, answer = salt_run(configured, "state.orchestrate", "steps")

    assert code == 1
    assert state(answer)["result"] is False
    assert comment in state(answer)["comment"]
    assert "\n" not in state(answer)["comment"]
    assert not (tmp_path / "ran").exists()
