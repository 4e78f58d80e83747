"""
One question to many minions: who was expected, who answered, who did not.

Salt's own ways fail open here (measured on 3008.3): who is down is silently left out of ``cmd_iter``; without
``full_return`` every error is a truthy text; and a target that matches nobody is an empty, and thus spotless, answer.
So the master says whom it expects before anybody is asked, and each of them is held against that list.
"""

import dataclasses

import salt.client
import salt.utils.minions
from salt.exceptions import SaltException


@dataclasses.dataclass(frozen=True)
class Answers:
    """``answers`` and ``failed`` together have every expected id exactly once."""

    expected: list
    answers: dict
    failed: dict


def expect(opts, target, target_type="glob"):
    """Return the ids of the minions that a target means, and ``{id: why}`` of those it names but that cannot exist."""
    found = salt.utils.minions.CkMinions(opts).check_minions(target, target_type)
    minions = set(found.get("minions") or ())
    named = set(found.get("missing") or ())
    if target_type == "list":
        named |= set(target if isinstance(target, list) else filter(None, map(str.strip, target.split(",")))) - minions
    return sorted(minions), dict.fromkeys(named, "has no accepted key on this master (salt-key --list all)")


def ask(opts, target, target_type, fun, arg=(), kwarg=None, timeout=15, retcodes=(0,)):
    """
    Call one function on all minions that a target means, with one publish.

    ``timeout`` is in seconds; a minion that says that it is still at it is waited for. An answer counts if its return
    code is one of ``retcodes``; everything else is in ``failed``, with the reason. Never raises because of a minion,
    nor of the master: that nobody is expected is an empty ``expected``, and it is the caller's to refuse that.
    """
    expected, failed = expect(opts, target, target_type)
    if not expected:
        return Answers(sorted(failed), {}, failed)
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
        returns = {}
        failed.update(dict.fromkeys(expected, f"could not be asked: {line(error)}"))
    answers = {}
    for minion in expected:
        reason = problem(returns.get(minion), timeout, retcodes)
        if reason is None:
            answers[minion] = returns[minion]["ret"]
        else:
            failed.setdefault(minion, reason)
    return Answers(sorted({*expected, *failed}), answers, failed)


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
