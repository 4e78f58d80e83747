"""States on many minions: what counts as success, in which order they begin, and when no more do."""

import pytest

from saltext.deploytoken import errors
from saltext.deploytoken.machines import states as applying


def state(result=True, changes=None, comment="", number=0, name="nginx", **more):
    return {
        "result": result,
        "changes": changes or {},
        "comment": comment,
        "__run_num__": number,
        "__id__": name,
        **more,
    }


def returned(*states, retcode=0):
    return {"ret": {f"pkg_|-{one['__id__']}_|-x_|-installed": one for one in states}, "retcode": retcode, "jid": "1"}


# What is success


def test_states_that_all_succeeded_are_a_success_and_tell_what_changed():
    site, nginx = state(number=2, name="site", changes={"diff": "x"}), state(number=1, changes={"new": 1})
    answer = returned(site, nginx, state(name="conf"))
    assert applying.verdict(answer) == {"result": True, "changed": ["nginx", "site"], "failed": [], "silent": False}


# What Salt gives in place of states (measured on 3008.3): texts for errors, lists for render errors, nothing.
NO_SUCCESS = [
    (None, "no answer"),
    ({}, "ran no states"),
    ({"ret": {}, "retcode": 0}, "ran no states"),
    ({"ret": None, "retcode": 0}, "ran no states"),
    ({"ret": True, "retcode": 0}, "something else than states"),
    ({"ret": {"a": True}, "retcode": 0}, "something else than states"),
    ({"ret": "Minion did not return. [Not connected]", "retcode": 0}, "Not connected"),
    ({"ret": "Traceback (most recent call last):\n  File\nKeyError: 'x'", "retcode": 1}, "KeyError: 'x'"),
    ({"ret": ["Rendering SLS 'base:web' failed: Jinja variable 'x' is undefined"], "retcode": 1}, "Jinja variable"),
    ({"ret": ['The function "state.highstate" is running as PID 5'], "retcode": 0}, "running as PID 5"),
    ({"ret": [], "retcode": 0}, "something else than states"),
    (returned(state(), retcode=2), "return code is 2"),
    (returned(state(), retcode=None), "return code is None"),
    ({"ret": returned(state())["ret"]}, "return code is None"),
    (returned(state(False, comment="port 80 is in use\nmore")), "port 80 is in use"),
    (returned(state(None, comment="would be installed")), "would be installed"),
    (returned(state("True")), "no comment"),
    (returned(state(1)), "no comment"),
]


@pytest.mark.parametrize(("answer", "why"), NO_SUCCESS)
def test_nothing_else_is_a_success(answer, why):
    found = applying.verdict(answer)
    assert found["result"] is False
    assert why in applying.said(found)


def test_in_a_test_a_state_may_say_what_it_would_change():
    assert applying.verdict(returned(state(None, changes={"new": 1})), test=True)["result"] is True
    assert applying.verdict(returned(state(False)), test=True)["result"] is False


def test_the_cause_is_told_and_not_what_followed_from_it():
    follows = state(False, comment="One or more requisite failed", name="site", __state_ran__=False)
    found = applying.verdict(returned(state(False, comment="port 80 is in use", number=1), follows, retcode=2))
    assert found["failed"] == [{"id": "nginx", "comment": "port 80 is in use"}]
    assert applying.said(found) == "FAILED: nginx: port 80 is in use"
    # When there is nothing else, what followed is told.
    assert applying.verdict(returned(follows, retcode=2))["failed"][0]["id"] == "site"


def test_a_comment_of_a_minion_stays_one_printable_line():
    found = applying.verdict(returned(state(False, comment="\x1b[31mred" + "x" * 500)))
    comment = found["failed"][0]["comment"]
    assert comment.isprintable()
    assert len(comment) == applying.LENGTH


# Batches


