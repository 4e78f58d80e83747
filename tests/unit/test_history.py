"""Past holds are read back from the page's versions, and what people typed is marked."""

import dataclasses
import unicodedata

import pytest

from saltext.deploytoken import history, page, protocol
from saltext.deploytoken.history import Comment
from saltext.deploytoken.stores.base import Missing, Page
from tests.support.alone import load_alone

output = load_alone("_output/deploytoken.py").output
RULES = page.DEFAULT
JID = "20261122223000123456"
ALICE = page.Hold(name="Alice", reason="upgrade PostgreSQL", since="2026-11-22 22:30 UTC", ref="aaaaaaaa")
BOB = page.Hold(name="Bob", reason="site is down", since="2026-11-22 23:00 UTC", ref="bbbbbbbb")
TEXT = "Held by: nobody\n\nh2. History\n"


class Wiki:
    """A page whose versions are written by steps of our own protocol, or by hand."""

    def __init__(self, text=TEXT):
        self.name = "Alice"
        self.pages = [Page(text, 1, "Boss", "init", "2026-11-22T22:00:00Z")]

    def save(self, text, comment="", author="Alice"):
        number = len(self.pages) + 1
        self.pages.append(Page(text, number, author, comment, f"2026-11-22T22:{number:02d}:00Z"))
        return self

    def run(self, steps):
        send, value = steps.send, None
        try:
            while True:
                step = send(value)
                send, value = steps.send, None
                if isinstance(step, protocol.Read):
                    value = self.pages[-1]
                elif isinstance(step, protocol.WhoAmI):
                    value = self.name
                elif isinstance(step, protocol.Write):
                    self.save(step.text, step.comment)
                elif self.pages[step.number - 1]:
                    value = self.pages[step.number - 1]
                else:
                    send, value = steps.throw, Missing("deleted")
        except StopIteration:
            return self

    def acquire(self, hold=ALICE, jid="", by=""):
        comment = f"acquire ref={hold.ref} id={hold.ref * 4}{by}{jid}: {hold.reason}"
        return self.run(protocol.acquire(hold, comment, RULES))

    def release(self, ref="aaaaaaaa", name="Alice", summary="upgraded: all well", by="", **right):
        comment = f"release ref={ref or '-'} id={'c' * 32}{by}: {summary}"
        until = "2026-11-22 23:30 UTC"
        self.name = name
        right = protocol.Right(for_holder=True, **right)
        return self.run(protocol.release(RULES, comment, summary, until, fresh="c" * 8, ref=ref, right=right))

    def take_over(self, hold=BOB, ref="aaaaaaaa", held_by=None):
        comment = f"takeover ref={hold.ref} id={hold.ref * 4} displaced={ref or '-'}: {hold.reason}"
        steps = protocol.take_over(
            hold, comment, RULES, "2026-11-22 23:00 UTC", fresh="d" * 8, ref=ref, held_by=held_by
        )
        return self.run(steps)

    def edit(self, old, new, comment=""):
        assert old in self.pages[-1].text
        return self.save(self.pages[-1].text.replace(old, new), comment, author="Wiki User")

    # What history.versions wants of a store.

    def read(self):
        return self.pages[-1]

    def read_version(self, number):
        self.asked = [*getattr(self, "asked", []), number]
        if self.pages[number - 1] is None:
            raise Missing("deleted")
        return self.pages[number - 1]

    def past(self, limit=20, most=1000):
        return history.past(history.versions(self, most), RULES, limit)

    def holds(self, *keys):
        return [tuple(hold[key] for key in keys) for hold in self.past()["holds"]]


def test_a_page_that_nobody_held_has_no_holds():
    assert Wiki().past() == {"holds": [], "unreadable": [], "complete": True}


def test_entries_without_holds_are_not_denied():
    """A team's page can have a History that is older than the token."""
    text = output(Wiki().past())
    assert text.startswith("No version of the page that was read shows a hold.")
    assert "by hand" in text


