"""
One task on many machines, in batches: what each did, which failed, and which were never begun.

The task is a run of states, or one execution function.

Why not ``salt.state`` (measured on 3008.3)? With ``batch`` or ``subset`` it succeeds although a minion is down. The
``failhard`` that would stop the batches also skips the cleanup of an orchestration. It says nothing while it runs, and
cannot ask between two batches whether the token is still held.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from saltext.deploytoken import errors, text, values
from saltext.deploytoken.machines.base import Full, Tell

#: Runs the task on a group of machines; yields ``(id, full return, None)`` or ``(id, None, why)`` as each ends.
Publish = Callable[[Sequence[str]], Iterable[tuple[str, Full | None, str | None]]]

#: How many failed machines an error names.
NAMED = 3

#: The key of a run's pillar that says under which hold it runs.
OURS = "deploytoken"

#: Functions that cannot be the task of a deploy, and why.
UNFIT = {
    "state.*": "is for sls and sls_id, or for the highstate, without function",
    "transactional_update.*": "runs states past the deploy's verdict on each",
    "system.reboot": "ends the minion before it can answer: use reboot",
    "system.shutdown*": "ends the minion before it can answer",
    "system.halt": "ends the minion before it can answer",
    "system.poweroff": "ends the minion before it can answer",
    "system.init": "ends the minion before it can answer",
    "minion.restart": "ends the minion before it can answer",
    "minion.kill": "ends the minion before it can answer",
    "cmd.run_bg": "returns before it is done: use cmd.run",
    "schedule.run_job": "returns before it is done: name the job's function",
    "at.at": "returns before it is done: use cmd.run",
}

#: How Salt refuses states on a minion that runs some (3006.29 and 3008.3).
AT_WORK = re.compile(r'The function "(?P<fun>[^"]+)" is running as PID .* with jid (?P<jid>\S+)')


@dataclasses.dataclass(frozen=True)
class Function:
    """An execution function with its arguments."""

    name: str
    arg: tuple[Any, ...] = ()
    kwarg: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """
    What is done on each machine: the highstate, the states of ``sls``, the one state ``sls_id`` in them, or a
    ``function``. ``pillar`` goes to the states beside the ref.
    """

    sls: Sequence[str] | None = None
    sls_id: str | None = None
    function: Function | None = None
    pillar: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    saltenv: str | None = None
    pillarenv: str | None = None

    def __str__(self) -> str:
        if self.function:
            return self.function.name
        if self.sls is None:
            return "the highstate"
        sls = f"SLS {', '.join(self.sls)}"
        return f"state {self.sls_id} of {sls}" if self.sls_id else sls

    @property
    def work(self) -> str:
        """What machines go on with."""
        return self.function.name if self.function else "their states"

    @property
    def untold(self) -> str:
        """What a test says in place of a run of a function, which cannot be tested; an empty text for states."""
        if self.function is None:
            return ""
        return f"{self.function.name} would be run; what it would change cannot be told"

    def call(self, ref: str | None, test: bool = False) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the function, and its arguments by position and by name, that do this under the hold ``ref``."""
        if self.function:
            return self.function.name, list(self.function.arg), dict(self.function.kwarg)
        kwarg: dict[str, Any] = {"queue": False, "test": test, "pillar": {**self.pillar, OURS: {"ref": ref}}}
        envs = {"saltenv": self.saltenv, "pillarenv": self.pillarenv}
        kwarg.update({name: value for name, value in envs.items() if value is not None})
        if self.sls is None:
            return "state.highstate", [], kwarg
        kwarg["mods"] = list(self.sls)
        if self.sls_id is None:
            return "state.sls", [], kwarg
        return "state.sls_id", [self.sls_id], kwarg

    def summarize(self, answer: Full | None, why: str | None = None, test: bool = False) -> Summary:
        """Return the :class:`Summary` of one machine's full return, or of ``why`` there is none."""
        if answer is None:
            return Summary(False, [], [Failure(None, why or "no answer")], silent=True)
        found = _of_function(answer) if self.function else _of_states(answer, test)
        jid = answer.get("jid")
        return dataclasses.replace(found, jid=jid if isinstance(jid, str) else None)


