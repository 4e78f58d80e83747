"""Imports in the package run one way, as CONTRIBUTING.md says, and in no circle. What travels to minions has none."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.imports import imported

ROOT = Path(__file__).resolve().parents[2]
NAME = "saltext.deploytoken"
PACKAGE = ROOT / "_utils" / "saltext" / "deploytoken"
FILES = sorted(PACKAGE.rglob("*.py"))
#: Files that go to minions, each alone, and those that are loaded beside them.
ALONE = [
    path
    for folder in ("_executors", "_modules", "_output", "_states", "_wrapper")
    for path in sorted((ROOT / folder).glob("*.py"))
    if path != ROOT / "_states" / "deploytoken.py"
]


def module(path):
    """What a file of the package is called inside it: ``machines.ssh``, ``machines``, or "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def imports(source):
    """The modules of the package that this source imports, early or late."""
    found = imported(ast.parse(source))
    inside = {name.removeprefix(NAME).strip(".") for name in found if f"{name}.".startswith(f"{NAME}.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in inside}


def arrows(page):
    """The table of CONTRIBUTING.md: what each module or folder may import."""
    table = page.partition("| module or folder | may import |\n|---|---|\n")[2].partition("\n\n")[0]
    allowed = {}
    for line in table.splitlines():
        rooms, what = ([*re.findall(r"`(\w+)`", cell)] for cell in line.strip("|").split(" | "))
        for room in rooms:
            allowed[room] = set(allowed) - set(what) if "all of these but" in line else set(what)
    return allowed


ALLOWED = arrows((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def room(name):
    return name.partition(".")[0]


def test_the_table_names_every_room_and_each_only_after_what_it_may_import():
    order = list(ALLOWED)

    assert set(order) == {room(name) for name in MODULES if name}
    assert [name for name in order if not ALLOWED[name] <= set(order[: order.index(name)])] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: module(path) or "package")
def test_a_module_imports_what_its_room_may(path):
    own = room(module(path))
    found = {name for name in imports(path.read_text(encoding="utf-8")) if not own or room(name) != own}

    assert sorted(name for name in found if not own or room(name) not in ALLOWED[own]) == []


def test_no_module_imports_itself_by_any_detour():
    graph = {module(path): imports(path.read_text(encoding="utf-8")) for path in FILES}
    done = set()

    def follow(name, way):
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                follow(other, [*way, name])
            done.add(name)

    for name in graph:
        follow(name, [])


@pytest.mark.parametrize("path", ALONE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_travels_to_minions_imports_nothing_of_ours(path):
    assert NAME not in "".join(re.findall(r"^\s*(?:from|import) .*", path.read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from saltext.deploytoken import errors, page", {"errors", "page"}),
        ("from saltext.deploytoken.stores.base import Page", {"stores.base"}),
        ("from saltext.deploytoken.stores import connect, redmine", {"stores", "stores.redmine"}),
        ("import saltext.deploytoken.token as token", {"token"}),
        ("def late():\n    if True:\n        from saltext.deploytoken import token", {"token"}),
        ("if TYPE_CHECKING:\n    from saltext.deploytoken import token\nimport salt.client", set()),
        ("from saltext.deploytoken import __version__", {""}),
    ],
)
def test_imports_are_found_wherever_they_stand(source, found):
    assert imports(source) == found
