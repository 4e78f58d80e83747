"""Whose a hold is, who may end it, and what its line says meanwhile: several people on one store."""

import re

import pytest

from saltext.deploytoken import config, errors, page, protocol
from saltext.deploytoken.page import Hold
from saltext.deploytoken.people import Account
from saltext.deploytoken.stores.base import Hidden
from saltext.deploytoken.token import Token

ALICE, BOB = ("alice", "Alice"), ("bob", "Bob")
JOB, OTHER = "20261122223001123456@master1", "20261122223002123456@master1"
NEVER = "0badc0de"


@pytest.fixture
def store(tmp_path):
    """``sqlite:///…`` of a new token."""
    address = f"sqlite:///{tmp_path}/token.db"
    with Token(config.parse({"deploytoken": {"store": address}})) as token:
        token.store.create(page.initial(), "init")
    return address


@pytest.fixture
def person(store, monkeypatch):
    """``person(ALICE, runs=…)``: the token as this person types at it; ``name`` in the configuration is hers alone."""

    def person(who, runs=None, **options):
        user, name = who
        account = Account(user, "master1", plain=True)
        return Token(config.parse({"deploytoken": {"store": store, "name": name, **options}}), None, account, runs)

    return person


def text(token):
    return token.store.read().text


def entries(token, ref):
    return page.entries(text(token), ref)


def save(token, old, new, comment=""):
    """Somebody edits the page by hand."""
    found = token.store.read()
    assert old in found.text
    token.store.write(found.text.replace(old, new), found.version, comment)


def commands(error):
    return re.findall("`salt-run ([^`]*)`", str(error.value))


def test_the_version_says_whose_hold_it_is(person):
    ref = person(ALICE).acquire("upgrade")["ref"]

    assert f"acquire ref={ref} id={ref}" in person(BOB).store.read().comment
    assert " by=alice@master1: upgrade" in person(BOB).store.read().comment
    assert person(BOB).status()["account"] == "alice@master1"


def test_a_release_without_a_ref_ends_ones_own_hold_and_nobody_elses(person):
    """One name for the whole team, in the configuration: the accounts tell them apart."""
    ref = person(ALICE, name="Ops").acquire("upgrade")["ref"]

    with pytest.raises(errors.NotYours, match="that hold is not yours; ask Ops") as refused:
        person(BOB, name="Ops").release("mine")
    assert commands(refused) == [f"deploytoken.release ref={ref} for_holder=true"]
    with pytest.raises(errors.NotYours, match="not yours"):
        person(BOB, name="Ops").release("mine", ref)
    assert person(BOB).status()["ref"] == ref
    assert person(ALICE, name="Ops").release()["entry"].endswith(f"Ops: upgrade (ref {ref})")


def test_two_people_with_one_account_are_told_apart_by_the_name_that_they_give(person):
    root = ("root", None)
    person(root).acquire("upgrade", name="Alice")

    with pytest.raises(errors.NotYours):
        person(root).release("mine", name="Bob")
    assert person(root).release("mine", name="Alice")["released_by"] == "Alice"


def test_whoever_ends_anothers_hold_on_purpose_is_named(person):
    told = []
    ref = person(ALICE).acquire("upgrade")["ref"]
    bob = person(BOB)
    bob._notify = lambda event, data: told.append((event, data["name"], data["by"]))

    answer = bob.release("Alice is on a plane", ref, for_holder=True)

    assert answer["released_by"] == "Bob"
    assert re.fullmatch(rf"\* .* UTC Alice: Alice is on a plane; released by Bob \(ref {ref}\)", answer["entry"])
    assert told == [("released", "Alice", "bob@master1")]
    assert [bob.history(1)["holds"][0][key] for key in ("account", "ended_by")] == ["alice@master1", "bob@master1"]


