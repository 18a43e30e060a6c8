"""What a transfer costs: time by the clock, and CPU seconds of all that took part in it, their children included."""

import os
import resource
import time
from collections.abc import Iterable
from typing import Any

from common import machine

TICK = os.sysconf("SC_CLK_TCK")
# After the clock has stopped, servers may go on for a moment; that counts as CPU time, too.
SETTLE_LOOKS = 2
SETTLE_PAUSE = 0.1
SETTLE_LIMIT = 10.0


def stat_fields(line: str) -> tuple[int, int]:
    """(parent's id, CPU ticks with those of children that were waited for) of a line of /proc/PID/stat."""
    fields = line.rsplit(")", 1)[1].split()
    return int(fields[1]), sum(int(field) for field in fields[11:15])


def processes() -> dict[int, tuple[int, int]]:
    """(parent, ticks) of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    found[int(name)] = stat_fields(file.read())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def with_descendants(pids: Iterable[int], parents: dict[int, int]) -> set[int]:
    """These processes and all below them."""
    wanted = set(pids)
    while True:
        more = {pid for pid, parent in parents.items() if parent in wanted and pid not in wanted}
        if not more:
            return wanted
        wanted |= more


def tree_seconds(pids: Iterable[int]) -> float:
    """CPU time so far of these processes and their descendants, alive or waited for."""
    found = processes()
    wanted = with_descendants(pids, {pid: parent for pid, (parent, _) in found.items()})
    return sum(found[pid][1] for pid in wanted if pid in found) / TICK


def busy_ticks() -> int:
    """Ticks in which the machine worked for anybody: user, nice, system, interrupts."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:8]]
    return fields[0] + fields[1] + fields[2] + fields[5] + fields[6]


def children_seconds() -> float:
    """CPU time of this process's children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Cost:
    """Measures between `__enter__` and `__exit__`: `servers` by their ids, clients as children that end in between."""

    def __init__(self, servers: Iterable[int] = ()):
        self.servers = list(servers)

    def __enter__(self) -> "Cost":
        self.server_cpu = tree_seconds(self.servers)
        self.client_cpu = children_seconds()
        self.own = time.process_time()
        self.busy, self.stolen = busy_ticks(), machine.steal_ticks()
        self.begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.monotonic() - self.begun
        self.client_cpu = children_seconds() - self.client_cpu
        busy = (busy_ticks() - self.busy) / TICK
        own = time.process_time() - self.own
        others = busy - own - self.client_cpu - (tree_seconds(self.servers) - self.server_cpu)
        self.others_share = max(0.0, others) / (self.wall * (os.cpu_count() or 1))
        self.server_cpu = self.settled() - self.server_cpu
        stolen, every = machine.steal_ticks()
        self.steal_share = (stolen - self.stolen[0]) / max(1, every - self.stolen[1])

    def settled(self) -> float:
        """CPU time of the servers once they have come to rest."""
        if not self.servers:
            return 0.0
        limit = time.monotonic() + SETTLE_LIMIT
        last, quiet = tree_seconds(self.servers), 0
        while quiet < SETTLE_LOOKS and time.monotonic() < limit:
            time.sleep(SETTLE_PAUSE)
            now = tree_seconds(self.servers)
            quiet = quiet + 1 if now - last <= 1 / TICK else 0
            last = now
        return last

    def figures(self, size: int, files: int = 1) -> dict[str, Any]:
        """For so many bytes in so many files."""
        cpu = self.server_cpu + self.client_cpu
        return {
            "wall_s": self.wall,
            "cpu_s": cpu,
            "server_cpu_s": self.server_cpu,
            "client_cpu_s": self.client_cpu,
            "bytes": size,
            "files": files,
            "mb_per_s": size / self.wall / 1e6,
            "mb_per_cpu_s": size / max(cpu, 1e-9) / 1e6,
            "files_per_s": files / self.wall,
            "files_per_cpu_s": files / max(cpu, 1e-9),
            "others_share": self.others_share,
            "steal_share": self.steal_share,
        }
