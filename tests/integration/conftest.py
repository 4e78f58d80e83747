"""A site to deploy to, on the session's cluster."""

import pytest

from tests.support.deploy import Midway

PROBE = """
import pathlib

def probe(path):
    \"\"\"Each look counts the number in the file towards zero: above zero blocks, and so does -1.\"\"\"
    file = pathlib.Path(path)
    left = int(file.read_text()) if file.exists() else 0
    file.write_text(str(left - 1 if left > 0 else left + 1 if left < 0 else 0))
    busy = left > 0 or left == -1
    spider = {"id": "spider", "what": "spider uganda", "user": "scrapyd", "ask": "Jane Doe"}
    return {"blockers": [spider] if busy else [], "unknowns": [], "info": []}
"""


@pytest.fixture(scope="module")
def probe(_cluster):
    path = _cluster.states / "_modules" / "counter.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PROBE)
    _cluster.salt("*", "saltutil.sync_modules")
    yield
    path.unlink()
    _cluster.salt("*", "saltutil.sync_modules")


@pytest.fixture
def site(cluster, probe, tmp_path):
    """The cluster with a highstate that makes ``site.changed``, and with a probe that ``site.busy`` sets."""
    cluster.changed, cluster.fail, counter = tmp_path / "changed", tmp_path / "fail", tmp_path / "counter"
    cluster.busy = lambda looks: counter.write_text(str(looks))
    cluster.busy(0)
    cluster.top(**{"*": ["deploytoken.gate", "work"]})
    unless = [{"name": str(cluster.changed)}, {"unless": f"test -e {cluster.fail}"}]
    broken = [{"name": "the database is away"}, {"onlyif": f"test -e {cluster.fail}"}]
    cluster.sls("work", {"work": {"file.touch": unless}, "broken": {"test.fail_without_changes": broken}})
    cluster.sls("part", {"part": {"file.touch": [{"name": str(tmp_path / "part")}]}})
    cluster.pillar_of("docs", busy={"counter": {"path": str(counter)}})
    cluster.ask("*", "saltutil.refresh_pillar", wait=True)
    return cluster


@pytest.fixture
def midway(site, tmp_path):
    """Deploys to the site that stop in the middle of the states (tests.support.deploy.Midway)."""
    begun = Midway(site, tmp_path)
    yield begun
    begun.clean()