def test_a_hold_that_a_person_typed_belongs_to_that_name(person):
    save(person(ALICE), "nobody\n", "Bob\n")

    with pytest.raises(errors.NotYours, match=r"deploytoken\.takeover` shows how"):
        person(ALICE).release("mine")
    with pytest.raises(errors.Invalid, match="summary: the hold has no reason"):
        person(BOB).release()
    assert person(BOB).release("upgraded")["released_by"] == "Bob"


def test_a_hold_is_still_its_takers_after_edits_of_the_page(person):
    ref = person(ALICE).acquire("upgrade")["ref"]
    save(person(BOB), "(upgrade;", "(lunch first, then upgrade;")
    save(person(BOB), "Whoever is named", "The one who is named")

    assert person(BOB).status()["account"] == "alice@master1"
    with pytest.raises(errors.NotYours):
        person(BOB).release("mine", ref)
    assert "lunch first, then upgrade" in person(ALICE).release()["entry"]


def test_a_page_that_was_set_back_brings_back_no_hold(person):
    alice = person(ALICE)
    ref = alice.acquire("upgrade")["ref"]
    held = text(alice)
    alice.release("upgraded")
    ended = alice.store.read().version
    save(alice, "Whoever is named", "The one who is named")
    alice.store.write(held, alice.store.read().version, "Revert to version 2")

    assert (alice.status()["ref"], alice.status()["ended_before"]) == (ref, ended)
    for refused in (
        lambda: alice.require_held(ref),
        lambda: alice.acquire("upgrade", ref=ref),
        lambda: alice.begin(ref, JOB),
        lambda: alice.extend(ref, expect=60),
    ):
        with pytest.raises(errors.NotYours, match=f"ended before, in version {ended}; the page was set back"):
            refused()
    alice.release("cleared", ref, for_holder=True)
    assert alice.status()["held_by"] is None


def test_a_line_that_is_mended_by_hand_is_not_taken_for_a_page_that_was_set_back(person):
    alice = person(ALICE)
    ref = alice.acquire("upgrade")["ref"]
    save(alice, "Held by:", "Held:")
    save(alice, "Held:", "Held by:")

    alice.require_held(ref)
    assert alice.status()["account"] == "alice@master1"


@pytest.mark.parametrize("account", [ALICE, BOB])
def test_where_nobody_may_look_at_old_versions_the_name_on_the_page_counts(person, account, monkeypatch):
    def hidden(number):
        raise Hidden("the API key's user may not do this")

    ref = person(ALICE).acquire("upgrade")["ref"]
    save(person(BOB), "Whoever is named", "The one who is named")
    token = person(account)
    monkeypatch.setattr(token.store, "read_version", hidden)

    if account is ALICE:
        assert token.release("upgraded")["released"] == ref
    else:
        with pytest.raises(errors.NotYours, match="not yours"):
            token.release("upgraded")


def test_a_version_that_cannot_be_read_now_leaves_the_hold_as_it_is(person, monkeypatch):
    def nonsense(number):
        raise errors.StoreError("not Redmine's")

    ref = person(ALICE, name="Ops").acquire("upgrade")["ref"]
    save(person(BOB), "Whoever is named", "The one who is named")
    token = person(BOB, name="Ops")
    monkeypatch.setattr(token.store, "read_version", nonsense)

    with pytest.raises(errors.StoreError, match="not Redmine's"):
        token.release("mine")
    assert person(ALICE).status()["ref"] == ref


def test_what_lies_further_back_than_anybody_looks_is_nobodys_own(person, monkeypatch):
    ref = person(ALICE, name="Ops").acquire("upgrade")["ref"]
    held = text(person(ALICE))
    for words in ("one", "two", "three"):
        save(person(BOB), "Whoever is named", f"{words}: Whoever is named")
    monkeypatch.setattr(protocol, "MOST_VERSIONS", 3)

    for who in (ALICE, BOB):
        with pytest.raises(errors.NotYours, match="not yours"):
            person(who, name="Ops").release("mine")
    assert person(ALICE, name="Ops").release("upgraded", ref, for_holder=True)["released"] == ref

    # A page that was set back to a version from before that.
    for words in ("four", "five", "six"):
        save(person(BOB), "Whoever is named", f"{words}: Whoever is named")
    store = person(BOB).store
    store.write(held, store.read().version, "Revert to version 2")
    with pytest.raises(errors.NotYours, match="the page was set back"):
        person(ALICE).require_held(ref)


