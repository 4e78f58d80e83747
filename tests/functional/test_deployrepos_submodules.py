"""Submodules of what is deployed from: brought along with their superproject, or refused by name before it moves."""

import shutil

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.repositories import submodules
from tests.functional.test_deployrepos import functions, pasted, refused, run  # noqa: F401
from tests.support.repositories import Origin, commit, environment, git, snapshot  # noqa: F401

pytestmark = pytest.mark.usefixtures("environment")

#: Git takes no submodules from folders, unless it is allowed to (since 2.38.1).
ALLOWED = ("-c", "protocol.file.allow=always")


class Nested:
    """States with the submodule ``lib``, which has one itself: ``lib/deep``."""

    def __init__(self, folder, made=False):
        self.top, self.lib, self.deep = (Origin(folder, name, made) for name in ("states", "lib", "deep"))
        self.path = self.top.path

    def add(self, parent, child, name):
        url = f"../{child.remote.name}"  # relative to the parent's
        git(parent.colleague, *ALLOWED, "submodule", "--quiet", "add", "--name", f"named-{name}", url, name)
        return self.record(parent, f"Add {name}")

    def record(self, parent, subject):
        git(parent.colleague, "commit", "--quiet", "--all", "--message", subject)
        git(parent.colleague, "push", "--quiet", "origin", "main")
        return git(parent.colleague, "rev-parse", "HEAD")

    def bump(self, parent, child, name, text="new\n"):
        """The child gets a commit, and the parent takes it."""
        child.push("init.sls", text, f"In {name}")
        git(parent.colleague, *ALLOWED, "-C", name, "pull", "--quiet", "origin", "main")
        return self.record(parent, f"Move {name}")

    def checked_out(self):
        """What is served of each, and what should be."""
        served = {name: git(self.path / name, "rev-parse", "HEAD") for name in ("lib", "lib/deep")}
        recorded = {
            "lib": git(self.path, "rev-parse", "HEAD:lib"),
            "lib/deep": git(self.path / "lib", "rev-parse", "HEAD:deep"),
        }
        return served, recorded


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Made once, and copied: ``lib`` has ``deep``, and the states do not have ``lib`` yet."""
    folder = tmp_path_factory.mktemp("begun")
    made = Nested(folder)
    made.add(made.lib, made.deep, "deep")
    return folder


@pytest.fixture(scope="module")
def whole(begun, tmp_path_factory):
    """As above, and the states have ``lib``, and the master has all of it, cloned by git itself."""
    folder = tmp_path_factory.mktemp("whole")
    made = copied(begun, folder)
    made.add(made.top, made.lib, "lib")
    git(made.path, "pull", "--quiet")
    git(made.path, *ALLOWED, "submodule", "--quiet", "update", "--init", "--recursive")
    return folder


def copied(source, folder):
    shutil.copytree(source, folder, symlinks=True, dirs_exist_ok=True)
    for file in folder.rglob("config"):
        if file.is_file():
            file.write_text(file.read_text().replace(str(source), str(folder)))
    return Nested(folder, made=True)


@pytest.fixture
def allowed(monkeypatch):
    for name, value in (("COUNT", "1"), ("KEY_0", "protocol.file.allow"), ("VALUE_0", "always")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)


@pytest.fixture
def nested(begun, tmp_path, allowed):
    return copied(begun, tmp_path / "here")


@pytest.fixture
def cloned(whole, tmp_path, allowed):
    return copied(whole, tmp_path / "here")


@pytest.mark.parametrize("on", ["main", "topic"])
def test_a_submodule_that_a_commit_adds_is_brought_along_with_its_own(nested, run, on):  # noqa: F811
    if on != "main":
        git(nested.path, "switch", "--quiet", "--create", on)
    nested.bump(nested.lib, nested.deep, "deep")
    after = nested.add(nested.top, nested.lib, "lib")
    before = snapshot(nested.path)

    wanted = run("status", nested)["states"]["submodules"]
    assert snapshot(nested.path) == before
    answer = run("update", nested)["states"]

    assert wanted["lib"] == {"before": None, "after": git(nested.lib.remote, "rev-parse", "main")}
    assert (answer["after"], answer["submodules"]) == (after, wanted)
    assert list(wanted) == ["lib", "lib/deep"]
    assert (nested.path / "lib/deep/init.sls").read_text() == "new\n"
    served, recorded = nested.checked_out()
    assert served == recorded
    assert git(nested.path, "status", "--porcelain") == ""
    assert "submodules" not in run("status", nested)["states"]


def test_a_submodule_that_a_commit_moves_is_brought_along(cloned, run):  # noqa: F811
    cloned.bump(cloned.lib, cloned.deep, "deep")
    cloned.bump(cloned.top, cloned.lib, "lib")

    assert list(run("update", cloned)["states"]["submodules"]) == ["lib", "lib/deep"]

    served, recorded = cloned.checked_out()
    assert served == recorded
    assert (cloned.path / "lib/deep/init.sls").read_text() == "new\n"


@pytest.mark.parametrize("how", ["pulled", "not initialised", "folder removed"])
def test_a_submodule_that_is_old_though_its_repository_is_not_is_told_and_mended(cloned, run, how):  # noqa: F811
    """Somebody pulled by hand."""
    cloned.bump(cloned.top, cloned.lib, "lib")
    git(cloned.path, "pull", "--quiet")
    if how == "not initialised":
        git(cloned.path, "submodule", "--quiet", "deinit", "--force", "lib")
    elif how == "folder removed":
        shutil.rmtree(cloned.path / "lib")

    told = run("status", cloned)["states"]
    run("update", cloned)

    assert (told["behind"], told["submodules"]["lib"]["after"]) == (0, git(cloned.path, "rev-parse", "HEAD:lib"))
    assert (told["submodules"]["lib"]["before"] is None) == (how != "pulled")
    served, recorded = cloned.checked_out()
    assert served == recorded


@pytest.mark.parametrize("replaced", [False, True])
def test_a_submodule_that_a_commit_removes_is_served_no_more(cloned, run, replaced):  # noqa: F811
    git(cloned.top.colleague, "rm", "--quiet", "lib")
    if replaced:
        commit(cloned.top.colleague, "lib/init.sls", "vendored\n", "Vendor lib")
    else:
        git(cloned.top.colleague, "commit", "--quiet", "--message", "Remove lib")
    git(cloned.top.colleague, "push", "--quiet", "origin", "main")

    answer = run("update", cloned)["states"]

    assert answer["submodules"]["lib"]["after"] is None
    assert sorted(file.name for file in cloned.path.glob("lib/*")) == (["init.sls"] if replaced else [])
    assert git(cloned.path, "status", "--porcelain") == ""


def test_a_submodule_that_a_commit_renames_is_brought_along(cloned, run):  # noqa: F811
    git(cloned.top.colleague, "mv", "lib", "formulas")
    cloned.record(cloned.top, "Rename lib")

    run("update", cloned)

    assert (cloned.path / "formulas/deep/top.sls").exists()
    assert not (cloned.path / "lib/top.sls").exists()


def test_a_submodule_that_is_left_out_on_purpose_stays_so(nested, run):  # noqa: F811
    git(nested.path, "config", "submodule.named-lib.update", "none")
    nested.add(nested.top, nested.lib, "lib")

    assert "submodules" not in run("update", nested)["states"]
    assert list(nested.path.glob("lib/*")) == []


# What is refused before anything moves


def everything(path):
    return snapshot(path), git(path, "submodule", "status", "--recursive")


def edit(cloned):
    (cloned.path / "lib/top.sls").write_text("half done\n")


def edit_deep(cloned):
    (cloned.path / "lib/deep/top.sls").write_text("half done\n")


def stage(cloned):
    git(cloned.path / "lib", "checkout", "--quiet", "HEAD~1")
    git(cloned.path, "add", "lib")


def lock(cloned):
    (cloned.path / ".git/modules/named-lib/index.lock").touch()


def make(cloned):
    commit(cloned.path / "lib", "local.sls", "x\n", "Local")


def put_in_the_way(cloned):
    (cloned.path / "lib/init.sls").write_text("mine\n")


def lose(cloned):
    shutil.rmtree(cloned.lib.remote)


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (edit, ["uncommitted changes in the submodule", "states/lib (top.sls)"]),
        (edit_deep, ["uncommitted changes in the submodule", "states/lib/deep (top.sls)"]),
        (stage, ["uncommitted changes in", "(lib)"]),
        (lock, ["states/lib", "index.lock"]),
        (make, ["1 commit in the submodule", "states/lib not pushed"]),
        (put_in_the_way, ["files that are not in git stand in the submodule", "(init.sls)"]),
        (lose, ["the remote of the submodule lib of", "cannot be read", "submodule sync"]),
    ],
)
def test_a_submodule_that_cannot_be_brought_along_keeps_all_where_it_was(cloned, refused, done, words):  # noqa: F811
    cloned.bump(cloned.top, cloned.lib, "lib")
    done(cloned)

    refused(cloned.path, *words, snap=everything)


def test_a_commit_that_the_submodules_remote_has_not_is_refused(cloned, refused):  # noqa: F811
    made = commit(cloned.top.colleague / "lib", "x.sls", "x\n", "Forgotten to push")
    cloned.record(cloned.top, "Move lib")

    refused(cloned.path, f"has no commit {made[:8]}, which main needs: push it there", snap=everything)


def test_a_new_submodule_that_cannot_be_had_is_refused_and_leaves_nothing(nested, refused):  # noqa: F811
    nested.add(nested.top, nested.lib, "lib")
    shutil.rmtree(nested.lib.remote)

    refused(nested.path, "the remote of the submodule lib of", "cannot be read")

    assert list((nested.path / ".git/modules").iterdir()) == []


def test_git_still_refuses_a_submodules_address_that_only_a_commit_names(nested, refused, monkeypatch):  # noqa: F811
    """What git does since CVE-2022-39253."""
    nested.add(nested.top, nested.lib, "lib")
    monkeypatch.delenv("GIT_CONFIG_COUNT")

    refused(nested.path, "transport 'file' not allowed")


def test_files_where_a_commit_has_a_submodule_are_refused(nested, refused):  # noqa: F811
    nested.add(nested.top, nested.lib, "lib")
    (nested.path / "lib").mkdir()
    (nested.path / "lib/mine.sls").write_text("mine\n")

    refused(nested.path, "files that are not in git stand", "lib")


def test_a_repository_that_was_added_by_mistake_is_refused(nested, refused):  # noqa: F811
    git(nested.top.colleague, "clone", "--quiet", nested.deep.remote, "stray")
    git(nested.top.colleague, "-c", "advice.addEmbeddedRepo=false", "add", "stray")
    nested.record(nested.top, "Oops")

    refused(nested.path, "a submodule stray without a name and an address in .gitmodules")


def test_files_in_a_submodule_that_a_commit_removes_are_not_lost(cloned, refused):  # noqa: F811
    (cloned.path / "lib/deep/server.key").write_text("secret\n")
    git(cloned.top.colleague, "rm", "--quiet", "lib")
    cloned.record(cloned.top, "Remove lib")

    refused(cloned.path, "(server.key)", "no longer has", snap=everything)


def test_a_submodule_that_fails_in_the_middle_is_told_with_the_way_on(cloned, run):  # noqa: F811
    cloned.bump(cloned.top, cloned.lib, "lib")
    hook = cloned.path / ".git/modules/named-lib/hooks/post-checkout"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    hook = cloned.path / ".git/hooks/post-merge"
    hook.write_text("#!/bin/sh\ntouch .git/modules/named-lib/index.lock\n")
    hook.chmod(0o755)

    with pytest.raises(
        errors.Repositories, match=r"\(updated in part: states\).*of its submodules these are not: lib"
    ) as caught:
        run("update", cloned)
    for left in ("index.lock", "hooks/post-checkout"):
        (cloned.path / ".git/modules/named-lib" / left).unlink()
    pasted(str(caught.value).partition("go on with: ")[2])

    served, recorded = cloned.checked_out()
    assert served == recorded


@pytest.mark.parametrize(
    ("base", "url", "wanted"),
    [
        ("https://git.example.org/team/states.git", "../lib.git", "https://git.example.org/team/lib.git"),
        ("https://git.example.org/team/states.git/", "../../other/lib.git", "https://git.example.org/other/lib.git"),
        ("git@git.example.org:team/states.git", "../lib.git", "git@git.example.org:team/lib.git"),
        ("git@git.example.org:states.git", "../lib.git", "git@git.example.org:lib.git"),
        ("/srv/states.git", "./lib.git", "/srv/states.git/lib.git"),
        ("/srv/states.git", "https://git.example.org/lib.git", "https://git.example.org/lib.git"),
    ],
)
def test_a_relative_address_goes_on_from_the_superprojects(tmp_path, base, url, wanted):
    """As git itself has it."""
    repository = tmp_path / "states"
    git(tmp_path, "init", "--quiet", repository)
    git(repository, "remote", "add", "origin", base)
    (repository / ".gitmodules").write_text(f'[submodule "lib"]\n\tpath = lib\n\turl = {url}\n')
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},lib")
    git(repository, "submodule", "--quiet", "init")

    assert git(repository, "config", "submodule.lib.url") == wanted
    assert submodules._resolved(url, base) == wanted
