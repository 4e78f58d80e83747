"""
Salt's commands without the second of CPU in which Python imports Salt: a process that has done so forks for each.

What comes after the fork is all that a command does in a process of its own, up to the end of Python. Whoever forks is
this file as a program; it ends with the test run.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time

_LOCK = threading.Lock()
_FORKERS = []


def run(command, timeout, environment):
    """As ``subprocess.run``, for one of Salt's programs and its words: exit code, stdout and stderr."""
    (stdout, out), (stderr, err) = os.pipe(), os.pipe()
    told, tell = socket.socketpair()
    with _LOCK, told, tell:
        _send(_forker(), [command, environment], [out, err, tell.fileno()])
        os.close(out)
        os.close(err)
        answers = told.makefile()
    with answers:
        child = int(answers.readline())
        try:
            said = _read([stdout, stderr], command, timeout)
            return int(answers.readline()), *said
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            answers.readline()  # it has ended
            raise
        finally:
            os.close(stdout)
            os.close(stderr)


def _forker():
    if not _FORKERS:
        here, there = socket.socketpair()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with there:
            # Isolated, as some modules beside this file are named like Python's own. The interpreter that the commands
            # have themselves: where .venv is a link, Salt would have two paths, and take its own modules for others.
            command = [_interpreter(), "-I", __file__, str(there.fileno())]
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
            process = subprocess.Popen(
                command, cwd="/", env=clean, pass_fds=[there.fileno()], start_new_session=True, **streams
            )
        _FORKERS.append((here, process))
    return _FORKERS[0][0]


def _interpreter():
    with open(os.path.join(os.path.dirname(sys.executable), "salt-run"), encoding="utf-8") as script:
        named = script.readline().removeprefix("#!").strip()
    return named if os.access(named, os.X_OK) and "python" in os.path.basename(named) else sys.executable


def _send(forker, request, fds):
    text = json.dumps(request).encode()
    socket.send_fds(forker, [len(text).to_bytes(8, "big")], fds)
    forker.sendall(text)


def _receive(requests):
    """The next request and its file descriptors; the end of this process once nobody can ask any more."""
    length, fds, _, _ = socket.recv_fds(requests, 8, 3)
    if not length:
        os._exit(0)
    return json.loads(requests.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)), fds


def _read(pipes, command, timeout):
    """The texts that are written into these pipes until all who can have ended."""
    said = dict.fromkeys(pipes, b"")
    end = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            if (left := end - time.monotonic()) <= 0:
                raise subprocess.TimeoutExpired(command, timeout, *said.values())
            for key, _ in selector.select(left):
                if more := os.read(key.fd, 1 << 16):
                    said[key.fd] += more
                else:
                    selector.unregister(key.fd)
    return [text.decode() for text in said.values()]


def _serve(requests):
    """Fork for each request, and return there: the command, and its environment."""
    while True:
        request, fds = _receive(requests)
        if first := os.fork():
            os.waitpid(first, 0)
            for fd in fds:
                os.close(fd)
        elif os.fork():
            os._exit(0)  # at once, so that the next request does not wait for this command
        else:
            break
    if command := os.fork():
        os.write(fds[2], b"%d\n" % command)
        for fd in (*fds[:2], requests.fileno()):
            os.close(fd)
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            os.write(fds[2], b"%d\n" % code)
        os._exit(0)
    os.close(fds[2])
    requests.close()
    for fd, stream in zip(fds, (1, 2), strict=False):
        os.dup2(fd, stream)
        os.close(fd)
    return request


if __name__ == "__main__":
    import salt.cli.call
    import salt.cli.run
    import salt.cli.salt
    import salt.netapi
    import salt.runner
    import salt.scripts
    import salt.state

    sys.argv, environment = _serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(environment)
    program = os.path.basename(sys.argv[0]).replace("-", "_")
    sys.exit(getattr(salt.scripts, {"salt": "salt_main"}.get(program, program))())
