"""A wait keeps its word, whatever its times are: by a clock of the test's own, without waiting."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saltext.deploytoken import errors
from saltext.deploytoken.busy import consent, verdict, waiting
from tests.support.machines import IDLE, Scripted, busy

SPIDER = busy("kf")
PENDING = busy("kf", "kingfisher:collect:1", state="pending")
STATES = {**SPIDER, "blockers": [{**SPIDER["blockers"][0], "id": "kf/salt/20261130", "probe": "salt"}]}
ALWAYS = [(0, 10**9)]


class Watch:
    """
    A wait for a machine that is busy during ``spans`` of time, in seconds.

    A look takes ``look`` seconds, and finds what was at its beginning. ``looks`` says of each when it
    began and ended, and whether it found the machine idle.
    """

    def __init__(self, spans, look=0.0, blocker=SPIDER):
        self.now, self.looks, self.spans, self.takes, self.blocker = 1000.0, [], spans, look, blocker
        self.machines = Scripted("kf")

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds

    def look(self):
        begin = self.now - 1000
        is_busy = any(first <= begin < last for first, last in self.spans)
        self.machines.busy["kf"] = self.blocker if is_busy else IDLE
        self.now += self.takes
        self.looks.append((begin, self.now - 1000, not is_busy))
        return verdict.look(self.machines, "kf")

    def wait(self, agreed=None, passing=None, **times):
        """The seconds after which the wait ended, and whether it ended well or how its refusal begins."""
        patched = pytest.MonkeyPatch()
        patched.setattr(waiting, "time", self)
        try:
            waiting.wait(self.look, agreed, waiting.Times(**times), lambda line: None, passing)
            return self.now - 1000, True
        except errors.Busy as refused:
            return self.now - 1000, str(refused).split(":")[0]
        finally:
            patched.undo()


@pytest.mark.parametrize(
    ("watch", "times", "ended"),
    [
        # Shorter than the interval, and than the settling: all of it is waited out.
        (Watch([(0, 4)]), {"limit": 5}, (11, True)),
        (Watch(ALWAYS), {"limit": 5}, (5, "Still not idle after 5 seconds")),
        (Watch([]), {"limit": 1}, (6, True)),
        (Watch([(1, 7)]), {"limit": 1}, (6, "Still not idle after 1 second")),
        # No multiple of the interval.
        (Watch([(0, 26)]), {"limit": 27}, (33, True)),
        (Watch(ALWAYS), {"limit": 27}, (27, "Still not idle after 27 seconds")),
        # Idle just before the end, and again at the end.
        (Watch([(0, 29.9)]), {"limit": 30}, (36, True)),
        (Watch([(0, 14), (20, 29)]), {"limit": 30}, (36, True)),
        (Watch([(0, 30.1)]), {"limit": 30}, (30, "Still not idle after 30 seconds")),
        # Looks that take long, even longer than the whole wait.
        (Watch([], look=10), {"limit": 4}, (26, True)),
        (Watch(ALWAYS, look=10), {"limit": 4}, (10, "Still not idle after 4 seconds")),
        (Watch([(0, 20)], look=10), {"limit": 30}, (51, True)),
        (Watch(ALWAYS, look=10), {"limit": 30}, (35, "Still not idle after 30 seconds")),
        # A queue that is stuck: as soon as that is known, and not before.
        (Watch(ALWAYS, blocker=PENDING), {"limit": 60, "stuck": 300}, (60, "Still not idle after 1 minute")),
        (Watch(ALWAYS, blocker=PENDING), {"limit": 600, "stuck": 60}, (60, "Stuck")),
        (Watch(ALWAYS, blocker=PENDING), {"limit": 600, "stuck": 20}, (20, "Stuck")),
        (Watch(ALWAYS, blocker=PENDING), {"limit": 7200, "interval": 3600}, (300, "Stuck")),
    ],
)
def test_a_wait_ends_when_it_was_said_to(watch, times, ended):
    assert watch.wait(**times) == ended


SECONDS = st.integers(1, 40).map(float)


@given(
    spans=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60)), max_size=4),
    look=st.integers(0, 20).map(float),
    limit=SECONDS,
    interval=SECONDS,
    settle=SECONDS,
    stuck=SECONDS,
    pending=st.booleans(),
)
@example(spans=[(0, 27)], look=0.0, limit=27.0, interval=15.0, settle=6.0, stuck=300.0, pending=False)
def test_no_wait_gives_up_early_or_lasts_longer_or_takes_a_moment_for_idle(
    spans, look, limit, interval, settle, stuck, pending
):
    watch = Watch([(first, first + length) for first, length in spans], look, PENDING if pending else SPIDER)
    after, how = watch.wait(limit=limit, interval=interval, settle=settle, stuck=stuck)

    (*_, last) = watch.looks
    if how is True:
        assert [idle for *_, idle in watch.looks[-2:]] == [True, True]
        assert last[0] - watch.looks[-2][1] >= settle
        # The first of two idle looks is the last thing that its time allows.
        assert watch.looks[-2][0] <= limit + (settle + look)
    else:
        assert last[2] is False
        if how == "Stuck":
            alone = [begin for begin, _, idle in watch.looks if not idle]
            assert pending
            assert after - alone[0] >= stuck
        else:
            assert after >= limit
    assert after <= limit + 2 * (settle + look)
    # Between two looks, nobody sleeps longer than that.
    for (_, end, idle), (begin, *_) in zip(watch.looks, watch.looks[1:], strict=False):
        assert begin - end <= (settle if idle else interval)


def test_what_does_not_count_at_the_end_is_waited_for_until_then():
    assert Watch([(0, 20)], blocker=STATES).wait(limit=60, passing=verdict.without_states) == (36, True)
    assert Watch(ALWAYS, blocker=STATES).wait(limit=60, passing=verdict.without_states) == (60, True)
    assert Watch(ALWAYS).wait(limit=60, passing=verdict.without_states)[1] == "Still not idle after 1 minute"
    # Nor does a bare name agree to it.
    agreed = consent.parse("Jane")
    assert Watch([(0, 20)], blocker=STATES).wait(agreed, verdict.without_states, limit=60) == (36, True)
    assert Watch([(0, 20)], blocker=STATES).wait(agreed, limit=60) == (6, True)
