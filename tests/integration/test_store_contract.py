"""What every store promises, and the token over it: one suite, a row per store (``-k sqlite`` needs no service)."""

import concurrent.futures
import contextlib
import os
import re
import sqlite3
import stat
import subprocess

import pytest

from saltext.deploytoken import config, errors, page
from saltext.deploytoken.stores.base import Conflict, Missing, Unanswered
from saltext.deploytoken.token import Token
from tests.support.places import TEXT, RedminePlace, SqlitePlace


@pytest.fixture(params=["sqlite", "redmine"])
def new_place(request, tmp_path):
    """Makes the place with a text of the test's own."""
    if request.param == "sqlite":
        return lambda text=TEXT: SqlitePlace(tmp_path, text)
    redmine = request.getfixturevalue("redmine")
    return lambda text=TEXT: RedminePlace(redmine, text)


@pytest.fixture
def place(new_place):
    return new_place()


@pytest.fixture
def alice(place):
    with place.token("alice") as token:
        yield token


@pytest.fixture
def bob(place):
    with place.token("bob") as token:
        yield token


def entries(place, ref):
    """The History entries of the hold."""
    return page.entries(place.text(), ref)


# The store


def test_reads_what_was_written(place, alice):
    before = alice.store.read()
    assert before.text == TEXT
    alice.store.write(TEXT + "more\n", before.version, "why: “because”")
    after = alice.store.read()
    assert (after.text, after.version, after.comment) == (TEXT + "more\n", before.version + 1, "why: “because”")
    assert after.author
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", after.saved)


def test_old_versions_can_be_read(place, alice):
    first = alice.store.read()
    alice.store.write("Held by: nobody\n", first.version, "two")
    assert alice.store.read_version(first.version) == first
    assert alice.store.read_version(first.version + 1).comment == "two"
    with pytest.raises(Missing):
        alice.store.read_version(first.version + 2)


def test_a_write_from_a_stale_version_conflicts(place, alice, bob):
    seen = alice.store.read()
    bob.store.write(TEXT + "bob\n", seen.version, "")
    for version in (seen.version, seen.version - 1):
        with pytest.raises(Conflict):
            alice.store.write(TEXT + "alice\n", version, "")
    assert place.text() == TEXT + "bob\n"


def test_a_write_from_a_version_to_come_conflicts(place, alice):
    with pytest.raises(Conflict):
        alice.store.write(TEXT + "alice\n", alice.store.read().version + 1, "")
    assert place.text() == TEXT


def test_of_writers_at_once_exactly_one_wins(place):
    def write(number):
        with place.token("alice") as token:
            while True:
                try:
                    # Unique: Redmine answers a write of the current text as applied.
                    token.store.write(f"{TEXT}{version} {number}\n", version, "")
                except Conflict:
                    return None
                except Unanswered:
                    continue  # the same write again tells; Redmine on SQLite answers 500 to some of them
                return number

    with place.token("bob") as token:
        for _ in range(5):
            version = token.store.read().version
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                won = [number for number in pool.map(write, range(8)) if number is not None]
            assert len(won) == 1
            assert place.text() == f"{TEXT}{version} {won[0]}\n"
            assert token.store.read().version == version + 1


def test_creating_leaves_what_is_there(place, alice):
    assert alice.store.create("something else", "init") is False
    assert place.text() == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "Held by: nobody\r\n\r\nh2. History\r\n",
        "\ufeffHeld by: nobody\n\n## History\n\n- æøå 🙂 <b>&amp;</b> \t \n\n\n",
        "Held by: nobody",
        "*Held by:* nobody  \n\n|_. a |_. b |\n| 1 | 2 |\n\u2028\u2029\u00a0\n",
    ],
)
def test_foreign_bytes_survive(new_place, text):
    place = new_place(text)
    assert place.text() == text
    with place.token("alice") as alice:
        held = alice.acquire("upgrade")
        # Out with the holder's words, and it is as it was.
        assert re.sub(r"Alice \(.*\)", "nobody", place.text()) == text
        entry = alice.release("done", held["ref"])["entry"]
    without = place.text().replace(entry, "")
    assert without.startswith(text.rstrip("\r\n"))
    if "History" in text:
        assert without.split() == text.split()


# The token over it


