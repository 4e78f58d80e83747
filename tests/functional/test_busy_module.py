"""``busy.check`` on a minion: each probe by itself, all bounded, and nothing but a clear "idle" is idle."""

import json
import pathlib
import re
import textwrap
import time

import pytest

from tests.support import minion

IDLE = "return {'blockers': [], 'unknowns': [], 'info': []}"
ONE = "return {'blockers': [{'id': 'x', 'what': 'y', 'since': 1700000000}], 'unknowns': [], 'info': []}"


@pytest.fixture
def check(checkout, tmp_path):
    """``check(busy, {module: body of its probe})``: the answer, and the return code."""

    def check(busy=None, probes=(), **more):
        folder = tmp_path / "modules" / "_modules"
        folder.mkdir(parents=True, exist_ok=True)
        for name, body in dict(probes).items():
            source = f"import sys, time\n\ndef probe(**settings):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
            (folder / f"{name}.py").write_text(source)
        functions = minion.functions(checkout, tmp_path, busy, modules=[folder.parent], **more)
        return functions["busy.check"](), functions.busy_context.get("retcode", 0)

    return check


def test_a_minion_without_configured_checks_is_idle_and_says_so(check):
    for busy in (None, {}):
        answer, code = check(busy)
        assert (answer["idle"], answer["checks"], answer["note"], code) == (True, [], "no checks configured", 0)


def test_an_answer_says_in_which_boot_it_was_given(check):
    assert check()[0]["boot"] == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_idle_probes_make_an_idle_minion_and_one_blocker_a_busy_one(check):
    probes = {"p_idle": IDLE, "p_one": ONE}

    idle, code = check({"p_idle": {}}, probes)
    assert (idle["idle"], idle["checks"], code) == (True, ["p_idle"], 0)

    busy, code = check({"p_idle": None, "p_one": True}, probes)
    (blocker,) = busy["blockers"]
    assert (busy["idle"], code) == (False, 7)
    assert blocker["id"] == "kingfisher-main/p_one/x"
    assert blocker["since"] == "2023-11-14T22:13:20Z"
    assert blocker["age"] == pytest.approx(time.time() - 1700000000, abs=60)
    assert (blocker["probe"], blocker["what"], blocker["user"], blocker["ask"]) == ("p_one", "y", None, None)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('hunter2')", "failed with RuntimeError in probe"),
        ("raise TypeError('hunter2')", "failed with TypeError"),
        ("sys.exit(0)", "failed"),
        ("return None", "not three lists"),
        ("return []", "not three lists"),
        ("return {'blockers': []}", "not three lists"),
        ("return {'blockers': ['x'], 'unknowns': [], 'info': []}", "not three lists"),
        ("return {'blockers': (), 'unknowns': [], 'info': []}", "not three lists"),
        ("return {'blockers': [], 'unknowns': [{}], 'info': []}", "no reason given"),
        ("from salt.exceptions import CommandExecutionError as E; raise E('cannot look')", "cannot look"),
        (
            "from salt.exceptions import SaltInvocationError as E; raise E('older_than: no')",
            "busy.p_bad.older_than: no",
        ),
        ("return {'blockers': [{'id': str(n)} for n in range(300)], 'unknowns': [], 'info': []}", "100 blockers more"),
    ],
)
def test_a_bad_probe_is_unknown_and_does_not_hide_the_others(check, body, why):
    answer, code = check({"p_bad": {"password": "hunter2"}, "p_one": {}}, {"p_bad": body, "p_one": ONE})

    assert (answer["idle"], code) == (False, 7)
    assert "kingfisher-main/p_one/x" in [blocker["id"] for blocker in answer["blockers"]]
    assert why in next(unknown["why"] for unknown in answer["unknowns"] if unknown["probe"] == "p_bad")
    assert "hunter2" not in json.dumps(answer)


@pytest.fixture
def limits(checkout, tmp_path):
    """``limits(SECONDS=1)``: the module with another limit."""

    def limits(**seconds):
        module = (checkout / "_modules/busy.py").read_text()
        for name, value in seconds.items():
            module, times = re.subn(rf"^{name} = \d+", f"{name} = {value}", module, flags=re.MULTILINE)
            assert times == 1
        (tmp_path / "modules/_modules").mkdir(parents=True)
        (tmp_path / "modules/_modules/busy.py").write_text(module)

    return limits


def test_a_probe_that_hangs_is_given_up_and_the_others_are_asked(limits, check):
    limits(SECONDS=1)

    answer, _ = check({"p_hangs": {}, "p_one": {}}, {"p_hangs": "time.sleep(7777)", "p_one": ONE})

    assert [blocker["probe"] for blocker in answer["blockers"]] == ["p_one"]
    assert answer["unknowns"] == [{"probe": "p_hangs", "why": "did not answer within 1 seconds"}]


def test_probes_that_hang_do_not_take_the_time_of_those_after_them(limits, check):
    limits(SECONDS=2, TOTAL=3, LEAST=1)
    hung = {f"p_{letter}": "time.sleep(7777)" for letter in "ab"}

    answer, _ = check({**{name: {} for name in hung}, "p_one": {}}, {**hung, "p_one": ONE})

    assert [blocker["probe"] for blocker in answer["blockers"]] == ["p_one"]
    assert [unknown["probe"] for unknown in answer["unknowns"]] == list(hung)


