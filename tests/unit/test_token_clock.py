"""How long the token is asked for, and how often: by a clock of the test's own, without waiting for it."""

import datetime
import itertools

import pytest

from saltext.deploytoken import config, errors, token
from saltext.deploytoken.stores.base import Conflict, Missing, Page, Unanswered

TEXT = "Held by: nobody\n\nh2. History\n"


class Clock:
    """Stands still but for those who sleep, and for what an answer takes."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def monotonic(self):
        return self.now

    time = monotonic

    def sleep(self, seconds):
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


class Wiki:
    """A store of one page, whose writes are answered with ``errors``, one after the other, each after 2 seconds."""

    url = "wiki"

    def __init__(self, clock, answers=(), text=TEXT):
        self.clock, self.answers, self.text, self.sent = clock, iter(answers), text, []

    def read(self):
        return Page(self.text, 7)

    def read_version(self, number):
        raise Missing("deleted")

    def write(self, text, version, comment):
        self.clock.now += 2
        self.sent.append((text, version, comment))
        if error := next(self.answers, None):
            raise error


@pytest.fixture
def clock():
    return Clock()


def alice(clock, wiki, notify=None):
    options = {"store": "sqlite:////nowhere", "name": "Alice", "deadline": 60}
    made = token.Token(config.parse({"deploytoken": options}), notify, clock=clock)
    made.store = wiki
    return made


def test_a_write_is_sent_again_at_growing_intervals_until_the_deadline(clock):
    wiki = Wiki(clock, itertools.repeat(Unanswered("no answer"), 999))
    with pytest.raises(errors.InDoubt):
        alice(clock, wiki).acquire("upgrade")
    # The last one is sent at the deadline at the latest, and takes its 2 seconds.
    assert 60 <= clock.now - 1000 <= 62
    assert len(set(wiki.sent)) == 1
    assert len(wiki.sent) == len(clock.slept) + 1
    *grown, _ = clock.slept
    for number, seconds in enumerate(grown):
        longest = min(5, 0.2 * 2**number)
        assert longest / 2 <= seconds <= longest
    assert len({seconds / min(5, 0.2 * 2**number) for number, seconds in enumerate(grown)}) > 1


def test_a_page_that_others_save_is_tried_until_the_deadline(clock):
    wiki = Wiki(clock, itertools.repeat(Conflict(), 999))
    with pytest.raises(errors.StoreError, match="again and again"):
        alice(clock, wiki).acquire("upgrade")
    assert clock.now - 1000 == pytest.approx(60, abs=2.1)


def test_a_waiter_looks_every_few_seconds_out_of_step_and_once_at_the_end(clock):
    told = []
    wiki = Wiki(clock, text=TEXT.replace("nobody", "Bob"))
    waiting = alice(clock, wiki, lambda event, data: told.append((event, data.get("left"))))
    with pytest.raises(errors.Held, match="Bob holds the token"):
        waiting.acquire("upgrade", wait=60)
    assert clock.now - 1000 == pytest.approx(60)
    *looks, _ = clock.slept
    assert all(2.5 <= seconds <= 7.5 for seconds in looks)
    assert len(set(looks)) > 1
    assert [event for event, _ in told] == ["waiting"] * len(clock.slept) + ["refused"]
    assert wiki.sent == []


def test_the_time_on_the_page_is_of_the_look_that_found_the_token_free(clock):
    wiki = Wiki(clock, text=TEXT.replace("nobody", "Bob"))

    def notify(event, data):
        if event == "waiting" and clock.now > 1200:
            wiki.text = TEXT

    held = alice(clock, wiki, notify).acquire("upgrade", wait=900, expect=3600)
    assert held["since"] == "1970-01-01 00:20 UTC"
    assert held["expected_until"] == "1970-01-01 01:20 UTC"


def test_a_hold_is_overdue_after_the_time_that_its_holder_expected_and_not_before(clock):
    line = "Alice (upgrade; since 1970-01-01 00:10 UTC; expected until 1970-01-01 00:17 UTC; ref aaaaaaaa)"
    wiki = Wiki(clock, text=TEXT.replace("nobody", line))
    status = alice(clock, wiki).status()
    assert (status["age"], status["overdue"]) == (400, False)
    clock.now = 1021.0
    assert alice(clock, wiki).status()["overdue"] is True
    # A page from another clock has no hold of the future.
    clock.now = 0.0
    assert alice(clock, wiki).status()["age"] == 0


def test_a_ref_begins_with_a_letter_whatever_salt_makes_of_digits():
    refs = {token.claim().ref for _ in range(200)}
    assert len(refs) == 200
    assert not [ref for ref in refs if ref[0] not in "abcdef"]


@pytest.mark.parametrize(
    ("comment", "age"), [("acquire ref=3f9c2a1b id=3f9c2a1b0: x", 5), ("acquire ref=aaaaaaaa id=aaaaaaaa0: x", 42)]
)
def test_a_holds_age_counts_from_the_second_in_which_it_was_taken_where_the_version_has_it(clock, comment, age):
    """The page's own line has no seconds. A later edit is no beginning."""
    saved = "2026-11-22T22:30:37Z"
    clock.now = datetime.datetime.fromisoformat("2026-11-22T22:30:42+00:00").timestamp()
    wiki = Wiki(clock)
    text = "Held by: Alice (upgrade; since 2026-11-22 22:30 UTC; ref 3f9c2a1b)\n"
    wiki.read = lambda: Page(text, 7, comment=comment, saved=saved)

    assert alice(clock, wiki).status()["age"] == age
