"""
What pip installs, done as a user would do it, and then used. And what PyPI would be given.
"""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from readme_renderer import markdown

from tests.support.alone import load_alone
from tests.support.salt import Config, Result

SHIPPED = {
    "_executors": "executors",
    "_modules": "modules",
    "_output": "output",
    "_pillar": "pillar",
    "_runners": "runners",
    "_states": "states",
    "_wrapper": "wrapper",
    "deploytoken": "files/deploytoken",
}
#: What is in the package once more, below ``files``: a file root, from which minions are served.
SERVED = ("_executors", "_modules", "_output", "_states")
LOADED = {target.partition("/")[0] for target in SHIPPED.values()}


RUN = {"check": True, "capture_output": True, "text": True}


def files(folder, pattern="*"):
    found = {path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()}
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def tree(checkout, tmp_path_factory):
    """A clean copy of the checkout: building leaves files behind."""
    copy = tmp_path_factory.mktemp("tree") / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "_build", "ref")
    shutil.copytree(checkout, copy, ignore=ignored)
    return copy


class Installed:
    """A virtual environment with the extension, which sees the packages of the running one."""

    def __init__(self, folder, tree):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], **RUN)
        self.python = folder / "bin" / "python"
        self.packages = next((folder / "lib").glob("python3.*")) / "site-packages"
        (self.packages / "running.pth").write_text(sysconfig.get_paths()["purelib"])
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", "--python", self.python, "install", *options, tree], **RUN)
        self.package = self.packages / "saltext" / "deploytoken"

    def run(self, code, *arguments):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.python), "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=clean, timeout=240)
        return Result(command, done.returncode, done.stdout, done.stderr)

    def salt_run(self, config, *words):
        return self.run("from salt.scripts import salt_run; salt_run()", "-c", config.folder, "--out=json", *words)


@pytest.fixture(scope="module")
def installed(tree, tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("venv"), tree)


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    """What PyPI would be given: the source distribution, and the wheel that is built from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree], **RUN)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture
def config(tmp_path):
    """``config(*file_roots)``: a master's configuration that knows the checkout by these roots alone."""

    def make(*file_roots):
        made = Config.make(tmp_path, {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"}, module_dirs=[])
        made.update(file_roots={"base": [str(root) for root in file_roots]})
        return made

    return make


def acquires(run, config):
    """The main commands work: a token is made, taken, and shown."""
    created = run(config, "deploytoken.init")
    assert created.code == 0, created
    taken = run(config, "deploytoken.acquire", "reason=upgrade")
    assert taken.code == 0, taken
    shown = run(config, "deploytoken.status")
    assert shown.data["held_by"] == "Alice", shown


def test_pip_installs_every_file_of_the_tree(installed, checkout):
    for source, target in [*SHIPPED.items(), *((folder, f"files/{folder}") for folder in SERVED)]:
        pattern = "*.sls" if source == "deploytoken" else "*.py"
        wanted = files(checkout / source, pattern)
        assert wanted, f"nothing in {source}"
        assert wanted == files(installed.package / target, pattern), source
    package = files(checkout / "_utils" / "saltext" / "deploytoken")
    assert "py.typed" in package
    assert package == {name for name in files(installed.package) if name.partition("/")[0] not in LOADED}
    assert not (installed.packages / "saltext" / "__init__.py").exists()


def test_tree_has_no_folder_that_pip_forgets(checkout):
    folders = {path.name for path in checkout.glob("_*") if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(SHIPPED) - {"deploytoken"}


def test_pip_installs_commands_that_work_without_file_roots(installed, config):
    acquires(installed.salt_run, config())


def test_pip_installed_extension_is_listed_in_the_versions_report(installed, config):
    report = installed.run("from salt.scripts import salt_run; salt_run()", "-c", config().folder, "--versions-report")
    assert report.code == 0, report
    assert "saltext.deploytoken: 0.1.0" in report.stdout


def test_pip_installed_modules_of_every_kind_are_found_by_salts_loader(installed, config):
    code = """
import json, sys
import salt.config, salt.loader
opts = salt.config.master_config(sys.argv[1] + "/master")
opts.update(grains={}, pillar={}, file_client="local")
utils = salt.loader.utils(opts)
modules = salt.loader.minion_mods(opts, utils=utils)
print(json.dumps({
    "runners": sorted(salt.loader.runner(opts)),
    "modules": sorted(modules),
    "states": sorted(salt.loader.states(opts, modules, utils, None)),
    "pillar": sorted(salt.loader.pillars(opts, modules)),
    "executors": sorted(salt.loader.executors(opts, modules)),
    "output": sorted(salt.loader.outputters(opts)),
}))
"""
    found = installed.run(code, config().folder)
    assert found.code == 0, found
    assert {"deploytoken.acquire", "deployrepos.update", "busy.check"} <= set(found.data["runners"])
    assert {"busy.check", "scrapyd.status", "tmux.sessions"} <= set(found.data["modules"])
    assert {"deploytoken.held", "deploytoken.updated", "deploygate.passed", "busy.asked"} <= set(found.data["states"])
    assert "deploytoken" in found.data["pillar"]
    assert "deploygate.execute" in found.data["executors"]
    assert "busy" in found.data["output"]


def test_what_a_minion_is_held_against_is_all_that_it_needs(checkout):
    """A module that is missing in the list would be old on a minion, and the doctor would not see it."""
    files = load_alone("_modules/deploysetup.py").FILES
    found = {f"{path.parent.name[1:]}/{path.name}" for folder in SERVED for path in (checkout / folder).glob("*.py")}

    # Two are the master's alone: the orchestration's steps, and the answers of its runner.
    assert set(files) == found - {"states/deploytoken.py", "output/deploytoken.py"}


def test_a_version_is_said_once_more_in_the_package_and_in_the_changelog(built, installed, checkout):
    version = metadata(built).get("Version")

    code = "import saltext.deploytoken as package; print(package.__version__)"
    assert installed.run(code).stdout.strip() == version
    assert re.search(rf"^## {re.escape(version)}\b", pathlib.Path(checkout, "CHANGELOG.md").read_text(), re.M)


def metadata(built):
    """The wheel's own description of itself: its headers, and the README as the body."""
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def test_twine_would_upload_what_is_built(built):
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2, done.stdout


def test_the_source_distribution_makes_the_same_wheel_as_the_checkout(built, installed):
    with zipfile.ZipFile(built[1]) as wheel:
        packed = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}

    assert len(packed) > 50
    assert packed == {
        f"saltext/deploytoken/{name}": (installed.package / name).read_bytes() for name in files(installed.package)
    }


def test_the_readmes_links_lead_somewhere_in_the_source_distribution(built, checkout):
    with tarfile.open(built[0]) as source:
        packed = {name.partition("/")[2] for name in source.getnames()}
    links = re.findall(r"\]\(([^)#\s]+)", (checkout / "README.md").read_text(encoding="utf-8"))

    assert len(links) > 10
    assert [link for link in links if "://" not in link and link not in packed] == []


def test_pypi_can_render_the_readme(built, checkout):
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    described = metadata(built)
    shown = markdown.render(described.get_payload(decode=True).decode())

    assert described["Description-Content-Type"] == "text/markdown"
    headings = re.findall(r"^#+ (.*)", re.sub(r"(?ms)^```.*?^```", "", readme), re.M)
    assert re.findall(r"<h\d[^>]*>([^<]*)<", shown) == headings
    assert shown.count("<table>") == len(re.findall(r"^\|[-|]+\|$", readme, re.M)) > 0
    assert not re.search(r"<!--|^(<p>)?\|", shown, re.M)
