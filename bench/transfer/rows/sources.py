"""One file from eight peers with links of their own, to one: alone, and while one of them fails."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from common import machine

from cost import Cost
from faults import Fault, Liar, Resident
from links import Links
from peers import Peer
from rivals import floor
from rivals.aria2 import Aria2
from rivals.nginx import Nginx
from rivals.rival import fresh
from rivals.torrents import QBittorrent, torrent, tracker, tracker_url
from rows.one_file import one_file
from rows.swarm import START_SECONDS, check, stolen_since
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
# In the row where rates change: all uplinks at once, each takes over that of its neighbour.
CHANGE_SECONDS = 5.0
CHANGING = "rates change"


def best_seconds(size: int, eta: float, lost: float = 0.0, at: float = 1.0) -> float:
    """Nobody can be faster: all uplinks together or the downlink, until `at` of the bytes have come; from then on without
    a provider of `lost` Mbit/s. `eta` is the payload's part of a link's rate."""
    before, after = (min(DOWNLINK, sum(UPLINKS) - gone) * 1e6 / 8 * eta for gone in (0.0, lost))
    return size * at / before + size * (1 - at) / after


def limit(case: str, size: int, eta: float) -> float:
    """Seconds for a case: who dies or stalls is gone from 60% on, who lies is of no use at all."""
    failing = CASES.get(case)
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


def changing(bench: Any) -> dict[str, Any]:
    """While uplinks change: together they always carry as much. The file is larger, so that they change several times."""
    size = bench.size.changing
    place, digest = one_file(bench, "tmpfs", "sources", NAME, size)
    runs: list[dict[str, Any]] = []
    try:
        for number in range(bench.rounds):
            for program, act in (("haul", by_haul), ("aria2", by_aria2)):
                with Links(RATES) as links:
                    eta = carried(bench, links, CHANGING, number, runs)
                    if not bench.size.tiny:
                        wait_for_calm()
                    with rates_that_change(links) as changes:
                        figures = act(bench, links, place, digest, CHANGING, size)
                    figures["over_limit"] = figures["wall_s"] / limit(CHANGING, size, eta)
                    runs.append(bench.run(program, CHANGING, number, remarked({**figures, "changes": len(changes)})))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {"runs": runs, "parameters": {"bytes": size, "uplinks": " ".join(map(str, UPLINKS)), "downlink": DOWNLINK}}


@contextlib.contextmanager
def rates_that_change(links: Links) -> Iterator[list[float]]:
    """Every few seconds each uplink takes over the rate of the next one; the moments when they did."""
    over, moments = threading.Event(), []

    def change() -> None:
        while not over.wait(CHANGE_SECONDS):
            moments.append(time.monotonic())
            for number in range(len(UPLINKS)):
                links.shape(number, "far", UPLINKS[(number + len(moments)) % len(UPLINKS)])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield moments
    finally:
        over.set()
        thread.join()


def torrents(bench: Any) -> dict[str, Any]:
    """qbittorrent at all ends, tuned: eight that have the file, and one that wants it."""
    runs: list[dict[str, Any]] = []
    place, digest = one_file(bench, "tmpfs", "sources", NAME, bench.size.sources)
    with Links(RATES) as links:
        try:
            for number in range(bench.size.slow_rounds):
                eta = carried(bench, links, "clean", number, runs)
                figures = by_qbittorrent(bench, links, place, digest)
                figures["over_limit"] = figures["wall_s"] / limit("clean", bench.size.sources, eta)
                runs.append(bench.run("qbittorrent", "clean", number, remarked(figures)))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return {"runs": runs, "parameters": {"bytes": bench.size.sources}}


def by_qbittorrent(bench: Any, links: Links, place: str, digest: str) -> dict[str, Any]:
    """The tracker is at the end without limits; the clock runs from the order to the sink's client."""
    source, listed = os.path.join(place, "content", NAME), os.path.join(place, "sources.torrent")
    data, known = torrent(source, tracker_url(links))
    with open(listed, "wb") as file:
        file.write(data)
    server = tracker(links, os.path.join(place, "tracker"), known)
    clients = [QBittorrent(links, number, place, listed, tuned=True) for number in range(len(UPLINKS) + 1)]
    sink = clients[SINK]
    try:
        for client in clients:
            client.prepare()
        for client in clients[:SINK]:
            os.link(source, os.path.join(client.folder, NAME))
        time.sleep(START_SECONDS)
        for client in clients[:SINK]:
            client.add()
        # They read their files once and tell the tracker.
        time.sleep(START_SECONDS)
        if not bench.size.tiny:
            wait_for_calm()
        stolen, begun = machine.steal_ticks(), time.monotonic()
        sink.add()
        sink.wait_done()
        figures = {"wall_s": time.monotonic() - begun, "steal_share": stolen_since(stolen)}
        check(bench, os.path.join(sink.folder, NAME), digest)
        return figures
    finally:
        for client in clients:
            client.stop()
        server.process.terminate()
        server.stop(5)


