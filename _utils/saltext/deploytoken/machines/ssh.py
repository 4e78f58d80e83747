"""
One question to many machines over salt-ssh, without a
master.

Who is expected stands in the roster. What comes back is told apart here, because salt-ssh's client returns successes,
errors of ssh and texts of whatever failed under the same keys, and no return code of its own (measured on 3008.3):
only a dictionary with a ``return`` and without an ``_error`` is what a function returned.
"""

import contextlib
import math
import threading

import psutil
import salt.client.ssh.client
import salt.loader
import salt.roster

from saltext.deploytoken import errors
from saltext.deploytoken.machines.master import line

#: How Salt targets entries of a roster. Others match nobody there.
TYPES = ("glob", "pcre", "list", "nodegroup", "range")
#: What ssh and its helpers write besides the reason.
NOISE = ("Warning: Permanently added", "Pseudo-terminal", "Connection to")
#: What to say when ssh or salt-ssh says this.
REMEDIES = {
    "host key needs to be accepted": "its host key is not known here; log in once with ssh, and compare the key",
    "HOST IDENTIFICATION HAS CHANGED": "its host key is another than before; find out why before you accept it",
    "Host key verification failed": "its host key is not known here; log in once with ssh, and compare the key",
    "Unable to locate appropriate python": "it has no python3 on its PATH; install it, or see set_path in the roster",
    "password is required": "sudo asks for a password there; let that user use sudo without one, or log in as root",
}


def expect(opts, target, target_type="glob"):
    """Return the ids in the roster that a target means, and ``{id: why}`` of those that it names and that are not."""
    if target_type not in TYPES:
        raise errors.Invalid(f"target_type: {target_type!r} is none of {', '.join(TYPES)}, which salt-ssh knows")
    named = set(target if isinstance(target, list) else filter(None, map(str.strip, str(target).split(","))))
    asked = sorted(named) if target_type == "list" else target
    try:
        found = set(salt.roster.Roster(dict(opts), opts.get("roster", "flat")).targets(asked, target_type))
    except Exception as error:  # whatever the roster's module makes of a file or a pattern that is odd
        raise errors.Invalid(
            f"the roster cannot be read for the target {target!r}: {line(error)}; correct the target, or name the"
            " roster with roster_file"
        ) from None
    return sorted(found), dict.fromkeys(named - found if target_type == "list" else (), "is not in the roster")


def returns(opts, ids, fun, arg=(), kwarg=None, timeout=None, limit=None):
    """
    Yield ``(id, full return, None)`` for each as it returns, and ``(id, None, why)`` for each that could not be asked.

    ``timeout`` is for connecting, in seconds; default is Salt's own ``ssh_timeout``. ``limit`` is for all of it:
    whoever is still at it after so many seconds has not answered. Without it, whoever is at it is waited for as long
    as the connection lives. Every id comes once.
    """
    left = set(ids)
    # In whole seconds. A machine that goes down does not say so; three of these without a sign end the connection.
    options = {"ssh_timeout": 0, "timeout": math.ceil(timeout), "ssh_keepalive_interval": 5} if timeout else {}
    try:
        client = salt.client.ssh.client.SSHClient(mopts=dict(opts))
        with _ended_after(limit) as ended:
            # As a list: of a text, Salt asks the name service whether it is a host.
            for returned in client.cmd_iter(sorted(ids), fun, list(arg), tgt_type="list", kwarg=kwarg, **options):
                for name, answer in returned.items():
                    if name in left:
                        left.remove(name)
                        full, why = told(answer)
                        if full is None and ended.is_set():
                            why = f"did not answer within {limit:g} seconds over ssh, and may still be at it"
                        yield name, full, why
        why = "was not asked by salt-ssh"
    except Exception as error:  # whatever salt-ssh trips over before it asks anybody: a key, the thin, a returner
        why = f"could not be asked over ssh: {type(error).__name__}: {line(error)}"
    yield from ((name, None, why) for name in sorted(left))


@contextlib.contextmanager
def _ended_after(limit):
    """
    End what salt-ssh starts in this block and has not ended after so many seconds; yield the event that says so.

    salt-ssh has a process for each machine and waits for all of them, for ever if one hangs: its time-outs are for
    connecting, and the keepalive is answered by a sshd whatever becomes of the command (3008.3). Of a process that is
    killed, it says that there are no data.
    """
    ended, over = threading.Event(), threading.Event()
    others = psutil.Process().children()

    def watch():
        wait = limit
        # Those whose turn had not come by then as well.
        while not over.wait(wait):
            ended.set()
            wait = 0.2
            for child in psutil.Process().children():
                if child not in others:
                    _kill(child)

    watcher = threading.Thread(target=watch, daemon=True)
    if limit:
        watcher.start()
    try:
        yield ended
    finally:
        over.set()
        if limit:
            watcher.join()


def _kill(process):
    """Kill a process, and then its own: ssh is in a session of its own, and would stay."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def check_gate(opts):
    """Whether salt-ssh finds the gate that ``ssh_gate`` asks for, and a line about it."""
    if "deploygate.check" in salt.loader.ssh_wrapper(dict(opts)):
        return True, "runs states only under a hold (ssh_gate)"
    return False, (
        "does not find the gate: install this extension with pip, name its folder under module_dirs, or run"
        " `salt-run saltutil.sync_wrapper` (Salt 3008)"
    )


def told(answer):
    """What salt-ssh's client returned for one id, as a full return and None, or None and why there is none."""
    if isinstance(answer, dict) and "return" in answer and "_error" not in answer:
        return {"ret": answer["return"], "retcode": answer.get("retcode", 0)}, None
    if isinstance(answer, dict) and "_error" in answer:
        return None, f"gave no answer over ssh: {_reason(answer)}"
    if isinstance(answer, str) and "did not return any data" in answer:
        return None, "gave no answer over ssh: the process that asked it was ended"
    if isinstance(answer, list) or (isinstance(answer, str) and answer.strip()):
        # What did not compile here, was refused here, or raised there: nothing was run.
        return {"ret": answer, "retcode": 1}, None
    return None, f"answered nothing to use over ssh: {line(answer)}"


def _reason(answer):
    """The line of an error that says what is wrong, and what helps where that is known."""
    heard = [str(answer.get(key) or "") for key in ("stderr", "stdout")]
    for sign, words in REMEDIES.items():
        if any(sign in text for text in heard):
            return words
    for text in heard:
        lines = [one for one in text.splitlines() if one.strip() and not one.strip().startswith(NOISE)]
        if lines:
            return line(lines[-1].removeprefix("ssh: "))
    return line(answer["_error"])
