"""The command line of ``script/chaos``."""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time

from tests.support import chaos
from tests.support.redmine import Redmine


def main():
    parser = argparse.ArgumentParser(prog="script/chaos", description="Contenders for the token on a failing store.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of every random choice")
    parser.add_argument("--store", choices=["redmine", "sqlite"], default="redmine")
    parser.add_argument("--contenders", type=int, default=24, help="processes at a time (default: 24)")
    arguments = parser.parse_args()
    print(f"{arguments.minutes:g} minutes on {arguments.store}, seed {arguments.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redmine = None
        if arguments.store == "redmine":
            (folder / "redmine").mkdir()
            redmine = Redmine(folder / "redmine")
            stack.callback(redmine.stop)
            redmine.start()
        (folder / "chaos").mkdir()
        record = chaos.run(
            arguments.store,
            arguments.minutes * 60,
            arguments.seed,
            folder / "chaos",
            redmine,
            arguments.contenders,
        )
    print(*chaos.totals(record), sep="\n")
    wrong = chaos.check(record)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{len(wrong)} promises broken" if wrong else "every promise kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
