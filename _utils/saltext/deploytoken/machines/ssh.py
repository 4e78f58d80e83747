"""
Machines in salt-ssh's roster, without a master.

salt-ssh's client returns successes, errors of ssh and texts of whatever failed under the same keys, and no return code
of its own (measured on 3008.3). Only a dictionary with a ``return`` and without an ``_error`` is what a function
returned; :py:func:`parse_answer` tells them apart.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import psutil
import salt.client.ssh.client
import salt.loader
import salt.roster

from saltext.deploytoken import errors, text, values
from saltext.deploytoken.machines import asking
from saltext.deploytoken.machines.base import TIMEOUT, Full, Machines, Tell

#: How Salt targets entries of a roster. Other types match nobody there.
TYPES = ("glob", "pcre", "list", "nodegroup", "range")
#: Seconds that an answer has beyond its time-out: each question is a login and a new Python.
LOGIN = 30
#: The first question of all brings Salt itself along, and so has this many times as long.
FIRST = 10
#: What ssh and its helpers write besides the reason.
NOISE = ("Warning: Permanently added", "Pseudo-terminal", "Connection to")
#: What to say when ssh or salt-ssh says this.
REMEDIES = {
    "host key needs to be accepted": "its host key is not known here; log in once with ssh, and compare the key",
    "HOST IDENTIFICATION HAS CHANGED": "its host key is another than before; find out why before you accept it",
    "Host key verification failed": "its host key is not known here; log in once with ssh, and compare the key",
    "Unable to locate appropriate python": "it has no python3 on its PATH; install it, or see set_path in the roster",
    "password is required": "sudo asks for a password there; let that user use sudo without one, or log in as root",
}


class Ssh(Machines):
    """The machines in the roster."""

    shown_by = "the roster shows them"
    program = "salt-ssh"
    argument = " ssh=True"
    # 2: states ran, and one failed or changed something in a test. The answer in them counts all the same.
    busy_codes = (0, 2, 7)

    def __init__(self, opts: Mapping[str, Any]):
        super().__init__(opts)
        # In an orchestration, this is the pillar of the master itself, and salt-ssh would merge it into that of each
        # machine, secrets included (3008.3).
        self.opts["pillar"] = {}

    def expect(self, target: Any, target_type: str = "glob") -> tuple[list[str], dict[str, str]]:
        if target_type not in TYPES:
            raise errors.Invalid(f"target_type: {target_type!r} is none of {', '.join(TYPES)}, which salt-ssh knows")
        named = set(values.words(target, "target")) if target_type == "list" else set()
        asked: Any = sorted(named) if target_type == "list" else target
        if target_type == "nodegroup":
            # Salt leaves out those that are not in the roster without a word (3008.3, 3006.29).
            groups = self.opts.get("ssh_list_nodegroups") or {}
            named = set(values.words(groups.get(target), f"ssh_list_nodegroups.{target}"))
        try:
            roster = salt.roster.Roster(dict(self.opts), self.opts.get("roster", "flat"))
            found = set(roster.targets(asked, target_type))
        except Exception as error:  # whatever the roster's module makes of a file or a pattern that is odd
            raise errors.Invalid(
                f"the roster cannot be read for the target {target!r}: {text.last_line(error)}; correct the target, or"
                " name the roster with roster_file"
            ) from None
        return sorted(found), dict.fromkeys(named - found, "is not in the roster")

    def collect_returns(
        self,
        ids: Collection[str],
        fun: str,
        arg: Sequence[Any] = (),
        kwarg: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Full]:
        found = self._run(ids, fun, arg, kwarg, timeout, timeout + LOGIN)
        return {machine: answer for machine, answer, _ in found if answer is not None}

    def call_all(
        self, ids: Collection[str], questions: Mapping[str, Sequence[Any]], timeout: float = TIMEOUT
    ) -> dict[str, list[Any]]:
        # salt-ssh runs one function at a time.
        heard = [self.collect_returns(ids, fun, arg, timeout=timeout) for fun, arg in questions.items()]
        return {
            machine: [one[machine]["ret"] for one in heard] for machine in ids if all(machine in one for one in heard)
        }

    def follow(
        self, ids: Collection[str], fun: str, arg: Sequence[Any], kwarg: Mapping[str, Any], tell: Tell
    ) -> Iterator[tuple[str, Full | None, str | None]]:
        return self._run(ids, fun, arg, kwarg)

    def refresh(self, ids: Collection[str], modules: bool = True) -> dict[str, str]:
        # Each run over ssh brings its modules and its pillar along.
        return {}

    def _ask_busy(self, ids: list[str], timeout: float) -> tuple[dict[str, Full], dict[str, str]]:
        # A function over salt-ssh has no pillar, and would find no checks configured. A state has it. But not
        # state.single, which makes the far side's folders on this machine (3008.3), and fails where it may not.
        found, failed = {}, {}
        pillar = {"deploytoken": {"asking": asking.everybody(self.opts["cachedir"])}}
        arguments = (["deploytoken.busy"], {"test": True, "pillar": pillar}, timeout, FIRST * timeout)
        for machine, answer, why in self._run(ids, "state.sls", *arguments):
            if answer is None:
                failed[machine] = why or "did not answer"
            else:
                found[machine] = {**answer, "ret": answer_of_state(answer["ret"])}
        return found, failed

    def _run(
        self,
        ids: Collection[str],
        fun: str,
        arg: Sequence[Any] = (),
        kwarg: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        limit: float | None = None,
    ) -> Iterator[tuple[str, Full | None, str | None]]:
        """
        Yield ``(id, full return, None)`` or ``(id, None, why)``, once for every id.

        ``timeout`` is for connecting, in seconds; default is Salt's own ``ssh_timeout``. ``limit`` is for the whole
        answer; without it, a function may run for as long as the connection lives.
        """
        left = set(ids)
        # In whole seconds. A machine that goes down does not say so; three of these without a sign end the connection.
        options: dict[str, Any] = {}
        if timeout:
            options = {"ssh_timeout": 0, "timeout": math.ceil(timeout), "ssh_keepalive_interval": 5}
        try:
            client = salt.client.ssh.client.SSHClient(mopts=dict(self.opts))
            with _ended_after(limit) as ended:
                # As a list: of a text, Salt asks the name service whether it is a host.
                for returned in client.cmd_iter(
                    sorted(ids), fun, _texts(arg), tgt_type="list", kwarg=kwarg, **options
                ):
                    for name, answer in returned.items():
                        if name in left:
                            left.remove(name)
                            full, why = parse_answer(answer)
                            if full is None and ended.is_set():
                                why = f"did not answer within {limit:g} seconds over ssh, and may still run it"
                            yield name, full, why
            why = "was not asked by salt-ssh"
        except Exception as error:  # whatever salt-ssh trips over before it asks anybody: a key, the thin, a returner
            why = f"could not be asked over ssh: {type(error).__name__}: {text.last_line(error)}"
        yield from ((name, None, why) for name in sorted(left))


def _texts(arg: Sequence[Any]) -> list[str]:
    """Arguments as on a command line, which is what salt-ssh makes of them: it fails on a number (3008.3)."""
    return [one if isinstance(one, str) else json.dumps(one) for one in arg]


def check_gate(opts: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether salt-ssh finds the gate that ``ssh_gate`` asks for, and a line about it."""
    if "deploygate.check" in salt.loader.ssh_wrapper(dict(opts)):
        return True, "runs states only under a hold (ssh_gate)"
    return False, (
        "does not find the gate: install this extension with pip, name its folder under module_dirs, or run"
        " `salt-run saltutil.sync_wrapper` (Salt 3008)"
    )


