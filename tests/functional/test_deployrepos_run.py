"""The ``deployrepos`` runner and the step of a deploy, as Salt loads them; exit codes through a real ``salt-run``."""

import pytest

from tests.support.repositories import Origin, environment, snapshot  # noqa: F401

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def origin(tmp_path):
    return Origin(tmp_path, "states-repository")


@pytest.fixture
def run(loaders):
    """``run("update", configured)``: what the runner returns, and the exit code that it leaves for salt-run."""

    def run(what, configured):
        salt = loaders(deploytoken=configured)
        answer = salt.runners[f"deployrepos.{what}"]()
        return salt.retcode, answer

    return run


@pytest.fixture
def step(loaders, tmp_path):
    """``step(repositories, test=False)``: what the step of a deploy returns, after its request."""

    def step(repositories, test=False, **options):
        asked = {"deploytoken": {"target": "*", "reason": "upgrade"}}
        configured = {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice", "repositories": repositories}
        salt = step.salt = loaders(deploytoken=configured, pillar=asked, test=test, **options)
        step.files = salt.served()
        assert salt.states["deploytoken.requested"]("request")["result"] is not False
        return salt.states["deploytoken.updated"]("repositories")

    return step


# The exit code of salt-run


def test_an_update_exits_with_0_and_says_what_came_in(master_config, origin):
    after = origin.push(subject="Add web")

    answer = master_config({"repositories": [str(origin.path)]}).run("deployrepos.update")

    assert answer.code == 0, answer
    assert answer.data["repositories"]["states-repository"]["subjects"] == ["Add web"]
    assert origin.head == after


def test_a_refusal_exits_with_8_and_says_why(master_config, origin):
    (origin.path / "top.sls").write_text("half done\n")

    answer = master_config({"repositories": [str(origin.path)]}).run("deployrepos.update")

    assert (answer.code, answer.data["reason"], answer.data["retcode"]) == (8, "repositories", 8), answer
    assert "uncommitted changes" in answer.data["message"]
    assert "uncommitted changes" in answer.data["repositories"]["states-repository"]["problem"]


# The runner


@pytest.mark.parametrize("what", ["update", "status"])
def test_without_configured_repositories_there_is_nothing_to_do(run, what):
    code, answer = run(what, {})

    assert code == 0
    assert answer["repositories"] == {}
    assert "deploytoken.repositories" in answer["message"]


def test_a_status_of_what_is_refused_has_the_same_code(run, origin):
    (origin.path / "top.sls").write_text("half done\n")

    code, answer = run("status", {"repositories": [str(origin.path)]})

    assert (code, answer["reason"]) == (8, "repositories")


@pytest.mark.parametrize("what", ["update", "status"])
@pytest.mark.parametrize("configured", [{"repositories": ["relative"]}, {"repositories": 3}, ["repositories"]])
def test_a_wrong_configuration_has_the_code_2_and_names_the_key(run, configured, what):
    code, answer = run(what, configured)

    assert (code, answer["reason"]) == (2, "invalid")
    assert answer["message"].startswith("deploytoken")


def test_a_variable_that_points_git_elsewhere_has_the_code_2(run, origin, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(origin.colleague / ".git"))

    code, answer = run("update", {"repositories": [str(origin.path)]})

    assert (code, answer["reason"]) == (2, "invalid")
    assert "GIT_DIR" in answer["message"]


# The step of a deploy


def test_the_step_updates(step, origin):
    before, after = origin.head, origin.push(subject="Add web")

    answer = step([str(origin.path)])

    assert (answer["result"], answer["comment"]) == (True, "Updated: states-repository")
    assert answer["changes"] == {"states-repository": {"old": before, "new": after, "subjects": ["Add web"]}}
    assert origin.head == after


def test_the_step_in_a_test_says_what_is_behind_and_changes_nothing(step, origin):
    origin.push(subject="Add web")
    before = snapshot(origin.path)

    answer = step([str(origin.path)], test=True)

    assert (answer["result"], answer["comment"]) == (None, "Would be updated: states-repository")
    assert answer["changes"] == {"states-repository": {"behind": 1, "subjects": ["Add web"]}}
    assert snapshot(origin.path) == before


def test_the_step_fails_in_one_line(step):
    answer = step(["/nonexistent/repository"])

    assert (answer["result"], answer["reason"]) == (False, "repositories")
    assert "there is no folder /nonexistent/repository" in answer["comment"]
    assert "\n" not in answer["comment"]


def test_the_step_has_the_check_of_the_environment_too(step, origin, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(origin.colleague / ".git"))

    answer = step([str(origin.path)])

    assert (answer["result"], answer["reason"]) == (False, "invalid")
    assert "GIT_DIR" in answer["comment"]


def test_a_file_that_the_update_brought_is_served_at_once(step, origin):
    origin.push(name="new")

    assert step([str(origin.path)], file_roots={"base": [str(origin.path)]})["result"] is True

    assert "new" not in step.files  # as the orchestration has it by then, and Salt for 20 s more
    assert "new" in step.salt.served()