def test_a_second_acquire_is_refused_with_what_the_first_one_said(place, alice, bob):
    first = alice.acquire("upgrade PostgreSQL", expect=7200)
    with pytest.raises(errors.Held, match=r"Alice holds the token since .* UTC \(upgrade PostgreSQL\); ") as caught:
        bob.acquire("try things")
    token = caught.value.details["token"]
    assert token == {key: first[key] for key in token}
    assert token["ref"] == first["ref"]
    assert token["expected_until"]
    assert bob.status()["held_by"] == "Alice"


def test_two_terminals_of_one_person_are_two_contenders(place, alice):
    first = alice.acquire("upgrade")
    with place.token("alice") as other, pytest.raises(errors.Held):
        other.acquire("upgrade")
    assert place.text().count(first["ref"]) == 1


def test_acquiring_under_the_same_ref_confirms_the_hold(place, alice, bob):
    first = alice.acquire("upgrade", ref="0a1b2c3d")
    assert first["taken"] is True
    versions = place.versions()
    for token in (alice, bob):
        again = token.acquire("upgrade", ref="0a1b2c3d")
        assert again == {**first, "taken": False}
        assert token.acquire("upgrade", ref="0a1b2c3d", resume=True)["held_by"] == "Alice"
    assert place.versions() == versions


def test_resuming_a_hold_that_has_ended_is_refused(place, alice):
    ref = alice.acquire("upgrade")["ref"]
    alice.release("done", ref)
    versions = place.versions()
    with pytest.raises(errors.NotYours, match=f"{ref} has ended, the token is free"):
        alice.acquire("upgrade", ref=ref, resume=True)
    # Nor is it taken a second time under the same ref: then its entry would be of two holds.
    with pytest.raises(errors.NotYours, match=f"{ref} has ended"):
        alice.acquire("upgrade", ref=ref)
    assert place.versions() == versions


def test_the_holder_releases_with_the_ref_that_the_refusal_shows(place, alice, bob):
    alice.acquire("upgrade")
    with pytest.raises(errors.Held) as caught:
        alice.acquire("upgrade")
    ref = caught.value.details["token"]["ref"]
    assert alice.release("done", ref)["released"] == ref
    assert bob.acquire("mine now")["held_by"] == "Bob"


def test_a_release_writes_one_entry_in_the_same_save(place, alice):
    held = alice.acquire("upgrade")
    answer = alice.release("upgraded PostgreSQL", held["ref"], notes=[("rebooted", "rebooted web1, web2")])
    assert answer["version"] == held["version"] + 1
    assert re.fullmatch(
        rf"\* \d{{4}}-\d\d-\d\d \d\d:\d\d UTC Alice: upgraded PostgreSQL; rebooted web1, web2 \(ref {held['ref']}\)",
        answer["entry"],
    )
    assert place.text().splitlines().count(answer["entry"]) == 1
    assert alice.status()["held_by"] is None


def test_a_release_names_every_server_that_was_rebooted_however_many(place, alice):
    note = "rebooted " + ", ".join(f"kingfisher-{number:03}.example.org (by itself)" for number in range(500))
    ref = alice.acquire("upgrade")["ref"]
    entry = alice.release("upgraded", ref, notes=[("rebooted", note)])["entry"]
    assert note in entry
    assert entries(place, ref) == [entry]
    # Again, it is found.
    assert alice.release("upgraded", ref)["entry"] == entry


def test_releasing_twice_is_one_entry(place, alice, bob):
    ref = alice.acquire("upgrade")["ref"]
    entry = alice.release("done", ref)["entry"]
    bob.acquire("mine now")
    versions = place.versions()
    assert alice.release("done", ref)["entry"] == entry
    with pytest.raises(errors.NotYours, match="was ended already"):
        alice.release("done something else", ref)
    assert place.versions() == versions
    assert entries(place, ref) == [entry]


@pytest.mark.parametrize("newest", ["first", "last"])
def test_a_hold_that_is_typed_again_after_its_end_has_its_work_written_down_too(place, newest):
    """An entry that stands already is no reason to leave out what was done since."""
    history = {"newest": newest}
    with place.token("alice", history=history) as alice, place.token("bob", history=history) as bob:
        ref = alice.acquire("upgrade")["ref"]
        line = next(line for line in place.text().splitlines() if ref in line)
        taken = bob.take_over("now", ref)
        bob.release("not needed", taken["ref"])
        place.edit(lambda text: text.replace("Held by: nobody", line))
        entry = alice.release("went on after all", ref)["entry"]
        assert "went on after all" in entry
        assert sorted(entries(place, ref)) == sorted([entry, taken["entry"]])
        # Said again, it is the release that it was, and not somebody else's.
        assert alice.release("went on after all", ref)["entry"] == entry


