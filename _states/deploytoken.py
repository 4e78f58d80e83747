"""
The steps of a deploy, for the orchestration ``deploytoken/deploy.sls``.

.. versionadded:: 0.1.0

.. code-block:: bash

    salt-run state.orchestrate deploytoken.deploy pillar='{"deploytoken": {"target": "web*", "reason": "upgrade PostgreSQL"}}'

``docs/procedure.md`` describes the keys of the request, and every end that a deploy can come to. The states take no
arguments of their own: each reads the request, and what the steps before it found, from the one record of this deploy.
So a team's own orchestration can put steps of its own between them, and must begin with :py:func:`requested`.

With ``test=True``, or ``test: true`` in the request, each only says what it would do. A step that fails has one line
that says why, and ``reason``, the word for programs.

These states are for the master (``salt-run state.orchestrate``). Minions do not load them.
"""  # noqa: E501

import contextlib
import copy
import logging

import salt.output

try:
    from saltext.deploytoken import cli
except ImportError:  # a minion, to which this file is synced, and the package not
    cli = None

log = logging.getLogger(__name__)

# The states of one orchestration share __context__ (3006.29 and 3008.3).
_DEPLOY = "deploytoken.deploy"


def __virtual__():
    # A minion's options have no job cache of the master's (3008.3).
    return (cli is not None and "master_job_cache" in __opts__) or (False, "it is for the orchestrations of a master")


def requested(name):
    """
    Check the configuration, and what the orchestration's pillar asks for, before anything is done.

    .. code-block:: yaml

        request:
          deploytoken.requested: []

    name
        For people; nothing depends on it.

    A key of the request that is missing, misspelt or of the wrong kind is refused by name. So is one beside the
    request in the pillar overrides, which no machine would see.
    """
    # Late: minions load this file too, if only to learn that it is not for them.
    from saltext.deploytoken.deploy import overrides
    from saltext.deploytoken.deploy.steps import Deploy

    asked = __pillar__.get("deploytoken")
    # Frozen, and a copy of it is not.
    asked = copy.deepcopy(dict(asked)) if hasattr(asked, "items") else asked
    jid = globals().get("__orchestration_jid__")
    __context__[_DEPLOY] = Deploy(__opts__, __salt__, asked, cli.say, overrides.beside(jid), jid)
    return _carry_out("requested", name)


def fetched(name):
    """
    Look at every configured repository, and fetch. Refuse what a person would stop at; move nothing.

    .. code-block:: yaml

        repositories:
          deploytoken.fetched: []

    name
        For people; nothing depends on it.

    See the runner :py:func:`deployrepos.status <saltext.deploytoken.runners.deployrepos.status>` for what it refuses.
    There are never changes. The return has ``plan``: by repository, the commit that is served now (``old``), the one
    that a deploy would bring (``new``), and the ``subjects`` of the commits between them.
    """
    return _carry_out("fetched", name)


def idle(name):
    """
    Have the machines of the target idle, or somebody agree to what is interrupted.

    .. code-block:: yaml

        idle:
          deploytoken.idle: []

    name
        For people; nothing depends on it.

    With ``wait_idle`` in the request, waits so long for it, unless the token is held already. There are never changes.
    The return has ``expected`` (the minions that the target means) and ``consented`` (a list of ``by``, and ``to``:
    the blockers that this person's consent covers).
    """
    return _carry_out("idle", name)


def held(name):
    """
    Have the deploy token held: under a new ref, or under the ``ref`` of the request; and be at work under it.

    .. code-block:: yaml

        token:
          deploytoken.held: []

    name
        For people; nothing depends on it.

    The page names the job of this deploy while it is at work. Refused while another one is at work under this hold, or
    on this master under one that has ended since. Changes show who took the token, unless it was held already. In a
    test, says who holds it, and fails if that is somebody else. What is refused has the command that goes on.
    """
    return _carry_out("held", name)


def updated(name):
    """
    Bring every configured repository up to date, or none of them, and have Salt serve what they have.

    .. code-block:: yaml

        update:
          deploytoken.updated: []

    name
        For people; nothing depends on it.

    See the runner :py:func:`deployrepos.update <saltext.deploytoken.runners.deployrepos.update>` for what this does,
    and what it refuses. The minions' modules and pillar are renewed as well. Changes are, by repository, the ``old``
    and ``new`` commit and the ``subjects`` of the commits that came in. In a test, it says what would come in.
    """
    return _carry_out("updated", name)


