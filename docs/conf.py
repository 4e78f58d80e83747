"""How the documentation is built: `script/docs`."""

import inspect
import pkgutil
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The tree as it stands, under the names that it has once it is installed: nothing is built, and nothing can be stale.
# Each folder that Salt's loader reads: the package's last word, and the title of its pages.
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
nitpick_ignore = [("py:class", "abc.ABC")]

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", hide_what_the_door_adds)
    app.connect("missing-reference", find_by_salts_name)
    return {"parallel_read_safe": True}


def write_pages(app):
    """One page per module, so that a new one has its page without anybody thinking of it."""
    folder = Path(app.srcdir) / "ref"
    folder.mkdir(exist_ok=True)
    wanted = {}
    for source, (kind, title) in KINDS.items():
        names = sorted(path.stem for path in (ROOT / source).glob("*.py") if path.stem != "__init__")
        wanted[f"{kind}.rst"] = _contents(title, [f"{kind}.{name}" for name in names])
        for name in names:
            wanted[f"{kind}.{name}.rst"] = _page(f"{name} ({kind})", f"saltext.deploytoken.{kind}.{name}")
    inner = sorted(item.name for item in pkgutil.iter_modules(saltext.deploytoken.__path__))
    wanted["inside.rst"] = _page("Inside", "saltext.deploytoken") + _tree(f"inside.{name}" for name in inner)
    wanted.update({f"inside.{name}.rst": _page(name, f"saltext.deploytoken.{name}") for name in inner})
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        # An unchanged page keeps its time, and is not read again.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _heading(title):
    return f"{title}\n{'#' * len(title)}\n\n"


def _tree(pages):
    return "\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {page}\n" for page in pages)


def _contents(title, pages):
    return _heading(title) + _tree(pages)


def _page(title, module):
    return f"{_heading(title)}.. automodule:: {module}\n"


def hide_what_the_door_adds(app, what, name, obj, options, signature, returns):
    """A runner's function takes anything, to refuse it in words; people are shown what it understands."""
    if what != "function" or not name.startswith("saltext.deploytoken.runners."):
        return None
    found = inspect.signature(obj)
    shown = [each for each in found.parameters.values() if each.name not in ("unexpected", "unknown")]
    return str(found.replace(parameters=shown)), returns


def find_by_salts_name(app, env, node, contnode):
    """``busy.check`` is what people type; Python's name is ``saltext.deploytoken.modules.busy.check``."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    target = node["reftarget"]
    beside = (node.get("py:module") or "").rpartition(".")[0]
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    # Beside the page that names it, else on a minion, else wherever there is just one.
    for package in (beside, "saltext.deploytoken.modules"):
        if f"{package}.{target}" in found:
            found = [f"{package}.{target}"]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode)
