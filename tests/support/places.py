"""
A place where the token can live, as the tests see it: who uses it, and what somebody else does to the page by hand.

``SqlitePlace`` and ``RedminePlace`` offer the same, so that one suite runs over both.
"""

import contextlib

from saltext.deploytoken import config
from saltext.deploytoken.people import Account
from saltext.deploytoken.token import Token

TEXT = "h1. Deploy token\n\nHeld by: nobody\n\nh2. History\n"


def settings(address, **more):
    """Return options of a master with a store here, patient as on a busy machine; ``more`` are other keys."""
    return {"deploytoken": {"store": address, "timeout": 30, "deadline": 60, **more}}


class SqlitePlace:
    def __init__(self, folder, text=TEXT):
        self.address = f"sqlite:///{folder / 'token.db'}"
        #: Who types with which account, if not with one of the same name.
        self.accounts = {}
        self._store = Token(config.parse(settings(self.address))).store
        assert self._store.create(text, "init")

    def options(self, who, **more):
        return settings(self.address, **{"name": who.title(), **more})

    @contextlib.contextmanager
    def token(self, who, notify=None, **more):
        account = getattr(self, "accounts", {}).get(who) or Account(who, "master1", plain=True)
        with Token(config.parse(self.options(who, **more)), notify, account) as token:
            yield token

    def text(self):
        return self._store.read().text

    def versions(self):
        """The text of each version, oldest first."""
        return [self._store.read_version(number).text for number in range(1, self._store.read().version + 1)]

    def edit(self, change):
        """Somebody saves ``change(text)`` by hand."""
        found = self._store.read()
        self._store.write(change(found.text), found.version, "by hand")


class RedminePlace:
    """``address`` may be one through a proxy; what is done by hand is done past it."""

    def __init__(self, redmine, text=TEXT, project="ocds"):
        self.redmine = redmine
        self.page = redmine.new_page(text, project)
        self.address = self.page

    def options(self, who, **more):
        return settings(self.address, **{"name": who.title(), "api_key": self.redmine.key(who), **more})

    token = SqlitePlace.token

    def text(self):
        return self.redmine.text(self.page)

    def versions(self):
        return [version["text"] for version in self.redmine.versions(self.page)]

    def edit(self, change):
        self.redmine.edit(self.page, change(self.text()), "boss")
