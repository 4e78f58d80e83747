"""
What Salt serves once the repositories have moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def forget_file_lists(opts: Mapping[str, Any]) -> None:
    """
    Have the lists of served files made anew.

    An orchestration fills them as it begins, before the repositories move, and a list serves for 20 s (3008.3). A file
    that the update brought would be missing in a ``file.recurse``, an ``include`` with a glob, or a sync of modules,
    and nothing would fail.
    """
    import salt.fileserver  # late: every salt-run imports every runner

    salt.fileserver.Fileserver(dict(opts)).clear_file_list_cache(load={"saltenv": None, "fsbackend": None})
