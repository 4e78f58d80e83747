"""
Plots as SVG text. Pure functions: the same figures are the same bytes, so that a new run shows as what has changed.

There is no background, and every colour is of middle lightness, to be read on white and on black alike: what an image
is told of the reader's preference is not always what the page around it shows.
"""

import math
from xml.sax.saxutils import escape

COLOURS = ("#3b82d0", "#d9822b", "#2f9e6e", "#a06cd5", "#c9507b")
GREY = "#7a818a"
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 74, 190, 56, 52
STYLE = (
    f"text{{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:{GREY}}}"
    ".title{font-size:15px;font-weight:600}.grid{stroke-opacity:.25}.spread{stroke-opacity:.55}"
)


def curves(title, series, x_axis, y_axis, aim=None, log_x=False, log_y=False, height=300):
    """
    Curves with a whisker from quartile to quartile at each point.

    series
        ``{name: [(x, figure)]}``; a figure has ``median`` and ``quartiles``.
    aim
        ``(value, words)``: a dashed line.
    """
    xs = sorted({x for points in series.values() for x, _ in points})
    tops = [max(figure["quartiles"][1], figure["median"]) for points in series.values() for _, figure in points]
    lows = [min(figure["quartiles"][0], figure["median"]) for points in series.values() for _, figure in points]
    if aim:
        tops.append(aim[0])
        lows.append(aim[0])
    ticks = _decades(min(lows), max(tops)) if log_y else _steps(max(tops))
    to_x = _scale(xs[0], xs[-1], LEFT + 24, WIDTH - RIGHT - 12, log_x)
    to_y = _scale(ticks[0], ticks[-1], height - BOTTOM, TOP, log_y)
    parts = []
    for tick in ticks:
        parts.append(_line(LEFT, to_y(tick), WIDTH - RIGHT, to_y(tick), GREY, 1, "grid"))
        parts.append(_text(LEFT - 8, to_y(tick) + 4, _number(tick), "end"))
    for x in xs:
        parts.append(_text(to_x(x), height - BOTTOM + 20, _number(x), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 10, x_axis, "middle"))
    parts.append(_text(LEFT - 8, TOP - 14, y_axis, "start", dx=-LEFT + 16))
    if aim:
        parts.append(_line(LEFT, to_y(aim[0]), WIDTH - RIGHT, to_y(aim[0]), GREY, 1.5, dashed=True))
    ends = [(to_y(aim[0]), aim[1], GREY)] if aim else []
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        places = [(to_x(x), to_y(figure["median"])) for x, figure in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (_, figure) in zip(places, points, strict=True):
            low, high = figure["quartiles"]
            low = max(low, ticks[0])
            parts.append(_line(x, to_y(low), x, to_y(max(high, low)), colour, 5, "spread"))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        ends.append((places[-1][1], name, colour))
    for y, name, colour in _apart(ends, 17):
        parts.append(_text(WIDTH - RIGHT + 8, y + 4, name, "start", colour))
    return _svg(title, height, parts)


def dots(title, rows, axis, aim=None):
    """A row for each ``(name, figure)``: its median as a dot, its quartiles as a whisker. ``aim`` as in ``curves``."""
    left, right = 24 + round(7.4 * max(len(name) for name, _ in rows)), 40
    height = TOP + 30 * len(rows) + BOTTOM
    values = [value for _, figure in rows for value in (*figure["quartiles"], figure["median"])]
    ticks = _steps(max([*values, aim[0]] if aim else values))
    to_x = _scale(ticks[0], ticks[-1], left, WIDTH - right, False)
    bottom = TOP + 30 * len(rows)
    parts = []
    for tick in ticks:
        parts.append(_line(to_x(tick), TOP - 6, to_x(tick), bottom, GREY, 1, "grid"))
        parts.append(_text(to_x(tick), bottom + 18, _number(tick), "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 10, axis, "middle"))
    if aim:
        parts.append(_line(to_x(aim[0]), TOP - 6, to_x(aim[0]), bottom, GREY, 1.5, dashed=True))
        # To its left, because the line may be at the edge.
        parts.append(_text(to_x(aim[0]), TOP - 12, aim[1], "end"))
    for number, (name, figure) in enumerate(rows):
        y = TOP + 30 * number + 15
        low, high = figure["quartiles"]
        parts.append(_text(left - 12, y + 4, name, "end"))
        parts.append(_line(to_x(low), y, to_x(high), y, COLOURS[0], 5, "spread"))
        parts.append(f'<circle cx="{to_x(figure["median"]):.1f}" cy="{y:.1f}" r="5" fill="{COLOURS[0]}"/>')
    return _svg(title, height, parts)


def _svg(title, height, parts):
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
            f' height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<text class="title" x="12" y="22">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _line(x1, y1, x2, y2, colour, width, kind="", dashed=False):
    more = (f' class="{kind}"' if kind else "") + (' stroke-dasharray="6 4"' if dashed else "")
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{more}/>'


def _text(x, y, words, anchor, colour=None, dx=0):
    fill = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x + dx:.1f}" y="{y:.1f}" text-anchor="{anchor}"{fill}>{escape(str(words))}</text>'


def _scale(low, high, start, end, log):
    """A function from values to places; a single value goes into the middle."""
    if low == high:
        return lambda value: (start + end) / 2
    if log:
        low, high = math.log10(low), math.log10(high)
        return lambda value: start + (math.log10(max(value, 1e-9)) - low) / (high - low) * (end - start)
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _steps(most):
    """Round numbers from 0 to at least ``most``: about five of them."""
    rough = max(most, 1e-6) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    return [round(step * number, 9) for number in range(math.ceil(most / step - 1e-9) + 1)]


def _decades(low, high):
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _number(value):
    return f"{value:,.10g}" if value < 1000 else f"{value:,.0f}"


def _apart(labels, gap):
    """The labels from top to bottom, moved down so far that none overlaps another."""
    placed, last = [], -math.inf
    for y, name, colour in sorted(labels):
        last = max(y, last + gap)
        placed.append((last, name, colour))
    return placed
