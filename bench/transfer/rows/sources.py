"""One file from eight peers with links of their own, to one: alone, and while one of them fails."""

import os
import shutil
import signal
from typing import Any

from cost import Cost
from faults import Fault, Resident
from links import Links
from peers import Peer
from rivals import floor
from rivals.aria2 import Aria2
from rivals.nginx import Nginx
from rivals.rival import fresh, run
from rows.one_file import one_file
from rows.turns import STEAL_LIMIT, wait_for_calm

NAME = "shared.bin"
# Mbit/s up of each provider, and down at the sink.
UPLINKS = (10, 20, 40, 60, 80, 100, 150, 200)
DOWNLINK = 500
SINK, MIDDLE = len(UPLINKS), len(UPLINKS) + 1
RATES = [*((up, None) for up in UPLINKS), (DOWNLINK, DOWNLINK), (None, None)]
# Who fails, and by which signal once 60% have arrived. A liar lies from the beginning.
CASES: dict[str, tuple[int, signal.Signals | None] | None] = {
    "clean": None,
    "one dies": (5, signal.SIGKILL),
    "one stalls": (6, signal.SIGSTOP),
    "one lies": (4, None),
}
FAULT_AT = 0.6


def best_seconds(size: int, eta: float, lost: float = 0.0, at: float = 1.0) -> float:
    """Nobody can be faster: all uplinks together or the downlink, until `at` of the bytes have come; from then on without
    a provider of `lost` Mbit/s. `eta` is the payload's part of a link's rate."""
    before, after = (min(DOWNLINK, sum(UPLINKS) - gone) * 1e6 / 8 * eta for gone in (0.0, lost))
    return size * at / before + size * (1 - at) / after


def limit(case: str, size: int, eta: float) -> float:
    """Seconds for a case: who dies or stalls is gone from 60% on, who lies is of no use at all."""
    failing = CASES[case]
    if not failing:
        return best_seconds(size, eta)
    return best_seconds(size, eta, UPLINKS[failing[0]], FAULT_AT if failing[1] else 0.0)


def sources(bench: Any) -> dict[str, Any]:
    """haul in all cases; aria2 with as many mirrors where it can finish: it verifies nothing before the end."""
    place, digest = one_file(bench, "tmpfs", "sources", NAME, bench.size.sources)
    runs: list[dict[str, Any]] = []
    with Links(RATES) as links:
        try:
            for number in range(bench.rounds):
                runs += one_round(bench, links, place, digest, number)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    parameters = {"bytes": bench.size.sources, "uplinks": " ".join(map(str, UPLINKS)), "downlink": DOWNLINK}
    return {"runs": runs, "parameters": parameters}


def one_round(bench: Any, links: Links, place: str, digest: str, number: int) -> list[dict[str, Any]]:
    """All cases, after a look at what a link carries."""
    fastest = UPLINKS.index(max(UPLINKS))
    rate = floor.link_rate(links.inside(fastest), links.inside(SINK), links.address(SINK), bench.size.seconds)
    eta = rate / max(UPLINKS)
    runs = [bench.run("iperf3", "one link", number, {"mbit_per_s": rate, "eta": eta})]
    for case in CASES:
        for program, act in (("haul", by_haul), ("aria2", by_aria2)):
            if (program, case) != ("aria2", "one lies"):
                if not bench.size.tiny:
                    wait_for_calm()
                figures = act(bench, links, place, digest, case)
                figures["over_limit"] = figures["wall_s"] / limit(case, bench.size.sources, eta)
                runs.append(bench.run(program, case, number, remarked(figures)))
    return runs


def remarked(figures: dict[str, Any]) -> dict[str, Any]:
    """With a word about the machine if it was not at its best."""
    if figures["steal_share"] > STEAL_LIMIT:
        return {"figures": figures, "remarks": [f"{figures['steal_share']:.0%} of the machine's time was stolen"]}
    return {"figures": figures}


def by_haul(bench: Any, links: Links, place: str, digest: str, case: str) -> dict[str, Any]:
    """An index and a peer without content at an end of their own, a peer at each provider's, a fresh one at the sink."""
    flag = os.path.join(place, "lie")
    liar = {"LD_PRELOAD": bench.liar, "LIAR_FLAG": flag}
    failing = CASES[case]
    peers: list[Peer] = []

    def start(number: int, name: str, *words: str, more: dict[str, str] | None = None) -> Peer:
        ticket = peers[0].ticket if peers else None
        words = ("--name", name, *words)
        peer = Peer(bench.binary, os.path.join(place, name), *words, ticket=ticket, address=links.address(number),
                    inside=links.inside(number), more=more)
        peers.append(peer)
        return peer

    try:
        start(MIDDLE, "index")
        shared = ("--share", os.path.join(place, "content"))
        lying = failing[0] if failing and not failing[1] else None
        providers = [start(n, f"p{n}", *shared, more=liar if n == lying else None) for n in range(len(UPLINKS))]
        for peer in providers:
            peer.wait_ready(1)
        with open(flag, "w", encoding="ascii"):
            pass
        sink = start(SINK, "sink")
        target = os.path.join(fresh(os.path.join(place, "target")), "arrived")
        with fault(case, sink.pid, bench.size.sources, [peer.pid for peer in providers]) as failed:
            with Cost([peer.pid for peer in peers]) as cost:
                done = sink.get(f"b3:{digest}", target)
        figures = outcome(bench, cost, failed, target, digest)
        return {**figures, "banned": sum(one.get("corrupt", 0) > 0 for one in done["from"])}
    finally:
        for peer in reversed(peers):
            peer.stop()
        if os.path.exists(flag):
            os.remove(flag)


def by_aria2(bench: Any, links: Links, place: str, digest: str, case: str) -> dict[str, Any]:
    """An nginx at each provider's end."""
    folder = os.path.join(place, "content")
    mirrors: list[Nginx] = []
    try:
        for number in range(len(UPLINKS)):
            mirrors.append(Nginx(os.path.join(place, f"nginx{number}"), folder, links.address(number), links.inside(number)))
        aria2 = Aria2(mirrors, NAME, links.inside(SINK))
        target = os.path.join(fresh(os.path.join(place, "target")), "arrived")
        with Resident(links.inside(SINK)) as resident:
            with fault(case, resident.pid, bench.size.sources, aria2.pids()) as failed:
                with Cost(aria2.pids()) as cost:
                    aria2.fetch(target)
        return outcome(bench, cost, failed, target, digest)
    finally:
        for mirror in mirrors:
            mirror.stop()


def fault(case: str, resident: int, size: int, providers: list[int]) -> Fault:
    """What goes wrong in a case."""
    failing = CASES[case]
    if not failing or not failing[1]:
        return Fault(resident, 0, None, None)
    return Fault(resident, size * FAULT_AT, providers[failing[0]], failing[1])


def outcome(bench: Any, cost: Cost, failed: Fault, target: str, digest: str) -> dict[str, Any]:
    """Figures, once what arrived is what was shared."""
    if run(bench.b3sum, "--no-names", target).strip() != digest:
        raise RuntimeError("the file is not what it was")
    if failed.victim and not failed.happened:
        raise RuntimeError("nothing went wrong")
    os.remove(target)
    figures = cost.figures(bench.size.sources)
    return {**figures, "mbit_per_s": figures["mb_per_s"] * 8, "received_over_size": failed.received / bench.size.sources}
