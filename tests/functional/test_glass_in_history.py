"""Whoever broke the glass of a gate stands in the History after the next release."""

import pathlib
import stat

import pytest

from saltext.deploytoken.gate import glass


@pytest.fixture
def salt(loaders, tmp_path):
    made = loaders(deploytoken={"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"}, output="json")
    made.runners["deploytoken.init"]()
    return made


def test_the_next_release_names_who_broke_the_glass_and_why_once(salt):
    cachedir = salt.opts["cachedir"]
    for minion in ("web2", "web1"):
        glass.record(cachedir, minion, {"by": "Bob", "why": "the site | is\n<down>, held by: me"}, "state.apply")
    for expected in [
        "Alice: upgraded; Bob broke the glass on web1, web2: the site is &lt;down>, holder: me (ref ",
        "Alice: upgraded (ref ",
    ]:
        ref = salt.runners["deploytoken.acquire"](reason="upgrade")["ref"]
        released = salt.runners["deploytoken.release"](summary="upgraded", ref=ref)
        assert f"{expected}{ref})" in released["entry"]


def test_a_release_that_fails_keeps_the_record(salt):
    cachedir = salt.opts["cachedir"]
    glass.record(cachedir, "web1", {"by": "Bob", "why": "x"})
    assert salt.runners["deploytoken.release"](summary="upgraded", ref="11111111")["reason"] == "not_yours"
    assert glass.pending(cachedir)


def test_a_record_that_cannot_be_used_keeps_no_token_held(salt):
    cachedir = salt.opts["cachedir"]
    folder = pathlib.Path(cachedir) / "deploytoken"
    glass.record(cachedir, "web1", {"by": "Bob", "why": "x"})
    found = glass.pending(cachedir)
    folder.rename(folder.with_name("aside"))
    folder.touch()
    ref = salt.runners["deploytoken.acquire"](reason="upgrade")["ref"]
    assert salt.runners["deploytoken.release"](summary="upgraded", ref=ref)["released"] == ref
    glass.forget(cachedir, found)  # as it has become so in the meantime
    folder.unlink()
    folder.with_name("aside").rename(folder)
    assert glass.pending(cachedir) == found


def test_a_record_that_was_cut_off_or_damaged_takes_no_other_with_it(salt):
    cachedir = salt.opts["cachedir"]
    glass.record(cachedir, "web1", {"by": "Bob", "why": "x"})
    with (pathlib.Path(cachedir) / "deploytoken" / "broken-glass.jsonl").open("ab") as file:
        file.write(b'{"minion": "web9", "by": ["Bob"], "why": "x"}\n\xff\xfe\n{"minion": "we')
    glass.record(cachedir, "web2", {"by": "Bob", "why": "x"})
    assert glass.notes(glass.pending(cachedir)) == ["Bob broke the glass on web1, web2: x"]


def test_a_run_that_is_reported_twice_is_one_and_what_comes_during_a_release_stays_on_record(salt):
    cachedir = salt.opts["cachedir"]
    for by in ("Bob", "Bob", "Ana"):
        glass.record(cachedir, "web1", {"by": by, "why": "x"}, "state.apply")
    bobs, anas = glass.pending(cachedir)
    assert (bobs["by"], anas["by"]) == ("Bob", "Ana")
    glass.forget(cachedir, [bobs])
    assert glass.pending(cachedir) == [anas]


def test_the_record_is_nobody_elses_to_read_or_to_write(salt):
    cachedir = pathlib.Path(salt.opts["cachedir"]) / "deep"
    glass.record(cachedir, "web1", {"by": "Bob", "why": "x"})
    assert stat.S_IMODE((cachedir / "deploytoken").stat().st_mode) == 0o700
