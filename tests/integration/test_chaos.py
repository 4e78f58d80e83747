"""
Dozens of contenders on a store that fails: nobody ever holds with somebody else, and nothing is lost.

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
    record = chaos.run(kind, SECONDS, seed, tmp_path, redmine)
    with capsys.disabled():
        print(f"\n  chaos on {kind}, seed {seed}:", *chaos.totals(record), sep="\n    ")
    assert chaos.check(record) == []
    events = collections.Counter(event["event"] for event in record.events)
    # It was a contest, and there was trouble; how much of it depends on the machine.
    assert min(events[word] for word in ("held", "refused", "released", "edited")) > 0
    assert events["killed"] > 0 if kind == "sqlite" else sum(record.faults.values()) > 0


# The checker is worth something: a true record passes, and each forgery of it is found.

HOLDS = {"aaaaaaaa": "Alice", "bbbbbbbb": "Bob"}


def true_record():
    """Alice holds and releases, then Bob; a person edits in between."""
    versions, events = [chaos.TEXT], []

    def event(word, **data):
        events.append({"at": 10 * len(events) + 1, "event": word, "process": data.get("ref", "person"), **data})

    for ref, name in HOLDS.items():
        hold = page.Hold(name, "chaos", "2026-11-22 22:30 UTC", ref)
        event("try", ref=ref)
        versions.append(page.write(versions[-1], hold))
        event("held", ref=ref)
        versions.append(f"{versions[-1]}note {ref}\n")
        event("edited", line=f"note {ref}")
        event("leaving", ref=ref)
        entry = f"* later {name}: did it (ref {ref})"
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
        ref="bbbbbbbb",
        reason="not_yours",
    ),
}


@pytest.mark.parametrize("found", FORGERIES)
def test_the_checker_finds(found):
    wrong = chaos.check(FORGERIES[found](true_record()))
    assert [line for line in wrong if found in line]
