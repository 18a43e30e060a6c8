"""One file from one to eight peers with links of their own: how the rate grows, up to what the sink takes."""

import os
import shutil
from typing import Any

from cost import Cost
from links import Links
from peers import Peer
from rivals import floor
from rivals.rival import fresh, run
from rows.one_file import one_file
from rows.sources import DOWNLINK, MIDDLE, NAME, RATES, SINK, UPLINKS, remarked
from rows.turns import wait_for_calm

# The fastest first: otherwise the first runs would take minutes.
ORDER = sorted(range(len(UPLINKS)), key=lambda number: -UPLINKS[number])


def most(count: int) -> float:
    """Mbit/s that the links of the first so many providers carry to the sink, headers included."""
    return float(min(DOWNLINK, sum(UPLINKS[number] for number in ORDER[:count])))


def providers(bench: Any) -> dict[str, Any]:
    """Every number of providers in every round."""
    place, digest = one_file(bench, "tmpfs", "providers", NAME, bench.size.providers)
    runs: list[dict[str, Any]] = []
    with Links(RATES) as links:
        try:
            for number in range(bench.rounds):
                fastest = ORDER[0]
                rate = floor.link_rate(links.inside(fastest), links.inside(SINK), links.address(SINK), bench.size.seconds)
                eta = rate / UPLINKS[fastest]
                for count in range(1, len(UPLINKS) + 1):
                    if not bench.size.tiny:
                        wait_for_calm()
                    figures = once(bench, links, place, digest, count)
                    figures["limit_mbit_per_s"] = most(count) * eta
                    figures["share_of_limit"] = figures["mbit_per_s"] / figures["limit_mbit_per_s"]
                    runs.append(bench.run("haul", str(count), number, remarked(figures)))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    order = " ".join(str(UPLINKS[number]) for number in ORDER)
    return {"runs": runs, "parameters": {"bytes": bench.size.providers, "uplinks": order, "downlink": DOWNLINK}}


def once(bench: Any, links: Links, place: str, digest: str, count: int) -> dict[str, Any]:
    """An index at an end of its own, so many providers, a fresh sink."""
    peers: list[Peer] = []

    def start(number: int, name: str, *words: str) -> Peer:
        ticket = peers[0].ticket if peers else None
        peers.append(Peer(bench.binary, os.path.join(place, name), "--name", name, *words, ticket=ticket,
                          address=links.address(number), inside=links.inside(number)))
        return peers[-1]

    try:
        start(MIDDLE, "index")
        for number in ORDER[:count]:
            start(number, f"p{number}", "--share", os.path.join(place, "content")).wait_ready(1)
        sink = start(SINK, "sink")
        target = os.path.join(fresh(os.path.join(place, "target")), "arrived")
        with Cost([peer.pid for peer in peers]) as cost:
            sink.get(f"b3:{digest}", target)
        if run(bench.b3sum, "--no-names", target).strip() != digest:
            raise RuntimeError("the file is not what it was")
        os.remove(target)
        figures = cost.figures(bench.size.providers)
        return {**figures, "mbit_per_s": figures["mb_per_s"] * 8}
    finally:
        for peer in reversed(peers):
            peer.stop()
