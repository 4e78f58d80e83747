"""
One question to many minions: who was expected, who answered, who did not.

Salt's own ways fail open here (measured on 3008.3): who is down is silently left out of ``cmd_iter``; without
``full_return`` every error is a truthy text; and a target that matches nobody is an empty, and thus spotless, answer.
So the master says whom it expects before anybody is asked, and each of them is held against that list.

With the options of :func:`over_ssh`, all of this goes over salt-ssh instead, to those who are in the roster
(:py:mod:`roster <saltext.deploytoken.machines.ssh>`).
"""

import dataclasses
import logging
import time

import salt.client
import salt.utils.minions
from salt.exceptions import SaltException

from saltext.deploytoken import errors, values

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
#: So many seconds a master that was restarted has to be back, before its minions count as silent.
MASTER_PATIENCE = 120
#: So many seconds a minion may say nothing before it counts as silent. Those of a master that was restarted, or whose
#: own states restart the network, take a while to find their master again.
PATIENCE = 60
#: So many seconds more has an answer over ssh, where each question is a login and a new Python.
SSH = 30
_SSH = "deploytoken_over_ssh"


@dataclasses.dataclass(frozen=True)
class Answers:
    """``answers`` and ``failed`` together have every expected id exactly once."""

    expected: list
    answers: dict
    failed: dict


def over_ssh(opts, ssh):
    """
    Return the options with which everything here goes over salt-ssh, if ``ssh`` is True; else the options as they are.

    :raises errors.Invalid: when it is neither True nor False.
    """
    return {**opts, _SSH: True} if values.boolean(ssh, "ssh") else opts


def whom(opts):
    """Where a person sees which minions there are."""
    return "the roster shows them" if opts.get(_SSH) else "salt-key --list all shows them"


def expect(opts, target, target_type="glob"):
    """
    Return the ids of the minions that a target means, and ``{id: why}`` of those it names but that cannot exist.

    :raises errors.Invalid: Salt has no such type of target, or no roster.
    """
    if opts.get(_SSH):
        return _roster().expect(opts, target, target_type)
    if target_type not in TYPES:
        raise errors.Invalid(f"target_type: {target_type!r} is none of {', '.join(TYPES)}")
    found = salt.utils.minions.CkMinions(opts).check_minions(target, target_type)
    minions = set(found.get("minions") or ())
    named = set(found.get("missing") or ())
    if target_type == "list":
        named |= set(target if isinstance(target, list) else filter(None, map(str.strip, target.split(",")))) - minions
    return sorted(minions), dict.fromkeys(named, "has no accepted key on this master (salt-key --list all)")


def ask(opts, target, target_type, fun, arg=(), kwarg=None, timeout=15, retcodes=(0,)):
    """
    Call one function on all minions that a target means, with one publish.

    ``timeout`` is in seconds; a minion that says that it is still at it is waited for, and over ssh ten times as long
    at most. An answer counts if its return
    code is one of ``retcodes``; everything else is in ``failed``, with the reason. Never raises because of a minion,
    nor of the master: that nobody is expected is an empty ``expected``, and it is the caller's to refuse that.
    """
    expected, failed = expect(opts, target, target_type)
    if not expected:
        return Answers(sorted(failed), {}, failed)
    if opts.get(_SSH):
        returns = {}
        # There, the first question of all brings along Salt itself.
        for minion, answer, why in _roster().returns(opts, expected, fun, arg, kwarg, timeout, 10 * timeout):
            returns[minion] = answer
            failed.update({minion: why} if answer is None else {})
        return _held_against(expected, returns, failed, timeout, retcodes)
    try:
        with salt.client.get_local_client(mopts=dict(opts)) as client:
            returns = client.cmd(
                expected,
                fun,
                arg,
                tgt_type="list",
                kwarg=kwarg,
                timeout=timeout,
                gather_job_timeout=timeout,
                full_return=True,
            )
    except SaltException as error:
        _unless_interrupted(error)
        returns = {}
        failed.update(dict.fromkeys(expected, f"could not be asked: {line(error)}"))
    return _held_against(expected, returns, failed, timeout, retcodes)


