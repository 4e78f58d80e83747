"""How reboots are told and ordered, over servers that do what a test wants, at the moment that it wants."""

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.machines import reboots
from tests.support.deploys import Rehearsal
from tests.support.machines import boot_id, states

REF = "f9c2a1b0"
OLD, NEW, THIRD = (boot_id(digit) for digit in (1, 2, 3))


class Clock:
    now = 0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Servers:
    """Each server's boot IDs, look by look; the last one stays. None is a look without an answer."""

    def __init__(self, leaving=(), **looks):
        self.looks = looks
        self.leaving = set(leaving)
        self.ordered, self.ill = [], {}

    def boots(self, ids, timeout=None):
        found = {}
        for minion in sorted(ids):
            seen = self.looks[minion]
            boot = seen.pop(0) if len(seen) > 1 else seen[0]
            if boot:
                found[minion] = boot
        return found

    def settled(self, ids, timeout=None):
        found = self.boots(ids)
        return found, found.keys() - self.leaving

    def order(self, ids):
        self.ordered += ids
        return {}

    def unhealthy(self, ids, check, ref, timeout):
        return {minion: self.ill[minion] for minion in ids if minion in self.ill}


def settle(servers, patience=60):
    return reboots.settle(servers, list(servers.looks), patience, lambda line: None, Clock())


def test_boot_ids_that_were_told_count_if_everybody_told_one():
    assert reboots.known({"a": OLD, "b": f"{NEW}\n"}, ["a"]) == {"a": OLD}
    for told in (None, {}, [OLD], {"b": NEW}, {"a": None}, {"a": ""}, {"a": "web1"}, {"a": 1}):
        assert reboots.known(told, ["a"]) is None


def test_who_comes_back_is_waited_for():
    assert settle(Servers(a=[OLD], b=[None, None, NEW])) == ({"a": OLD, "b": NEW}, {})


def test_who_stays_away_is_told():
    assert settle(Servers(a=[OLD], b=[None])) == ({"a": OLD}, {"b": "has not come back within 1 minute"})


def test_without_patience_there_is_one_look():
    servers = Servers(a=[OLD], b=[None, NEW], leaving="a")
    assert settle(servers, 0) == ({"a": OLD}, {"b": "did not answer"})


def test_who_is_still_to_go_down_does_not_count_as_back():
    assert settle(Servers(a=[OLD], leaving="a")) == ({}, {"a": "has a shutdown scheduled, later than in 1 minute"})


def reboot(servers, tmp_path, order, allowed=lambda ids: None, **more):
    notes = reboots.Notes(tmp_path, REF)
    settings = {
        "batch": 1,
        "patience": 60,
        "check": reboots.health(None),
        "ref": REF,
        "tell": lambda line: None,
        **more,
    }
    settings = {"clock": Clock(), **settings}
    return reboots.reboot(servers, order, allowed=allowed, notes=notes, **settings)


def test_a_silent_server_stops_everything_before_the_first_reboot(tmp_path):
    servers = Servers(a=[OLD, OLD, NEW], b=[None])
    with pytest.raises(errors.Failed) as caught:
        reboot(servers, tmp_path, ["a", "b"])
    assert (servers.ordered, caught.value.details["left"]) == ([], ["a", "b"])


def test_whoever_may_not_reboot_is_asked_before_each_batch_and_the_rest_is_left(tmp_path):
    servers = Servers(a=[OLD, OLD, NEW], b=[OLD, OLD, NEW], c=[OLD])
    asked = []

    def allowed(ids):
        asked.append(list(ids))
        if len(asked) > 1:
            raise errors.NotYours("the hold is over", token={"held_by": "Bob"})

    with pytest.raises(errors.NotYours) as caught:
        reboot(servers, tmp_path, ["b", "a", "c"], allowed, batch=2)
    assert (asked, servers.ordered) == ([["b", "a"], ["c"]], ["b", "a"])
    details = caught.value.details
    assert (list(details["rebooted"]), details["left"], details["token"]) == (["b", "a"], ["c"], {"held_by": "Bob"})
    assert str(caught.value) == "the hold is over (rebooted: b, a; not rebooted: c)"


def test_who_has_rebooted_already_is_not_rebooted_but_must_be_well(tmp_path):
    servers = Servers(a=[NEW])
    assert reboot(servers, tmp_path, ["a"], before={"a": OLD}) == {"a": {"old": OLD, "new": NEW}}
    servers.ill = {"a": "test.ping: False"}
    with pytest.raises(errors.Failed, match="a came back, and is not well"):
        reboot(servers, tmp_path, ["a"], before={"a": OLD})
    assert servers.ordered == []


def test_who_answers_with_the_boot_id_from_before_is_not_back_yet(tmp_path):
    assert reboot(Servers(a=[OLD, OLD, OLD, None, NEW]), tmp_path, ["a"])["a"] == {"old": OLD, "new": NEW}
    servers = Servers(a=[OLD], b=[OLD])
    with pytest.raises(errors.Failed, match="a did not reboot within 1 minute: it still has"):
        reboot(servers, tmp_path, ["a", "b"])
    assert servers.ordered == ["a"]


