"""
Bringing repositories up to date, on real git remotes, through Salt's real git module.

A refusal is always tested together with what it promises: files, index, branches and the branch that is checked out
are as they were.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import threading

import pytest
import salt.config
import salt.loader

from saltext.deploytoken import errors, repositories
from saltext.deploytoken.repositories import settings, tree
from tests.support import process, wait
from tests.support.repositories import Origin, commit, environment, git, snapshot  # noqa: F401

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def origin(tmp_path):
    return Origin(tmp_path, "states")


@pytest.fixture(scope="module")
def functions():
    opts = salt.config.master_config(os.devnull)
    opts["grains"] = salt.loader.grains(opts)
    opts["pillar"] = {}
    return salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))


@pytest.fixture
def run(functions):
    def run(what, *items):
        found = settings.parse([item if isinstance(item, dict | str) else str(item.path) for item in items])
        return getattr(repositories, what)(found, functions)["repositories"]

    return run


@pytest.fixture
def refused(run):
    """
    An update refuses before it moves anything, and says the given words; all is as it was. Returns what it said.

    A status does the same in the same place, so it is only asked where a test says so.
    """

    def refused(path, *words, item=None, snap=snapshot, what="update"):
        before = snap(path)
        with pytest.raises(errors.Repositories) as caught:
            run(what, item or str(path))
        said = str(caught.value)
        assert caught.value.code == 8
        assert said.startswith("The repository cannot be deployed from (nothing was updated): ")
        assert "\n" not in said
        assert "Traceback" not in said
        assert "It was left" not in said, "refused by git, in the middle of the update"
        assert [word for word in words if word not in said] == []
        assert snap(path) == before
        (answer,) = caught.value.details["repositories"].values()
        assert said.endswith(answer["problem"])
        assert answer["before"] == answer["after"]
        return answer["problem"]

    return refused


# What comes in


def test_an_update_brings_in_what_was_pushed_and_lists_its_subjects(origin, run):
    before = origin.head
    origin.push(subject="Add web")
    after = origin.push(text="base: {'*': [web, db]}\n", subject="Add db: größer")

    answer = run("update", origin)["states"]

    assert answer == {
        "path": str(origin.path),
        "branch": "main",
        "remote": "origin",
        "before": before,
        "after": after,
        "target": after,
        "behind": 0,
        "subjects": ["Add db: größer", "Add web"],
    }
    assert origin.head == after
    assert (origin.path / "top.sls").read_text() == "base: {'*': [web, db]}\n"
    assert git(origin.path, "status", "--porcelain") == ""


def test_an_update_of_what_is_up_to_date_changes_nothing(origin, run):
    before = snapshot(origin.path)

    answer = run("update", origin)["states"]

    assert (answer["before"], answer["behind"], answer["subjects"]) == (answer["after"], 0, [])
    assert snapshot(origin.path) == before


def test_status_says_what_is_behind_and_touches_nothing(origin, run):
    origin.push(subject="Add web")
    before = snapshot(origin.path)

    answer = run("status", origin)["states"]

    assert (answer["behind"], answer["subjects"]) == (1, ["Add web"])
    assert answer["before"] == answer["after"] == origin.head
    assert snapshot(origin.path) == before


def test_the_default_branch_is_the_one_that_the_remote_names_today(origin, run):
    # The clone's own note of it (refs/remotes/origin/HEAD) still says main.
    after = origin.push(subject="Rename", branch="trunk")
    git(origin.remote, "symbolic-ref", "HEAD", "refs/heads/trunk")

    answer = run("update", origin)["states"]

    assert (answer["branch"], answer["after"], answer["was_on_branch"]) == ("trunk", after, "main")


def test_another_branch_is_left_for_the_configured_one(origin, run):
    git(origin.path, "switch", "--quiet", "--create", "topic")
    kept = commit(origin.path, "topic.sls", "x\n", "Not pushed, and safe on its branch")
    after = origin.push()

    answer = run("update", origin)["states"]

    assert (answer["was_on_branch"], answer["before"], answer["after"]) == ("topic", kept, after)
    assert answer["subjects"] == ["Add web"]
    assert git(origin.path, "symbolic-ref", "--short", "HEAD") == "main"
    assert git(origin.path, "rev-parse", "topic") == kept
    assert not (origin.path / "topic.sls").exists()


def test_a_branch_that_only_the_remote_has_is_created_and_follows_it(origin, run):
    after = origin.push(branch="release/2.0")

    run("update", {"path": str(origin.path), "branch": "release/2.0"})

    assert origin.head == after
    assert git(origin.path, "rev-parse", "--abbrev-ref", "@{upstream}") == "origin/release/2.0"


def test_a_clone_of_a_single_branch_gets_another_one(origin, run):
    shutil.rmtree(origin.path)
    git(origin.path.parent, "clone", "--quiet", "--single-branch", origin.remote, origin.path)
    after = origin.push(branch="release")

    run("update", {"path": str(origin.path), "branch": "release"})

    assert origin.head == after


def test_a_shallow_clone_is_brought_up_to_date(origin, run):
    shutil.rmtree(origin.path)
    git(origin.path.parent, "clone", "--quiet", "--depth=1", f"file://{origin.remote}", origin.path)
    origin.push(subject="One")
    after = origin.push(text="b\n", subject="Two")

    assert run("update", origin)["states"]["subjects"] == ["Two", "One"]
    assert origin.head == after


def test_a_linked_working_tree_is_brought_up_to_date(origin, run, tmp_path):
    git(origin.path, "switch", "--quiet", "--create", "elsewhere")
    linked = tmp_path / "linked"
    git(origin.path, "worktree", "add", "--quiet", linked, "main")
    after = origin.push()

    run("update", str(linked))

    assert git(linked, "rev-parse", "HEAD") == after


def test_another_remote_is_followed_where_one_is_configured(origin, run, tmp_path):
    git(tmp_path, "clone", "--quiet", "--bare", origin.remote, tmp_path / "fork.git")
    git(origin.path, "remote", "add", "fork", tmp_path / "fork.git")
    git(origin.colleague, "remote", "add", "fork", tmp_path / "fork.git")
    after = commit(origin.colleague, "fork.sls", "x\n", "In the fork")
    git(origin.colleague, "push", "--quiet", "fork", "HEAD:main")

    answer = run("update", {"path": str(origin.path), "remote": "fork"})["states"]

    assert (answer["after"], answer["subjects"]) == (after, ["In the fork"])


def test_a_tag_and_a_file_named_like_the_branch_are_not_taken_for_it(origin, run):
    git(origin.path, "tag", "main")
    git(origin.path, "tag", "origin/main")
    git(origin.path, "switch", "--quiet", "--create", "topic")
    (origin.path / "main").write_text("a file\n")
    after = origin.push()

    run("update", origin)

    assert origin.head == after
    assert git(origin.path, "symbolic-ref", "HEAD") == "refs/heads/main"


def test_untracked_and_ignored_files_stay(origin, run):
    (origin.path / "notes.txt").write_text("mine\n")
    (origin.path / "server.key").write_text("secret\n")
    origin.push()

    run("update", origin)

    assert (origin.path / "notes.txt").read_text() == "mine\n"
    assert (origin.path / "server.key").read_text() == "secret\n"


def test_subjects_cannot_write_on_the_terminal(origin, run):
    origin.push(subject="Clear \x1b[2J the screen")

    assert run("update", origin)["states"]["subjects"] == ["Clear  [2J the screen"]


def test_a_long_list_of_subjects_is_cut(origin, run, monkeypatch):
    monkeypatch.setattr(tree, "SUBJECTS", 2)
    for number in range(3):
        origin.push(text=f"{number}\n", subject=f"Commit {number}")

    answer = run("status", origin)["states"]

    assert (answer["behind"], answer["subjects"]) == (3, ["Commit 2", "Commit 1"])


# What is refused: local work


@pytest.mark.parametrize("what", ["status", "update"])
def test_uncommitted_changes_are_refused(origin, refused, what):
    origin.push()
    (origin.path / "top.sls").write_text("half done\n")

    refused(origin.path, "uncommitted changes", "top.sls", what=what)


def test_staged_changes_are_refused(origin, refused):
    origin.push()
    (origin.path / "new.sls").write_text("new\n")
    git(origin.path, "add", "new.sls")

    refused(origin.path, "uncommitted changes", "new.sls")


def test_a_deleted_and_a_renamed_file_are_uncommitted_changes(origin, refused):
    git(origin.path, "mv", "top.sls", "other top.sls")
    (origin.path / ".gitignore").unlink()

    refused(origin.path, "uncommitted changes", ".gitignore")


def test_uncommitted_changes_are_refused_on_another_branch_too(origin, refused):
    git(origin.path, "switch", "--quiet", "--create", "topic")
    (origin.path / "top.sls").write_text("half done\n")

    refused(origin.path, "uncommitted changes", "top.sls")


def test_many_changed_files_are_not_all_listed(origin, refused):
    for number in range(9):
        (origin.path / f"{number}.sls").write_text("new\n")
        git(origin.path, "add", f"{number}.sls")

    assert "(0.sls, 1.sls, 2.sls, 3.sls, 4.sls and 4 more)" in refused(origin.path)


def test_the_name_of_a_file_cannot_write_on_the_terminal(origin, refused):
    (origin.path / "ring \a.sls").write_text("new\n")
    git(origin.path, "add", "--all")

    assert "(ring  .sls)" in refused(origin.path)


def test_unpushed_commits_are_refused(origin, refused):
    commit(origin.path, "local.sls", "x\n", "Local")

    refused(origin.path, "1 commit on main", "not pushed to origin/main")


def test_unpushed_commits_are_refused_from_another_branch_too(origin, refused):
    commit(origin.path, "local.sls", "x\n", "Local")
    git(origin.path, "switch", "--quiet", "--create", "topic", "HEAD~1")

    refused(origin.path, "1 commit on main", "not pushed to origin/main")


def test_a_branch_that_has_diverged_is_refused(origin, refused):
    made = commit(origin.path, "local.sls", "x\n", "Local")
    origin.push()

    said = refused(origin.path, "have diverged", f"1 commit here, {made[:7]} Local; 1 commit there")
    pasted(said.partition("with ")[2].partition(", and push")[0])

    assert git(origin.path, "log", "-2", "--format=%s") == "Local\nAdd web"


@pytest.fixture
def rewritten(origin, run):
    """Upstream had "Remove me", which the master pulled, and removed it on purpose."""
    start = origin.head
    origin.push("secret.sls", "secret\n", "Remove me")
    run("update", origin)

    def rewritten(then="web.sls"):
        git(origin.colleague, "reset", "--quiet", "--hard", start)
        if then:
            commit(origin.colleague, then, "x\n", "Instead")
        git(origin.colleague, "push", "--quiet", "--force", "origin", "main")
        return git(origin.colleague, "rev-parse", "HEAD")

    return rewritten


@pytest.mark.parametrize("on", ["main", "topic"])
@pytest.mark.parametrize("then", ["web.sls", None])
@pytest.mark.parametrize("reflog", [True, False])
def test_a_remote_that_was_rewritten_is_refused_with_a_way_that_brings_nothing_back(
    origin, run, refused, rewritten, on, then, reflog
):
    """Also at the second look, when the remote-tracking branch has moved already; without a reflog, at the first."""
    if not reflog:
        shutil.rmtree(origin.path / ".git/logs")
        git(origin.path, "config", "core.logAllRefUpdates", "false")
    if on != "main":
        git(origin.path, "switch", "--quiet", "--create", on)
    after = rewritten(then)

    for _ in range(2 if reflog else 1):
        said = refused(origin.path, "origin/main was rewritten, and no longer has 1 commit that main in", "Remove me")
    pasted(said.partition("follow it with ")[2])
    run("update", origin)

    assert origin.head == after
    assert not (origin.path / "secret.sls").exists()


def test_what_was_made_here_is_kept_where_the_remote_was_rewritten(origin, refused, rewritten):
    commit(origin.path, "local.sls", "x\n", "Local")
    rewritten()

    for _ in range(2):
        said = refused(
            origin.path, "was rewritten", "has 1 commit that main", "1 commit there never pushed", " Local)"
        )
    pasted(said.partition("only these with ")[2].partition(", and push")[0])

    assert git(origin.path, "log", "-2", "--format=%s") == "Local\nInstead"
    assert not (origin.path / "secret.sls").exists()


def pasted(command):
    """What a person does with a command in a message."""
    subprocess.run(command, shell=True, check=True, capture_output=True, cwd="/")


@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
def test_a_changed_file_that_git_was_told_not_to_look_at_is_refused(origin, refused, run, mark):
    origin.push("a b*.sls", "x\n")
    run("update", origin)
    git(origin.path, "update-index", mark, "a b*.sls", "top.sls")
    run("update", origin)  # not changed
    (origin.path / "a b*.sls").write_text("mine\n")

    said = refused(origin.path, "told not to see (a b*.sls)")
    pasted(said.partition("have git see them: ")[2])

    refused(origin.path, "uncommitted changes", "a b*.sls")


def test_a_sparse_checkout_is_brought_up_to_date(origin, run):
    origin.push("web/init.sls", "x\n")
    run("update", origin)
    git(origin.path, "sparse-checkout", "set", "db")
    git(origin.path, "update-index", "--assume-unchanged", "web/init.sls")
    after = origin.push("db/init.sls", "x\n")

    run("update", origin)

    assert origin.head == after
    assert not (origin.path / "web").exists()


@pytest.mark.parametrize("on", ["main", "topic"])
@pytest.mark.parametrize(
    ("name", "pushed"),
    [
        ("web.sls", "web.sls"),
        ("dir", "dir/x"),
        ("dir/x", "dir"),
        ("server.key", "server.key"),
        ("dir.key/x", "dir.key"),
        ("a.key", "a.key/x"),
    ],
)
def test_a_file_that_is_not_in_git_is_never_overwritten(origin, refused, on, name, pushed):
    """Untracked or ignored, a file for a folder or a folder for a file, on the branch or beside it."""
    if on != "main":
        git(origin.path, "switch", "--quiet", "--create", on)
    file = origin.path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine\n")
    origin.push(name=pushed, text="theirs\n")

    refused(origin.path, pushed.partition("/")[0])

    assert file.read_text() == "mine\n"


@pytest.mark.parametrize("on", ["main", "topic"])
def test_a_file_that_appears_in_the_last_moment_is_not_overwritten(origin, functions, on):
    """Git itself has to refuse it then: the look beforehand has passed."""
    if on != "main":
        git(origin.path, "switch", "--quiet", "--create", on)
    origin.push(name="server.key", text="theirs\n")
    (repository,) = settings.parse([str(origin.path)])
    working_tree = tree.WorkingTree(repository, functions)
    with tree.Locks() as locks:
        working_tree.inspect(locks)
    (origin.path / "server.key").write_text("mine\n")
    before = snapshot(origin.path)

    with pytest.raises(tree.Refused, match=r"server\.key.*as it was"):
        working_tree.move()

    assert snapshot(origin.path) == before


@pytest.mark.parametrize("pushed", ["vendor", "vendor/web.sls"])
def test_a_repository_inside_of_this_one_is_never_written_into(origin, refused, pushed):
    git(origin.path, "init", "--quiet", "vendor")
    commit(origin.path / "vendor", "web.sls", "mine\n", "Mine")
    origin.push(name=pushed, text="theirs\n")

    refused(origin.path, "vendor")

    assert (origin.path / "vendor/web.sls").read_text() == "mine\n"


@pytest.mark.parametrize("on", ["main", "topic"])
def test_a_commit_that_is_made_in_the_last_moment_is_neither_merged_nor_lost(origin, functions, on):
    if on != "main":
        git(origin.path, "switch", "--quiet", "--create", on)
    origin.push()
    (repository,) = settings.parse([str(origin.path)])
    working_tree = tree.WorkingTree(repository, functions)
    with tree.Locks() as locks:
        working_tree.inspect(locks)
    made = git(origin.path, "commit-tree", "-p", "main", "-m", "Mine", "main^{tree}")
    git(origin.path, "update-ref", "refs/heads/main", made)
    before = snapshot(origin.path)

    with pytest.raises(tree.Refused, match="It was left"):
        working_tree.move()

    assert snapshot(origin.path) == before


def test_a_commit_that_is_made_during_the_update_is_told(origin, run):
    hook = origin.path / ".git/hooks/post-merge"
    hook.write_text("#!/bin/sh\ngit commit --quiet --allow-empty --message Mine\n")
    hook.chmod(0o755)
    pushed = origin.push()

    with pytest.raises(errors.Repositories, match=f"instead of {pushed[:8]} on main: somebody else is working in"):
        run("update", origin)


def test_a_folder_that_the_update_replaces_by_a_file_is_no_collision(origin, run):
    origin.push(name="web/init.sls", text="x\n")
    run("update", origin)
    git(origin.colleague, "rm", "--quiet", "-r", "web")
    after = origin.push(name="web", text="a file now\n")

    run("update", origin)

    assert origin.head == after


@pytest.mark.parametrize("exists", [True, False])
def test_a_hook_that_fails_after_the_switch_has_the_switch_taken_back(origin, run, exists):
    git(origin.path, "switch", "--quiet", "--create", "topic")
    if not exists:
        git(origin.path, "branch", "--quiet", "--delete", "main")
    origin.push()
    hook = origin.path / ".git/hooks/post-checkout"
    hook.write_text("#!/bin/sh\necho The hook is cross >&2\nexit 1\n")
    hook.chmod(0o755)
    before = snapshot(origin.path)

    with pytest.raises(errors.Repositories) as caught:
        run("update", origin)

    assert "as it was" in str(caught.value)
    assert snapshot(origin.path) == before


@pytest.mark.parametrize(("on", "hook"), [("main", "post-merge"), ("topic", "post-checkout")])
def test_what_git_runs_while_it_writes_files_can_ask_nobody(origin, run, on, hook):
    """LFS's filter and the rest of a partial clone come from the remote then; a hook has the same environment."""
    if on != "main":
        git(origin.path, "switch", "--quiet", "--create", on)
    file = origin.path / ".git/hooks" / hook
    file.write_text('#!/bin/sh\necho "$GIT_TERMINAL_PROMPT|$GIT_ASKPASS|$GIT_SSH_COMMAND" > .git/asked\n')
    file.chmod(0o755)
    after = origin.push()

    run("update", origin)

    assert origin.head == after
    assert (origin.path / ".git/asked").read_text() == "0||ssh -o BatchMode=yes\n"


