"""Ends joined by links of given rates: network namespaces, veth pairs, bridges and `tc … tbf`.

Each end has a gate, a namespace of its own between it and the middle, that shapes what the end sends and what it
receives. A sender that shaped its own interface would be told of the drops. Everything is named after `PREFIX`, so that
what a killed run left is found and removed.
"""

import subprocess
from collections.abc import Sequence

PREFIX = "haulbench-"
SUBNET = "10.77.0"
# A bucket of 1 ms at its rate, at least a packet of the largest kind: what an idle link lets through above its rate.
BURST_SECONDS = 0.001
BURST_BYTES_MIN = 66_000
# Longest wait in a gate's queue.
QUEUE_SECONDS = 0.02

# Mbit/s up and down, as the end sees it; none is unshaped.
Rate = tuple[float | None, float | None]


def ip(*words: object, inside: str | None = None) -> str:
    """`ip …`, in a namespace if one is named."""
    command = ["ip", *(["-n", inside] if inside else []), *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def bucket(mbit: float) -> list[str]:
    """The arguments of tbf for a rate."""
    bytes_per_s = mbit * 1e6 / 8
    burst = max(BURST_BYTES_MIN, round(bytes_per_s * BURST_SECONDS))
    limit = burst + max(BURST_BYTES_MIN, round(bytes_per_s * QUEUE_SECONDS))
    return ["rate", f"{round(mbit * 1000)}kbit", "burst", str(burst), "limit", str(limit)]


class Links:
    """So many ends, each at its rates, in one subnet; TCP controls congestion in the named way, or in that of the machine."""

    def __init__(self, rates: Sequence[Rate], congestion: str | None = None):
        remove_left()
        self.rates, self.congestion = list(rates), congestion
        self.middle = PREFIX + "middle"
        try:
            self._join()
        except BaseException:
            remove_left()
            raise

    def __enter__(self) -> "Links":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _join(self) -> None:
        namespace(self.middle)
        bridge(self.middle)
        for number, (up, down) in enumerate(self.rates):
            end, gate = self.end(number), self.gate(number)
            namespace(end)
            namespace(gate)
            bridge(gate)
            cable((end, "wire"), (gate, "near"))
            cable((gate, "far"), (self.middle, f"port{number}"))
            ip("address", "add", f"{self.address(number)}/24", "dev", "wire", inside=end)
            if self.congestion:
                # By the route: the setting of a namespace may not be ours to change.
                ip("route", "replace", f"{SUBNET}.0/24", "dev", "wire", "src", self.address(number), "congctl",
                   self.congestion, inside=end)
            for place, port in ((gate, "near"), (gate, "far"), (self.middle, f"port{number}")):
                ip("link", "set", port, "master", "bridge", inside=place)
            for port, rate in (("far", up), ("near", down)):
                if rate:
                    self.shape(number, port, rate)

    def shape(self, number: int, port: str, mbit: float) -> None:
        """Gives a port of an end's gate a rate, or another one: `far` is what the end sends, `near` what it receives."""
        command = ["ip", "netns", "exec", self.gate(number), "tc", "qdisc", "replace", "dev", port, "root", "tbf"]
        subprocess.run([*command, *bucket(mbit)], check=True, capture_output=True)

    def part(self, one: int, other: int) -> None:
        """Two ends cannot reach each other any more, and are told so at once."""
        for here, there in ((one, other), (other, one)):
            ip("route", "add", "unreachable", f"{self.address(there)}/32", inside=self.end(here))

    def end(self, number: int) -> str:
        """Its namespace."""
        return f"{PREFIX}end{number}"

    def gate(self, number: int) -> str:
        """Its gate's namespace."""
        return f"{PREFIX}gate{number}"

    def address(self, number: int) -> str:
        """Its address."""
        return f"{SUBNET}.{number + 1}"

    def inside(self, number: int) -> list[str]:
        """What stands before a command that runs at this end; `ip` becomes the command, so the process id stays."""
        return ["ip", "netns", "exec", self.end(number)]

    def close(self) -> None:
        """Removes all namespaces, and with them all links."""
        remove_left()


def namespace(name: str) -> None:
    """A new one with its loopback up."""
    ip("netns", "add", name)
    ip("link", "set", "lo", "up", inside=name)


def bridge(name: str) -> None:
    """A bridge in a namespace."""
    ip("link", "add", "bridge", "type", "bridge", inside=name)
    ip("link", "set", "bridge", "up", inside=name)


def cable(one: tuple[str, str], other: tuple[str, str]) -> None:
    """A veth pair between two namespaces: (namespace, name of the interface) each."""
    ip("link", "add", "name", one[1], "netns", one[0], "type", "veth", "peer", "name", other[1], "netns", other[0])
    for place, port in (one, other):
        ip("link", "set", port, "up", inside=place)


def remove_left() -> None:
    """Namespaces of an earlier run."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0] if line else ""
        if name.startswith(PREFIX):
            ip("netns", "delete", name)
