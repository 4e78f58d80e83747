"""
Which minions a target means: by their ids alone, or by what they say, compared with the master's list.

Each minion decides for itself whether a target means it. The list that Salt's master makes of a target is a guess from
what it has cached of each minion, and errs on the side of too many (``CkMinions`` says so). For a minion that is not
cached, ``not G@env:prod`` holds, and ``G@env:prod`` does not; an ipcidr holds on 3008.3, and does not on 3006.29.
Without a cache (``minion_data_cache: False``), a grain or an ipcidr means everybody. If the guess is published as a
list, every minion obeys it. So where more than ids count, each minion is asked with the target itself, and any
difference stops the deploy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import salt.utils.minions

from saltext.deploytoken import errors

#: The execution function that answers for each type of target whether it means the minion.
ASKED = {
    "grain": "match.grain",
    "grain_pcre": "match.grain_pcre",
    "pillar": "match.pillar",
    "pillar_pcre": "match.pillar_pcre",
    "pillar_exact": "match.pillar",
    "ipcidr": "match.ipcidr",
    "compound": "match.compound",
}
#: What combines the parts of a compound target.
OPERATORS = ("and", "or", "not", "(", ")")
#: The kinds of its parts: those that ids alone decide (a part without a kind is a glob), and those that minions do.
BY_ID, BY_DATA = "LE", "GPIJS"
#: What makes a glob of a name.
WILDCARDS = frozenset("*?[")
#: How many minions a command names before it is for all.
NAMED = 20


@dataclass(frozen=True)
class Target:
    """
    A target that was looked through, of any type but ``list`` and ``range``.

    ``expression`` is what a minion is asked; a nodegroup has become the ``compound`` that it stands for. ``names`` are
    the ids in it. ``by_id`` says that ids alone decide.
    """

    expression: str
    type: str
    names: frozenset[str] = frozenset()
    by_id: bool = False


def read(target: str, target_type: str, nodegroups: Mapping[str, Any] | None = None, key: str = "target") -> Target:
    """
    Return the target, if there is one way to understand it.

    ``nodegroups``
        As in the master's configuration.
    ``key`` (str)
        What the target is called where a person wrote it.

    :raises errors.Invalid: Salt's master and its minions would understand it in two ways, or not at all.
    """
    if target_type == "glob":
        _refuse_comma(target, target, key)
        return Target(target, "glob", by_id=True)
    if target_type == "pcre":
        try:
            re.compile(target)
        except re.error as error:
            raise errors.Invalid(f"{key}: {target!r} is no regular expression: {error}") from None
        return Target(target, "pcre", by_id=True)
    if target_type == "pillar_exact" and WILDCARDS & set(target):
        # There is no match.pillar_exact (3008.3, 3006.29). Without wildcards, match.pillar is the same.
        raise errors.Invalid(f"{key}: {target!r} has a wildcard, which {key}_type: pillar_exact does not take here")
    if target_type not in ("compound", "nodegroup"):
        return Target(target, target_type)
    words = _expanded([f"N@{target}"] if target_type == "nodegroup" else target.split(), nodegroups or {}, key)
    names, by_id = set[str](), True
    for word in words:
        if word in OPERATORS:
            continue
        kind, pattern = _part(word)
        if kind and kind not in BY_ID + BY_DATA:
            # R@: to the master, that is everybody. T@, M@: resources, which are no minions (3008.3).
            raise errors.Invalid(f"{key}: minions cannot be asked about {word!r}; list their ids instead: L@web1,web2")
        if not kind:
            _refuse_comma(word, target, key)
        if kind == "L":
            names.update(one for one in pattern.split(",") if one)
        elif not kind and not WILDCARDS & set(word):
            names.add(word)
        by_id = by_id and (not kind or kind in BY_ID)
    return Target(" ".join(words), "compound", frozenset(names), by_id)


def _refuse_comma(word: str, target: str, key: str) -> None:
    if "," in word:
        # 3008 splits it where the master looks for keys; 3006, and the minions of both, do not.
        listed = f"{key}_type: list" if word == target else f"L@{word}"
        raise errors.Invalid(
            f"{key}: {target!r} is a pattern, in which a comma separates nothing; for a list of ids, write {listed};"
            f" for several patterns, {key}_type: compound and 'web* or db*'"
        )


def _expanded(words: Collection[str], nodegroups: Mapping[str, Any], key: str) -> list[str]:
    found = []
    for word in words:
        kind, name = _part(word)
        if kind != "N":
            found.append(word)
            continue
        parts = salt.utils.minions.nodegroup_comp(name, nodegroups) if name in nodegroups else ""
        if not parts:
            raise errors.Invalid(f"{key}: there is no nodegroup {name!r} in nodegroups of the master's configuration")
        # Salt puts a group into brackets only if it has another group in it (3008.3, 3006.29). So is it reached by
        # `salt` itself, and so it stays here.
        found += parts.split() if isinstance(parts, str) else [str(part) for part in parts]
    return found


def _part(word: str) -> tuple[str | None, str]:
    """Return the kind of a part of a compound target, which a glob has not, and what it matches."""
    found = salt.utils.minions.parse_target(word)
    return found["engine"], found["pattern"]


def compare(
    listed: Collection[str] | None, said: Mapping[str, bool], unheard: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """
    Return the ids that a target means, sorted, and ``{id: why}`` of those of which that is not clear.

    ``listed``
        Those in the master's list; None if the master keeps nothing by which to make one.
    ``said``
        Whether the target means it, by each minion that said so.
    ``unheard``
        Why there is no word of each of the others.
    """
    if listed is None:
        why = (
            "nobody else knows whether the target means it (minion_data_cache is off): start it, or name ids in a list"
        )
        failed = {minion: f"{reason}; {why}" for minion, reason in unheard.items()}
        return sorted(minion for minion, meant in said.items() if meant), failed
    # What is down and not listed is left out: `salt` itself would not reach it either.
    failed = {minion: why for minion, why in unheard.items() if minion in listed}
    differ = sorted(minion for minion, meant in said.items() if meant != (minion in listed))
    asked = f"-L {','.join(differ)}" if len(differ) <= NAMED else "'*'"
    for minion in differ:
        failed[minion] = (
            f"says that the target {'means' if said[minion] else 'does not mean'} it, but the master's cache says"
            f" otherwise; refresh the cache, and run again: salt {asked} saltutil.refresh_pillar wait=True"
        )
    return sorted(minion for minion in listed if said.get(minion)), failed


def environments(top: Collection[str]) -> list[str]:
    """
    Return the environments to sync a minion's modules from, by those that its top file has for it.

    By itself, Salt takes those of the top file, or ``base`` if there are none, and removes what others brought
    (3008.3, 3006.29). This extension is in ``base`` as a rule. It has to stay where the top file has ``dev`` alone.
    """
    return list(top) if "base" in top else ["base", *top]
