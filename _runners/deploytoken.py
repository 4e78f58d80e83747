"""
Who may change the servers: the deploy token, on a wiki page or in a local file.

.. versionadded:: 0.1.0

Only one person changes any server at a time. The page says who: ``Held by: nobody``, or ``Held by: Alice (upgrade
PostgreSQL; since 2026-11-22 22:30 UTC; ref 3f9c2a1b)``. These commands do what people do there by hand, without the
races.

Configured in the master's configuration, under ``deploytoken``; see :py:mod:`saltext.deploytoken.config` for every
key:

.. code-block:: yaml

    deploytoken:
      store: https://crm.example.org/projects/ocds/wiki/Deploy_token
      api_key_file: /etc/salt/redmine.key
      name: Alice

Every function ends with one of these exit codes; the answer's ``reason`` has the word, its ``message`` one line for
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
====  ================  ==================================================================

Each step fires an event on the master's bus: ``deploytoken/acquired``, ``released``, ``takenover``, ``waiting``,
``refused``.
"""

import sys

from saltext.deploytoken import config, door


@door.command
def status():
    """
    Say who holds the token. Nothing is written.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.status
        salt-run deploytoken.status --out=json

    Returns ``held_by`` (None when free), ``ref``, ``reason``, ``since``, ``expected_until``, ``age`` (seconds),
    ``overdue`` (held longer than the holder expected), ``version`` and ``url`` of the page. Fails with ``store`` or
    ``invalid``.
    """
    with _token() as token:
        return token.status()


@door.command
def acquire(reason=None, name=None, ref=None, resume=False, expect=None, wait=None):
    """
    Take the token, if it is free.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.acquire reason="upgrade PostgreSQL"
        salt-run deploytoken.acquire reason="upgrade PostgreSQL" name=Alice expect=2h wait=15m

    reason (str)
        Why, in one line without brackets; shown on the page to whoever wants the token next.
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

    Returns what :py:func:`status` returns. Fails with ``held`` (who, since when and why are in the message),
    ``in_doubt``, ``store``, ``invalid``, and with ``resume`` ``not_yours``.
    """
    reason = door.text(reason, "reason")
    resume = door.boolean(resume, "resume")
    if resume and ref is None:
        raise _invalid("ref: needed to resume; `salt-run deploytoken.status` shows it")
    with _token() as token:
        return token.acquire(
            reason,
            _name(name),
            ref,
            resume,
            expect=door.duration(expect, "expect"),
            wait=door.duration(wait, "wait"),
        )


@door.command
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

    Returns what :py:func:`status` returns, and ``released`` (the ref) and ``entry`` (the line under History).
    Releasing again what is released already succeeds and writes nothing. Fails with ``not_yours``, ``in_doubt``,
    ``store`` or ``invalid``.
    """
    summary = door.text(summary, "summary")
    notes = []
    if rebooted := door.words(rebooted, "rebooted"):
        notes.append(("rebooted", f"rebooted {', '.join(rebooted)}"))
    if consent is not None:
        notes.append(("consent", f"with the consent of {door.text(consent, 'consent')}"))
    with _token() as token:
        return token.release(summary, ref, _name(name), notes)


@door.command
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
        Why, in one line without brackets; it goes into the entry of the hold that is ended, under History.
    name (str)
        The operator's name, as for :py:func:`acquire`.
    held_by (str)
        In place of ``ref``, for a hold that a person typed without one: the name, exactly as the page has it.

    Returns what :py:func:`acquire` returns, ``displaced`` (the hold that was ended) and ``entry``. Fails with
    ``not_yours`` when that hold is not the current one, ``in_doubt``, ``store`` or ``invalid``.
    """
    reason = door.text(reason, "reason")
    if (ref is None) == (held_by is None):
        raise _invalid(
            "ref: name the hold to end, as `salt-run deploytoken.status` shows it: ref=…, or held_by=… if it has none"
        )
    with _token() as token:
        return token.take_over(reason, ref, None if held_by is None else door.text(held_by, "held_by"), _name(name))


@door.command
def init(markup="textile"):
    """
    Create the page, or the SQLite file, where it is missing. Nothing else ever creates one.

    CLI Example:

    .. code-block:: bash

        salt-run deploytoken.init
        salt-run deploytoken.init markup=markdown

    markup (str)
        ``textile`` or ``markdown``: how headings are written, as the wiki is set up.

    Returns ``created`` (False when the page was there, which is then left alone), and what :py:func:`status` returns.
    Fails with ``store`` or ``invalid``.
    """
    from saltext.deploytoken import page

    if markup not in ("textile", "markdown"):
        raise _invalid("markup: must be textile or markdown")
    with _token() as token:
        text = page.initial(markup, token.config.nobody, token.config.history.heading)
        created = token.store.create(text, "init")
        return {"created": created, **token.status()}


def _token():
    from saltext.deploytoken.token import Token

    return Token(config.parse(__opts__), notify=_notify)


def _notify(event, data):
    """Tell the bus, and while waiting the person; stdout stays for the answer."""
    if event == "waiting":
        reason = f" ({data['reason']})" if data.get("reason") else ""
        print(
            f"{data['held_by']} holds the token{reason}; waiting, {data['left']} s left", file=sys.stderr, flush=True
        )
    __salt__["event.send"](f"deploytoken/{event}", data)


def _name(value):
    return None if value is None else door.text(value, "name")


def _invalid(message):
    from saltext.deploytoken import errors

    return errors.Invalid(message)
