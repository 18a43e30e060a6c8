"""How fast a swarm could be at all. Rates in Mbit/s of payload, sizes in bytes, times in seconds."""

from typing import NamedTuple

# Seconds of a step of `staged`, and the longest time that it looks at.
STEP = 0.02
LONGEST = 3600.0


class End(NamedTuple):
    """One end of a swarm: what its links carry, when it comes and when it may go."""

    up: float
    down: float = float("inf")
    joins: float = 0.0
    # Goes once it holds this part of the file.
    leaves_at: float | None = None
    # Goes once it could have sent so many times the file.
    leaves_after: float | None = None


def bytes_per_s(mbit: float) -> float:
    """Of a rate."""
    return mbit * 1e6 / 8


def fluid(size: int, seed: End, sinks: list[End]) -> float:
    """Kumar and Ross (HotWeb 2006), for sinks that are there from the start and stay: every byte leaves the seed once,
    passes each downlink, and as many bytes as all sinks want pass the uplinks."""
    slowest = min(sink.down for sink in sinks)
    together = seed.up + sum(sink.up for sink in sinks)
    return max(size / bytes_per_s(seed.up), size / bytes_per_s(slowest), len(sinks) * size / bytes_per_s(together))


def chain(size: int, ends: list[End]) -> float:
    """Each has everything from the one before: the slowest hop decides, if nobody waits for whole pieces."""
    hops = zip(ends, ends[1:])
    return max(size / bytes_per_s(min(giver.up, taker.down)) for giver, taker in hops)


def by_seed_alone(size: int, seed: End, sinks: int) -> float:
    """Nobody passes anything on."""
    return sinks * size / bytes_per_s(seed.up)


def staged(size: int, seed: End, sinks: list[End]) -> float:
    """The fluid bound in stages, for ends that come and go: in each small step all who are there advance as fast as the
    bound allows for those present, who is behind first. Seconds until the last of those who stay has all."""
    ends = [seed, *sinks]
    got = [float(size), *(0.0 for _ in sinks)]
    gone = [False] * len(ends)
    fresh = 0.0
    for step in range(round(LONGEST / STEP)):
        time = step * STEP
        here = [at for at, end in enumerate(ends) if not gone[at] and end.joins <= time]
        lacking = [at for at in here if got[at] < size * 0.999_999]
        if not lacking and all(end.joins <= time for end in ends):
            return time
        if not gone[0]:
            fresh = min(size, fresh + bytes_per_s(seed.up) * STEP)
        capacity = sum(bytes_per_s(ends[at].up) for at in here) * STEP
        most = {at: min(bytes_per_s(ends[at].down) * STEP, max(0.0, fresh - got[at])) for at in lacking}
        for at, part in risen(got, most, capacity).items():
            got[at] += part
        for at in here:
            part, times = ends[at].leaves_at, ends[at].leaves_after
            held = at != 0 and part is not None and got[at] >= size * part
            spent = times is not None and time * bytes_per_s(ends[at].up) >= size * times
            gone[at] = gone[at] or held or spent
    raise ValueError("no end in sight")


def risen(got: list[float], most: dict[int, float], capacity: float) -> dict[int, float]:
    """Shares a capacity so that the hindmost rise to one level, each by at most what `most` says."""

    def parts(level: float) -> dict[int, float]:
        return {at: min(max(level - got[at], 0.0), room) for at, room in most.items()}

    if sum(most.values()) <= capacity:
        return dict(most)
    low, high = 0.0, max(got[at] + room for at, room in most.items())
    for _ in range(50):
        level = (low + high) / 2
        if sum(parts(level).values()) > capacity:
            high = level
        else:
            low = level
    return parts(low)