def _held_against(expected, returns, failed, timeout, retcodes):
    answers = {}
    for minion in expected:
        reason = problem(returns.get(minion), timeout, retcodes)
        if reason is None:
            answers[minion] = returns[minion]["ret"]
        else:
            failed.setdefault(minion, reason)
    return Answers(sorted({*expected, *failed}), answers, failed)


def follow(opts, ids, fun, kwarg=None, tell=print):
    """
    Have minions run one function, with one publish, for as long as they are at it.

    Yields ``(id, full return, None)`` for each as it returns, and ``(id, None, why)`` for each that went silent: it
    does not say any more that it is at it, and its return is not in the master's job cache either. ``tell`` is called
    with a line when the master itself is away. Every id comes once.
    """
    if opts.get(_SSH):
        yield from _roster().returns(opts, ids, fun, kwarg=kwarg)
        return
    left = set(ids)
    with salt.client.get_local_client(mopts=dict(opts)) as client:
        try:
            job = client.run_job(sorted(ids), fun, tgt_type="list", kwarg=kwarg, listen=True)
            why = "was not reached by the master"
        except SaltException as error:
            _unless_interrupted(error)
            job, why = None, f"could not be asked, and may have begun all the same: {line(error)}"
        if not job:
            yield from ((minion, None, why) for minion in sorted(left))
            return
        gone, silence = None, Silence()
        while left:
            try:
                returned = client.get_iter_returns(job["jid"], set(left), tgt=sorted(left), tgt_type="list")
                for minion, answer in (pair for found in returned for pair in found.items()):
                    if minion in left:
                        left.remove(minion)
                        yield minion, answer, None
                lost = silence.lasts(left, _at_it(client, job["jid"], left))
                gone = None
            except SaltException as error:
                _unless_interrupted(error)
                # A restart of the master does not end what the minions do, and they try to return for a while.
                gone, silence = gone or time.monotonic(), Silence()
                if time.monotonic() - gone < MASTER_PATIENCE:
                    tell(f"the master does not answer; waiting for {', '.join(sorted(left))}")
                    time.sleep(5)
                    continue
                lost = dict.fromkeys(left, f"went silent, and so did the master: {line(error)}")
            # What returned while nobody listened: the master was away, or the event came between two looks.
            for minion, answer in _cached(client, job["jid"]).items():
                if minion in left:
                    left.remove(minion)
                    yield minion, answer, None
            for minion in sorted(left & lost.keys()):
                left.remove(minion)
                yield minion, None, lost[minion]


def _at_it(client, jid, minions):
    """Whether the minions are at the job, as they say themselves; who does not answer is missing."""
    if not minions:
        return {}
    asked = {"tgt_type": "list", "full_return": True, "timeout": 5, "gather_job_timeout": 5}
    returns = client.cmd(sorted(minions), "saltutil.find_job", [jid], **asked)
    return {minion: bool(answer["ret"]) for minion, answer in returns.items() if not problem(answer, 5)}


class Silence:
    """Since when minions say nothing, or that they are not at their job any more: one look alone proves neither."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._unheard = {}
        self._ended = set()

    def lasts(self, minions, at_it):
        """Return ``{id: why}`` of those that are not waited for any longer; ``at_it`` is what was just heard."""
        now = self._clock()
        self._unheard = {one: self._unheard.get(one, now) for one in minions if one not in at_it}
        lost = {
            one: "went silent in the middle: it does not answer any more, and may go on"
            for one, since in self._unheard.items()
            if now - since >= PATIENCE
        }
        ended = {one for one in minions if at_it.get(one) is False}
        # A return may be on its way for one look.
        for one in ended & self._ended:
            lost[one] = "ended without a return: was it killed or restarted in the middle?"
        self._ended = ended
        return lost


def _cached(client, jid):
    """The full returns in the master's job cache."""
    found = client.returners[f"{client.opts['master_job_cache']}.get_jid"](jid)
    return {
        minion: {"ret": answer["return"], "retcode": answer.get("retcode")}
        for minion, answer in found.items()
        if isinstance(answer, dict) and "return" in answer
    }