def noted(name):
    """
    Note the boot IDs of the minions, from which :py:func:`rebooted` sees which of them rebooted.

    .. code-block:: yaml

        boots:
          deploytoken.noted: []

    name
        For people; nothing depends on it.

    A machine that gives no boot ID fails this, and so does a machine under ``reboot`` in the request that the target
    does not mean, or that is the master's own. There are never changes. The return has ``boots``, ``order`` (the
    machines to reboot) and ``fresh`` (those that rebooted under this hold already, with the boot ID from before).
    """
    return _carry_out("noted", name)


def applied(name):
    """
    Have the highstate, or the SLS of the request, applied on every machine that was asked whether it is idle.

    .. code-block:: yaml

        deploy:
          deploytoken.applied: []

    name
        For people; nothing depends on it.

    Changes are what the minions returned, if they changed something or failed, as those of ``salt.state``. The return
    has ``minions`` (a summary of each that was begun), ``failed`` and ``not_started`` (IDs).
    """
    return _carry_out("applied", name)


def rebooted(name):
    """
    Wait for machines that reboot by themselves, and then reboot those that the request names.

    .. code-block:: yaml

        reboots:
          deploytoken.rebooted: []

    name
        For people; nothing depends on it.

    Nobody is rebooted after states that failed. Changes are the boot IDs before and after. A machine that does not
    come back, or is not well, fails this and stops the rest. The return has ``rebooted`` (words for the History),
    ``away`` (by machine, why) and ``left`` (the machines still to be rebooted).
    """
    return _carry_out("rebooted", name)


def released(name):
    """
    Release the token with an entry in the History, or keep it, according to how the steps before ended.

    .. code-block:: yaml

        cleanup:
          deploytoken.released:
            - order: -1
            - require:
              - deploytoken: token

    name
        For people; nothing depends on it.

    A deploy that began on no machine gives the token back. After a failure it stays held, unless the request has
    ``on_failure: release``; while a machine may still run its states, it stays held in any case. A token that is kept
    then fails this state. After a success it stays held where a person took it by hand, or with ``on_success: hold``.
    The comment has the commands that go on. If the hold was ended meanwhile, this fails with the reason ``not_yours``,
    and what the deploy did has an entry of its own.
    """
    return _carry_out("released", name)


def reported(name):
    """
    Show how the deploy went, as a page of 80 columns to read and to paste.

    .. code-block:: yaml

        report:
          deploytoken.reported:
            - order: last

    name
        For people; nothing depends on it.

    It changes nothing, and never fails: the step that failed does, and with it the orchestration. Where Salt would not
    show its comment, it is printed on standard output, unless that is for a program (``--out=json``).
    """
    deploy = __context__.get(_DEPLOY)
    if deploy is None:
        return _without_request(name)
    page = deploy.report(copy.deepcopy(dict(__running__)))  # frozen, and a copy of it is not
    # A failure here would have the page shown twice: Salt logs the comments of failures as well.
    row = {"name": name, "result": None if deploy.record.test else True, "comment": page, "changes": {}}
    if not _shown_by_salt(row):
        with contextlib.suppress(OSError):  # nobody may be there any more
            print(f"\n{page}\n", flush=True)
    return row


def _shown_by_salt(row):
    """Whether Salt shows the comment of this state: its own outputter is asked, under the settings of this master."""
    if __opts__.get("quiet"):
        return False
    if __opts__.get("output") not in (None, "highstate"):
        return True  # all data
    answer = {"master": {"deploytoken_|-report_|-report_|-reported": {**row, "__run_num__": 0}}}
    try:
        shown = salt.output.out_format(answer, "highstate", dict(__opts__))
    except Exception:  # whatever Salt trips over there, twice is better than never
        log.debug("Salt cannot be asked what it shows", exc_info=True)
        return False
    return row["comment"].partition("\n")[0] in (shown or "")


def _carry_out(step, name):
    deploy = __context__.get(_DEPLOY)
    return deploy.carry_out(step, name) if deploy else _without_request(name)


def _without_request(name):
    comment = "There is no request: put a state deploytoken.requested before this one"
    return {"name": name, "result": False, "comment": comment, "changes": {}}
