"""States on many minions: what counts as success, in which order they begin, and when no more do."""

import pytest

from saltext.deploytoken import errors, text
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
    assert applying.summarize(answer) == applying.Summary(True, ["nginx", "site"], [], silent=False)


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
    found = applying.summarize(answer)
    assert found.result is False
    assert why in str(found)


def test_in_a_test_a_state_may_say_what_it_would_change():
    assert applying.summarize(returned(state(None, changes={"new": 1})), test=True).result is True
    assert applying.summarize(returned(state(False)), test=True).result is False


def test_the_cause_is_told_and_not_what_followed_from_it():
    follows = state(False, comment="One or more requisite failed", name="site", __state_ran__=False)
    found = applying.summarize(returned(state(False, comment="port 80 is in use", number=1), follows, retcode=2))
    assert found.failed == [applying.Failure("nginx", "port 80 is in use")]
    assert str(found) == "FAILED: nginx: port 80 is in use"
    # When there is nothing else, what followed is told.
    assert applying.summarize(returned(follows, retcode=2)).failed[0].id == "site"


def test_a_comment_of_a_minion_stays_one_printable_line():
    found = applying.summarize(returned(state(False, comment="\x1b[31mred" + "x" * 500)))
    comment = found.failed[0].comment
    assert comment.isprintable()
    assert len(comment) == text.LENGTH


# Batches


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

    def allowed(self):
        self.record.append("held?")
        if self.lost == len([entry for entry in self.record if entry != "held?"]):
            raise errors.NotYours("the hold is over")

    def apply(self, groups, **kwargs):
        self.applied = applying.Applied([minion for group in groups for minion in group])
        groups = [list(group) for group in groups]
        applying.apply(self.applied, groups, self.publish, self.allowed, self.told.append, **kwargs)
        return self.applied


def test_the_token_is_looked_at_before_each_batch():
    minions = Minions()
    found = minions.apply(["ab", "c"])
    assert minions.record == ["held?", "ab", "held?", "c"]
    assert (found.failed, found.not_started, sorted(found.minions)) == ([], [], ["a", "b", "c"])
    assert minions.told[0] == "batch 1 of 2: a, b"
    assert minions.told[1] == "a: done in 0 s, 1 changed"


def test_without_batches_there_is_one_publish():
    minions = Minions()
    minions.apply(["abc"])
    assert minions.record == ["held?", "abc"]


def test_after_a_failure_the_batch_ends_and_no_other_begins():
    minions = Minions(a=returned(state(False, comment="port 80 is in use"), retcode=2))
    words = "1 of 4 minions failed: a: nginx: port 80 is in use; not started: c, d"
    with pytest.raises(errors.Failed, match=words):
        minions.apply(["ab", "c", "d"])
    assert minions.record == ["held?", "ab"]
    applied = minions.applied
    assert (applied.failed, applied.not_started, applied.running) == (["a"], ["c", "d"], [])
    assert applied.minions["b"].result is True


@pytest.mark.parametrize("answer", [None, "nothing"])
def test_a_minion_that_went_silent_is_a_failure_that_may_go_on(answer):
    minions = Minions(b=answer)
    with pytest.raises(errors.Failed):
        minions.apply(["ab", "c"])
    assert minions.applied.minions["b"].silent is True
    assert (minions.applied.running, minions.applied.not_started) == (["b"], ["c"])


def test_a_token_that_is_lost_between_two_batches_stops_the_next():
    minions = Minions()
    minions.lost = 1
    with pytest.raises(errors.NotYours):
        minions.apply(["a", "b", "c"])
    assert minions.record == ["held?", "a", "held?"]
    assert (sorted(minions.applied.minions), minions.applied.not_started) == (["a"], ["b", "c"])


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(0)])
def test_an_interruption_tells_who_goes_on_and_who_was_not_begun(signal):
    minions = Minions(b=signal)
    with pytest.raises(errors.Interrupted, match="b go on with their states; not started: c"):
        minions.apply(["ab", "c"])
    applied = minions.applied
    assert applied.minions["a"].result is True
    assert (applied.running, applied.not_started) == (["b"], ["c"])


def test_a_test_needs_no_token():
    minions = Minions()
    minions.apply(["a", "b"], test=True)
    assert minions.record == ["a", "b"]


def test_a_publish_that_raises_leaves_behind_which_machines_may_run_their_states():
    minions = Minions(b=BrokenPipeError())
    with pytest.raises(BrokenPipeError):
        minions.apply(["abc", "d"])
    applied = minions.applied
    assert (applied.begun, applied.running, applied.not_started) == (True, ["b", "c"], ["d"])


def test_what_is_run_is_the_highstate_or_sls_under_the_hold():
    pillar = {"deploytoken": {"ref": "f9c2a1b0"}}
    whole = ("state.highstate", {"queue": False, "test": False, "pillar": pillar})
    assert applying.call("f9c2a1b0") == whole
    part = {"queue": False, "test": True, "pillar": pillar, "saltenv": "dev", "mods": ["web", "db"]}
    assert applying.call("f9c2a1b0", ["web", "db"], "dev", test=True) == ("state.sls", part)