def test_a_server_that_is_not_well_at_once_may_become_so(tmp_path):
    servers = Servers(a=[OLD, OLD, NEW])
    servers.ill = {"a": "starting"}
    servers.unhealthy = lambda ids, check, ref, timeout: {servers.ill.popitem()[0]: "starting"} if servers.ill else {}
    assert reboot(servers, tmp_path, ["a"])["a"]["new"] == NEW


def test_an_interruption_names_who_was_ordered_to_reboot_and_who_was_not(tmp_path):
    servers = Servers(a=[OLD, OLD, NEW], b=[OLD, OLD, None], c=[OLD])
    clock = Clock()

    def ctrl_c(seconds):
        raise SystemExit(0)  # as Salt does

    clock.sleep = ctrl_c
    with pytest.raises(errors.Interrupted) as caught:
        reboot(servers, tmp_path, ["a", "b", "c"], clock=clock)
    assert servers.ordered == ["a", "b"]
    details = caught.value.details
    assert (list(details["rebooted"]), list(details["failed"]), details["left"]) == (["a"], ["b"], ["b", "c"])
    said = "Interrupted; b was ordered to reboot, and does so all the same (rebooted: a; not rebooted: c)"
    assert str(caught.value) == said


def test_the_machine_that_this_runs_on_is_never_rebooted(tmp_path, monkeypatch):
    monkeypatch.setattr(reboots, "here", lambda: NEW)
    servers = Servers(a=[OLD], b=[NEW])
    with pytest.raises(errors.Invalid, match="b has the boot ID of the machine"):
        reboot(servers, tmp_path, ["a", "b"])
    assert servers.ordered == []


def test_the_notes_of_a_hold_outlive_the_command_and_those_of_another_do_not(tmp_path):
    reboots.Notes(tmp_path, REF).keep({"a": OLD, "b": OLD, "c": OLD}, ordered={"a": OLD})
    again = reboots.Notes(tmp_path, REF)
    again.keep({"a": NEW, "b": NEW})
    assert again.rebooted({"a": NEW, "b": NEW, "c": OLD}) == {"a": "ordered", "b": "by itself"}
    assert reboots.Notes(tmp_path, "0badc0de").rebooted({"a": NEW}) == {}
    for damaged in ("", "[]", "{", '{"ref": "f9c2a1b0", "first": 1}'):
        (tmp_path / "deploytoken" / "reboots.json").write_text(damaged)
        assert reboots.Notes(tmp_path, REF).rebooted({"a": NEW}) == {}


def test_a_server_that_gave_no_answer_or_said_nothing_is_not_well():
    check = reboots.health("service.status")
    assert check.trouble(None) == "service.status: gave no answer"
    assert check.trouble({"ret": None, "retcode": 0}) == "service.status: returned nothing"
    assert check.trouble({"ret": True, "retcode": 0}) == ""


@pytest.mark.parametrize("ret", [{}, None, ["error"], {"a": {"result": None}}, {"a": {"result": True}, "b": "x"}])
def test_states_without_a_clear_success_are_no_health(ret):
    check = reboots.health({"sls": "smoke"})
    assert check.trouble({"ret": ret, "retcode": 0})
    assert not check.trouble({"ret": {"a_|-b_|-c_|-d": {"result": True}}, "retcode": 0})
    said = check.trouble({"ret": {"a_|-b_|-c_|-d": {"result": False, "comment": "down"}}, "retcode": 2})
    assert said == "SLS smoke: b: down"


def test_states_that_show_health_pass_the_gate_under_the_hold():
    asked = []

    class Machines:
        def collect_returns(self, ids, fun, arg, kwarg, timeout):
            asked.append((fun, arg, kwarg))
            return {}

    servers = reboots.Servers(Machines())
    assert list(servers.unhealthy(["a"], reboots.health({"sls": "smoke"}), REF, 6)) == ["a"]
    connect = {"function": "network.connect", "arg": ["127.0.0.1", 443], "kwarg": {"timeout": 2}}
    assert list(servers.unhealthy(["a"], reboots.health(connect), REF, 6)) == ["a"]
    pillar = {"pillar": {"deploytoken": {"ref": REF}}, "mods": ["smoke"]}
    states = ("state.sls", [], {"queue": False, "test": False, **pillar})
    assert asked == [states, ("network.connect", ["127.0.0.1", 443], {"timeout": 2})]


@pytest.mark.parametrize(
    "value",
    ["ping", "a b.c", 1, [], {}, {"sls": ""}, {"sls": []}, {"function": "a.b", "x": 1}, {"function": "state.apply"}],
)
def test_a_health_that_is_neither_function_nor_sls_is_refused(value):
    with pytest.raises(errors.Invalid, match=r"health(\.\w+)?: "):
        reboots.health(value)