def parse_answer(answer: Any) -> tuple[Full | None, str | None]:
    """Return what salt-ssh's client has for one id, as a full return and None, or None and why there is none."""
    if isinstance(answer, dict) and "return" in answer and "_error" not in answer:
        known = {"jid": answer["jid"]} if answer.get("jid") else {}
        return {"ret": answer["return"], "retcode": answer.get("retcode", 0), **known}, None
    if isinstance(answer, dict) and "_error" in answer:
        return None, f"gave no answer over ssh: {_reason(answer)}"
    if isinstance(answer, str) and "did not return any data" in answer:
        return None, "gave no answer over ssh: the process that asked it was ended"
    if isinstance(answer, list) or (isinstance(answer, str) and answer.strip()):
        # What did not compile here, was refused here, or raised there: nothing was run.
        return {"ret": answer, "retcode": 1}, None
    return None, f"answered nothing to use over ssh: {text.last_line(repr(answer))}"


def answer_of_state(states: Any) -> Any:
    """Return what the state ``busy.asked`` found, out of the return of its run; anything else as it is."""
    rows = list(states.values()) if isinstance(states, dict) else []
    return rows[0].get("answer", states) if len(rows) == 1 and isinstance(rows[0], dict) else states


def _reason(answer: Mapping[str, Any]) -> str:
    """The line of an error that says what is wrong, and what helps where that is known."""
    heard = [str(answer.get(key) or "") for key in ("stderr", "stdout")]
    for sign, words in REMEDIES.items():
        if any(sign in said for said in heard):
            return words
    for said in heard:
        lines = [one for one in said.splitlines() if one.strip() and not one.strip().startswith(NOISE)]
        if lines:
            return text.last_line(lines[-1].removeprefix("ssh: "))
    return text.last_line(answer["_error"])


@contextlib.contextmanager
def _ended_after(limit: float | None) -> Iterator[threading.Event]:
    """
    End what salt-ssh starts in this block and has not ended after so many seconds; yield the event that says so.

    salt-ssh has a process for each machine and waits for all of them, for ever if one hangs: its time-outs are for
    connecting, and a sshd answers the keepalive whatever becomes of the command (3008.3). Of a process that is killed,
    it says that there are no data.
    """
    ended, over = threading.Event(), threading.Event()
    others = psutil.Process().children()

    def watch() -> None:
        wait = limit
        # Those whose turn had not come by then as well.
        while not over.wait(wait):
            ended.set()
            wait = 0.2
            for child in psutil.Process().children():
                if child not in others:
                    _kill(child)

    watcher = threading.Thread(target=watch, daemon=True)
    if limit:
        watcher.start()
    try:
        yield ended
    finally:
        over.set()
        if limit:
            watcher.join()


def _kill(process: psutil.Process) -> None:
    """Kill a process, and then its own: ssh is in a session of its own, and would stay."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
