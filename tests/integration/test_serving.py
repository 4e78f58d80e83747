"""A running master with remotes of its own (gitfs, git_pillar): what was pushed is served once an update has ended."""

import pytest

from tests.support.repositories import Origin, environment, git  # noqa: F401
from tests.support.salt import CHECKOUT, Cluster

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def master(salt_factories, tmp_path):
    """A running master, which would look for news of its remotes itself after an hour, and a configured repository."""
    names = ("repository", "formulas", "secrets")
    master_of = {name: Origin(tmp_path, name) for name in names}
    options = {
        "auto_accept": True,
        "worker_threads": 3,
        "module_dirs": [str(CHECKOUT)],
        "loop_interval": 3600,
        "fileserver_backend": ["roots", "gitfs"],
        "file_roots": {"base": [str(master_of["repository"].path)]},
        "gitfs_remotes": [master_of["formulas"].remote.as_uri()],
        "gitfs_base": "main",
        "gitfs_update_interval": 3600,
        "ext_pillar": [{"git": [f"main {master_of['secrets'].remote.as_uri()}"]}],
        "git_pillar_base": "main",
    }
    configured = {"repositories": [str(master_of["repository"].path)]}
    master = Cluster(salt_factories, tmp_path / "roots", configured, name="gitfs", **options)
    for name, origin in master_of.items():
        setattr(master, name, origin)
    try:
        yield master.start()
    finally:
        master.stop()


def test_a_minion_has_what_the_update_brought_at_once(master):
    master.secrets.push("top.sls", "base: {'*': [port]}\n")
    master.secrets.push("port.sls", "old: 1\n")
    master.formulas.push("formula/old.txt", "one\n")
    first = master.run("deployrepos.update")
    assert first.code == 0, first
    master.minion("web", sync=False)
    # Each of the master's processes has seen, and keeps, whatever it keeps.
    for _ in range(2):
        assert seen(master) == ((True, ["old"]), ["formula/old.txt"], "one\n")
    master.secrets.push("port.sls", "new: 1\n")
    master.formulas.push("formula/new.txt", "new\n")
    formula = master.formulas.push("formula/old.txt", "two\n")
    master.repository.push("local.txt", "new\n")

    answer = master.run("deployrepos.update")

    assert answer.code == 0, answer
    assert answer.data["served"]["formulas"] == formula[:8]
    for _ in range(2):
        assert seen(master) == ((True, ["new"]), ["formula/new.txt", "formula/old.txt", "local.txt"], "two\n")


def seen(master):
    refreshed = master.ask("web", "saltutil.refresh_pillar", wait=True)["web"]
    keys = master.ask("web", "pillar.ls")["web"]
    files = master.ask("web", "cp.list_master")["web"]
    text = master.ask("web", "cp.get_file_str", "salt://formula/old.txt")["web"]
    return (refreshed, keys), sorted(name for name in files if name.endswith(".txt")), text
