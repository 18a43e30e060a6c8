"""Parts of a page that all comparisons have: goals, causes, tables with quartiles, remarks, machine and versions."""

import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from typing import Any

from common import install, raw
from common.goal import Goal

Rows = dict[str, dict[str, Any]]
# Program, case, figure.
Wanted = list[tuple[str, str, str]]
# Draws curves into a file.
Chart = Callable[[dict[str, Any], str], None]
# Runs with more of the machine's time stolen are named.
STEAL_LIMIT = 0.02


def read_notes(path: str) -> dict[str, Any]:
    """What was written by hand; empty if there is nothing."""
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as file:
        return tomllib.load(file)


def write(path: str, parts: list[str]) -> None:
    """Parts with a line between them; empty ones are left out."""
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def warning(rows: Rows) -> str:
    """Said of a trial with small sets."""
    tiny = any(row.get("tiny") for row in rows.values())
    return "\n\n**A trial of the runner with small sets: these figures mean nothing.**" if tiny else ""


def goal_table(rows: Rows, goals: list[Goal]) -> str:
    """Every goal with its figure."""
    lines = ["## Goals", "", "| work | goal | measured | reached |", "| --- | --- | --- | --- |"]
    for goal in goals:
        figure, reached = goal.result(rows)
        word = {True: "yes", False: "**no**", None: "–"}[reached]
        lines.append(f"| {goal.work} | {goal.goal} | {figure} | {word} |")
    return "\n".join(lines)


def missed(rows: Rows, goals: list[Goal], notes: dict[str, Any]) -> str:
    """What limits the goals that were not reached, by hand."""
    names: list[str] = []
    for goal in goals:
        if goal.result(rows)[1] is False and goal.row not in names:
            names.append(goal.row)
    if not names:
        return ""
    causes = notes.get("missed", {})
    lines = ["## Causes of what was missed, and what would lift it", ""]
    lines += [f"- **{name}**: {causes.get(name, 'not examined yet.')}" for name in names]
    return "\n".join(lines)


def table(rows: Rows, name: str, title: str, wanted: Wanted) -> str:
    """Medians and quartiles of a row."""
    row = raw.Row(rows[name])
    cases = {case for _, case, _ in wanted}
    lines = [f"## {title}", "", parameters(rows[name]), "", "| program | figure | lower quartile | median | upper quartile |",
             "| --- | --- | --: | --: | --: |"]
    for program, case, figure in wanted:
        spread = row.spread(program, case, figure)
        if spread:
            label = figure if len(cases) == 1 else f"{case}: {figure}"
            lines.append(f"| {program} | {label} | " + " | ".join(raw.number(value) for value in spread) + " |")
    return "\n".join(lines)


def parameters(row: dict[str, Any]) -> str:
    """Parameters of a row as a sentence."""
    text = ", ".join(f"{name} {value}" for name, value in sorted(row.get("parameters", {}).items()))
    return f"Measured in {row.get('seconds', '?')} s. {text}".strip() + ("." if text else "")


def remarks(rows: Rows) -> str:
    """What tools remarked, and runs on a disturbed machine."""
    lines = []
    for name, row in rows.items():
        for one in row["runs"]:
            place = f"{name}, {one['program']} {one['case']}, round {one['round']}"
            lines += [f"- {place}: {text}" for text in one.get("remarks", [])]
            stolen = [value for key, value in one["figures"].items() if key.endswith("steal_share")]
            if stolen and max(stolen) > STEAL_LIMIT:
                lines.append(f"- {place}: {max(stolen):.0%} of the machine's time was stolen")
    return "\n".join(["## Remarks of the tools", "", *lines]) if lines else ""


def machine_text(rows: Rows) -> str:
    """The machine and the versions, from the newest row."""
    if not rows:
        return ""
    row = list(rows.values())[-1]
    machine = row.get("machine", {})
    lines = ["## Machine and versions", "",
             f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_gib')} GiB, "
             f"Linux {machine.get('kernel')}.", ""]
    commits = sorted({row["versions"].get("haul", "?") for row in rows.values() if row.get("versions")})
    others = {name: value for name, value in row.get("versions", {}).items() if name != "haul"}
    lines.append(f"haul {', '.join(commits)}, release build; " + ", ".join(f"{n} {v}" for n, v in sorted(others.items())) + ".")
    return "\n".join(lines)


def plotter(binary: str | None) -> Chart:
    """What draws curves: haul's own plotter."""

    def draw(curves: dict[str, Any], target: str) -> None:
        source = target + ".json"
        with open(source, "w", encoding="utf-8") as file:
            json.dump(curves, file)
        subprocess.run([binary or install.release_binary(), "bench", "curves", source, "--to", target], check=True)
        os.remove(source)

    return draw
