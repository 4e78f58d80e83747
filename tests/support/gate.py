"""For tests of the gate: an answer about the token that grows old without a wait."""

import json
import pathlib


def age(cachedir, seconds=4):
    """Make the answer that gates share older by so many seconds: they use one for 3 (``live.MAX_AGE``)."""
    path = pathlib.Path(cachedir) / "deploytoken" / "live.json"
    last = json.loads(path.read_text())
    path.write_text(json.dumps({**last, "asked": last["asked"] - seconds, "answered": last["answered"] - seconds}))
