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

Idle means: HTTP 200, a JSON object whose ``status`` is ``ok``, ``running`` and ``pending`` both 0, and no crawl
process. Pending jobs count, because nothing runs for up to ``poll_interval`` between two jobs. Scrapyd (measured on
1.2.1, 1.4.3 and 1.6.0) answers HTTP 200 to an unknown project, and HTTP 200 with an HTML traceback in debug mode.
After a restart, it does not know the spiders that it started before and that still run. It takes any ``jobid``, even
that of such a spider, or of a job that is still pending: so a job's process is known by its number, not by its job.
"""

import base64
import collections
import contextlib
import datetime
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
import typing
import urllib.parse
import uuid

from salt.exceptions import CommandExecutionError, SaltInvocationError

DEFAULT = "http://127.0.0.1:6800"
PORTS = {"http": 80, "https": 443}
SETTINGS = {**dict.fromkeys(("url", "username", "password", "ca_file", "name"), "text"), "timeout": "duration"}
# Room for the list of some 70,000 finished jobs (230 bytes each), which Scrapyd sends along.
LIMIT = 16 * 1024 * 1024
DAY = 86400
UUID_EPOCH = -12219292800  # 1582-10-15, in seconds since the epoch: the zero of a UUID's time
CRAWLS = {"crawl", "crawlall", "runspider"}
# These commands of Scrapy end in a moment and crawl nothing. Any other one may crawl, also a project's own.
HARMLESS = {"edit", "genspider", "list", "settings", "startproject", "version"}


class _Instance(typing.NamedTuple):
    """What is needed to ask one Scrapyd."""

    name: str
    place: str  # its address without credentials, for messages
    host: str
    port: int
    path: str
    headers: dict
    timeout: float
    trusted: typing.Any  # the TLS context for https; None for http


def _instances(instances, settings):
    """The configured instances, checked, as a list."""
    taken, found = set(), []
    for prefix, own in __salt__["proctable.instances"](instances, settings, SETTINGS):
        one = _instance(prefix, own)
        # To ask one Scrapyd twice would double its jobs; of two with one name, the jobs could not be told apart.
        for key, value in (("url", one.place), ("name", one.name)):
            if value and (key, value) in taken:
                raise SaltInvocationError(f"{prefix}{key}: another instance has the same")
            taken.add((key, value))
        found.append(one)
    return found


def _instance(prefix, settings):
    """One instance; ``prefix`` is the path of its settings, for error messages."""
    try:
        parts = urllib.parse.urlsplit(settings.get("url", DEFAULT))
        # urlsplit() refuses some malformed addresses, and reading .port refuses the others.
        usable = parts.scheme in PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SaltInvocationError(f"{prefix}url: an address like {DEFAULT} is needed")
    try:
        trusted = ssl.create_default_context(cafile=settings.get("ca_file")) if parts.scheme == "https" else None
    except OSError as error:
        raise SaltInvocationError(f"{prefix}ca_file: {_reason(error)}") from None
    headers = {"Accept": "application/json", "Connection": "close"}
    user = settings.get("username") or urllib.parse.unquote(parts.username or "")
    password = settings.get("password") or urllib.parse.unquote(parts.password or "")
    if user or password:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    path = parts.path.rstrip("/")
    return _Instance(
        name=settings.get("name"),
        place=parts.netloc.rpartition("@")[2] + path,
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        path=path,
        headers=headers,
        timeout=settings.get("timeout", 5),
        trusted=trusted,
    )


def _chosen(url):
    """The configured instance of that address or name, the first one for None; or an instance at that address."""
    configured = [(source.get("busy") or {}).get("scrapyd") for source in (__pillar__, __opts__)]
    settings = next(filter(None, configured), None)
    if isinstance(settings, list):
        settings = {"instances": settings}
    settings = dict(settings) if isinstance(settings, dict) else {}
    settings.pop("crawls", None)
    found = __salt__["proctable.instances"](settings.pop("instances", None), settings, SETTINGS)
    for prefix, one in found:
        if url in (None, one.get("url", DEFAULT), one.get("name")):
            secrets = {key for key, value in one.items() if str(value).startswith("sdb://")}
            return _instance(prefix, {**one, **{key: __salt__["sdb.get"](one[key]) for key in secrets}})
    return _instance("", {"url": url})


def _get(instance, resource, **query):
    """
    One answer of Scrapyd, which must be a JSON object whose status is "ok"; and where it listens, see _places().

    http.client follows no redirect and reads no proxy from the environment. Its time-outs are for single reads. The
    alarm limits the whole answer, even if it comes byte by byte.
    """
    address = {"host": instance.host, "port": instance.port, "timeout": instance.timeout}
    if instance.trusted:
        connection = http.client.HTTPSConnection(**address, context=instance.trusted)
    else:
        connection = http.client.HTTPConnection(**address)
    path = f"{instance.path}/{resource}.json" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    place, late = instance.place, threading.Event()
    try:
        connection.connect()
        places = _places(connection.sock)
        with _alarm(instance.timeout, connection.sock, late):
            connection.request("GET", path, headers=instance.headers)
            response = connection.getresponse()
            body = response.read(LIMIT + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not late.is_set() and not isinstance(error, TimeoutError):
            raise CommandExecutionError(f"{place} could not be asked: {_reason(error)}") from None
        late.set()
    finally:
        connection.close()
    if late.is_set():
        raise CommandExecutionError(f"{place} did not answer within {instance.timeout:g} seconds")
    if response.status == 401:
        raise CommandExecutionError(f"{place} wants another username and password (busy.scrapyd in pillar)")
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
        message = str(answer.get("message", "an error"))[:100]
        raise CommandExecutionError(f"{place} answered {message!r} to {resource}.json")
    return answer, places


def _places(line):
    """
    The addresses at which the program at the other end may listen, if that is on this machine; else none.

    Whoever asks an address of this machine comes from the same address.
    """
    (ours, *_), (theirs, port, *_) = line.getsockname(), line.getpeername()
    return [[address, port] for address in (theirs, "::" if ":" in theirs else "0.0.0.0")] if ours == theirs else []


@contextlib.contextmanager
def _alarm(timeout, line, late):
    """End the conversation after so many seconds, even if the other side keeps talking."""

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
    """The numbers of running and pending jobs, the node's name, and _places(). Quick with any number of old jobs."""
    answer, places = _get(instance, "daemonstatus")
    counts = {key: answer.get(key) for key in ("running", "pending")}
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts.values()):
        raise CommandExecutionError(f"{instance.place} did not say how many jobs are running and pending")
    return counts, str(answer.get("node_name", "")), places


