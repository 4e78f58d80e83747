"""
Scrapyd's jobs, and crawls outside of it
========================================

A probe of :py:func:`busy.check <busy.check>`: a deploy that restarts Scrapyd, or its server, kills the spiders that
run.

.. versionadded:: 0.1.0

:depends: psutil, which Salt brings along, for crawls outside of Scrapyd
:configuration: Where Scrapyd answers, in pillar or in the minion's configuration:

    .. code-block:: yaml

        busy:
          scrapyd:
            - url: http://127.0.0.1:6800
              username: scrapyd
              password: sdb://vault/scrapyd

Idle is only: HTTP 200, a JSON object whose ``status`` is ``ok``, ``running`` and ``pending`` both 0, and no crawl
process. Pending counts: between two jobs, nothing runs for up to ``poll_interval``. Scrapyd (measured on 1.2.1, 1.4.3
and 1.6.0) answers HTTP 200 to an unknown project, and an HTML traceback with HTTP 200 in debug mode; and after a
restart it does not know the spiders of its former self, which run on.
"""

import base64
import contextlib
import datetime
import http.client
import json
import os
import re
import socket
import ssl
import threading
import urllib.parse

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    import psutil

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False

DEFAULT = "http://127.0.0.1:6800"
PORTS = {"http": 80, "https": 443}
# Room for the list of some 70,000 finished jobs (230 bytes each), which Scrapyd sends along.
LIMIT = 16 * 1024 * 1024
CRAWLS = {"crawl", "crawlall", "runspider"}
# What Scrapy does in a moment, and for nobody. A project can have commands of its own, and each of them may crawl.
HARMLESS = {"edit", "genspider", "list", "settings", "startproject", "version"}


def __virtual__():
    if HAS_PSUTIL:
        return True
    return False, "psutil is not installed"


def _instances(configured):
    """The configured instances, checked, as a list."""
    instances = configured if isinstance(configured, list) else [configured]
    known = {"url", "username", "password", "name", "timeout", "ca_file"}
    for instance in instances:
        if not isinstance(instance, dict) or not set(instance) <= known:
            raise SaltInvocationError(f"each instance of Scrapyd has some of: {', '.join(sorted(known))}")
        if not isinstance(instance.get("url", DEFAULT), str):
            raise SaltInvocationError("url: an address like http://127.0.0.1:6800 is needed")
        for key in ("username", "password", "ca_file"):
            if not isinstance(instance.get(key, ""), str):
                raise SaltInvocationError(f"{key}: a text is needed")
    return instances


def _instance(url):
    """The configured instance of that address or name; the first one if none is given."""
    for source in (__pillar__, __opts__):
        settings = (source.get("busy") or {}).get("scrapyd")
        if settings:
            break
    if isinstance(settings, dict):
        settings = settings.get("instances", {key: value for key, value in settings.items() if key != "crawls"})
    for instance in _instances(settings or {}):
        if url in (None, instance.get("url", DEFAULT), instance.get("name")):
            secret = {key for key, value in instance.items() if str(value).startswith("sdb://")}
            return {**instance, **{key: __salt__["sdb.get"](instance[key]) for key in secret}}
    return {"url": url}


def _parts(instance):
    """The parts of an instance's address, checked."""
    try:
        parts = urllib.parse.urlsplit(instance.get("url", DEFAULT))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that nobody closes
        usable = False
    if not usable:
        raise SaltInvocationError("url: an address like http://127.0.0.1:6800 is needed")
    return parts


def _place(instance):
    """Where an instance is, without what may be secret in its address."""
    parts = _parts(instance)
    return parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")


