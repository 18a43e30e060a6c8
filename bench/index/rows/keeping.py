"""Rows of what an index keeps: memory after turnovers, and everything after a kill."""

import os
import time

from common import machine
from haul import Haul
from rivals import redis


def memory(bench):
    """All entries replaced again and again; memory at rest and at its worst moment."""
    runs = []
    for share in bench.size.memory_shares:
        everything = bench.names(count=round(bench.size.names * share))
        with Haul(bench.binary, bench.state("memory")) as index:
            found = index.tool("churn", everything, "--turnovers", bench.size.turnovers)
        runs.append(bench.run("haul", str(found["parameters"]["entries"]), 0, found))
    lines, commands = bench.data("memory.tsv"), bench.data("memory.resp")
    bench.write_names(everything, lines)
    entries = redis.write_commands(lines, commands)
    with redis.Redis(bench.state("redis")) as server:
        empty = machine.anonymous_bytes(server.pid)
        figures = server.register(commands, entries)
        figures["memory_bytes_per_entry"] = (machine.anonymous_bytes(server.pid) - empty) / entries
        runs.append(bench.run("redis", str(entries), 0, figures))
    bench.remove("memory.tsv", "memory.resp")
    return {"runs": runs, "parameters": {"turnovers": bench.size.turnovers}}


def restart(bench):
    """kill -9 while peers register, then a start on the same state."""
    runs = []
    for number in range(bench.rounds):
        runs.append(bench.run("haul", "restart", number, kill_and_verify(bench, number)))
    return {"runs": runs, "parameters": {}}


def kill_and_verify(bench, number):
    """All peers are online; others register, and their acknowledgements are kept; kill; start; check."""
    everything, index = bench.main_index()
    journal, since = bench.data("journal.txt"), bench.data("since.txt")
    bench.remove("journal.txt", "since.txt")
    # They come back with what they have: the index says that nothing is new.
    index.release()
    index.register(everything, "--checks", 50)
    # Other peers in each round: what earlier ones registered is there already.
    cut = everything.other(seed=everything.seed + 1 + number, states=None, files_per_peer=max(1, everything.files_per_peer // 4))
    words = index.words("verify", everything, "--samples", bench.size.verified, "--since-file", since)
    words += ["--journal", journal, "--journal-seed", str(cut.seed)]
    verifying = bench.start_client(words, index.environment())
    # The index notes every 5 s who is online; these have been by then. The checker reads its list meanwhile.
    time.sleep(bench.size.online_seconds)
    index.start("register", cut, "--journal", journal, wait=False)
    wait_for_lines(journal, max(1, everything.peers // 3))
    index.kill()
    for process in index.holders:
        process.kill()
    index.release()
    with open(since + ".new", "w", encoding="ascii") as file:
        file.write(repr(time.time()))
    os.rename(since + ".new", since)
    bench.restart_main_index(index.ready["address"])
    return bench.finish_client(verifying)


def wait_for_lines(path, lines, seconds=120):
    """Until a file has so many lines."""
    for _ in range(seconds * 100):
        if os.path.exists(path):
            with open(path, "rb") as file:
                if sum(1 for _ in file) >= lines:
                    return
        time.sleep(0.01)
    raise RuntimeError("the registration that is to be cut off does not proceed")
