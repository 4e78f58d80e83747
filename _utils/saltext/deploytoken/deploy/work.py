"""
At work under a hold, and nobody else: the page names the job, and a lock here ends with its process.

A deploy is, and so are states and reboots by hand. Each puts its job on the holder's line as it begins, and takes it
off as it ends, with a few words of what it did.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from saltext.deploytoken import errors
from saltext.deploytoken.deploy import jobs
from saltext.deploytoken.machines.base import Tell
from saltext.deploytoken.token import Token

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Work:
    """
    The job ``jid`` of this master at work under the hold ``ref``.

    ``job`` is how the holder's line names it, and ``named`` says whether it does, or may.
    """

    def __init__(self, opts: Mapping[str, Any], ref: str, jid: str):
        self.job = jobs.name(opts, jid)
        self.ref = ref
        self.named = False
        self._cachedir, self._jid = str(opts["cachedir"]), jid
        self._lock = contextlib.ExitStack()
        self._at_work: Callable[[bool], None] | None = None

    def begin(self, take: Callable[[], _Result]) -> _Result:
        """
        Do what puts the job on the line, and return its answer. :meth:`require_alone` is to follow.

        :raises errors.Held: another job is at work under the hold, or may be.
        """
        self._at_work = self._lock.enter_context(jobs.alone(self._cachedir, self.ref, self._jid))
        try:
            answer = take()
        except BaseException as error:
            # After an expected failure nothing was written, and after a signal it was taken back.
            known = isinstance(error, errors.Error | KeyboardInterrupt | SystemExit)
            self.named = not known or isinstance(error, errors.InDoubt)
            self.close()
            raise
        self.named = True
        return answer

    def require_alone(self) -> None:
        """
        Refuse while another job is at work here under a hold that has ended since.

        :raises errors.Held: one is. The hold of this one is to be given back.
        """
        assert self._at_work, "it has begun"
        self._at_work(True)

    def rest(self) -> None:
        """Be at work no more, before the hold is given back or left to others. It may still be the job's."""
        if self._at_work:
            with contextlib.suppress(OSError):  # then others wait a moment longer
                self._at_work(False)

    def end(self, token: Token, words: str | None = None) -> None:
        """Take the job off the line; ``words`` say what it did, for the entry that ends the hold."""
        self.rest()
        token.end(self.ref, self.job, words)
        self.named = False

    def close(self) -> None:
        """Be at work no more. What stays here for a job that the line still names says that it is over."""
        self._lock.close()
        if not self.named:
            jobs.forget(self._cachedir, self.ref, forced=False)


@contextlib.contextmanager
def by_hand(
    opts: Mapping[str, Any],
    connect: Callable[[], Token],
    tell: Tell,
    ref: str,
    given: Any,
    words: Callable[[], str | None],
) -> Iterator[None]:
    """
    Be at work under the hold ``ref`` while the block runs, in a command that people type, or a step of their own.

    ``connect`` (callable)
        Opens the token.
    ``given``
        What Salt says is the ID of the job.
    ``words`` (callable)
        Called at the end: what was done, or None for nothing.

    :raises errors.NotYours: the hold is over, or was ended meanwhile.
    :raises errors.Held: another job is at work under it, or may be, or here.
    """
    jid = jobs.own(opts, given)
    work = Work(opts, ref, jid)
    with connect() as token:
        job = token.require_held(ref)["job"]
        if job and f"{job['jid']}@{job['master']}" == work.job:
            # A step of the orchestration that took the token, or deploys under it.
            yield
            return
        work.begin(lambda: token.begin(ref, work.job))
    failed = True
    try:
        work.require_alone()
        yield
        failed = False
    finally:
        try:
            with connect() as token:
                work.end(token, words())
        except errors.NotYours:
            work.named = False
            if not failed:
                raise
        except errors.Error as error:
            # What was done is done. This job is over for everybody who asks this master.
            tell(f"the page may still name the job {work.job}: {error}")
        finally:
            work.close()
