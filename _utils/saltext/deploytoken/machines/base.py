"""
The interface to many machines, and what counts as an answer of one.

Salt's own ways fail open here (measured on 3008.3): ``cmd_iter`` silently leaves out minions that are down; without
``full_return`` every error is a truthy text; and a target that matches nobody is an empty, and thus spotless, answer.
So it is known before anybody is asked which machines are expected, and each of them is held against that list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from saltext.deploytoken import config, errors, text, values

#: A machine's full return: ``ret`` and ``retcode``, as Salt's clients give it with ``full_return``.
Full = dict[str, Any]

#: Called with a line for people while something takes long.
Tell = Callable[[str], None]

#: Seconds that machines have to answer, where nothing else is said.
TIMEOUT = 15


@dataclass(frozen=True)
class Answers:
    """Answers to one question: ``answers`` and ``failed`` (why) together have every expected id exactly once."""

    expected: list[str]
    answers: dict[str, Any]
    failed: dict[str, str]


class Machines(ABC):
    """Many machines that are asked the same thing. ``opts`` are the master's options."""

    #: Where a person sees which machines there are.
    shown_by: ClassVar[str]
    #: The program by which a person asks the same machines.
    program: ClassVar[str]
    #: The argument by which a runner asks the same machines, with a space before it; an empty text if it needs none.
    argument: ClassVar[str]
    #: The return codes of a clear answer to :meth:`ask_busy`.
    busy_codes: ClassVar[tuple[int, ...]]

    def __init__(self, opts: Mapping[str, Any]):
        self.opts = dict(opts)
        #: Seconds that a machine may say nothing before it counts as silent.
        self.patience = config.patience(opts)

    @abstractmethod
    def expect(self, target: Any, target_type: str = "glob") -> tuple[list[str], dict[str, str]]:
        """
        Return the ids that a target means, sorted, and ``{id: why}`` of those of which that is not clear.

        Such an id has no key, or does not say whether the target means it, or says otherwise than the master's list.

        :raises errors.Invalid: there is no such type of target, it can be understood in two ways, or the list of
            machines cannot be read.
        """

    @abstractmethod
    def collect_returns(
        self,
        ids: Collection[str],
        fun: str,
        arg: Sequence[Any] = (),
        kwarg: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Full]:
        """
        Call one function and return the full returns that come within ``timeout`` seconds.

        This is for looking again and again at machines that come and go: it ends as soon as all have answered, and a
        machine that is missing in it has not answered. Nothing is raised because of a machine.
        """

    @abstractmethod
    def call_all(
        self, ids: Collection[str], questions: Mapping[str, Sequence[Any]], timeout: float = TIMEOUT
    ) -> dict[str, list[Any]]:
        """
        Call several functions, and return for each machine that answered in time the list of its answers.

        ``questions`` has the functions and their arguments.
        """

    @abstractmethod
    def follow(
        self, ids: Collection[str], fun: str, arg: Sequence[Any], kwarg: Mapping[str, Any], tell: Tell
    ) -> Iterator[tuple[str, Full | None, str | None]]:
        """
        Run one function for as long as it takes; every id comes once.

        Yields ``(id, full return, None)`` for each as it returns, and ``(id, None, why)`` for each that was not
        reached or went silent. A full return has the job's ``jid`` as well, if that is known. ``tell`` is called with
        a line when the master itself does not answer. Salt reads each text in ``arg`` as on the command line.
        """

    @abstractmethod
    def refresh(self, ids: Collection[str], modules: bool = True) -> dict[str, str]:
        """
        Bring each machine the pillar that the master serves now, and the ``modules``, if they may be others.

        Returns ``{id: why}`` of those that did not confirm that their next job has them, or whose pillar is broken.
        What the environment ``base`` has stays on each machine, even if its top file does not have ``base``.
        """

    @abstractmethod
    def _ask_busy(self, ids: list[str], timeout: float) -> tuple[dict[str, Full], dict[str, str]]:
        """Ask for ``busy.check`` on each; return the full returns that came, and ``{id: why}`` of the others."""

    def ask_busy(self, target: Any, target_type: str = "glob", timeout: float | None = None) -> Answers:
        """
        Ask each machine that a target means for what the execution module's ``busy.check`` says.

        ``timeout`` is in seconds (default: :data:`TIMEOUT`, or ``patience`` if that is less); machines that report the
        job as running get more time. Never raises because of a
        machine or of the master. If the target matches nobody, ``expected`` is empty, and the caller has to refuse.

        :raises errors.Invalid: as :meth:`expect` does.
        """
        timeout = min(TIMEOUT, self.patience) if timeout is None else timeout
        expected, failed = self.expect(target, target_type)
        answers = {}
        if expected:
            returns, unheard = self._ask_busy(expected, timeout)
            failed.update(unheard)
            for machine in expected:
                why = problem(returns.get(machine), timeout, self.busy_codes)
                if why is None:
                    answers[machine] = returns[machine]["ret"]
                else:
                    failed.setdefault(machine, why)
        return Answers(sorted({*expected, *failed}), answers, failed)

    def require(self, target: Any, target_type: str = "glob") -> list[str]:
        """
        Return the ids that a target means: in the order of a list, else sorted.

        :raises errors.Busy: it matches nobody, or names a machine that cannot be asked.
        :raises errors.Invalid: as :meth:`expect` does.
        """
        expected, unknown = self.expect(target, target_type)
        if unknown:
            raise errors.Busy(text.join_reasons(unknown), failed=unknown)
        if not expected:
            raise self.matches_nobody(target)
        return list(dict.fromkeys(values.words(target, "target"))) if target_type == "list" else expected

    def matches_nobody(self, target: Any, /, **details: Any) -> errors.Busy:
        """Return the error for a target that means no machine."""
        return errors.Busy(f"The target {target!r} matches no minion ({self.shown_by})", **details)


def problem(answer: Any, timeout: float, retcodes: Collection[int] = (0,)) -> str | None:
    """Return why a machine's full return is no answer; None if it is one."""
    if not answer or not isinstance(answer, dict) or answer.get("out") == "no_return":
        return f"did not answer within {timeout:g} seconds (is it up? salt-run manage.status)"
    if "ret" not in answer:
        return f"answered nothing to use: {text.last_line(answer)}"
    if answer.get("retcode") not in retcodes and "not valid: asking=" in str(answer["ret"]):
        # What an older busy.check says to a question that names who asks.
        return "has an older busy.check than this master: run `salt '*' saltutil.sync_modules`"
    if answer.get("retcode") not in retcodes:
        return f"failed: {text.last_line(answer['ret']) or 'no reason given'}"
    return None