HIGHSTATE = Task()


def task(found: Mapping[str, Any], prefix: str = "") -> Task:
    """
    Return the :class:`Task` of those of these keys that have a value; the keys are the names of its fields.

    ``prefix`` stands before each key in a message, such as ``deploytoken.``.

    :raises errors.Invalid: a value is wrong, or two keys do not go together.
    """
    asked = {name: parse(found[name], prefix + name) for name, parse in KEYS.items() if found.get(name) is not None}
    others = [name for name in asked if name != "function"]
    if "function" in asked and others:
        raise errors.Invalid(f"{prefix}{others[0]}: is for states, and means nothing with {prefix}function")
    if "sls_id" in asked and "sls" not in asked:
        raise errors.Invalid(f"{prefix}sls_id: needs {prefix}sls, which says where that state is")
    return Task(**asked)


def function(value: Any, key: str, name: str = "name") -> Function:
    """
    Return the :class:`Function` of a name, or of a mapping of ``name``, ``arg`` and ``kwarg``.

    ``name`` is what that key is called here.

    :raises errors.Invalid: it is neither, or a function that cannot be a task (:data:`UNFIT`).
    """
    if isinstance(value, str):
        value, at = {name: value}, key
    else:
        at = f"{key}.{name}"
    if not isinstance(value, Mapping) or name not in value or set(value) - {name, "arg", "kwarg"}:
        raise errors.Invalid(
            f"{key}: {value!r} is neither a function's name, nor {{{name}: …, arg: […], kwarg: {{…}}}}"
        )
    fun, arg, kwarg = str(value[name]), value.get("arg"), value.get("kwarg")
    if not re.fullmatch(r"\w+\.\w+", fun):
        raise errors.Invalid(f"{at}: {value[name]!r} is not a function, such as pkg.upgrade")
    for pattern, why in UNFIT.items():
        if fnmatch.fnmatchcase(fun, pattern):
            raise errors.Invalid(f"{at}: {fun} {why}")
    kwarg = {} if kwarg is None else kwarg
    if not isinstance(kwarg, Mapping) or not all(isinstance(one, str) and not one.startswith("__") for one in kwarg):
        raise errors.Invalid(f"{key}.kwarg: is not a mapping of the names of arguments to their values")
    if fun.startswith("cmd.") and kwarg.get("bg"):
        raise errors.Invalid(f"{key}.kwarg.bg: {fun} would return before it is done: leave it out")
    positional = [] if arg is None else arg if isinstance(arg, list | tuple) else [arg]
    return Function(fun, tuple(positional), dict(kwarg))