def _listjobs(instance, project=None):
    """The running and pending jobs of one list, checked."""
    answer, _ = _get(instance, "listjobs", **({"project": project} if project else {}))
    jobs = []
    for state in ("running", "pending"):
        rows = answer.get(state)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise CommandExecutionError(f"{instance.place} sent no list of {state} jobs")
        for row in rows:
            # Scrapyd 1.2 does not repeat the project that it was asked for.
            job = {key: str(row[key]) if row.get(key) else "?" for key in ("id", "spider")}
            job["project"] = str(row.get("project") or project or "?")
            pid = row.get("pid") if isinstance(row.get("pid"), int) else None
            arguments = row.get("args") if isinstance(row.get("args"), dict) else {}
            since = _epoch(row.get("start_time"))
            job.update(state=state, pid=pid, since=since, note=_text(arguments.get("note")), row=_checksum(row))
            jobs.append(job)
    return jobs


def _checksum(row):
    """What tells a job from others with its id: where and when it runs, or with what it is to start."""
    telling = [row.get(key) for key in ("pid", "start_time", "version", "settings", "args")]
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:8]


def _jobs(instance):
    """All running and pending jobs of an instance."""
    try:
        return _listjobs(instance)
    except CommandExecutionError:
        # Before 1.3, Scrapyd lists the jobs of one project at a time, and otherwise answers an error.
        projects = _get(instance, "listprojects")[0].get("projects")
        if not isinstance(projects, list):
            raise
        return [job for project in projects for job in _listjobs(instance, str(project))]


def _epoch(text):
    """Scrapyd's local time, which has no zone, in seconds since the epoch."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value):
    return str(value) if value else None


def _crawls():
    """
    The crawls among this machine's processes, the outermost process of each.

    Scrapyd runs ``python -m scrapyd.runner crawl …``. People and cron run ``scrapy crawl …``.
    """
    found = {}
    for process in __salt__["proctable.listing"](commands=True):
        crawl, pid = None if process["asking"] else _crawl(process["argv"]), process["pid"]
        user = __salt__["proctable.owner"](pid) if crawl else None
        if user is not None:
            crawl["project"] = __salt__["proctable.getenv"](pid, "SCRAPY_PROJECT") or "-"
            crawl["pids"] = _numbers(pid)
            found[pid] = {**crawl, "user": user, **{key: process[key] for key in ("pid", "ppid", "mark", "since")}}
    return [crawl for crawl in found.values() if crawl["ppid"] not in found]


def _numbers(pid):
    """The ids of a process: here, and as the Scrapyd of a container sees it."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            return [int(number) for line in status if line.startswith("NSpid:") for number in line.split()[1:]]
    except OSError:
        return [pid]


