"""Every wrong argument is refused with code 2, in one line that names it."""

import pytest
import salt.utils.args

from saltext.deploytoken import cli, errors

context = {}


def command(function):
    """Decorate it as in a runner, where the loader has put ``__context__`` among the globals."""
    function.__globals__["__context__"] = context
    context.clear()
    return cli.command(function)


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
        (errors.Overdue, 10, "overdue"),
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
    ("typed", "told"),
    [
        ("state.orchestrate", ["test_cli.take …", "test_cli.take: done"]),
        ("test_cli.take", []),
        (None, []),
    ],
)
def test_a_step_of_an_orchestration_tells_when_it_begins_and_ends(capsys, monkeypatch, typed, told):
    monkeypatch.setitem(globals(), "__opts__", {"fun": typed})
    command(take)("x")
    answer, progress = capsys.readouterr()
    assert [line.partition(" ")[2] for line in progress.splitlines()] == told
    assert answer == ""  # standard output is for data


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ({"fun": "test_cli.take"}, True),
        ({"fun": "test_cli.take", "output": "json"}, False),
        ({"fun": "state.orchestrate"}, False),
        ({"fun": "test_cli.other"}, False),
        ({}, False),
    ],
)
def test_only_an_answer_to_whoever_typed_the_command_names_an_outputter(monkeypatch, capsys, typed, named):
    monkeypatch.setitem(globals(), "__outputter__", {"take": "table"})
    monkeypatch.setitem(globals(), "__opts__", typed)
    for answer in (command(take)("x"), command(take)(wrong=1)):
        assert ("outputter" in answer) is named


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
        cli.say("working")
    assert capsys.readouterr().out == ""


def test_the_user_of_a_job_is_the_one_that_salt_wrote_beside_the_function(monkeypatch):
    """As RunnerClient.low does it, into the globals of a module's first function (3006.29 and 3008.3)."""
    monkeypatch.delitem(vars(cli), "__user__", raising=False)
    assert cli.user() is None
    monkeypatch.setitem(command(take).__globals__, "__user__", "carol")
    assert cli.user() == "carol"
