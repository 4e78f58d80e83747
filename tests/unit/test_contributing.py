"""CONTRIBUTING.md leads to files that exist, and to all of them. What several files must agree on, they agree on."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "_utils" / "saltext" / "deploytoken"
LOADED = ("_executors", "_modules", "_output", "_pillar", "_runners", "_states", "_wrapper")


def rows(text):
    """Each table "to change X, open Y, its tests are Z": its rows, as the files to open and those with the tests."""
    for table in text.split("| to change | open | its tests |\n|---|---|---|\n")[1:]:
        yield [
            tuple(re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | ")[1:])
            for line in table.partition("\n\n")[0].splitlines()
        ]


@pytest.fixture(scope="module")
def tables():
    inside, outside = rows((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return [(PACKAGE, inside), (ROOT, outside)]


def test_every_file_to_open_exists(tables):
    wanted = [folder / path for folder, table in tables for opened, _ in table for path in opened]

    assert len(wanted) > 50
    assert [str(path) for path in wanted if not path.exists()] == []


def test_every_row_has_tests_that_exist(tables):
    for _, table in tables:
        assert [opened for opened, tests in table if not tests] == []
        assert [path for _, tests in table for path in tests if not (ROOT / "tests" / path).is_file()] == []


def test_every_module_has_a_row(tables):
    (package, inside), (root, outside) = tables
    found = {package / path for opened, _ in inside for path in opened} | {
        root / path for opened, _ in outside for path in opened
    }
    # Of the packages, those whose __init__ is more than its words.
    written = [path for path in package.rglob("*.py") if path.name != "__init__.py" or "def " in path.read_text()]
    loaded = [path for folder in LOADED for path in (root / folder).glob("*.py")]

    assert sorted(str(path.relative_to(root)) for path in {*written, *loaded} - found) == [], "add a row"


def test_every_test_is_that_of_something(tables):
    named = {path for _, table in tables for _, tests in table for path in tests}
    suites = [ROOT / "tests" / suite for suite in ("unit", "functional", "integration")]
    written = {path.relative_to(ROOT / "tests").as_posix() for suite in suites for path in suite.glob("test_*.py")}

    assert sorted(written - named) == [], "add it to a row"


def test_the_oldest_python_is_the_same_wherever_it_is_named():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    declared = re.findall(r"Python :: (3\.\d+)$", settings["metadata"]["classifiers"], re.M)
    oldest = min(declared, key=lambda version: int(version[2:]))
    found = re.search(r"for python in (python3 .*); do", (ROOT / "script" / "lib.sh").read_text())

    assert settings["options"]["python_requires"] == f">={oldest}"
    assert settings["mypy"]["python_version"] == oldest
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "ruff.toml").read_text()
    assert set(re.findall(r"3\.\d+", found[1])) == set(declared)


def test_each_commit_is_checked_with_the_tools_of_the_suite():
    hooks = re.findall(r"entry: \.venv/bin/([\w-]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    wanted = "".join(path.read_text() for path in (ROOT / "tests").glob("requirements*.txt"))

    assert {"ruff", "mypy"} <= set(hooks)
    assert [tool for tool in hooks if not re.search(rf"^{tool}==", wanted, re.M)] == []