def _crawl(argv):
    """What a command line crawls, {spider, id, note}, or None."""
    begin = next((index for index, word in enumerate(argv[:8]) if _runs_scrapy(word)), None)
    # Scrapyd can be configured to use another runner, but its arguments are always the same.
    if begin is None and "crawl" in argv and any(word.startswith("_job=") for word in argv):
        begin = argv.index("crawl") - 1
    rest = argv[begin + 1 :] if begin is not None else []
    # Scrapy's own rule: the command is the first word that is not an option.
    command = next((word for word in rest if not word.startswith("-")), None)
    if command is None or not (command in CRAWLS or (_is_run(argv[: begin + 1]) and command not in HARMLESS)):
        return None
    rest.remove(command)
    options, spider = {}, None
    for index, word in enumerate(rest):
        before = rest[index - 1] if index else ""
        if before == "-a":
            key, _, value = word.partition("=")
            options[key] = value
        elif spider is None and not word.startswith("-") and not _takes_value(before):
            spider = os.path.basename(word) if command == "runspider" else word
    return {"spider": spider or command, "id": options.get("_job"), "note": _text(options.get("note"))}


def _runs_scrapy(word):
    program = os.path.basename(word) in ("scrapy", "scrapy.cmdline", "scrapyd.runner")
    return program or word.endswith("scrapy/cmdline.py")


def _takes_value(word):
    """Whether a word is an option of Scrapy whose value is the next word."""
    return word.startswith("-") and "=" not in word and word != "--nolog"


def _is_run(words):
    """Whether the last of these words is what runs: the program itself, or an interpreter's script or module."""
    interpreted = os.path.basename(words[0]).startswith(("python", "pypy"))
    return len(words) == 1 or (interpreted and all(word.startswith("-") for word in words[1:-1]))


def status(url=None):
    """
    Return how many jobs of Scrapyd are running and pending.

    url
        The address, or the ``name``, of an instance. Default: the first configured one, or http://127.0.0.1:6800.
        Credentials come from the configuration, never from arguments, because the job cache keeps arguments.

    Returns a dictionary of ``running``, ``pending``, ``idle`` (whether both are 0) and ``node_name``.

    Raises SaltInvocationError for a wrong setting, and CommandExecutionError if Scrapyd gives no clear answer.

    CLI Example:

    .. code-block:: bash

        salt-call scrapyd.status
    """
    counts, node, _ = _counts(_chosen(url))
    return {**counts, "idle": not any(counts.values()), "node_name": node}


def jobs(url=None):
    """
    Return the running and pending jobs of Scrapyd.

    url
        As for :py:func:`status`.

    Returns a list of dictionaries: ``id``, ``project``, ``spider``, ``state`` (``running`` or ``pending``), ``pid``,
    ``since`` (seconds since the epoch) and ``note`` (a custom argument that says who started the job). An unknown
    value is None.

    Raises SaltInvocationError for a wrong setting, and CommandExecutionError if Scrapyd gives no clear answer.

    CLI Example:

    .. code-block:: bash

        salt-call scrapyd.jobs
    """
    return [{key: value for key, value in job.items() if key != "row"} for job in _jobs(_chosen(url))]


def _starters(crawls, instances):
    """The processes that started crawls and are Scrapyds that have answered: {pid: the number of the instance}."""
    found = {}
    for pid in {crawl["ppid"] for crawl in crawls}:
        listening = __salt__["proctable.sockets"](pid, "tcp") or ()
        for number, (_, _, places) in enumerate(instances):
            if any(place in places for place in listening):
                found.setdefault(pid, number)
    return found


def _jobs_by_process(counts, started):
    """
    The jobs of an instance, if its processes show them all; else none. Scrapyd's list brings all finished jobs along.

    The processes show all jobs if nothing is pending, and if there are as many as the instance counts.
    """
    named = [crawl for crawl in started if crawl["id"] and crawl["project"] != "-"]
    if counts["pending"] or len(named) != counts["running"]:
        return []
    return [{**crawl, "state": "running"} for crawl in named]


def _all_jobs(instance):
    """The listed jobs of an instance, if there are as many as it counts."""
    for _ in range(3):  # a job may start or end between the two questions
        counts, *_ = _counts(instance)
        expected = sum(counts.values())
        found = _jobs(instance) if expected else []
        if len(found) >= expected:
            return found
    raise CommandExecutionError(
        f"{instance.place} says that {expected} jobs are running or pending, but lists {len(found)}"
    )


def _process_of(job, crawls):
    """
    The process of a job that Scrapyd lists as running; an empty dictionary if it is not here.

    The job's id alone would not do: somebody may have chosen it, and it may be that of an orphan, or of another
    Scrapyd's job.
    """
    for crawl in crawls:
        if job["state"] == "running" and job["pid"] in crawl["pids"] and crawl["id"] in (None, job["id"]):
            return crawl
    return {}


