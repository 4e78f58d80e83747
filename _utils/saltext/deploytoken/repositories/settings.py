"""
What may stand under ``deploytoken: repositories:`` in the master's configuration.

.. code-block:: yaml

    deploytoken:
      repositories:
        - /srv/deploy                       # the path alone, or a mapping
        - path: /srv/deploy/salt/private
          branch: master                    # default: the remote's default branch
          remote: origin                    # the default
          timeout: 60                       # the default; also 90s or 2m

A mapping of names to such items names the repositories itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

from saltext.deploytoken import errors, values


@dataclass(frozen=True)
class Repository:
    """
    One configured repository.

    name
        Its name in answers: its key in the configuration, or the end of its path.
    path
        The top folder of its working tree, absolute.
    branch
        The branch to deploy from; None for the remote's default branch.
    remote
        The remote to bring it up to date with.
    timeout
        How long all talk with the remote may take together, in seconds.
    """

    name: str
    path: str
    branch: str | None = None
    remote: str = "origin"
    timeout: float = 60.0


#: The keys of one repository. Its name is the key above them, or comes from its path.
KEYS = tuple(field.name for field in fields(Repository) if field.name != "name")


def parse(value: Any) -> tuple[Repository, ...]:
    """
    Return the configured repositories in the order of the configuration.

    ``value``
        None, a list of paths or of mappings with the keys in :data:`KEYS`, or a mapping of names to such items.

    :raises errors.Invalid: with the whole path of the key at fault in the message.
    """
    items: list[tuple[str, str | None, Any]]
    if value is None:
        return ()
    if isinstance(value, dict):
        items = [(f"deploytoken.repositories.{name}", str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"deploytoken.repositories.{position}", None, item) for position, item in enumerate(value)]
    else:
        raise errors.Invalid(f"deploytoken.repositories: must be a list of repositories, not {_kind(value)}")
    checked = [_item(item, key) for key, _, item in items]
    paths = [item["path"] for item in checked]
    for position, path in enumerate(paths):
        if path in paths[:position]:
            raise errors.Invalid(f"{items[position][0]}.path: {path} is configured twice")
    names = [name or end for (_, name, _), end in zip(items, distinct_ends(paths), strict=True)]
    return tuple(Repository(name=name, **item) for name, item in zip(names, checked, strict=True))


def _item(item: Any, key: str) -> dict[str, Any]:
    """Return the checked fields of one repository; those without a value are left out."""
    if isinstance(item, str):
        item = {"path": item}
    if not isinstance(item, dict):
        raise errors.Invalid(f"{key}: must be a path, or a mapping with a path, not {_kind(item)}")
    for name in item:
        if name not in KEYS:
            raise errors.Invalid(f"{key}.{name}: no such key; known are: {', '.join(KEYS)}")
    # A key without a value ("branch:") is the same as no key.
    found = {name: value for name, value in item.items() if value is not None}
    found["path"] = _path(found.get("path"), f"{key}.path")
    for name in ("branch", "remote"):
        if name in found and not _is_branch_name(found[name]):
            raise errors.Invalid(f"{key}.{name}: {found[name]!r} is not the name of a {name}")
    if "timeout" in found:
        found["timeout"] = values.positive_duration(found["timeout"], f"{key}.timeout")
    return found


def _path(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise errors.Invalid(f"{key}: needed, the folder of the repository")
    if not os.path.isabs(value):
        raise errors.Invalid(f"{key}: must be absolute, not {value}")
    return os.path.normpath(value)


def _kind(value: Any) -> str:
    names: dict[type, str] = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def _is_branch_name(value: Any) -> bool:
    """Return whether git would take ``value`` as a branch's name (the rules of ``git check-ref-format --branch``)."""
    return (
        isinstance(value, str)
        and bool(value)
        and not re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)", value)
        and not value.startswith(("-", "/", "."))
        and not value.endswith(("/", "."))
        and value not in ("@", "HEAD")
    )


def distinct_ends(paths: Sequence[str]) -> list[str]:
    """Return the last part of each path, or as many parts as tell it apart: ``salt/private``, ``pillar/private``."""
    split = [PurePath(path).parts for path in paths]
    ends = []
    for parts in split:
        for length in range(1, len(parts) + 1):
            end = parts[-length:]
            if sum(other[-length:] == end for other in split) == 1:
                break
        ends.append(str(PurePath(*end)))
    return ends
