"""
A real Redmine for the tests: Debian's package, but an instance of its own in a temporary folder.

Debian's Redmine keeps each instance in ``/usr/share/redmine/instances/$REDMINE_INSTANCE``. A relative path in that
variable leads to any folder, so that no file of the machine's own instance is ever opened, and no root is needed.
The migrated and seeded database is cached (migrating takes 15 s, copying nothing).

Another release of Debian has another Redmine. Where the environment names the folder of such a system in
``DEPLOYTOKEN_REDMINE``, that one is started in its place, with chroot: tests/README.md says how to have one.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import secrets
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request

from tests.support import process, wait

#: The system whose Redmine is started.
ROOT = pathlib.Path(os.environ.get("DEPLOYTOKEN_REDMINE") or "/")
HOME = pathlib.Path("/usr/share/redmine")
# Debian's Ruby, whatever else stands on the caller's PATH.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SEED = pathlib.Path(__file__).with_name("redmine_seed.rb")
PEOPLE = {
    "boss": "Wiki Boss",
    "alice": "Alice Adams",
    "bob": "Bob Brown",
    "carol": "Carol Clark",
    "rita": "Rita Reader",
    "mallory": "Mallory Stranger",
    "lou": "Lou Locked",
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Redmine:
    """
    One running Redmine.

    Users: ``boss`` (administrator), ``alice`` and ``bob`` (read, write, see versions), ``carol`` (read and write,
    but may not see old versions), ``rita`` (reads only), ``mallory`` (member of nothing), ``lou`` (locked account).
    Projects: ``ocds`` (private), ``open`` (public), ``nowiki`` (module off), ``closed`` and ``archived`` (made so by
    :py:meth:`shut`, because nobody can write a page into them afterwards).
    """

    def __init__(self, folder, cache=None):
        self.folder = pathlib.Path(folder)
        self.cache = pathlib.Path(cache) if cache else self.folder / "cache"
        self.database = self.folder / "redmine.sqlite3"
        self.log = self.folder / "log" / "production.log"
        self.output = self.folder / "output.log"
        self.port = process.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.keys = {}
        self._process = None
        self._numbers = itertools.count(1)

    # Starting and ending

    def start(self):
        if not self._at_root(HOME).is_dir():
            raise AssertionError(f"Redmine is not installed in {ROOT}: run script/test, which installs it in /")
        for name in ("config", "log", "tmp", "files"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._configure()
        if not self.keys:
            self._prepare()
        self._serve()
        return self

    def _configure(self):
        # Whoever waits for SQLite's lock keeps Ruby's, without which the other one cannot let go: so not for long.
        (self.folder / "config" / "database.yml").write_text(
            f"production: {{adapter: sqlite3, database: '{self.database}', timeout: 2000, pool: 16}}\n"
        )
        (self.folder / "config" / "secret_key.txt").write_text(secrets.token_hex(32))

    def _environment(self, **more):
        # Up to the root, from wherever "instances" (a symbolic link) leads, and down again.
        instance = "../" * 8 + str(self.folder.resolve()).lstrip("/")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BUNDLE_", "GEM_", "RUBY"))}
        return {
            **clean,
            "REDMINE_INSTANCE": instance,
            "RAILS_ENV": "production",
            "HOME": str(self.folder),
            "PATH": PATH,
            **more,
        }

    @staticmethod
    def _at_root(path):
        return ROOT / path.relative_to("/")

    def _inside(self, *command):
        """``command`` in Redmine's folder of the system :py:data:`ROOT`, which sees this instance's folder as well."""
        enter = 'cd "$0" && exec "$@"'
        words = ["sh", "-c", enter, HOME, *command]
        if str(ROOT) != "/":
            # Mounted for this process alone: they go with it.
            mount = 'mkdir -p "$0$1" && mount --bind "$1" "$0$1" && shift && exec chroot "$0" "$@"'
            words = ["unshare", "--mount", "sh", "-c", mount, ROOT, self.folder.resolve(), *words]
        return [str(word) for word in words]

    def _prepare(self):
        stamp = hashlib.sha256(
            SEED.read_bytes() + self._at_root(HOME / "lib/redmine/version.rb").read_bytes()
        ).hexdigest()[:16]
        database, keys = self.cache / f"{stamp}.sqlite3", self.cache / f"{stamp}.json"
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the other lane of script/test waits, and has it from the cache
            if not (database.exists() and keys.exists()):
                self._fill(database, keys)
        shutil.copyfile(database, self.database)
        self.keys = json.loads(keys.read_text())

    def _fill(self, database, keys):
        seeded = self.folder / "keys.json"
        self._bundle("rake", "db:migrate", SCHEMA=str(self.folder / "schema.rb"))
        seed = shutil.copy(SEED, self.folder)
        self._bundle("rails", "runner", seed, SEED_KEYS=str(seeded))
        for made, kept in ((self.database, database), (seeded, keys)):
            partial = kept.with_name(f"{kept.name}.partial")  # not taken for whole when this is interrupted
            shutil.copyfile(made, partial)
            partial.replace(kept)

    def _bundle(self, *command, **environment):
        done = subprocess.run(
            self._inside("/usr/bin/bundle", "exec", *command),
            env=self._environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            # Ruby says first what went wrong, and then at length where.
            said = f"{done.stdout[-2000:]}\n{done.stderr[:2000]}\n{done.stderr[2000:][-2000:]}"
            raise AssertionError(f"{' '.join(map(str, command))} failed:\n{said}")

    def _serve(self):
        address = f"tcp://127.0.0.1:{self.port}"
        options = ["-C", "-", "-e", "production", "-t", "4:8", "-b", address]
        command = self._inside("/usr/bin/puma", *options, "config.ru")
        self._process = process.start(command, self.output, env=self._environment())

        def up():
            if self._process.poll() is not None:
                raise RuntimeError(f"Redmine ended:\n{process.tail(self.output)}")
            return process.listening(self.port) and self.get("/users/current.json", "boss")[0] == 200

        wait.until(up, 240, "Redmine to answer")

    def stop(self):
        if self._process:
            process.end(self._process)
            self._process = None

    @contextlib.contextmanager
    def stopped(self):
        """Redmine is down inside the block (connection refused), and up again after it."""
        self.stop()
        try:
            yield
        finally:
            self._serve()

    # Who

    def key(self, login):
        """The API key of a user, such as ``alice``."""
        return self.keys[login]

    def name(self, login):
        """First and last name of a user, such as ``Alice Adams``."""
        return PEOPLE[login]

    # Pages, always through the real REST API

    def request(self, method, path, login="boss", body=None):
        """One request as ``login`` (``None`` for nobody): the status and the body, as JSON where it is."""
        headers = {"Content-Type": "application/json"}
        if login:
            headers["X-Redmine-API-Key"] = self.keys[login]
        request = urllib.request.Request(
            path if path.startswith("http") else self.url + path,
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            with opener.open(request, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode(errors="replace")
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, text

    def get(self, path, login="boss"):
        return self.request("GET", path, login)

    def new_page(self, text, project="ocds", title=None):
        """Create a fresh page and return the address that a person would copy from the browser."""
        title = title or f"Deploy_token_{next(self._numbers)}"
        page = f"{self.url}/projects/{project}/wiki/{title}"
        self.edit(page, text, "boss")
        return page

    def edit(self, page, text, login="bob", comment=""):
        """Somebody saves the page by hand, whatever its version is."""
        body = {"wiki_page": {"text": text, "comments": comment}}
        status, answer = self.request("PUT", f"{page}.json", login, body)
        assert status in (200, 201, 204), (status, answer)

    def read(self, page, version=None):
        """The page as the API returns it: ``text``, ``version``, ``author``, ``comments``…"""
        status, answer = self.get(f"{page}.json" if version is None else f"{page}/{version}.json")
        assert status == 200, (status, answer)
        return answer["wiki_page"]

    def text(self, page):
        return self.read(page)["text"]

    def versions(self, page):
        """All versions of the page, oldest first."""
        return [self.read(page, number) for number in range(1, self.read(page)["version"] + 1)]

    # The administrator's side

    def sql(self, statement, *values):
        """One statement on Redmine's database: its rows."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def setting(self, name, value):
        """A site-wide setting inside the block, for example ``setting("rest_api_enabled", "0")``."""
        before = self.sql("SELECT value FROM settings WHERE name = ?", name)
        self._set(name, value)
        try:
            yield
        finally:
            if before:
                self._set(name, before[0][0])
            else:
                self.sql("DELETE FROM settings WHERE name = ?", name)
                self._set("welcome_text", "")

    def _set(self, name, value):
        # Redmine drops its cache of settings when the newest updated_on is later than the last time it did so.
        self.sql("DELETE FROM settings WHERE name = ?", name)
        self.sql(
            "INSERT INTO settings (name, value, updated_on) VALUES (?, ?, datetime('now', 'localtime', '+5 seconds'))",
            *(name, value),
        )

    def markups(self):
        """The values of the setting ``text_formatting`` that this release knows, such as ``textile``."""
        return sorted(
            path.name for path in self._at_root(HOME / "lib/redmine/wiki_formatting").iterdir() if path.is_dir()
        )

    @contextlib.contextmanager
    def shut(self, project, status):
        """A project is ``closed`` or ``archived`` inside the block."""
        code = {"closed": 5, "archived": 9}[status]
        self.sql("UPDATE projects SET status = ? WHERE identifier = ?", code, project)
        try:
            yield
        finally:
            self.sql("UPDATE projects SET status = 1 WHERE identifier = ?", project)

    def protect(self, page):
        """Protect the page: writers without the permission to protect pages can only read it."""
        self.sql("UPDATE wiki_pages SET protected = 1 WHERE title = ?", page.rsplit("/", 1)[-1])

    def rename(self, page, title, redirect=True):
        """Rename the page as a person would in the browser, leaving a redirect; the new address."""
        old = page.rsplit("/", 1)[-1]
        ((wiki,),) = self.sql("SELECT wiki_id FROM wiki_pages WHERE title = ?", old)
        self.sql("UPDATE wiki_pages SET title = ? WHERE title = ? AND wiki_id = ?", title, old, wiki)
        if redirect:
            self.sql(
                "INSERT INTO wiki_redirects (wiki_id, title, redirects_to, redirects_to_wiki_id, created_on)"
                " VALUES (?, ?, ?, ?, datetime('now'))",
                *(wiki, old, title, wiki),
            )
        return f"{page.rsplit('/', 1)[0]}/{title}"