def test_a_line_edited_by_hand_passes_for_no_takeover_and_breaks_no_table(place):
    with place.token("alice", history={"entry": "| {until} | {name} | {reason} | {summary} | {ref} |"}) as alice:
        ref = alice.acquire("upgrade")["ref"]
        place.edit(
            lambda text: text.replace("Alice (upgrade", "Alice | taken over by Bob (upgrade | taken over by Bob")
        )
        entry = alice.release("done", ref)["entry"]
        assert entry.count("|") == 6
        # Again, it is the release that it was, and not somebody else's.
        assert alice.release("done", ref)["entry"] == entry


def test_releasing_what_is_not_held_writes_nothing(place, alice, bob):
    alice.acquire("upgrade")
    versions = place.versions()
    with pytest.raises(errors.NotYours, match="Alice holds the token"):
        bob.release("done", "00000000")
    with pytest.raises(errors.NotYours, match="Alice holds the token"):
        bob.release("done")
    assert place.versions() == versions


def test_a_name_is_enough_to_release_ones_own(place, alice):
    ref = alice.acquire("upgrade")["ref"]
    assert alice.release("done")["released"] == ref


def test_a_hold_that_somebody_typed_is_respected_and_can_be_released_by_name(place, alice, bob):
    place.edit(lambda text: text.replace("Held by: nobody", "Held by: Bob"))
    with pytest.raises(errors.Held, match="Bob holds the token; "):
        alice.acquire("upgrade")
    assert alice.status()["ref"] is None
    versions = place.versions()
    with pytest.raises(errors.NotYours, match="Bob holds the token, and that hold is not yours"):
        alice.release("restarted nginx")
    assert place.versions() == versions
    answer = bob.release("restarted nginx")
    assert "Bob: restarted nginx (ref " in answer["entry"]
    assert place.text().splitlines()[2] == "Held by: nobody"


def test_a_takeover_ends_the_hold_it_names_and_writes_its_entry(place, alice, bob):
    ref = alice.acquire("upgrade")["ref"]
    answer = bob.take_over("Alice is on a plane", ref)
    assert (answer["held_by"], answer["reason"]) == ("Bob", "Alice is on a plane")
    assert "Alice: taken over by Bob: Alice is on a plane" in answer["entry"]
    assert entries(place, ref) == [answer["entry"]]
    versions = place.versions()
    with pytest.raises(
        errors.NotYours, match=f"the hold {ref} was ended already .*taken over by Bob.*, Bob holds the token"
    ):
        alice.release("done", ref)
    with pytest.raises(errors.NotYours):
        alice.acquire("upgrade", ref=ref)
    assert place.versions() == versions
    bob.release("done", answer["ref"])


def test_a_takeover_that_was_itself_taken_over_does_not_say_that_nothing_was_written(place, alice, bob):
    ref = alice.acquire("upgrade")["ref"]
    others = []
    lose(bob, lambda: others.append(alice.take_over("no, now", bob.status()["ref"])))
    with pytest.raises(
        errors.NotYours, match=f"the hold {ref} is not the current one, Alice holds the token"
    ) as caught:
        bob.take_over("now", ref)
    assert "nothing was written" not in str(caught.value)
    assert caught.value.details["token"]["ref"] == others[0]["ref"]
    # Bob's takeover is on the page, although he was refused.
    assert entries(place, ref)
    assert entries(place, others[0]["displaced"]["ref"]) == [others[0]["entry"]]


