"""
The doctor's checks of the minions, all asked at once: their version of this extension, and their gates.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from saltext.deploytoken import machines, text
from saltext.deploytoken.machines.base import TIMEOUT
from saltext.deploytoken.stores.base import Check

#: Seconds for a master on this machine to take a connection.
CONNECT = 2


def master_runs(opts: Mapping[str, Any]) -> bool:
    """Return whether a master takes connections here. Salt's own client finds out after a minute and a half."""
    try:
        socket.create_connection(_address(opts), timeout=CONNECT).close()
    except OSError:
        return False
    return True


def nobody_asked(opts: Mapping[str, Any]) -> Check:
    """Return the check where no master runs."""
    host, port = _address(opts)
    return Check("minions", None, f"no master takes connections on {host} port {port}, so no minion was asked")


def checks(opts: Mapping[str, Any], own: Mapping[str, str | None] | None) -> Iterator[Check]:
    """Yield the checks of all accepted minions; ``own`` are the digests of the files on this master."""
    reached = machines.connect(opts)
    known, unknown = reached.expect("*")
    ids = sorted({*known, *unknown})
    if not ids:
        yield Check("minions", None, "no minion's key is accepted; `salt-key --list all` shows them")
        return
    timeout = min(TIMEOUT, reached.patience)
    returns = reached.collect_returns(ids, "deploysetup.report", timeout=timeout)
    if silent := [minion for minion in ids if minion not in returns]:
        yield Check(
            "silent minions",
            None,
            f"{', '.join(silent)} did not answer within {timeout:g} seconds (is it up? salt-run manage.status)",
        )
    yield from judge(*understand(returns), own or {})


def understand(returns: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what ``deploysetup.report`` says on each minion, and ``{id: why}`` of those that answer anything else."""
    reports, failed = {}, {}
    for minion, answer in returns.items():
        report = answer["ret"]
        if isinstance(report, dict) and all(isinstance(report.get(part), dict) for part in ("files", "gate")):
            reports[minion] = report
        else:
            failed[minion] = text.last_line(report) or "nothing"
    return reports, failed


def judge(
    reports: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str], own: Mapping[str, str | None]
) -> Iterator[Check]:
    """
    Yield the checks of the minions that answered.

    ``reports`` has what ``deploysetup.report`` returned on each, and ``failed`` what else one answered.
    """
    yield from _versions(reports, failed, own)
    yield from _live_token(reports)
    yield from _gates(reports)


def _versions(
    reports: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str], own: Mapping[str, str | None]
) -> Iterator[Check]:
    wrong = {minion: f"says: {why}" for minion, why in failed.items()}
    for minion, report in reports.items():
        files = report["files"]
        if other := [name for name in own if files.get(name) != own[name]]:
            first, more = other[0], f" and {len(other) - 1} more" if len(other) > 1 else ""
            wrong[minion] = f"has another _{first}{more} than this master"
    if wrong:
        target = "'*'" if len(wrong) == len(reports) + len(failed) else f"-L {','.join(sorted(wrong))}"
        yield Check("minions", False, f"{text.join_reasons(wrong)}; run `salt {target} saltutil.sync_all`")
    elif reports:
        yield Check("minions", True, f"{text.count(len(reports), 'minion')} with the files of this master's version")


def _live_token(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    """Whether the master that *runs* answers gates: it loads a new external pillar when it starts."""
    without = sorted(minion for minion, report in reports.items() if report["gate"].get("live_token") is not True)
    if without:
        lines = [line for line in reports[without[0]]["gate"].get("open") or [] if "gate cannot open" in line]
        why = lines[0] if lines else "The gate's module did not say why."
        yield Check(
            "live token",
            False,
            f"the running master gives {', '.join(without)} no live token. {why} If the check `external pillar` is"
            " well, restart the master.",
        )
    elif reports:
        yield Check("live token", True, "the running master answers gates")


def _gates(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    gates = {minion: report["gate"] for minion, report in sorted(reports.items())}
    without = [minion for minion, gate in gates.items() if not (gate.get("executor") or gate.get("gate_state"))]
    lenient = [minion for minion in gates if minion not in without and gates[minion].get("mode") != "enforce"]
    strict = [minion for minion in gates if minion not in without and minion not in lenient]
    # What is to be done about the live token stands on its own line.
    ways = {
        minion: [line for line in gates[minion].get("open") or [] if "gate cannot open" not in line]
        for minion in strict
    }
    if passable := {minion: " ".join(lines) for minion, lines in ways.items() if lines}:
        yield Check("gate", False, " | ".join(f"{minion}: {lines}" for minion, lines in passable.items()))
    elif strict:
        yield Check("gate", True, f"in place on {', '.join(strict)}: executor, gate state")
    if lenient:
        yield Check("lenient gate", None, f"lets every run pass on {', '.join(lenient)}: set deploygate to enforce")
    if without:
        yield Check(
            "no gate",
            None,
            f"on {', '.join(without)}: states run there without the token; put deploytoken.gate first into top.sls,"
            " and `module_executors: [deploygate, direct_call]` into the minion's configuration",
        )


def _address(opts: Mapping[str, Any]) -> tuple[str, int]:
    # As Salt's own client does: to the address on which the master listens.
    return str(opts.get("interface") or "127.0.0.1"), int(opts.get("ret_port") or 4506)
