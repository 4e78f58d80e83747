"""
How things are measured: side by side, in an order of chance, with medians and their spread.

Whatever is compared runs in turn, in one process of its own, so that a machine that is slow for a while is slow for
both. Each figure is a median with its quartiles; a ratio is taken within each round, and only then its median.
"""

import collections
import random
import resource
import statistics
import time

CLOCKS = ("wall", "cpu")


def _cpu():
    """Seconds of CPU that this process, with all its threads, and its ended children have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def sample(function):
    """One call: milliseconds of wall clock and of CPU, and what it returned."""
    cpu, wall = _cpu(), time.perf_counter()
    answer = function()
    return {"wall": 1000 * (time.perf_counter() - wall), "cpu": 1000 * (_cpu() - cpu)}, answer


def shuffled(names, before=()):
    """
    The names in an order of chance, because neighbours in time are alike.

    Those in ``before`` keep their own order among each other: what takes comes before what gives back.
    """
    order = list(names)
    random.shuffle(order)
    places = sorted(order.index(name) for name in before)
    for place, name in zip(places, before, strict=True):
        order[place] = name
    return order


def in_turn(functions, rounds, before=()):
    """Call all of them in each round: ({name: [sample]}, {name: the last answer}). ``before`` as in ``shuffled``."""
    samples, answers = collections.defaultdict(list), {}
    for _ in range(rounds):
        for name in shuffled(functions, before):
            taken, answers[name] = sample(functions[name])
            samples[name].append(taken)
    return {name: samples[name] for name in functions}, answers


def spread(values):
    """The median, the quartiles, the range, and the number of values."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {
        "median": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "range": [round(min(values), 3), round(max(values), 3)],
        "runs": len(values),
    }


def figures(samples):
    """The figures of a list of samples, for each clock."""
    return {clock: spread([one[clock] for one in samples]) for clock in CLOCKS}


def combined(samples, others, of):
    """A figure of two lists of samples, round by round: ``of`` is called with a value of each."""
    pairs = list(zip(samples, others, strict=True))
    return {clock: spread([of(one[clock], other[clock]) for one, other in pairs]) for clock in CLOCKS}


def ratio(samples, others):
    """Ratios of what ran side by side, round by round."""
    return combined(samples, others, lambda one, other: one / other)


def difference(samples, others):
    """How much longer one took than the other, round by round."""
    return combined(samples, others, lambda one, other: one - other)


def total(*lists):
    """The sum of several lists of samples, round by round: itself a list of samples."""
    return [{clock: sum(one[clock] for one in taken) for clock in CLOCKS} for taken in zip(*lists, strict=True)]


def rows(samples, base=None):
    """One row of figures for each name; with ``base``, also the ratios to it within each round."""
    found = []
    for name, taken in samples.items():
        row = {"what": name, **figures(taken)}
        if base is not None:
            row["ratio"] = ratio(taken, samples[base])
        found.append(row)
    return found