def test_a_partial_clone_is_brought_up_to_date_with_the_files_that_it_lacks(origin, run, tmp_path):
    git(origin.remote, "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", f"file://{origin.remote}", partial)
    after = origin.push("new.sls", "new\n")

    run("update", str(partial))

    assert git(partial, "rev-parse", "HEAD") == after
    assert (partial / "new.sls").read_text() == "new\n"


# What is refused: something half done


def conflict(origin):
    git(origin.path, "switch", "--quiet", "--create", "topic")
    commit(origin.path, "top.sls", "theirs\n", "Theirs")
    git(origin.path, "switch", "--quiet", "main")
    commit(origin.path, "top.sls", "ours\n", "Ours")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["merge", "topic"], "a merge is in progress"),
        (["rebase", "topic"], "a rebase is in progress"),
        (["rebase", "--apply", "topic"], "a rebase or git am is in progress"),
        (["cherry-pick", "topic"], "a cherry-pick is in progress"),
        (["revert", "--no-edit", "HEAD~1"], "a revert is in progress"),
    ],
)
def test_what_stopped_at_a_conflict_is_refused(origin, refused, command, what):
    conflict(origin)
    if command[0] == "revert":
        commit(origin.path, "top.sls", "again\n", "Again")
    with contextlib.suppress(subprocess.CalledProcessError):
        git(origin.path, *command)

    refused(origin.path, what)


