"""Consent names its blockers."""

import pytest
import yaml

from saltext.deploytoken import errors
from saltext.deploytoken.busy import consent

OLD = {"id": "kingfisher-main/scrapyd/kingfisher:spider_a:6487ec"}
NEW = {"id": "kingfisher-main/scrapyd/kingfisher:spider_a:6487ed"}
TMUX = {"id": "kingfisher-main/tmux/ocdskfs:ana-load:123"}


def covered(value, *blockers):
    agreed = consent.parse(value)
    found = consent.covered(agreed, blockers)
    assert consent.uncovered(agreed, blockers) == [one for one in blockers if one not in found]
    return found


def test_no_consent_covers_nothing():
    assert consent.parse(None) is None
    assert (consent.covered(None, [OLD]), consent.uncovered(None, [OLD])) == ([], [OLD])


def test_a_name_alone_covers_all_that_runs_now():
    assert covered("Jane Doe, helpdesk", OLD, TMUX) == [OLD, TMUX]


def test_a_spider_that_started_after_jane_agreed_is_not_hers():
    later = {"id": OLD["id"] + "1"}
    assert covered({"by": "Jane", "for": [OLD["id"]]}, OLD, NEW, later) == [OLD]


def test_globs_cover_what_they_match_and_case_matters():
    assert covered({"by": "Jane", "for": ["*/scrapyd/*"]}, OLD, NEW, TMUX) == [OLD, NEW]
    assert covered({"by": "Jane", "for": "*/SCRAPYD/*"}, OLD) == []


def test_the_lines_to_paste_cover_exactly_what_they_list():
    colon = {"id": "web1/processes/rsync:"}
    pasted = yaml.safe_load("\n".join(consent.lines([OLD, TMUX, colon])))["consent"]

    assert covered({**pasted, "by": "Jane"}, OLD, NEW, TMUX, colon) == [OLD, TMUX, colon]
    assert consent.lines([]) == []


@pytest.mark.parametrize(
    "value",
    ["", "  ", 3, True, [], ["Jane"], {}, {"for": ["*"]}, {"by": None}, {"by": "", "for": ["*"]},
     {"by": "Jane", "for": []},
     {"by": "Jane", "for": [3]}, {"by": "Jane", "for": [""]}, {"by": "Jane", "of": ["*"]}, {"by": "Jane\nDoe"},
     {"by": "Jane", "for": None}],
)  # fmt: skip
def test_an_unclear_consent_is_refused(value):
    with pytest.raises(errors.Invalid, match="consent"):
        consent.parse(value)


@pytest.mark.parametrize(
    "value", ["{by: Jane, for: [web1/tmux/*}", "by: Jane", "[Jane", {"by": "Jane, for: [web1/tmux/*]"}]
)
def test_a_mapping_that_yaml_could_not_read_is_nobody_who_agreed_to_everything(value):
    with pytest.raises(errors.Invalid, match=r"consent: .* is no name"):
        consent.parse(value)


def test_the_lines_to_paste_are_refused_until_a_name_is_filled_in():
    pasted = yaml.safe_load("\n".join(consent.lines([OLD])))["consent"]
    with pytest.raises(errors.Invalid, match="name of the person"):
        consent.parse(pasted)
    assert covered({**pasted, "by": "Jane"}, OLD) == [OLD]
