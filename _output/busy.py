"""
The answer of ``busy.check`` as a table for people
==================================================

``salt '*' busy.check``, ``salt-call busy.check`` and ``salt-run busy.check`` all print it, in 80 columns, the oldest
jobs first. Another ``--out`` on the command line replaces it.

.. versionadded:: 0.1.0

CLI Example:

.. code-block:: bash

    salt '*' busy.check --out=busy
"""

import textwrap

WIDTH = 80


def output(data, **kwargs):
    """
    Return the text for an answer of the runner, or for the answers of execution modules, ``{minion: answer}``.
    """
    if isinstance(data, dict) and isinstance(data.get("minions"), dict):
        lines = [] if data.get("message") is None else [*textwrap.wrap(str(data["message"]), WIDTH), ""]
        for minion, answer in sorted(data["minions"].items()):
            lines += _minion(minion, answer)
        for name, why in sorted((data.get("failed") or {}).items()):
            lines += [name, *_row("unknown", "", "", why)]
        for one in data.get("consented") or []:
            lines += ["", f"{one['by']} agreed to the interruption of:"]
            lines += [f"  {blocker['id']}" for blocker in one["to"]]
        if data.get("next"):
            why, command = data["next"]
            # In one line, so that it can be pasted.
            lines += ["", *textwrap.wrap(f"{why}:", WIDTH), f"  {command}"]
        return "\n".join(lines)
    if isinstance(data, dict) and data and all(_is_answer(answer) for answer in data.values()):
        return "\n".join(line for minion, answer in sorted(data.items()) for line in _minion(minion, answer))
    if isinstance(data, dict) and "message" in data:
        return "\n".join(textwrap.wrap(str(data["message"]), WIDTH))
    return str(data)


def _is_answer(answer):
    return isinstance(answer, dict) and {"idle", "blockers", "unknowns"} <= set(answer)


def _minion(minion, answer):
    if not _is_answer(answer):
        return [f"{minion}: {answer}"]
    clear = answer["idle"] is True and not answer["unknowns"]
    word = "busy" if answer["blockers"] else "idle" if clear else "unknown"
    note = f" ({answer['note']})" if answer.get("note") else ""
    lines = [f"{minion}: {word}{note}"]
    for blocker in answer["blockers"]:
        lines += _row(_age(blocker["age"]), blocker["probe"], blocker["user"] or "-", blocker["what"])
        if blocker["ask"] and blocker["ask"] not in (blocker["user"], blocker["what"]):
            lines += _row("", "", "", f"ask: {blocker['ask']}")
    for unknown in answer["unknowns"]:
        lines += _row("unknown", unknown["probe"], "-", unknown["why"])
    for item in answer["info"]:
        lines += _row("(info)", item["probe"], item["user"] or "-", item["what"])
    return lines


def _row(age, probe, user, what):
    """A row of four columns. A long text in the last one continues in the same column of the next lines."""
    head = f"  {age:<11} {_cut(probe, 9):<9} {_cut(user, 12):<12} "
    return textwrap.wrap(what, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]


def _cut(text, width):
    return text if len(text) <= width else text[: width - 1] + "…"


def _age(seconds):
    """A length of time in words: in the largest unit of which it has two, or which it is exactly."""
    if seconds is None:
        return "?"
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size or seconds == size:
            number = seconds // size
            return f"{number} {word}" + ("s" if number > 1 else "")
    return f"{seconds} s"