def test_a_released_hold_has_who_why_from_to_and_its_entry():
    assert Wiki().acquire().edit("h2.", "More.\n\nh2.").release().past() == {
        "holds": [
            {
                "held_by": "Alice",
                "ref": "aaaaaaaa",
                "reason": "upgrade PostgreSQL",
                "account": None,
                "from": "2026-11-22 22:02 UTC",
                "to": "2026-11-22 22:04 UTC",
                "ended": "released",
                "ended_by": "Alice",
                "entry": "* 2026-11-22 23:30 UTC Alice: upgraded: all well (ref aaaaaaaa)",
                "by_hand": False,
                "unreadable": [],
            }
        ],
        "unreadable": [],
        "complete": True,
    }


def test_a_hold_names_who_took_it_and_who_ended_it():
    alice, bob = " by=alice@master1", " by=bob@master1"
    own = Wiki().acquire(by=alice).release(by=alice)
    others = Wiki().acquire(by=alice).release(by=bob, name="Bob")

    assert own.holds("account", "ended_by") == [("alice@master1", "Alice")]
    assert others.holds("account", "ended_by", "entry") == [
        (
            "alice@master1",
            "bob@master1",
            "* 2026-11-22 23:30 UTC Alice: upgraded: all well; released by Bob (ref aaaaaaaa)",
        )
    ]


def test_the_newest_hold_is_first_and_still_held():
    wiki = Wiki().acquire().release().acquire(BOB)

    assert wiki.holds("held_by", "ended", "to") == [
        ("Bob", "still held", None),
        ("Alice", "released", "2026-11-22 22:03 UTC"),
    ]


def test_a_hold_taken_for_a_job_is_ours_as_well():
    assert Wiki().acquire(jid=f" jid={JID}").holds("by_hand") == [(False,)]


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (Comment("acquire", "aaaaaaaa", "aaaaaaaab", jid=JID), f"acquire ref=aaaaaaaa id=aaaaaaaab jid={JID}"),
        (Comment("acquire", "aaaaaaaa", "aaaaaaaab"), "acquire ref=aaaaaaaa id=aaaaaaaab"),
        (Comment("takeover", "bbbbbbbb", "bb", "aaaaaaaa"), "takeover ref=bbbbbbbb id=bb displaced=aaaaaaaa"),
        (Comment("takeover", "bbbbbbbb", "bb", "-"), "takeover ref=bbbbbbbb id=bb displaced=-"),
        (Comment("release", id="cc"), "release ref=- id=cc"),
        (Comment("withdraw", "aaaaaaaa"), "withdraw ref=aaaaaaaa"),
        (
            Comment("end", "aaaaaaaa", "aa", jid=JID, by="alice@master1"),
            f"end ref=aaaaaaaa id=aa by=alice@master1 jid={JID}",
        ),
    ],
)
def test_a_comment_is_read_as_it_was_written_whatever_words_follow(comment, text):
    assert comment.render() == text
    for words in (None, "x", f"fake jid={JID}: id=ff\ndisplaced=ffffffff"):
        spoken = dataclasses.replace(comment, words=words)
        assert Comment.parse(spoken.render()) == spoken


@pytest.mark.parametrize("text", [None, "", "init", "release", "acquire ref=aaaaaaa", "acquire ref=aaaaaaaa x: y"])
def test_a_comment_that_people_wrote_is_none_of_ours(text):
    assert Comment.parse(text) is None


def test_a_takeover_ends_one_hold_and_begins_another():
    wiki = Wiki().acquire().take_over().release("bbbbbbbb")

    assert wiki.holds("held_by", "ended", "ended_by", "by_hand") == [
        ("Bob", "released", "Alice", False),
        ("Alice", "taken over", "Bob", False),
    ]
    assert "taken over by Bob: site is down" in wiki.past()["holds"][1]["entry"]


def test_a_withdrawn_hold_says_so_and_has_no_entry():
    wiki = Wiki().acquire().save(TEXT, "withdraw ref=aaaaaaaa")

    assert wiki.holds("ended", "entry", "by_hand") == [("withdrawn", None, False)]


