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
3     ``held``          somebody else holds the token, or a job is at work under the hold
4     ``not_yours``     that hold is not the current one, or not yours
5     ``in_doubt``      a write's fate is unknown: change nothing, and look again
6     ``store``         the wiki cannot be reached, refuses, or answers nonsense
10    ``overdue``       with ``status check=True``: somebody holds the token longer than expected
130   ``interrupted``   Ctrl-C or SIGTERM: a token that was just being taken has been given back
====  ================  ==================================================================

Each step fires an event on the master's bus: ``deploytoken/acquired``, ``released``, ``takenover``, ``waiting``,
``refused``, ``extended``.
"""

import shlex

from saltext.deploytoken import cli, errors, values
from saltext.deploytoken.deploy import jobs
from saltext.deploytoken.machines import asking

__outputter__ = {"history": "deploytoken", "doctor": "deploytoken"}


@cli.command
def status(check=False):
    """
    Say who holds the token. Nothing is written.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.status
        salt-run deploytoken.status --out=json
        salt-run deploytoken.status check=True

    check (bool)
        End with an exit code that says who holds it, for cron and monitoring: 0 free, 3 ``held``, 10 ``overdue``.

    Returns ``held_by`` (None when free), ``account`` (of the person who took it, such as ``alice@master1``), ``ref``,
    ``reason``, ``since``, ``expected_until``, ``age`` (seconds), ``overdue`` (held longer than the holder expected),
    ``version`` and ``url`` of the page, and ``message``, the same in words. If an orchestration took it, or a job is
    at work under it, ``job`` has its ``jid`` and ``master``, and whether it is still ``running`` (None where this
    master cannot tell); otherwise it is None. If the hold had ended before, and the page was set back,
    ``ended_before`` is the version of its end; otherwise it is None. Fails with ``store`` or ``invalid``, and with
    ``check`` as said above; the answer has all of these then as well.
    """
    check = values.boolean(check, "check")
    with _token() as token:
        found = token.status()
    words = _status_in_words(found)
    if check and found["held_by"]:
        failure = errors.Overdue if found["overdue"] else errors.Held
        raise failure(words, **found)
    return {**found, "message": words}


@cli.command
def acquire(reason=None, name=None, ref=None, resume=False, expect=None, wait=None, jid=None):
    """
    Take the token, if it is free.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.acquire reason="upgrade PostgreSQL"
        salt-run deploytoken.acquire reason="upgrade PostgreSQL" name=Alice expect=2h wait=15m
        salt-run deploytoken.acquire ref=3f9c2a1b resume=True

    reason (str)
        Why, in one line without brackets; the page shows it to the next person. Not needed to ``resume``.
    name (str)
        Who, as the page has it. Default: who is typing; see :py:mod:`saltext.deploytoken.people`.
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
        The ID of the job that takes it and is at work under it, 20 digits; :py:func:`status` says whether it still
        runs. Default: the ID of the orchestration that this is a step of.

    Returns ``held_by``, ``ref``, ``reason``, ``since``, ``expected_until``, ``version`` and ``url``, as
    :py:func:`status` does; and ``taken``, which is False if the hold stood already, and was only confirmed. Fails
    with ``held`` (the message says who holds it, since when and why, and how to go on; ``own`` is True if that is who
    is typing), ``not_yours`` (the hold ``ref`` has ended), ``in_doubt``, ``store`` or ``invalid`` (also where the hold
    ``ref`` stands for another reason or time: see :py:func:`extend`).
    """
    resume = values.boolean(resume, "resume")
    reason = None if resume and reason is None else values.text(reason, "reason")
    if resume and ref is None:
        raise errors.Invalid("ref: needed to resume; `salt-run deploytoken.status` shows it")
    jid = jobs.orchestration(__opts__["cachedir"]) if jid is None else values.jid(jid, "jid")
    job = jobs.name(__opts__, jid) if jid else None
    # Whoever only waits for the token, in a terminal on a server, is not in its holder's way.
    with asking.noted(__opts__["cachedir"]), _token() as token:
        answer = token.acquire(
            reason,
            _name(name),
            ref,
            resume,
            expect=_duration(expect, "expect"),
            wait=_duration(wait, "wait"),
            job=job,
        )
        if job and not answer["taken"]:
            # Of two orchestrations that resume one hold, one wins.
            token.begin(answer["ref"], job)
    if jid:
        jobs.note(__opts__["cachedir"], answer["ref"], jid)
    return answer


@cli.command
def extend(ref=None, expect=None, reason=None, name=None):
    """
    Change what the page says of a hold: how long it will take from now, and why.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.extend expect=2h
        salt-run deploytoken.extend ref=3f9c2a1b expect=2h reason="upgrade PostgreSQL, and reindex"

    ref (str)
        The hold. Default: the one that stands now, if it is that of who is typing.
    expect (duration)
        How long it will take from now on, such as ``2h``. Default: as the page says.
    reason (str)
        Why, in one line without brackets. Default: as the page says.
    name (str)
        Who, as for :py:func:`acquire`.

    Returns what :py:func:`acquire` returns except ``taken``. Fails with ``not_yours`` (that hold is not the current
    one, or somebody else's), ``in_doubt``, ``store`` or ``invalid``.
    """
    reason = None if reason is None else values.text(reason, "reason")
    seconds = None if expect is None else values.positive_duration(expect, "expect")
    with _token() as token:
        return token.extend(ref, seconds, reason, _name(name))


@cli.command
def release(summary=None, ref=None, name=None, rebooted=None, consent=None, for_holder=False, force=False):
    """
    Give the token back, and write what was done under History, in one save.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.release
        salt-run deploytoken.release summary="upgraded PostgreSQL" ref=3f9c2a1b rebooted=web1,web2
        salt-run deploytoken.release ref=3f9c2a1b for_holder=True

    summary (str)
        What was done, in one line. Default: the hold's reason.
    ref (str)
        Release this hold and no other. Without it, the one that stands now, if it is that of who is typing.
    name (str)
        Who releases it, as for :py:func:`acquire`.
    rebooted (list)
        Servers that were rebooted, for the entry.
    consent (str)
        Who agreed to interrupt what, for the entry.
    for_holder (bool)
        End the hold ``ref`` although it is somebody else's; the entry says who did.
    force (bool)
        End the hold although a job is at work under it, or may be; the entry says so.

    The entry also names everybody who broke the glass of a gate since the last release.

    Returns what :py:func:`acquire` returns except ``taken``, and ``released`` (the ref), ``released_by`` (who did) and
    ``entry`` (the line under History). To release again what is released already succeeds and writes nothing. Fails
    with ``not_yours`` (that hold is not the current one, or somebody else's), ``held`` (a job is at work under it),
    ``in_doubt``, ``store`` or ``invalid``.
    """
    from saltext.deploytoken.deploy.release import release as record_and_release

    summary = None if summary is None else values.text(summary, "summary")
    rebooted = values.words(rebooted, "rebooted")
    consent = None if consent is None else values.text(consent, "consent")
    for_holder = values.boolean(for_holder, "for_holder")
    force = values.boolean(force, "force")
    if for_holder and ref is None:
        raise errors.Invalid("ref: needed with for_holder; `salt-run deploytoken.status` shows it")
    jid = jobs.orchestration(__opts__["cachedir"])
    with _token() as token:
        return record_and_release(
            token,
            __opts__["cachedir"],
            summary,
            ref,
            _name(name),
            rebooted,
            consent,
            for_holder=for_holder,
            force=force,
            job=jobs.name(__opts__, jid) if jid else None,
        )


@cli.command
def takeover(ref=None, reason=None, name=None, held_by=None, force=False):
    """
    End somebody else's hold on purpose, and take the token.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.takeover ref=3f9c2a1b reason="Alice is on a plane, the site is down"
        salt-run deploytoken.takeover held_by=Bob reason="Bob forgot to write nobody"

    ref (str)
        The hold to end, exactly as :py:func:`status` shows it. Without it, the command is only shown.
    reason (str)
        Why, in one line without brackets; the History entry of the ended hold shows it.
    name (str)
        Who takes it, as for :py:func:`acquire`.
    held_by (str)
        In place of ``ref``, for a hold that a person typed without one: the name, exactly as the page has it.
    force (bool)
        End the hold although a job is at work under it, or may be; its entry says so.

    Returns what :py:func:`acquire` returns except ``taken``, and ``displaced`` (the ended hold) and ``entry``.
    Fails with ``not_yours`` when that hold is not the current one, ``held`` (a job is at work under it), ``in_doubt``,
    ``store`` or ``invalid``.
    """
    from saltext.deploytoken.gate import live

    if reason is not None or ref is not None or held_by is not None:
        reason = values.text(reason, "reason")
    force = values.boolean(force, "force")
    if ref is not None and held_by is not None:
        raise errors.Invalid("held_by: leave it out beside ref; it is for a hold that has none")
    held_by = None if held_by is None else values.text(held_by, "held_by")
    with _token() as token:
        if ref is None and held_by is None:
            raise _which_to_take_over(token.status(), reason or "WHY")
        answer = token.take_over(reason, ref, held_by, _name(name), force=force)
    live.forget(__opts__["cachedir"])
    if force and answer["displaced"]["ref"]:
        jobs.forget(__opts__["cachedir"], answer["displaced"]["ref"])
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

    Returns ``holds``, newest first, each with ``held_by``, ``account`` (who took it, such as ``alice@master1``),
    ``ref``, ``reason``, ``from``, ``to``, ``ended`` (``released``, ``taken over``, ``withdrawn``, ``by hand``, ``still
    held``, ``unknown``), ``ended_by`` (the holder, or the name or account of whoever ended it), ``entry``, ``by_hand``
    (a person typed it) and ``unreadable`` (versions); and ``unreadable`` with the reasons, and ``complete`` (False
    when there is more). Without ``--out``, ``salt-run`` prints a table of 80 columns. Fails with ``store`` (also where
    the API key's user may not view wiki history) or ``invalid``.
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
    from saltext.deploytoken.deploy import tokens

    return tokens.connect(__opts__, cli.say, cli.user())


def _name(value):
    return None if value is None else values.text(value, "name")


def _duration(value, key):
    return None if value is None else values.duration(value, key)


def _status_in_words(status):
    from saltext.deploytoken import protocol

    holder = status["held_by"]
    if not holder:
        return "nobody holds the token"
    ref = status["ref"]
    if status["ended_before"]:
        way = f"`salt-run deploytoken.release ref={ref} for_holder=true`"
        return f"{protocol.set_back(ref, status['ended_before'])}; clear it with {way}"
    since = f" since {status['since']}" if status["since"] else ""
    reason = f" ({status['reason']})" if status["reason"] else ""
    overdue = f"; it was expected until {status['expected_until']}: ask {holder}" if status["overdue"] else ""
    return f"{holder} holds the token{since}{reason}{overdue}"


def _which_to_take_over(status, reason):
    """The refusal of a takeover that does not say of what, with the command that does."""
    if not status["held_by"]:
        way = f"acquire it with `salt-run deploytoken.acquire reason={shlex.quote(reason)}`"
        return errors.Invalid(f"ref: nobody holds the token; {way}")
    hold = f"ref={status['ref']}" if status["ref"] else f"held_by={shlex.quote(status['held_by'])}"
    way = f"`salt-run deploytoken.takeover {hold} reason={shlex.quote(reason)}`"
    return errors.Invalid(f"ref: {_status_in_words(status)}; to end that hold, run {way}")
