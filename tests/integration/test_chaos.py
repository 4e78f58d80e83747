"""
Dozens of contenders on a store that fails, and people who end their holds by hand: nobody ever holds with somebody
else, no two deploys are at work at a time unless somebody forced it, and nothing is lost.

``script/chaos`` runs the same for as long as one likes. The seed is in the output of a failure.
"""

import collections
import dataclasses
import time

import pytest

from saltext.deploytoken import page
from tests.support import chaos

SECONDS = 20


@pytest.mark.parametrize("kind", ["sqlite", "redmine"])
def test_contenders_never_hold_at_once_and_lose_nothing(kind, tmp_path, request, capsys):
    redmine = request.getfixturevalue("redmine") if kind == "redmine" else None
    seed = time.time_ns() % 10**6
    # It is to be a contest, and there is to be trouble; how soon depends on the machine.
    words = [
        "held",
        "at work",
        "refused",
        "not released",
        "released",
        "edited",
        *(["killed"] if kind == "sqlite" else []),
    ]
    # Redmine has few answers a second: they are to serve who holds, too.
    record = chaos.run(kind, SECONDS, seed, tmp_path, redmine, 24 if kind == "sqlite" else 12, words)
    with capsys.disabled():
        print(f"\n  chaos on {kind}, seed {seed}:", *chaos.totals(record), sep="\n    ")
    assert chaos.check(record) == []
    assert {*words} <= {event["event"] for event in record.events}
    assert kind == "sqlite" or sum(record.faults.values()) > 0


# The checker is worth something: a true record passes, and each forgery of it is found.

HOLDS = {"aaaaaaaa": "Alice", "bbbbbbbb": "Bob"}
JOB, OTHER = "20261122223000000001@chaos", "20261122223000000002@chaos"


def true_record():
    """Alice holds and releases; then Bob, with a job at work; a person edits in between."""
    versions, events = [chaos.TEXT], []

    def event(word, **data):
        events.append({"at": 10 * len(events) + 1, "event": word, "process": data.get("ref", "person"), **data})

    for ref, name in HOLDS.items():
        job, words = (JOB, "; deployed it") if name == "Bob" else (None, "")
        hold = page.Hold(name, "chaos", "2026-11-22 22:30 UTC", ref, job=job)
        event("try", ref=ref, by=name)
        versions.append(page.write(versions[-1], hold))
        event("held", ref=ref)
        versions.append(f"{versions[-1]}note {ref}\n")
        event("edited", line=f"note {ref}")
        if job:
            event("at work", ref=ref, job=job)
            event("at rest", ref=ref, job=job)
            event("rested", ref=ref, job=job, words="deployed it")
        event("leaving", ref=ref)
        entry = f"* later {name}: did it{words} (ref {ref})"
        event("releasing", ref=ref, by=name, summary="did it")
        versions.append(page.add_entry(page.write(versions[-1], None), entry))
        event("released", ref=ref, entry=entry)
    return chaos.Record(versions, events, 1.0, collections.Counter())


def test_the_checker_finds_nothing_in_a_true_record():
    assert chaos.check(true_record()) == []


def events_with(record, **changes):
    """The events; ``held_bbbbbbbb={...}`` changes that one."""
    changed = [
        {**event, **changes.get(f"{event['event']}_{event.get('ref')}".replace(" ", "_"), {})}
        for event in record.events
    ]
    return dataclasses.replace(record, events=changed)


def with_event(record, **event):
    return dataclasses.replace(record, events=[*record.events, {"at": 10**6, "process": "forger", **event}])


def with_versions(record, change):
    return dataclasses.replace(record, versions=change(list(record.versions)))


