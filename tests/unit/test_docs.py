"""What the documentation says is what the code does: codes, keys, messages, arguments, and links."""

import ast
import contextlib
import dataclasses
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from saltext.deploytoken import config, errors
from saltext.deploytoken import page as token_page
from saltext.deploytoken.deploy import request
from saltext.deploytoken.repositories import settings as repositories

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "tests" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FAILURES = errors.Error.__subclasses__()
LOADED = ("_executors", "_modules", "_output", "_pillar", "_runners", "_states", "_wrapper")

# Every place where a line for people is written: what a runner refuses, and what the gate and the steps refuse.
SPEAKERS = [
    *sorted((ROOT / "_utils" / "saltext" / "deploytoken").rglob("*.py")),
    *sorted((ROOT / "_runners").glob("*.py")),
    *sorted((ROOT / "_states").glob("*.py")),
    *sorted((ROOT / "_executors").glob("*.py")),
    *sorted((ROOT / "_wrapper").glob("*.py")),
    ROOT / "_modules" / "deploygate.py",
]
SPOKEN_BY = {failure.__name__ for failure in FAILURES} | {"Missing", "Unanswered", "Refused", "CommandExecutionError"}
VARIABLE = "\x00"


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def rows(page):
    """The first row of each name in a page's tables: the name without its code marks, and the other cells."""
    found = {}
    for line in page.splitlines():
        first, *rest = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and rest:
            for name in first.split(", "):
                found.setdefault(name.strip("` "), rest)
    return found


def functions(path):
    """The functions that Salt's loader shows, with their docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def constant(path, name):
    """A constant of a module that only Salt's loader can load."""
    for node in ast.parse(text(path)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"{path} has no {name}")


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/messages.md"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.reason)
def test_every_exit_code_stands_in_the_tables(page, failure):
    assert f"| {failure.code} | `{failure.reason}` | " in text(page)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.reason)
def test_every_exit_code_has_its_part_of_the_messages(failure):
    assert f"\n## {failure.code}: `{failure.reason}`\n" in text("docs/messages.md")


@pytest.mark.parametrize("name", [*config.KEYS, *config.AUTH_KEYS, *config.HISTORY_KEYS])
def test_every_key_stands_in_the_configuration_with_its_default(name):
    page = rows(text("docs/configuration.md"))
    fields = [*dataclasses.fields(config.Config), *dataclasses.fields(token_page.Rules)]
    default = {field.name: field.default for field in fields}.get(name)

    assert name in page
    if isinstance(default, bool):
        assert page[name][0] == f"`{str(default).lower()}`"
    elif isinstance(default, str | float):
        assert page[name][0] == (f"`{default}`" if isinstance(default, str) else f"`{default:g}`")


def test_every_key_of_a_repository_stands_in_the_configuration():
    page = rows(text("docs/configuration.md"))

    assert set(repositories.KEYS) <= set(page)
    assert f"| `timeout` | `{repositories.Repository.timeout:g}` | " in text("docs/configuration.md")


def test_every_field_of_an_entry_stands_in_the_configuration():
    page = text("docs/configuration.md")

    assert [field for field in token_page.ENTRY_FIELDS if f"`{{{field}}}`" not in page] == []


def test_every_mode_of_the_gate_stands_in_the_configuration():
    assert set(constant("_modules/deploygate.py", "MODES")) <= set(rows(text("docs/configuration.md")))


def test_every_key_of_an_orchestration_stands_in_the_procedure():
    assert set(request.KEYS) <= set(rows(text("docs/procedure.md")))


def runner_functions():
    paths = sorted((ROOT / "_runners").glob("*.py"))
    found = [(path.stem, function) for path in paths for function in functions(path)]
    return [pytest.param(module, function, id=f"{module}.{function.name}") for module, function in found]


@pytest.mark.parametrize(("module", "function"), runner_functions())
def test_every_command_shows_an_example_and_says_what_it_takes_and_returns(module, function):
    words = inspect.cleandoc(ast.get_docstring(function) or "")

    assert "CLI Example:" in words
    assert f"    salt-run {module}.{function.name}" in words
    assert re.search(r"^Returns ", words, re.M)
    named = {name.strip() for line in words.splitlines() for name in re.sub(r" \(.*\)$", "", line).split(",")}
    arguments = [argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]]
    assert [argument for argument in arguments if argument not in named] == []


@pytest.mark.parametrize("path", sorted((ROOT / "_modules").glob("*.py")), ids=lambda path: path.stem)
def test_every_function_on_a_minion_shows_an_example(path):
    shown = {function.name: ast.get_docstring(function) or "" for function in functions(path)}

    assert [
        name for name, words in shown.items() if f"{path.stem}.{name}" not in words.partition("CLI Example:")[2]
    ] == []


@pytest.mark.parametrize("path", sorted((ROOT / "_modules").glob("*.py")), ids=lambda path: path.stem)
def test_every_probe_stands_in_the_probes_with_its_settings(path):
    page = rows(text("docs/probes.md"))
    probe = next((function for function in functions(path) if function.name == "probe"), None)
    if probe:
        others = {module: name for name, module in constant("_modules/busy.py", "MODULES").items()}
        settings = [argument.arg for argument in probe.args.args if argument.arg != "instances"]
        row = " ".join(page[others.get(path.stem, path.stem)])
        assert [setting for setting in settings if f"`{setting}`" not in row] == []


