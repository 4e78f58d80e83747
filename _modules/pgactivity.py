"""
Long queries and backups of PostgreSQL
======================================

The probe ``postgres`` of :py:func:`busy.check <busy.check>`: a deploy that restarts PostgreSQL ends all queries, and
all base backups.

.. versionadded:: 0.1.0

:depends: psql

Salt's ``postgres.psql_query`` will not do, because it returns ``[]`` in three cases: the server is down, the query
failed, there are no rows. Here, the answer is one JSON document, which is never empty. It also says whether this role
may see what others do: without ``pg_read_all_stats``, their state is NULL, and nothing seems to run.
"""

import json
import re

from salt.exceptions import CommandExecutionError

# A query counts as old as its transaction: pg_dump's many queries are short, but its transaction is long. Between two
# queries, it is idle for a moment: 4 of 27 looks at pg_dump found it so (PostgreSQL 15).
MOMENT = 60
# Of an idle transaction, nobody can say whether it waits for its program or was forgotten by it. But whoever reads a
# dump slowly keeps pg_dump waiting after FETCH (with --inserts) or COPY (of a small table; in that of a large one, the
# query stays active: both seen with PostgreSQL 15), and so waits any program that works on what it has fetched.
READING = ("COPY", "FETCH")
DUMPS = ("pg_dump", "pg_restore")
# After pg_backup_start, the session stays idle until the files are copied (before PostgreSQL 15, pg_start_backup).
# pgBackRest and Barman keep it awake with other queries, but these sessions have names; Barman also has short ones of
# that name. The pattern does not match the query in which it stands.
# A base backup with pg_basebackup is work; a standby, or pg_receivewal, streams for ever and connects again by itself.
# For a superuser, who sees everything, pg_has_role() is true. The sentinel shows that this is our answer.
QUERY = r"""
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
  'found', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'role', usename, 'database', datname, 'application', application_name,
      'client', coalesce(client_hostname, host(client_addr)), 'query', left(query, 1000),
      'since', extract(epoch FROM since), 'backup', backup,
      'paused', state = 'idle in transaction' AND clock_timestamp() - state_change >= make_interval(secs => {moment})
    )), '[]')
    FROM (
      SELECT *,
        CASE WHEN backs_up OR is_barman THEN backend_start ELSE least(query_start, xact_start) END AS since,
        backs_up OR is_barman AND clock_timestamp() - backend_start >= make_interval(secs => {moment})
          OR query ~* 'pg_(backup_start|start_backup)\s*\(' AND query !~* 'pg_(backup_stop|stop_backup)\s*\('
          AS backup
      FROM (
        SELECT *,
          backend_type = 'walsender' OR application_name LIKE 'pgBackRest [backup%' AS backs_up,
          application_name = 'barman' AS is_barman
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid()
          AND (
            backend_type = 'client backend'
            OR pid IN (SELECT pid FROM pg_stat_replication WHERE state = 'backup')
          )
      ) AS sessions
    ) AS work
    WHERE backup
      OR state IN ('active', 'fastpath function call', 'idle in transaction')
        AND clock_timestamp() - since >= make_interval(secs => {seconds:f})
  )
)
"""
SETTINGS = {
    **dict.fromkeys(("user", "host", "role", "database", "password"), "text"),
    **dict.fromkeys(("older_than", "timeout"), "duration"),
    "port": "port",
}