def _is_scrapyds_own(identity):
    """Whether Scrapyd itself made the id of a job: a UUID of the moment, version 1. People choose other ones."""
    if not re.fullmatch("[0-9a-f]{12}1[0-9a-f]{3}[89ab][0-9a-f]{15}", identity or ""):
        return False
    # A checksum may have the form of a UUID, but then hardly a time in the last year.
    made = uuid.UUID(identity).time / 10**7 + UUID_EPOCH
    return -366 * DAY < made - time.time() < DAY


def _ids(jobs):
    """
    An id for each job, none of which is another job's, now or later.

    Scrapyd's own id is enough, pending or running. Somebody may use a chosen one again: the job's process tells which
    one it is; without a process here, what Scrapyd says of the job. Two jobs of which even that is the same are
    counted: once there are more, or fewer, nobody can say which of them is which.
    """
    uses = collections.Counter(job["id"] for job in jobs)
    ids = []
    for job in jobs:
        words, place = [job["project"], job["spider"]], job["name"]
        if uses[job["id"]] == 1 and _is_scrapyds_own(job["id"]):
            words.append(job["id"][:6])  # the first digits change fastest
        else:
            words += filter(None, (job["id"], job["mark"] or job["row"]))
            place = place or (None if job["mark"] else job["place"])
        # Quoted, because a spider's name, or a chosen id, may hold any character, and also those between the words.
        whole = ":".join(urllib.parse.quote(word, safe="") for word in words)
        ids.append(f"{urllib.parse.quote(place, safe=':')}/{whole}" if place else whole)
    times, seen = collections.Counter(ids), collections.Counter()
    for number, whole in enumerate(ids):
        seen[whole] += 1
        if times[whole] > 1:
            ids[number] = f"{whole}:{seen[whole]}of{times[whole]}"
    return ids


def _blocker(job, identity):
    states = {"running": "is running", "pending": "is pending", "process": "runs outside of Scrapyd"}
    return {
        "id": identity,
        "user": job["user"],
        "what": f"{job['project']}/{job['spider']} {states[job['state']]}"
        + (f": {job['note']}" if job["note"] else ""),
        "since": job["since"],
        "ask": job["note"] or (job["user"] if job["state"] == "process" else None),
        "state": job["state"],
    }


def probe(instances=None, crawls=True, **instance):
    """
    Tell :py:func:`busy.check <busy.check>` which jobs run or are pending, and which crawls run outside of Scrapyd.

    instances
        A list of dictionaries with these keys, or the keys themselves for one instance:

        url
            The address. Default: ``http://127.0.0.1:6800``.
        username, password
            For HTTP basic authentication.
        ca_file
            A file with the certificates to trust for https. Default: those that the system trusts.
        name
            The beginning of its jobs' ids. Default: nothing, or the address where an id would not be its own.
        timeout
            A duration: the limit for each whole answer. Default: 5 seconds.

    crawls
        Whether to look for crawls in the process table, too. Default: True.

    Returns the three lists of a probe: see the module ``busy``. An instance that gives no clear answer is unknown.

    Raises SaltInvocationError if a setting is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call scrapyd.probe url=http://127.0.0.1:6800
    """
    __salt__["proctable.checked"]({"crawls": crawls}, {"crawls": "boolean"})
    answer = {"blockers": [], "unknowns": [], "info": []}
    busy = []
    for one in _instances(instances, instance):
        try:
            counts, _, places = _counts(one)
        except CommandExecutionError as error:
            answer["unknowns"].append({"why": str(error)})
            continue
        if any(counts.values()):
            busy.append((one, counts, places))
    try:
        left = _crawls() if crawls else []
    except CommandExecutionError as error:
        left = []
        answer["unknowns"].append({"why": str(error)})
    starters, found = _starters(left, busy), []
    for number, (one, counts, _) in enumerate(busy):
        # What is not known to be another instance's may be this one's.
        possible = [crawl for crawl in left if starters.get(crawl["ppid"], number) == number]
        try:
            listed = _jobs_by_process(counts, [crawl for crawl in possible if crawl["ppid"] in starters]) or _all_jobs(
                one
            )
        except CommandExecutionError as error:
            answer["unknowns"].append({"why": str(error)})
            continue
        for job in listed:
            crawl = _process_of(job, possible)
            for crawls_left in (left, possible) if crawl else ():
                crawls_left.remove(crawl)
            # Only its process's arguments say who started a running job.
            job["note"] = job["note"] or crawl.get("note")
            job.update(name=one.name, place=one.place, **{key: crawl.get(key) for key in ("mark", "user")})
            found.append(job)
    found += [{**crawl, "state": "process", "name": None} for crawl in left]
    answer["blockers"] = list(map(_blocker, found, _ids(found)))
    return answer
