"""One task on many minions: what is run, what counts as success, in which order they begin, and when no more do."""

import pytest

from saltext.deploytoken import errors, text
from saltext.deploytoken.machines import reboots
from saltext.deploytoken.machines import states as applying

JID = "20261130081505123456"


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
    return {"ret": {f"pkg_|-{one['__id__']}_|-x_|-installed": one for one in states}, "retcode": retcode, "jid": JID}


def summarize(answer, why=None, test=False):
    return applying.HIGHSTATE.summarize(answer, why, test)


# What is success


def test_states_that_all_succeeded_are_a_success_and_tell_what_changed():
    site, nginx = state(number=2, name="site", changes={"diff": "x"}), state(number=1, changes={"new": 1})
    answer = returned(site, nginx, state(name="conf"))
    assert summarize(answer) == applying.Summary(True, ["nginx", "site"], [], jid=JID)


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
    found = summarize(answer)
    assert found.result is False
    assert why in str(found)


def test_in_a_test_a_state_may_say_what_it_would_change():
    assert summarize(returned(state(None, changes={"new": 1})), test=True).result is True
    assert summarize(returned(state(False)), test=True).result is False


def test_the_cause_is_told_and_not_what_followed_from_it():
    follows = state(False, comment="One or more requisite failed", name="site", __state_ran__=False)
    found = summarize(returned(state(False, comment="port 80 is in use", number=1), follows, retcode=2))
    assert found.failed == [applying.Failure("nginx", "port 80 is in use")]
    assert str(found) == "FAILED: nginx: port 80 is in use"
    # When there is nothing else, what followed is told.
    assert summarize(returned(follows, retcode=2)).failed[0].id == "site"


def test_a_comment_of_a_minion_stays_one_printable_line():
    found = summarize(returned(state(False, comment="\x1b[31mred" + "x" * 500)))
    comment = found.failed[0].comment
    assert comment.isprintable()
    assert len(comment) == text.LENGTH


# What commands wrote on standard error and output, as the states that ran them return it (measured on 3008.3).
def ran(stderr="", stdout="", retcode=1):
    return {"pid": 5, "retcode": retcode, "stdout": stdout, "stderr": stderr}


COMMAND = 'Command "psql -f upgrade.sql" run'


@pytest.mark.parametrize(
    ("comment", "changes", "said"),
    [
        (COMMAND, ran("NOTICE: one\nERROR: two\n  HINT: three\n"), f"{COMMAND}: ERROR: two / HINT: three"),
        (COMMAND, ran("\x1b[31mred\x1b[0m"), f"{COMMAND}:  [31mred [0m"),
        (COMMAND, ran(" \n", "said on stdout"), f"{COMMAND}: said on stdout"),
        (COMMAND, ran(), COMMAND),
        ('Command "echo why" run', ran("why"), 'Command "echo why" run: why'),
        (COMMAND, {"diff": "x", "retval": None}, COMMAND),
        (f'Command "{"x" * 200}" run', ran("why"), f'Command "{"x" * 90}…: why'),
        (COMMAND, ran(f"{'x' * 150}\n{'y' * 150}"), f"{COMMAND}: {'y' * 150}"),
        ("Module function cmd.run_all executed", {"ret": ran("why")}, "Module function cmd.run_all executed: why"),
        ("'cmd.run_all' failed: why", {"cmd.run_all": ran("why")}, "'cmd.run_all' failed: why"),
        (
            "Problem encountered installing. More follows:\n\n  E: no such package",
            {},
            "Problem encountered installing. More follows: E: no such package",
        ),
        (
            "An exception occurred in this state: Traceback (most recent call last):\n  File\nKeyError: 'x'",
            {},
            "KeyError: 'x'",
        ),
    ],
)
def test_a_failed_state_says_what_its_command_wrote_last(comment, changes, said):
    assert summarize(returned(state(False, changes, comment), retcode=2)).failed[0].comment == said


def test_a_minion_that_runs_states_already_is_at_work_and_says_on_what():
    running = (
        'The function "state.highstate" is running as PID 5 and was started at 2026, Nov 30 08:15:05.123456 with jid '
        f"{JID}"
    )
    found = summarize({"ret": [running], "retcode": 1})
    assert (found.result, found.silent, found.at_work) == (False, False, True)
    shows = f"salt-run jobs.print_job {JID} shows whose it is"
    assert str(found) == f"FAILED: state.highstate runs there already, since 2026-11-30 08:15: {shows}"
    assert summarize({"ret": [f"Rendering failed: {running}"], "retcode": 1}).at_work is False


