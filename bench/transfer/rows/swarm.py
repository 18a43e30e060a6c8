"""One seed to N peers at once over equal uplinks, and how far from the bound the last of them ends."""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import bounds
from common import machine
from links import Links, Rate
from rivals import floor
from rivals.rival import run
from rivals.torrents import CLIENTS, torrent, tracker, tracker_url
from rows.one_file import one_file
from rows.turns import STEAL_LIMIT, wait_for_calm
from swarms import NAME, Got, Swarm, Uplinks, given, together

# Mbit/s of every peer and the seed.
UP, DOWN = 50.0, 100.0
# Times that a link is measured in both directions; the largest figure counts.
MEASURED_BOTH = 3
# What Linux uses unless it is told otherwise; the machine that measures may be.
CONGESTION = "cubic"
CASE = "all at once"
# For clients to begin, and for a seed to read its file.
START_SECONDS = 5.0
# The row is void with less of the machine idle: then the processor decides, not the links.
IDLE_LEAST = 0.3


def equal(count: int) -> list[Rate]:
    """The seed, so many peers, and an end without limits for the index."""
    return [*[(UP, DOWN)] * (count + 1), (None, None)]


def swarm_4(bench: Any) -> dict[str, Any]:
    """Four peers."""
    return still(bench, 4)


def swarm_8(bench: Any) -> dict[str, Any]:
    """Eight."""
    return still(bench, 8)


def swarm_16(bench: Any) -> dict[str, Any]:
    """Sixteen."""
    return still(bench, 16)


def swarm_bbr(bench: Any) -> dict[str, Any]:
    """Eight whose machines control congestion in another way."""
    return still(bench, 8, "bbr")


def still(bench: Any, count: int, congestion: str = CONGESTION) -> dict[str, Any]:
    """All come at once and stay."""
    count = min(count, bench.size.peers)
    runs: list[dict[str, Any]] = []
    place, digest = one_file(bench, "tmpfs", "swarm", NAME, bench.size.swarm)
    try:
        with Links(equal(count), congestion) as links:
            for number in range(bench.rounds):
                carried = efficiency(bench, links, number, runs)
                limit = bound(bench.size.swarm, count, carried)
                figures = by_haul(bench, links, place, digest, limit)
                runs.append(bench.run("haul", CASE, number, remarked(figures)))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {"runs": runs, "parameters": parameters(bench, count, congestion)}


def rival(name: str, tuned: bool) -> Callable[[Any], dict[str, Any]]:
    """The row of a BitTorrent client with eight peers, as it comes or tuned."""

    def row(bench: Any) -> dict[str, Any]:
        count = min(8, bench.size.peers)
        runs: list[dict[str, Any]] = []
        place, digest = one_file(bench, "tmpfs", "swarm", NAME, bench.size.swarm)
        try:
            with Links(equal(count), CONGESTION) as links:
                # They need minutes.
                for number in range(bench.size.slow_rounds):
                    limit = bound(bench.size.swarm, count, efficiency(bench, links, number, runs))
                    figures = by_client(bench, links, place, digest, limit, name, tuned)
                    runs.append(bench.run(name + " tuned" * tuned, CASE, number, remarked(figures)))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return {"runs": runs, "parameters": parameters(bench, count, CONGESTION)}

    return row


def by_client(bench: Any, links: Links, place: str, digest: str, limit: float, name: str, tuned: bool) -> dict[str, Any]:
    """All clients are given the torrent at once; the seed has had it before."""
    source, listed = os.path.join(place, "content", NAME), os.path.join(place, "swarm.torrent")
    data, known = torrent(source, tracker_url(links))
    with open(listed, "wb") as file:
        file.write(data)
    server = tracker(links, os.path.join(place, "tracker"), known)
    clients = []
    try:
        for number in range(len(links.rates) - 1):
            clients.append(CLIENTS[name](links, number, place, listed, tuned))
            clients[number].prepare()
        os.link(source, os.path.join(clients[0].folder, NAME))
        time.sleep(START_SECONDS)
        clients[0].add(seed=True)
        # It reads its file once and tells the tracker.
        time.sleep(START_SECONDS)
        stolen = machine.steal_ticks()
        with Uplinks(links, range(len(clients))) as uplinks:
            gots = together([lambda client=client: client.add() or client.wait_done() for client in clients[1:]])
        steal = stolen_since(stolen)
        failed = [got.error for got in gots if got.error]
        if failed:
            raise RuntimeError(f"{len(failed)} clients failed: {failed[0]}")
        for client in clients[1:]:
            check(bench, os.path.join(client.folder, NAME), digest)
    finally:
        for client in clients:
            client.stop()
        server.process.terminate()
        server.stop(5)
    wire = uplinks.sent
    figures = times([got.seconds for got in gots], max(got.ended for got in gots), limit)
    figures |= {"seed_wire_over_size": wire[0] / bench.size.swarm, "peer_wire_least": min(wire[1:]) / bench.size.swarm,
                "peer_wire_most": max(wire[1:]) / bench.size.swarm, "steal_share": steal,
                "sent_again_share": statistics.mean(uplinks.again), "idle_share": uplinks.idle_share}
    return {"figures": figures, "samples": {"done_s": [got.ended for got in gots]},
            "texts": {"mbit_per_s": "\n".join(" ".join(map(str, line)) for line in uplinks.rates())}}