def queries(
    older_than="1h", user="postgres", host=None, port=None, role=None, database="postgres", password=None, timeout=5
):
    """
    Return the queries that have been active for a long time, and all base backups.

    older_than
        The minimum age of the query or of its transaction, a duration: ``30m``, ``1h``. Default: one hour. Backups
        are returned whatever their age.

    user
        The system user that runs psql. Default: ``postgres``.

    host, port, role, database, password
        The connection, as psql's ``PGHOST``, ``PGPORT``, ``PGUSER``, ``PGDATABASE`` and ``PGPASSWORD``. Default: the
        local socket, a role with the name of the user, and the database ``postgres``. The role must be a member of
        ``pg_read_all_stats``, as ``pg_monitor`` is.

    timeout
        A duration: the limit for the whole answer. Default: 5 seconds.

    Returns a list of dictionaries: ``pid``, ``role``, ``database``, ``application``, ``client``, ``since`` (of the
    query or its transaction, in seconds since the epoch), ``backup`` (whether it is one), ``verb`` (the first word of
    the query) and ``comment`` (the comment before it). The rest of the query is left out, because it may hold secrets.

    Raises SaltInvocationError for a wrong setting, and CommandExecutionError if PostgreSQL gives no clear answer or
    hides something.

    CLI Example:

    .. code-block:: bash

        salt-call pgactivity.queries older_than=10m
    """
    wait = __salt__["proctable.seconds"](timeout, "timeout")
    statement = QUERY.format(seconds=__salt__["proctable.seconds"](older_than, "older_than"), moment=MOMENT)
    options = {"PGHOST": host, "PGPORT": port, "PGUSER": role, "PGDATABASE": database, "PGPASSWORD": password}
    environment = {key: str(value) for key, value in options.items() if value is not None}
    environment["PGCONNECT_TIMEOUT"] = str(max(2, int(wait)))
    environment["PGAPPNAME"] = "busy.check"
    # -w: never wait for somebody to type a password. -X: read no psqlrc, which could print or do more.
    command = ["psql", "-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]
    answer = __salt__["proctable.run"](command, user, env=environment, timeout=wait)
    if answer["retcode"]:
        reason = " ".join(answer["stderr"].split())[:200] or "no reason given"
        raise CommandExecutionError(f"PostgreSQL could not be asked: {reason}")
    try:
        found = json.loads(answer["stdout"])
        clear = found["sentinel"] == "deploytoken" and isinstance(found["found"], list) and "untracked" in found
    except (ValueError, KeyError, TypeError):
        clear = False
    if not clear:
        raise CommandExecutionError("psql answered something else than the activity")
    if found["visible"] is not True:
        raise CommandExecutionError(
            "PostgreSQL hides other roles' queries from this one: GRANT pg_read_all_stats to it"
        )
    if found["untracked"] != 0:  # counts only connections that are old enough to have an old query
        raise CommandExecutionError(
            f"PostgreSQL does not track what {found['untracked']} connections do (track_activities is off for them)"
        )
    return [query for query in map(_query, found["found"]) if _is_work(query)]


def _query(row):
    text = row.pop("query") or ""
    # The end of a long comment is cut off.
    comment = re.match(r"\s*(?:/\*(?P<block>.*?)(?:\*/|$)|--(?P<line>[^\n]*))", text, re.DOTALL)
    rest = text[comment.end() :] if comment else text
    verb = re.search(r"[A-Za-z]+", rest)
    words = " ".join((comment["block"] or comment["line"] or "").split())[:80] if comment else ""
    return {**row, "verb": verb[0].upper()[:20] if verb else "query", "comment": words or None}


def _is_work(query):
    """Whether a query goes on, even if its transaction has been idle for more than a moment."""
    paused = query.pop("paused") and not query["backup"]
    return not paused or query["application"] in DUMPS or query["verb"] in READING


def probe(instances=None, **instance):
    """
    Tell :py:func:`busy.check <busy.check>` which queries have been active for a long time, and which backups are being
    made. Each of them is a blocker.

    instances
        A list of dictionaries with the arguments of :py:func:`queries`, one for each server; or these arguments
        themselves for one server.

    Returns the three lists of a probe: see the module ``busy``. A server that gives no clear answer is unknown.

    Raises SaltInvocationError if a setting is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call pgactivity.probe older_than=10m
    """
    answer = {"blockers": [], "unknowns": [], "info": []}
    for _, one in __salt__["proctable.instances"](instances, instance, SETTINGS):
        try:
            found = queries(**one)
        except CommandExecutionError as error:
            port = f" (port {one['port']})" if one.get("port") else ""
            answer["unknowns"].append({"why": f"{error}{port}"})
            continue
        for query in found:
            client = " from ".join(filter(None, (query["application"], query["client"])))
            about = query["comment"] or client
            where = f" in {query['database']}" if query["database"] else ""  # pg_basebackup's copies all databases
            answer["blockers"].append(
                {
                    # The next query of the same connection is other work.
                    "id": f"{query['database'] or '-'}:{query['role']}:{query['pid']}.{query['since']:.6f}",
                    "user": query["role"],
                    "what": ("base backup" if query["backup"] else query["verb"]) + where + (about and f": {about}"),
                    "since": query["since"],
                    "ask": f"{query['role']} ({client})" if client else query["role"],
                }
            )
    return answer
