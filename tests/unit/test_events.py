"""Which event each step sends, and what is in it."""

import pytest

from saltext.deploytoken import config, errors, token
from saltext.deploytoken.people import Account


@pytest.fixture
def desk(tmp_path):
    """``desk()``: somebody's token on one page, and the events that were sent."""
    parsed = config.parse({"deploytoken": {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"}})
    sent = []
    made = token.Token(
        parsed, notify=lambda event, data: sent.append((event, data)), account=Account("root", "master1", plain=True)
    )
    made.store.create("Held by: nobody\n\nh2. History\n", "init")
    return made, sent


def test_taking_the_token_is_one_event_and_confirming_it_is_none(desk):
    made, sent = desk
    taken = made.acquire("upgrade", ref="aaaaaaaa")
    assert taken.pop("taken") is True
    assert made.acquire("upgrade", ref="aaaaaaaa") == {**taken, "taken": False}
    assert made.acquire("upgrade", ref="aaaaaaaa", resume=True)["taken"] is False

    assert sent == [("acquired", taken)]


def test_who_is_refused_and_who_waits_is_told_from_who_holds_it(desk, monkeypatch):
    made, sent = desk
    made.acquire("upgrade", ref="aaaaaaaa")
    monkeypatch.setattr(token, "POLL", 0.2)
    with pytest.raises(errors.Held):
        made.acquire("me too", name="Bob", wait=0.3)

    assert {event for event, _ in sent[1:-1]} == {"waiting"}
    assert sent[-1][0] == "refused"
    for _, data in sent[1:]:
        assert (data["name"], data["purpose"]) == ("Bob", "me too")
        assert (data["held_by"], data["reason"], data["ref"]) == ("Alice", "upgrade", "aaaaaaaa")
        assert data["url"] == made.store.url
    assert sent[1][1]["left"] == 0


def test_a_change_a_release_and_a_takeover_tell_whose_hold_it_was_and_who_did_it(desk):
    made, sent = desk
    made.acquire("upgrade", ref="aaaaaaaa")
    extended = made.extend(expect=3600, reason="reindex")
    ref = made.take_over("urgent", ref="aaaaaaaa", name="Bob")["ref"]
    made.release("done", ref=ref, name="Carol", for_holder=True)

    assert [event for event, _ in sent] == ["acquired", "extended", "takenover", "released"]
    assert sent[1][1] == extended
    assert (extended["held_by"], extended["ref"], extended["reason"]) == ("Alice", "aaaaaaaa", "reindex")
    taken, released = sent[2][1], sent[3][1]
    assert (taken["held_by"], taken["displaced"]["held_by"], taken["by"]) == ("Bob", "Alice", "root@master1")
    assert (released["name"], released["held_by"], released["released"]) == ("Bob", None, ref)
    assert (released["released_by"], released["by"]) == ("Carol", "root@master1")
    assert "done; released by Carol" in released["entry"]
