"""
Long queries of PostgreSQL
==========================

The probe ``postgres`` of :py:func:`busy.check <busy.check>`: a deploy that restarts PostgreSQL ends every query.

.. versionadded:: 0.1.0

:depends: psql

Not ``postgres.psql_query``, which fails open: with the server down, after an error and without rows it returns ``[]``
alike. The question here is one JSON document, so that every answer has a positive form, and it says whether the role
that asks may see what others do: without ``pg_read_all_stats`` their state is NULL, and nothing seems to run.
"""

import json
import re

from salt.exceptions import CommandExecutionError, SaltInvocationError

# The age is that of the transaction, if that is older: pg_dump's many queries are short, and its transaction is long.
# Between two of them, it is idle for a moment: 4 of 27 looks at pg_dump found it so (15).
# pg_has_role() of a superuser is true, and a superuser sees everything. The first three words are fixed: a sentinel.
QUERY = """
SELECT json_build_object(
  'sentinel', 'deploytoken',
  'visible', pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
  'untracked', (
    SELECT count(*)
    FROM pg_stat_activity
    WHERE coalesce(state, 'disabled') = 'disabled'
      AND backend_type = 'client backend'
      AND clock_timestamp() - backend_start >= make_interval(secs => {seconds:f})
  ),
  'active', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'role', usename, 'database', datname, 'application', application_name,
      'client', coalesce(client_hostname, host(client_addr)), 'query', left(query, 1000),
      'since', extract(epoch FROM least(query_start, xact_start)),
      'backend', extract(epoch FROM backend_start)::bigint)), '[]')
    FROM pg_stat_activity
    WHERE (
        state IN ('active', 'fastpath function call')
        OR state = 'idle in transaction' AND clock_timestamp() - state_change < interval '1 minute'
      )
      AND backend_type = 'client backend'
      AND pid <> pg_backend_pid()
      AND clock_timestamp() - least(query_start, xact_start) >= make_interval(secs => {seconds:f})
  )
)
"""


def queries(
    older_than="1h", user="postgres", host=None, port=None, role=None, database="postgres", password=None, timeout=5
):
    """
    Return the queries that have been active for long.

    older_than
        The minimum age of the query or of its transaction: ``30m``, ``1h``. Default: one hour.

    user
        The system's user to run psql as. Default: ``postgres``.

    host, port, role, database, password
        Where and as whom to connect, as psql's ``PGHOST``, ``PGPORT``, ``PGUSER``, ``PGDATABASE`` and ``PGPASSWORD``.
        Default: the local socket, as the role of the user's name, to the database ``postgres``. The role must be a
        member of ``pg_read_all_stats``, as ``pg_monitor`` is.

    timeout
        Seconds for the whole answer. Default: 5.

    Returns a list of dictionaries: ``pid``, ``role``, ``database``, ``application``, ``client``, ``since`` (seconds
    since the epoch), ``backend`` (when its connection began), ``verb`` (the query's first word) and ``comment`` (its
    leading one). The rest of the query is not returned, because it may hold secrets.

    Raises CommandExecutionError if PostgreSQL does not give a clear answer, or hides something.

    CLI Example:

    .. code-block:: bash

        salt-call pgactivity.queries older_than=10m
    """
    wait = __salt__["processes.seconds"](timeout)
    statement = QUERY.format(seconds=__salt__["processes.seconds"](older_than))
    options = {"PGHOST": host, "PGPORT": port, "PGUSER": role, "PGDATABASE": database, "PGPASSWORD": password}
    environment = {key: str(value) for key, value in options.items() if value is not None}
    environment["PGCONNECT_TIMEOUT"] = str(max(2, int(wait)))
    environment["PGAPPNAME"] = "busy.check"
    # -w: never wait for a password to be typed. -X: no psqlrc, which could print more, or do more.
    command = ["psql", "-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]
    answer = __salt__["processes.run"](command, user, env=environment, timeout=wait)
    if answer["retcode"]:
        reason = " ".join(answer["stderr"].split())[:200] or "no reason given"
        raise CommandExecutionError(f"PostgreSQL could not be asked: {reason}")
    try:
        found = json.loads(answer["stdout"])
        clear = found["sentinel"] == "deploytoken" and isinstance(found["active"], list) and "untracked" in found
    except (ValueError, KeyError, TypeError):
        clear = False
    if not clear:
        raise CommandExecutionError("psql answered something else than the activity")
    if found["visible"] is not True:
        raise CommandExecutionError(
            "PostgreSQL hides other roles' queries from this one: GRANT pg_read_all_stats to it"
        )
    if found["untracked"] != 0:  # their queries cannot be older than the connections
        raise CommandExecutionError(
            f"PostgreSQL does not track what {found['untracked']} connections do (track_activities is off for them)"
        )
    return [_query(row) for row in found["active"]]


def _query(row):
    text = row.pop("query") or ""
    # An unfinished comment is one whose end was cut off.
    comment = re.match(r"\s*(?:/\*(?P<block>.*?)(?:\*/|$)|--(?P<line>[^\n]*))", text, re.DOTALL)
    rest = text[comment.end() :] if comment else text
    verb = re.search(r"[A-Za-z]+", rest)
    said = " ".join((comment["block"] or comment["line"] or "").split())[:80] if comment else ""
    return {**row, "verb": verb[0].upper()[:20] if verb else "query", "comment": said or None}


def probe(instances=None, **instance):
    """
    Tell :py:func:`busy.check <busy.check>` which queries have been active for long: each one is a blocker.

    instances
        A list of dictionaries of the arguments of :py:func:`queries`, for several servers. Or those arguments
        directly.

    Returns the three lists of a probe, as the module ``busy`` describes them.

    Raises SaltInvocationError for settings that are wrong; a server that gives no clear answer is unknown.

    CLI Example:

    .. code-block:: bash

        salt-call pgactivity.probe older_than=10m
    """
    answer = {"blockers": [], "unknowns": [], "info": []}
    if instances is not None and instance:
        raise SaltInvocationError(f"{', '.join(sorted(instance))}: to be given with each of the instances")
    if instances is not None and not (isinstance(instances, list) and instances):
        raise SaltInvocationError("instances: a list of one server or more is needed")
    instances = [instance] if instances is None else instances
    known = {"older_than", "user", "host", "port", "role", "database", "password", "timeout"}
    for one in instances:
        if not isinstance(one, dict) or not set(one) <= known:
            raise SaltInvocationError(f"each server has some of: {', '.join(sorted(known))}")
        try:
            found = queries(**one)
        except CommandExecutionError as error:
            port = f" (port {one['port']})" if one.get("port") else ""
            answer["unknowns"].append({"why": f"{error}{port}"})
            continue
        for query in found:
            client = " from ".join(filter(None, (query["application"], query["client"])))
            about = query["comment"] or client
            answer["blockers"].append(
                {
                    # The connection's beginning, because process ids come back.
                    "id": f"{query['database']}:{query['role']}:{query['pid']}.{query['backend']}",
                    "user": query["role"],
                    "what": f"{query['verb']} in {query['database']}" + (f": {about}" if about else ""),
                    "since": query["since"],
                    "ask": f"{query['role']} ({client})" if client else query["role"],
                }
            )
    return answer
