"""Start a process on loopback and end it by its own id."""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess


def free_port():
    """A port that was free on loopback a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listening(port):
    """Whether something accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def tail(path, lines=30):
    """The end of a log, for a message about what went wrong."""
    path = pathlib.Path(path)
    text = path.read_text(errors="replace") if path.exists() else "(no log)"
    return "\n".join(text.splitlines()[-lines:])


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def start(command, log, at_death=signal.SIGTERM, **options):
    """
    Start ``command`` in a process group of its own, with its output in the file ``log``.

    It is ended by :py:func:`end`, or by the signal ``at_death`` when the test run itself is killed: whoever does that
    does not leave its servers behind.
    """
    with open(log, "ab") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, at_death),
            **options,
        )


def end(process, timeout=10):
    """End the process, and what is left of its group: asked first, then killed. Only ever what was started here."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