def _pillar(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise errors.Invalid(f"{key}: is not a mapping; write {{name: value}}")
    if OURS in value:
        raise errors.Invalid(f"{key}.{OURS}: leave it out, the run itself says there under which hold it runs")
    return dict(value)


#: The keys of a task, and their parsers.
KEYS: dict[str, Callable[[Any, str], Any]] = {
    "sls": values.names,
    "sls_id": values.text,
    "function": function,
    "pillar": _pillar,
    "saltenv": values.text,
    "pillarenv": values.text,
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """One state that failed: its ``id``, or None where no state of its own is to blame, and what it says."""

    id: str | None
    comment: str

    def __str__(self) -> str:
        return self.comment if self.id is None else f"{self.id}: {self.comment}"


@dataclasses.dataclass(frozen=True)
class Summary:
    """
    How one machine ended.

    ``changed`` has the IDs of states, or the packages that a function changed; ``answer`` what a function returned, in
    a few words. A machine that is ``silent`` gave no return. One that is ``at_work`` refused, because it runs states
    already. ``jid`` is the job.
    """

    result: bool
    changed: list[str]
    failed: list[Failure]
    silent: bool = False
    seconds: float = 0.0
    at_work: bool = False
    answer: str = ""
    jid: str | None = None

    def __str__(self) -> str:
        return self.words()

    def words(self, changed: str = "changed") -> str:
        """Return how it ended, in a few words; in a test, states ``would change``."""
        if not self.result:
            first, *more = self.failed
            return f"FAILED: {first}" + (f" (and {len(more)} more)" if more else "")
        what = self.answer or (f"{len(self.changed)} {changed}" if self.changed else "no changes")
        return f"done in {self.seconds:.0f} s, {what}"

    @property
    def may_go_on(self) -> bool:
        """Whether states, or the function, may still run there."""
        return self.silent or self.at_work


@dataclasses.dataclass
class Applied:
    """
    What became of a task on each machine, as it comes.

    ``expected`` are all that are to be begun, ``minions`` has those that ended, ``not_started`` those that were not
    begun, and ``returns`` what Salt gave for each that ended: its states, or why there are none.
    """

    expected: list[str]
    task: Task = HIGHSTATE
    minions: dict[str, Summary] = dataclasses.field(default_factory=dict)
    not_started: list[str] = dataclasses.field(default_factory=list)
    returns: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.not_started = list(self.expected)

    @property
    def begun(self) -> bool:
        """Whether any machine may have been asked to begin."""
        return len(self.not_started) < len(self.expected)

    @property
    def failed(self) -> list[str]:
        """The machines that ended without success, in the order in which they ended."""
        return [minion for minion, summary in self.minions.items() if not summary.result]

    @property
    def running(self) -> list[str]:
        """The machines on which something may still run: begun and without an end, silent, or at work before."""
        ended = {minion for minion, summary in self.minions.items() if not summary.may_go_on}
        return [minion for minion in self.expected if minion not in ended and minion not in self.not_started]

    def data(self) -> dict[str, Any]:
        """Return plain data, for answers to programs; without the returns, which are large."""
        return {
            "minions": {minion: dataclasses.asdict(summary) for minion, summary in self.minions.items()},
            "failed": self.failed,
            "not_started": self.not_started,
            "expected": self.expected,
        }


def apply(
    applied: Applied,
    groups: Sequence[Sequence[str]],
    publish: Publish,
    allowed: Callable[[list[str]], None],
    tell: Tell,
    test: bool = False,
) -> None:
    """
    Carry out a task on one group of machines after the other, for as long as nothing fails.

    ``applied``
        Has the task, and is filled in as the machines end, so that an error in the middle loses nothing.
    ``groups``
        The ids, batch by batch; together, those that ``applied`` expects.
    ``publish`` (callable)
        See :data:`Publish`.
    ``allowed`` (callable)
        Called with the ids of each group before it; raises an :class:`errors.Error` if it must not begin: the token is
        not held any more, or something runs there. Not called in a test.
    ``tell`` (callable)
        Called with a line for people, as each machine ends.
    ``test`` (bool)
        The states only say what they would change. A function is never run in a test: the caller says
        :attr:`Task.untold` instead.

    :raises errors.Failed: a machine failed, and no other group is begun.
    :raises errors.Interrupted: Ctrl-C or SIGTERM; what runs on the machines goes on (measured on 3008.3).
    """
    began, running = time.monotonic(), set[str]()

    def end(minion: str, answer: Full | None, why: str | None) -> None:
        running.discard(minion)
        summary = applied.task.summarize(answer, why, test)
        summary = dataclasses.replace(summary, seconds=round(time.monotonic() - began, 1))
        applied.minions[minion] = summary
        applied.returns[minion] = answer.get("ret") if answer is not None else why
        tell(f"{minion}: {summary.words('would change' if test else 'changed')}")

    try:
        for number, group in enumerate(groups, 1):
            if not test:
                allowed(list(group))
            if len(groups) > 1:
                tell(f"batch {number} of {len(groups)}: {', '.join(group)}")
            began, running = time.monotonic(), set(group)
            applied.not_started = [minion for minion in applied.not_started if minion not in running]
            for minion, answer, why in publish(group):
                end(minion, answer, why)
            for minion in sorted(running):
                end(minion, None, "returned nothing")
            if applied.failed:
                raise errors.Failed(_failure(applied))
    except (KeyboardInterrupt, SystemExit):
        going = sorted(running)
        for minion in going:
            end(minion, None, "was still running when this was interrupted, and goes on")
        more = f"; {', '.join(going)} go on with {applied.task.work}" if going else ""
        raise errors.Interrupted(f"Interrupted{more}{_not_started(applied)}") from None


def trouble(answer: Full) -> str:
    """
    Return why a function's full return is no success; an empty text if it is one.

    It is one with return code 0, unless the value is False, has an error or the result False, or is a flat dictionary
    with False in it: ``service.status``, ``service.status 'nginx*'`` and ``http.query`` say with return code 0 that a
    service is down (3006.29 and 3008.3). None is a success, for ``file.chown`` returns nothing else.
    """
    value, retcode = answer.get("ret"), answer.get("retcode")
    if retcode == 0 and not _denied(value):
        return ""
    return _words(value) or f"return code {retcode}"


def _denied(value: Any) -> bool:
    """Whether what a function returned says that it did not succeed."""
    if not isinstance(value, dict):
        return value is False
    parts = list(value.values())
    if any(isinstance(one, dict) and one.get("result") is False for one in (value, *parts)):
        return True
    if isinstance(value.get("error"), str) and value["error"]:
        return True
    return not any(isinstance(one, dict | list) for one in parts) and any(one is False for one in parts)


def _words(value: Any) -> str:
    """What a function returned that did not succeed, in a line."""
    if value in (None, {}):
        return ""
    if isinstance(value, dict):
        if said := value.get("comment") or value.get("error") or _output(value):
            return text.first_line(said)
        denied = "; ".join(f"{key}: {_words(one)}" for key, one in value.items() if _denied(one))
        # Over salt-ssh, a function that is not there gives the documentation of those with a similar name (3008.3).
        return denied or f"returned {text.first_line(repr(value), limit=60)}"
    if not isinstance(value, str):
        return text.first_line(f"returned {value!r}")
    first = text.first_line(value)
    # After this first line, there is the function's documentation.
    if first.startswith("Passed invalid arguments"):
        return first
    return _comment(value) if first.endswith(":") else text.last_line(value)


def _of_function(answer: Full) -> Summary:
    if why := trouble(answer):
        return Summary(False, [], [Failure(None, why)])
    value = answer.get("ret")
    if isinstance(value, dict):
        # So do pkg.upgrade, pkg.install and their like.
        if value and all(isinstance(one, dict) and "new" in one for one in value.values()):
            return Summary(True, sorted(map(str, value)), [], answer=text.count(len(value), "package"))
        value = value.get("comment") or _output(value) or value
    nothing = value is None or value in ("", [], {})
    words = "nothing" if nothing else text.last_line(value if isinstance(value, str) else repr(value), limit=60)
    return Summary(True, [], [], answer=f"returned {words}")


def _of_states(answer: Full, test: bool) -> Summary:
    """
    Return the summary of states.

    Only a dictionary of states that all succeeded, with return code 0, is a success. Whatever else comes (a text, a
    list of render errors, nothing) is a failure with a reason. A state may say None only in a test.
    """
    states = answer.get("ret")
    if not isinstance(states, dict) or not states or not all(isinstance(one, dict) for one in states.values()):
        if work := _work(states):
            return Summary(False, [], [Failure(None, work)], at_work=True)
        return Summary(False, [], [Failure(None, _unusable(states))])
    rows = sorted(states.items(), key=lambda row: row[1].get("__run_num__") or 0)
    changed = list(dict.fromkeys(_id(key, one) for key, one in rows if one.get("changes")))
    fine = (True, None) if test else (True,)
    bad = [(key, one) for key, one in rows if not any(one.get("result") is value for value in fine)]
    # A state that only follows from another failure is left out, as long as there is another.
    bad = [row for row in bad if row[1].get("__state_ran__", True)] or bad
    failed = [Failure(_id(key, one), _explanation(one)) for key, one in bad]
    if not failed and answer.get("retcode") != 0:
        failed = [Failure(None, f"all states succeeded, but the return code is {answer.get('retcode')}")]
    return Summary(not failed, changed, failed)


def _explanation(state: Mapping[str, Any]) -> str:
    """
    Why a state failed, in a line.

    ``cmd.run`` and its like only comment that the command was run, and ``module.run`` what it called; what the command
    wrote is in the changes.
    """
    comment, output = _comment(state.get("comment")), _output(state.get("changes"))
    if not output or comment.endswith(output):
        return comment or "no comment"
    return f"{text.shortened(comment, 100)}: {output}"


def _comment(value: Any) -> str:
    """The line that says it. Of a traceback, and of what follows a colon, the last says what went wrong."""
    first, last = text.first_line(value), text.last_line(value)
    if "Traceback (most recent call last)" in first:
        return last
    return f"{text.shortened(first, 100)} {last}" if first.endswith(":") and last != first else first


def _output(changes: Any) -> str:
    """The last two lines of what a command wrote on standard error, or else on standard output; it may lie deeper."""
    if not isinstance(changes, Mapping):
        return ""
    if "retcode" in changes:
        for name in ("stderr", "stdout"):
            lines = [line.strip() for line in str(changes.get(name) or "").splitlines() if line.strip()]
            if lines:
                both = text.printable(" / ".join(lines[-2:]))
                return both if len(both) <= text.LENGTH else text.last_line(lines[-1])
    return next(filter(None, map(_output, changes.values())), "")


def _work(answer: Any) -> str:
    """What runs on a machine that refused because of it, in a line; an empty text if this is no such refusal."""
    said = answer if isinstance(answer, list) else [answer]
    found = next(filter(None, (AT_WORK.match(one) for one in said if isinstance(one, str))), None)
    if found is None:
        return ""
    jid = found["jid"]
    when = f"{jid[:4]}-{jid[4:6]}-{jid[6:8]} {jid[8:10]}:{jid[10:12]}"
    since = f", since {when}" if re.fullmatch(values.JID, jid) else ""
    return f"{found['fun']} runs there already{since}: salt-run jobs.print_job {jid} shows whose it is"


def _id(key: str, state: Mapping[str, Any]) -> str:
    # A key is STATE_|-ID_|-NAME_|-FUNCTION.
    return str(state.get("__id__") or [*key.split("_|-"), key][1])


def _unusable(states: Any) -> str:
    """Why a return is no answer: Salt gives render errors as a list, and refusals as a text."""
    if isinstance(states, list) and states:
        return text.first_line(states[-1]) or "no reason given"
    if isinstance(states, str) and states.strip():
        # Of a traceback, the last line says what went wrong.
        traceback = states.strip().startswith("Traceback")
        return text.last_line(states) if traceback else text.first_line(states)
    if states is None or states == {}:
        return "ran no states"
    return f"answered something else than states: {text.first_line(repr(states))}"


def _failure(applied: Applied) -> str:
    failed = applied.failed
    shown = [f"{minion}: {str(applied.minions[minion]).removeprefix('FAILED: ')}" for minion in failed[:NAMED]]
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    count = text.count(len(applied.expected), "minion")
    jids = dict.fromkeys(jid for minion in failed if (jid := applied.minions[minion].jid))
    looks = "".join(f"; all of it: salt-run jobs.lookup_jid {jid}" for jid in jids)
    return f"{len(failed)} of {count} failed: {'; '.join(shown)}{more}{_not_started(applied)}{looks}"


def _not_started(applied: Applied) -> str:
    return f"; not started: {', '.join(applied.not_started)}" if applied.not_started else ""
