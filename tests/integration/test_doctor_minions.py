"""The doctor asks the running master and its minions, each once: what is missing there, and what to do about it."""

import pathlib

import pytest
from salt.config import master_config

from saltext.deploytoken import doctor, errors

SETUP = ["file server", "orchestration", "external pillar", "minions", "live token", "no gate"]


@pytest.fixture
def examine(cluster):
    """The doctor's checks by name, and whether it found the setup healthy; ``options`` of the master are changed."""

    def examine(**options):
        opts = {**master_config(str(cluster.folder / "master")), **options}
        try:
            checks, healthy = doctor.examine(opts)["checks"], True
        except errors.StoreError as refused:
            checks, healthy = refused.details["checks"], False
        assert healthy is all(check["ok"] is not False for check in checks)
        found = {check["name"]: check for check in checks}
        assert len(found) == len(checks)
        return found

    return examine


def failed(found):
    return [name for name, check in found.items() if check["ok"] is False]


def test_a_running_master_whose_minions_have_this_version_is_well_and_a_silent_minion_is_named(cluster, examine):
    with cluster.ghost() as silent:
        found = examine()

    assert failed(found) == []
    assert [name for name in found if name in SETUP] == SETUP
    assert found["minions"]["text"].startswith("2 minions ")
    assert found["silent minions"]["ok"] is None
    assert found["silent minions"]["text"].startswith(f"{silent} did not answer within 15 seconds")
    assert found["no gate"]["ok"] is None


def test_a_minion_with_another_file_is_found_and_mended_by_the_line_that_is_printed(cluster, examine):
    module = pathlib.Path(cluster.ask("docs", "config.get", "extension_modules")["docs"]) / "modules" / "busy.py"
    module.write_text(module.read_text() + "# of yesterday\n")

    found = examine()["minions"]

    assert found["ok"] is False
    assert found["text"].startswith("docs has another _modules/busy.py than this master; run `salt -L docs saltutil")
    assert "docs" in cluster.ask("docs", "saltutil.sync_all")
    assert examine()["minions"]["ok"] is True


def test_a_gate_of_which_a_part_is_missing_fails_and_so_does_a_master_without_the_external_pillar(cluster, examine):
    cluster.top(docs=["deploytoken.gate"])

    found = examine(ext_pillar=[])

    assert failed(found) == ["external pillar", "gate"]
    assert "restart the master" in found["external pillar"]["text"]
    assert found["gate"]["text"].startswith("docs: Published functions")
    assert found["no gate"]["text"].startswith("on kingfisher-main: ")
