"""
Where the page lives: one module per kind of store, and the choice between them by the page's address.

A new wiki is one new module with a subclass of :class:`saltext.deploytoken.stores.base.Store`, one line in
:func:`connect`, and one row in the contract tests, which every store must pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from saltext.deploytoken import errors

if TYPE_CHECKING:
    from saltext.deploytoken.config import Config
    from saltext.deploytoken.stores.base import Store


def connect(config: Config) -> Store:
    """
    Return the :class:`Store <saltext.deploytoken.stores.base.Store>` for ``config.store``.

    :raises errors.Invalid: the address is of no known kind.
    """
    # Late: each store imports what only it needs.
    scheme = urlsplit(config.store).scheme
    if scheme in ("http", "https"):
        from saltext.deploytoken.stores.redmine import Redmine

        return Redmine(config)
    if scheme == "sqlite":
        from saltext.deploytoken.stores.sqlite import Sqlite

        return Sqlite(config)
    raise errors.Invalid("deploytoken.store: must begin with https:// (a Redmine wiki page) or sqlite:/// (a file)")