def test_work_goes_on_only_under_the_ref_that_holds_the_token(place, alice, bob):
    with pytest.raises(errors.NotYours, match=r"^the hold f9c2a1b0 is over, nobody holds it; nothing more is"):
        alice.require_held("f9c2a1b0")
    ref = alice.acquire("upgrade")["ref"]
    versions = place.versions()
    bob.require_held(ref.upper())
    with pytest.raises(errors.NotYours, match=r"is over, Alice holds the token \(upgrade\); nothing more") as caught:
        alice.require_held("f9c2a1b0")
    assert caught.value.details["token"]["ref"] == ref
    with pytest.raises(errors.Invalid, match=r"^ref: "):
        alice.require_held(None)
    assert place.versions() == versions
    place.edit(lambda text: re.sub("Held by: .*", "Held by: Carol", text))
    with pytest.raises(errors.NotYours, match="is over, Carol holds the token; nothing more is started"):
        alice.require_held(ref)


def test_a_takeover_of_another_hold_than_the_current_one_writes_nothing(place, alice, bob):
    ref = alice.acquire("upgrade")["ref"]
    versions = place.versions()
    with pytest.raises(errors.NotYours, match=f"Alice holds the token .ref {ref}"):
        bob.take_over("why not", "00000000")
    # By name only what has no ref.
    with pytest.raises(errors.NotYours):
        bob.take_over("why not", held_by="Alice")
    assert place.versions() == versions
    alice.release("done", ref)
    with pytest.raises(errors.NotYours, match="the token is free"):
        bob.take_over("why not", ref)


def test_a_typed_hold_can_be_taken_over_by_its_name(place, alice):
    place.edit(lambda text: text.replace("Held by: nobody", "Held by: Carol from work"))
    answer = alice.take_over("Carol forgot", held_by="Carol from work")
    assert answer["held_by"] == "Alice"
    assert "Carol from work: taken over by Alice: Carol forgot" in place.text()


def interfere(token, change, times=1):
    """Somebody saves the page between this token's look and its write."""
    write, left = token.store.write, [times]

    def late(text, version, comment):
        if left[0]:
            left[0] -= 1
            change()
        return write(text, version, comment)

    token.store.write = late


def test_a_conflict_with_an_edit_elsewhere_on_the_page_is_retried(place, alice):
    count = iter(range(9))
    interfere(alice, lambda: place.edit(lambda text: f"{text}remark {next(count)}\n"), times=2)
    ref = alice.acquire("upgrade")["ref"]
    interfere(alice, lambda: place.edit(lambda text: text.replace("remark 0", "remark zero")))
    entry = alice.release("done", ref)["entry"]
    assert place.text().splitlines().count(entry) == 1
    assert "remark zero\nremark 1\n" in place.text()


def test_a_conflict_with_another_acquire_is_a_refusal(place, alice, bob):
    interfere(alice, lambda: bob.acquire("first"))
    with pytest.raises(errors.Held, match="Bob holds"):
        alice.acquire("second")


def test_a_conflict_with_a_takeover_is_not_a_release(place, alice, bob):
    ref = alice.acquire("upgrade")["ref"]
    interfere(alice, lambda: bob.take_over("now", ref))
    with pytest.raises(errors.NotYours, match="was ended already"):
        alice.release("done", ref)
    assert len(entries(place, ref)) == 1


def test_a_release_by_name_ends_the_hold_that_it_found_and_none_that_came_after(place, alice):
    first, later = alice.acquire("upgrade")["ref"], []
    with place.token("alice") as other:

        def change_hands():
            other.release("was done", first)
            later.append(other.acquire("next")["ref"])

        interfere(alice, change_hands)
        with pytest.raises(errors.NotYours, match=rf"the hold {first} was ended already \(.*was done"):
            alice.release("done")
    assert [alice.status()["ref"]] == later


def lose(token, change):
    """The answer to this token's next write is lost, and somebody saves the page before it is sent again."""
    write = token.store.write

    def lost(text, version, comment):
        token.store.write = write
        write(text, version, comment)
        change()
        raise Unanswered("no answer")

    token.store.write = lost


def test_a_release_is_told_from_an_end_by_hand_although_no_entry_is_left(place, alice):
    def without_entries(text):
        return "".join(line for line in text.splitlines(keepends=True) if "(ref " not in line)

    ref = alice.acquire("upgrade")["ref"]
    lose(alice, lambda: place.edit(without_entries))
    assert alice.release("done", ref)["released"] == ref
    ref = alice.acquire("upgrade")["ref"]
    interfere(alice, lambda: place.edit(lambda text: re.sub("Held by: .*", "Held by: nobody", text)))
    with pytest.raises(errors.NotYours, match=f"the hold {ref} is not the current one, the token is free; nothing"):
        alice.release("done", ref)
    assert entries(place, ref) == []