def test_a_lookup_of_a_password_that_hangs_is_given_up(limits, tmp_path, check):
    limits(SECONDS=1)
    (tmp_path / "modules/_modules/sdb.py").write_text("import time\n\ndef get(uri):\n    time.sleep(7777)\n")

    answer, _ = check({"p_idle": {"password": "sdb://vault/x"}, "p_one": {}}, {"p_idle": IDLE, "p_one": ONE})

    assert [blocker["probe"] for blocker in answer["blockers"]] == ["p_one"]
    assert answer["unknowns"] == [{"probe": "p_idle", "why": "did not answer within 1 seconds"}]


@pytest.mark.parametrize(
    ("busy", "why"),
    [
        ([], "busy: a mapping"),
        ("tmux", "busy: a mapping"),
        ({"tmxu": {}}, "busy.tmxu: this minion has no function tmxu.probe"),
        ({"tmux": 3}, "busy.tmux: settings are needed"),
        ({"tmux": []}, "busy.tmux: this probe takes a mapping of settings"),
        ({"tmux": {"idle-shell": 1}}, "busy.tmux.idle-shell: no such key; known are: idle_shells, timeout, users"),
        ({"tmux": {"idle_shells": True}}, "busy.tmux.idle_shells: True is neither"),
        ({"tmux": {"users": ["no-such-user"]}}, "busy.tmux.users: there is no user"),
        ({"tmux": {"timeout": "soon"}}, "busy.tmux.timeout: 'soon' is not a duration"),
        ({"screen": {"users": "ana"}}, "busy.screen.users: a list"),
        ({"processes": {}}, "busy.processes.patterns: needed"),
        ({"processes": {"patterns": ["x"], "older_than": "soon"}}, "busy.processes.older_than: 'soon' is not"),
        ({"processes": {"patterns": ["x", {"match": ""}]}}, "busy.processes.patterns.1.match: is empty"),
        ({"scrapyd": [3]}, "busy.scrapyd.0: a mapping"),
        ({"scrapyd": []}, "busy.scrapyd: a list of one server or more"),
        ({"scrapyd": {"instances": [], "crawls": False}}, "busy.scrapyd.instances: a list of one server or more"),
        ({"scrapyd": [{}, {"url": "x"}]}, "busy.scrapyd.1.url: an address"),
        ({"scrapyd": {"instances": [{"pasword": "x"}]}}, "busy.scrapyd.instances.0.pasword: no such key"),
        ({"scrapyd": {"password": 12345}}, "busy.scrapyd.password: must be text"),
        ({"scrapyd": {"crawls": "no"}}, "busy.scrapyd.crawls: 'no' is not true or false"),
        ({"postgres": [{}, {"timeout": True}]}, "busy.postgres.1.timeout: True is not a duration"),
        ({"postgres": {"user": 3}}, "busy.postgres.user: must be text"),
        ({"who": {"block": "maybe"}}, "busy.who.block: 'maybe' is not true or false"),
        ({"scrapyd": {"password": "sdb://nowhere/x"}}, "busy.scrapyd.password: sdb://nowhere/x has no value"),
        ({"scrapyd": [{"password": "sdb://nowhere/x"}]}, "busy.scrapyd.0.password: sdb://nowhere/x has no value"),
        ({"../x": {}}, "busy.../x"),
    ],
)
def test_malformed_configuration_is_unknown_and_names_the_key(check, busy, why):
    answer, code = check(busy)

    assert (answer["idle"], code) == (False, 7)
    assert answer["unknowns"][0]["why"].startswith(why)
    assert "12345" not in json.dumps(answer)


def test_pillar_counts_before_the_minions_configuration_and_false_switches_a_probe_off(check):
    answer, _ = check(
        pillar={"busy": {"p_one": False}}, opts_busy={"p_one": {}, "p_idle": {}}, probes={"p_one": ONE, "p_idle": IDLE}
    )

    assert (answer["idle"], answer["checks"]) == (True, ["p_idle"])


def test_a_pillar_that_did_not_render_is_unknown(check):
    answer, _ = check(pillar={"_errors": ["Rendering SLS 'busy' failed"]})

    assert answer["idle"] is False
    assert "pillar has errors" in answer["unknowns"][0]["why"]


def test_two_ids_that_are_made_harmless_stay_two(check):
    ids = [{"id": "a*"}, {"id": "a?"}, {"id": "b" * 300}, {"id": "b" * 299}]
    body = f"return {{'blockers': {ids}, 'unknowns': [], 'info': []}}"
    answer, _ = check({"p_ids": {}}, {"p_ids": body})

    assert len({blocker["id"] for blocker in answer["blockers"]}) == 4


def test_nothing_running_costs_little(check, checkout, tmp_path):
    functions = minion.functions(
        checkout, tmp_path, {"tmux": {}, "screen": {}, "who": {}, "processes": {"patterns": ["rsync-of-test"]}}
    )

    def cost(function):
        times = []
        for _ in range(6):
            begin = time.process_time()
            function()
            times.append(time.process_time() - begin)
        return sorted(times[1:])[2]

    # Processor time, which other work hardly stretches; on a slow machine, or one with very many processes, in looks
    # at all of them, of which it takes five.
    look = cost(lambda: functions["proctable.listing"](commands=True))
    assert cost(functions["busy.check"]) < max(0.15, 12 * look)
