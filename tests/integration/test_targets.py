"""The target that was asked is the target that is deployed, whatever the master has cached of its minions."""

import pathlib
import shlex
import shutil
import time

import pytest
import salt.cache
import salt.config
import salt.version

from saltext.deploytoken.machines.base import TIMEOUT
from saltext.deploytoken.machines.master import Master
from tests.support.deploy import comment, deploy, results, step

WEB, DOCS = "kingfisher-main", "docs"
#: Targets of each type, whom each means, and what decides it: ids, what the minion says of itself, or its addresses.
TARGETS = [
    ("glob", "king*", WEB, "ids"),
    ("list", WEB, WEB, "ids"),
    ("pcre", "k.*n$", WEB, "ids"),
    ("compound", "* and not L@docs", WEB, "ids"),
    ("grain", "deployenv:prod", WEB, "data"),
    ("grain_pcre", "deployenv:pr.d$", WEB, "data"),
    ("pillar", "deployrole:we*", WEB, "data"),
    ("pillar_pcre", "deployrole:(web|front)", WEB, "data"),
    ("pillar_exact", "deployrole:web", WEB, "data"),
    ("compound", "J@deployrole:w.b and P@deployenv:prod", WEB, "data"),
    ("compound", "* and not G@deployenv:prod", DOCS, "data"),
    ("nodegroup", "production", WEB, "data"),
    ("nodegroup", "others", DOCS, "data"),
    ("ipcidr", "192.0.2.0/24", WEB, "addresses"),
    ("compound", "S@192.0.2.7 or I@deployrole:nothing", WEB, "addresses"),
]
NODEGROUPS = {"production": "G@deployenv:prod", "others": "not N@production"}


class Cache:
    """What the master has cached of its minions: on 3006 in a bank for each minion, on 3008 in one for each kind."""

    def __init__(self, opts):
        self._cache = salt.cache.factory(opts)
        self._old = salt.version.__saltstack_version__.major < 3007

    def _places(self, minion):
        return [(f"minions/{minion}", "data")] if self._old else [("grains", minion), ("pillar", minion)]

    def read(self, minion):
        return [self._cache.fetch(*place) for place in self._places(minion)]

    def write(self, minion, data):
        for place, one in zip(self._places(minion), data, strict=True):
            self._cache.store(*place, one)

    def forget(self, *minions):
        for minion in minions:
            for place in self._places(minion):
                self._cache.flush(*place)

    def swap(self, one, other):
        first, second = self.read(one), self.read(other)
        self.write(one, second)
        self.write(other, first)


@pytest.fixture(scope="module")
def grains(_cluster):
    """Two minions that differ in more than their ids."""
    addresses = {WEB: ("prod", "192.0.2.7"), DOCS: ("test", "198.51.100.7")}
    for minion, (env, address) in addresses.items():
        assert _cluster.ask(minion, "grains.setvals", {"deployenv": env, "ipv4": ["127.0.0.1", address]})
    yield
    for minion in addresses:
        for key in ("deployenv", "ipv4"):
            _cluster.ask(minion, "grains.delkey", key)


@pytest.fixture
def fleet(cluster, grains, tmp_path):
    """
    The cluster, with ``fleet.expect`` for a master that has the keys in ``fleet.keys``: of these two minions alone,
    and not of those that other tests started. ``fleet.cache`` is the master's own.
    """
    cluster.pillar_of("*", deployrole=f'{{{{ "web" if grains.id == "{WEB}" else "db" }}}}')
    opts = salt.config.client_config(str(cluster.folder / "master"))
    cluster.keys = tmp_path / "pki" / "minions"
    cluster.keys.mkdir(parents=True)
    for minion in (WEB, DOCS):
        shutil.copy(pathlib.Path(opts["pki_dir"]) / "minions" / minion, cluster.keys)
    options = {**opts, "pki_dir": str(tmp_path / "pki"), "nodegroups": NODEGROUPS}
    cluster.machines = lambda **more: Master({**options, **more})
    cluster.expect = lambda target, target_type, **more: cluster.machines(**more).expect(target, target_type)
    cluster.cache = Cache(opts)
    cluster.refresh = lambda: cluster.ask([WEB, DOCS], "saltutil.refresh_pillar", target_type="list", wait=True)
    assert cluster.refresh()
    yield cluster
    cluster.clean()
    cluster.refresh()


def differences(fleet, **options):
    """By what decides it: for each target, who is named because its word and the master's list differ."""
    named = {}
    for target_type, target, means, decides in TARGETS:
        expected, failed = fleet.expect(target, target_type, **options)
        # Nobody whom the target excludes, and whoever is missing is named.
        assert set(expected) <= {means}, target
        assert {means} - set(expected) <= set(failed), target
        named.setdefault(decides, {})[target] = set(failed)
    return named


def each(decides, *minions):
    return {target: set(minions) for _, target, _, by in TARGETS if by == decides}


def test_a_target_means_whom_salt_itself_reaches(fleet):
    for target_type, target, means, _ in TARGETS:
        whole = f"N@{target}" if target_type == "nodegroup" else target
        for group, parts in NODEGROUPS.items():  # the running master has none
            whole = whole.replace(f"N@{group}", parts).replace("N@production", NODEGROUPS["production"])
        asked = "compound" if target_type == "nodegroup" else target_type
        reached = fleet.ask(whole, "test.ping", target_type=asked, timeout=5)

        assert (sorted(reached), fleet.expect(target, target_type)) == ([means], ([means], {})), target


