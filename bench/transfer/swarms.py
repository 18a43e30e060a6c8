"""A swarm on links of its own: an index at an end without limits, one seed, peers that have nothing yet; when each of
them is done, and what each uplink carried meanwhile."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cost import TICK, busy_ticks
from faults import Resident
from links import Links
from peers import Peer

# How often uplinks are looked at.
LOOK_SECONDS = 0.5
NAME = "swarm.bin"


def sent_in(text: str, interface: str) -> int:
    """Bytes that an interface has sent, from the text of /proc/PID/net/dev. Headers of segments that the kernel carries
    as one packet are not in it."""
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() == interface:
            return int(rest.split()[8])
    raise ValueError(f"no interface {interface}")


def segments_in(text: str) -> tuple[int, int]:
    """TCP segments sent and sent again, from the text of /proc/PID/net/snmp."""
    lines = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    fields = dict(zip(lines[0][1:], lines[1][1:]))
    return int(fields["OutSegs"]), int(fields["RetransSegs"])


def read(pid: int, path: str) -> str:
    """A file of a process's network."""
    with open(f"/proc/{pid}/net/{path}", encoding="ascii") as file:
        return file.read()


def sent_of(pid: int) -> int:
    """What the link of a process's namespace has sent."""
    return sent_in(read(pid, "dev"), "wire")


def shaper_bytes(links: Links, number: int) -> int:
    """Bytes that an end's shaper let through on the way out, with the headers of every segment."""
    command = ["ip", "netns", "exec", links.gate(number), "tc", "-s", "-j", "qdisc", "show", "dev", "far"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return next(int(qdisc["bytes"]) for qdisc in json.loads(done.stdout) if qdisc["kind"] == "tbf")


class Uplinks:
    """Watches what some ends send while it is entered."""

    def __init__(self, links: Links, numbers: Sequence[int]):
        self.links, self.numbers = links, list(numbers)
        self.gates: list[Resident] = []
        self.ends: list[Resident] = []

    def __enter__(self) -> "Uplinks":
        for number in self.numbers:
            self.gates.append(Resident(["ip", "netns", "exec", self.links.gate(number)]))
            self.ends.append(Resident(self.links.inside(number)))
        self.before = [shaper_bytes(self.links, number) for number in self.numbers]
        self.segments_before = [segments_in(read(end.pid, "snmp")) for end in self.ends]
        self.busy, self.begun = busy_ticks(), time.monotonic()
        self.looks: list[tuple[float, list[int]]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.seconds = time.monotonic() - self.begun
        self.idle_share = 1 - (busy_ticks() - self.busy) / TICK / (self.seconds * (os.cpu_count() or 1))
        self.sent = [shaper_bytes(self.links, number) - before for number, before in zip(self.numbers, self.before)]
        after = [segments_in(read(end.pid, "snmp")) for end in self.ends]
        self.again = [repeated(*pair) for pair in zip(self.segments_before, after)]
        for resident in [*self.gates, *self.ends]:
            resident.__exit__()

    def _watch(self) -> None:
        while True:
            sent = [sent_in(read(gate.pid, "dev"), "far") for gate in self.gates]
            self.looks.append((time.monotonic() - self.begun, sent))
            if self.over.wait(LOOK_SECONDS):
                return

    def rates(self) -> list[list[float]]:
        """Mbit/s of every uplink between looks: [seconds, uplink, uplink, …] each."""
        found = []
        for (before, old), (now, new) in zip(self.looks, self.looks[1:]):
            found.append([round(now, 2), *(round((b - a) * 8e-6 / (now - before), 1) for a, b in zip(old, new))])
        return found


def repeated(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Part of the TCP segments that were sent more than once."""
    return (after[1] - before[1]) / max(1, after[0] - before[0])


class Swarm:
    """Daemons at the ends of `links`: end 0 is the seed's, the last one the index's, peers between. `more` are
    variables that all daemons get, `index_more` those of the index alone."""

    def __init__(self, binary: str, links: Links, place: str, more: dict[str, str] | None = None,
                 index_more: dict[str, str] | None = None):
        self.links, self.place, self.more, self.index_more = links, place, more or {}, index_more or {}
        self.binary = binary
        self.sinks: list[Peer] = []
        self.index: Peer | None = None
        self.seed: Peer | None = None

    def __enter__(self) -> "Swarm":
        try:
            last = len(self.links.rates) - 1
            self.index = self._start(last, "index")
            self.seed = self._start(0, "seed", "--share", os.path.join(self.place, "content"))
            self.seed.wait_ready(1)
            self.sinks = [self._start(number, f"peer{number}") for number in range(1, last)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, number: int, name: str, *words: str) -> Peer:
        ticket = self.index.ticket if self.index else None
        more = self.more if self.index else {**self.more, **self.index_more}
        return Peer(self.binary, os.path.join(self.place, name), "--name", name, *words, ticket=ticket,
                    address=self.links.address(number), inside=self.links.inside(number), more=more)

    def __exit__(self, *_: object) -> None:
        for peer in [*self.sinks, *filter(None, [self.seed, self.index])]:
            peer.stop()

    def target(self, number: int) -> str:
        """Where a sink (0 is the first) puts the file."""
        return os.path.join(self.place, f"arrived{number}")

    def get(self, digest: str, delays: Sequence[float] | None = None) -> list["Got"]:
        """All sinks fetch at once, or each after its delay."""
        what = f"b3:{digest}"
        return together([lambda n=n: self.sinks[n].get(what, self.target(n)) for n in range(len(self.sinks))], delays)


class Got:
    """What became of one fetch: seconds from its command to its end, and what it said, or the error."""

    def __init__(self, seconds: float, ended: float, done: dict[str, Any] | None, error: BaseException | None):
        self.seconds, self.ended, self.done, self.error = seconds, ended, done, error


def together(fetches: Sequence[Callable[[], dict[str, Any]]], delays: Sequence[float] | None = None) -> list[Got]:
    """Runs fetches side by side; `ended` counts from the common beginning."""
    found: list[Got | None] = [None] * len(fetches)
    begun = time.monotonic()

    def run(number: int) -> None:
        if delays:
            time.sleep(max(0.0, begun + delays[number] - time.monotonic()))
        from_here = time.monotonic()
        done, failed = None, None
        try:
            done = fetches[number]()
        except Exception as error:  # Told by whoever asked for it.
            failed = error
        now = time.monotonic()
        found[number] = Got(now - from_here, now - begun, done, failed)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(fetches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for one in found if one]


def given(gots: Sequence[Got]) -> dict[str, int]:
    """Verified bytes by the peer that gave them."""
    sums: dict[str, int] = {}
    for got in gots:
        for one in (got.done or {}).get("from", []):
            sums[one["peer"]] = sums.get(one["peer"], 0) + one["bytes"]
    return sums