# What functions return, of services that are up or down, of packages and of commands (measured on 3006.29 and 3008.3).
FUNCTIONS = [
    (True, 0, "returned True"),
    (None, 0, "returned nothing"),
    ("", 0, "returned nothing"),
    ({}, 0, "returned nothing"),
    (0, 0, "returned 0"),
    ("one\nactive\n", 0, "returned active"),
    ("x" * 80, 0, f"returned {'x' * 59}…"),
    ({"nginx": True, "nginx-debug": True}, 0, "returned {'nginx': True, 'nginx-debug': True}"),
    ({"result": True, "comment": "Successfully connected"}, 0, "returned Successfully connected"),
    (ran(stdout="done", retcode=0), 0, "returned done"),
    ({"nginx": {"old": "1.18", "new": "1.22"}, "curl": {"old": "", "new": "7"}}, 0, "2 packages"),
    ({"State": {"Paused": False}, "Managed": False}, 0, "returned {'State': {'Paused': False}, 'Managed': False}"),
    (False, 0, "FAILED: returned False"),
    ({"nginx": True, "nginx-debug": False}, 0, "FAILED: nginx-debug: returned False"),
    ({"result": False, "comment": "Unable to connect to 127.0.0.1"}, 1, "FAILED: Unable to connect to 127.0.0.1"),
    ({"result": False}, 0, "FAILED: result: returned False"),
    ({"nginx": {"result": False, "comment": "not installed"}}, 0, "FAILED: nginx: not installed"),
    ({"status": 0, "error": "[Errno 111] Connection refused"}, 0, "FAILED: [Errno 111] Connection refused"),
    ("hi\nbad", 3, "FAILED: bad"),
    ("", 3, "FAILED: return code 3"),
    (None, 1, "FAILED: return code 1"),
    (3, 3, "FAILED: returned 3"),
    ({}, 1, "FAILED: return code 1"),
    ({"pkg.upgrade": "x" * 80}, 1, f"FAILED: returned {{'pkg.upgrade': '{'x' * 42}…"),
    (ran("bad", "hi"), 1, "FAILED: bad"),
    ("'pkg.upgrad' is not available.", 1, "FAILED: 'pkg.upgrad' is not available."),
    (
        "Passed invalid arguments to a.b: no num\n\n    CLI Example:\n",
        1,
        "FAILED: Passed invalid arguments to a.b: no num",
    ),
    (
        "The minion function caused an exception: Traceback (most recent call last):\n  F\nKeyError: 'x'",
        1,
        "FAILED: KeyError: 'x'",
    ),
    ("Problem upgrading. More follows:\n\n  E: no lock", 1, "FAILED: Problem upgrading. More follows: E: no lock"),
    (True, None, "FAILED: returned True"),
]


@pytest.mark.parametrize(("value", "retcode", "said"), FUNCTIONS)
def test_a_function_succeeds_or_not_and_says_in_a_few_words_what_it_returned(value, retcode, said):
    task = applying.Task(function=applying.Function("a.b"))
    found = task.summarize({"ret": value, "retcode": retcode, "jid": JID})
    assert found.result is not said.startswith("FAILED")
    assert str(found) == (f"done in 0 s, {said}" if found.result else said)
    assert found.jid == JID
    # Health goes by the same rule, but that nothing is no word about a machine.
    assert bool(reboots.Health(task).trouble({"ret": value, "retcode": retcode})) is (
        not found.result or value is None
    )


def test_packages_that_a_function_changed_are_listed():
    task = applying.Task(function=applying.Function("pkg.upgrade"))
    answer = {"ret": {"nginx": {"old": "1", "new": "2"}, "curl": {"old": "1", "new": "2"}}, "retcode": 0}
    assert task.summarize(answer).changed == ["curl", "nginx"]


# Batches


class Minions:
    """Minions that return what they are told to, and a record of what was asked in which order."""

    task = applying.HIGHSTATE

    def __init__(self, **answers):
        self.answers = answers
        self.record = []
        self.told = []
        self.asked = []
        self.lost = None  # the token is gone when this many batches have ended

    def publish(self, group):
        self.record.append("".join(group))
        for minion in group:
            answer = self.answers.get(minion, returned(state(changes={"new": 1})))
            if isinstance(answer, BaseException):
                raise answer
            if answer != "nothing":
                yield minion, answer, None if answer else "went silent"

    def allowed(self, ids):
        self.asked.append(ids)
        self.record.append("held?")
        if self.lost == len([entry for entry in self.record if entry != "held?"]):
            raise errors.NotYours("the hold is over")

    def apply(self, groups, **kwargs):
        self.applied = applying.Applied([minion for group in groups for minion in group], self.task)
        groups = [list(group) for group in groups]
        applying.apply(self.applied, groups, self.publish, self.allowed, self.told.append, **kwargs)
        return self.applied


def test_the_token_and_the_minions_of_the_batch_are_looked_at_before_each_batch():
    minions = Minions()
    found = minions.apply(["ab", "c"])
    assert minions.asked == [["a", "b"], ["c"]]
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
    with pytest.raises(errors.Failed) as caught:
        minions.apply(["ab", "c", "d"])
    words = "1 of 4 minions failed: a: nginx: port 80 is in use; not started: c, d"
    assert str(caught.value) == f"{words}; all of it: salt-run jobs.lookup_jid {JID}"
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


