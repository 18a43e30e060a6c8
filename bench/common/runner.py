"""Runs rows one after the other and keeps what each found."""

import argparse
import os
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from common import install, machine, raw

Row = Callable[[Any], dict[str, Any]]


def measure(rows: dict[str, Row], bench: Any, names: Iterable[str], directory: str) -> list[str]:
    """Measures rows and writes the raw data of each at once; returns those that failed. `bench` has `versions`,
    `size.tiny` and `close()`."""
    failed = []
    for name in names:
        print(f"{name}", flush=True)
        begun = time.monotonic()
        try:
            found = rows[name](bench)
        except Exception:  # One row that fails must not lose the others.
            traceback.print_exc()
            failed.append(name)
            bench.close()
            continue
        found.update(row=name, seconds=round(time.monotonic() - begun, 1), machine=machine.describe())
        found.update(versions=bench.versions, tiny=bench.size.tiny)
        if getattr(bench, "ahead", False):
            found["ahead"] = True
        raw.write(directory, found)
        print(f"    {found['seconds']} s", flush=True)
    return failed


def shown(shown_figures: Iterable[str], program: str, case: str, number: int, found: dict[str, Any]) -> dict[str, Any]:
    """One run as the raw data keeps it; its chief figures are printed."""
    one = raw.run(program, case, number, found)
    chief = {key: one["figures"].get(key) for key in shown_figures if key in one["figures"]}
    print(f"    {program:10} {case:14} round {number}  {raw.short(chief)}", flush=True)
    return one


def options(parser: argparse.ArgumentParser, rows: Iterable[str]) -> None:
    """What every comparison takes."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, results into the data folder")
    parser.add_argument("--rounds", type=int, help="so many rounds")
    parser.add_argument("--rows", help=f"only these, separated by commas: {','.join(rows)}")
    parser.add_argument("--report", action="store_true", help="only write the report from the raw data")
    parser.add_argument("--missing", action="store_true", help="only rows without raw data: goes on after a break")
    parser.add_argument("--binary", help="this haul instead of a release build of the tree")
    parser.add_argument("--out", help="raw data and report here instead of docs/benchmarks")


def chosen(parser: argparse.ArgumentParser, rows: Iterable[str], names: str | None) -> list[str]:
    """Rows in their order; an unknown name is an error."""
    wanted = names.split(",") if names else list(rows)
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    return [name for name in rows if name in wanted]


def places(arguments: argparse.Namespace, data: str, comparison: str, trial: bool) -> tuple[str, str]:
    """(folder of the page, folder of its raw data), made if need be; a trial stays out of docs."""
    docs = arguments.out or os.path.join(*((data, "quick") if trial else (install.ROOT, "docs", "benchmarks")))
    directory = os.path.join(docs, comparison)
    os.makedirs(directory, exist_ok=True)
    return docs, directory


def without_data(names: list[str], directory: str) -> list[str]:
    """Rows that have no raw data yet."""
    return [name for name in names if not os.path.exists(os.path.join(directory, name + ".json"))]


def finish(docs: str, page: str, failed: list[str]) -> int:
    """Says where the page is and what failed; the exit code."""
    print(f"report: {os.path.relpath(os.path.join(docs, page))}")
    if failed:
        print(f"failed: {', '.join(failed)}")
        return 1
    return 0
