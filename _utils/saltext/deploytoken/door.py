"""
The edge of every runner of this extension: arguments in, reasons and exit codes out.

Salt loses failures at this edge (measured on 3008.3): ``salt-run`` exits 0 after a ``SaltInvocationError``, a
``TypeError`` or missing arguments; a returned ``retcode`` alone makes a ``salt.runner`` step succeed;
``__context__["retcode"]`` alone makes ``salt-run`` exit 0. Only both together are seen everywhere, so :func:`command`
sets both, and checks the arguments itself.
"""

import contextlib
import functools
import inspect
import re
import sys
import time

from saltext.deploytoken import errors

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_YEAR = 366 * 86400


def command(function):
    """
    Make ``function`` a runner function whose every failure reaches the caller.

    An :class:`errors.Error` becomes ``{"reason", "message", "retcode", **details}``; wrong arguments are ``invalid``.
    As a step of an orchestration, it tells on standard error that it begins and ends.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        # The loader hands the module its dunders only after the import, so look at call time.
        context = function.__globals__.get("__context__", {})
        # Salt adds keys such as __pub_user to the arguments of whoever takes **kwargs.
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("__")}
        try:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as exc:
                takes = ", ".join(signature.parameters) or "no arguments"
                raise errors.Invalid(f"{function.__name__}: {exc}; it takes: {takes}") from None
            with _told(function):
                return function(*bound.args, **bound.kwargs)
        except errors.Error as exc:
            return _refusal(exc, context)
        except (KeyboardInterrupt, SystemExit):
            # Ctrl-C and SIGTERM: salt-run's handlers raise SystemExit(0), which Salt prints as a traceback.
            message = f"{function.__name__} was interrupted; `salt-run deploytoken.status` tells who holds the token"
            return _refusal(errors.Interrupted(message), context)

    # Salt reads this signature and answers "Passed invalid arguments" with exit code 0; accept all, and refuse above.
    extra = [
        inspect.Parameter("unexpected", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("unknown", inspect.Parameter.VAR_KEYWORD),
    ]
    wrapper.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])
    del wrapper.__wrapped__  # Salt 3008 would follow it back to the strict signature
    return wrapper


def say(line):
    """
    Tell how it goes, on standard error: standard output is for the answer.

    What is done goes on, whether or not anybody hears of it: where ssh has no terminal, its end is no signal, and only
    breaks the pipe.
    """
    if sys.stderr is None:
        return  # closed, as by ``2>&-``: print would take standard output
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _told(function):
    """Tell the beginning and the end of a step. What a person typed shows its own end."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    # What was typed; a step finds the orchestration's there (3008.3). Others than salt-run have none.
    typed = (function.__globals__.get("__opts__") or {}).get("fun")
    if typed in (None, name):
        yield
        return
    say(f"{name} …")
    try:
        yield
    except errors.Error as exc:
        say(f"{name}: {exc}")
        raise
    say(f"{name}: done")


def _refusal(error, context):
    context["retcode"] = error.code
    return {**error.details, "reason": error.reason, "message": str(error), "retcode": error.code}


def duration(value, key):
    """
    Return seconds for ``90``, ``"90"``, ``"45s"``, ``"15m"``, ``"2h"`` or ``"1d"``, up to a year; None stays None.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise errors.Invalid(f"{key}: {value!r} is not a duration; write 45s, 15m, 2h or 1d")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > _YEAR:
        raise errors.Invalid(f"{key}: {str(value)[:40]!r} is more than a year")
    return seconds


def words(value, key):
    """
    Return a list of words for a list or a comma-separated string; None gives an empty list.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int) for item in value):
        raise errors.Invalid(f"{key}: {value!r} is not a list of names; write one,two")
    return [str(item).strip() for item in value if str(item).strip()]


def boolean(value, key):
    """
    Return ``value`` if it is True or False.

    :raises errors.Invalid: with ``key`` in the message; ``"no"`` as a string must not count as true.
    """
    if not isinstance(value, bool):
        raise errors.Invalid(f"{key}: {value!r} is not true or false")
    return value


def number(value, key, most):
    """
    Return ``value`` if it is a whole number from 1 to ``most``.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise errors.Invalid(f"{key}: {value!r} is not a whole number from 1 to {most}")
    return value


def text(value, key):
    """
    Return ``value`` as text; a required one that is missing or blank is refused.

    Salt turns ``reason=42`` on the command line into a number; that is still the text 42.

    :raises errors.Invalid: with ``key`` in the message.
    """
    if value is None or isinstance(value, bool | dict | list) or not str(value).strip():
        raise errors.Invalid(f'{key}: needed, as one line of text: {key}="…"')
    return str(value).strip()