FORGERIES = {
    "bbbbbbbb holds the token while aaaaaaaa does": lambda record: events_with(record, held_bbbbbbbb={"at": 25}),
    "cccccccc was told that it holds the token, and never did": lambda record: with_event(
        record, event="held", ref="cccccccc"
    ),
    "aaaaaaaa was refused (held), and held the token": lambda record: with_event(
        record, event="refused", ref="aaaaaaaa", reason="held"
    ),
    "aaaaaaaa was refused (store), and held the token": lambda record: with_event(
        record, event="refused", ref="aaaaaaaa", reason="store"
    ),
    "aaaaaaaa: its entry stands 2 times": lambda record: with_versions(
        record, lambda texts: [*texts, texts[-1] + "* later Alice: did it (ref aaaaaaaa)\n"]
    ),
    "the hold aaaaaaaa has 2 entries": lambda record: with_versions(
        record, lambda texts: [*texts, texts[-1] + "* again Alice: did it (ref aaaaaaaa)\n"]
    ),
    "bbbbbbbb: its entry stands 0 times": lambda record: with_versions(record, lambda texts: texts[:-1]),
    "a foreign edit stands 0 times: note aaaaaaaa": lambda record: with_versions(
        record, lambda texts: [*texts, texts[-1].replace("note aaaaaaaa\n", "")]
    ),
    "bbbbbbbb follows aaaaaaaa, which nobody ended": lambda record: with_versions(
        record, lambda texts: [*texts[:3], *texts[4:]]
    ),
    "the hold aaaaaaaa comes back": lambda record: with_versions(record, lambda texts: [*texts, texts[1]]),
    "the hold aaaaaaaa ends without an entry": lambda record: with_versions(
        record, lambda texts: [*texts[:3], texts[0], *texts[4:]]
    ),
    "bbbbbbbb was told that nothing was written, and there is": lambda record: with_event(
        dataclasses.replace(record, events=record.events[:-1]),
        event="not released",
        process="bbbbbbbb",
        ref="bbbbbbbb",
        reason="not_yours",
    ),
    "aaaaaaaa was released, with an entry of somebody else's": lambda record: events_with(
        record, releasing_aaaaaaaa={"summary": "did something else"}
    ),
    f"{JOB} was told that it is at work, and never was": lambda record: with_versions(
        record, lambda texts: [text.replace(f"; job {JOB}", "") for text in texts]
    ),
    "bbbbbbbb: the entry does not say what was done: deployed it": lambda record: with_versions(
        record, lambda texts: [*texts[:-1], texts[-1].replace("; deployed it", "")]
    ),
    f"{OTHER} is at work while {JOB} is": lambda record: with_event(
        record, event="at work", at=at(record, "at work") + 1, ref="bbbbbbbb", job=OTHER
    ),
    "bbbbbbbb was ended while": lambda record: events_with(record, at_rest_bbbbbbbb={"at": 10**6}),
    "Carol ended bbbbbbbb, which was Bob's, and did not ask for it": lambda record: events_with(
        record, releasing_bbbbbbbb={"by": "Carol"}
    ),
    "Carol ended bbbbbbbb, which was Bob's, and the entry does not say so": lambda record: events_with(
        record, releasing_bbbbbbbb={"by": "Carol", "for_holder": True}
    ),
}


def at(record, word):
    return next(event["at"] for event in record.events if event["event"] == word)


def test_the_checker_lets_two_be_at_work_where_somebody_forced_it():
    forced = {"event": "takeover", "displaced": "bbbbbbbb", "force": True}
    record = events_with(true_record(), at_rest_bbbbbbbb={"at": 10**6}, releasing_bbbbbbbb={"job": JOB})
    begin = at(record, "at work") + 2
    record = with_event(record, event="at work", at=begin, ref="bbbbbbbb", job=OTHER)
    only = [f"{OTHER} is at work while {JOB} is", f"{OTHER} was told that it is at work, and never was"]
    assert chaos.check(record) == only
    assert chaos.check(with_event(record, **forced, at=begin - 1)) == only[1:]


@pytest.mark.parametrize("found", FORGERIES)
def test_the_checker_finds(found):
    wrong = chaos.check(FORGERIES[found](true_record()))
    assert [line for line in wrong if found in line]