@pytest.mark.parametrize("folder", LOADED)
def test_every_module_says_what_it_is_and_since_when(folder):
    for path in sorted((ROOT / folder).glob("*.py")):
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert ".. versionadded:: " in words, path.name


def lines_for_people(path):
    """Each line that this file says to people, with a mark for what differs, and where it is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).removeprefix("errors.")
            line = spoken(node.args[0]) if name in SPOKEN_BY or name == "_invalid" else ""
        elif path.parent.name in ("_states", "_modules", "_executors", "_wrapper"):
            line = spoken(node) if spoken(node).startswith("Refused: ") else ""
        else:
            line = ""
        if line.strip(VARIABLE):
            yield line, f"{path.name}:{node.lineno}"


def spoken(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values)
    return VARIABLE


def is_told(line, page):
    """Whether the page has how it begins: of what does not differ, the first three words in a row, or the longest."""
    parts = [part.split() for part in line.replace("`", "").split(VARIABLE)]
    known = next((words for words in parts if len(words) > 2), None) or max(parts, key=len)
    return " ".join(known[:3]).strip(" :;,.") in page


@pytest.mark.parametrize("path", SPEAKERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_message_stands_in_the_messages_with_its_remedy(path):
    page = text("docs/messages.md").replace("`", "").replace("\\|", "|")

    missing = [
        f"{where}: {line.replace(VARIABLE, '…')}" for line, where in lines_for_people(path) if not is_told(line, page)
    ]
    assert missing == [], "add a row to docs/messages.md"


def test_every_step_of_a_deploy_stands_in_the_procedure_and_in_its_picture():
    steps = re.findall(r"^(\w[\w ]*):\n  (\w+\.\w+):", text("deploytoken/deploy.sls"), re.M)
    page, picture = text("docs/procedure.md"), text("docs/pictures/procedure.svg")

    assert len(steps) > 7
    assert [step for step, state in steps if f"| {step} | `{state}` | " not in page] == []
    assert [step for step, _ in steps if f">{step}</text>" not in picture] == []


def shown_commands(path):
    """Each command of ours on a page: where it is, the module and function, and the words that follow."""
    page = path.read_text(encoding="utf-8")
    for match in re.finditer(r"(salt(?:-run|-call)?) ((?:[^\n`]|\\\n)*)", page):
        with contextlib.suppress(ValueError):  # a quote that goes on behind the code
            words = shlex.split(re.split(r" (?:&&|#) ", match[2])[0], comments=True)
            number, word = next(
                (found for found in enumerate(words) if re.fullmatch(r"[a-z_]+\.[a-z_]+", found[1])), (0, ".")
            )
            module, _, function = word.partition(".")
            file = ROOT / ("_runners" if match[1] == "salt-run" else "_modules") / f"{module}.py"
            if file.is_file():
                yield word, file, function, words[number + 1 :]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_shown_exists_and_takes_these_arguments(path):
    wrong = []
    for shown, module, name, words in shown_commands(path):
        function = next((each for each in functions(module) if each.name == name), None)
        if function is None:
            wrong.append(f"{shown}: there is no such function")
            continue
        known = {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}
        named = [word.partition("=")[0] for word in words if re.match(r"[a-z_]+=", word)]
        wrong += [f"{shown}: no argument {word}" for word in named if word not in known]
    assert wrong == []


def test_the_pages_show_commands():
    found = {shown for path in PAGES for shown, *_ in shown_commands(path)}

    assert {"deploytoken.acquire", "deployrepos.update", "busy.check", "deploygate.check"} <= found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_deploy_that_is_shown_asks_for_what_there_is(path):
    known = {*request.KEYS, "break_glass", "by"}
    page = path.read_text(encoding="utf-8").replace("\n", " ")
    asked = [json.loads(found) for found in re.findall(r"pillar='(\{\"deploytoken\": \{[^'…]*\}\})'", page)]

    assert [key for request in asked for key in request["deploytoken"] if key not in known] == []


def test_what_the_readme_shows_of_a_run_was_recorded():
    shown = re.findall(r"(?s)<!-- session: \w+ -->\n(```console\n.*?\n```)", text("README.md"))

    assert len(shown) == text("README.md").count("```console")
    assert [block for block in shown if block not in text("docs/session.md")] == [], "run script/session"


def test_what_was_recorded_is_readable_at_80_columns():
    blocks = re.findall(r"(?s)^```\w+\n(.*?)\n```", text("docs/session.md"), re.M)

    assert len(blocks) > 10
    # What was typed is to be pasted.
    printed = [line for block in blocks for line in block.splitlines() if not line.startswith("    pillar=")]
    assert [line for line in printed if len(line) > 80] == []


def test_every_page_is_in_the_contents():
    contents = re.findall(r"^[\w/-]+$", text("docs/index.md"), re.M)
    pages = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md")}

    assert sorted(pages - {"index"} - set(contents)) == []


def test_every_picture_is_shown():
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)

    assert [path.name for path in (ROOT / "docs/pictures").iterdir() if f"pictures/{path.name})" not in pages] == []


def test_the_pictures_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "docs/pictures").iterdir()) < 1_000_000


def links(path):
    page = re.sub(r"(?ms)^ *```.*?^ *```|`[^`\n]*`\s", "", path.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s]+)\)", page)
    return [link.partition("#")[0] for link in found if not re.match(r"\w+:|#", link)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(path):
    assert [link for link in links(path) if not (path.parent / link).exists()] == []
