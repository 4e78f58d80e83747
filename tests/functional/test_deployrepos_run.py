"""The ``deployrepos`` runner and the step of a deploy, as Salt loads them; exit codes through a real ``salt-run``."""

import pytest

from saltext.deploytoken import config
from saltext.deploytoken.token import Token
from tests.support.repositories import Origin, environment, snapshot  # noqa: F401

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def origin(tmp_path):
    return Origin(tmp_path, "states-repository")


@pytest.fixture
def run(loaders):
    """``run("update", configured)``: what the runner returns, and the exit code that it leaves for salt-run."""

    def run(what, configured, options=(), **named):
        salt = run.salt = loaders(deploytoken=configured, **dict(options))
        answer = salt.runners[f"deployrepos.{what}"](**named)
        return salt.retcode, answer

    return run


@pytest.fixture
def step(loaders, tmp_path):
    """``step(repositories, test=False)``: what the steps of a deploy return, up to the first that fails."""

    def step(repositories, test=False, **options):
        asked = {"deploytoken": {"target": "*", "reason": "upgrade"}}
        configured = {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice", "repositories": repositories}
        salt = step.salt = loaders(deploytoken=configured, pillar=asked, test=test, **options)
        step.files = salt.served()
        for name in ("requested", "fetched", "updated"):
            answer = salt.states[f"deploytoken.{name}"](name)
            if answer["result"] is False:
                break
        return answer

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


def test_while_somebody_holds_the_token_an_update_needs_the_ref_of_that_hold(run, origin, tmp_path, loaders):
    """Their batches read the repositories."""
    configured = {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice", "repositories": [str(origin.path)]}
    token = loaders(deploytoken=configured).runners
    token["deploytoken.init"]()
    before = snapshot(origin.path)
    after = origin.push()
    ref = token["deploytoken.acquire"](reason="upgrade")["ref"]

    for given in ({}, {"ref": "0123abcd"}):
        code, answer = run("update", configured, **given)

        assert (code, answer["reason"], answer["token"]["held_by"]) == (3, "held", "Alice")
        assert answer["message"].startswith("Alice holds the deploy token (upgrade), and may be deploying from")
        assert answer["message"].endswith(f"run: salt-run deployrepos.update ref={ref}")
        assert snapshot(origin.path) == before
    assert run("status", configured)[0] == 0

    # So may a deploy under this very hold, from another master.
    jid = "20261122223000123456"
    with Token(config.parse({"deploytoken": configured})) as alice:
        alice.begin(ref, f"{jid}@master2")
        code, answer = run("update", configured, ref=ref)
        assert (code, answer["reason"]) == (3, "held")
        assert answer["message"].startswith(f"the job {jid} is at work under the hold {ref}, or may be")
        assert snapshot(origin.path) == before
        alice.end(ref, f"{jid}@master2")

    code, answer = run("update", configured, ref=ref)
    assert (code, origin.head) == (0, after)

    token["deploytoken.release"](summary="done", ref=ref)
    after = origin.push(text="more\n")
    assert (run("update", configured)[0], origin.head) == (0, after)


def test_where_nobody_can_tell_who_holds_the_token_nothing_is_updated(run, origin):
    before = snapshot(origin.path)
    origin.push()

    store = {"store": "http://127.0.0.1:1/projects/x/wiki/y", "api_key": "0123456789"}

    code, answer = run("update", {**store, "repositories": [str(origin.path)]})

    assert (code, answer["reason"]) == (6, "store"), answer
    assert snapshot(origin.path) == before


def test_an_update_has_the_masters_own_remotes_served_too(run, origin, tmp_path):
    formulas = Origin(tmp_path, "formulas")
    after = formulas.push("formula.sls", "x\n")
    options = {
        "fileserver_backend": ["gitfs", "roots"],
        "gitfs_remotes": [formulas.remote.as_uri()],
        "gitfs_base": "main",
        "file_roots": {"base": [str(origin.path)]},
    }
    configured = {"repositories": [str(origin.path)]}
    run("update", configured, options)
    run.salt.served()
    origin.push("new.sls")

    code, answer = run("update", configured, options)

    assert (code, answer["served"]) == (0, {"formulas": after[:8]})
    assert {"new.sls", "formula.sls"} <= set(run.salt.served())
    formulas.remote.rename(tmp_path / "gone")
    code, answer = run("update", configured, options)
    assert (code, answer["reason"], list(answer["repositories"])) == (8, "repositories", ["states-repository"])
    assert "gitfs file:///" in answer["message"]


# The step of a deploy


def test_the_step_updates(step, origin):
    before, after = origin.head, origin.push(subject="Add web")

    answer = step([str(origin.path)])

    moved = f"states-repository ({before[:8]} to {after[:8]})"
    assert (answer["result"], answer["comment"]) == (True, f"Updated: {moved}")
    assert answer["changes"] == {"states-repository": {"old": before, "new": after, "subjects": ["Add web"]}}
    assert origin.head == after


def test_the_step_in_a_test_says_what_is_behind_and_changes_nothing(step, origin):
    old, new = origin.head, origin.push(subject="Add web")
    before = snapshot(origin.path)

    answer = step([str(origin.path)], test=True)

    moved = f"states-repository ({old[:8]} to {new[:8]})"
    assert (answer["result"], answer["comment"]) == (None, f"Would be updated: {moved}")
    assert answer["changes"] == {"states-repository": {"old": old, "new": new, "subjects": ["Add web"]}}
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
