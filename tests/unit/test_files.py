"""Files under the cache directory: the lock keeps others out, and no reader and no failure ever meets half a file."""

import contextlib
import multiprocessing
import os
import resource
import stat

import pytest

from saltext.deploytoken import files

LONG = {"entries": ["x" * 1000] * 100}


@pytest.fixture
def path(tmp_path):
    return files.folder(tmp_path) / "state.json"


@pytest.fixture
def no_umask():
    old = os.umask(0)
    yield
    os.umask(old)


def test_the_folder_is_made_with_its_parents_for_its_owner_alone(tmp_path, no_umask):
    made = files.folder(tmp_path / "deep" / "cache")

    assert made == tmp_path / "deep" / "cache" / "deploytoken"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert files.folder(str(tmp_path / "deep" / "cache")) == made


def test_what_was_written_is_read_back_and_is_for_its_owner_alone(path, no_umask):
    for value in ({"by": "Zoë \ud83d"}, {}):
        files.replace_json(path, value)
        assert files.read_json(path) == value
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"[1]", b'"text"', b"\xff\xfe{}"])
def test_a_file_that_is_missing_damaged_or_no_dictionary_is_an_empty_one(path, content):
    if content is not None:
        path.write_bytes(content)

    assert files.read_json(path) == {}


def test_a_file_that_cannot_be_read_is_an_empty_dictionary(path):
    path.mkdir()

    assert files.read_json(path) == {}


@contextlib.contextmanager
def full_disk():
    """
    No file of this process can grow beyond 10 kB; Python ignores the signal for that, and the write fails.

    Inside the test alone: pytest's own output may be a longer file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_no_other(path):
    files.replace_json(path, {"old": True})

    with pytest.raises(OSError), full_disk():
        files.replace_json(path, LONG)
    assert files.read_json(path) == {"old": True}
    assert list(path.parent.iterdir()) == [path]


def test_neither_a_value_that_is_no_json_nor_a_folder_in_the_way_leaves_anything_behind(path):
    with pytest.raises(TypeError):
        files.replace_json(path, {"when": object()})
    assert list(path.parent.iterdir()) == []

    path.mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace_json(path, {})
    assert list(path.parent.iterdir()) == [path]


def replace_often(path):
    for number in range(200):
        files.replace_json(path, {"number": number, **LONG})


def test_a_reader_sees_the_old_file_or_the_new_one(path):
    files.replace_json(path, {"number": -1, **LONG})
    writer = multiprocessing.get_context("fork").Process(target=replace_often, args=[path])
    writer.start()
    seen = set()
    while writer.is_alive():
        found = files.read_json(path)
        assert found.get("entries") == LONG["entries"]
        seen.add(found["number"])
    writer.join()
    assert len(seen) > 1


def count(path, times):
    for _ in range(times):
        with files.locked(path.with_suffix(".lock"), 60):
            files.replace_json(path, {"count": files.read_json(path).get("count", 0) + 1})


def test_processes_that_hold_the_lock_take_turns(path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(count, [(path, 25)] * 4)

    assert files.read_json(path) == {"count": 100}


def fail_under(lock):
    with files.locked(lock, 0):
        raise ZeroDivisionError


def test_patience_ends_and_the_lock_is_free_after_its_block_however_that_ended(path):
    lock = path.with_suffix(".lock")
    with pytest.raises(ZeroDivisionError):
        fail_under(lock)
    with files.locked(lock, 0):
        with pytest.raises(TimeoutError, match=r"state\.lock is still locked after 0\.1 seconds"):
            with files.locked(lock, 0.1):
                pytest.fail("two hold one lock")
