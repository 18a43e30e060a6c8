"""Swarms that are not all alike: without plans, in a chain, over unequal links, with peers that come late and go early, and
with an index that dies."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import bounds
from common import machine
from faults import Fault, Resident
from links import Links, Rate
from rows.one_file import one_file
from rows.swarm import CONGESTION, DOWN, UP, check, efficiency, remarked, sent, stolen_since, times
from rows.turns import wait_for_calm
from swarms import NAME, Swarm, Uplinks, given, sent_of

# Mbit/s up of peers that are not alike; together with the seed hardly more than what all want.
UNEQUAL = (10, 100, 20, 50, 15, 80, 30, 40, 25)
# What an interface counts by what it carries of a file: TLS, and headers once for all segments that it takes as one.
COUNTED = 1.01
# Parts of the file after which those leave that do.
LEAVES_AT, SEED_LEAVES_AFTER = 0.5, 1.05
# Each comes nearer by the part that acknowledgements take, a twentieth.
ROUNDS_OF_THE_BOUND = 3


class Course(NamedTuple):
    """What is special in a swarm. Peers are numbered from 0, joins are parts of the time that the seed needs at least."""

    case: str
    ups: tuple[float, ...] = (UP,) * 8
    seed_up: float = UP
    joins: float = 0.0
    leavers: tuple[int, ...] = ()
    seed_leaves: bool = False
    index_dies: bool = False
    plans: str = "on"
    chain: bool = False

    def rates(self) -> list[Rate]:
        """The seed's, the peers', and those of the index's end, which has no limits."""
        return [(self.seed_up, DOWN), *((up, DOWN) for up in self.ups), (None, None)]

    def begins(self, size: int) -> list[float]:
        """Seconds after which each peer comes: evenly."""
        span = self.joins * size / bounds.bytes_per_s(self.seed_up)
        return [span * number / len(self.ups) for number in range(len(self.ups))]

    def stays(self) -> list[int]:
        """Peers that do not leave."""
        return [number for number in range(len(self.ups)) if number not in self.leavers]

    def limit(self, size: int, carried: tuple[float, float]) -> float:
        """The bound, if a link of `UP` carries so much payload alone, and so much while its end receives as much:
        acknowledgements take a part of what an end receives from its uplink. How much it receives in a second follows
        from the bound."""
        alone, both = carried
        eta, taken = alone / UP, (alone - both) / both
        begins, seconds = self.begins(size), size / bounds.bytes_per_s(UP)
        seed = bounds.End(self.seed_up * eta, leaves_after=SEED_LEAVES_AFTER if self.seed_leaves else None)
        for _ in range(ROUNDS_OF_THE_BOUND):
            received = size * 8e-6 / seconds
            sinks = [
                bounds.End(up * eta - received * taken, DOWN * eta, begins[number], LEAVES_AT if number in self.leavers else None)
                for number, up in enumerate(self.ups)
            ]
            seconds = bounds.chain(size, [seed, *sinks]) if self.chain else bounds.staged(size, seed, sinks)
        return seconds


MIXED = Course("all of it", UNEQUAL, joins=0.2, leavers=(2, 5, 8), seed_leaves=True)
COURSES = {
    "swarm_off": Course("planner off", plans="off"),
    "swarm_random": Course("random plans", plans="random"),
    "swarm_chain": Course("chain", plans="off", chain=True),
    "swarm_unequal": Course("unequal uplinks", UNEQUAL),
    "swarm_staggered": Course("joins spread", joins=0.2),
    "swarm_leavers": Course("a third leave", (UP,) * 9, leavers=(2, 5, 8)),
    "swarm_seed_leaves": Course("seed leaves", (30.0,) * 8, seed_up=150.0, seed_leaves=True),
    "swarm_mixed": MIXED,
    "swarm_index_dies": Course("index dies", index_dies=True),
}


