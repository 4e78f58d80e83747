"""
Never two holders, nothing lost: the protocol itself through every interleaving of its clients, with every fault at
every step. What the model does, and what it counts as a violation, is in tests/support/model.py.

Each test prints the number of states that it visited.
"""

import pytest

from saltext.deploytoken import errors, page, protocol
from saltext.deploytoken.page import Hold
from saltext.deploytoken.stores.base import Conflict, Unanswered
from tests.support.model import REASON, SINCE, Client, Deploy, Explorer, Extender, Person, Violation

# Two terminals of one person.
ALICE, ALSO_ALICE = Client("Alice", "aaaaaaaa"), Client("Alice", "bbbbbbbb")
# Ends the hold of the first.
BOB = Client("Bob", "cccccccc", displaces="aaaaaaaa")
# Gives the hold back unused, as after Ctrl-C: the page becomes as it was, byte for byte.
WITHDRAWS = Client("Alice", "dddddddd", summary=None)

#: None is any number of faults.
WORLDS = {
    "two contenders": {"clients": [ALICE, ALSO_ALICE], "pauses": 2},
    "two contenders, and somebody who edits": {"clients": [ALICE, ALSO_ALICE], "faults": 3, "edits": 1},
    "two contenders on a store where every stale write conflicts": {
        "clients": [ALICE, ALSO_ALICE],
        "pauses": 2,
        "noop": False,
    },
    "a hold that is taken over": {"clients": [ALICE, BOB], "pauses": 2},
    "a hold that is taken over, and somebody who edits": {"clients": [ALICE, BOB], "faults": 3, "edits": 1},
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


# Deploys at work, and people who end holds meanwhile

REF, ELSEWHERE = "aaaaaaaa", {"account": "bob@master2", "knows": False}
DEAD, FIRST, SECOND = (f"2026112222300000000{number}@master1" for number in range(3))
#: A session, and one whose deploy was killed.
SESSION, CRASHED = Hold("Alice", REASON, SINCE, REF), Hold("Alice", REASON, SINCE, REF, job=DEAD)

TAKES = Deploy("Alice", REF, job=FIRST)
RELEASES = Deploy("Alice", REF, job=FIRST, under=True)
STAYS = Deploy("Alice", REF, job=FIRST, under=True, stays=True)
ALSO_TAKES = Deploy("Alice", REF, job=SECOND, summary="also deployed")
ALSO_RELEASES = Deploy("Alice", REF, job=SECOND, under=True, summary="also deployed")
ALSO_STAYS = Deploy("Alice", REF, job=SECOND, under=True, stays=True, summary="also deployed")
BOBS = Deploy("Bob", "bbbbbbbb", job=SECOND, account="bob@master1")


@pytest.mark.parametrize(
    ("first", "second", "stands", "faults"),
    [
        pytest.param(RELEASES, ALSO_RELEASES, CRASHED, 3, id="two resumes after a crash"),
        pytest.param(STAYS, ALSO_STAYS, CRASHED, 2, id="two resumes of a session after a crash"),
        pytest.param(TAKES, ALSO_TAKES, None, None, id="two that were given one ref"),
        pytest.param(TAKES, BOBS, None, None, id="two that contend"),
    ],
)
def test_of_two_deploys_one_is_at_work(first, second, stands, faults, capsys):
    explorer = Explorer([first, second], faults=faults, stands=stands).run()
    report(capsys, explorer)
    assert {(who, "take", word) for who in (first, second) for word in ("ok", "held")} <= explorer.told
    assert explorer.overlaps == 0


#: Each person, and how it may end without a fault.
PERSONS = {
    "ends the own hold without a ref": (Person("Alice", REF, types_ref=False), {"ok", "held", "not_yours"}),
    "ends the own hold by its ref": (Person("Alice", REF), {"ok", "held", "not_yours"}),
    # The own deploy's hold at most, in the world with two.
    "ends what stands without a ref": (
        Person("Bob", REF, types_ref=False, account="bob@master1"),
        {"ok", "held", "not_yours"},
    ),
    "ends another's by its ref": (Person("Bob", REF, account="bob@master1"), {"not_yours"}),
    "ends it for its holder": (
        Person("Bob", REF, account="bob@master1", for_holder=True),
        {"ok", "held", "not_yours"},
    ),
    "ends it on another master": (Person("Bob", REF, **ELSEWHERE, for_holder=True), {"ok", "held", "not_yours"}),
    "takes over": (Client("Bob", "cccccccc", REF, account="bob@master1"), {"ok", "held", "not_yours"}),
    "ends the own by force": (Person("Alice", REF, force=True), {"ok", "not_yours"}),
    "ends it for its holder by force": (
        Person("Bob", REF, account="bob@master1", for_holder=True, force=True),
        {"ok", "not_yours"},
    ),
    "takes over by force": (Client("Bob", "cccccccc", REF, account="bob@master1", force=True), {"ok", "not_yours"}),
}


@pytest.mark.parametrize("who", PERSONS)
def test_no_two_deploys_are_at_work_unless_somebody_forced_it(who, capsys):
    person, words = PERSONS[who]
    worlds = [
        # Of one deploy, with faults; of two, without or with one.
        Explorer([TAKES, person]),
        Explorer([RELEASES, person], faults=2, stands=SESSION),
        Explorer([STAYS, person], faults=2, stands=CRASHED),
        Explorer([STAYS, ALSO_STAYS, person], faults=0, stands=SESSION),
        Explorer([TAKES, BOBS, person], faults=1),
    ]
    for explorer in worlds:
        report(capsys, explorer.run())
    phase = person.phases[0]
    told = set().union(*(explorer.told for explorer in worlds))
    assert {word for one, at, word in told if one == person and at == phase} - {"in_doubt", "store"} == words
    # Its hold ended in the middle of a deploy, and the deploy left its note.
    assert ((TAKES, "note", "ok") in told) == person.force
    assert bool(worlds[-1].overlaps) == person.force


def test_a_hold_is_extended_while_deploys_begin_and_end(capsys):
    extender = Extender("Alice", REF)
    for faults, deploy, stands in ((2, STAYS, CRASHED), (2, RELEASES, SESSION)):
        explorer = Explorer([extender, deploy], faults=faults, stands=stands).run()
        report(capsys, explorer)
        assert {(extender, "extend", "ok"), (deploy, "release", "ok")} <= explorer.told


def test_what_was_deployed_under_a_hold_reaches_the_entry_past_everybodys_edits(capsys):
    # The faultless world, so that every version can be read.
    for person in (Person("Alice", REF), Client("Bob", "cccccccc", REF, account="bob@master1", force=True)):
        report(capsys, Explorer([STAYS, person], faults=0, edits=1, stands=CRASHED).run())


def report(capsys, explorer):
    with capsys.disabled():
        print(f" {explorer.states:,}", end="", flush=True)


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


def nothing(*_):
    return None


def only_once(right, hold, seen=set(), check=protocol._require_at_rest):  # noqa: B006
    """Looks for the job at the first reading, and not after a conflict."""
    if right not in seen:
        seen.add(right)  # each replay has one of its own
        check(right, hold)


def by_the_name(right, hold, origin):
    return (yield protocol.WhoAmI()) == hold.name


def any_entry(found, current, mine, sent, rules, ref, entry, earlier, check=protocol._not_found):
    return check(found, current, None, sent, rules, ref, entry, "")


TEAM = Hold("Ops", REASON, SINCE, REF)


@pytest.mark.parametrize(
    ("broken", "wrong", "clients", "stands", "kinds"),
    [
        pytest.param(
            "at_work",
            lambda job, runs: lambda hold: protocol.replace(hold, job=job),
            [RELEASES, ALSO_RELEASES],
            CRASHED,
            {"two are at work at once", "one uses a token that the page does not give it"},
            id="begin over another job",
        ),
        *(
            pytest.param(
                "_require_at_rest",
                wrong,
                [RELEASES, person],
                SESSION,
                {"one uses a token that the page does not give it", "an entry speaks of force, and nobody used it"},
                id=f"{wrong.__name__}: {who}",
            )
            for wrong, whose in ((nothing, ("ends the own hold without a ref", "takes over")), (only_once, ()))
            for who in (*whose, "ends it for its holder")
            for person in [PERSONS[who][0]]
        ),
        pytest.param(
            "_not_found",
            any_entry,
            [TAKES, PERSONS["ends the own by force"][0]],
            None,
            {"released, with an entry of somebody else's"},
            id="any entry of the ref",
        ),
        pytest.param(
            "_is_own",
            by_the_name,
            [Person("Ops", REF, types_ref=False, account="bob@master1")],
            TEAM,
            {"somebody ends another's hold, and does not say so"},
            id="one name for the team",
        ),
    ],
)
def test_a_protocol_that_forgets_who_or_what_is_at_work_is_caught(monkeypatch, broken, wrong, clients, stands, kinds):
    Explorer(clients, faults=0, stands=stands).run()
    monkeypatch.setattr(protocol, broken, wrong)
    with pytest.raises(Violation) as caught:
        Explorer(clients, faults=0, stands=stands).run()
    assert caught.value.kind.partition(":")[0] in kinds