def _get(instance, resource, **query):
    """
    One answer of Scrapyd, which must be a JSON object whose status is "ok".

    http.client follows no redirect and reads no proxy from the environment. Its time-outs are for each read: what
    bounds the whole answer, byte after slow byte, is the alarm.
    """
    parts, place = _parts(instance), _place(instance)
    timeout = __salt__["processes.seconds"](instance.get("timeout", 5))
    address = {"host": parts.hostname, "port": parts.port, "timeout": timeout}
    headers = {"Accept": "application/json", "Connection": "close"}
    user, password = (instance.get(key) or "" for key in ("username", "password"))
    user, password = (
        user or urllib.parse.unquote(parts.username or ""),
        password or urllib.parse.unquote(parts.password or ""),
    )
    if user or password:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    path = f"{parts.path.rstrip('/')}/{resource}.json"
    if query:
        path += "?" + urllib.parse.urlencode(query)
    if parts.scheme == "https":
        try:
            trusted = ssl.create_default_context(cafile=instance.get("ca_file"))
        except OSError as error:
            raise SaltInvocationError(f"ca_file: {_reason(error)}") from None
        connection = http.client.HTTPSConnection(**address, context=trusted)
    else:
        connection = http.client.HTTPConnection(**address)
    late = threading.Event()
    try:
        connection.connect()
        with _alarm(timeout, connection.sock, late):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read(LIMIT + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise CommandExecutionError(f"{place} did not answer within {timeout:g} seconds") from None
        raise CommandExecutionError(f"{place} could not be asked: {_reason(error)}") from None
    finally:
        connection.close()
    if late.is_set():
        raise CommandExecutionError(f"{place} did not answer within {timeout:g} seconds")
    if response.status == 401:
        raise CommandExecutionError(f"{place} wants another username and password (busy:scrapyd in pillar)")
    if response.status != 200:
        raise CommandExecutionError(f"{place} answered HTTP {response.status} to {resource}.json: is that Scrapyd?")
    if len(body) > LIMIT:
        raise CommandExecutionError(f"{place} answered more than {LIMIT} bytes to {resource}.json")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise CommandExecutionError(f"{place} answered something else than JSON to {resource}.json")
    if answer.get("status") != "ok":
        raise CommandExecutionError(
            f"{place} answered {str(answer.get('message', 'an error'))[:100]!r} to {resource}.json"
        )
    return answer


@contextlib.contextmanager
def _alarm(timeout, line, late):
    """End the conversation after so many seconds, however busily the other side keeps talking."""

    def hang_up():
        late.set()
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _reason(error):
    """Why a connection failed, in the system's words, which hold nothing of the request."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): give what to trust as ca_file"
    return getattr(error, "strerror", None) or type(error).__name__


def _counts(instance):
    """How many jobs are running and pending; from daemonstatus.json, which is quick however many have finished."""
    answer = _get(instance, "daemonstatus")
    counts = {key: answer.get(key) for key in ("running", "pending")}
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts.values()):
        raise CommandExecutionError(f"{_place(instance)} did not say how many jobs are running and pending")
    return counts, str(answer.get("node_name", ""))


def _listed(instance, project=None):
    """The jobs of a list, checked; those that finished are of no interest."""
    answer = _get(instance, "listjobs", **({"project": project} if project else {}))
    jobs = []
    for state in ("running", "pending"):
        rows = answer.get(state)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise CommandExecutionError(f"{_place(instance)} sent no list of {state} jobs")
        for row in rows:
            # Scrapyd 1.2 does not repeat the project that it was asked for.
            job = {key: str(row[key]) if row.get(key) else "?" for key in ("id", "spider")}
            job["project"] = str(row.get("project") or project or "?")
            pid = row.get("pid") if isinstance(row.get("pid"), int) else None
            arguments = row.get("args") if isinstance(row.get("args"), dict) else {}
            since = _epoch(row.get("start_time"))
            jobs.append({**job, "state": state, "pid": pid, "since": since, "note": _text(arguments.get("note"))})
    return jobs


def _jobs(instance):
    """All running and pending jobs of an instance."""
    try:
        return _listed(instance)
    except CommandExecutionError:
        # Before 1.3, Scrapyd lists one project at a time, and answers an error to anything else.
        projects = _get(instance, "listprojects").get("projects")
        if not isinstance(projects, list):
            raise
        return [job for project in projects for job in _listed(instance, str(project))]


def _epoch(text):
    """Seconds since the epoch, of the naive local time that Scrapyd gives."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value):
    return str(value) if value else None


def _crawls():
    """
    The crawls among this machine's processes: those that Scrapyd runs (``python -m scrapyd.runner crawl …``), and
    those of people and cron (``scrapy crawl …``); the outermost process of each.
    """
    found = {}
    for process in __salt__["processes.listing"](commands=True):
        crawl = _crawl(process["argv"])
        if not crawl:
            continue
        pid = process["pid"]
        try:
            project = psutil.Process(pid).environ().get("SCRAPY_PROJECT")
        except (psutil.Error, OSError):
            project = None
        user = __salt__["processes.owner"](pid)
        if user is not None:
            more = {"project": project or "-", "pid": pid, "parent": process["ppid"], "since": process["since"]}
            found[pid] = {**crawl, **more, "user": user}
    return [crawl for crawl in found.values() if crawl["parent"] not in found]


def _takes(before):
    """Whether the word before is an option that takes the next word for its value."""
    return bool(before) and before[0].startswith("-") and "=" not in before[0] and before[0] != "--nolog"


def _crawl(argv):
    """What a command line crawls, {spider, id, note}, or None."""
    begin = next((index for index, word in enumerate(argv[:8]) if _runs_scrapy(word)), None)
    # Scrapyd's runner can be another one; what it is told is always the same.
    if begin is None and "crawl" in argv and any(word.startswith("_job=") for word in argv):
        begin = argv.index("crawl") - 1
    rest = argv[begin + 1 :] if begin is not None else []
    # As Scrapy has it: the command is the first word that is no option.
    command = next((word for word in rest if not word.startswith("-")), None)
    if command is None or not (command in CRAWLS or (_begins(argv[: begin + 1]) and command not in HARMLESS)):
        return None
    rest.remove(command)
    options, spider = {}, None
    for index, word in enumerate(rest):
        if word == "-a" and index + 1 < len(rest):
            key, _, value = rest[index + 1].partition("=")
            options[key] = value
        elif spider is None and not word.startswith("-") and not _takes(rest[index - 1 : index] if index else []):
            spider = os.path.basename(word)
    return {"spider": spider or command, "id": options.get("_job"), "note": _text(options.get("note"))}


def _runs_scrapy(word):
    program = os.path.basename(word) in ("scrapy", "scrapy.cmdline", "scrapyd.runner")
    return program or word.endswith("scrapy/cmdline.py")


def _begins(words):
    """Whether the last of these words is what is run: the program, or the script or module of an interpreter."""
    interpreted = os.path.basename(words[0]).startswith(("python", "pypy"))
    return len(words) == 1 or (interpreted and all(word.startswith("-") for word in words[1:-1]))


def status(url=None):
    """
    Return how many jobs of Scrapyd are running and pending.

    url
        The address, or the ``name``, of an instance. Default: the first that is configured, or http://127.0.0.1:6800.
        Credentials are taken from the configuration, never from arguments, which end up in the job cache.

    Returns a dictionary of ``running``, ``pending``, ``idle`` (whether both are 0) and ``node_name``.

    Raises CommandExecutionError if Scrapyd does not give a clear answer.

    CLI Example:

    .. code-block:: bash

        salt-call scrapyd.status
    """
    counts, node = _counts(_instance(url))
    return {**counts, "idle": not any(counts.values()), "node_name": node}


def jobs(url=None):
    """
    Return the running and pending jobs of Scrapyd.

    url
        As of :py:func:`status`.

    Returns a list of dictionaries: ``id``, ``project``, ``spider``, ``state`` (``running`` or ``pending``), ``pid``,
    ``since`` (seconds since the epoch) and ``note`` (the custom argument that tells who started it); None for what is
    not known.

    Raises CommandExecutionError if Scrapyd does not give a clear answer.

    CLI Example:

    .. code-block:: bash

        salt-call scrapyd.jobs
    """
    return _jobs(_instance(url))


def _known(instance, counts, processes):
    """
    The jobs of an instance, if its processes tell all of them: its list would bring along every job that finished.

    They do if nothing is pending, and if the process that listens at its address has as many crawls as it says.
    """
    parts = urllib.parse.urlsplit(instance.get("url", DEFAULT))
    if counts["pending"] or parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        return []
    named = [crawl for crawl in processes if crawl["id"] and crawl["project"] != "-"]
    for parent in {crawl["parent"] for crawl in named}:
        children = [crawl for crawl in named if crawl["parent"] == parent]
        if len(children) == counts["running"] and _listens(parent, parts.port or PORTS[parts.scheme]):
            return [{**crawl, "state": "running"} for crawl in children]
    return []


def _listens(pid, port):
    """Whether a process listens at that port."""
    try:
        process = psutil.Process(pid)
        connections = process.net_connections if hasattr(process, "net_connections") else process.connections
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections(kind="tcp"))
    except (psutil.Error, OSError):
        return False


