"""Start a process on loopback and end it by its own id."""

import contextlib
import ctypes
import os
import pathlib
import random
import signal
import socket
import subprocess

_KEPT = []


def free_port():
    """
    A port that is free on loopback, and stays so until it is used by whom it was asked for.

    The kernel gives it to nobody who wants just any, and another test run does not get it from here while this one
    lasts: each port goes with a name in the abstract namespace of Unix sockets, which one process can have.
    """
    first, last = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [*range(10_000, first), *range(last + 1, 65_536)]
    for port in random.SystemRandom().sample(ports if len(ports) > 1000 else range(10_000, 65_536), 1000):
        name, listener = socket.socket(socket.AF_UNIX), socket.socket()
        with contextlib.suppress(OSError), listener:
            name.bind(f"\0deploytoken-test-port-{port}")
            listener.bind(("127.0.0.1", port))
            _KEPT.append(name)
            return port
        name.close()
    raise AssertionError("no free port on loopback")


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
