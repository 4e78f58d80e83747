"""How the documentation is built: `script/docs`."""

import importlib
import inspect
import pkgutil
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The modules are read from the checkout, under the names that they have once installed: nothing is built or stale.
# For each folder that Salt's loader reads: the last word of its package, and the title of its pages.
KINDS = {
    "_runners": ("runners", "Runners"),
    "_states": ("states", "States"),
    "_modules": ("modules", "Execution modules"),
    "_executors": ("executors", "Executors"),
    "_pillar": ("pillar", "External pillars"),
    "_output": ("output", "Outputters"),
    "_wrapper": ("wrapper", "Wrappers for salt-ssh"),
}
sys.path.insert(0, str(ROOT / "_utils"))
import saltext.deploytoken  # noqa: E402

for _folder, (_kind, _) in KINDS.items():
    _package = types.ModuleType(f"saltext.deploytoken.{_kind}")
    _package.__path__ = [str(ROOT / _folder)]
    sys.modules[_package.__name__] = _package

project = "saltext.deploytoken"
author = "the authors of saltext.deploytoken"
project_copyright = f"2026, {author}"
version = release = saltext.deploytoken.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "requirements.txt"]
html_theme = "furo"
html_title = "deploytoken"
html_static_path = ["style"]
html_css_files = ["style.css"]
html_show_sourcelink = False
nitpicky = True
# Type variables are private, and have no page.
nitpick_ignore_regex = [("py:(class|obj)", r"saltext\.deploytoken\..*\._[A-Z]\w*")]
# Its documentation is not among those that this one links to.
nitpick_ignore = [("py:class", "requests.Session")]

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", hide_what_the_edge_adds)
    app.connect("missing-reference", find_by_salts_name)
    app.connect("missing-reference", leave_pythons_own)
    return {"parallel_read_safe": True}


def write_pages(app):
    """Write one page per module: a new module gets its page by itself."""
    folder = Path(app.srcdir) / "ref"
    folder.mkdir(exist_ok=True)
    wanted = {}
    for source, (kind, title) in KINDS.items():
        names = sorted(path.stem for path in (ROOT / source).glob("*.py") if path.stem != "__init__")
        wanted[f"{kind}.rst"] = _contents(title, [f"{kind}.{name}" for name in names])
        for name in names:
            wanted[f"{kind}.{name}.rst"] = _page(f"{name} ({kind})", f"saltext.deploytoken.{kind}.{name}")
    wanted.update(_pages_inside(saltext.deploytoken, "Inside", "inside"))
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        # Sphinx does not read an unchanged page again: it goes by the file's time.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _pages_inside(package, title, page):
    """The page of a package, and those of all modules in it, by file name."""
    pages, listed = {}, []
    for item in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
        name, below = f"{package.__name__}.{item.name}", f"{page}.{item.name}"
        inner = name.removeprefix("saltext.deploytoken.")
        if item.ispkg:
            pages.update(_pages_inside(importlib.import_module(name), inner, below))
        else:
            pages[f"{below}.rst"] = _page(inner, name)
        listed.append(below)
    return {f"{page}.rst": _page(title, package.__name__) + _tree(listed), **pages}


def _heading(title):
    return f"{title}\n{'#' * len(title)}\n\n"


def _tree(pages):
    return "\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {page}\n" for page in pages)


def _contents(title, pages):
    return _heading(title) + _tree(pages)


def _page(title, module):
    return f"{_heading(title)}.. automodule:: {module}\n"


def hide_what_the_edge_adds(app, what, name, obj, options, signature, returns):
    """Show only the arguments that a runner understands. It takes all others too, to refuse them in words."""
    if what != "function" or not name.startswith("saltext.deploytoken.runners."):
        return None
    found = inspect.signature(obj)
    shown = [each for each in found.parameters.values() if each.name not in ("unexpected", "unknown")]
    return str(found.replace(parameters=shown)), returns


def find_by_salts_name(app, env, node, contnode):
    """Find ``busy.check``, which people type, as ``saltext.deploytoken.modules.busy.check``, its name in Python."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    target = node["reftarget"]
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    # The nearest one counts: in the packages around the page that names it, else on a minion, else the only one.
    for package in (*_around(node.get("py:module")), "saltext.deploytoken.modules"):
        if f"{package}.{target}" in found:
            found = [f"{package}.{target}"]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode)


def _around(module):
    """The packages around a module, the innermost first."""
    while module:
        module = module.rpartition(".")[0]
        if module:
            yield module


def leave_pythons_own(app, env, node, contnode):
    """Show a name of Python's standard library without a link: its pages are elsewhere."""
    if node.get("refdomain") == "py" and node["reftarget"].partition(".")[0] in sys.stdlib_module_names:
        return contnode
    return None