def _look(instance):
    """The jobs of an instance, as many as it says there are."""
    for _ in range(3):  # a job may start or end between the two questions
        counts, _ = _counts(instance)
        expected = sum(counts.values())
        found = _jobs(instance) if expected else []
        if len(found) >= expected:
            return found
    raise CommandExecutionError(
        f"{_place(instance)} says that {expected} jobs are running or pending, but lists {len(found)}"
    )


def _blocker(job, name, user, ask):
    """A job of Scrapyd's or a crawl process as a blocker: its id is the same, whichever way it was found."""
    identity = job["id"] or str(job["pid"])
    if re.fullmatch("[0-9a-f]{12}1[0-9a-f]{3}[89ab][0-9a-f]{15}", identity):
        identity = identity[:6]  # Scrapyd's own ids are UUIDs, whose first digits change soonest
    elif job["id"] and job["pid"]:
        identity += f".{job['pid']}"  # one that somebody chose may come again: that would be another job
    states = {"running": "is running", "pending": "is pending", "process": "runs outside of Scrapyd"}
    return {
        "id": (f"{name}/" if name else "") + f"{job['project']}:{job['spider']}:{identity}",
        "user": user,
        "what": f"{job['project']}/{job['spider']} {states[job['state']]}"
        + (f": {job['note']}" if job["note"] else ""),
        "since": job["since"],
        "ask": job["note"] or ask,
        "state": job["state"],
    }


