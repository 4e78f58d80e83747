"""A person who broke the glass of a gate is named in the History after the next release."""

import logging
import pathlib
import stat

import pytest

from saltext.deploytoken.gate import glass

BOB = {"by": "Bob", "why": "x"}


@pytest.fixture
def salt(loaders, tmp_path):
    made = loaders(deploytoken={"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"}, output="json")
    made.runners["deploytoken.init"]()
    return made


@pytest.fixture
def cachedir(salt):
    return pathlib.Path(salt.opts["cachedir"])


def files(cachedir):
    return sorted((cachedir / "deploytoken" / "broken-glass").iterdir())


# Minions with such names stand for what a note cannot carry; a release that refused it would keep the token held.
@pytest.mark.parametrize(
    ("minion", "shown"), [("web1", "web1, web2"), ("web|1", "web2, web 1"), ("x held by", "web2, x holder")]
)
def test_the_next_release_names_who_broke_the_glass_and_why_once(salt, cachedir, minion, shown):
    for name in ("web2", minion):
        glass.record(cachedir, name, {"by": "Bob", "why": "the site | is\n<down>, held by: me"}, "state.apply")
    for expected in [
        f"Alice: upgraded; Bob broke the glass on {shown}: the site is &lt;down>, holder: me (ref ",
        "Alice: upgraded (ref ",
    ]:
        ref = salt.runners["deploytoken.acquire"](reason="upgrade")["ref"]
        released = salt.runners["deploytoken.release"](summary="upgraded", ref=ref)
        assert f"{expected}{ref})" in released["entry"]


def test_a_release_that_fails_keeps_the_record(salt, cachedir):
    glass.record(cachedir, "web1", BOB)
    assert salt.runners["deploytoken.release"](summary="upgraded", ref="11111111")["reason"] == "not_yours"
    assert glass.pending(cachedir)


def test_a_record_that_cannot_be_used_keeps_no_token_held(salt, cachedir):
    folder = cachedir / "deploytoken"
    glass.record(cachedir, "web1", BOB)
    found = glass.pending(cachedir)
    folder.rename(folder.with_name("aside"))
    folder.touch()
    ref = salt.runners["deploytoken.acquire"](reason="upgrade")["ref"]
    assert salt.runners["deploytoken.release"](summary="upgraded", ref=ref)["released"] == ref
    glass.forget(cachedir, found)  # as if the disk had failed after it was read
    folder.unlink()
    folder.with_name("aside").rename(folder)
    assert glass.pending(cachedir) == found


@pytest.mark.parametrize("content", [b"", b'{"minion": "we', b"\xff\xfe", b"[]", b'{"minion": "web9", "by": ["Bob"]}'])
def test_a_run_on_record_that_is_damaged_takes_no_other_with_it(salt, cachedir, caplog, content):
    glass.record(cachedir, "web1", BOB)
    (damaged,) = files(cachedir)
    damaged.write_bytes(content)
    glass.record(cachedir, "web2", BOB)
    with caplog.at_level(logging.WARNING):
        assert glass.notes(glass.pending(cachedir)) == ["Bob broke the glass on web2: x"]
    assert f"{damaged} is damaged" in caplog.text


def test_a_run_that_the_disk_has_no_room_for_takes_no_other_with_it(salt, cachedir, monkeypatch):
    glass.record(cachedir, "web1", BOB)
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        glass.record(cachedir, "web2", BOB)
    assert [run.minion for run in glass.pending(cachedir)] == ["web1"]
    assert len(files(cachedir)) == 1


def test_a_run_that_is_reported_twice_is_one_and_what_comes_during_a_release_stays_on_record(salt, cachedir):
    for by in ("Bob", "Bob", "Ana"):
        glass.record(cachedir, "web1", {"by": by, "why": "x"}, "state.apply")
    anas, bobs = glass.pending(cachedir)
    assert (bobs.by, anas.by) == ("Bob", "Ana")
    glass.forget(cachedir, [bobs])
    assert glass.pending(cachedir) == [anas]
    glass.forget(cachedir, [bobs, anas])  # of which another release has forgotten one
    assert glass.pending(cachedir) == []


def test_the_record_is_for_its_owner_alone(salt, cachedir):
    glass.record(cachedir / "deep", "web1", BOB)
    for path in (cachedir / "deep" / "deploytoken", files(cachedir / "deep")[0].parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