def test_a_bisect_is_refused(origin, refused):
    git(origin.path, "bisect", "start")

    refused(origin.path, "a bisect is in progress", "git bisect reset")


def test_a_detached_head_is_refused(origin, refused):
    git(origin.path, "switch", "--quiet", "--detach")

    refused(origin.path, "detached head")


def test_a_git_command_that_is_at_work_is_refused(origin, refused):
    (origin.path / ".git/index.lock").touch()

    refused(origin.path, "index.lock")


@pytest.mark.parametrize("lock", ["HEAD.lock", "refs/heads/main.lock", "refs/remotes/origin/main.lock"])
def test_a_lock_that_git_left_behind_is_refused_before_anything_moves(origin, refused, lock):
    file = origin.path / ".git" / lock
    file.touch()
    origin.push()

    refused(origin.path, f"was ended in the middle: wait, or remove {file}")


# A move that fails in the middle


@pytest.fixture
def failed(functions):
    """``failed(origin, meanwhile)``: what a move says that fails because of what comes after the look beforehand."""

    def failed(origin, meanwhile=lambda: None):
        (repository,) = settings.parse([str(origin.path)])
        working_tree = tree.WorkingTree(repository, functions)
        with tree.Locks() as locks:
            working_tree.inspect(locks)
            meanwhile()
            with pytest.raises(tree.Refused) as caught:
                working_tree.move()
        assert not working_tree.moved
        return str(caught.value)

    return failed


