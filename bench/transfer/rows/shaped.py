"""One file over a link of a given rate: how much of the rate arrives, everything included."""

import os
import shutil
from typing import Any

from links import Links
from rivals import floor
from rivals.haul import Haul
from rivals.nginx import Curl, Nginx
from rivals.rival import Rival, run
from rivals.sendme import Sendme
from rows.one_file import one_file
from rows.turns import Wanted, take_turns

NAME = "shaped.bin"


def shaped(bench: Any) -> dict[str, Any]:
    """At each rate, in memory; iperf3 measures the link in each round."""
    runs = []
    for mbit, size in bench.size.shaped:
        runs += at(bench, mbit, size)
    return {"runs": runs, "parameters": {"bytes": {f"{mbit} Mbit/s": size for mbit, size in bench.size.shaped}}}


def at(bench: Any, mbit: int, size: int) -> list[dict[str, Any]]:
    """At one rate; the sink's link is shaped both ways."""
    case = f"{mbit} Mbit/s"
    place, digest = one_file(bench, "tmpfs", "shaped", NAME, size)
    folder = os.path.join(place, "content")
    path = os.path.join(folder, NAME)
    rivals: list[Rival] = []
    servers: list[Any] = []
    with Links([(None, None), (mbit, mbit)]) as links:
        source, sink = (links.address(0), links.inside(0)), (links.address(1), links.inside(1))
        try:
            rivals += [Haul(bench.binary, place, folder, 1, f"b3:{digest}", source, sink)]
            servers += [Nginx(os.path.join(place, "nginx"), folder, *source)]
            rivals += [Curl(servers[0], NAME, bench.b3sum, digest, sink[1])]
            rivals += [Sendme(bench.sendme, place, path, source[1], sink[1])]
            runs = []
            for number in range(bench.rounds):
                rate = floor.link_rate(source[1], sink[1], sink[0], bench.size.seconds)
                runs.append(bench.run("iperf3", case, number, {"mbit_per_s": rate}))
                for one in take_turns(bench, case, rivals, Wanted(size, 1, b3=digest), place, "link",
                                      {"sendme": 1}, number):
                    one["figures"]["mbit_per_s"] = one["figures"]["mb_per_s"] * 8
                    runs.append(one)
            return runs
        finally:
            for one in [*rivals, *servers]:
                one.stop()
            shutil.rmtree(place, ignore_errors=True)
