"""One file from one peer to one peer, as fast as the machine can."""

import os
import shutil
from typing import Any

from rivals import floor
from rivals.haul import Haul
from rivals.nginx import Curl, Nginx
from rivals.rival import Rival, run
from rivals.rqbit import Rqbit
from rivals.sendme import Sendme
from rows.one_file import one_file
from rows.turns import Wanted, take_turns, warm

NAME = "large.bin"


def one_to_one(bench: Any) -> dict[str, Any]:
    """In memory and on the disk, synced in the end."""
    warm(bench, bench.size.floor)
    runs = [bench.run("floor", "tmpfs", 0, floor.limits(bench.floor, bench.b3sum, bench.place("tmpfs"), bench.size.floor))]
    for system in ("tmpfs", "disk"):
        runs += on(bench, system, bench.size.large, system, True)
    return {"runs": runs, "parameters": {"bytes": bench.size.large, "disk": bench.file_system}}


def sizes(bench: Any) -> dict[str, Any]:
    """In memory, from small to large: what it costs to begin."""
    runs = []
    for size in bench.size.sizes:
        runs += on(bench, "tmpfs", size, str(size), False)
    return {"runs": runs, "parameters": {"bytes": bench.size.sizes}}


def on(bench: Any, system: str, size: int, case: str, everybody: bool) -> list[dict[str, Any]]:
    """On one file system."""
    place, digest = one_file(bench, system, "one", NAME, size)
    folder = os.path.join(place, "content")
    path = os.path.join(folder, NAME)
    rivals: list[Rival] = []
    servers: list[Any] = []
    try:
        rivals += [Haul(bench.binary, place, folder, 1, f"b3:{digest}")]
        servers += [Nginx(os.path.join(place, "nginx"), folder)]
        rivals += [Curl(servers[0], NAME, bench.b3sum, digest), Curl(servers[0], NAME, bench.b3sum)]
        rivals += [Sendme(bench.sendme, place, path)]
        if everybody:
            rivals += [Rqbit(bench.rqbit, place, path)]
        return take_turns(bench, case, rivals, Wanted(size, 1, b3=digest), place, system,
                          {"sendme": bench.size.slow_rounds, "rqbit": bench.size.slow_rounds})
    finally:
        for one in [*rivals, *servers]:
            one.stop()
        shutil.rmtree(place, ignore_errors=True)