@pytest.mark.parametrize(("on", "lock"), [("main", "refs/heads/main.lock"), ("topic", "HEAD.lock")])
def test_files_that_git_wrote_before_it_failed_are_taken_back(origin, failed, on, lock):
    """Measured on git 2.39.5: with this lock, the new files are there, and the branch is where it was."""
    if on != "main":
        git(origin.path, "switch", "--quiet", "--create", on)
    git(origin.colleague, "rm", "--quiet", ".gitignore")
    origin.push()
    origin.push("new.sls", "x\n")
    before = snapshot(origin.path)

    said = failed(origin, (origin.path / ".git" / lock).touch)

    assert "It was left as it was, at" in said
    assert snapshot(origin.path) == before


def test_what_is_served_after_half_of_the_files_is_told_with_the_way_back(origin, run, failed):
    """A filter that fails, as LFS's does without its server: git has written some files by then."""
    git(origin.path, "config", "filter.lfs.smudge", "false")
    git(origin.path, "config", "filter.lfs.required", "true")
    for name in (".gitattributes", "top.sls", "a.sls", "zz.bin"):
        origin.push(name, "*.bin filter=lfs\n")
    before = snapshot(origin.path)

    said = failed(origin)

    assert f"{origin.path} is served half updated: it is still at {origin.head[:8]} on main, but these files" in said
    assert "a.sls" in said
    pasted(said.partition("Remove the cause, and come back with: ")[2])
    assert snapshot(origin.path) == before
    with pytest.raises(errors.Repositories, match=r"cannot be deployed from \(updated in part: states\)"):
        run("update", origin)


