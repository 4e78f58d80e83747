"""
A store in one local file: for one master alone, and for trying things out.

Every version of the page is one row, so compare-and-swap is an insert at the next number.
"""

import getpass
import os
import sqlite3
import stat
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from saltext.deploytoken import errors
from saltext.deploytoken.stores.base import Conflict, Missing, Page, Store, Unanswered

_TABLE = """
CREATE TABLE page (
    version INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    comment TEXT NOT NULL,
    author TEXT NOT NULL,
    saved TEXT NOT NULL
)
"""


class Sqlite(Store):
    """The page in the file of ``sqlite:////var/lib/deploytoken/token.db``."""

    def __init__(self, config):
        prefix = "sqlite:///"
        path = unquote(config.store[len(prefix) :]) if config.store.startswith(prefix) else ""
        if not path.startswith("/") or "\0" in path:
            # A relative file would be another token in every directory that somebody types the command in.
            raise errors.Invalid(
                "deploytoken.store: give an absolute path, with four slashes: sqlite:////var/lib/…/token.db"
            )
        self.path = Path(path)
        self.url = config.store
        self._timeout = config.timeout

    def read(self):
        return self._select("ORDER BY version DESC LIMIT 1")

    def read_version(self, number):
        return self._select("WHERE version = ?", number)

    def write(self, text, version, comment):
        with self._connection() as connection:
            try:
                # IMMEDIATE: the version is read under the same lock under which the next one is written.
                connection.execute("BEGIN IMMEDIATE")
                (current,) = connection.execute("SELECT max(version) FROM page").fetchone()
                if current is None:
                    raise Missing(self._missing())
                if current != version:
                    raise Conflict
                self._insert(connection, version + 1, text, comment)
            except sqlite3.Error as exc:
                raise errors.StoreError(self._trouble(exc)) from None
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as exc:
                # A full disk, say: whether the commit reached it is known only by looking again.
                raise Unanswered(self._trouble(exc)) from None

    def create(self, text, comment):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o770)
            # Whoever may write to it may take the token: the owner, and a group if the umask lets it.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o660))
            with closing(sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'page'").fetchone():
                    connection.execute("ROLLBACK")
                    return False
                if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise errors.StoreError(f"{self.path} is another program's database; give another path")
                connection.execute(_TABLE)
                self._insert(connection, 1, text, comment)
                connection.execute("COMMIT")
                return True
        except (sqlite3.Error, OSError) as exc:
            raise errors.StoreError(self._trouble(exc)) from None

    def operator(self):
        # Under sudo, the person and not root.
        try:
            return os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):
            return None

    def checks(self):
        folder = self.path.parent
        try:
            mode = self.path.stat().st_mode
        except OSError as exc:
            yield "file", False, self._missing() if isinstance(exc, FileNotFoundError) else self._trouble(exc)
            return
        # SQLite keeps its journal beside the file while it writes.
        writable = os.access(folder, os.W_OK | os.X_OK)
        yield "folder", writable, f"{folder} can be written to" if writable else f"make {folder} writable for you"
        if not os.access(self.path, os.R_OK | os.W_OK):
            yield "file", False, f"{self.path} cannot be read and written by you; change its owner or rights"
        elif mode & stat.S_IWOTH:
            yield "file", False, f"everybody may write to {self.path}; run `chmod o-w {self.path}`"
        else:
            yield "file", True, f"{self.path} can be read and written"
        try:
            with self._connection() as connection:
                (health,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        except (sqlite3.Error, errors.StoreError) as exc:
            yield "database", False, str(exc) if isinstance(exc, errors.StoreError) else self._trouble(exc)
            return
        sound = health == "ok" and synchronous >= 2
        yield (
            "database",
            sound,
            "sound, and saved to disk before a write counts"
            if sound
            else f"{self.path} is damaged: {health}; restore it",
        )

    def _select(self, where, *values):
        with self._connection() as connection:
            try:
                row = connection.execute(
                    f"SELECT text, version, author, comment, saved FROM page {where}", values
                ).fetchone()
            except sqlite3.Error as exc:
                raise errors.StoreError(self._trouble(exc)) from None
        if row is None:
            raise Missing(self._missing())
        text, version, *rest = row
        if not isinstance(text, str):
            raise errors.StoreError(f"{self.path}: version {version} is no text; restore the file")
        return Page(text, version, *map(str, rest))

    def _insert(self, connection, version, text, comment):
        saved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        connection.execute(
            "INSERT INTO page (version, text, comment, author, saved) VALUES (?, ?, ?, ?, ?)",
            (version, text, comment, self.operator() or "?", saved),
        )

    @contextmanager
    def _connection(self):
        # mode=rw: SQLite's default would create an empty file wherever the path is misspelt.
        address = f"file:{quote(str(self.path))}?mode=rw"
        try:
            connection = sqlite3.connect(address, uri=True, timeout=self._timeout, isolation_level=None)
        except sqlite3.Error as exc:
            with suppress(PermissionError):  # of a folder above it; Path.exists raises that
                if not self.path.exists():
                    raise Missing(self._missing()) from None
            raise errors.StoreError(self._trouble(exc)) from None
        with closing(connection):
            try:
                # The first look into the file; it may not be a database, or an empty one, of an init that was ended.
                connection.execute("PRAGMA synchronous = FULL")
                ours = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'page'").fetchone()
            except sqlite3.Error as exc:
                raise errors.StoreError(self._trouble(exc)) from None
            if not ours:
                raise Missing(self._missing())
            yield connection

    def _missing(self):
        return f"there is no token in {self.path}; create it once with `salt-run deploytoken.init`"

    def _trouble(self, exc):
        return f"{self.path} cannot be used: {exc}; check the path, its rights and the disk"
