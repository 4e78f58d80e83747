"""
Is anything that somebody cares about running on the servers? What, whose, since when, and whom to ask.

.. versionadded:: 0.1.0

Asks the execution module ``busy`` of every targeted minion with one publish, and compares the answers with the list of
minions that the master expected. A target that matches nobody, a minion that does not answer, that lacks the module,
or whose answer is not clear: each blocks, like a spider that runs, and is named.
"""

import contextlib
import inspect
import json
import shlex

from saltext.deploytoken import cli, errors, machines, values
from saltext.deploytoken.busy import consent as agreement
from saltext.deploytoken.machines import asking

__outputter__ = {"check": "busy", "wait": "busy"}


@cli.command
def check(target=None, target_type="glob", consent=None, timeout=None, ssh=False):
    """
    Say whether the minions are idle.

    CLI Example:

    .. code-block:: bash

        salt-run busy.check 'kingfisher*'
        salt-run busy.check target='web1,web2' target_type=list --out=json
        salt-run busy.check 'kingfisher*' ssh=True
        salt-run busy.check 'kingfisher*' consent='[{by: "Jane Doe, helpdesk", for: ["kingfisher-main/scrapyd/*"]}]'

    target, target_type (str)
        Which minions. The types are those of Salt: ``glob`` (default), ``list``, ``grain``, ``compound``, …
    consent (str, dict or list)
        Who agreed to interruptions: a name, for all that runs at the moment; ``{by: NAME, for: [ids or globs]}``, for
        just that; or a list of these, one for each person. An unknown is never covered.
    timeout (duration)
        How long to wait for minions that give no sign, in seconds or as ``30s``, ``1m``. Default: 15, or
        ``deploytoken.patience`` if that is less. Over salt-ssh, for connecting; the whole answer has ten times as
        long.
    ssh (bool)
        Ask the machines in the roster over salt-ssh, with no master running.

    Returns a dictionary:

    idle
        True.
    target, expected
        The target, and the list of the minions that it means.
    minions
        For each of them, what ``busy.check`` on the minion returned.
    consented
        A list of the people who agreed to something that runs: ``by``, and ``to``, a list of blockers.

    Without ``--out``, this is printed as a table. If the minions are not idle, exits with code 7, and in place of
    ``idle`` there are:

    reason, message
        ``busy``, and what to tell people.
    blockers
        Those without consent.
    unknowns
        What could not be found out, each with its ``minion``.
    failed
        The minions that did not answer, and why.
    consent
        The argument ``consent`` that is needed: the one that was given, and what is to be asked of each person.
    next
        ``[why, command]``: the command that has this consent. None if nothing runs that needs it.

    Exits with code 2 if an argument is wrong.
    """
    from saltext.deploytoken.busy import verdict

    agreed = agreement.parse(consent)
    reached = machines.connect(__opts__, ssh)
    seconds = None if timeout is None else values.positive_duration(timeout, "timeout")
    with (
        asking.noted(__opts__["cachedir"]),
        _explained(check, target, target_type=target_type, timeout=timeout, ssh=ssh),
    ):
        found = verdict.look(reached, _target(target, target_type), target_type, seconds)
        return verdict.judge(found, agreed).data()


@cli.command
def wait(
    target=None, timeout="2h", target_type="glob", consent=None, interval="15s", settle="6s", stuck="5m", ssh=False
):
    """
    Wait until the minions are idle, and say on standard error what is left.

    Between two jobs, Scrapyd's queue is empty for a moment, or nothing runs for up to its ``poll_interval``; so
    minions are idle when two looks find them so that are further apart than that. A queue that only waits, with
    nothing running, never becomes idle by itself: it is told apart as stuck.

    CLI Example:

    .. code-block:: bash

        salt-run busy.wait 'kingfisher*' timeout=4h

    target, target_type, consent, ssh
        As of :py:func:`check`.
    timeout (duration)
        How long to wait: ``90s``, ``30m``, ``2h``. Default: two hours. The last look is at its end, even if the
        interval is longer. If that one finds the minions idle, another one follows.
    interval (duration)
        Between two looks. Default: ``15s``.
    settle (duration)
        Between the two looks that find the minions idle; longer than Scrapyd's ``poll_interval``. Default: ``6s``.
    stuck (duration)
        How long the same jobs may be pending, with nothing running, before that is stuck. Default: ``5m``.

    Returns what :py:func:`check` returns, and ``waited``, in seconds. Exits with code 7 if the minions are not idle in
    time; or as soon as jobs are stuck, with ``stuck``, a list of blockers.
    """
    from saltext.deploytoken.busy import verdict, waiting

    agreed = agreement.parse(consent)
    reached, target = machines.connect(__opts__, ssh), _target(target, target_type)
    times = waiting.Times(
        limit=values.positive_duration(timeout, "timeout"),
        interval=values.positive_duration(interval, "interval"),
        settle=values.positive_duration(settle, "settle"),
        stuck=values.positive_duration(stuck, "stuck"),
    )
    given = {"timeout": timeout, "interval": interval, "settle": settle, "stuck": stuck}
    with asking.noted(__opts__["cachedir"]), _explained(wait, target, target_type=target_type, **given, ssh=ssh):
        found, waited = waiting.wait(lambda: verdict.look(reached, target, target_type), agreed, times, cli.say)
        return {**found.data(), "waited": int(waited)}


def _target(target, target_type):
    # A list may come as one, from another program.
    return target if target_type == "list" and isinstance(target, list) else values.text(target, "target")


@contextlib.contextmanager
def _explained(function, target, **given):
    """Have a refusal come with the command that goes on if those who are to be asked agree."""
    try:
        yield
    except errors.Busy as refusal:
        found = refusal.details
        command = _command(function, target, given, found["consent"]) if found["consent"] else None
        found["next"] = command and [agreement.condition(found["blockers"]), command]
        raise


def _command(function, target, given, consent):
    """The command line that asks the same with this consent, ready to paste."""
    usual = inspect.signature(function).parameters
    words = {"target": ",".join(target) if isinstance(target, list) else target}
    words |= {key: value for key, value in given.items() if value != usual[key].default}
    # Not in ASCII: YAML takes the two halves of an escaped emoji for two characters.
    words["consent"] = json.dumps(consent, ensure_ascii=False)
    shown = [f"{key}={shlex.quote(str(value))}" for key, value in words.items()]
    return " ".join(["salt-run", f"busy.{function.__name__}", *shown])