def test_a_minion_that_was_at_work_before_may_go_on():
    running = f'The function "state.sls" is running as PID 5 and was started at 2026 with jid {JID}'
    minions = Minions(b={"ret": [running], "retcode": 1})
    with pytest.raises(errors.Failed, match=r"1 of 3 minions failed: b: state\.sls runs there already, since"):
        minions.apply(["ab", "c"])
    assert minions.applied.running == ["b"]


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
    minions.task = applying.task({"function": "pkg.upgrade"})
    with pytest.raises(errors.Interrupted, match=r"b go on with pkg\.upgrade; not started: c"):
        minions.apply(["ab", "c"])


def test_a_test_needs_no_token():
    minions = Minions()
    minions.apply(["a", "b"], test=True)
    assert minions.record == ["a", "b"]
    assert minions.told[1] == "a: done in 0 s, 1 would change"


def test_a_publish_that_raises_leaves_behind_which_machines_may_run_their_states():
    minions = Minions(b=BrokenPipeError())
    with pytest.raises(BrokenPipeError):
        minions.apply(["abc", "d"])
    applied = minions.applied
    assert (applied.begun, applied.running, applied.not_started) == (True, ["b", "c"], ["d"])


# What is run


REF = "f9c2a1b0"
UNDER = {"deploytoken": {"ref": REF}}
STATES = {"queue": False, "test": False, "pillar": UNDER}


@pytest.mark.parametrize(
    ("asked", "called", "words"),
    [
        ({}, ("state.highstate", [], STATES), "the highstate"),
        ({"sls": "web,db"}, ("state.sls", [], {**STATES, "mods": ["web", "db"]}), "SLS web, db"),
        (
            {"sls": ["web"], "sls_id": "web site", "pillar": {"a": 1}, "saltenv": "dev", "pillarenv": "dev"},
            (
                "state.sls_id",
                ["web site"],
                {**STATES, "pillar": {"a": 1, **UNDER}, "mods": ["web"], "saltenv": "dev", "pillarenv": "dev"},
            ),
            "state web site of SLS web",
        ),
        ({"function": "pkg.upgrade"}, ("pkg.upgrade", [], {}), "pkg.upgrade"),
        (
            {"function": {"name": "pkg.install", "arg": "nginx", "kwarg": {"refresh": True}}},
            ("pkg.install", ["nginx"], {"refresh": True}),
            "pkg.install",
        ),
        ({"function": {"name": "a.b", "arg": [1, None]}, "sls": None}, ("a.b", [1, None], {}), "a.b"),
    ],
)
def test_what_is_run_is_states_under_the_hold_or_a_function(asked, called, words):
    task = applying.task(asked, "deploytoken.")
    assert (task.call(REF), str(task)) == (called, words)


def test_states_are_tested_and_of_a_function_it_is_said_that_it_cannot_be():
    assert applying.task({}).call(None, test=True)[2]["test"] is True
    assert applying.task({}).untold == ""
    words = "pkg.upgrade would be run; what it would change cannot be told"
    assert applying.task({"function": "pkg.upgrade"}).untold == words


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"sls": []}, "deploytoken.sls: needed"),
        ({"sls_id": "site"}, "deploytoken.sls_id: needs deploytoken.sls"),
        ({"pillar": "a: 1"}, "deploytoken.pillar: is not a mapping"),
        ({"pillar": {"deploytoken": {"ref": REF}}}, "deploytoken.pillar.deploytoken: leave it out"),
        (
            {"function": "a.b", "sls": "web"},
            "deploytoken.sls: is for states, and means nothing with deploytoken.function",
        ),
        ({"function": "a.b", "saltenv": "dev"}, "deploytoken.saltenv: is for states"),
        ({"function": "upgrade"}, "deploytoken.function: 'upgrade' is not a function, such as pkg.upgrade"),
        ({"function": ["a.b"]}, "deploytoken.function: ['a.b'] is neither"),
        ({"function": {"arg": [1]}}, "deploytoken.function: {'arg': [1]} is neither"),
        (
            {"function": {"name": "a.b", "args": [1]}},
            "is neither a function's name, nor {name: …, arg: […], kwarg: {…}}",
        ),
        ({"function": {"name": "a.b", "kwarg": [1]}}, "deploytoken.function.kwarg: is not a mapping"),
        ({"function": {"name": "a.b", "kwarg": {"__kwarg__": 1}}}, "deploytoken.function.kwarg: is not a mapping"),
        (
            {"function": {"name": "cmd.run", "kwarg": {"bg": True}}},
            "deploytoken.function.kwarg.bg: cmd.run would return",
        ),
        ({"function": {"name": "state.apply"}}, "deploytoken.function.name: state.apply is for sls and sls_id"),
        ({"function": "state.apply"}, "deploytoken.function: state.apply is for sls and sls_id"),
        (
            {"function": "system.reboot"},
            "deploytoken.function: system.reboot ends the minion before it can answer: use reboot",
        ),
        ({"function": "cmd.run_bg"}, "deploytoken.function: cmd.run_bg returns before it is done: use cmd.run"),
    ],
)
def test_a_task_that_cannot_be_one_is_refused_with_the_whole_key(asked, said):
    with pytest.raises(errors.Invalid) as caught:
        applying.task(asked, "deploytoken.")
    assert said in str(caught.value)
