"""Rows of peers that come, go, stay and work beside others."""

from haul import Haul, Population


def leave_return(bench):
    """Peers leave and return unchanged; small shares beside large ones."""
    everything, index = bench.main_index()
    events = ("--events", bench.size.events, "--reopenings", bench.size.reopenings)
    runs = []
    small = Population(50, 100)
    with Haul(bench.binary, bench.state("small")) as other:
        other.register(small, "--checks", 50)
        for number in range(bench.rounds):
            runs.append(bench.run("haul", "large", number, index.tool("churn", everything, *events)))
            runs.append(bench.run("haul", "small", number, other.tool("churn", small, *events)))
    return {"runs": runs, "parameters": {"large": everything.files_per_peer, "small": small.files_per_peer}}


def idle(bench):
    """Many peers that are connected and do nothing."""
    peers = Population(bench.size.idle_peers, 1)
    with Haul(bench.binary, bench.state("idle")) as index:
        found = index.tool("idle", peers, "--seconds", bench.size.idle_seconds)
    return {"runs": [bench.run("haul", "idle", 0, found)], "parameters": {"peers": peers.peers}}


def mixed(bench):
    """Lookups at fixed times, calm and while one peer registers a large share."""
    everything, index = bench.main_index()
    words = ("--with-peers", "--rate", bench.size.mixed_rate, "--entries", bench.size.mixed_entries)
    words += ("--seconds", bench.size.seconds)
    runs = [bench.run("haul", "mixed", n, index.tool("mixed", everything, *words)) for n in range(bench.rounds)]
    return {"runs": runs, "parameters": {"entries": bench.size.mixed_entries}}
