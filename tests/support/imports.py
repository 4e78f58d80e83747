"""What our own files import, early or late; and from that, which tests come to Salt."""

import ast
import functools
import pathlib

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
#: Our own packages. The scripts are left out: they are for the developers of this checkout, who have one Salt.
PACKAGES = {"tests": CHECKOUT, "saltext": CHECKOUT / "_utils"}
#: What a test imports where it is about Salt; importlib loads a single file, as Salt's loader does.
SALT = {"salt", "importlib"}


def _is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _statements(node):
    """All nodes, at the top and inside functions, but for what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not _is_for_types(child):
            yield child
            yield from _statements(child)


def imported(tree):
    """What a syntax tree imports: of ``from package import name``, ``package.name``, be that a module or not."""
    found = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "written in full: from saltext.deploytoken import …"
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return found


@functools.cache
def _tree(file):
    return ast.parse(pathlib.Path(file).read_text(encoding="utf-8"))


@functools.cache
def _further(name):
    """What is imported by the module of this name, or with this name in it; nothing if it is not ours."""
    root = PACKAGES.get(name.partition(".")[0])
    if root is not None:
        path = root.joinpath(*name.split("."))
        for module in (path, path.parent):
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.exists():
                    return imported(_tree(file))
    return set()


def _comes_to_salt(node):
    seen, new = set(), imported(node)
    while new:
        if any(name.partition(".")[0] in SALT for name in new):
            return True
        seen |= new
        new = set().union(*map(_further, new)) - seen
    return False


@functools.cache
def comes_to_salt(file):
    """Whether this file imports something of Salt's, by whatever detour."""
    return _comes_to_salt(_tree(file))


@functools.cache
def functions_with_salt(file):
    """The names of this file's functions of which each does."""
    return {node.name for node in _tree(file).body if isinstance(node, ast.FunctionDef) and _comes_to_salt(node)}
