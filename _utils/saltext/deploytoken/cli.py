"""
The edge of every runner of this extension: arguments in, reasons and exit codes out.

Salt loses failures at this edge (measured on 3008.3): ``salt-run`` exits 0 after a ``SaltInvocationError``, a
``TypeError`` or missing arguments; a returned ``retcode`` alone makes a ``salt.runner`` step succeed;
``__context__["retcode"]`` alone makes ``salt-run`` exit 0. Only both together reach every caller, so :func:`command`
sets both, and checks the arguments itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from saltext.deploytoken import errors


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    Make ``function`` a runner function whose every failure reaches the caller.

    An :class:`errors.Error` becomes ``{"reason", "message", "retcode", **details}``; wrong arguments are ``invalid``.
    A program gets data. Where whoever types it sees them otherwise, the module's ``__outputter__`` names Salt's
    outputter by function, as execution modules do.

    As a ``salt.runner`` step of an orchestration, it announces its beginning and its end on standard error.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # The loader hands the module its dunders only after the import, so look at call time.
        context = function.__globals__.get("__context__", {})
        # Salt adds keys such as __pub_user to the arguments of a function that takes **kwargs.
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("__")}
        try:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as exc:
                takes = ", ".join(signature.parameters) or "no arguments"
                raise errors.Invalid(f"{function.__name__}: {exc}; it takes: {takes}") from None
            with _announced_as_step(function):
                answer = function(*bound.args, **bound.kwargs)
        except errors.Error as exc:
            answer = _refusal(exc, context)
        except (KeyboardInterrupt, SystemExit):
            # Ctrl-C and SIGTERM: salt-run's handlers raise SystemExit(0), which Salt prints as a traceback.
            message = f"{function.__name__} was interrupted; `salt-run deploytoken.status` tells who holds the token"
            answer = _refusal(errors.Interrupted(message), context)
        return _for_people(function, answer)

    # Salt reads this signature and answers "Passed invalid arguments" with exit code 0; accept all, and refuse above.
    extra = [
        inspect.Parameter("unexpected", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("unknown", inspect.Parameter.VAR_KEYWORD),
    ]
    parameters = [*signature.parameters.values(), *extra]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    del wrapper.__wrapped__  # Salt 3008 would follow it back to the strict signature
    return wrapper


def user() -> str | None:
    """
    Return the user who started this job, as Salt has it; see :func:`people.account`.

    Salt writes ``__user__`` and ``__jid__`` into the globals of a module's first function, and those of
    :func:`command`'s wrapper are this module's (3006.29 and 3008.3): the runner itself has none.
    """
    found = globals().get("__user__")
    return None if found is None else str(found)


def jid() -> str | None:
    """Return the ID of this job, as Salt has it; see :func:`user`."""
    found = globals().get("__jid__")
    return None if found is None else str(found)


def say(line: str) -> None:
    """
    Print a line of progress on standard error; standard output is for the answer.

    The work goes on whether or not anybody reads this. Without a terminal, a lost ssh connection only breaks the pipe.
    """
    if sys.stderr is None:
        return  # closed, as by ``2>&-``: print would take standard output
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _announced_as_step(function: Callable[..., Any]) -> Iterator[None]:
    """Announce the beginning and the end of a step. A function that a person typed shows its own end."""
    name = _name(function)
    if _typed(function) in (None, name):
        yield
        return
    say(f"{name} …")
    try:
        yield
    except errors.Error as exc:
        say(f"{name}: {exc}")
        raise
    say(f"{name}: done")


def _for_people(function: Callable[..., Any], answer: Any) -> Any:
    """
    Add the name of the outputter to the answer of a function that was typed: ``salt-run`` prints with it.

    Salt itself reads ``__outputter__`` in execution modules only (3008.3). Who asks for another ``--out``, also in the
    master's configuration, has no use for the name.
    """
    found = function.__globals__
    outputter = found.get("__outputter__", {}).get(function.__name__)
    wanted = _typed(function) == _name(function) and not found["__opts__"].get("output")
    return {**answer, "outputter": outputter} if outputter and wanted and isinstance(answer, dict) else answer


def _typed(function: Callable[..., Any]) -> str | None:
    """What was typed; a step finds the orchestration's there (3008.3). Callers other than salt-run have none."""
    found: str | None = (function.__globals__.get("__opts__") or {}).get("fun")
    return found


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def _refusal(error: errors.Error, context: MutableMapping[str, Any]) -> dict[str, Any]:
    context["retcode"] = error.code
    return {**error.details, "reason": error.reason, "message": str(error), "retcode": error.code}
