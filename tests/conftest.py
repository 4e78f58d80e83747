"""Fixtures for all suites: see tests/README.md. Nothing starts before a test asks for it."""

import pathlib

import pytest

from tests.support.proxy import FaultProxy

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def checkout():
    """The folder of this checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def redmine(tmp_path_factory, pytestconfig):
    """A real Redmine (tests.support.redmine.Redmine), started once."""
    from tests.support.redmine import Redmine

    server = Redmine(tmp_path_factory.mktemp("redmine"), pytestconfig.cache.mkdir("redmine"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def proxy(redmine):
    """A fault-injecting proxy (tests.support.proxy.FaultProxy) in front of Redmine."""
    with FaultProxy(redmine.url) as started:
        yield started


@pytest.fixture(scope="session")
def scrapyd_factory(tmp_path_factory):
    """``scrapyd_factory(username="", password="", max_proc=2, poll_interval=0.2)``: another real Scrapyd, started."""
    from tests.support.scrapyd import Scrapyd

    started = []

    def start(**options):
        server = Scrapyd(tmp_path_factory.mktemp("scrapyd"), **options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def _scrapyd(scrapyd_factory):
    return scrapyd_factory()


@pytest.fixture
def scrapyd(_scrapyd):
    """A real Scrapyd (tests.support.scrapyd.Scrapyd), idle before and after each test."""
    _scrapyd.finish()
    yield _scrapyd
    _scrapyd.finish()


@pytest.fixture(scope="session")
def users():
    """``users("ana")``: a real Unix user (tests.support.users.User), removed at the end. Needs root."""
    from tests.support.users import Users

    made = Users()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def tmux_session(users):
    """``tmux_session(user, name, command=None, socket=None, label=None)``: a session on that user's own tmux server."""
    from tests.support.users import tmux

    yield from _sessions(users, tmux)


@pytest.fixture
def screen_session(users):
    """``screen_session(user, name, *command)``: a detached GNU screen session of that user."""
    from tests.support.users import screen

    yield from _sessions(users, screen)


def _sessions(users, start):
    started = []

    def session(user, *arguments, **options):
        made = start(users(user) if isinstance(user, str) else user, *arguments, **options)
        started.append(made)
        return made

    yield session
    for made in started:
        made.end()


@pytest.fixture(scope="session")
def postgres():
    """A private PostgreSQL (tests.support.postgres.Postgres)."""
    from tests.support.postgres import Postgres

    server = Postgres()
    try:
        yield server.start()
    finally:
        server.stop()
