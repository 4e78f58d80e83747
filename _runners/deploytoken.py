"""
Who may change the servers: the deploy token, on a wiki page or in a local file.

.. versionadded:: 0.1.0

Only one person changes any server at a time. The page names that person: ``Held by: nobody``, or ``Held by: Alice
(upgrade PostgreSQL; since 2026-11-22 22:30 UTC; ref 3f9c2a1b)``. These commands do what people do there by hand,
without the races.

Configured in the master's configuration, under ``deploytoken``; see :py:mod:`saltext.deploytoken.config` for every
key:

.. code-block:: yaml

    deploytoken:
      store: https://crm.example.org/projects/ocds/wiki/Deploy_token
      api_key_file: /etc/salt/redmine.key
      name: Alice

Every function ends with one of these exit codes. The answer's ``reason`` is the word, its ``message`` one line for
people:

====  ================  ==================================================================
code  reason            meaning
====  ================  ==================================================================
0     --                done
2     ``invalid``       arguments or configuration; the message names the key
3     ``held``          somebody else holds the token
4     ``not_yours``     that hold is not the current one
5     ``in_doubt``      a write's fate is unknown: change nothing, and look again
6     ``store``         the wiki cannot be reached, refuses, or answers nonsense
130   ``interrupted``   Ctrl-C or SIGTERM: a token that was just being taken has been given back
====  ================  ==================================================================

Each step fires an event on the master's bus: ``deploytoken/acquired``, ``released``, ``takenover``, ``waiting``,
``refused``.
"""

import functools

from saltext.deploytoken import cli, config, errors, events, values
from saltext.deploytoken.deploy import jobs

__outputter__ = {"history": "deploytoken", "doctor": "deploytoken"}


@cli.command
def status():
    """
    Say who holds the token. Nothing is written.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.status
        salt-run deploytoken.status --out=json

    Returns ``held_by`` (None when free), ``ref``, ``reason``, ``since``, ``expected_until``, ``age`` (seconds),
    ``overdue`` (held longer than the holder expected), ``version`` and ``url`` of the page, and ``job``. If an
    orchestration runs or ran under the hold, ``job`` has its ``jid``, and whether it is still ``running`` (None where
    this master cannot tell); otherwise it is None. Fails with ``store`` or ``invalid``.
    """
    with _token() as token:
        return token.status()


@cli.command
def acquire(reason=None, name=None, ref=None, resume=False, expect=None, wait=None, jid=None):
    """
    Take the token, if it is free.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.acquire reason="upgrade PostgreSQL"
        salt-run deploytoken.acquire reason="upgrade PostgreSQL" name=Alice expect=2h wait=15m

    reason (str)
        Why, in one line without brackets; the page shows it to the next person.
    name (str)
        Who; default ``deploytoken.name``, else the first and last name of the API key's owner.
    ref (str)
        Take it under this ref (8 hex digits); if the hold with this ref stands already, confirm it. Default: a new
        one.
    resume (bool)
        Only confirm that the hold ``ref`` still stands.
    expect (duration)
        How long it will take, such as ``2h``; ``status`` says when it is overdue. A hold never ends by itself.
    wait (duration)
        How long to wait for the token to be free, such as ``15m``. Default: not at all.
    jid (str)
        The ID of the job that takes it, 20 digits; :py:func:`status` says whether it still runs. Default: the ID of
        the orchestration that this is a step of.

    Returns ``held_by``, ``ref``, ``reason``, ``since``, ``expected_until``, ``version`` and ``url``, as
    :py:func:`status` does; and ``taken``, which is False if the hold stood already, and was only confirmed. Fails
    with ``held`` (the message says who holds it, since when and why), ``not_yours`` (the hold ``ref`` has ended),
    ``in_doubt``, ``store`` or ``invalid``.
    """
    reason = values.text(reason, "reason")
    resume = values.boolean(resume, "resume")
    if resume and ref is None:
        raise errors.Invalid("ref: needed to resume; `salt-run deploytoken.status` shows it")
    jid = jobs.orchestration(__opts__["cachedir"]) if jid is None else values.jid(jid, "jid")
    with _token() as token:
        answer = token.acquire(
            reason,
            _name(name),
            ref,
            resume,
            expect=None if expect is None else values.duration(expect, "expect"),
            wait=None if wait is None else values.duration(wait, "wait"),
            job=jobs.name(__opts__, jid) if jid else None,
        )
    if jid:
        jobs.note(__opts__["cachedir"], answer["ref"], jid)
    return answer


@cli.command
def release(summary=None, ref=None, name=None, rebooted=None, consent=None):
    """
    Give the token back, and write what was done under History, in one save.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.release summary="upgraded PostgreSQL"
        salt-run deploytoken.release summary="upgraded PostgreSQL" ref=3f9c2a1b rebooted=web1,web2

    summary (str)
        What was done, in one line.
    ref (str)
        Release this hold and no other. Without it, the one under the operator's own name.
    name (str)
        The operator's name, as for :py:func:`acquire`.
    rebooted (list)
        Servers that were rebooted, for the entry.
    consent (str)
        Who agreed to interrupt what, for the entry.

    The entry also names everybody who broke the glass of a gate since the last release.

    Returns what :py:func:`acquire` returns except ``taken``, and ``released`` (the ref) and ``entry`` (the line under
    History). To release again what is released already succeeds and writes nothing. Fails with ``not_yours``,
    ``in_doubt``, ``store`` or ``invalid``.
    """
    from saltext.deploytoken.deploy.release import release as record_and_release

    summary = values.text(summary, "summary")
    rebooted = values.words(rebooted, "rebooted")
    consent = None if consent is None else values.text(consent, "consent")
    with _token() as token:
        return record_and_release(token, __opts__["cachedir"], summary, ref, _name(name), rebooted, consent)


