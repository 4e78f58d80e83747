"""One measurement in a process of its own: ``python -m script.benchmarks.one NAME FOLDER [--quick]``."""

import contextlib
import json
import pathlib
import signal
import sys
import tempfile
import traceback

from script.benchmarks import load
from script.benchmarks.bench import Bench


def main(name, folder, quick=""):
    signal.signal(signal.SIGTERM, _end)
    folder = pathlib.Path(folder)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True))
        try:
            answer = {"found": load(name).run(Bench(name, work, bool(quick), stack))}
        except Exception as error:
            traceback.print_exc()
            line = (str(error).strip().splitlines() or [""])[0]
            answer = {"failed": f"{type(error).__name__}: {line}"[:300]}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return 1 if "failed" in answer else 0


def _end(*_):
    """Unwind the stack, which ends every server. A second signal does not interrupt that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