@pytest.mark.parametrize(
    "comment", ["", "release", "acquire ref=bbbbbbbb id=bb: other", "release ref=bbbbbbbb id=bb: x"]
)
def test_a_hold_that_somebody_ended_by_typing_is_marked(comment):
    wiki = Wiki().acquire().save(TEXT + "\n* Alice forgot\n", comment, author="Carol")

    assert wiki.holds("ended", "ended_by", "by_hand", "entry") == [("by hand", "Carol", True, "* Alice forgot")]


def test_a_name_that_somebody_typed_is_a_hold_by_hand():
    wiki = Wiki().edit("nobody", "Carol")

    assert wiki.holds("held_by", "ref", "reason", "from", "ended", "by_hand") == [
        ("Carol", None, None, "2026-11-22 22:02 UTC", "still held", True)
    ]


def test_a_typed_hold_that_is_released_by_us_began_by_hand_and_has_its_entry():
    wiki = Wiki().edit("nobody", "Carol").release(None, "Carol")

    assert wiki.holds("ended", "by_hand", "entry") == [
        ("released", True, "* 2026-11-22 23:30 UTC Carol: upgraded: all well (ref cccccccc)")
    ]


def test_a_typed_hold_that_is_taken_over_says_by_whom():
    wiki = Wiki().edit("nobody", "Carol").take_over(ref=None, held_by="Carol")

    assert wiki.holds("held_by", "ended", "ended_by") == [("Bob", "still held", None), ("Carol", "taken over", "Bob")]


@pytest.mark.parametrize("comment", ["", "looks fine", "acquire ref=bbbbbbbb id=bb: other"])
def test_a_line_copied_by_hand_with_a_ref_of_its_own_is_by_hand(comment):
    wiki = Wiki().save(page.write(TEXT, ALICE), comment)

    assert wiki.holds("ref", "by_hand") == [("aaaaaaaa", True)]


def test_a_takeover_of_another_hold_is_not_this_ones_end():
    wiki = Wiki().acquire()
    wiki.save(page.write(TEXT, BOB), "takeover ref=bbbbbbbb id=bb displaced=cccccccc: x", author="Carol")

    assert wiki.holds("held_by", "ended", "ended_by") == [("Bob", "still held", None), ("Alice", "by hand", "Carol")]


def test_an_entry_that_stood_there_before_is_nobody_elses():
    wiki = Wiki().acquire().release().acquire(BOB)
    wiki.save(page.write(wiki.read().text, None), author="Carol")

    assert wiki.holds("held_by", "ended", "entry")[0] == ("Bob", "by hand", None)


def test_an_edited_reason_is_the_same_hold_and_marked():
    wiki = Wiki().acquire().edit("upgrade PostgreSQL", "upgrade everything").release()

    assert wiki.holds("reason", "ended", "by_hand") == [("upgrade everything", "released", True)]


def test_a_name_put_in_place_of_another_is_two_holds():
    wiki = Wiki().acquire()
    wiki.save(TEXT.replace("nobody", "Carol"), author="Carol")

    assert wiki.holds("held_by", "ended", "ended_by") == [("Carol", "still held", None), ("Alice", "by hand", "Carol")]


def test_unreadable_versions_within_a_hold_are_marked():
    wiki = Wiki().acquire().edit("Held by:", "Held:").edit("Held:", "Held by:").release()

    assert wiki.holds("ended", "by_hand", "unreadable") == [("released", True, [3])]
    (mangled,) = wiki.past()["unreadable"]
    assert (mangled["version"], mangled["author"], mangled["saved"]) == (3, "Wiki User", "2026-11-22 22:03 UTC")
    assert "no line" in mangled["why"]


def test_a_hold_below_an_unreadable_page_has_an_unknown_end():
    wiki = Wiki().acquire().edit("Held by:", "Held:")

    assert wiki.holds("held_by", "ended", "unreadable", "to") == [("Alice", "unknown", [3], None)]