@pytest.mark.parametrize(
    ("size", "groups"),
    [
        (None, ["abcde"]),
        (2, ["ab", "cd", "e"]),
        ("2", ["ab", "cd", "e"]),
        (9, ["abcde"]),
        ("20%", ["a", "b", "c", "d", "e"]),
        ("25%", ["ab", "cd", "e"]),
        ("1%", ["a", "b", "c", "d", "e"]),
        ("100%", ["abcde"]),
    ],
)
def test_batches_hold_everybody_once_and_in_order(size, groups):
    assert applying.batches("abcde", size) == [list(group) for group in groups]


def test_nobody_is_no_batch():
    assert applying.batches([]) == applying.batches([], 2) == []


@pytest.mark.parametrize("size", [0, -1, "0%", "101%", "two", "2.5", True, 2.5, [], ""])
def test_a_batch_that_is_not_clear_is_refused(size):
    with pytest.raises(errors.Invalid, match="batch"):
        applying.batches("abc", size)


class Minions:
    """Minions that return what they are told to, and a record of what was asked in which order."""

    def __init__(self, **answers):
        self.answers = answers
        self.record = []
        self.told = []
        self.lost = None  # the token is gone when this many batches have ended

    def publish(self, group):
        self.record.append("".join(group))
        for minion in group:
            answer = self.answers.get(minion, returned(state(changes={"new": 1})))
            if isinstance(answer, BaseException):
                raise answer
            if answer != "nothing":
                yield minion, answer, None if answer else "went silent"

    def ours(self):
        self.record.append("ours?")
        if self.lost == len([entry for entry in self.record if entry != "ours?"]):
            raise errors.NotYours("the hold is over")

    def apply(self, groups, **kwargs):
        return applying.apply([list(group) for group in groups], self.publish, self.ours, self.told.append, **kwargs)


def test_the_token_is_looked_at_before_each_batch():
    minions = Minions()
    found = minions.apply(["ab", "c"])
    assert minions.record == ["ours?", "ab", "ours?", "c"]
    assert (found["failed"], found["not_started"], sorted(found["minions"])) == ([], [], ["a", "b", "c"])
    assert minions.told[0] == "batch 1 of 2: a, b"
    assert minions.told[1] == "a: done in 0 s, 1 changed"


def test_without_batches_there_is_one_publish():
    minions = Minions()
    minions.apply(["abc"])
    assert minions.record == ["ours?", "abc"]


def test_after_a_failure_the_batch_ends_and_no_other_begins():
    minions = Minions(a=returned(state(False, comment="port 80 is in use"), retcode=2))
    words = "1 of 4 minions failed: a: nginx: port 80 is in use; not started: c, d"
    with pytest.raises(errors.Failed, match=words) as no:
        minions.apply(["ab", "c", "d"])
    assert minions.record == ["ours?", "ab"]
    details = no.value.details
    assert (details["failed"], details["not_started"]) == (["a"], ["c", "d"])
    assert details["minions"]["b"]["result"] is True


@pytest.mark.parametrize("answer", [None, "nothing"])
def test_a_minion_that_went_silent_is_a_failure_that_may_go_on(answer):
    minions = Minions(b=answer)
    with pytest.raises(errors.Failed) as no:
        minions.apply(["ab", "c"])
    assert no.value.details["minions"]["b"]["silent"] is True
    assert no.value.details["not_started"] == ["c"]


def test_a_token_that_is_lost_between_two_batches_stops_the_next():
    minions = Minions()
    minions.lost = 1
    with pytest.raises(errors.NotYours) as no:
        minions.apply(["a", "b", "c"])
    assert minions.record == ["ours?", "a", "ours?"]
    assert (sorted(no.value.details["minions"]), no.value.details["not_started"]) == (["a"], ["b", "c"])


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(0)])
def test_an_interruption_tells_who_goes_on_and_who_was_not_begun(signal):
    minions = Minions(b=signal)
    with pytest.raises(errors.Interrupted, match="b go on with their states; not started: c") as no:
        minions.apply(["ab", "c"])
    details = no.value.details
    assert details["minions"]["a"]["result"] is True
    assert details["minions"]["b"]["silent"] is True
    assert details["not_started"] == ["c"]


def test_a_test_needs_no_token():
    minions = Minions()
    minions.apply(["a", "b"], test=True)
    assert minions.record == ["a", "b"]
