"""Swarms in virtual time: the real planner around simulated links, with no machine that limits it."""

import os
import subprocess
from typing import Any

from common import install

# The download machine of haul-core costs too much for hundreds of peers: these do what plans say and nothing else.
SIMPLE = ("--sinks", "simple")
SETTINGS = ("256 MiB unless the case says otherwise, 50 Mbit/s up and 100 down; 20 ms between peers, 150 ms to the index and back, and "
            "peers that follow plans and need no outline. Those like measured ones drive the download machine of real peers, are "
            "5 ms apart and 2 ms from the index, and acknowledgements take 4% of their uplinks")
LIKE_MEASURED = ("--acks", "4", "--control", "2", "--latency", "5")
CASES: dict[str, tuple[str, ...]] = {
    "in one instant": SIMPLE,
    "within half a second": (*SIMPLE, "--spread", "500"),
    "like measured ones": LIKE_MEASURED,
    "5% break": (*SIMPLE, "--lost", "5"),
}
COUNTS = (4, 8, 16, 32, 64, 128, 256)
# Runs that are measured with real processes too.
MEASURED = (4, 8, 16)
PROGRAM = "haul-sim"
# What each column of its output is, where this row keeps it.
COLUMNS = {1: "limit_s", 2: "median_s", 3: "wall_s", 4: "median_over_limit", 5: "over_limit", 6: "seed_payload_over_size",
           7: "wasted_over_size", 12: "unfinished"}


def simulated(bench: Any) -> dict[str, Any]:
    """4 to 256 peers, under several conditions."""
    runs = []
    for case, options in CASES.items():
        for peers in COUNTS if case != "like measured ones" else MEASURED:
            if peers <= (8 if bench.size.tiny else peers) and (peers > 16 or case != "5% break"):
                runs.append(bench.run(PROGRAM, f"{peers} {case}", 0, simulate(peers, *options)))
    return {"runs": runs, "parameters": {"settings": SETTINGS}}


def many(bench: Any) -> dict[str, Any]:
    """10,000 peers, of which a hundredth breaks; minutes."""
    peers, size = (200, "64MiB") if bench.size.tiny else (10_000, "1GiB")
    found = simulate(peers, *SIMPLE, "--bytes", size, "--lost", "1")
    return {"runs": [bench.run(PROGRAM, "1% break", 0, found)], "parameters": {"peers": peers, "bytes": size, "settings": SETTINGS}}


def simulate(peers: int, *options: str) -> dict[str, Any]:
    """One run, as haul-sim tells it."""
    command = [simulator(), "--peers", str(peers), "--up", "50", "--down", "100", *options]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    return {name: float(told[column]) for column, name in COLUMNS.items()}


def simulator() -> str:
    """Its release build."""
    command = ["cargo", "build", "--release", "--quiet", "-p", "haul-sim", "--bin", "swarm"]
    subprocess.run(command, check=True, cwd=install.ROOT)
    return os.path.join(os.path.dirname(install.release_binary()), "swarm")