def test_there_is_a_pause_between_batches_that_rebooted_and_none_after_the_last(tmp_path):
    servers, clock, told = Servers(a=[OLD, OLD, NEW], b=[OLD, OLD, NEW], c=[NEW]), Clock(), []
    reboot(servers, tmp_path, ["c", "a", "b"], before={"c": OLD}, clock=clock, tell=told.append, pause=600)
    # c had rebooted before, and nothing comes after b.
    assert [line for line in told if "waiting" in line] == ["waiting 10 minutes before b"]
    assert clock.now == 600
    assert servers.ordered == ["a", "b"]


def test_ctrl_c_in_a_pause_leaves_the_rest(tmp_path):
    servers, clock = Servers(a=[OLD, OLD, NEW], b=[OLD]), Clock()

    def ctrl_c(seconds):
        raise SystemExit(0)  # as Salt does

    clock.sleep = ctrl_c
    with pytest.raises(errors.Interrupted, match=r"Interrupted \(rebooted: a; not rebooted: b\)") as caught:
        reboot(servers, tmp_path, ["a", "b"], clock=clock, pause=600)
    assert (caught.value.details["left"], servers.ordered) == (["b"], ["a"])


REQUIRED = (
    "Core libraries or services have been updated:\n  kernel\n\nReboot is required to fully utilize these updates."
)


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ((True, "Debian", {}, None), True),
        ((True, "Gentoo", "'pkg.version' is not available.", None), True),
        ((False, "Debian", {"unattended-upgrades": "2.9", "reboot-notifier": ""}, None), False),
        ((False, "Debian", dict.fromkeys(reboots.WRITERS, ""), None), "nothing there writes /var/run/reboot-required"),
        ((False, "Debian", "'pkg.version' is not available.", None), "nothing there writes"),
        ((None, "Debian", {"unattended-upgrades": "2.9"}, None), "no sign"),
        ((False, "RedHat", {}, {"retcode": 0, "stdout": "Reboot should not be necessary.", "stderr": ""}), False),
        ((False, "RedHat", {}, {"retcode": 1, "stdout": REQUIRED, "stderr": ""}), True),
        (
            (False, "RedHat", {}, {"retcode": 1, "stdout": "", "stderr": "Error: no repository"}),
            "Error: no repository",
        ),
        (
            (False, "RedHat", {}, {"retcode": 127, "stdout": "", "stderr": "sh: needs-restarting: not found"}),
            "not found",
        ),
        ((False, "RedHat", {}, None), "no clear answer"),
        ((False, "RedHat", {}, "Refused: …"), "Refused: …"),
        ((False, "Suse", {}, None), "cannot tell whether it needs a reboot: Suse has no sign of it"),
    ],
)
def test_only_a_machine_that_says_so_needs_a_reboot_and_one_that_cannot_tell_is_named(signs, verdict):
    class Telling:
        def signs(self, ids):
            return {"a": signs}

    needing, unknown = reboots.required(Telling(), ["b", "a"])
    assert unknown.pop("b") == "did not answer within 15 seconds"
    assert needing == (["a"] if verdict is True else [])
    assert list(unknown) == (["a"] if isinstance(verdict, str) else [])
    assert verdict in unknown.get("a", "") if isinstance(verdict, str) else True


def test_a_server_that_is_named_twice_is_rebooted_once(tmp_path):
    deploy = Rehearsal(tmp_path, reboot=["b", "a", "b"])
    deploy.run(until="applied")
    assert deploy.record.reboots.order == ["b", "a"]


@pytest.mark.parametrize(("changes", "ordered"), [({}, []), ({"kernel": 2}, ["a"])], ids=["same", "changed"])
def test_a_server_that_rebooted_by_order_already_reboots_again_only_if_the_states_change_something(
    tmp_path, changes, ordered
):
    deploy = Rehearsal(tmp_path, reboot=["a"])
    deploy.run(until="noted")
    notes = reboots.Notes(deploy.opts["cachedir"], deploy.record.ref)
    notes.keep({"a": OLD, "b": OLD}, ordered={"a": OLD})
    deploy.machines.boots = {"a": [NEW] * 5 + [THIRD], "b": [OLD]}
    deploy.record.boots["a"] = NEW
    deploy.machines.returns["a"] = {"ret": states(changes=changes), "retcode": 0}
    for step in ("noted", "applied", "rebooted"):
        assert deploy.step(step)["result"] is True, deploy.returns[step]
    assert deploy.machines.ordered == ordered
    deploy.step("released")


def test_a_reboot_of_a_server_that_the_target_does_not_mean_or_of_this_machine_is_refused(tmp_path, monkeypatch):
    deploy = Rehearsal(tmp_path, reboot=["z"])
    assert "(nothing deployed: deploytoken.reboot: the target does not mean z)" in deploy.run()["comment"]
    monkeypatch.setattr(reboots, "here", lambda: boot_id(1))
    deploy.asked["reboot"], deploy.deploy = True, deploy.new()
    assert "deploytoken.reboot: a, b has the boot ID of the machine" in deploy.run()["comment"]
    assert deploy.machines.ordered == []
