"""The doctor finds what is missing on the master, and in what minions said, and how to mend it."""

import contextlib
import shutil
import sqlite3
import subprocess

import pytest

from saltext.deploytoken import doctor, errors
from saltext.deploytoken.doctor import minions

OWN = {"modules/busy.py": "a", "states/deploygate.py": "b"}
GATED = {"mode": "enforce", "executor": True, "gate_state": True, "live_token": True, "open": []}
BARE = {"mode": "enforce", "executor": False, "gate_state": False, "live_token": True, "open": ["much passes."]}


@pytest.fixture
def examine(loaders, tmp_path):
    """The doctor's checks by name, of a master with a token in a file; ``options`` of the master are changed."""

    def examine(page=None, repositories=None, history=None, **options):
        token = {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"}
        token |= {key: value for key, value in {"repositories": repositories, "history": history}.items() if value}
        salt = loaders(deploytoken=token)
        salt.runners["deploytoken.init"]()
        if page is not None:
            with contextlib.closing(sqlite3.connect(tmp_path / "token.db")) as database, database:
                database.execute("UPDATE page SET text = ?", (page,))
        try:
            checks = doctor.examine({**salt.opts, **options})["checks"]
        except errors.StoreError as refused:
            checks = refused.details["checks"]
        return {check["name"]: check for check in checks}

    return examine


def failed(found):
    return [name for name, check in found.items() if check["ok"] is False]


def test_an_installation_of_which_the_master_or_the_file_server_lacks_a_part_fails(examine, checkout, tmp_path):
    found = examine(file_roots={"base": []})
    assert failed(found) == ["file server"]
    assert "deploytoken/deploy.sls" in found["file server"]["text"]
    assert "add a checkout of this extension to file_roots" in found["file server"]["text"]

    root = tmp_path / "root"
    for name in ("_executors", "_modules", "_output", "_states", "deploytoken"):
        shutil.copytree(checkout / name, root / name)
    assert failed(examine(file_roots={"base": [str(root)]})) == []
    (root / "_modules" / "busy.py").write_text("# of yesterday\n")
    found = examine(file_roots={"base": [str(root)]})
    assert failed(found) == ["file server"]
    assert "_modules/busy.py in another version than this master" in found["file server"]["text"]
    shutil.rmtree(root / "_output")
    assert "has no _output/busy.py" in examine(file_roots={"base": [str(root)]})["file server"]["text"]

    found = examine(module_dirs=[], ext_pillar=[{"deploytoken": None}])
    assert failed(found) == ["file server", "orchestration", "external pillar"]
    assert all("salt-run saltutil.sync_all" in found[name]["text"] for name in failed(found))


def test_the_external_pillar_is_asked_and_its_error_is_shown(examine, tmp_path):
    assert examine(ext_pillar=[{"deploytoken": {}}])["external pillar"]["ok"] is True

    # As after a run by another user: the gate in the master's workers could not keep its answer there.
    (tmp_path / "loaders/cache/deploytoken").rename(tmp_path / "gone")
    (tmp_path / "loaders/cache/deploytoken").touch()
    found = examine(ext_pillar=[{"git": "…"}, {"deploytoken": {}}])
    assert failed(found) == ["external pillar"]
    assert "gives gates no answer: FileExistsError" in found["external pillar"]["text"]


def test_each_repository_has_a_line_and_one_that_cannot_be_fetched_fails_by_name(examine, tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=Ana", "-c", "user.email=ana@example.org", *words], check=True)

    git("init", "-q", "-b", "main", tmp_path / "states.git")
    git("-C", tmp_path / "states.git", "commit", "-q", "--allow-empty", "-m", "first")
    git("clone", "-q", tmp_path / "states.git", tmp_path / "states")
    git("-C", tmp_path / "states.git", "commit", "-q", "--allow-empty", "-m", "second")

    found = examine(repositories=[str(tmp_path / "states"), str(tmp_path / "missing")])

    assert failed(found) == ["repository missing"]
    assert str(tmp_path / "missing") in found["repository missing"]["text"]
    assert found["repository states"]["text"].endswith("of main, and the next deploy brings 1 commit")


@pytest.mark.parametrize(
    ("lines", "history", "ok"),
    [
        ("|_. When |_. Who |_. Ref |\n| 2020-01-01 | Bob | 1 |\n", None, False),
        ("* 2020-01-01 Bob: upgraded\n", {"entry": "| {until} | {name} | {ref} |"}, False),
        ("- 2020-01-01 Bob: upgraded\n", None, False),
        ("* 2020-01-01 Bob: upgraded\n", None, True),
        ("|_. When |_. Who |_. Ref |\n", {"entry": "| {until} | {name} | {ref} |"}, True),
        ("Nothing yet.\n", None, None),
    ],
)
def test_a_history_of_another_form_than_the_entries_fails(examine, lines, history, ok):
    found = examine(page=f"Held by: nobody\n\nh2. History\n\n{lines}", history=history).get("entries")

    assert (found and found["ok"]) is ok
    if ok is False:
        assert "deploytoken.history.entry" in found["text"]


def said(reports, failed=None, own=OWN):
    return {name: (ok, text) for name, ok, text in minions.judge(reports, failed or {}, own)}


def report(gate=GATED, **files):
    return {"files": {**OWN, **files}, "gate": gate}


def test_minions_without_this_version_are_named_with_the_command_that_mends_them():
    old = said({"web1": report(), "web2": report(**{"states/deploygate.py": None})}, {"web3": "'x' is not available."})
    assert old["minions"] == (
        False,
        "web2 has another _states/deploygate.py than this master; web3 says: 'x' is not available.; run `salt -L"
        " web2,web3 saltutil.sync_all`",
    )
    assert said({"web1": report(**{"modules/busy.py": "c"})})["minions"][1].endswith(
        "run `salt '*' saltutil.sync_all`"
    )
    assert said({"web1": report()})["minions"] == (True, "1 minion with the files of this master's version")


def test_a_gate_is_well_where_all_of_it_is_in_place_and_told_from_none_and_from_a_lenient_one():
    lenient = {**GATED, "mode": "warn", "open": ["Every run passes: deploygate is warn. Set it to enforce."]}
    broken = {**GATED, "executor": False, "open": ["Published functions pass."]}
    mute = {**GATED, "live_token": False, "open": ["The gate cannot open. Refused: no live deploy token."]}

    assert said({"web1": report(), "web2": report(BARE), "web3": report(lenient)}).keys() == {
        *("minions", "live token", "gate", "lenient gate", "no gate")
    }
    assert said({"web1": report()})["gate"][0] is True
    assert said({"web1": report(), "web2": report(broken)})["gate"] == (False, "web2: Published functions pass.")
    found = said({"web1": report(mute)})
    assert (found["live token"][0], found["gate"][0]) == (False, True)
    assert "no live deploy token" in found["live token"][1]
    assert "restart the master" in found["live token"][1]
    assert said({"web1": report({})})["live token"][0] is False


@pytest.mark.parametrize(
    "answer", [{"files": {}}, {"gate": {}, "files": None}, {}, None, [], "no such function"], ids=repr
)
def test_a_minion_that_answers_something_else_is_named_and_ends_nothing(answer):
    reports, failed = minions.understand({"web1": {"ret": answer, "retcode": 0}})
    found = {check.name: check for check in minions.judge(reports, failed, {})}
    assert found["minions"].ok is False
    assert found["minions"].text.startswith("web1 says: ")
