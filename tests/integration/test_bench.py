"""The measurements of ``script/bench`` whose smallest run is cheap, each run once; those with a fleet are not."""

import contextlib

import pytest

from script.benchmarks import load
from script.benchmarks.bench import Bench


class Smallest(Bench):
    """One round of everything, with the smallest sizes, on the suite's Redmine."""

    def __init__(self, name, folder, stack, server):
        super().__init__(name, folder, True, stack)
        self._server = server

    def rounds(self, few, many):
        return 1

    def redmine(self):
        return self._server


@pytest.mark.parametrize("name", ["commands", "contention", "pages", "repositories"])
def test_a_measurement_measures_and_tells(name, tmp_path, redmine):
    module = load(name)
    with contextlib.ExitStack() as stack:
        found = module.run(Smallest(name, tmp_path, stack, redmine))

    assert "|" in module.page(found)
    assert all(said for _, said in module.aims(found, False))
    assert all(text.startswith("<svg") for text in module.plots(found).values())
