"""Curves as SVG, coloured by the page's style sheet."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 440
HEIGHT = 240
LEFT, RIGHT, TOP, BOTTOM = 48, 22, 12, 36  # margins
COLOURS = 8  # --hue of .c0 to .c7
DASHES = 4  # .d0 to .d3


class Line(NamedTuple):
    """Points in the order of x; `style` names classes of the style sheet."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str


def style(number: int) -> str:
    """The colour and the dashes of a line: a colour for 8 lines, dashes for the next 8."""
    return f"c{number % COLOURS} d{number // COLOURS % DASHES}"


def chart(lines: Sequence[Line], title: str, unit: str, base: float | None = None) -> str:
    """A figure of lines over steps; "" if there is no point.

    Args:
      lines: what is drawn; points that are not finite are left out.
      title: above it.
      unit: of y.
      base: a value of y to compare with, drawn as a dotted line.
    """
    lines = [one for one in map(_finite, lines) if one.x]
    if not lines:
        return ""
    xs = _span([x for one in lines for x in one.x])
    ys = _span([y for one in lines for y in one.y] + ([] if base is None else [base]))
    marks = [*_marks_x(xs), *_marks_y(ys)]
    if base is not None:
        y = _y(base, ys)
        marks.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    drawn = [_drawn(one, xs, ys) for one in lines]
    title = html.escape(f"{title}, {unit}")
    label = html.escape("; ".join(map(_said, lines)))
    return (
        f'<figure class="chart"><figcaption>{title}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: {label}">'
        f"{''.join(marks)}{''.join(drawn)}"
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" class="mid">steps</text></svg>'
        f"{_legend(lines)}</figure>"
    )


def ticks(least: float, most: float, about: int = 5) -> list[float]:
    """Round numbers from `least` to `most`: steps of 1, 2 or 5 times a power of ten."""
    rough = (most - least) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(least / step - 1e-9)
    last = math.floor(most / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _finite(line):
    points = zip(line.x, line.y, strict=True)
    kept = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return line._replace(x=[x for x, _ in kept], y=[y for _, y in kept])


def _span(values):
    """The least and the most, apart."""
    least, most = min(values), max(values)
    return (least, most) if most > least else (least - 0.5, most + 0.5)


def _x(x, span):
    return round(LEFT + (x - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT), 1)


def _y(y, span):
    return round(TOP + (span[1] - y) / (span[1] - span[0]) * (HEIGHT - TOP - BOTTOM), 1)


def _marks_x(span):
    for tick in ticks(*span):
        yield f'<text x="{_x(tick, span)}" y="{HEIGHT - BOTTOM + 16}" class="mid">{tick:,g}</text>'


def _marks_y(span):
    for tick in ticks(*span):
        y = _y(tick, span)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4}" class="end">{tick:g}</text>'


def _drawn(line, xs, ys):
    points = " ".join(f"{_x(x, xs)},{_y(y, ys)}" for x, y in zip(line.x, line.y, strict=True))
    name = html.escape(line.name)
    alone = len(line.x) == 1
    shape = "circle" if alone else "polyline"
    x, y = _x(line.x[0], xs), _y(line.y[0], ys)
    where = f'cx="{x}" cy="{y}" r="3"' if alone else f'points="{points}"'
    return f'<{shape} class="{line.style}" {where}><title>{name}</title></{shape}>'


def _said(line):
    """For who does not see it."""
    return f"{line.name} from {line.y[0]:.4g} to {line.y[-1]:.4g}"


def _legend(lines):
    entries = [f'<li class="{one.style}">{html.escape(one.name)}</li>' for one in lines]
    return f'<ul class="legend">{"".join(entries)}</ul>'