@cli.command
def takeover(ref=None, reason=None, name=None, held_by=None):
    """
    End somebody else's hold on purpose, and take the token.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.takeover ref=3f9c2a1b reason="Alice is on a plane, the site is down"
        salt-run deploytoken.takeover held_by=Bob reason="Bob forgot to write nobody"

    ref (str)
        The hold to end, exactly as :py:func:`status` shows it.
    reason (str)
        Why, in one line without brackets; the History entry of the ended hold shows it.
    name (str)
        The operator's name, as for :py:func:`acquire`.
    held_by (str)
        In place of ``ref``, for a hold that a person typed without one: the name, exactly as the page has it.

    Returns what :py:func:`acquire` returns except ``taken``, and ``displaced`` (the ended hold) and ``entry``.
    Fails with ``not_yours`` when that hold is not the current one, ``in_doubt``, ``store`` or ``invalid``.
    """
    from saltext.deploytoken.gate import live

    reason = values.text(reason, "reason")
    if (ref is None) == (held_by is None):
        raise errors.Invalid(
            "ref: name the hold to end, as `salt-run deploytoken.status` shows it: ref=…, or held_by=… if it has none"
        )
    held_by = None if held_by is None else values.text(held_by, "held_by")
    with _token() as token:
        answer = token.take_over(reason, ref, held_by, _name(name))
    live.forget(__opts__["cachedir"])
    return answer


@cli.command
def history(limit=20):
    """
    Say who held the token before, from the page's versions: what happened, edits by hand included.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.history
        salt-run deploytoken.history limit=50 --out=json

    limit (int)
        How many holds, from 1 to 1000. Reads 100 versions of the page and ten more per hold, at most. Each version is
        one request; 20 take about half a second.

    Returns ``holds``, newest first, each with ``held_by``, ``ref``, ``reason``, ``from``, ``to``, ``ended``
    (``released``, ``taken over``, ``withdrawn``, ``by hand``, ``still held``, ``unknown``), ``ended_by``, ``entry``,
    ``by_hand`` (a person typed it) and ``unreadable`` (versions); and ``unreadable`` with the reasons, and
    ``complete`` (False when there is more). Without ``--out``, ``salt-run`` prints a table of 80 columns. Fails with
    ``store`` (also where the API key's user may not view wiki history) or ``invalid``.
    """
    limit = values.number(limit, "limit", 1000)
    with _token() as token:
        return token.history(limit)


@cli.command
def doctor(scratch=None):
    """
    Check the whole setup, and say how to mend it. Writes nothing, except to a scratch page.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.doctor
        salt-run deploytoken.doctor scratch=https://crm.example.org/projects/ocds/wiki/Scratch

    scratch (str)
        The address of a page in the same Redmine that may be written to. The doctor tries a late write there, which
        Redmine must refuse. It refuses a page with a holder's line, which could be the token's.

    It checks the configuration, the page, the repositories (each is fetched), what the file server has for minions,
    the external pillar, and each accepted minion: that it answers, has this version's files, and how its gate stands.
    Without a master, or for a minion that does not answer, it cannot tell.

    Returns ``checks``, each with ``name``, ``ok`` (True, False, or None where it cannot tell) and ``text``. Without
    ``--out``, ``salt-run`` prints a line for each. Fails with ``store`` when a check fails, and ``invalid`` for the
    configuration; the answer then has ``checks`` as well.
    """
    from saltext.deploytoken import doctor as examiner

    scratch = None if scratch is None else values.text(scratch, "scratch")
    return examiner.examine(__opts__, scratch)


@cli.command
def init(markup=None):
    """
    Create the page, or the SQLite file, if it is missing. No other command creates one.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.init
        salt-run deploytoken.init markup=markdown

    markup (str)
        ``textile`` or ``markdown``: how headings are written. By default, as the wiki is set up.

    Returns ``created`` (False when the page was there, which is then left alone), for a new page ``markup`` (and a
    ``note`` if the wiki does not tell which it uses: then it is Textile), and what :py:func:`status` returns.
    Fails with ``store`` or ``invalid``.
    """
    from saltext.deploytoken import page

    with _token() as token:
        written_in = token.store.markup() if markup is None else markup
        created = token.store.create(page.initial(written_in or "textile", token.config.rules), "init")
        answer = {"created": created}
        if created:
            answer["markup"] = written_in or "textile"
        if created and written_in is None:
            answer["note"] = (
                "the wiki does not tell its markup; if the headings on the page look wrong, correct them there"
            )
        return {**answer, **token.status()}


def _token():
    from saltext.deploytoken.token import Token

    return Token(
        config.parse(__opts__),
        notify=lambda event, data: events.notify(__opts__, cli.say, event, data),
        runs=functools.partial(jobs.runs, __opts__),
    )


def _name(value):
    return None if value is None else values.text(value, "name")
