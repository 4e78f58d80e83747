"""What Salt serves once the repositories have moved: its file lists, and its own git remotes, read by Salt itself."""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import weakref

import pytest
import salt.pillar
import salt.utils.gitfs

from saltext.deploytoken import errors
from saltext.deploytoken.deploy import serving
from tests.support.repositories import Origin, environment, git  # noqa: F401
from tests.support.wait import until

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def states(tmp_path):
    return Origin(tmp_path, "states")


@pytest.fixture
def secrets(tmp_path):
    return Origin(tmp_path, "secrets")


@pytest.fixture
def master(loaders, states, secrets, monkeypatch):
    """A master that serves ``states`` from gitfs, and has ``secrets`` as git_pillar."""
    # A process has one gitfs for good, and here are many masters in one.
    monkeypatch.setattr(salt.utils.gitfs.GitFS, "instance_map", weakref.WeakKeyDictionary())

    def master(**options):
        configured = {
            "fileserver_backend": ["roots", "gitfs"],
            "gitfs_remotes": [states.remote.as_uri()],
            "gitfs_base": "main",
            "ext_pillar": [{"git": [f"main {secrets.remote.as_uri()}"]}],
            "git_pillar_base": "main",
        }
        return loaders(**{**configured, **options})

    return master


def renew(made, *saltenv):
    return serving.renew(made.opts, made.modules, *saltenv)


def head(origin, branch="main"):
    return git(origin.remote, "rev-parse", branch)[:8]


def test_what_was_pushed_to_the_masters_remotes_is_served_at_once(master, states, secrets):
    made = master()
    renew(made)
    assert "web.sls" not in made.served()
    states.push("web.sls", "x\n")
    secrets.push("top.sls", "base: {'*': [web]}\n")
    secrets.push("web.sls", "port: 80\n")

    answer = renew(made)

    assert answer == {"states": head(states), "secrets": head(secrets)}
    assert "web.sls" in made.served()
    assert salt.pillar.Pillar(made.opts, made.opts["grains"], "docs", "base").compile_pillar()["port"] == 80


def test_the_commits_are_those_of_the_environment_that_is_deployed(master, states, secrets):
    states.push("dev.sls", "x\n", branch="dev")
    secrets.push("dev.sls", "x\n", branch="dev")
    addresses = [f"{branch} {secrets.remote.as_uri()}" for branch in ("main", "dev")]
    made = master(ext_pillar=[{"git": addresses}])

    # What a remote does not have in an environment, it does not serve there. git_pillar has all of its branches.
    pillars = {"secrets": head(secrets), "secrets dev": head(secrets, "dev")}
    assert renew(made, "dev") == {"states": head(states, "dev"), **pillars}
    assert renew(made, "test") == pillars


def test_remotes_have_names_that_tell_them_apart(master, states, secrets, tmp_path):
    other = tmp_path / "team"
    other.mkdir()
    shutil.copytree(states.remote, other / "states.git")
    named = {secrets.remote.as_uri(): [{"name": "mine"}]}
    made = master(gitfs_remotes=[states.remote.as_uri(), (other / "states.git").as_uri(), named], ext_pillar=[])

    assert sorted(renew(made)) == sorted([f"{tmp_path.name}/states", "team/states", "mine"])


def test_each_remote_that_cannot_be_fetched_is_named_and_the_file_lists_are_made_anew(master, states, secrets, capfd):
    made = master(file_roots={"base": [str(states.path)]})
    renew(made)
    made.served()
    (states.path / "new.sls").write_text("x\n")
    shutil.rmtree(states.remote)
    shutil.rmtree(secrets.remote)
    git(states.path, "init", "--quiet", "--bare", secrets.remote)  # no branch there

    with pytest.raises(errors.Repositories) as caught:
        renew(made)

    said = str(caught.value)
    assert f"gitfs {states.remote.as_uri()} cannot be fetched: '{states.remote}' does not appear to be a git" in said
    assert "\n" not in said
    assert "new.sls" in made.served()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_remote_that_hangs_is_given_up_on_with_all_of_its_processes(master, states, monkeypatch):
    monkeypatch.setattr(serving, "LIMIT", 3.0)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        port = server.getsockname()[1]
        made = master(
            gitfs_remotes=[f"http://alice:secret@127.0.0.1:{port}/x.git", states.remote.as_uri()], ext_pillar=[]
        )

        with pytest.raises(errors.Repositories) as caught:
            renew(made)

        assert f"gitfs http://***@127.0.0.1:{port}/x.git did not answer within 3 s" in str(caught.value)
        until(lambda: str(port) not in _commands(), what="git's processes to end")


def _commands():
    return subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout


def test_a_remote_that_the_master_fetches_at_this_moment_is_waited_for(master, states, tmp_path, monkeypatch):
    """It then has Salt's lock, and Salt itself would skip the remote with a warning (3006.29 and 3008.3)."""
    made = master(ext_pillar=[])
    shown = logging.FileHandler(tmp_path / "shown")
    shown.setLevel(logging.WARNING)
    monkeypatch.setattr(logging.getLogger(), "handlers", [shown])
    renew(made)
    (work,) = tmp_path.rglob("gitfs/work/*/_")
    after = states.push("new.sls")
    lock = work / "update.lk"
    lock.write_text(f"{os.getpid()}\n")
    found = []
    waiting = threading.Thread(target=lambda: found.append(renew(made)))
    waiting.start()
    waiting.join(2)
    assert waiting.is_alive()
    lock.unlink()
    waiting.join(60)

    assert found == [{"states": after[:8]}]
    assert (tmp_path / "shown").read_text() == ""


def test_a_remote_that_stays_locked_is_named_with_the_way_out(master, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "LIMIT", 3.0)
    made = master(ext_pillar=[])
    renew(made)
    (work,) = tmp_path.rglob("gitfs/work/*/_")
    (work / "update.lk").write_text("1\n")

    with pytest.raises(errors.Repositories, match=r"has been locked by process 1 .* cache\.clear_git_lock gitfs"):
        renew(made)


def test_a_process_that_ends_before_it_has_fetched_all_is_no_success(master, monkeypatch):
    made = master()
    monkeypatch.setattr(serving, "_sources", lambda opts: os._exit(1))

    with pytest.raises(errors.Repositories, match="git could not be fetched: the process ended"):
        renew(made)


def test_a_master_without_git_remotes_pays_nothing(master, states):
    made = master(fileserver_backend=["roots"], gitfs_remotes=[], ext_pillar=[{"cmd_json": "echo {}"}])
    script = "\n".join(
        [
            "import sys, salt.config",
            "from saltext.deploytoken.deploy import serving",
            f"opts = salt.config.master_config(None); opts.update(cachedir={made.opts['cachedir']!r})",
            "assert serving.renew(opts, {}) == {}",
            "assert [name for name in sys.modules if 'gitfs' in name or name == 'git'] == []",
        ]
    )

    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert list((states.path.parent).rglob("gitfs/*")) == []
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(os.path.join(made.opts["cachedir"], "git_pillar")) == []
