"""
Never two holders, nothing lost: the protocol itself through every interleaving of its clients, with every fault at
every step. What the model does, and what it counts as a violation, is in tests/support/model.py.

Each test prints the number of states that it visited.
"""

import pytest

from saltext.deploytoken import errors, page, protocol
from saltext.deploytoken.stores.base import Conflict, Unanswered
from tests.support.model import Client, Explorer, Violation

# Two terminals of one person.
ALICE, ALSO_ALICE = Client("Alice", "aaaaaaaa"), Client("Alice", "bbbbbbbb")
# Ends the hold of the first.
BOB = Client("Bob", "cccccccc", displaces="aaaaaaaa")
# Gives the hold back unused, as after Ctrl-C: the page becomes as it was, byte for byte.
WITHDRAWS = Client("Alice", "dddddddd", summary=None)

#: None is any number of faults.
WORLDS = {
    "two contenders": {"clients": [ALICE, ALSO_ALICE], "pauses": 2},
    "two contenders, and somebody who edits": {"clients": [ALICE, ALSO_ALICE], "pauses": 1, "edits": 1},
    "two contenders on a store where every stale write conflicts": {
        "clients": [ALICE, ALSO_ALICE],
        "pauses": 2,
        "noop": False,
    },
    "a hold that is taken over": {"clients": [ALICE, BOB], "pauses": 2},
    "a hold that is taken over, and somebody who edits": {"clients": [ALICE, BOB], "pauses": 1, "edits": 1},
    "a hold that is withdrawn": {"clients": [ALICE, WITHDRAWS], "pauses": 2},
    "two contenders, and somebody who deletes the page": {"clients": [ALICE, ALSO_ALICE], "faults": 0, "deletes": 1},
    "three, two contend and one takes over": {"clients": [ALICE, ALSO_ALICE, BOB], "faults": 2},
    "three, one withdraws": {"clients": [ALICE, ALSO_ALICE, WITHDRAWS], "faults": 2},
    "three, on a store where every stale write conflicts": {
        "clients": [ALICE, ALSO_ALICE, BOB],
        "faults": 2,
        "noop": False,
    },
    "three, and somebody who edits": {"clients": [ALICE, ALSO_ALICE, BOB], "faults": 1, "edits": 1},
}


@pytest.mark.parametrize("world", WORLDS)
def test_never_two_holders_and_nothing_lost(world, capsys):
    explorer = Explorer(**WORLDS[world]).run()
    faults = WORLDS[world].get("faults", "any number of")
    with capsys.disabled():
        print(f"\n  {world}, {faults} faults: {explorer.states:,} states", end=" ", flush=True)
    # The exploration went everywhere: every way that an operation can end was seen.
    ends = {("take", "ok"), ("take", "in_doubt"), ("take", "store"), ("release", "ok"), ("release", "in_doubt")}
    if "deletes" in WORLDS[world]:
        ends = {("take", "ok"), ("take", "made"), ("take", "store"), ("release", "ok"), ("release", "made")}
    assert ends <= explorer.outcomes


# What the explorer is worth: wrong protocols, and how each one fails.


def bare_name(hold):
    return hold.name


def one_look_proves(write, ref):
    """A lost answer, then a look at the page: not there, so it was not applied."""
    try:
        yield write
        return True
    except Conflict:
        return False
    except Unanswered:
        found = yield protocol.Read()
        if found.text == write.text:
            return True
        raise errors.StoreError("not applied") from None


def no_answer_is_good_news(write, ref):
    try:
        yield write
    except Conflict:
        return False
    except Unanswered:
        pass
    return True


def no_answer_is_bad_news(write, ref):
    try:
        yield write
    except Conflict:
        return False
    return True


def test_without_the_ref_in_the_text_two_hold_the_token(monkeypatch):
    monkeypatch.setattr(page, "hold_text", bare_name)
    with pytest.raises(Violation) as caught:
        Explorer([ALICE, ALSO_ALICE], faults=0).run()
    assert caught.value.kind == "two hold the token at once"
    # On a store where every stale write conflicts, faults would be needed.
    Explorer([ALICE, ALSO_ALICE], faults=0, noop=False).run()


def test_a_store_that_takes_a_page_it_has_made_for_the_page_is_caught():
    with pytest.raises(Violation) as caught:
        Explorer([ALICE, ALSO_ALICE], faults=0, deletes=1, refuses=False).run()
    assert caught.value.kind == "two hold the token at once"


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        (one_look_proves, {"told 'store', and holds the token", "told 'store' on release, and it was released"}),
        (no_answer_is_good_news, {"one uses a token that the page does not give it"}),
        (no_answer_is_bad_news, {"told 'store', and holds the token"}),
    ],
)
def test_a_protocol_that_guesses_is_caught(monkeypatch, wrong, kinds):
    monkeypatch.setattr(protocol, "_commit", wrong)
    with pytest.raises(Violation) as caught:
        Explorer([ALICE, ALSO_ALICE]).run()
    assert caught.value.kind in kinds


def test_a_release_that_does_not_look_for_its_entry_is_caught(monkeypatch):
    def ended(*_):
        raise errors.NotYours("not current")
        yield

    monkeypatch.setattr(protocol, "_not_found", ended)
    with pytest.raises(Violation) as caught:
        Explorer([ALICE, ALSO_ALICE], edits=1).run()
    assert caught.value.kind == "told 'not_yours' on release, and it was released"


def test_a_write_that_drops_foreign_text_is_caught(monkeypatch):
    add = page.add_entry
    monkeypatch.setattr(page, "add_entry", lambda text, *rest: add(text.splitlines()[0] + "\n\nh2. History\n", *rest))
    with pytest.raises(Violation) as caught:
        Explorer([ALICE], edits=1).run()
    assert caught.value.kind == "a foreign edit is lost"
