"""`deploygate.ways` lists every known way round the gate that a minion leaves open, here without a master."""

import pathlib
import shutil
import subprocess
import sys

import pytest
import salt.payload

from saltext.deploytoken import config
from saltext.deploytoken.token import Token

WORK = "work:\n  test.nop: []\n"


@pytest.fixture
def ways(loaders, tmp_path, checkout):
    """``ways(schedule={…}, …)`` on a minion that is gated as it should be, but for what is said here."""
    options = {
        "deploytoken": {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"},
        "ext_pillar": [{"deploytoken": None}],
        "module_executors": ["deploygate", "direct_call"],
    }
    with Token(config.parse(options)) as token:
        token.store.create("Held by: nobody\n\nh2. History\n", "init")
    roots, other = tmp_path / "roots", tmp_path / "other"
    other.mkdir()
    for sls in ("gated", "elsewhere"):
        (other / f"{sls}.sls").write_text(WORK.replace("work", "elsewhere"))
    (other / "top.sls").write_text("other:\n  '*':\n    - elsewhere\n")
    (roots / "deploytoken").mkdir(parents=True)
    (roots / "deploytoken" / "gate.sls").write_bytes((checkout / "deploytoken" / "gate.sls").read_bytes())
    (roots / "work.sls").write_text(WORK)
    (roots / "gated.sls").write_text("include:\n  - deploytoken.gate\n" + WORK.replace("work", "gated"))

    def asked(top=("work", "deploytoken.gate"), **more):
        lines = "".join(f"    - {sls}\n" for sls in top)
        (roots / "top.sls").write_text(f"base:\n  '*':\n{lines}")
        salt = loaders("minion", **{**options, "file_roots": {"base": [str(roots)], "other": [str(other)]}, **more})
        found = salt.modules["deploygate.ways"]()
        assert salt.retcode == (1 if found["open"] else 0)
        return found

    return asked


def test_a_minion_with_executor_gate_state_and_live_token_leaves_nothing_open(ways):
    assert ways() == {"mode": "enforce", "executor": True, "gate_state": True, "live_token": True, "open": []}


@pytest.mark.parametrize("executors", [None, [], ["direct_call"], ["direct_call", "deploygate"], "deploygate"])
def test_an_executor_that_is_not_the_first_is_listed(ways, executors):
    found = ways(module_executors=executors)
    assert not found["executor"]
    assert "module_executors: [deploygate, direct_call]" in found["open"][0]


@pytest.mark.parametrize("top", [(), ("work",), ("no.such.sls",)])
def test_a_top_file_without_the_gate_is_listed(ways, top):
    found = ways(top)
    assert not found["gate_state"]
    assert "first into the top file" in found["open"][0]


@pytest.mark.parametrize("mode", ["warn", "off", False])
def test_a_gate_that_lets_everything_through_is_listed(ways, mode):
    found = ways(deploygate=mode)
    assert found["mode"] in found["open"][0]
    assert "Every run passes" in found["open"][0]


def test_a_token_that_cannot_be_had_is_listed(ways):
    found = ways(ext_pillar=[])
    assert not found["live_token"]
    assert "The gate cannot open. Refused: the pillar of this minion has no live deploy token" in found["open"][0]


PASSES = {
    "an SLS without the gate": {"function": "state.apply", "args": ["work"]},
    "another name for it": {"function": "state.sls", "kwargs": {"mods": "work"}},
    "two, of which one is gated elsewhere": {"function": "state.sls_id", "args": ["gated", "gated"]},
    "one state": {"function": "state.single", "args": ["test.nop", "x"]},
    "a highstate without its gate": {
        "function": "state.highstate",
        "kwargs": {"exclude": [{"sls": "deploytoken.gate"}]},
    },
    "an SLS that is not there": {"function": "state.apply", "args": ["no.such.sls"]},
    "an argument of another function": {"function": "cmd.run", "args": ["salt-call --local state.apply work"]},
    "a function that does not honour test": {"function": "state.low", "args": [{}], "kwargs": {"test": True}},
    "one of several": {"function": ["test.ping", "state.apply"], "args": ["work"]},
    "an old word": {"func": "state.apply", "args": ["work"]},
    "another old word": {"fun": "state.apply", "args": ["work"]},
    "__a name as of Salt's own": {"function": "state.apply", "args": ["work"]},
    "a highstate of some SLS": {"function": "state.highstate", "kwargs": {"whitelist": "work"}},
    "a highstate elsewhere": {"function": "state.highstate", "kwargs": {"saltenv": "other"}},
    "a highstate of an old compilation": {"function": "state.apply", "kwargs": {"cache": True}},
    "a highstate with a configuration of its own": {"function": "state.highstate", "kwargs": {"localconfig": "/x"}},
    "a highstate that breaks the glass": {
        "function": "state.apply",
        "kwargs": {"pillar": {"deploytoken": {"break_glass": "x", "by": "cron"}}},
    },
    "a gated SLS with a configuration of its own": {
        "function": "state.apply",
        "args": ["gated"],
        "kwargs": {"localconfig": "/x"},
    },
    "a gated SLS without its gate": {"function": "state.sls", "args": ["gated", False, [{"sls": "deploytoken.gate"}]]},
    "a gated SLS of elsewhere": {"function": "state.sls", "args": ["gated"], "kwargs": {"saltenv": "other"}},
    "arguments that are no list": {"function": "state.apply", "args": "gated"},
    "arguments of module.run": {"function": "module.run", "kwargs": {"m_args": [{"state.sls": ["work"]}]}},
    "another function of transactional_update": {"function": "transactional_update.call", "args": ["state.apply"]},
}
GATED = {
    "a highstate": {"function": "state.highstate"},
    "a bare apply": {"function": "state.apply"},
    "an SLS that includes the gate": {"function": "state.apply", "args": ["gated"]},
    "a test": {"function": "state.apply", "args": ["work"], "kwargs": {"test": True}},
    "something else": {"function": "test.ping"},
    "a look": {"function": "state.show_top"},
    "a highstate in its place": {"function": "state.highstate", "kwargs": {"saltenv": "base", "queue": True}},
    "a gated SLS in its place": {"function": "state.sls", "kwargs": {"mods": "gated", "saltenv": "base"}},
    "nothing of states": {"function": "transactional_update.reboot"},
}


def test_each_scheduled_job_that_passes_the_gate_is_named_and_no_other(ways):
    schedule = {
        "enabled": True,
        "splay": {"start": 1, "end": 2},
        **{name: {"hours": 24, **job} for name, job in {**PASSES, **GATED}.items()},
    }
    found = ways(schedule=schedule)["open"]
    named = {name for name in schedule for line in found if line.startswith(f"The scheduled job {name} (")}
    assert named == set(PASSES)
    assert len(found) == len(PASSES)


def test_a_scheduled_highstate_passes_where_the_top_file_has_no_gate(ways):
    found = ways(("work",), schedule={"nightly": {"function": "state.highstate"}})["open"]
    assert any("nightly (state.highstate)" in line for line in found)


@pytest.mark.parametrize("state_queue", [False, True])
def test_a_run_of_states_meanwhile_opens_nothing(ways, loaders, state_queue):
    proc = pathlib.Path(loaders("minion").opts["cachedir"]) / "proc"
    running = subprocess.Popen([sys.executable, "-c", "input()", "salt"], stdin=subprocess.PIPE)
    try:
        jid = "20260101000000000000"
        job = {"fun": "state.apply", "jid": jid, "pid": running.pid, "arg": [], "tgt": "*", "ret": "", "user": "root"}
        (proc / jid).write_bytes(salt.payload.dumps(job))
        assert loaders("minion").modules["state.running"](), "it counts as running"
        assert ways(state_queue=state_queue)["open"] == []
    finally:
        running.communicate(b"\n")


def test_what_would_take_the_gate_away_is_listed(ways, loaders, checkout):
    extmods = pathlib.Path(loaders("minion").opts["extension_modules"])
    shutil.copytree(checkout / "_executors", extmods / "executors")
    schedule = {"nightly": {"function": "state.highstate", "kwargs": {"saltenv": "other"}}}
    found = ways(autoload_dynamic_modules=True, schedule=schedule)["open"]
    assert found[0].startswith("A highstate takes the gate away. state.highstate would sync from base")
    assert found[-1].startswith("The scheduled job nightly takes the gate away. state.highstate would sync from other")
    assert ways(clean_dynamic_modules=False)["open"] == []