def _roster():
    # Late: salt-ssh's client is a heavy import, and few need it.
    from saltext.deploytoken.machines import ssh as roster

    return roster


def within(opts, ids, fun, arg=(), kwarg=None, timeout=15):
    """
    Call one function on minions with one publish, and return the full returns that come within so many seconds.

    :func:`ask` is for one answer of everybody; this is for looking again and again at minions that come and go. It
    ends as soon as all have answered, and waits for nobody longer, whether or not it is still at it; over ssh, there
    are :data:`SSH` seconds more. Who is missing has not answered; a master that is away is as silent as its minions.
    """
    if opts.get(_SSH):
        found = _roster().returns(opts, ids, fun, arg, kwarg, timeout, timeout + SSH)
        return {minion: answer for minion, answer, _ in found if answer is not None}
    found, end = {}, time.monotonic() + timeout
    try:
        with salt.client.get_local_client(mopts=dict(opts)) as client:
            job = client.run_job(sorted(ids), fun, arg, tgt_type="list", kwarg=kwarg, listen=True)
            while job and found.keys() < set(ids) and (left := end - time.monotonic()) > 0:
                # A wait of 0 would be for ever.
                event = client.event.get_event(wait=max(left, 0.1), tag=f"salt/job/{job['jid']}/ret/")
                if event and event.get("id") in ids:
                    found[event["id"]] = {"ret": event.get("return"), "retcode": event.get("retcode")}
    except SaltException as error:
        _unless_interrupted(error)
        log.warning("%s could not be asked: ", fun, exc_info=True)
    return found


def _unless_interrupted(error):
    """
    Raise the interruption that this error of Salt's hides, if there is one.

    What comes while the master is being asked ends Salt's event loop, and then the closing of the channel fails, of
    which alone is told (3008.3): Ctrl-C would be taken for a master that is away, and what was to end would go on.
    """
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error from None
        error = error.__context__


def several(opts, ids, questions, timeout=15):
    """
    Call several functions, and return the list of what each minion said to all of them, of those that did in time.

    ``questions`` is a mapping of functions to their arguments. All go with one publish; salt-ssh knows no such thing,
    and has one question after the other.
    """
    functions = list(questions)
    if opts.get(_SSH):
        heard = [within(opts, ids, fun, arg, timeout=timeout) for fun, arg in questions.items()]
        return {minion: [one[minion]["ret"] for one in heard] for minion in ids if all(minion in one for one in heard)}
    found = {}
    for minion, answer in within(opts, ids, functions, list(questions.values()), timeout=timeout).items():
        told = answer["ret"]
        if isinstance(told, dict):
            told = [told.get(fun) for fun in functions]
        # Already in a list if the minion has `multifunc_ordered`.
        if isinstance(told, list) and len(told) == len(functions):
            found[minion] = told
    return found


def problem(answer, timeout, retcodes=(0,)):
    """Why a minion's full return is no answer; None if it is one."""
    if not answer or not isinstance(answer, dict) or answer.get("out") == "no_return":
        return f"did not answer within {timeout:g} seconds (is it up? salt-run manage.status)"
    if "ret" not in answer:
        return f"answered nothing to use: {line(answer)}"
    if answer.get("retcode") not in retcodes:
        return f"failed: {line(answer['ret'])}"
    return None


def line(value):
    """One printable line of whatever came back: of a traceback, the last one, which says what went wrong."""
    lines = [text.strip() for text in str(value).splitlines() if text.strip()]
    text = "".join(character if character.isprintable() else "?" for character in (lines or ["no reason given"])[-1])
    return text if len(text) <= 200 else text[:199] + "…"