def test_ones_own_hold_is_answered_with_the_way_on_and_anothers_with_the_ways_out(person):
    ref = person(ALICE).acquire("upgrade")["ref"]

    with pytest.raises(errors.Held, match=f"you hold the token yourself .*go on under it with ref={ref}") as own:
        person(ALICE).acquire("again")
    assert own.value.details["own"] is True
    with pytest.raises(errors.Held, match=r"Alice holds the token .*wait for it with wait=15m, ask Alice") as others:
        person(BOB).acquire("it's urgent")
    assert others.value.details["own"] is False
    assert commands(others) == [f"deploytoken.takeover ref={ref} reason='it'\"'\"'s urgent'"]


def test_a_standing_hold_is_confirmed_but_not_for_another_reason_or_time(person):
    alice = person(ALICE)
    ref = alice.acquire("upgrade", expect=3600)["ref"]

    assert alice.acquire("upgrade", ref=ref, expect=3600)["taken"] is False
    assert alice.acquire(None, ref=ref, resume=True)["taken"] is False
    with pytest.raises(errors.Invalid, match="stands for 'upgrade'") as refused:
        alice.acquire("reboot", ref=ref)
    assert commands(refused) == [f"deploytoken.extend ref={ref} reason=reboot"]
    with pytest.raises(errors.Invalid, match=r"expect: the hold .* is expected until") as refused:
        alice.acquire("upgrade", ref=ref, expect=7200)
    assert commands(refused) == [f"deploytoken.extend ref={ref} expect=120m"]


def test_a_hold_is_extended_by_its_holder_alone(person):
    alice = person(ALICE)
    ref = alice.acquire("upgrade")["ref"]

    answer = alice.extend(expect=7200, reason="upgrade, and reboot")

    assert (answer["ref"], answer["reason"]) == (ref, "upgrade, and reboot")
    assert page.parse_stamp(answer["expected_until"]) - page.parse_stamp(answer["since"]) == pytest.approx(
        7200, abs=60
    )
    assert alice.status()["account"] == "alice@master1"
    with pytest.raises(errors.NotYours, match=r"ask Alice$"):
        person(BOB).extend(ref, expect=60)
    with pytest.raises(errors.Invalid, match="expect: say how long"):
        alice.extend(ref)
    alice.release()
    with pytest.raises(errors.NotYours, match="there is no hold"):
        alice.extend(expect=60)


@pytest.mark.parametrize("running", [True, None])
def test_a_hold_whose_job_may_run_ends_by_force_alone_and_the_entry_says_so(person, running):
    alice, bob = person(ALICE, lambda job: running), person(BOB, lambda job: running)
    ref = alice.acquire("deploy", job=JOB)["ref"]
    assert bob.status()["job"] == {"jid": JOB[:20], "master": "master1", "running": running}

    for end in (
        lambda: alice.release("tidy up"),
        lambda: bob.release("tidy up", ref, for_holder=True),
        lambda: bob.take_over("mine now", ref),
    ):
        with pytest.raises(errors.Held, match=f"the job {JOB[:20]} .*add force=true"):
            end()
    entry = bob.take_over("mine now", ref, force=True)["entry"]
    assert f"taken over by Bob: mine now; by force, over the job {JOB}" in entry


def test_a_hold_whose_job_has_ended_and_a_jobs_own_hold_end_without_force(person):
    ref = person(ALICE).acquire("deploy", job=JOB)["ref"]
    assert "force" not in person(ALICE, lambda job: True).release("done", ref, job=JOB)["entry"]
    person(ALICE).acquire("deploy", job=JOB)
    assert "force" not in person(ALICE, lambda job: False).release("done")["entry"]


