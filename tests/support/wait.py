"""Wait for a condition instead of sleeping and hoping."""

import time


def until(predicate, timeout=60, what="the condition", interval=0.05):
    """
    Call ``predicate`` until it returns something true, and return that.

    predicate
        A function without arguments. An ``AssertionError`` or ``OSError`` from it counts as "not yet", and so does a
        ``ValueError``: a file that is being written may not be JSON yet, nor even UTF-8.
    timeout
        Seconds, after which an ``AssertionError`` says what was waited for (and the last error, if there was one).
    what
        What is waited for, in words, for that message.
    """
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = predicate()
            last = None
        except (AssertionError, OSError, ValueError) as error:
            value, last = None, error
        if value:
            return value
        if time.monotonic() > deadline:
            reason = f" (last: {last!r})" if last else ""
            raise AssertionError(f"waited {timeout} s for {what}{reason}")
        time.sleep(interval)
