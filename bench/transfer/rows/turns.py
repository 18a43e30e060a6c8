"""Programs take turns: in every round each of them once, the first one another in each round."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import content
from cost import TICK, Cost, busy_ticks
from rivals import floor
from rivals.rival import Rival, run

# A run is repeated if more than this part of the machine worked for others, or was stolen; fixed beforehand. Where all
# programs run at a high priority, others get what a program leaves idle, and that much is let pass. On a disk, the
# kernel's own threads that write back count as others. Where a link decides, a core is enough.
OTHERS_LIMIT = {"tmpfs": 0.08, "disk": 0.3, "link": 0.4}
OTHERS_LIMIT_AHEAD = {"tmpfs": 0.6, "disk": 1.0, "link": 1.0}
STEAL_LIMIT = 0.02
REPEATS = 3
# Before a run the machine has to be calm.
CALM_SHARE = 0.06
CALM_PATIENCE = 240.0
CALM_PATIENCE_AHEAD = 3.0
# Nice values below this are a high priority.
AHEAD = -10
# Memory that is touched before a run, besides what the content takes: a host takes back what its guest does not use, and
# giving it again costs a run seconds that have nothing to do with a program.
WARM_SHARE, WARM_MORE = 1.25, 256 << 20


class Wanted(NamedTuple):
    """What has to arrive: one file by its BLAKE3, or a folder by its original."""

    size: int
    files: int
    b3: str | None = None
    original: str | None = None


def take_turns(bench: Any, case: str, rivals: list[Rival], wanted: Wanted, place: str, system: str,
               rounds: dict[str, int] | None = None, only: int | None = None) -> list[dict[str, Any]]:
    """All rounds, or `only` this one; `rounds` has fewer for some programs."""
    runs = []
    for number in range(bench.rounds) if only is None else [only]:
        turn = number % len(rivals)
        for rival in rivals[turn:] + rivals[:turn]:
            if number < (rounds or {}).get(rival.name, bench.rounds):
                thorough = number == 0
                found = undisturbed(bench, lambda: once(bench, rival, wanted, place, thorough), system)
                runs.append(bench.run(rival.name, case, number, found))
    return runs


def once(bench: Any, rival: Rival, wanted: Wanted, place: str, thorough: bool) -> dict[str, Any]:
    """One run: what was fetched is checked; a file is removed. A folder stays until the end of the row: ext4 without a
    journal does not use the inodes of deleted files again for a while, and takes ten times as long to create others."""
    target = os.path.join(tempfile.mkdtemp(prefix="target-", dir=place), "arrived")
    rival.prepare(target)
    try:
        warm(bench, wanted.size)
        with Cost(rival.pids()) as cost:
            rival.fetch(target)
        rival.finish(target)
    finally:
        rival.rest()
    if rival.name != "floor":
        check(bench, target, wanted, thorough)
    if wanted.b3 or bench.places["tmpfs"] in target:
        shutil.rmtree(os.path.dirname(target))
    os.sync()
    return cost.figures(wanted.size, wanted.files)


def warm(bench: Any, size: int) -> None:
    """Has the memory that a run will need handed out by whoever keeps it, and gives it back at once."""
    path = os.path.join(bench.place("tmpfs"), "warm")
    room = os.statvfs(os.path.dirname(path))
    wanted = round(size * WARM_SHARE) + WARM_MORE
    floor.ask(bench.floor, "write", path, min(wanted, free_memory() * 3 // 4, room.f_bavail * room.f_frsize // 2))
    os.remove(path)


def free_memory() -> int:
    """Bytes that nothing uses, not even as a cache."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemFree"].split()[0]) * 1024


def check(bench: Any, target: str, wanted: Wanted, thorough: bool) -> None:
    """What arrived is what was sent; a folder is compared byte by byte if `thorough`, else counted."""
    if wanted.b3:
        found = run(bench.b3sum, "--no-names", target).strip()
        if found != wanted.b3:
            raise RuntimeError(f"the file is not what it was: {found}")
        return
    assert wanted.original
    counted = content.measure_tree(target)
    if counted != (wanted.files, wanted.size):
        raise RuntimeError(f"the folder is not what it was: {counted}")
    if thorough:
        run("diff", "-r", wanted.original, target)


def undisturbed(bench: Any, measure: Callable[[], dict[str, Any]], system: str) -> dict[str, Any]:
    """Repeats a run that others disturbed; of three the calmest stands, with a remark. A trial with small sets takes
    what comes."""
    if bench.size.tiny:
        return measure()
    tried = []
    for _ in range(REPEATS):
        wait_for_calm()
        figures = measure()
        tried.append(figures)
        limit = (OTHERS_LIMIT_AHEAD if is_ahead() else OTHERS_LIMIT)[system]
        if figures["others_share"] <= limit and figures["steal_share"] <= STEAL_LIMIT:
            return figures
        print(f"    repeated: {figures['others_share']:.0%} of the machine worked for others, "
              f"{figures['steal_share']:.0%} was stolen", flush=True)
    figures = min(tried, key=lambda one: one["others_share"])
    remark = f"{figures['others_share']:.0%} of the machine worked for others, and more in {REPEATS - 1} other runs"
    return {"figures": figures, "remarks": [remark]}


def is_ahead() -> bool:
    """Whether all that is started here runs before what others run."""
    return os.nice(0) < AHEAD


def wait_for_calm() -> None:
    """Until nearly nothing else runs on the machine, or patience ends."""
    limit = time.monotonic() + (CALM_PATIENCE_AHEAD if is_ahead() else CALM_PATIENCE)
    while time.monotonic() < limit:
        before, begun = busy_ticks(), time.monotonic()
        time.sleep(0.5)
        share = (busy_ticks() - before) / TICK / (time.monotonic() - begun) / (os.cpu_count() or 1)
        if share <= CALM_SHARE:
            return
