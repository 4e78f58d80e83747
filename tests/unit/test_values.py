"""Arguments and settings: one parser for each kind."""

import pytest

from saltext.deploytoken import errors, values


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90),
        ("90", 90),
        (1.5, 1.5),
        ("45s", 45),
        ("15m", 900),
        ("2 h", 7200),
        ("1d", 86400),
        ("1w", 604800),
        ("1.5m", 90),
        (0, 0),
    ],
)
def test_durations(value, seconds):
    assert values.duration(value, "wait") == seconds


@pytest.mark.parametrize("value", ["soon", "-5", -5, True, "", None, [], {}, "5m5s", "1e3", "367d", "9" * 400])
def test_a_wrong_duration_is_refused_and_named(value):
    refuses(values.duration, value, "wait")


@pytest.mark.parametrize(
    ("value", "words"), [(None, []), ("a, b,,c ", ["a", "b", "c"]), (["a", 1], ["a", "1"]), ("", [])]
)
def test_words(value, words):
    assert values.words(value, "rebooted") == words


@pytest.mark.parametrize("value", [3, {"a": 1}, [["a"]], [None]])
def test_wrong_words_are_refused_and_named(value):
    refuses(values.words, value, "rebooted")


@pytest.mark.parametrize("value", ["no", "true", 0, 1, None, []])
def test_only_true_and_false_are_boolean(value):
    assert values.boolean(True, "resume") is True
    assert values.boolean(False, "resume") is False
    refuses(values.boolean, value, "resume")


@pytest.mark.parametrize("value", ["x", "3", 0, -1, 51, 2.0, True, None])
def test_only_whole_numbers_in_range_are_numbers(value):
    assert (values.number(1, "limit", 50), values.number(50, "limit", 50)) == (1, 50)
    refuses(values.number, value, "limit", 50)


@pytest.mark.parametrize("value", [None, "", "  ", True, False, {}, ["a"]])
def test_a_required_text_that_is_missing_is_refused_and_named(value):
    assert values.text(" x ", "reason") == "x"
    assert values.text(42, "reason") == "42"
    refuses(values.text, value, "reason")


def refuses(function, value, key, *more):
    with pytest.raises(errors.Invalid, match=rf"^{key}: ") as caught:
        function(value, key, *more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, "0s", "0.0", None, "soon"])
def test_a_duration_that_must_be_positive(value):
    assert values.positive_duration("1.5m", "timeout") == 90
    refuses(values.positive_duration, value, "timeout")


@pytest.mark.parametrize("value", ["", "3f9c2a1", "3f9c2a1b0", "gggggggg", 12345, None, True, [], "٣f9c2a1b"])
def test_a_ref_has_eight_hex_digits(value):
    assert values.ref(" 3F9C2A1B ") == "3f9c2a1b"
    assert values.ref(12345678) == "12345678"  # as Salt reads it from a command line
    refuses(values.ref, value, "deploytoken.ref")


@pytest.mark.parametrize("value", ["", "1" * 19, "1" * 21, "../../etc/passwd", None, True, "٣" + "1" * 19])
def test_a_jobs_id_has_twenty_digits(value):
    assert values.jid(20261122223000123456) == "20261122223000123456"  # as Salt reads it from a command line
    refuses(values.jid, value, "jid")


@pytest.mark.parametrize(
    ("size", "groups"),
    [
        (1, [["a"], ["b"], ["c"]]),
        ("2", [["a", "b"], ["c"]]),
        (9, [["a", "b", "c"]]),
        ("34%", [["a", "b"], ["c"]]),
        (" 1% ", [["a"], ["b"], ["c"]]),
        ("100%", [["a", "b", "c"]]),
    ],
)
def test_batches(size, groups):
    assert values.batch(size).split(["a", "b", "c"]) == groups


@pytest.mark.parametrize("value", [0, "0", "0%", "101%", "-1", 1.5, "25 %", "all", None, True, [], "9" * 30])
def test_a_batch_that_is_none_is_refused_and_named(value):
    refuses(values.batch, value, "deploytoken.batch")