def test_one_job_is_at_work_under_a_hold_at_a_time(person):
    alive = {JOB: True, OTHER: True}
    first, second = person(ALICE, alive.get), person(ALICE, alive.get)
    ref = first.acquire("a day of work")["ref"]

    assert first.begin(ref, JOB)["by_hand"] is True
    assert f"; job {JOB}; ref {ref})" in text(first)
    with pytest.raises(errors.Held, match=f"the job {JOB[:20]} runs under the hold {ref} of Alice: wait"):
        second.begin(ref, OTHER)
    alive[JOB] = False  # it was killed
    second.begin(ref, OTHER)
    first.end(ref, JOB)  # not its own
    assert f"; job {OTHER}; ref {ref})" in text(first)
    with pytest.raises(errors.NotYours):
        first.begin(NEVER, JOB)


def test_a_job_may_be_at_work_under_anothers_hold(person):
    ref = person(ALICE).acquire("a day of work")["ref"]
    person(BOB).begin(ref, JOB, expect=3600)
    person(BOB).end(ref, JOB, "12:00 UTC upgrade")

    assert person(ALICE).status()["account"] == "alice@master1"
    assert person(ALICE).status()["expected_until"]


def test_a_look_takes_one_request_while_a_job_is_at_work(person, monkeypatch):
    alice = person(ALICE)
    ref = alice.acquire("a day of work")["ref"]
    alice.begin(ref, JOB)
    asked = []
    monkeypatch.setattr(alice.store, "read_version", asked.append)

    alice.require_held(ref)

    assert asked == []


def test_what_was_deployed_in_a_session_stands_in_its_one_entry(person):
    alice = person(ALICE)
    ref = alice.acquire("a day of work")["ref"]
    for job, words in ((JOB, "12:00 UTC upgrade (web*)"), (OTHER, "13:00 UTC restart (db*), FAILED on db1")):
        alice.begin(ref, job)
        alice.end(ref, job, words)
        alice.extend(expect=3600)

    entry = alice.release("all done")["entry"]

    assert entry.endswith(f"all done; 12:00 UTC upgrade (web*); 13:00 UTC restart (db*), FAILED on db1 (ref {ref})")
    assert entries(alice, ref) == [entry]


def test_a_second_release_is_the_success_of_the_first_unless_somebody_else_ended_the_hold(person):
    alice, bob = person(ALICE), person(BOB)
    ref = alice.acquire("upgrade")["ref"]
    entry = alice.release("upgraded", ref)["entry"]

    assert alice.release("upgraded", ref)["entry"] == alice.release(None, ref)["entry"] == entry
    with pytest.raises(errors.NotYours, match="was ended already"):
        alice.release("something else", ref)
    with pytest.raises(errors.NotYours, match="was ended already"):
        alice.release("upgraded", ref, again=False)

    ref = alice.acquire("reboot")["ref"]
    entry = bob.release("tidy up", ref, for_holder=True)["entry"]
    assert bob.release("tidy up", ref, for_holder=True)["entry"] == entry
    for summary in ("rebooted", None):
        with pytest.raises(errors.NotYours, match=r"was ended already \(.*; released by Bob"):
            alice.release(summary, ref)


def test_a_deploy_whose_hold_was_ended_leaves_a_note_of_its_own_once(person):
    alice = person(ALICE)
    taken = alice.acquire("deploy version 3", job=JOB)
    person(BOB).release("tidy up", taken["ref"], for_holder=True, force=True)
    bob = person(BOB).acquire("my turn")["ref"]
    hold = Hold("Alice", "deploy version 3", taken["since"], taken["ref"])

    note = alice.note(hold, "deploy version 3 (its hold was ended meanwhile)", job=JOB)

    assert len(entries(alice, taken["ref"])) == 2
    assert note in entries(alice, taken["ref"])
    assert alice.status()["ref"] == bob
    assert alice.history(5)["holds"][1]["entry"].count("tidy up") == 1
