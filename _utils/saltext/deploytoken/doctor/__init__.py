"""
Checks of the whole setup, ahead of time: what would go wrong on the day, and what to do about it.

Only reads, except that repositories are fetched, and that :func:`examine` with ``scratch`` tries a write there that
must be refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from saltext.deploytoken import config, errors, people
from saltext.deploytoken.doctor import accounts, minions, token_page
from saltext.deploytoken.stores.base import Check
from saltext.deploytoken.text import printable
from saltext.deploytoken.token import Token


def examine(opts: Mapping[str, Any], scratch: str | None = None, user: str | None = None) -> dict[str, Any]:
    """
    Return ``checks``, each with ``name``, ``ok`` (True, False, or None where it cannot tell) and ``text``.

    ``opts`` (dict)
        The master's options.
    ``scratch`` (str)
        The address of a page in the same Redmine that may be written to.
    ``user`` (str)
        What Salt says of the caller; see :func:`people.account`.

    :raises errors.Invalid: the configuration is wrong, or the scratch page is none.
    :raises errors.StoreError: a check failed.

    The details of both errors have the ``checks`` so far.
    """
    done: list[Check] = []
    try:
        with Token(config.parse(opts), account=people.account(opts, user)) as token:
            # Late: Salt's loaders are heavy imports, and who mends the configuration waits for none of them.
            from saltext.deploytoken.doctor import master

            functions = master.functions(opts)
            done += token_page.configured(token)
            done += token_page.page_checks(token)
            done += accounts.checks(token.config.people, people.account(opts, user))
            if scratch is not None:
                done += token_page.scratch_checks(token.store, scratch)
            done += master.repository_checks(functions, token.config.repositories)
        own = master.own_files(functions)
        runs = minions.master_runs(opts)
        done += master.file_checks(opts, functions, own)
        done += master.pillar_checks(opts, functions, runs)
        if token.config.ssh_gate:
            done += master.ssh_checks(opts)
        done += minions.checks(opts, own) if runs else [minions.nobody_asked(opts)]
    except errors.Invalid as exc:
        exc.details["checks"] = _data([*done, Check("scratch" if done else "configuration", False, str(exc))])
        raise
    checks = _data(done)
    if failed := [check.name for check in done if check.ok is False]:
        raise errors.StoreError(
            f"{len(failed)} of {len(done)} checks failed: {', '.join(failed)}; each line says what to do",
            checks=checks,
        )
    return {"checks": checks}


def _data(checks: Iterable[Check]) -> list[dict[str, Any]]:
    # Names and roles come from the wiki, and other words from minions.
    return [{"name": name, "ok": ok, "text": printable(text)} for name, ok, text in checks]
