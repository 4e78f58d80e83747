"""What every measurement gets: a folder, a way to show progress, and services that end with it."""

import pathlib
import sys

from tests.support.redmine import Redmine
from tests.support.salt import CHECKOUT

# The test suite keeps its migrated and seeded database here.
CACHE = CHECKOUT / ".pytest_cache" / "d" / "redmine"


def say(line):
    print(line, file=sys.stderr, flush=True)


class Bench:
    """``folder`` is the measurement's own. Pass to ``stack.callback`` what must end with it. ``quick``: few rounds."""

    def __init__(self, name, folder, quick, stack):
        self.name, self.quick, self.stack = name, quick, stack
        self.folder = pathlib.Path(folder)

    def rounds(self, few, many):
        return few if self.quick else many

    def say(self, line):
        say(f"  {self.name}: {line}")

    def path(self, name):
        """A new folder of this name."""
        path = self.folder / name
        path.mkdir()
        return path

    def redmine(self):
        """A real Redmine, started for this measurement."""
        self.say("starting Redmine")
        try:
            return self._redmine("redmine")
        except AssertionError as error:
            # The first start fills the database. On a busy machine it has failed now and then.
            self.say(f"{error}\ntrying once more")
            return self._redmine("redmine-again")

    def _redmine(self, folder):
        server = Redmine(self.path(folder), CACHE)
        self.stack.callback(server.stop)
        return server.start()