def test_a_typed_hold_whose_release_lost_its_answer_is_known_by_its_entry(place, bob):
    place.edit(lambda text: text.replace("Held by: nobody", "Held by: Bob"))
    lose(bob, lambda: place.edit(lambda text: text + "A remark.\n"))
    assert bob.release("restarted nginx")["entry"] in place.text().splitlines()


def test_a_takeover_that_lost_its_answer_is_known_by_its_ref(place, alice, bob):
    ref = alice.acquire("upgrade")["ref"]
    lose(bob, lambda: place.edit(lambda text: text + "A remark.\n"))
    answer = bob.take_over("now", ref)
    assert (answer["held_by"], answer["displaced"]["ref"]) == ("Bob", ref)
    assert entries(place, ref) == [answer["entry"]]
    assert bob.status()["ref"] == answer["ref"]


def test_a_name_typed_over_another_is_not_released_with_it(place, bob):
    place.edit(lambda text: text.replace("Held by: nobody", "Held by: Bob"))
    interfere(bob, lambda: place.edit(lambda text: text.replace("Held by: Bob", "Held by: Carol")))
    with pytest.raises(errors.NotYours, match="the hold Bob is not the current one, Carol holds the token"):
        bob.release("done")
    assert bob.status()["held_by"] == "Carol"


def test_a_page_that_never_stands_still_is_given_up_with_nothing_written(place):
    with place.token("alice", deadline=0.5) as alice:
        interfere(alice, lambda: place.edit(lambda text: text + "x\n"), times=99)
        with pytest.raises(errors.StoreError, match="again and again; nothing was written"):
            alice.acquire("upgrade")
    assert "Held by: nobody" in place.text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing here\n", "the page has no line 'Held by: …'"),
        ("Held by: nobody\nHeld by: Bob\n", "the page has 2 lines"),
        ("Held by:\n", "is empty"),
    ],
)
def test_a_page_without_one_holder_blocks_everything(new_place, text, message):
    place = new_place(text)
    with place.token("alice") as alice:
        for refused in (
            alice.status,
            lambda: alice.acquire("upgrade"),
            lambda: alice.release("done"),
            lambda: alice.take_over("why", "00000000"),
        ):
            with pytest.raises(errors.StoreError, match=message):
                refused()
    assert place.versions() == [text]


def test_waiting_ends_when_the_token_is_free(place, alice, bob, monkeypatch):
    monkeypatch.setattr("saltext.deploytoken.token.POLL", 0.05)
    ref = alice.acquire("upgrade")["ref"]
    events = []

    def notify(event, data):
        events.append((event, data.get("held_by"), data.get("name")))
        if event == "waiting" and len(events) == 2:
            alice.release("done", ref)

    with place.token("bob", notify) as waiting:
        assert waiting.acquire("next", wait=60)["held_by"] == "Bob"
    assert events == [("waiting", "Alice", "Bob"), ("waiting", "Alice", "Bob"), ("acquired", "Bob", None)]


def test_waiting_ends_when_the_time_is_over(place, alice, bob, monkeypatch):
    monkeypatch.setattr("saltext.deploytoken.token.POLL", 0.05)
    alice.acquire("upgrade")
    versions = place.versions()
    with pytest.raises(errors.Held):
        bob.acquire("next", wait=0.3)
    assert place.versions() == versions


def test_contenders_in_threads_never_hold_at_once(place):
    """A small one; script/chaos is the large one."""
    inside, worst, done = [], [], []

    def contend(number):
        with place.token(("alice", "bob")[number % 2], deadline=120) as token:
            for _ in range(2):
                try:
                    ref = token.acquire("contend")["ref"]
                except (errors.Held, errors.StoreError):
                    continue
                inside.append(ref)
                worst.append(len(inside))
                inside.remove(ref)
                token.release("done", ref)
                done.append(ref)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(contend, range(6)))
    assert worst
    assert set(worst) == {1}
    assert [len(entries(place, ref)) for ref in done] == [1] * len(done)


# What only a file can do


