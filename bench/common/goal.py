"""Goals of a comparison, each with the figure that decides it."""

from collections.abc import Callable
from typing import Any

from common import raw

Rows = dict[str, raw.Row]
# (figure as text, reached); (None, None) if it was not measured.
Verdict = tuple[str | None, bool | None]
Decide = Callable[[Rows], Verdict]
# Program, case, figure.
Place = tuple[str, str, str]


class Goal:
    """A line of the table."""

    def __init__(self, row: str, work: str, goal: str, decide: Decide):
        self.row, self.work, self.goal, self.decide = row, work, goal, decide

    def result(self, rows: dict[str, dict[str, Any]]) -> tuple[str, bool | None]:
        """(figure as text, True, False or None if it was not measured)."""
        try:
            figure, reached = self.decide({name: raw.Row(row) for name, row in rows.items()})
        except (KeyError, TypeError, ZeroDivisionError, ValueError):
            return "not measured", None
        return (figure, reached) if figure is not None else ("not measured", None)


def ratio(row: str, ours: Place, theirs: Place, least: float) -> Decide:
    """Ours by theirs, at least so much."""

    def decide(rows: Rows) -> Verdict:
        quotient = rows[row].median(*ours) / rows[row].median(*theirs)
        return f"{quotient:.2f} x", quotient >= least

    return decide


def ratio_at_most(row: str, ours: Place, theirs: Place, most: float) -> Decide:
    """Ours by theirs, at most so much."""

    def decide(rows: Rows) -> Verdict:
        quotient = rows[row].median(*ours) / rows[row].median(*theirs)
        return f"{quotient:.2f} x", quotient <= most

    return decide


def at_most(row: str, what: list[Place], limit: float, unit: str, scale: float = 1.0) -> Decide:
    """A figure at most so much; the worst of the cases if there are several."""

    def decide(rows: Rows) -> Verdict:
        values = [rows[row].median(*one) for one in what]
        if any(value is None for value in values):
            return None, None
        worst = max(values) * scale
        return f"{raw.number(worst)} {unit}", worst <= limit

    return decide


def both(*parts: Decide) -> Decide:
    """All of several."""

    def decide(rows: Rows) -> Verdict:
        found = [part(rows) for part in parts]
        reached = [one[1] for one in found]
        text = "; ".join(one[0] or "not measured" for one in found)
        return text, None if None in reached else all(reached)

    return decide


def middle(values: list[float | None]) -> float:
    """Median of those that are there."""
    there = sorted(value for value in values if value is not None)
    if not there:
        raise ValueError("nothing measured")
    upper, lower = there[len(there) // 2], there[(len(there) - 1) // 2]
    return (upper + lower) / 2
