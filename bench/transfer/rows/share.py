"""Sharing a folder: from the command until it is hashed, registered and durable at the index; and looking at it again."""

import os
import statistics
from typing import Any

import content
from cost import Cost
from peers import Peer
from rivals import floor
from rivals.rival import fresh, run
from rows.turns import undisturbed, warm

LARGE_FILES = 4
# Looks in a round; the middle one counts.
LOOKS = 5


def share(bench: Any) -> dict[str, Any]:
    """Large files, small files, and small files that have not changed; all in the page cache of the disk's file system."""
    place = fresh(os.path.join(bench.place("disk"), "share"))
    large, small = os.path.join(place, "large"), os.path.join(place, "small")
    each = bench.size.large // LARGE_FILES
    for number in range(LARGE_FILES):
        content.write_file(os.path.join(large, f"{number}.bin"), each, seed=number + 1)
    tree = content.plan_tree(bench.size.small)
    content.write_tree(tree, small)
    os.sync()
    runs: list[dict[str, Any]] = []
    try:
        for number in range(bench.rounds):
            for case, folder, files, size in (("large", large, LARGE_FILES, LARGE_FILES * each),
                                              ("small", small, len(tree.files), tree.bytes())):
                runs += one_round(bench, number, (case, folder, files, size), place)
    finally:
        bench.throw_away(place)
    parameters = {"large_bytes": LARGE_FILES * each, "small_files": len(tree.files), "small_folders": len(tree.folders),
                  "small_bytes": tree.bytes(), "disk": bench.file_system}
    return {"runs": runs, "parameters": parameters}


def one_round(bench: Any, number: int, what: tuple[str, str, int, int], place: str) -> list[dict[str, Any]]:
    """b3sum and haul, the order turning; for small files haul looks again, and so does the floor."""
    case, folder, files, size = what
    runs = []

    def by_b3sum() -> None:
        found = undisturbed(bench, lambda: b3sum(bench, folder, size, files), "disk")
        runs.append(bench.run("b3sum", case, number, found))

    def by_haul() -> None:
        found = undisturbed(bench, lambda: haul(bench, folder, size, files, place)[0], "disk")
        runs.append(bench.run("haul", case, number, found))

    for act in (by_b3sum, by_haul) if number % 2 else (by_haul, by_b3sum):
        act()
    if case == "small":
        found = undisturbed(bench, lambda: walk(bench, folder, files), "disk")
        runs.append(bench.run("floor", "again", number, found))
        found = undisturbed(bench, lambda: haul(bench, folder, size, files, place, look_again=True)[1], "disk")
        runs.append(bench.run("haul", "again", number, found))
    return runs


def b3sum(bench: Any, folder: str, size: int, files: int) -> dict[str, Any]:
    """As one would do it by hand."""
    command = 'find "$1" -type f -print0 | xargs -0 "$2" > "$3"'
    warm(bench, 0)
    with Cost() as cost:
        run("sh", "-c", command, "sh", folder, bench.b3sum, os.devnull)
    return cost.figures(size, files)


def haul(bench: Any, folder: str, size: int, files: int, place: str,
         look_again: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """(sharing, looking again); a fresh peer that knows no hashes."""
    again: dict[str, Any] = {}
    peer = Peer(bench.binary, os.path.join(place, "home"))
    try:
        warm(bench, 0)
        with Cost([peer.pid]) as cost:
            peer.run("share", "add", folder)
            peer.wait_ready(files)
        if look_again:
            name = peer.shares()[0]["name"]
            again = middle([rescan(peer, name, size, files) for _ in range(LOOKS)])
    finally:
        peer.stop()
    return cost.figures(size, files), again


def rescan(peer: Peer, name: str, size: int, files: int) -> dict[str, Any]:
    """One more look at a share that has not changed."""
    with Cost([peer.pid]) as cost:
        peer.rescan(name, files)
    return cost.figures(size, files)


def walk(bench: Any, folder: str, files: int) -> dict[str, Any]:
    """A walk that looks at every entry and does nothing else."""
    found = []
    for _ in range(LOOKS):
        with Cost() as cost:
            seconds, cpu, _ = floor.ask(bench.floor, "walk", folder)
        # Its own clocks: less the start of the process.
        found.append({**cost.figures(0, files), "wall_s": seconds, "cpu_s": cpu})
    return middle(found)


def middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of all figures."""
    return {name: statistics.median(one[name] for one in found) for name in found[0]}