def test_the_way_back_warns_of_a_file_that_it_would_remove(origin, failed):
    """Somebody put it there in the last moment."""
    git(origin.path, "config", "filter.lfs.smudge", "echo mine > zz.sls; false")
    git(origin.path, "config", "filter.lfs.required", "true")
    for name in (".gitattributes", "a.sls", "b.bin", "zz.sls"):
        origin.push(name, "*.bin filter=lfs\n")

    said = failed(origin)

    assert "Copy what is neither the old nor the new version (zz.sls), and come back with" in said


def test_a_repository_that_another_run_works_on_is_waited_for(origin, functions, refused, run):
    after = origin.push()
    item = {"path": str(origin.path), "timeout": 0.2}
    (repository,) = settings.parse([str(origin.path)])
    with tree.Locks() as locks:
        tree.WorkingTree(repository, functions).inspect(locks)
        refused(origin.path, "another update of", "is under way, and was waited for during 0.2 s", item=item)
        waiting = threading.Thread(target=run, args=("update", origin))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(30)

    assert origin.head == after


def test_two_working_trees_of_one_repository_do_not_wait_for_each_other(origin, run, tmp_path):
    git(origin.path, "worktree", "add", "--quiet", "--detach", tmp_path / "linked")
    git(tmp_path / "linked", "switch", "--quiet", "--create", "release")
    git(tmp_path / "linked", "push", "--quiet", "origin", "release")

    run("update", origin, {"path": str(tmp_path / "linked"), "branch": "release"})


