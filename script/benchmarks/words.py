"""Figures in words: cells, tables and verdicts, for the page. Pure functions."""


def ms(figure, digits=1):
    """A median with its quartiles, such as ``18.0 (15.1–21.3)``."""
    low, high = figure["quartiles"]
    return f"{figure['median']:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def seconds(figure):
    """The same, of milliseconds, in seconds."""
    return ms(in_seconds(figure), 2)


def in_seconds(figure):
    """A figure of milliseconds as one of seconds, for a plot."""
    return {"median": figure["median"] / 1000, "quartiles": [value / 1000 for value in figure["quartiles"]]}


def times(figure):
    """A ratio, with its quartiles if it was taken within each round."""
    if "quartiles" not in figure:
        return f"{figure['median']:.2f}"
    return ms(figure, 2)


def both(figures, cell):
    """The cells of both clocks."""
    return [cell(figures[clock]) for clock in ("wall", "cpu")]


def table(heads, lines):
    written = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in written)


def verdict(value, aim, unit="", digits=2):
    """Whether one value meets its aim, in words."""
    shown = f"{value:,.{digits}f}{unit}"
    return f"met: {shown}" if value <= aim else f"**missed**: {shown}"


def verdict_of_both(figures, aim, unit, loaded):
    """The same for clock and CPU time. On a machine with other work, CPU time is more reliable."""
    wall, cpu = (figures[clock]["median"] for clock in ("wall", "cpu"))
    shown = f"{wall:,.2f}{unit}, CPU {cpu:,.2f}{unit}"
    if max(wall, cpu) <= aim:
        return f"met: {shown}"
    if cpu <= aim:
        cause = (
            "for minions, a service, the disk, or a CPU: the machine had other work"
            if loaded
            else "for minions, a service, or the disk"
        )
        return f"**missed by the clock, met in CPU time**: {shown}; the rest is waiting {cause}"
    if wall <= aim:
        return f"**met by the clock, missed in CPU time**: {shown}"
    return f"**missed**: {shown}"
