"""Fixtures for all suites: see tests/README.md. Nothing starts before a test asks for it."""

import contextlib
import logging
import os
import pathlib
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.support.imports import comes_to_salt, functions_with_salt
from tests.support.proxy import FaultProxy

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent

# Whoever runs the suite with sudo, or after su, types nothing in its tests (saltext.deploytoken.people).
os.environ.pop("SUDO_USER", None)
with contextlib.suppress(OSError):  # without root, the login is the user of the tests
    pathlib.Path("/proc/self/loginuid").write_text(str(2**32 - 1))


@pytest.fixture(scope="session")
def checkout():
    """The folder of this checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def redmine(tmp_path_factory, pytestconfig):
    """A real Redmine (tests.support.redmine.Redmine), started once."""
    from tests.support.redmine import Redmine

    cache = getattr(pytestconfig, "cache", None)
    server = Redmine(tmp_path_factory.mktemp("redmine"), cache and cache.mkdir("redmine"))
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
    """``scrapyd_factory(max_proc=2, version=None, …)`` as tests.support.scrapyd.Scrapyd: another real one, started."""
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
    """``tmux_session(user, name, command=None, socket=None, label=None)``: a session on that user's tmux server."""
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


#: The fixtures that start a service. What is found on it does not depend on Salt's version.
SERVICES = {"redmine", "scrapyd_factory", "users", "postgres"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """
    Set the marks by which ``script/test`` chooses.

    cluster
        The test stands on the running master.
    salt
        The test comes to Salt, and needs nothing but that: it is worth a run with another Salt.
    """
    for item in items:
        fixtures = set(item.fixturenames)
        if "_cluster" in fixtures:
            item.add_marker("cluster")
        if not fixtures & SERVICES and (comes_to_salt(item.path) or fixtures & functions_with_salt(__file__)):
            item.add_marker("salt")


def pytest_configure():
    # A machine that has other work takes its time.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    # In the background of a shell without job control, Ctrl-C is ignored, by all that is started there as well.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Salt. Loopback only: the plugin's log server and event listener would listen on all addresses.


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    server = session.config.pluginmanager.get_plugin("saltfactories-log-server")
    if server is not None:
        server.log_host = "127.0.0.1"
        server.log_level = "warning"  # by default, every process of Salt's sends all that it has to say for debugging


def pytest_unconfigure():
    # Salt flushes its stored log records when Python ends, into streams that pytest has closed by then.
    logging.raiseExceptions = False


@pytest.fixture(scope="session")
def event_listener():
    from saltfactories.plugins.event_listener import EventListener

    listener = EventListener()
    listener.host = "127.0.0.1"
    listener.address = f"tcp://127.0.0.1:{listener.port}"
    with listener:
        yield listener


@pytest.fixture(scope="session")
def salt_factories_config(tmp_path_factory):
    return {
        "root_dir": tmp_path_factory.mktemp("salt"),
        "code_dir": str(CHECKOUT),
        "inject_sitecustomize": False,
        "start_timeout": 180,
    }


@pytest.fixture
def loaders(tmp_path):
    """``loaders(kind="master", **options)``: Salt's loaders over this checkout (tests.support.loaders.Loaders)."""
    from tests.support.loaders import Loaders

    return lambda kind="master", **options: Loaders(tmp_path / "loaders", kind, **options)


@pytest.fixture
def master_config(tmp_path):
    """``master_config(deploytoken={…}, **options)``: a master's configuration, no daemon (tests.support.salt)."""
    from tests.support.salt import Config

    numbers = iter(range(1000))
    return lambda deploytoken=None, **options: Config.make(
        tmp_path / f"master{next(numbers)}", deploytoken=deploytoken, **options
    )


@pytest.fixture(scope="session")
def _wiki(redmine, tmp_path_factory):
    """One page and one proxy for the running master, whose configuration cannot change between tests."""
    key = tmp_path_factory.mktemp("key") / "redmine.key"
    key.touch(0o600)
    key.write_text(redmine.key("alice"))
    page = redmine.new_page("Held by: nobody\n\nh2. History\n", title="Deploy_token")
    with FaultProxy(redmine.url) as started:
        yield page, started, {"store": started.at(page), "api_key_file": str(key)}


@pytest.fixture(scope="session")
def _cluster(salt_factories, _wiki, tmp_path_factory):
    from tests.support.salt import Cluster, callers

    started = Cluster(salt_factories, tmp_path_factory.mktemp("roots"), _wiki[2], **callers())
    try:
        started.start()
        started.minion("kingfisher-main")
        started.minion("docs")
        yield started
    finally:
        started.stop()


@pytest.fixture
def cluster(_cluster, _wiki, redmine):
    """
    A running master and the minions ``kingfisher-main`` and ``docs`` (tests.support.salt.Cluster).

    Its token: ``cluster.page`` on the real Redmine, through ``cluster.wiki`` (a FaultProxy); each test has both fresh.
    """
    _cluster.page, _cluster.wiki, _cluster.token = _wiki
    _cluster.wiki.clear()
    redmine.edit(_cluster.page, "Held by: nobody\n\nh2. History\n", "boss")
    # What the wiki told a gate serves the next one as well, for a while: it may be the last test's token.
    (pathlib.Path(_cluster.master.config["cachedir"]) / "deploytoken" / "live.json").unlink(missing_ok=True)
    yield _cluster
    _cluster.wiki.clear()
    _cluster.clean()
