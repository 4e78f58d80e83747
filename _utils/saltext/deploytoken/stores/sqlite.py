"""
A store in one local file: for one master alone, and for trying things out.

Every version of the page is one row, so compare-and-swap is an insert at the next number.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from saltext.deploytoken import errors, people
from saltext.deploytoken.stores.base import Check, Conflict, Missing, Page, Store, Unanswered

if TYPE_CHECKING:
    from saltext.deploytoken.config import Config

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

    def __init__(self, config: Config) -> None:
        prefix = "sqlite:///"
        path = unquote(config.store[len(prefix) :]) if config.store.startswith(prefix) else ""
        if not path.startswith("/") or "\0" in path:
            # A relative path would be another token in every folder in which somebody types the command.
            raise errors.Invalid(
                "deploytoken.store: give an absolute path, with four slashes: sqlite:////var/lib/…/token.db"
            )
        self.path = Path(path)
        self.url = config.store
        self._timeout = config.timeout

    def read(self) -> Page:
        return self._select("ORDER BY version DESC LIMIT 1")

    def read_version(self, number: int) -> Page:
        return self._select("WHERE version = ?", number)

    def write(self, text: str, version: int, comment: str) -> None:
        with self._connection() as connection:
            try:
                # IMMEDIATE: one lock covers the reading of the version and the writing of the next.
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
                # A full disk, say: only another look shows whether the commit reached it.
                raise Unanswered(self._trouble(exc)) from None

    def create(self, text: str, comment: str) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o770)
            # To write to it is to take the token: that is for the owner, and a group if the umask lets it.
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

    def markup(self) -> str:
        return "textile"  # as good as any: nobody renders it

    def operator(self) -> str | None:
        return people.login()

    def beside(self, address: str, key: str) -> Store:
        raise errors.Invalid(f"{key}: only for a wiki page; with SQLite, leave it out")

    def checks(self) -> Iterator[Check]:
        folder = self.path.parent
        try:
            mode = self.path.stat().st_mode
        except OSError as exc:
            yield Check("file", False, self._missing() if isinstance(exc, FileNotFoundError) else self._trouble(exc))
            return
        # SQLite keeps its journal beside the file while it writes.
        writable = os.access(folder, os.W_OK | os.X_OK)
        found = f"you can write to {folder}" if writable else f"make {folder} writable for you"
        yield Check("folder", writable, found)
        if not os.access(self.path, os.R_OK | os.W_OK):
            yield Check("file", False, f"you cannot read and write {self.path}; change its owner or rights")
        elif mode & stat.S_IWOTH:
            yield Check("file", False, f"everybody may write to {self.path}; run `chmod o-w {self.path}`")
        else:
            yield Check("file", True, f"you can read and write {self.path}")
        yield self._health()

    def _health(self) -> Check:
        try:
            with self._connection() as connection:
                (health,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        except errors.StoreError as exc:
            return Check("database", False, str(exc))
        except sqlite3.Error as exc:
            return Check("database", False, self._trouble(exc))
        if health == "ok" and synchronous >= 2:
            return Check("database", True, "sound, and saved to disk before a write counts")
        return Check("database", False, f"{self.path} is damaged: {health}; restore it")

    def _select(self, where: str, *values: int) -> Page:
        with self._connection() as connection:
            try:
                row = connection.execute(
                    f"SELECT text, version, author, comment, saved FROM page {where}", values
                ).fetchone()
            except sqlite3.Error as exc:
                raise errors.StoreError(self._trouble(exc)) from None
        if row is None:
            raise Missing(self._missing())
        text, version, author, comment, saved = row
        if not isinstance(text, str):
            raise errors.StoreError(f"{self.path}: version {version} is not text; restore the file")
        return Page(text, version, str(author), str(comment), str(saved))

    def _insert(self, connection: sqlite3.Connection, version: int, text: str, comment: str) -> None:
        saved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        connection.execute(
            "INSERT INTO page (version, text, comment, author, saved) VALUES (?, ?, ?, ?, ?)",
            (version, text, comment, people.login() or "?", saved),
        )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # mode=rw: by default, SQLite would create an empty file for a misspelt path.
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
                # The first look into the file: it may be no database, or an empty one that an ended init left.
                connection.execute("PRAGMA synchronous = FULL")
                ours = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'page'").fetchone()
            except sqlite3.Error as exc:
                raise errors.StoreError(self._trouble(exc)) from None
            if not ours:
                raise Missing(self._missing())
            yield connection

    def _missing(self) -> str:
        return f"there is no token in {self.path}; create it once with `salt-run deploytoken.init`"

    def _trouble(self, exc: Exception) -> str:
        return f"{self.path} cannot be used: {exc}; check the path, its rights and the disk"
