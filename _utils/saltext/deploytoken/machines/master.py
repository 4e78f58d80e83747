"""
The minions of a running master.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import salt.client
import salt.config
import salt.loader
import salt.utils.minions
from salt.exceptions import SaltException

from saltext.deploytoken import errors, text, values
from saltext.deploytoken.machines import asking, targets
from saltext.deploytoken.machines.base import TIMEOUT, Full, Machines, Tell, problem

log = logging.getLogger(__name__)

#: How Salt targets minions.
TYPES = (
    "glob",
    "pcre",
    "list",
    "grain",
    "grain_pcre",
    "pillar",
    "pillar_pcre",
    "pillar_exact",
    "compound",
    "nodegroup",
    "range",
    "ipcidr",
)
#: Seconds between two looks at a master that does not answer.
PAUSE = 5
#: Seconds that minions have to say whether a job still runs.
LOOK = 5
#: Seconds without an answer after which those that need not answer are not waited for any more.
LULL = 3
NO_KEY = "has no accepted key on this master (salt-key --list all)"


class Master(Machines):
    """The minions whose keys the master has accepted."""

    shown_by = "salt-key --list all shows them"
    program = "salt"
    argument = ""
    # 7: the module's own return code for "not idle", whose answer is as good as an idle one's.
    busy_codes = (0, 7)

    def __init__(self, opts: Mapping[str, Any]):
        super().__init__(opts)
        #: Seconds that a machine has to bring itself up to date.
        self._refreshing = max(TIMEOUT, self.patience)
        # In an orchestration, Salt sets `user` to the caller (sudo_alice, Reactor, the user of salt-api). A client of
        # that user looks for their key, and fails to authenticate (3008.3).
        if opts.get("conf_file"):
            self.opts["user"] = salt.config.client_config(opts["conf_file"])["user"]

    def expect(self, target: Any, target_type: str = "glob") -> tuple[list[str], dict[str, str]]:
        if target_type not in TYPES:
            raise errors.Invalid(f"target_type: {target_type!r} is none of {', '.join(TYPES)}")
        # A pattern of ids, so that on 3008 no resource of a minion is among them.
        accepted = self._listed(".*", "pcre")
        if target_type == "range":
            return sorted(self._listed(target, target_type)), {}
        if target_type == "list":
            named = set(values.words(target, "target"))
            return sorted(named & accepted), dict.fromkeys(named - accepted, NO_KEY)
        asked = targets.read(target, target_type, self.opts.get("nodegroups"))
        if asked.by_id:
            # What a minion itself asks, with its id.
            match = salt.loader.matchers(self.opts)[f"{asked.type}_match.match"]
            found = sorted(one for one in accepted if match(asked.expression, minion_id=one))
            failed = dict[str, str]()
        else:
            found, failed = self._ask_meant(asked, accepted)
        return found, {**failed, **dict.fromkeys(asked.names - accepted, NO_KEY)}

    def _listed(self, target: Any, target_type: str) -> set[str]:
        """Return the ids in the master's own list: exact for ids, a guess for all else."""
        return set(salt.utils.minions.CkMinions(self.opts).check_minions(target, target_type).get("minions") or ())

    def _ask_meant(self, asked: targets.Target, accepted: set[str]) -> tuple[list[str], dict[str, str]]:
        """Ask each minion whether a target means it, and hold its word against the master's list."""
        listed = self._listed(asked.expression, asked.type) if self.opts.get("minion_data_cache", True) else None
        timeout = min(TIMEOUT, self.patience)
        spare = [] if listed is None else accepted - listed
        try:
            # By name: Salt would read a positional one as YAML.
            question = {"tgt": asked.expression}
            heard = self._collect(accepted, targets.ASKED[asked.type], kwarg=question, timeout=timeout, spare=spare)
        except SaltException as error:
            _raise_interruption(error)
            return [], dict.fromkeys(listed or accepted, f"could not be asked: {text.last_line(error)}")
        said, unheard = dict[str, bool](), dict[str, str]()
        for minion in accepted:
            why = problem(heard.get(minion), timeout)
            word = None if why else heard[minion]["ret"]
            if word in (True, False, []):  # the list is what ipcidr says to an address that is none
                said[minion] = bool(word)
            else:
                unheard[minion] = why or f"answered nothing to use: {text.last_line(repr(word))}"
        return targets.compare(listed, said, unheard)

    def collect_returns(
        self,
        ids: Collection[str],
        fun: Any,
        arg: Sequence[Any] = (),
        kwarg: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Full]:
        try:
            return self._collect(ids, fun, arg, kwarg, timeout)
        except SaltException as error:
            _raise_interruption(error)
            # A master that is away is as silent as its minions.
            log.warning("%s could not be asked: ", fun, exc_info=True)
            return {}

    def _collect(
        self,
        ids: Collection[str],
        fun: Any,
        arg: Sequence[Any] = (),
        kwarg: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
        spare: Collection[str] = (),
    ) -> dict[str, Full]:
        """
        Call one function and return the full returns that come, as :meth:`collect_returns` does.

        Those in ``spare`` are waited for only as long as answers come one after the other.

        :raises salt.exceptions.SaltException: the master could not be asked.
        """
        found: dict[str, Full] = {}
        end = time.monotonic() + timeout
        with self._client() as client:
            job = client.run_job(sorted(ids), fun, arg, tgt_type="list", kwarg=kwarg, listen=True)
            while job and (missing := set(ids) - found.keys()) and (left := end - time.monotonic()) > 0:
                wait = min(left, LULL) if missing <= set(spare) else left
                # A wait of 0 would be for ever.
                event = client.event.get_event(wait=max(wait, 0.1), tag=f"salt/job/{job['jid']}/ret/")
                if event and event.get("id") in missing:
                    found[event["id"]] = {"ret": event.get("return"), "retcode": event.get("retcode")}
                elif not event and wait < left:
                    break
        return found

    def call_all(
        self, ids: Collection[str], questions: Mapping[str, Sequence[Any]], timeout: float = TIMEOUT
    ) -> dict[str, list[Any]]:
        # All with one publish.
        functions = list(questions)
        found = {}
        for minion, answer in self.collect_returns(ids, functions, list(questions.values()), timeout=timeout).items():
            returned = answer["ret"]
            if isinstance(returned, dict):
                returned = [returned.get(fun) for fun in functions]
            # Already a list if the minion has `multifunc_ordered`.
            if isinstance(returned, list) and len(returned) == len(functions):
                found[minion] = returned
        return found

    def follow(
        self, ids: Collection[str], fun: str, arg: Sequence[Any], kwarg: Mapping[str, Any], tell: Tell
    ) -> Iterator[tuple[str, Full | None, str | None]]:
        # A minion is silent when it does not report the job as running any more, and its return is not in the
        # master's job cache either.
        left = set(ids)
        with self._client() as client:
            try:
                job = client.run_job(sorted(ids), fun, arg, tgt_type="list", kwarg=kwarg, listen=True)
                why = "was not reached by the master"
            except SaltException as error:
                _raise_interruption(error)
                job, why = None, f"could not be asked, and may have begun all the same: {text.last_line(error)}"
            if not job:
                yield from ((minion, None, why) for minion in sorted(left))
                return
            gone, silence = None, Silence(self.patience)
            while left:
                try:
                    returned = client.get_iter_returns(job["jid"], set(left), tgt=sorted(left), tgt_type="list")
                    for minion, answer in (pair for found in returned for pair in found.items()):
                        if minion in left:
                            left.remove(minion)
                            yield minion, {"jid": job["jid"], **answer}, None
                    lost = silence.lasts(left, _running(client, job["jid"], left))
                    gone = None
                except SaltException as error:
                    _raise_interruption(error)
                    # A restart of the master does not end what the minions do, and they try to return for a while.
                    gone, silence = gone or time.monotonic(), Silence(self.patience)
                    if time.monotonic() - gone < 2 * self.patience:
                        tell(f"the master does not answer; waiting for {', '.join(sorted(left))}")
                        time.sleep(PAUSE)
                        continue
                    lost = dict.fromkeys(left, f"went silent, and so did the master: {text.last_line(error)}")
                # What returned while nobody listened: the master was away, or the event came between two looks.
                for minion, answer in _cached(client, job["jid"]).items():
                    if minion in left:
                        left.remove(minion)
                        yield minion, {"jid": job["jid"], **answer}, None
                for minion in sorted(left & lost.keys()):
                    left.remove(minion)
                    yield minion, None, lost[minion]

    def refresh(self, ids: Collection[str], modules: bool = True) -> dict[str, str]:
        # It is to wait longer than we do: it says True as well when it has waited in vain (3008.3, 3006.29).
        pillar = {"saltutil.refresh_pillar": [True, 2 * self._refreshing]}
        left, failed = self._confirm(ids, pillar, bool, "its pillar is new")
        if not modules:
            return failed
        # Only now: the top file may ask the pillar. A broken pillar is seen here as well.
        tops, more = self._confirm(left, {"state.show_top": []}, dict, "its pillar and top file are sound")
        failed.update(more)
        groups: dict[str, list[str]] = {}
        for minion, top in tops.items():
            groups.setdefault(",".join(targets.environments(top)), []).append(minion)
        for environments, group in groups.items():
            waiting = {"async": False, "__kwarg__": True}  # a word of Python's
            sync: dict[str, Sequence[Any]] = {
                "saltutil.sync_modules": [environments],
                "saltutil.refresh_modules": [waiting],
            }
            failed.update(self._confirm(group, sync, list, "its modules are new")[1])
        return failed

    def _confirm(
        self, ids: Collection[str], questions: Mapping[str, Sequence[Any]], wanted: type, what: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the answers to the first question that are of a type, and ``{id: why}`` of all others."""
        heard = self.call_all(ids, questions, self._refreshing)
        found, failed = dict[str, Any](), dict[str, str]()
        for minion in sorted(ids):
            answer, *_ = heard.get(minion, [f"no answer within {self._refreshing:g} seconds"])
            if isinstance(answer, wanted) and answer is not False:
                found[minion] = answer
            else:
                failed[minion] = f"did not confirm that {what}: {text.last_line(answer)}"
        return found, failed

    def _ask_busy(self, ids: list[str], timeout: float) -> tuple[dict[str, Full], dict[str, str]]:
        askers = asking.everybody(self.opts["cachedir"])
        try:
            with self._client() as client:
                returns = client.cmd(
                    ids,
                    "busy.check",
                    tgt_type="list",
                    timeout=timeout,
                    gather_job_timeout=timeout,
                    full_return=True,
                    kwarg={"asking": askers} if askers else None,
                )
        except SaltException as error:
            _raise_interruption(error)
            return {}, dict.fromkeys(ids, f"could not be asked: {text.last_line(error)}")
        return returns, {}

    def _client(self) -> Any:
        return salt.client.get_local_client(mopts=dict(self.opts))


class Silence:
    """
    Since when minions say nothing, or that their job does not run any more: one look alone proves neither.

    After a restart of the master, or of the network by its own states, a minion takes a while to find its master
    again.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic):
        self._patience = patience
        self._clock = clock
        self._unheard: dict[str, float] = {}
        self._ended: set[str] = set()

    def lasts(self, minions: Collection[str], running: Mapping[str, bool]) -> dict[str, str]:
        """Return ``{id: why}`` of the minions to give up; ``running`` has what the others have just said."""
        now = self._clock()
        self._unheard = {one: self._unheard.get(one, now) for one in minions if one not in running}
        lost = {
            one: "went silent in the middle: it does not answer any more, and may go on"
            for one, since in self._unheard.items()
            if now - since >= self._patience
        }
        ended = {one for one in minions if running.get(one) is False}
        # A return may be on its way for one look.
        for one in ended & self._ended:
            lost[one] = "ended without a return: was it killed or restarted in the middle?"
        self._ended = ended
        return lost


def _running(client: Any, jid: str, minions: Collection[str]) -> dict[str, bool]:
    """Whether the minions still run the job, as they say themselves; those that do not answer are missing."""
    if not minions:
        return {}
    asked = {"tgt_type": "list", "full_return": True, "timeout": LOOK, "gather_job_timeout": LOOK}
    returns = client.cmd(sorted(minions), "saltutil.find_job", [jid], **asked)
    return {minion: bool(answer["ret"]) for minion, answer in returns.items() if not problem(answer, LOOK)}


def _cached(client: Any, jid: str) -> dict[str, Full]:
    """The full returns in the master's job cache."""
    found = client.returners[f"{client.opts['master_job_cache']}.get_jid"](jid)
    return {
        minion: {"ret": answer["return"], "retcode": answer.get("retcode")}
        for minion, answer in found.items()
        if isinstance(answer, dict) and "return" in answer
    }


def _raise_interruption(error: BaseException | None) -> None:
    """
    Raise the interruption that this error of Salt's hides, if there is one.

    A signal during a call stops Salt's event loop, and only the resulting close error reaches us (3008.3). Ctrl-C
    would be taken for a master that is away, and the work that it was to end would go on.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error from None
        error = error.__context__
