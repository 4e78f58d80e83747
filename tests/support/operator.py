"""
One command of an operator in a process of its own, without Salt: for signals, which go to processes.

``python -m tests.support.operator OPTIONS FUNCTION ARGUMENTS`` (JSON) ends with the code of the answer, and prints it.
"""

import json
import os
import re
import sys

from saltext.deploytoken import config, errors
from saltext.deploytoken.people import Account
from saltext.deploytoken.token import Token


def main(options, function, arguments):
    def notify(event, data):
        print(json.dumps({"event": event, **data}), flush=True)
        # "signal 15 in acquired" as the reason: it comes while this event is told.
        if match := re.fullmatch(rf"signal (\d+) in {event}", data.get("reason") or ""):
            os.kill(os.getpid(), int(match[1]))

    parsed = config.parse(json.loads(options))
    # As tests.support.places has it.
    account = Account(str(parsed.name).lower(), "master1", plain=True)
    with Token(parsed, notify, account) as token:
        try:
            answer = getattr(token, function)(**json.loads(arguments))
        except errors.Error as exc:
            print(json.dumps({"reason": exc.reason, "message": str(exc), **exc.details}), flush=True)
            return exc.code
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
