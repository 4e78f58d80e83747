"""A test run passes the gate because it changes nothing: shown for each function of Salt that the gate trusts."""

import hashlib
import json
import tarfile

import pytest

FUNCTIONS = ["apply", "high", "highstate", "pkg", "single", "sls", "sls_id", "top"]


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "changed"


@pytest.fixture
def salt(loaders, tmp_path, mark):
    """A masterless minion whose states make the file ``mark``."""
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "work.sls").write_text(f"work:\n  file.touch:\n    - name: {mark}\n")
    for top in ("top.sls", "top2.sls"):
        (roots / top).write_text("base:\n  '*':\n    - work\n")
    return loaders("minion", file_roots={"base": [str(roots)]})


@pytest.fixture
def run(salt, mark, tmp_path):
    """``run("single", test=True)``: that function of ``state``, with arguments that make it touch ``mark``."""
    low = {"state": "file", "fun": "touch", "name": str(mark), "__id__": "work", "__sls__": "work", "__env__": "base"}
    (tmp_path / "lowstate.json").write_text(json.dumps([low]))
    package = tmp_path / "states.tgz"
    with tarfile.open(package, "w:gz") as packed:
        packed.add(tmp_path / "lowstate.json", "lowstate.json")
    arguments = {
        "high": [{"work": {"file": ["touch", {"name": str(mark)}]}}],
        "pkg": [str(package), hashlib.md5(package.read_bytes()).hexdigest(), "md5"],
        "single": ["file.touch", str(mark)],
        "sls_id": ["work", "work"],
        "top": ["top2.sls"],
        "highstate": [],
    }
    return lambda name, **named: salt.modules[f"state.{name}"](*arguments.get(name, ["work"]), **named)


def test_these_are_all_functions_that_the_gate_trusts(salt):
    trusted = salt.modules["deploygate.check"].__globals__["HONOUR_TEST"]
    assert set(trusted) == {"deploygate.passed", *(f"state.{name}" for name in FUNCTIONS)}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_test_run_changes_nothing_and_the_same_in_earnest_does(run, mark, function):
    assert run(function, test=True)
    assert not mark.exists()
    assert run(function)
    assert mark.exists()


@pytest.mark.parametrize("function", ["test", "request"])
def test_what_only_ever_tests_changes_nothing_whatever_its_arguments(run, mark, function):
    assert run(function, test=False)
    assert not mark.exists()


@pytest.mark.parametrize(
    "more", [{"mock": True}, {"exclude": [{"sls": "other"}]}, {"concurrent": True}, {"cache": True}]
)
def test_further_arguments_do_not_make_a_test_run_one_in_earnest(run, mark, more):
    run("sls", test=True, **more)
    assert not mark.exists()
