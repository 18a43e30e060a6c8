"""Pictures of the transfer page as SVG, without help of a library: lines with points, bounds dashed; they follow the
reader's light or dark page."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 78, 20, 52, 62
# Of lines in their order, for light and for dark pages (Okabe and Ito's colours, which colour-blind people can tell
# apart; the first ones brighter in the dark).
COLOURS = (("#005aaa", "#6cb6ff"), ("#d55e00", "#ff9a4d"), ("#008c64", "#3fd0a4"), ("#9a4f86", "#e39ad0"),
           ("#96793c", "#d6bb78"), ("#b00020", "#ff7a85"), ("#666666", "#a8a8a8"))
STYLE = """text{font:13px sans-serif;fill:#222}.title{font-size:16px}.grid{stroke:#ddd}.axis{stroke:#444}.paper{fill:#fff}
.bound{stroke:#222;stroke-dasharray:7 5}.line{fill:none;stroke-width:2.2}"""
DARK = """text{fill:#ddd}.grid{stroke:#3a3a3a}.axis{stroke:#aaa}.paper{fill:#16181c}.bound{stroke:#ddd}"""


class Line(NamedTuple):
    """Points from left to right; a bound is drawn dashed and without points."""

    name: str
    points: Sequence[tuple[float, float]]
    bound: bool = False


class Axis(NamedTuple):
    """What it shows; with `ticks`, a logarithmic axis with just these marks."""

    label: str
    ticks: Sequence[float] | None = None


def steps(high: float, least: int = 4) -> list[float]:
    """Round marks from 0 to at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(high / least))
    step = max(size * factor for factor in (1, 2, 2.5, 5) if size * factor * least <= high)
    return [number * step for number in range(math.ceil(high / step - 1e-9) + 1)]


def mark(value: float) -> str:
    """A number at an axis."""
    return f"{value:,.10g}"


def across(axis: Axis, ticks: Sequence[float], value: float) -> float:
    """Where a value stands between the ends of an axis, 0 to 1."""
    if axis.ticks:
        value, ticks = math.log(value), [math.log(tick) for tick in ticks]
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def draw(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """The picture."""
    every = [point for line in lines for point in line.points]
    x_ticks = list(x.ticks or steps(max(point[0] for point in every)))
    y_ticks = list(y.ticks or steps(max(point[1] for point in every)))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return (round(LEFT + wide * across(x, x_ticks, point[0]), 1),
                round(TOP + high * (1 - across(y, y_ticks, point[1])), 1))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
             f"<title>{escape(title)}</title>", f"<style>{style(lines)}</style>",
             f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
             f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>']
    for tick in x_ticks:
        at, _ = place((tick, y_ticks[0]))
        parts += [f'<line class="grid" x1="{at}" y1="{TOP}" x2="{at}" y2="{HEIGHT - BOTTOM}"/>',
                  f'<text x="{at}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{mark(tick)}</text>']
    for tick in y_ticks:
        _, at = place((x_ticks[0], tick))
        parts += [f'<line class="grid" x1="{LEFT}" y1="{at}" x2="{WIDTH - RIGHT}" y2="{at}"/>',
                  f'<text x="{LEFT - 8}" y="{at + 4.5}" text-anchor="end">{mark(tick)}</text>']
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>',
              f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 16}" text-anchor="middle">{escape(x.label)}</text>',
              f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>']
    for number, line in enumerate(lines):
        spots = [place(point) for point in line.points]
        path = "M" + "L".join(f"{left} {top}" for left, top in spots)
        parts.append(f'<path class="line {kind(line, number)}" d="{path}"/>')
        if not line.bound:
            parts += [f'<circle class="{kind(line, number)} dot" cx="{left}" cy="{top}" r="4"/>' for left, top in spots]
    return "\n".join([*parts, *legend(lines, [place(point) for point in every]), "</svg>"]) + "\n"


def kind(line: Line, number: int) -> str:
    """The class of a line."""
    return "bound" if line.bound else f"l{number}"


def style(lines: Sequence[Line]) -> str:
    """Colours of the picture for light and for dark pages."""
    light, dark = [STYLE], [DARK]
    for number in range(len(lines)):
        for sheet, colour in zip((light, dark), COLOURS[number % len(COLOURS)]):
            sheet.append(f".l{number}{{stroke:{colour}}}.l{number}.dot{{fill:{colour}}}")
    return "".join(light) + "@media(prefers-color-scheme:dark){" + "".join(dark) + "}"


def legend(lines: Sequence[Line], spots: Sequence[tuple[float, float]]) -> list[str]:
    """Names of the lines, at the upper or lower edge where the fewest points are; of equal places the leftmost."""
    wide, high = 30 + 7.4 * max(len(line.name) for line in lines), 20 * len(lines)
    last = max(LEFT + 14, int(WIDTH - RIGHT - 14 - wide))
    corners = [(left, top) for left in range(LEFT + 14, last + 1, 10) for top in (TOP + 4, HEIGHT - BOTTOM - 4 - high)]

    def covered(corner: tuple[float, float]) -> int:
        return sum(corner[0] - 8 <= left <= corner[0] + wide + 8 and corner[1] - 6 <= top <= corner[1] + high + 6
                   for left, top in spots)

    left, top = min(corners, key=covered)
    parts = []
    for number, line in enumerate(lines):
        at = top + 20 * number + 10
        parts += [f'<path class="line {kind(line, number)}" d="M{left} {at}h24"/>',
                  f'<text x="{left + 30}" y="{at + 4.5}">{escape(line.name)}</text>']
    return parts
