"""A run whose sync would take this extension off the minion is seen before it runs, and refused by name."""

import hashlib
import json
import pathlib
import shutil
import socket
import tempfile

import pytest
from salt.exceptions import CommandExecutionError

from tests.support.salt import Config, tree

OWN = {"own": {"base": {"*": ["work"]}}}
DEV = {"dev": {"dev": {"*": ["work"]}}}


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A folder with what Salt's sync makes of this checkout, and with file roots."""
    folder = tmp_path_factory.mktemp("synced")
    for env in ("own", "dev"):
        (folder / env).mkdir()
        (folder / env / "work.sls").write_text("work:\n  test.nop: []\n")
    tree(folder)
    for kind in ("executors", "modules", "states", "output", "utils"):
        shutil.copytree(folder / "tree" / f"_{kind}", folder / "extmods" / kind)
    return folder


@pytest.fixture
def minion(synced, loaders):
    """
    ``minion({folder: top file}, …)``: a minion that has this extension from Salt's sync alone. The environments `base`
    (with the folder `own`) and `both` have it, `dev` (with the folder `dev`) does not.
    """
    sockets = tempfile.TemporaryDirectory(prefix="bus")  # below the test's own folder, a socket's name is too long
    buses = []

    def made(tops, **options):
        for env in ("own", "dev"):
            (synced / env / "top.sls").write_text(json.dumps(tops.get(env, {})))
        tree_, own, dev = (str(synced / name) for name in ("tree", "own", "dev"))
        roots = {"base": [tree_, own], "dev": [dev], "both": [tree_, dev]}
        options = {
            "autoload_dynamic_modules": True,
            "module_dirs": [],
            "sock_dir": sockets.name,
            "file_roots": roots,
            **options,
        }
        salt_ = loaders("minion", **options)
        shutil.copytree(synced / "extmods", salt_.opts["extension_modules"], dirs_exist_ok=True)
        # Somebody who does not listen: without a bus, Salt looks for one for a second.
        bus = socket.socket(socket.AF_UNIX)
        buses.append(bus)
        name = hashlib.new(salt_.opts["hash_type"], salt_.opts["id"].encode()).hexdigest()[:10]
        bus.bind(f"{sockets.name}/minion_event_{name}_pull.ipc")
        bus.listen(64)
        return salt_

    yield made
    for bus in buses:
        bus.close()
    sockets.cleanup()


# The top files, the minion's options, the function, its arguments; and whether the extension is there afterwards.
RUNS = {
    "a highstate": (OWN, {}, "state.highstate", [], {}, True),
    "of dev": (DEV, {}, "state.apply", [], {"saltenv": "dev"}, False),
    "of dev, as a test": (DEV, {}, "state.highstate", [], {"saltenv": "dev", "test": True}, False),
    "of dev, by the function that only tests": (DEV, {}, "state.test", [], {"saltenv": "dev"}, False),
    "of dev, where nothing is removed": (
        DEV,
        {"clean_dynamic_modules": False},
        "state.apply",
        [],
        {"saltenv": "dev"},
        True,
    ),
    "of dev, where nothing is synced": (
        DEV,
        {"autoload_dynamic_modules": False},
        "state.apply",
        [],
        {"saltenv": "dev"},
        True,
    ),
    "of both": ({"dev": {"both": {"*": ["work"]}}}, {}, "state.apply", [], {"saltenv": "both"}, True),
    "of an environment that is not there": (OWN, {}, "state.apply", [], {"saltenv": "dve"}, True),
    "of a minion that is in dev": (DEV, {"saltenv": "dev"}, "state.apply", [], {}, False),
    "of dev, with a configuration of its own": (
        {**OWN, **DEV},
        {},
        "state.highstate",
        [],
        {"saltenv": "dev", "localconfig": "/dev/null"},
        False,
    ),
    "with a top file that names dev alone": (DEV, {}, "state.apply", [], {}, False),
    "with a top file that names both": ({**OWN, **DEV}, {}, "state.apply", [], {}, True),
    "with states of dev in base": ({"own": {"base": {"*": [{"dev": "work"}]}}}, {}, "state.apply", [], {}, True),
    "with a top file that asks pillar": (
        {"own": {"{{ pillar.to }}": {"*": ["work"]}}},
        {},
        "state.apply",
        [],
        {"pillar": {"to": "dev"}},
        False,
    ),
    "with a top file that does not render": ({"own": {"{{ nothing.at.all }}": {}}}, {}, "state.apply", [], {}, True),
    "that leaves all out": (OWN, {}, "state.apply", [], {"whitelist": "other"}, False),
    "with another top file": (OWN, {}, "state.top", ["dev.sls"], {}, False),
    "an SLS of dev": (OWN, {}, "state.apply", ["work"], {"saltenv": "dev"}, True),
    "an SLS of dev, and its modules": (
        OWN,
        {},
        "state.sls",
        ["work"],
        {"saltenv": "dev", "sync_mods": "executors,grains"},
        False,
    ),
    "an SLS of dev, and its grains": (OWN, {}, "state.sls", ["work", None, None, None, "grains"], {}, True),
    "a sync of dev": (OWN, {}, "saltutil.sync_executors", ["dev"], {}, False),
    "a sync of both": (OWN, {}, "saltutil.sync_executors", [], {"saltenv": "base,dev"}, True),
    "a sync of a top file that names dev alone": (DEV, {}, "saltutil.sync_modules", [], {}, False),
    "a sync of what is not ours": (OWN, {}, "saltutil.sync_beacons", ["dev"], {}, True),
}