def test_without_a_cache_the_minions_alone_say_whom_a_target_means(fleet):
    named = differences(fleet, minion_data_cache=False)

    assert named == {"ids": each("ids"), "data": each("data"), "addresses": each("addresses")}


def test_a_minion_that_is_not_in_the_cache_is_named_where_the_list_is_wrong(fleet):
    fleet.cache.forget(WEB)
    # Of a minion that it does not know, the master's list has an address for right.
    assert differences(fleet) == {"ids": each("ids"), "data": each("data", WEB), "addresses": each("addresses")}

    fleet.cache.forget(DOCS)
    named = differences(fleet)
    assert named == {"ids": each("ids"), "data": each("data", WEB), "addresses": each("addresses", DOCS)}


def test_minions_whose_cache_is_old_are_named_until_it_is_refreshed_as_the_message_says(fleet):
    fleet.cache.swap(WEB, DOCS)
    named = differences(fleet)
    assert named == {"ids": each("ids"), "data": each("data", WEB, DOCS), "addresses": each("addresses", WEB, DOCS)}

    _, failed = fleet.expect("deployenv:prod", "grain")
    (command,) = {why.rpartition(": ")[2] for why in failed.values()}
    program, *words = shlex.split(command)
    assert fleet.command(program, *words).code == 0
    assert fleet.expect("deployenv:prod", "grain") == ([WEB], {})


def test_a_silent_minion_stops_what_the_list_has_it_in_and_costs_little_where_not(fleet):
    shutil.copy(fleet.keys / WEB, fleet.keys / "ghost")
    began = time.monotonic()
    assert fleet.expect("deployenv:prod", "grain") == ([WEB], {})
    assert time.monotonic() - began < TIMEOUT / 2

    impatient = {"deploytoken": {"patience": 2}}
    fleet.cache.write("ghost", fleet.cache.read(WEB))
    try:
        expected, failed = fleet.expect("deployenv:prod", "grain", **impatient)
    finally:
        fleet.cache.forget("ghost")
    assert (expected, list(failed)) == ([WEB], ["ghost"])
    assert failed["ghost"].startswith("did not answer within 2 seconds")
    expected, failed = fleet.expect("deployenv:prod", "grain", minion_data_cache=False, **impatient)
    assert (expected, list(failed)) == ([WEB], ["ghost"])
    assert "minion_data_cache" in failed["ghost"]


def test_a_function_is_followed_with_its_arguments_and_tells_which_job_it_was(fleet):
    followed = fleet.machines().follow([WEB, DOCS], "test.arg", ["a"], {"b": 2}, print)
    found = {minion: answer for minion, answer, _ in followed}

    assert sorted(found) == [DOCS, WEB]
    assert all(answer["ret"]["args"] == ["a"] and answer["ret"]["kwargs"]["b"] == 2 for answer in found.values())
    (jid,) = {answer["jid"] for answer in found.values()}
    assert sorted(fleet.run("jobs.lookup_jid", jid).data) == [DOCS, WEB]


def test_a_server_that_the_target_excludes_is_not_deployed_because_the_master_forgot_it(site, grains):
    site.cache = Cache(salt.config.client_config(str(site.folder / "master")))
    site.cache.forget(WEB)
    # The master also remembers minions of other tests, which are gone.
    target = {"target": f"L@{DOCS},{WEB} and not G@deployenv:prod", "target_type": "compound"}

    refused = deploy(site, **target)
    assert refused.code != 0, refused
    assert results(refused)["idle"] is False
    assert f"{WEB} says that the target does not mean it" in comment(refused, "idle")
    assert not site.changed.exists()

    program, *words = shlex.split(comment(refused, "idle").rpartition(": ")[2])
    assert site.command(program, *words).code == 0
    answer = deploy(site, **target)
    assert answer.code == 0, answer
    assert list(step(answer, "deploy")["minions"]) == [DOCS]


MODULE = "def version():\n    return {}\n"


@pytest.fixture
def module(fleet):
    path = fleet.states / "_modules" / "fresh.py"
    path.parent.mkdir(exist_ok=True)
    yield path
    path.unlink()
    fleet.ask([WEB, DOCS], "saltutil.sync_modules", target_type="list", saltenv="base")


def test_after_a_refresh_new_modules_and_pillar_count_and_no_module_is_gone(fleet, module):
    machines = fleet.machines()

    def serve(number, top):
        module.write_text(MODULE.format(number))
        fleet.pillar_of("*", number=number)
        (fleet.states / "top.sls").write_text(top)
        fleet.run("fileserver.clear_file_list_cache")
        assert machines.refresh([WEB, DOCS]) == {}
        # The very next job.
        questions = {"fresh.version": [], "match.pillar": [f"number:{number}"], "deploygate.ways": []}
        found = machines.call_all([WEB, DOCS], questions)
        return all(found[minion][:2] == [number, True] and "open" in found[minion][2] for minion in (WEB, DOCS))

    assert serve(1, "base: {'*': []}\n")
    # Salt's own sync takes from a minion what the environments of its top file do not have.
    fleet.sls("nothing", "nothing: test.nop", fleet.other)
    assert serve(2, f"other: {{{DOCS}: [nothing]}}\n")
    (fleet.pillar / "test.sls").write_text("{{ broken")
    failed = machines.refresh([WEB, DOCS])
    assert sorted(failed) == [DOCS, WEB]
    assert "Rendering SLS 'test' failed" in failed[DOCS]
