"""Every step of the token arrives on a real master's event bus, and no secret with it."""

import contextlib
import json

import pytest
from salt import config as salt_config
from salt.utils import event as salt_event

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
    released = cluster.run("deploytoken.release", ref=displaced["ref"], summary="all well").data

    acquired, refused, takenover, over = bus.wait("acquired", "refused", "takenover", "released")

    assert taken.pop("taken") is True
    assert {key: acquired[key] for key in taken} == taken
    assert (refused["name"], refused["purpose"]) == ("Bob", "me too")
    assert (refused["held_by"], refused["ref"], refused["reason"]) == ("Alice", taken["ref"], "upgrade")
    assert (takenover["held_by"], takenover["displaced"]["held_by"]) == ("Bob", "Alice")
    assert (over["held_by"], over["name"], over["released"]) == (None, "Bob", displaced["ref"])
    assert over["entry"] == released["entry"]
    assert {data["url"] for data in (acquired, refused, takenover, over)} == {taken["url"]}

    # Nor in what Salt itself says there about each run: its arguments and its return.
    assert len(bus.raw) > 4
    assert redmine.key("alice") not in "".join(bus.raw)


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