def probe(instances=None, crawls=True, **instance):
    """
    Tell :py:func:`busy.check <busy.check>` which jobs run or wait, and which crawls run outside of Scrapyd.

    instances
        A list of dictionaries of the following. Or, of one instance, directly:

        url
            Its address. Default: ``http://127.0.0.1:6800``.
        username, password
            For HTTP's basic authentication.
        ca_file
            A file of the certificates to trust for https. Default: those that the system trusts.
        name
            Begins the ids of its jobs. Needed if the same project is on several instances.
        timeout
            Seconds for each whole answer. Default: 5.

    crawls
        Whether to look for crawls in the process table as well. Default: True.

    Returns the three lists of a probe, as the module ``busy`` describes them.

    Raises SaltInvocationError for settings that are wrong; a Scrapyd that gives no clear answer is unknown.

    CLI Example:

    .. code-block:: bash

        salt-call scrapyd.probe url=http://127.0.0.1:6800
    """
    if instances is not None and instance:
        raise SaltInvocationError(f"{', '.join(sorted(instance))}: to be given with each of the instances")
    answer = {"blockers": [], "unknowns": [], "info": []}
    busy = []
    for one in _instances(instances if instances is not None else instance):
        try:
            counts, _ = _counts(one)
        except CommandExecutionError as error:
            answer["unknowns"].append({"why": str(error)})
            continue
        if any(counts.values()):
            busy.append((one, counts))
    try:
        processes = _crawls() if crawls else []
    except CommandExecutionError as error:
        processes = []
        answer["unknowns"].append({"why": str(error)})
    by_job = {crawl["id"]: crawl for crawl in processes if crawl["id"]}
    by_pid = {crawl["pid"]: crawl for crawl in processes if not crawl["id"]}
    listed = set()
    for one, counts in busy:
        try:
            found = _known(one, counts, processes) or _look(one)
        except CommandExecutionError as error:
            answer["unknowns"].append({"why": str(error)})
            continue
        for job in found:
            # Only the process knows who started a running job, from its arguments.
            crawl = by_job.get(job["id"]) or (by_pid.get(job["pid"]) if job["state"] == "running" else None) or {}
            listed.add(crawl.get("pid"))
            job["note"] = job["note"] or crawl.get("note")
            answer["blockers"].append(_blocker(job, one.get("name"), crawl.get("user"), ask=None))
    for crawl in processes:
        if crawl["pid"] not in listed:
            answer["blockers"].append(_blocker({**crawl, "state": "process"}, None, crawl["user"], ask=crawl["user"]))
    return answer