RIVALS = {f"swarm_{name}{'_tuned' * tuned}": rival(name, tuned) for name in CLIENTS for tuned in (True, False)}


def parameters(bench: Any, count: int, congestion: str) -> dict[str, Any]:
    """Of a row."""
    return {"bytes": bench.size.swarm, "uplink": UP, "downlink": DOWN, "peers": count, "congestion": congestion}


def efficiency(bench: Any, links: Links, number: int, runs: list[dict[str, Any]], case: str = CASE) -> tuple[float, float]:
    """Mbit/s of payload that an uplink of `UP` carries at ends 1 and 2: of one that receives nothing, and of both if each
    receives as much as it sends."""
    if not bench.size.tiny:
        wait_for_calm()
    seconds = bench.size.seconds
    one, other, address = links.inside(1), links.inside(2), links.address(2)
    alone = floor.link_rate(one, other, address, seconds)
    # Two directions at once disturb each other now and then; a link never carries more than it can.
    both = max(floor.link_rate_both(one, other, address, seconds) for _ in range(1 if bench.size.tiny else MEASURED_BOTH))
    runs.append(bench.run("iperf3", case, number, {"mbit_per_s": alone, "mbit_per_s_both": both, "eta": alone / UP}))
    return alone, both


def bound(size: int, count: int, carried: tuple[float, float]) -> float:
    """T0 for equal links."""
    alone, both = carried
    down = DOWN * alone / UP
    return bounds.fluid(size, bounds.End(alone, down), [bounds.End(both, down)] * count)


def by_haul(bench: Any, links: Links, place: str, digest: str, limit: float,
            more: dict[str, str] | None = None, act: Callable[[Swarm], list[Got]] | None = None) -> dict[str, Any]:
    """All peers fetch at once, or as `act` has them fetch."""
    with Swarm(bench.binary, links, place, more) as swarm:
        if not bench.size.tiny:
            wait_for_calm()
        stolen = machine.steal_ticks()
        with Uplinks(links, range(len(links.rates) - 1)) as uplinks:
            gots = act(swarm) if act else swarm.get(digest)
        steal = stolen_since(stolen)
        failed = [got.error for got in gots if got.error]
        if failed:
            raise RuntimeError(f"{len(failed)} peers failed: {failed[0]}")
        for number in range(len(gots)):
            check(bench, swarm.target(number), digest)
            os.remove(swarm.target(number))
        gave = given(gots)
        payload = [gave.get(peer.key, 0) for peer in filter(None, [swarm.seed, *swarm.sinks])]
    return {"figures": {**times([got.seconds for got in gots], max(got.ended for got in gots), limit),
                        **sent(uplinks, payload, bench.size.swarm), "steal_share": steal},
            "samples": {"done_s": [got.ended for got in gots], "payload_by_end": [float(one) for one in payload],
                        "sent_by_end": [float(one) for one in uplinks.sent]},
            "texts": {"mbit_per_s": "\n".join(" ".join(map(str, line)) for line in uplinks.rates())}}


def times(seconds: list[float], wall: float, limit: float) -> dict[str, float]:
    """Of the last and the middle peer, by the clock and by the bound."""
    middle = statistics.median(seconds)
    return {"wall_s": wall, "median_s": middle, "over_limit": wall / limit, "median_over_limit": middle / limit,
            "last_by_median": max(seconds) / middle, "limit_s": limit}


def sent(uplinks: Uplinks, payload: list[int], size: int) -> dict[str, float]:
    """What the ends sent: payload that somebody verified, and bytes on the wire with headers and what was sent again."""
    peers = uplinks.sent[1:]
    return {"seed_payload_over_size": payload[0] / size, "seed_wire_over_size": uplinks.sent[0] / size,
            "peer_wire_least": min(peers) / size, "peer_wire_most": max(peers) / size,
            "peer_payload_least": min(payload[1:]) / size, "peer_payload_most": max(payload[1:]) / size,
            "sent_again_share": statistics.mean(uplinks.again), "idle_share": uplinks.idle_share}


def stolen_since(before: tuple[int, int]) -> float:
    """Part of the machine's time that was stolen since."""
    stolen, every = machine.steal_ticks()
    return (stolen - before[0]) / max(1, every - before[1])


def check(bench: Any, path: str, digest: str) -> None:
    """What arrived is what was shared."""
    found = run(bench.b3sum, "--no-names", path).strip()
    if found != digest:
        raise RuntimeError(f"the file is not what it was: {found}")


def remarked(found: dict[str, Any]) -> dict[str, Any]:
    """With a word about the machine if it was not at its best."""
    figures, remarks = found["figures"], []
    if figures["steal_share"] > STEAL_LIMIT:
        remarks.append(f"{figures['steal_share']:.0%} of the machine's time was stolen")
    if figures["idle_share"] < IDLE_LEAST:
        remarks.append(f"only {figures['idle_share']:.0%} of the machine was idle: the processor limits this run")
    return {**found, "remarks": remarks} if remarks else found
