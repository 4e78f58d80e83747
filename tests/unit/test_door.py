"""Every wrong argument is refused with code 2, in one line that names it."""

import pytest
import salt.utils.args

from saltext.deploytoken import door, errors

context = {}


def command(function):
    """Decorate it as in a runner, where the loader has put ``__context__`` among the globals."""
    function.__globals__["__context__"] = context
    context.clear()
    return door.command(function)


@pytest.fixture(autouse=True)
def _no_context_left():
    yield
    globals().pop("__context__", None)


def take(reason=None, limit=20):
    return {"reason": reason, "limit": limit}


def test_what_a_command_returns_comes_through():
    assert command(take)("x", limit=3) == {"reason": "x", "limit": 3}
    assert context == {}


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((), {"reson": "x"}, "reson"),
        ((1, 2, 3), {}, "too many"),
        (("x",), {"reason": "y"}, "reason"),
    ],
)
def test_arguments_that_do_not_exist_are_refused_and_named(args, kwargs, named):
    answer = command(take)(*args, **kwargs)

    assert (answer["retcode"], answer["reason"], context) == (2, "invalid", {"retcode": 2})
    assert named in answer["message"]
    assert "it takes: reason, limit" in answer["message"]
    assert "\n" not in answer["message"]


def test_arguments_that_salt_adds_are_left_out():
    assert command(take)("x", __pub_user="root")["reason"] == "x"


def test_salt_finds_nothing_wrong_with_any_arguments():
    spec = salt.utils.args.get_function_argspec(command(take))

    assert spec.args == ["reason", "limit"]
    assert spec.varargs
    assert spec.keywords
    assert command(take).__name__ == "take"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.Invalid, 2, "invalid"),
        (errors.Held, 3, "held"),
        (errors.NotYours, 4, "not_yours"),
        (errors.InDoubt, 5, "in_doubt"),
        (errors.StoreError, 6, "store"),
        (errors.Busy, 7, "busy"),
        (errors.Repositories, 8, "repositories"),
    ],
)
def test_every_error_has_its_code_in_both_places_that_salt_looks_at(error, code, reason):
    def fail():
        raise error("one line", more=[1], reason="not this one")

    answer = command(fail)()

    assert answer == {"more": [1], "reason": reason, "message": "one line", "retcode": code}
    assert context == {"retcode": code}


def test_a_mistake_of_our_own_is_not_dressed_up():
    def fail():
        raise TypeError("ours")

    with pytest.raises(TypeError, match="ours"):
        command(fail)()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (90, 90), ("90", 90), (1.5, 1.5), ("45s", 45), ("15m", 900), ("2 h", 7200), ("1d", 86400), (0, 0)],
)
def test_durations(value, seconds):
    assert door.duration(value, "wait") == seconds


@pytest.mark.parametrize("value", ["soon", "-5", -5, True, "", "1w", [], {}, "5m5s", "1e3", "367d", "9" * 400])
def test_a_wrong_duration_is_refused_and_named(value):
    refuses(door.duration, value, "wait")


@pytest.mark.parametrize(
    ("value", "words"), [(None, []), ("a, b,,c ", ["a", "b", "c"]), (["a", 1], ["a", "1"]), ("", [])]
)
def test_words(value, words):
    assert door.words(value, "rebooted") == words


@pytest.mark.parametrize("value", [3, {"a": 1}, [["a"]], [None]])
def test_wrong_words_are_refused_and_named(value):
    refuses(door.words, value, "rebooted")


@pytest.mark.parametrize("value", ["no", "true", 0, 1, None, []])
def test_only_true_and_false_are_boolean(value):
    assert door.boolean(True, "resume") is True
    assert door.boolean(False, "resume") is False
    refuses(door.boolean, value, "resume")


@pytest.mark.parametrize("value", ["x", "3", 0, -1, 51, 2.0, True, None])
def test_only_whole_numbers_in_range_are_numbers(value):
    assert (door.number(1, "limit", 50), door.number(50, "limit", 50)) == (1, 50)
    refuses(door.number, value, "limit", 50)


@pytest.mark.parametrize("value", [None, "", "  ", True, False, {}, ["a"]])
def test_a_required_text_that_is_missing_is_refused_and_named(value):
    assert door.text(" x ", "reason") == "x"
    assert door.text(42, "reason") == "42"
    refuses(door.text, value, "reason")


def refuses(function, value, key, *more):
    with pytest.raises(errors.Invalid, match=rf"^{key}: ") as caught:
        function(value, key, *more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("state.orchestrate", ["test_door.take …", "test_door.take: done"]),
        ("test_door.take", []),
        (None, []),
    ],
)
def test_a_step_of_an_orchestration_tells_when_it_begins_and_ends(capsys, monkeypatch, typed, told):
    monkeypatch.setitem(globals(), "__opts__", {"fun": typed})
    command(take)("x")
    answer, progress = capsys.readouterr()
    assert [line.partition(" ")[2] for line in progress.splitlines()] == told
    assert answer == ""  # standard output is for data


def test_a_step_that_refuses_tells_why(capsys, monkeypatch):
    def refuse():
        raise errors.Busy("a spider runs")

    monkeypatch.setitem(globals(), "__opts__", {"fun": "state.orchestrate"})
    command(refuse)()
    assert capsys.readouterr().err.endswith("refuse: a spider runs\n")


def test_progress_that_has_no_standard_error_does_not_get_into_the_answer(monkeypatch, capsys):
    """Python has none where it was closed, as by ``2>&-``."""
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", None)
        door.say("working")
    assert capsys.readouterr().out == ""
