"""How a target is read, and how the minions' word is held against the master's list."""

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.machines import targets

GROUPS = {"web": "web* and not web2", "two": ["web1", "db9"], "all": "N@web or L@db,web2", "prod": "G@env:prod"}


@pytest.mark.parametrize(
    ("target", "target_type", "names", "by_id"),
    [
        ("web*", "glob", set(), True),
        ("web1", "glob", set(), True),
        ("web[13]", "pcre", set(), True),
        ("env:prod", "grain", set(), False),
        ("10.0.0.0/8", "ipcidr", set(), False),
        ("role:db", "pillar_exact", set(), False),
        ("web1 or db? or ( L@a,b and not c )", "compound", {"web1", "a", "b", "c"}, True),
        ("E@w.b and not L@old", "compound", {"old"}, True),
        ("web1 and not G@env:prod", "compound", {"web1"}, False),
        ("P|@env|prod or J@a:b or I@a:b or S@10.0.0.1", "compound", set(), False),
        ("N@two or x", "compound", {"web1", "db9", "x"}, True),
        ("N@prod", "compound", set(), False),
        ("web", "nodegroup", {"web2"}, True),
        ("all", "nodegroup", {"web2", "db"}, True),
        ("prod", "nodegroup", set(), False),
    ],
)
def test_of_a_target_the_ids_in_it_are_known_and_whether_they_alone_decide(target, target_type, names, by_id):
    found = targets.read(target, target_type, GROUPS)

    assert (found.names, found.by_id) == (names, by_id)
    assert found.by_id or found.type in targets.ASKED


def test_a_nodegroup_is_what_it_stands_for_as_salt_sees_it():
    assert targets.read("N@two or x", "compound", GROUPS) == targets.Target(
        "L@web1,db9 or x", "compound", frozenset({"web1", "db9", "x"}), True
    )
    assert targets.read("prod", "nodegroup", GROUPS).expression == "G@env:prod"


@pytest.mark.parametrize(
    ("target", "target_type", "says"),
    [
        ("web1,db9", "glob", r"'web1,db9' is a pattern, in which a comma .* write deploytoken\.target_type: list;"),
        ("web*,db*", "glob", r"compound and 'web\* or db\*'"),
        ("web1,db9 or x", "compound", r"'web1,db9 or x' is a pattern, in which a comma .* write L@web1,db9;"),
        ("R@%web", "compound", "minions cannot be asked about 'R@%web'"),
        ("nobody", "nodegroup", "there is no nodegroup 'nobody'"),
        ("web1 or N@nobody", "compound", "there is no nodegroup 'nobody'"),
        ("web[", "pcre", r"'web\[' is no regular expression"),
        ("role:d*", "pillar_exact", "has a wildcard"),
    ],
)
def test_a_target_that_salt_understands_in_two_ways_is_refused_by_its_words(target, target_type, says):
    with pytest.raises(errors.Invalid, match=rf"^deploytoken\.target: .*{says}") as refused:
        targets.read(target, target_type, GROUPS, "deploytoken.target")
    assert "\n" not in str(refused.value)


def test_where_all_agree_those_who_are_meant_are_expected():
    assert targets.compare({"b", "a"}, {"a": True, "b": True, "c": False}, {}) == (["a", "b"], {})


@pytest.mark.parametrize(("meant", "listed"), [(True, {"a"}), (False, {"a", "web1"})])
def test_whoever_says_otherwise_than_the_list_is_named_with_what_helps(meant, listed):
    found, failed = targets.compare(listed, {"a": True, "web1": meant}, {})

    assert found == ["a"]
    assert list(failed) == ["web1"]
    assert ("does not mean" in failed["web1"]) is not meant
    assert failed["web1"].endswith(": salt -L web1 saltutil.refresh_pillar wait=True")


def test_one_command_helps_all_who_differ():
    _, failed = targets.compare(set(), {"a": True, "b": True, "c": False}, {})
    assert {why.rpartition(": ")[2] for why in failed.values()} == {"salt -L a,b saltutil.refresh_pillar wait=True"}
    _, failed = targets.compare(set(), {f"web{n}": True for n in range(21)}, {})
    assert {why.rpartition(": ")[2] for why in failed.values()} == {"salt '*' saltutil.refresh_pillar wait=True"}


def test_who_is_silent_stops_it_if_the_list_has_it_and_is_left_out_if_not():
    found = targets.compare({"a", "down"}, {"a": True}, {"down": "did not answer", "off": "did not answer"})
    assert found == (["a"], {"down": "did not answer"})


def test_without_a_list_the_word_of_the_minions_decides_and_each_who_is_silent_stops_it():
    found, failed = targets.compare(None, {"a": True, "b": False}, {"down": "did not answer"})

    assert found == ["a"]
    assert list(failed) == ["down"]
    assert failed["down"].startswith("did not answer; nobody else knows")
    assert "minion_data_cache" in failed["down"]


@pytest.mark.parametrize(
    ("top", "environments"),
    [
        ({}, ["base"]),
        ({"base": []}, ["base"]),
        ({"dev": [], "base": []}, ["dev", "base"]),
        ({"dev": []}, ["base", "dev"]),
    ],
)
def test_a_sync_takes_the_environments_of_the_top_file_and_keeps_what_base_has(top, environments):
    assert targets.environments(top) == environments