def test_deleted_versions_are_marked_as_such():
    wiki = Wiki().acquire().edit("h2.", "More.\n\nh2.").release()
    wiki.pages[2] = None

    assert wiki.holds("ended", "unreadable") == [("released", [3])]
    assert wiki.past()["unreadable"][0]["why"] == "it was deleted"


def test_no_version_is_read_that_is_not_needed():
    wiki = Wiki()
    for number in range(5):
        ref = str(number) * 8
        wiki.acquire(dataclasses.replace(ALICE, ref=ref)).release(ref)

    found = wiki.past(limit=2)

    assert len(found["holds"]) == 2
    assert not found["complete"]
    assert wiki.asked == [10, 9, 8, 7]


def test_the_number_of_versions_read_is_bounded():
    wiki = Wiki().acquire()
    for number in range(20):
        wiki.edit("h2.", f"{number}\n\nh2.")

    found = wiki.past(most=10)

    assert len(wiki.asked) == 9
    assert not found["complete"]
    # The beginning was not seen: what the line says, and nothing made up.
    assert [(hold["from"], hold["by_hand"]) for hold in found["holds"]] == [("2026-11-22 22:30 UTC", False)]


def test_a_stores_odd_time_comes_back_as_it_is():
    wiki = Wiki().acquire()
    wiki.pages[1] = dataclasses.replace(wiki.pages[1], saved="yesterday")

    assert wiki.holds("from") == [("yesterday",)]


def test_the_table_is_readable_at_80_columns():
    long = dataclasses.replace(
        ALICE, name="Friederike-Wilhelmine von Hohenzollern", reason="all of it, " * 15 + "twice"
    )
    wiki = Wiki().acquire(long).edit("Held by:", "Held:").edit("Held:", "Held by:").release(summary="did " * 40)
    wiki.acquire(BOB).save(TEXT, author="Carol").edit("nobody", "Käthe").take_over(ref=None, held_by="Käthe")

    text = output(wiki.past())

    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(unicodedata.category(char) == "Cc" for line in lines for char in line)
    assert " ".join(lines[0].split()) == "WHEN (UTC) WHO ENDED WHY, AND WHAT WAS DONE"
    flat = " ".join(text.split())
    for what in (
        "still held",
        "taken over by",
        "Bob",
        "by hand",
        "(Carol)",
        "edited by hand",
        "unreadable",
        "aaaaaaaa",
    ):
        assert what in flat


def test_what_people_typed_is_no_command_to_the_terminal():
    odd = "\x1b[2J\u202e\x07"
    pages = [
        Page(
            f"Held by: nobody\n\nh2. History\n\n* {odd} (ref 3f9c2a1b)\n",
            3,
            f"Al{odd}",
            f"release ref=3f9c2a1b {odd}",
            odd,
        ),
        Page(f"Held by: Al{odd}ice\n", 2),
        Page(odd, 1, odd, odd, odd),
    ]
    found = history.past(pages, RULES)
    assert found["holds"][0]["held_by"].isprintable()
    assert output(found).replace("\n", "").isprintable()


def test_what_a_job_or_an_extension_changes_on_the_line_is_no_edit_by_hand():
    line = "upgrade PostgreSQL; since 2026-11-22 22:30 UTC"
    wiki = Wiki().acquire()
    wiki.edit(line, f"{line}; job {JID}@master1", f"begin ref=aaaaaaaa id=aa by=alice@master1 jid={JID}")
    wiki.edit(f"; job {JID}@master1", "", f"end ref=aaaaaaaa id=aa by=alice@master1 jid={JID}: 12:00 UTC upgrade")
    wiki.edit("upgrade PostgreSQL", "upgrade all", "extend ref=aaaaaaaa id=aa by=alice@master1: upgrade all").release()

    assert wiki.holds("by_hand", "reason") == [(False, "upgrade all")]
    assert "12:00 UTC upgrade" in wiki.holds("entry")[0][0]