def row_of(course: Course) -> Callable[[Any], dict[str, Any]]:
    """All rounds of it."""

    def row(bench: Any) -> dict[str, Any]:
        runs: list[dict[str, Any]] = []
        place, digest = one_file(bench, "tmpfs", "swarm", NAME, bench.size.swarm)
        try:
            with Links(course.rates(), CONGESTION) as links:
                if course.chain:
                    make_chain(links, 1 + len(course.ups))
                for number in range(bench.rounds):
                    shape(links, (UP, UP))
                    carried = efficiency(bench, links, number, runs, course.case)
                    shape(links, course.ups[:2])
                    found = once(bench, links, place, digest, course, course.limit(bench.size.swarm, carried))
                    runs.append(bench.run("haul", course.case, number, remarked(found)))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return {"runs": runs, "parameters": {
            "bytes": bench.size.swarm, "uplinks": " ".join(map(str, (course.seed_up, *course.ups))), "downlink": DOWN,
            "peers": len(course.ups), "congestion": CONGESTION, "joins_over_s": course.begins(bench.size.swarm)[-1],
        }}

    return row


ROWS = {name: row_of(course) for name, course in COURSES.items()}


def once(bench: Any, links: Links, place: str, digest: str, course: Course, limit: float) -> dict[str, Any]:
    """One round; who stays has the file in the end."""
    size = bench.size.swarm
    with Swarm(bench.binary, links, place, index_more={"HAUL_SWARM_PLANS": course.plans}) as swarm:
        if not bench.size.tiny:
            wait_for_calm()
        stolen = machine.steal_ticks()
        with Uplinks(links, range(len(links.rates) - 1)) as uplinks, incidents(links, swarm, course, size) as happened:
            gots = swarm.get(digest, course.begins(size))
        steal = stolen_since(stolen)
        stayed = [gots[number] for number in course.stays()]
        failed = [got.error for got in stayed if got.error]
        if failed:
            raise RuntimeError(f"{len(failed)} peers failed: {failed[0]}")
        if not all(fault.happened for fault in happened):
            raise RuntimeError("not all happened that should")
        for number in course.stays():
            check(bench, swarm.target(number), digest)
        payload = [given(stayed).get(peer.key, 0) for peer in [swarm.seed, *swarm.sinks] if peer]
        for number in range(len(course.ups)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(swarm.target(number))
    figures = {**times([got.seconds for got in stayed], max(got.ended for got in stayed), limit),
               **sent(uplinks, payload, size), "steal_share": steal}
    if course.chain:
        figures["over_first"] = max(got.ended for got in gots) / gots[0].ended
    return {"figures": figures, "samples": {"done_s": [got.ended for got in stayed]},
            "texts": {"mbit_per_s": "\n".join(" ".join(map(str, line)) for line in uplinks.rates())}}


def shape(links: Links, ups: tuple[float, ...]) -> None:
    """Gives the first peers other uplinks."""
    for number, up in enumerate(ups, start=1):
        links.shape(number, "far", up)


def make_chain(links: Links, ends: int) -> None:
    """Of these ends each reaches the one before and the one behind it, and the index."""
    for one in range(ends):
        for other in range(one + 2, ends):
            links.part(one, other)


@contextlib.contextmanager
def incidents(links: Links, swarm: Swarm, course: Course, size: int) -> Iterator[list[Fault]]:
    """Peers and the seed that end their daemons in good order, and an index that is killed when the first peer has half."""
    with contextlib.ExitStack() as stack:
        def at(number: int) -> int:
            return stack.enter_context(Resident(links.inside(number))).pid

        faults = [Fault(at(1 + number), size * LEAVES_AT * COUNTED, swarm.sinks[number].pid, signal.SIGTERM)
                  for number in course.leavers]
        if course.seed_leaves and swarm.seed:
            faults.append(Fault(at(0), size * SEED_LEAVES_AFTER * COUNTED, swarm.seed.pid, signal.SIGTERM, sent_of))
        if course.index_dies and swarm.index:
            faults.append(Fault(at(1), size * LEAVES_AT * COUNTED, swarm.index.pid, signal.SIGKILL))
        for fault in faults:
            stack.enter_context(fault)
        yield faults
