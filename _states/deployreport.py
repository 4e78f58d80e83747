"""
The end of a deploy, as a page to read and to paste.

.. versionadded:: 0.1.0

``deployreport.shown`` is the last step of the orchestration ``deploytoken/deploy.sls``. Its comment is a page of 80
columns: how each step and each minion ended, what blocked, who agreed, who rebooted, the entry in the History, and the
commands that go on.

This state is for the master (``salt-run state.orchestrate``).
"""

import contextlib
import copy
import json
import shlex
import sys
import textwrap

# Salt shows comments 14 columns from the left.
WIDTH = 80 - 14


def shown(name, ref=None, test=False):
    """
    Show how the orchestration went, so far.

    .. code-block:: yaml

        report:
          deployreport.shown:
            - order: last

    name
        Not used.

    ref
        (string) The ref under which the deploy ran.

    test
        (bool) It was a test, as with ``test=True`` for the whole orchestration.

    It changes nothing, and never fails: the step that failed does, and with it the orchestration. Where
    ``state_output`` is not ``full``, Salt leaves out comments, so that the page is on standard error then.
    """
    steps = sorted(copy.deepcopy(dict(__running__)).values(), key=lambda step: step.get("__run_num__", 0))
    deploy = __pillar__.get("deploytoken")
    test = test or __opts__["test"]
    text = page(steps, copy.deepcopy(dict(deploy)) if isinstance(deploy, dict) else {}, ref, test)
    # `salt-run --quiet` shows no comment at all.
    if __opts__.get("quiet") or not str(__opts__.get("state_output", "full")).startswith("full"):
        with contextlib.suppress(OSError):  # nobody may be there any more
            print(f"\n{text}\n", file=sys.stderr, flush=True)
    # A failure here would have the page shown twice: Salt logs the comments of failures as well.
    return {"name": name, "result": None if test else True, "comment": text, "changes": {}}


def page(steps, deploy, ref=None, test=False):
    """
    Return the page: text in lines of at most 66 columns, commands excepted, which are to be pasted.

    steps
        (list) The states' returns, in order.

    deploy
        (dict) What was asked for.
    """
    minions = _collected(steps, "minions")
    target, cause = deploy.get("target"), _cause(steps)
    # Before the token is taken, the ref means nothing.
    held = any(step.get("ref") == ref for step in steps) or deploy.get("ref")
    reason = f"{deploy.get('reason', 'no reason')}" + (f" (ref {ref})" if held else "")
    parts = [
        [_headline(steps, minions, test), *_wrapped(reason)],
        _table([(step["__id__"], *_ended(step)) for step in steps], whole=cause["__id__"] if cause else None),
        _table([(minion, *_applied(minions[minion], test)) for minion in sorted(minions)] + _not_started(steps)),
        _notes(steps),
        _ways_on(steps, deploy),
    ]
    if target:
        parts[0][1:1] = _wrapped(", ".join(target) if isinstance(target, list) else str(target))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _cause(steps):
    """The first step that failed, or None: those after it may have failed for its sake."""
    failed = (step for step in steps if step.get("result") is False and step.get("__state_ran__", True))
    return next(failed, None)


def _headline(steps, minions, test):
    failed = any(step.get("result") is False for step in steps)
    if test:
        return "TEST: nothing was changed" + (", and a deploy would be stopped" if failed else "")
    if not minions and not any(step.get("reason") == "unknown" for step in steps):
        return "NOTHING DEPLOYED"
    return "FAILED" if failed else "DEPLOYED"


def _ended(step):
    """A step's end in a word, its time, and what it says in short."""
    if not step.get("__state_ran__", True):
        return "not run", "", ""
    word = {True: "ok", None: "test"}.get(step.get("result"), "FAILED")
    return word, _time((step.get("duration") or 0) / 1000), _first_line(step)


def _applied(summary, test):
    """How a minion ended, its time, and what changed or failed there."""
    if not summary["result"]:
        what = "; ".join(": ".join(filter(None, [one["id"], one["comment"]])) for one in summary["failed"])
        return "silent" if summary["silent"] else "FAILED", _time(summary["seconds"]), what
    changed = summary["changed"]
    what = f"{len(changed)} {'would change' if test else 'changed'}: {', '.join(changed)}" if changed else "no changes"
    return "ok", _time(summary["seconds"]), what


def _not_started(steps):
    return [(minion, "not started", "", "") for step in steps for minion in step.get("not_started") or []]


def _notes(steps):
    """Who agreed to what, who rebooted, and the entry."""
    given = [step["consented"] for step in steps if (step.get("consented") or {}).get("to")]
    covered = {blocker["id"]: blocker["what"] for consented in given for blocker in consented["to"]}
    notes = []
    if given:
        by = ", ".join(sorted({str(consented["by"]) for consented in given}))
        notes.append(("Consent", f"{by}: " + "; ".join(f"{covered[key]} ({key})" for key in sorted(covered))))
    for step in steps:
        if step.get("rebooted"):
            notes.append(("Rebooted", ", ".join(step["rebooted"])))
        entry = (step.get("changes") or {}).get("entry")
        if entry:
            notes.append(("History", entry))
    return [line for label, text in notes for line in _wrapped(text, f"{label}: ".ljust(10))]


def _ways_on(steps, deploy):
    """What to do about the step that failed, and the commands that go on or clean up."""
    cause = _cause(steps)
    # It may have lines to paste; those after the first are as they are.
    lines = str((cause or {}).get("comment") or "").strip().splitlines()[1:]
    ways = [way for step in steps for way in step.get("next") or []]
    if cause and not ways and deploy:
        asked = shlex.quote(json.dumps({"deploytoken": deploy}))
        ways = [("Then run again", f"salt-run state.orchestrate deploytoken.deploy pillar={asked}")]
    for why, command in ways:
        lines += [f"{why}:", f"  {command}"]
    return lines


def _table(rows, whole=None):
    """Lines of columns. The last one goes on below itself, in at most three lines, but in the row called ``whole``."""
    if not rows:
        return []
    name, word = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = []
    for row in rows:
        head = f"{row[0].ljust(name)}  {row[1].ljust(word)}  {row[2].rjust(7)}  "
        if len(head) > WIDTH // 2:  # a long id has a line of its own
            lines.append(row[0])
            head = f"  {row[1].ljust(word)}  {row[2].rjust(7)}  "
        found = _wrapped(row[3], head)
        lines += found if len(found) <= 3 or row[0] == whole else [*found[:2], found[2][: WIDTH - 2] + " …"]
    return [line.rstrip() for line in lines]


def _wrapped(text, head=""):
    text = " ".join(str(text).split())
    lines = textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    return lines or [head]


def _time(seconds):
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _first_line(step):
    return (str(step.get("comment") or "").strip().splitlines() or [""])[0]


def _collected(steps, key):
    return {name: value for step in steps for name, value in (step.get(key) or {}).items()}
