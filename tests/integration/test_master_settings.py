"""A team's own configuration of the master: a deploy has the same results and the same page under all of it."""

import re

import pytest

from tests.support.deploy import REASON, STEPS, comment, deploy, results, variant
from tests.support.salt import states

#: What salt-run reads itself, and an orchestration with it. The functional tests of this name have, one by one, what
#: changes how the procedure compiles, and how its page is shown.
SETTINGS = [
    {
        "failhard": True,
        "state_aggregate": True,
        "state_auto_order": False,
        "jinja_trim_blocks": True,
        "jinja_lstrip_blocks": True,
        "jinja_sls_env": {"trim_blocks": True, "lstrip_blocks": True, "line_statement_prefix": "%"},
        "renderer": "yaml",
    },
    {"timeout": 1, "gather_job_timeout": 1, "job_cache": False, "runner_returns": False},
    {
        "log_level": "debug",
        "state_output": "changes",
        "state_verbose": False,
        "color": True,
        "minion_data_cache": False,
    },
]


def page(answer):
    """The page of a deploy, but for what differs from one to the next."""
    return re.sub(r"\d+\.\d s|ref\s+[0-9a-f]{8}|\d{4}-\d\d-\d\d \d\d:\d\d|\d{20}", "…", comment(answer, "report"))


@pytest.fixture
def site(site, tmp_path):
    site.part = tmp_path / "part"
    # Nothing to change: the same each time.
    site.part.touch()
    site.sls("part", {"part": {"file.exists": [{"name": str(site.part)}]}})
    return site


@pytest.fixture
def usual(site):
    """How it ends, and its page, under Salt's own settings."""
    answer = deploy(site, sls="part")
    assert results(answer) == dict.fromkeys(STEPS, True), answer
    return page(answer)


def test_a_deploy_goes_as_ever_under_whatever_settings(site, tmp_path, redmine, usual):
    for number, settings in enumerate(SETTINGS):
        answer = deploy(variant(site, tmp_path / f"etc{number}", **settings), sls="part")
        assert answer.code == 0, (settings, answer)
        assert results(answer) == dict.fromkeys(STEPS, True), (settings, answer)
        assert [row["__id__"] for row in states(answer)] == STEPS, settings
        assert page(answer) == usual, settings
        assert "Held by: nobody" in redmine.text(site.page), settings


def test_a_master_that_only_ever_tests_says_that_nothing_was_changed(site, tmp_path, redmine):
    site.sls("part", {"part": {"file.touch": [{"name": str(tmp_path / "touched")}]}})
    before = redmine.text(site.page)
    answer = deploy(variant(site, tmp_path / "etc", test=True), sls="part")
    assert answer.code == 0, answer
    assert comment(answer, "report").startswith(f"TEST: nothing was changed\ndocs\n{REASON}\n"), answer
    assert not (tmp_path / "touched").exists()
    assert redmine.text(site.page) == before