def carried(bench: Any, links: Links, case: str, number: int, runs: list[dict[str, Any]]) -> float:
    """The part of a link's rate that is payload."""
    fastest = UPLINKS.index(max(UPLINKS))
    rate = floor.link_rate(links.inside(fastest), links.inside(SINK), links.address(SINK), bench.size.seconds)
    runs.append(bench.run("iperf3", case, number, {"mbit_per_s": rate, "eta": rate / max(UPLINKS)}))
    return rate / max(UPLINKS)


def one_round(bench: Any, links: Links, place: str, digest: str, number: int) -> list[dict[str, Any]]:
    """All cases, after a look at what a link carries."""
    runs: list[dict[str, Any]] = []
    eta = carried(bench, links, "one link", number, runs)
    for case in CASES:
        for program, act in (("haul", by_haul), ("aria2", by_aria2)):
            if (program, case) != ("aria2", "one lies"):
                if not bench.size.tiny:
                    wait_for_calm()
                figures = act(bench, links, place, digest, case, bench.size.sources)
                figures["over_limit"] = figures["wall_s"] / limit(case, bench.size.sources, eta)
                runs.append(bench.run(program, case, number, remarked(figures)))
    return runs


def remarked(figures: dict[str, Any]) -> dict[str, Any]:
    """With a word about the machine if it was not at its best."""
    if figures["steal_share"] > STEAL_LIMIT:
        return {"figures": figures, "remarks": [f"{figures['steal_share']:.0%} of the machine's time was stolen"]}
    return {"figures": figures}


def by_haul(bench: Any, links: Links, place: str, digest: str, case: str, size: int) -> dict[str, Any]:
    """An index and a peer without content at an end of their own, a peer at each provider's, a fresh one at the sink."""
    failing = CASES.get(case)
    peers: list[Peer] = []

    def start(number: int, name: str, *words: str) -> Peer:
        ticket = peers[0].ticket if peers else None
        words = ("--name", name, *words)
        peers.append(Peer(bench.binary, os.path.join(place, name), *words, ticket=ticket, address=links.address(number),
                          inside=links.inside(number)))
        return peers[-1]

    try:
        start(MIDDLE, "index")
        shared = ("--share", os.path.join(place, "content"))
        providers = [start(n, f"p{n}", *shared) for n in range(len(UPLINKS))]
        for peer in providers:
            peer.wait_ready(1)
        lying = providers[failing[0]].pid if failing and not failing[1] else None
        sink = start(SINK, "sink")
        target = os.path.join(fresh(os.path.join(place, "target")), "arrived")
        with Liar(lying, os.path.join(place, "content", NAME)):
            with fault(case, sink.pid, size, [peer.pid for peer in providers]) as failed:
                with Cost([peer.pid for peer in peers]) as cost:
                    done = sink.get(f"b3:{digest}", target)
        figures = outcome(bench, cost, failed, target, digest, size)
        banned = sum(one.get("corrupt", 0) > 0 for one in done["from"])
        if banned != (lying is not None):
            raise RuntimeError(f"{banned} providers lied")
        return {**figures, "banned": banned}
    finally:
        for peer in reversed(peers):
            peer.stop()


def by_aria2(bench: Any, links: Links, place: str, digest: str, case: str, size: int) -> dict[str, Any]:
    """An nginx at each provider's end."""
    folder = os.path.join(place, "content")
    mirrors: list[Nginx] = []
    try:
        for number in range(len(UPLINKS)):
            mirrors.append(Nginx(os.path.join(place, f"nginx{number}"), folder, links.address(number), links.inside(number)))
        aria2 = Aria2(mirrors, NAME, links.inside(SINK))
        target = os.path.join(fresh(os.path.join(place, "target")), "arrived")
        with Resident(links.inside(SINK)) as resident:
            with fault(case, resident.pid, size, aria2.pids()) as failed:
                with Cost(aria2.pids()) as cost:
                    aria2.fetch(target)
        return outcome(bench, cost, failed, target, digest, size)
    finally:
        for mirror in mirrors:
            mirror.stop()


def fault(case: str, resident: int, size: int, providers: list[int]) -> Fault:
    """What goes wrong in a case."""
    failing = CASES.get(case)
    if not failing or not failing[1]:
        return Fault(resident, 0, None, None)
    return Fault(resident, size * FAULT_AT, providers[failing[0]], failing[1])


def outcome(bench: Any, cost: Cost, failed: Fault, target: str, digest: str, size: int) -> dict[str, Any]:
    """Figures, once what arrived is what was shared."""
    check(bench, target, digest)
    if failed.victim and not failed.happened:
        raise RuntimeError("nothing went wrong")
    os.remove(target)
    figures = cost.figures(size)
    return {**figures, "mbit_per_s": figures["mb_per_s"] * 8, "received_over_size": failed.received / size}
