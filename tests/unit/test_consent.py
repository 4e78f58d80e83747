"""Consent names its blockers, and each person agrees to their own."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from salt.utils.args import yamlify_arg

from saltext.deploytoken import errors
from saltext.deploytoken.busy import consent

OLD = {"id": "kingfisher-main/scrapyd/kingfisher:spider_a:6487ec", "ask": "Started by Jane Doe", "user": "scrapyd"}
NEW = {"id": "kingfisher-main/scrapyd/kingfisher:spider_a:6487ed", "ask": "Started by Jane Doe", "user": "scrapyd"}
TMUX = {"id": "kingfisher-main/tmux/ocdskfs:ana-load:123", "ask": "ana-load (ocdskfs)", "user": "ocdskfs"}
PROCESS = {"id": "web1/processes/rsync:", "ask": None, "user": "ben"}
NOBODY = {"id": "web1/shutdown", "ask": None, "user": None}


def covered(value, *blockers):
    agreed = consent.parse(value)
    found = consent.covered(agreed, blockers)
    assert consent.uncovered(agreed, blockers) == [one for one in blockers if one not in found]
    assert [one for people in consent.by_person(agreed, blockers).values() for one in people if one not in found] == []
    return found


@pytest.mark.parametrize("value", [None, []])
def test_no_consent_covers_nothing(value):
    assert consent.parse(value) is None
    assert (consent.covered(None, [OLD]), consent.uncovered(None, [OLD])) == ([], [OLD])
    assert consent.frozen(None, [OLD]) is None


def test_a_name_alone_covers_all_that_runs_now():
    assert covered("Jane Doe, helpdesk", OLD, TMUX) == [OLD, TMUX]


def test_a_spider_that_started_after_jane_agreed_is_not_hers():
    later = {"id": OLD["id"] + "1"}
    assert covered({"by": "Jane", "for": [OLD["id"]]}, OLD, NEW, later) == [OLD]


def test_globs_cover_what_they_match_and_case_matters():
    assert covered({"by": "Jane", "for": ["*/scrapyd/*"]}, OLD, NEW, TMUX) == [OLD, NEW]
    assert covered({"by": "Jane", "for": "*/SCRAPYD/*"}, OLD) == []


def test_several_people_agree_each_to_their_own():
    value = [{"by": "Jane", "for": ["*/scrapyd/*"]}, {"by": "Ana", "for": TMUX["id"]}]
    assert covered(value, OLD, TMUX, PROCESS) == [OLD, TMUX]
    agreed = consent.parse(value)
    assert consent.by_person(agreed, [OLD, TMUX, PROCESS, NEW]) == {"Jane": [OLD, NEW], "Ana": [TMUX]}
    assert (agreed.by(OLD), agreed.by(TMUX), agreed.by(PROCESS)) == ("Jane", "Ana", None)


def test_a_name_alone_is_frozen_to_what_was_found_when_it_was_given():
    agreed = consent.frozen(consent.parse("Jane"), [OLD])
    assert (consent.covered(agreed, [OLD, NEW]), agreed) == ([OLD], consent.parse({"by": "Jane", "for": [OLD["id"]]}))
    assert consent.frozen(agreed, [OLD, NEW]) == agreed
    # Where nothing ran, she agreed to nothing.
    assert consent.frozen(consent.parse("Jane"), []) is None


def test_what_others_agreed_to_by_name_stays_theirs():
    agreed = consent.frozen(consent.parse(["Jane", {"by": "Ana", "for": ["*/tmux/*"]}]), [OLD, TMUX])
    assert consent.by_person(agreed, [OLD, NEW, TMUX]) == {"Jane": [OLD], "Ana": [TMUX]}


def test_the_consent_to_ask_for_has_what_was_given_and_what_each_person_is_to_agree_to():
    given = [{"by": "Jane", "for": [OLD["id"]]}]
    asked = consent.request(consent.parse(given), [OLD, NEW, TMUX, PROCESS, NOBODY])
    assert asked == [
        *given,
        {"by": "Started by Jane Doe", "for": [NEW["id"]]},
        {"by": "ana-load (ocdskfs)", "for": [TMUX["id"]]},
        {"by": "ben", "for": [PROCESS["id"]]},
        {"by": "WHO AGREED", "for": [NOBODY["id"]]},
    ]
    with pytest.raises(errors.Invalid, match=r"^consent\.4\.by: the name of the person"):
        consent.parse(asked)
    asked[-1]["by"] = "Ben"
    assert covered(asked, OLD, NEW, TMUX, PROCESS, NOBODY) == [OLD, NEW, TMUX, PROCESS, NOBODY]
    assert consent.request(consent.parse(given), [OLD]) == []


@pytest.mark.parametrize(
    ("blockers", "words"),
    [
        ([OLD, NEW], "If Started by Jane Doe agrees"),
        ([OLD, PROCESS], "If Started by Jane Doe and ben agree"),
        ([OLD, PROCESS, TMUX], "If Started by Jane Doe, ben and ana-load (ocdskfs) agree"),
        ([OLD, NOBODY], "If the people concerned agree, and with their names in place of WHO AGREED"),
    ],
)
def test_it_is_said_who_has_to_agree(blockers, words):
    assert consent.condition(blockers) == words


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
IDS = st.text("abc:.@%+/-~*?[]", min_size=1, max_size=20)
BLOCKERS = st.lists(
    st.fixed_dictionaries({"id": IDS, "ask": st.none() | NAMES, "user": st.none() | NAMES}), max_size=5
)


@given(BLOCKERS, BLOCKERS)
@example([{"id": "a", "ask": 'Zoë "🦊" #1, it\'s by: me', "user": "🦊 #1"}], [])
@example([{"id": "a", "ask": "{by: Jane}", "user": None}], [])
def test_whatever_the_people_are_called_the_consent_as_typed_covers_what_it_lists(blockers, given):
    agreed = consent.frozen(consent.parse("Jane"), given)
    asked = consent.request(agreed, blockers)
    typed = yamlify_arg(json.dumps(asked, ensure_ascii=False))
    named = [{**one, "by": "Ben"} if one["by"] == consent.PLACEHOLDER else one for one in typed]

    found = consent.parse(named)
    assert consent.uncovered(found, blockers if asked else []) == []
    assert consent.data(found) == (named if asked else [])
    assert consent.parse(consent.data(agreed)) == agreed


@pytest.mark.parametrize(
    ("value", "key"),
    [
        *((value, "consent") for value in ("", "  ", 3, True, {}, {"for": ["*"]}, {"by": "Jane", "of": ["*"]})),
        *(({"by": by, "for": ["*"]}, "consent.by") for by in (None, "", 3, ["Jane"], "Jane\nDoe", "WHO AGREED")),
        *(({"by": "Jane", "for": ids}, "consent.for") for ids in ([], None, "", [3], [""], {"a": 1})),
        (["Jane", None], "consent.1"),
        ([["Jane"]], "consent.0"),
        (["Jane", {"by": "", "for": ["*"]}], "consent.1.by"),
        (["Jane", {"by": "Ana", "for": []}], "consent.1.for"),
    ],
)
def test_an_unclear_consent_is_refused_by_its_whole_key(value, key):
    with pytest.raises(errors.Invalid) as caught:
        consent.parse(value)
    assert str(caught.value).partition(": ")[0] == key


@pytest.mark.parametrize(
    "value", ["{by: Jane, for: [web1/tmux/*}", "by: Jane", "[Jane", {"by": "Jane, for: [web1/tmux/*]"}, ["for: x"]]
)
def test_a_mapping_that_yaml_could_not_read_is_nobody_who_agreed_to_everything(value):
    with pytest.raises(errors.Invalid, match=r"^consent(\.by|\.0)?: .* is no name"):
        consent.parse(value)