# What is refused: the place


def nothing(path):
    """All names there, but for the lock that one run leaves for the next."""
    found = pathlib.Path(path).rglob("*") if pathlib.Path(path).exists() else []
    return sorted(str(file) for file in found if file.name != "deploytoken-update")


def test_a_path_that_is_missing_is_refused(tmp_path, refused):
    refused(tmp_path / "absent", "there is no folder", snap=nothing)


def test_a_folder_that_is_no_repository_is_refused(tmp_path, refused):
    (tmp_path / "plain").mkdir()

    refused(tmp_path / "plain", "is not a repository", snap=nothing)


def test_a_folder_inside_of_another_repository_is_not_taken_for_it(origin, refused):
    inside = origin.path / "private"
    inside.mkdir()

    refused(inside, "is not a repository, but a folder inside", str(origin.path), snap=nothing)


def test_a_bare_repository_is_refused(origin, refused):
    refused(origin.remote, "is a bare repository", snap=nothing)


def test_a_repository_without_commits_is_refused(tmp_path, refused):
    git(tmp_path, "init", "--quiet", "--initial-branch=main", tmp_path / "new")

    refused(tmp_path / "new", "has no commits yet", snap=nothing)


def test_a_path_through_a_symbolic_link_is_the_repository(origin, run, tmp_path):
    (tmp_path / "link").symlink_to(origin.path)
    after = origin.push()

    run("update", str(tmp_path / "link"))

    assert origin.head == after


