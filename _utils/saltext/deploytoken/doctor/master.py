"""
The doctor's checks of the master: repositories, file server, the orchestration's states and the external pillar.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import salt.fileserver
import salt.loader

from saltext.deploytoken import errors, repositories, text
from saltext.deploytoken.repositories.settings import Repository
from saltext.deploytoken.stores.base import Check

#: What the orchestration and the gate's state consist of, as the file server knows it.
SLS = ("deploytoken/deploy.sls", "deploytoken/gate.sls", "deploytoken/busy.sls")
#: Brings the master's own part up to date, however it was installed.
SYNC = "run `salt-run saltutil.sync_all` (after an installation with pip, install it again), and restart the master"


def functions(opts: Mapping[str, Any]) -> Any:
    """Return Salt's execution functions by name, as on a minion: with grains, without which many modules complain."""
    opts = {**opts, "grains": opts.get("grains") or salt.loader.grains(dict(opts)), "pillar": {}}
    return salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))


def repository_checks(functions: Any, configured: Sequence[Repository]) -> Iterator[Check]:
    """Yield a check for each repository: whether it could be deployed from now. Fetches."""
    if not configured:
        return
    try:
        found = repositories.status(configured, functions)["repositories"]
    except errors.Repositories as exc:
        found = exc.details["repositories"]
    except errors.Invalid as exc:
        yield Check("repositories", False, str(exc))
        return
    for name, answer in found.items():
        if answer.get("problem"):
            yield Check(f"repository {name}", False, answer["problem"])
            continue
        new = f", and the next deploy brings {text.count(answer['behind'], 'commit')}" if answer["behind"] else ""
        commit = (answer["before"] or "")[:8]
        yield Check(f"repository {name}", True, f"clean, at {commit} of {answer['branch']}{new}")


def own_files(functions: Any) -> dict[str, str | None] | None:
    """Return the digests of what minions need, as it is installed on this master; None where nothing of it is."""
    digests = functions.get("deploysetup.digests")
    return None if digests is None else digests()


def file_checks(opts: Mapping[str, Any], functions: Any, own: Mapping[str, str | None] | None) -> Iterator[Check]:
    """Yield the checks of what the file server has for minions, and of the states that the orchestration needs."""
    if own is None:
        yield Check("file server", False, f"this master itself lacks the extension's execution modules: {SYNC}")
    else:
        yield _served(opts, own)
    # Only an orchestration loads states on a master.
    if "deploytoken.held" in salt.loader.states(dict(opts), functions, {}, {}):
        yield Check("orchestration", True, "its states are installed")
    else:
        yield Check("orchestration", False, f"its states (_states/deploytoken.py) are not installed: {SYNC}")


def pillar_checks(opts: Mapping[str, Any], functions: Any, master_runs: bool) -> Iterator[Check]:
    """Yield the check of the external pillar, asked here as a master that starts now would ask it."""
    name = "external pillar"
    entries = opts.get("ext_pillar") or []
    if not any("deploytoken" in entry for entry in entries if isinstance(entry, dict)):
        yield Check(
            name,
            False if master_runs else None,
            "not configured, so no gate can open: add `ext_pillar: [{deploytoken: {}}]` to the master's configuration,"
            " and restart the master",
        )
        return
    found = salt.loader.pillars(dict(opts), functions).get("deploytoken")
    if found is None:
        yield Check(name, False, f"configured, but its module (_pillar/deploytoken.py) is not installed: {SYNC}")
        return
    question = {"nonce": secrets.token_hex(16), "ref": "", "fun": "deploytoken.doctor"}
    answer = found(opts["id"], {}, None, extra_minion_data={"deploytoken": question}).get("deploytoken") or {}
    if answer.get("nonce") != question["nonce"] or "held_by" not in answer:
        yield Check(name, False, f"gives gates no answer: {answer.get('error') or 'another module has its name'}")
    else:
        yield Check(name, True, "configured, and answers here")


def ssh_checks(opts: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the check of the gate before salt-ssh's states."""
    from saltext.deploytoken.machines import ssh  # late: salt-ssh's client is a heavy import

    yield Check("salt-ssh", *ssh.check_gate(opts))


def _served(opts: Mapping[str, Any], own: Mapping[str, str | None]) -> Check:
    name = "file server"
    try:
        server = salt.fileserver.Fileserver({**opts, "hash_type": "sha256"})
        served = {path: _digest(server, path) for path in (*SLS, *(f"_{path}" for path in own))}
    except Exception as exc:  # whatever a backend makes of its settings and of its caches
        return Check(name, False, f"cannot be asked: {text.last_line(exc)}; correct file_roots or the remotes")
    if missing := [path for path in served if not served[path]]:
        return Check(
            name,
            False,
            f"has no {_some(missing)}: add {_root()} to file_roots of the environment base, or this repository to"
            " gitfs_remotes (then `salt-run fileserver.update`), and restart the master",
        )
    if other := [f"_{path}" for path, digest in own.items() if digest != served[f"_{path}"]]:
        return Check(name, False, f"has {_some(other)} in another version than this master itself: {SYNC}")
    return Check(name, True, "has the orchestration and what minions need, in the version of this master")


def _digest(server: Any, path: str) -> str | None:
    """The SHA-256 digest of a file that is served; None if it is not."""
    found = server.file_hash({"path": path, "saltenv": "base"})
    # 3008.3: a text where there is no such file, and from gitfs bytes where it has been asked before.
    digest = found.get("hsum") if isinstance(found, dict) else None
    return digest.decode() if isinstance(digest, bytes) else digest


def _root() -> str:
    """What to add to file_roots: pip brings a folder for it."""
    folder = Path(__file__).resolve().parents[1] / "files"
    return str(folder) if folder.is_dir() else "a checkout of this extension"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
