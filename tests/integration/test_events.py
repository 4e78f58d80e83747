"""Every step of the token arrives on a real master's event bus, and no secret with it."""

import contextlib
import json

import pytest
from salt import config as salt_config
from salt.utils import event as salt_event

from tests.support.salt import CAROL
from tests.support.wait import until


class Bus:
    """What came over the master's bus under ``deploytoken/`` since the listener was connected."""

    def __init__(self, event):
        self._event = event
        self.seen = []
        self.raw = []

    def wait(self, *words):
        """Wait for these events, in this order, and return their data."""

        def came():
            while found := self._event.get_event(wait=0.1, full=True, no_block=False):
                self.raw.append(json.dumps(found, default=repr))
                if found["tag"].startswith("deploytoken/"):
                    self.seen.append((found["tag"].removeprefix("deploytoken/"), found["data"]))
            return len(self.seen) >= len(words)

        until(came, 120, f"the events {words}")
        seen = self.seen[: len(words)]  # who waits says so again and again
        assert [word for word, _ in seen] == list(words)
        return [data for _, data in seen]


@pytest.fixture
def bus(cluster):
    opts = salt_config.master_config(str(cluster.folder / "master"))
    with salt_event.get_master_event(opts, opts["sock_dir"], listen=True) as event:
        assert event.connect_pub(timeout=10)
        yield Bus(event)


def test_every_step_arrives_on_the_bus_and_no_secret_with_it(cluster, bus, redmine):
    taken = cluster.run("deploytoken.acquire", reason="upgrade", name="Alice").data
    assert cluster.run("deploytoken.acquire", reason="me too", name="Bob").code == 3
    displaced = cluster.run("deploytoken.takeover", ref=taken["ref"], reason="urgent", name="Bob").data
    extended = cluster.run("deploytoken.extend", expect="2h").data
    dora = {"SUDO_USER": "dora"}
    words = {"ref": displaced["ref"], "summary": "all well", "for_holder": True}
    released = cluster.run("deploytoken.release", environment=dora, **words).data

    acquired, refused, takenover, longer, over = bus.wait("acquired", "refused", "takenover", "extended", "released")

    assert taken.pop("taken") is True
    assert {key: acquired[key] for key in taken} == taken
    assert (refused["name"], refused["purpose"]) == ("Bob", "me too")
    assert (refused["held_by"], refused["ref"], refused["reason"]) == ("Alice", taken["ref"], "upgrade")
    assert (takenover["held_by"], takenover["displaced"]["held_by"]) == ("Bob", "Alice")
    assert (over["held_by"], over["name"], over["released"]) == (None, "Bob", displaced["ref"])
    assert {key: longer[key] for key in extended} == extended
    assert over["entry"] == released["entry"]
    assert (takenover["by"].partition("@")[0], over["released_by"], over["by"].partition("@")[0]) == (
        *("root", "dora", "dora"),
    )
    assert {data["url"] for data in (acquired, refused, takenover, longer, over)} == {taken["url"]}

    # Nor in what Salt itself says there about each run: its arguments and its return.
    assert len(bus.raw) > 4
    assert redmine.key("alice") not in "".join(bus.raw)


def test_a_program_that_asks_through_salt_api_gets_data(cluster):
    from salt.netapi import NetapiClient

    # What salt-api does with a request, but for HTTP.
    api = NetapiClient(salt_config.client_config(str(cluster.folder / "master")))
    taken = cluster.run("deploytoken.acquire", reason="upgrade").data
    answers = {
        function: api.run({"client": "runner", "fun": function, **CAROL, **named})
        for function, named in {
            "deploytoken.history": {"limit": 1},
            "deploytoken.doctor": {},
            "busy.check": {"target": "docs"},
        }.items()
    }
    assert [hold["ref"] for hold in answers["deploytoken.history"]["holds"]] == [taken["ref"]]
    assert "minions" in {check["name"] for check in answers["deploytoken.doctor"]["checks"]}
    assert answers["busy.check"]["expected"] == ["docs"]
    assert [function for function, answer in answers.items() if "outputter" in answer] == []


def test_a_waiter_says_so_until_the_token_is_free(cluster, bus):
    ref = cluster.run("deploytoken.acquire", reason="upgrade", name="Alice").data["ref"]
    waiter = cluster.popen("deploytoken.acquire", reason="me too", name="Bob", wait="5m")
    try:
        _, waiting = bus.wait("acquired", "waiting")
        assert (waiting["name"], waiting["purpose"], waiting["held_by"]) == ("Bob", "me too", "Alice")
        assert 0 < waiting["left"] <= 300
        cluster.run("deploytoken.release", ref=ref, summary="all well")
        out, _ = waiter.communicate(timeout=120)
        assert json.loads(out)["held_by"] == "Bob"
    finally:
        if waiter.poll() is None:
            waiter.terminate()
            with contextlib.suppress(Exception):
                waiter.communicate(timeout=30)
    assert cluster.run("deploytoken.release", ref=json.loads(out)["ref"], summary="all well").code == 0
