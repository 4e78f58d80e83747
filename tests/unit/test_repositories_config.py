"""What may stand under ``deploytoken: repositories:``."""

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.repositories import settings


def test_nothing_configured_is_no_repositories():
    assert settings.parse(None) == ()
    assert settings.parse([]) == ()
    assert settings.parse({}) == ()


def test_a_repository_has_its_documented_defaults():
    (repository,) = settings.parse([{"path": "/srv/deploy"}])

    assert repository == settings.Repository("deploy", "/srv/deploy", None, "origin", 60)


def test_a_path_alone_is_enough():
    assert settings.parse(["/srv/deploy"]) == settings.parse([{"path": "/srv/deploy/"}])


def test_keys_without_a_value_are_as_if_absent():
    item = {"path": "/srv/deploy", "branch": None, "remote": None, "timeout": None}

    assert settings.parse([item]) == settings.parse(["/srv/deploy"])


def test_a_mapping_names_its_repositories_itself():
    assert [item.name for item in settings.parse({"states": "/srv/a", "pillar": {"path": "/srv/b"}})] == [
        "states",
        "pillar",
    ]


def test_paths_that_end_alike_are_named_so_that_they_differ():
    paths = ["/srv/deploy", "/srv/deploy/salt/private", "/srv/deploy/pillar/private"]

    assert [item.name for item in settings.parse(paths)] == ["deploy", "salt/private", "pillar/private"]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("/srv/deploy", "deploytoken.repositories: must be a list of repositories, not a"),
        (True, "deploytoken.repositories: must be a list of repositories, not a"),
        ([3], "deploytoken.repositories.0: must be a path, or a mapping with a path, not a number"),
        ([{}], "deploytoken.repositories.0.path: needed"),
        (["/a", {"path": ""}], "deploytoken.repositories.1.path: needed"),
        ([{"path": ["/a"]}], "deploytoken.repositories.0.path: needed"),
        (["srv/deploy"], "deploytoken.repositories.0.path: must be absolute, not "),
        (["~/deploy"], "deploytoken.repositories.0.path: must be absolute, not "),
        (["/a", "/b", "/a/"], "deploytoken.repositories.2.path: /a is configured twice"),
        (
            [{"path": "/a", "brunch": "main"}],
            "deploytoken.repositories.0.brunch: no such key; known are: path, branch, remote, timeout",
        ),
        ([{"path": "/a", "branch": 1}], "deploytoken.repositories.0.branch: "),
        ([{"path": "/a", "branch": "--upload-pack=evil"}], "deploytoken.repositories.0.branch: "),
        ([{"path": "/a", "branch": "a b"}], "deploytoken.repositories.0.branch: "),
        ([{"path": "/a", "branch": "a..b"}], "deploytoken.repositories.0.branch: "),
        ([{"path": "/a", "branch": "HEAD"}], "deploytoken.repositories.0.branch: "),
        ([{"path": "/a", "remote": "--all"}], "deploytoken.repositories.0.remote: "),
        ([{"path": "/a", "remote": "https://example.org/x"}], "deploytoken.repositories.0.remote: "),
        ([{"path": "/a", "timeout": 0}], "deploytoken.repositories.0.timeout: "),
        ([{"path": "/a", "timeout": "soon"}], "deploytoken.repositories.0.timeout: "),
        ({"states": {"path": "/a", "timeout": -1}}, "deploytoken.repositories.states.timeout: "),
        ([{"path": "/a", "timeout": True}], "deploytoken.repositories.0.timeout: "),
        ([{"path": "/a", "timeout": float("inf")}], "deploytoken.repositories.0.timeout: "),
        ({"states": {"path": "a"}}, "deploytoken.repositories.states.path: must be absolute, not "),
    ],
)
def test_a_mistake_is_named_by_its_key(value, named):
    with pytest.raises(errors.Invalid) as caught:
        settings.parse(value)

    assert str(caught.value).startswith(named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("branch", ["main", "release/2.0", "fix-#12", "ünïcode", "a.b", "a@b"])
def test_branches_may_be_called_what_git_allows(branch):
    assert settings.parse([{"path": "/a", "branch": branch}])[0].branch == branch


@pytest.mark.parametrize(
    ("written", "seconds"), [(90, 90), (0.5, 0.5), ("90", 90), ("60s", 60), ("1m", 60), ("1.5m", 90)]
)
def test_a_timeout_may_be_written_as_every_other_duration(written, seconds):
    assert settings.parse([{"path": "/a", "timeout": written}])[0].timeout == seconds
