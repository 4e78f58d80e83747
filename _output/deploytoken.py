"""
The answers of ``deploytoken.history`` and ``deploytoken.doctor`` for people
============================================================================

``salt-run deploytoken.history`` prints a table of 80 columns with it, and ``salt-run deploytoken.doctor`` a line for
each check. Another ``--out`` on the command line replaces it.

.. versionadded:: 0.1.0

CLI Example:

.. code-block:: bash

    salt-run deploytoken.history --out=deploytoken
"""

import textwrap

WIDTH = 80
COLUMNS = (16, 14, 14, 30)
MARKS = {True: "ok  ", False: "FAIL", None: "?   "}


def output(data, **kwargs):
    """
    Return the text for an answer of the runner, or for its refusal.
    """
    if not isinstance(data, dict):
        return str(data)
    lines = []
    if "checks" in data:
        lines += [f"{MARKS[check['ok']]}  {check['name']}: {check['text']}" for check in data["checks"]]
    if "holds" in data:
        lines += _history(data)
    if "message" in data:
        lines += [*([""] if lines else []), data["message"]]
    return "\n".join(lines)


def _history(found):
    rows = [("WHEN (UTC)", "WHO", "ENDED", "WHY, AND WHAT WAS DONE"), *(_row(item) for item in found["holds"])]
    lines = [line.rstrip() for row in rows for line in _lines_of_row(row)]
    if not found["holds"]:
        # A page can begin with entries that people wrote before there was a token.
        lines = textwrap.wrap(
            "No version of the page that was read shows a hold. What people wrote under its History by hand stands"
            " on the page itself.",
            WIDTH,
        )
    for item in found["unreadable"]:
        where = f"Version {item['version']} ({item['author'] or '?'}, {item['saved'] or '?'})"
        lines += textwrap.wrap(f"{where} unreadable: {item['why']}", WIDTH, subsequent_indent="  ")
    if not found["complete"]:
        lines.append("There is more: deploytoken.history limit=…, or the page's own history.")
    return lines


def _row(item):
    ended, by = item["ended"], item["ended_by"]
    if by and ended == "by hand":
        ended += f" ({by})"
    elif by and (ended == "taken over" or (item["account"] and by not in (item["account"], item["held_by"]))):
        ended += f" by {by}"
    marks = ["edited by hand"] if item["by_hand"] and item["ended"] != "by hand" else []
    marks += [f"version {number} unreadable" for number in item["unreadable"]]
    return (
        "\n".join(item[key].removesuffix(" UTC") for key in ("from", "to") if item[key]),
        "\n".join(filter(None, (item["held_by"], item["ref"]))),
        "\n".join([ended, *marks]),
        "\n".join(filter(None, (item["reason"], item["entry"]))),
    )


def _lines_of_row(row):
    """The lines of a table's row, each cell wrapped to its width."""
    cells = [
        [part for line in cell.split("\n") for part in textwrap.wrap(line, width) or [""]]
        for cell, width in zip(row, COLUMNS, strict=True)
    ]
    for number in range(max(map(len, cells))):
        yield "  ".join(
            (cell[number] if number < len(cell) else "").ljust(width)
            for cell, width in zip(cells, COLUMNS, strict=True)
        )