def test_a_repository_of_another_user_is_refused_with_the_way_out(origin, refused, tmp_path):
    assert os.getuid() == 0, "only root can give a folder away: run script/test as root"
    for folder, names, files in os.walk(origin.path):
        for name in [".", *names, *files]:
            os.chown(os.path.join(folder, name), 12345, 12345)

    refused(origin.path, "belongs to another user", "safe.directory", snap=nothing)


# What is refused: the remote


def test_a_remote_that_is_not_configured_is_refused(origin, refused):
    item = {"path": str(origin.path), "remote": "upstream"}

    refused(origin.path, "has no remote upstream (it has origin)", item=item)


def test_a_branch_that_the_remote_has_not_is_refused(origin, refused):
    item = {"path": str(origin.path), "branch": "release"}

    refused(origin.path, "has no branch release", item=item)


def test_a_branch_that_only_the_clone_has_is_refused(origin, refused):
    git(origin.path, "switch", "--quiet", "--create", "release")
    item = {"path": str(origin.path), "branch": "release"}

    refused(origin.path, "has no branch release", item=item)


def test_a_remote_without_a_default_branch_is_refused(origin, refused):
    git(origin.remote, "symbolic-ref", "HEAD", "refs/heads/gone")

    refused(origin.path, "names no default branch")


@pytest.mark.parametrize("what", ["status", "update"])
def test_a_remote_that_was_removed_is_refused(origin, refused, what):
    shutil.rmtree(origin.remote)

    refused(origin.path, "the remote origin of", "cannot be read", what=what)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/x.git", "git://127.0.0.1:{}/x.git", "ssh://127.0.0.1:{}/x.git"])
def test_a_remote_that_refuses_connections_is_refused(origin, refused, url):
    if url.startswith("ssh") and not shutil.which("ssh"):
        pytest.fail("ssh is not installed: run script/test")
    git(origin.path, "remote", "set-url", "origin", url.format(process.free_port()))

    refused(origin.path, "cannot be read")