@pytest.mark.parametrize("bytes_", [b"", b"this is not a database, but somebody's notes\n" * 50])
def test_a_file_that_is_no_token_is_refused_in_one_line_sqlite(tmp_path, bytes_):
    (tmp_path / "token.db").write_bytes(bytes_)
    with Token(
        config.parse({"deploytoken": {"store": f"sqlite:///{tmp_path / 'token.db'}", "name": "Alice"}})
    ) as token:
        for refused in (token.status, lambda: token.acquire("upgrade")):
            with pytest.raises(errors.StoreError, match=r"token\.db") as caught:
                refused()
            assert "\n" not in str(caught.value)
    assert (tmp_path / "token.db").read_bytes() == bytes_


def at(path, **more):
    """The token in this file, which need not be there."""
    return Token(config.parse({"deploytoken": {"store": f"sqlite:///{path}", "name": "Alice", "timeout": 30, **more}}))


def test_whoever_waits_for_another_write_is_told_that_it_came_late_sqlite(tmp_path):
    """And not that the file is locked, which a write that looked before it had the lock would say."""
    place = SqlitePlace(tmp_path)
    with (
        place.token("alice", timeout=30) as alice,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        contextlib.closing(sqlite3.connect(tmp_path / "token.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        writing = pool.submit(alice.store.write, TEXT + "alice\n", 1, "")
        assert not concurrent.futures.wait([writing], timeout=0.5).done
        other.execute("INSERT INTO page SELECT 2, text || 'other', comment, author, saved FROM page")
        other.execute("COMMIT")
        with pytest.raises(Conflict):
            writing.result()
    assert place.versions() == [TEXT, TEXT + "other"]


def test_a_write_that_a_reader_holds_up_is_sent_again_sqlite(tmp_path):
    place = SqlitePlace(tmp_path)
    with (
        place.token("alice", timeout=0.1) as alice,
        contextlib.closing(sqlite3.connect(tmp_path / "token.db", isolation_level=None)) as reader,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT text FROM page").fetchall()
        write, sent = alice.store.write, []

        def count(*page_):
            sent.append(page_)
            if len(sent) == 3:
                reader.execute("ROLLBACK")
            write(*page_)

        alice.store.write = count
        assert alice.acquire("upgrade")["version"] == 2
    assert len(sent) == 3
    assert len(set(sent)) == 1


def test_of_those_who_create_at_once_exactly_one_does_sqlite(tmp_path):
    def create(number):
        with at(tmp_path / "new" / "token.db") as token:
            return token.store.create(TEXT.replace("token", f"token {number}"), "init")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [False] * 7 + [True]
    with at(tmp_path / "new" / "token.db") as token:
        assert token.status()["version"] == 1


def test_a_new_page_is_written_in_the_markup_of_the_site_redmine(redmine, loaders):
    """Of all that this Redmine knows. Where it has none, in Textile, and the answer says so."""
    for markup in (*redmine.markups(), ""):
        address = f"{redmine.url}/projects/ocds/wiki/New_in_{markup or 'none'}"
        salt = loaders(deploytoken={"store": address, "api_key": redmine.key("alice"), "name": "Alice"})
        with redmine.setting("text_formatting", markup):
            answer, again = salt.runners["deploytoken.init"](), salt.runners["deploytoken.init"]()
        told = "markdown" if markup in ("markdown", "common_mark") else "textile"
        assert (answer["created"], answer["markup"], "note" in answer) == (True, told, not markup)
        assert page.initial(told) == redmine.text(address)
        assert (again["created"], again["version"], "markup" in again) == (False, 1, False)


def test_an_init_that_was_killed_can_be_done_again_sqlite(tmp_path):
    (tmp_path / "token.db").touch()
    with at(tmp_path / "token.db") as token:
        with pytest.raises(Missing, match=r"salt-run deploytoken\.init"):
            token.status()
        assert token.store.create(TEXT, "init") is True
        assert token.status()["held_by"] is None


def test_another_programs_database_gets_no_token_sqlite(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "token.db")) as connection, connection:
        connection.execute("CREATE TABLE customers (name)")
    before = (tmp_path / "token.db").read_bytes()
    with at(tmp_path / "token.db") as token:
        with pytest.raises(errors.StoreError, match="is another program's database"):
            token.store.create(TEXT, "init")
        with pytest.raises(errors.StoreError, match="there is no token in"):
            token.acquire("upgrade")
    assert (tmp_path / "token.db").read_bytes() == before


def test_a_file_that_somebody_may_not_even_see_is_not_said_to_be_missing_sqlite(tmp_path):
    with at(tmp_path / "token.db") as token:
        token.store.create(TEXT, "init")
    tmp_path.chmod(0)
    os.seteuid(os.geteuid() or 65534)
    try:
        with at(tmp_path / "token.db") as token:
            with pytest.raises(errors.StoreError, match="check the path, its rights") as caught:
                token.status()
            assert not isinstance(caught.value, Missing)
            assert [(name, ok) for name, ok, _ in token.store.checks()] == [("file", False)]
    finally:
        os.seteuid(os.getuid())
        tmp_path.chmod(0o700)


def test_a_page_that_is_no_text_is_one_line_sqlite(tmp_path):
    with at(tmp_path / "token.db") as token:
        token.store.create(TEXT, "init")
        with contextlib.closing(sqlite3.connect(tmp_path / "token.db")) as connection, connection:
            connection.execute("UPDATE page SET text = x'ff00'")
        with pytest.raises(errors.StoreError, match="version 1 is not text"):
            token.acquire("upgrade")


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o660), (0o002, 0o660), (0o022, 0o640), (0o077, 0o600)], ids=oct)
def test_a_new_file_is_not_for_everybody_whatever_the_umask_sqlite(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with at(tmp_path / "new" / "token.db") as token:
            token.store.create(TEXT, "init")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "token.db").stat().st_mode) == mode
    assert not (tmp_path / "new").stat().st_mode & stat.S_IWOTH