@pytest.mark.parametrize("run", RUNS)
def test_it_is_known_beforehand_whether_a_run_takes_the_extension_off_the_minion(minion, synced, run):
    tops, options, fun, args, kwargs, stays = RUNS[run]
    (synced / "own" / "dev.sls").write_text("dev: {'*': [work]}")
    salt_ = minion(tops, **options)
    extmods = pathlib.Path(salt_.opts["extension_modules"])
    files = {extmods / kind / "deploygate.py" for kind in ("executors", "modules", "states")}
    answer = salt_.modules["deploygate.keeps"](fun=fun, args=args, kwargs=kwargs)
    salt_.modules[fun](*args, **kwargs)
    assert all(file.exists() for file in files) is stays, "what Salt does"
    assert answer["keeps"] is stays


# Whatever the mode: a minion that has lost the executor's file refuses every function.
@pytest.mark.parametrize(
    ("mode", "run"), [("enforce", "of dev, as a test"), ("warn", "a sync of dev"), ("off", "of dev, as a test")]
)
def test_the_executor_refuses_such_a_run_with_the_remedy(minion, mode, run):
    tops, options, fun, args, kwargs, _ = RUNS[run]
    executors = minion(tops, deploygate=mode, **options).executors
    remedy = r"sync from dev, .*`clean_dynamic_modules: False` into the minion's configuration and restart it, or add "
    with pytest.raises(CommandExecutionError, match=remedy):
        executors["deploygate.execute"]({}, {"fun": fun}, fun, args, kwargs)


def test_what_cannot_be_known_is_refused(minion):
    answer = minion(OWN, lock_saltenv=True).modules["deploygate.keeps"]("dev")
    assert not answer["keeps"]
    assert "lock_saltenv" in answer["why"]


def test_what_did_not_come_by_sync_is_not_removed_by_it(loaders):
    assert loaders("minion", autoload_dynamic_modules=True).modules["deploygate.keeps"]("dev")["keeps"]


def test_a_minion_whose_colleague_tries_another_environment_still_answers(synced, tmp_path):
    for folder in ("etc", "cache"):
        (tmp_path / folder).mkdir()
    (synced / "dev" / "top.sls").write_text(json.dumps(DEV["dev"]))
    options = {
        **{key: str(tmp_path / "cache") for key in ("root_dir", "cachedir", "pki_dir", "sock_dir")},
        "extension_modules": str(tmp_path / "extmods"),
        "id": "web1",
        "file_client": "local",
        "file_roots": {"base": [str(synced / "tree")], "dev": [str(synced / "dev")]},
        "module_executors": ["deploygate", "direct_call"],
    }

    def call(*words, **more):
        (tmp_path / "etc" / "minion").write_text(json.dumps({**options, **more}))
        return Config(tmp_path / "etc").command("salt-call", "--local", *words)

    assert call("--module-executors=[direct_call]", "saltutil.sync_all", "saltenv=base").code == 0
    refused = call("state.apply", "saltenv=dev", "test=True")
    assert refused.code != 0, refused
    assert "Refused: state.apply would sync from dev" in refused.stderr
    assert call("test.ping").data == {"local": True}
    kept = call("state.apply", "saltenv=dev", "test=True", clean_dynamic_modules=False)
    assert kept.code == 0, kept
    assert list(tmp_path.rglob("executors/deploygate.py")), "the executor is still there"


def test_the_files_by_which_an_environment_is_known_are_there(loaders, checkout):
    rule = loaders("minion").modules["deploygate.keeps"].__globals__
    assert [name for name in rule["SYNCED"] + rule["MASTERLESS"] if not (checkout / name).is_file()] == []