@pytest.fixture
def listener():
    """
    Something that takes connections and never says a word: the kernel does, for as long as nobody accepts them.

    A thread that accepts outlives its socket, and then may take, and drop, a connection of the next test's.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "git", "ssh"])
def test_a_remote_that_hangs_is_given_up_on_with_all_of_its_processes(origin, refused, listener, scheme):
    url = f"{scheme}://127.0.0.1:{listener}/x.git"
    git(origin.path, "remote", "set-url", "origin", url)

    refused(origin.path, "did not answer within 0.4 s", item={"path": str(origin.path), "timeout": 0.4})  # nor ever

    wait.until(lambda: not _mentions(str(listener)), what="git's processes to end")


def _mentions(word):
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in file.read_bytes():
                found.append(file)
    return found


def test_the_time_limit_is_for_all_questions_together(origin, run, tmp_path):
    """Asking for the default branch and fetching: a remote that is slow at both does not get twice the time."""
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\nsleep 0.6\nexec git-upload-pack "$@"\n')
    slow.chmod(0o755)
    git(origin.path, "config", "remote.origin.uploadpack", slow)

    with pytest.raises(errors.Repositories, match=r"did not answer within 0\.9 s"):
        run("status", {"path": str(origin.path), "timeout": 0.9})


def test_nobody_is_asked_for_a_password(origin, refused, tmp_path, monkeypatch):
    """A server that wants a password: no prompt, and no helper window either, but an answer at once."""
    asked = tmp_path / "asked"
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ntouch {asked}\necho secret\n")
    helper.chmod(0o755)
    monkeypatch.setenv("GIT_ASKPASS", str(helper))
    monkeypatch.setenv("SSH_ASKPASS", str(helper))
    with unauthorized() as port:
        git(origin.path, "remote", "set-url", "origin", f"http://127.0.0.1:{port}/x.git")

        refused(origin.path, "cannot be read", "terminal prompts disabled")

    assert not asked.exists()


@pytest.mark.parametrize(
    "said", ["fatal: no access to https://alice:hunter2@example.org/x", "remote: https://hunter2@x"]
)
def test_a_password_in_what_git_says_is_not_repeated(origin, refused, tmp_path, said):
    """A stand-in for ssh says it, as a server's hook may; git's own messages leave passwords out (2.39.5)."""
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\necho {said} >&2\nexit 255\n")
    program.chmod(0o755)
    git(origin.path, "config", "core.sshCommand", program)
    git(origin.path, "remote", "set-url", "origin", "ssh://example.invalid/x.git")

    problem = refused(origin.path, "cannot be read")

    assert "https://***@" in problem
    assert "hunter2" not in problem


@contextlib.contextmanager
def unauthorized():
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic realm=x")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def test_ssh_does_not_ask_and_keeps_its_configured_key(origin, refused, tmp_path):
    """A stand-in for ssh records how it is called."""
    log = tmp_path / "log"
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho "Permission denied (publickey)." >&2\nexit 255\n')
    program.chmod(0o755)
    git(origin.path, "config", "core.sshCommand", f"{program} -i /etc/deploy.key")
    git(origin.path, "remote", "set-url", "origin", "ssh://example.invalid/x.git")

    refused(origin.path, "cannot be read: Permission denied (publickey)")

    assert "-i /etc/deploy.key -o BatchMode=yes" in log.read_text()


def test_a_git_daemon_that_does_not_export_the_repository_is_refused(origin, refused, tmp_path):
    port = process.free_port()
    daemon = process.start(
        ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", f"--base-path={tmp_path}", "--reuseaddr"],
        tmp_path / "daemon.log",
    )
    try:
        wait.until(lambda: process.listening(port), what="git daemon")
        git(origin.path, "remote", "set-url", "origin", f"git://127.0.0.1:{port}/states.git")

        refused(origin.path, "cannot be read", "access denied or repository not exported")
    finally:
        process.end(daemon)


# Several


def test_one_bad_repository_is_reported_with_all_others_and_keeps_them_where_they_are(tmp_path, run):
    good, bad, late = (Origin(tmp_path, name) for name in ("good", "bad", "late"))
    good.push(subject="Good news")
    late.push(subject="Late news")
    (bad.path / "top.sls").write_text("half done\n")
    before = [snapshot(item.path) for item in (good, bad, late)]

    with pytest.raises(errors.Repositories) as caught:
        run("update", good, bad, late)

    assert str(caught.value).startswith("1 of 3 repositories cannot be deployed from (nothing was updated): bad: ")
    answers = caught.value.details["repositories"]
    assert [answers[name]["behind"] for name in ("good", "late")] == [1, 1]
    assert [name for name, answer in answers.items() if "problem" in answer] == ["bad"]
    assert [snapshot(item.path) for item in (good, bad, late)] == before


def test_every_bad_repository_is_named(tmp_path, run):
    first, second = Origin(tmp_path, "first"), Origin(tmp_path, "second")
    (first.path / "top.sls").write_text("half done\n")
    commit(second.path, "local.sls", "x\n", "Local")

    with pytest.raises(
        errors.Repositories, match=r"2 of 2 repositories .*first: uncommitted .* \| second: 1 commit on"
    ):
        run("status", first, second)


def test_a_failure_after_others_were_updated_says_which(tmp_path, run):
    good, bad, late = (Origin(tmp_path, name) for name in ("good", "bad", "late"))
    for item in (good, bad, late):
        item.push()
    # A folder that cannot be looked into beforehand: the branch is checked out in another working tree.
    git(bad.path, "switch", "--quiet", "--create", "topic")
    git(bad.path, "worktree", "add", "--quiet", tmp_path / "linked", "main")
    before = [snapshot(item.path) for item in (bad, late)]

    with pytest.raises(errors.Repositories) as caught:
        run("update", good, bad, late)

    assert "(updated before that: good)" in str(caught.value)
    assert "as it was" in caught.value.details["repositories"]["bad"]["problem"]
    assert [snapshot(item.path) for item in (bad, late)] == before