@pytest.mark.parametrize("name", ["a b.db", "100%25 sure.db", "schön 🙂.db", "what?#.db", "it's.db", "link.db"])
def test_a_path_may_have_any_characters_and_be_a_link_sqlite(tmp_path, name):
    (tmp_path / "link.db").symlink_to(tmp_path / "linked.db")
    with at(tmp_path / name) as token:
        with pytest.raises(Missing):
            token.status()
        assert token.store.create(TEXT, "init") is True
        assert token.acquire("upgrade")["version"] == 2
    assert (tmp_path / name.replace("%25", "%")).is_file()


def test_a_file_in_wal_mode_is_as_good_sqlite(tmp_path):
    place = SqlitePlace(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "token.db")) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    with place.token("alice") as alice, place.token("bob") as bob:
        seen = alice.store.read()
        ref = bob.acquire("upgrade")["ref"]
        with pytest.raises(Conflict):
            alice.store.write(TEXT + "x", seen.version, "")
        assert bob.release("done", ref)["version"] == 3


def test_a_file_that_goes_away_in_between_is_not_made_again_sqlite(tmp_path):
    place = SqlitePlace(tmp_path)
    with place.token("alice") as alice:
        interfere(alice, (tmp_path / "token.db").unlink)
        with pytest.raises(Missing):
            alice.acquire("upgrade")
    assert not (tmp_path / "token.db").exists()


def test_a_full_disk_loses_nothing_and_claims_nothing_sqlite(tmp_path):
    assert os.getuid() == 0, "only root can mount a disk that is small enough to be filled: run script/test as root"
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", disk], check=True)
    try:
        place = SqlitePlace(disk)
        with place.token("alice", deadline=0.3) as alice:
            kept = []

            def fill():
                for _ in range(500):
                    ref = alice.acquire("upgrade" * 20)["ref"]
                    kept.append(alice.release("done" * 100, ref)["entry"])

            with pytest.raises((errors.StoreError, errors.InDoubt), match="full"):
                fill()
            assert kept
            assert [place.text().count(entry) for entry in kept] == [1] * len(kept)
            # Reading needs no room.
            assert alice.status()["version"] in (2 * len(kept) + 1, 2 * len(kept) + 2)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_missing_file_is_not_made_by_looking_sqlite(tmp_path):
    with Token(
        config.parse({"deploytoken": {"store": f"sqlite:///{tmp_path / 'token.db'}", "name": "Alice"}})
    ) as token:
        for refused in (token.status, lambda: token.acquire("upgrade"), lambda: token.release("done")):
            with pytest.raises(Missing, match=r"salt-run deploytoken\.init"):
                refused()
    assert list(tmp_path.iterdir()) == []
