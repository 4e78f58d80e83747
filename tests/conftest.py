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
