#!/usr/bin/env python3
"""The index beside the programs that a user would pick instead: measures all rows and writes the report.

    bench/index/run.py                  everything, about 40 minutes
    bench/index/run.py --quick          tiny sizes, to see that everything works; writes nothing into docs
    bench/index/run.py --rows search    these rows again; the report is made from all raw data
    bench/index/run.py --report         the report alone
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import report
import setup
from common import install, machine, page, raw, runner
from haul import Haul, Population
from rivals import aquatic, echo, plocate, redis, sqlite
from rows import keeping, lookups, presence, registering, searching

# In this order: rows that use the index with all names follow each other, and the restart ends it.
ROWS = {
    "lookup": lookups.lookup,
    "lookup_curve": lookups.lookup_curve,
    "one_in_flight": lookups.one_in_flight,
    "register": registering.register,
    "search": searching.search,
    "count": searching.count,
    "leave_return": presence.leave_return,
    "mixed": presence.mixed,
    "restart": keeping.restart,
    "search_curve": searching.search_curve,
    "idle": presence.idle,
    "memory": keeping.memory,
}

# Shown while a row runs.
SHOWN = ("per_server_cpu_s", "lookups_per_server_cpu_s", "requests_per_server_cpu_s", "settled_per_server_cpu_s",
         "queries_per_s", "memory_steady_bytes_per_entry", "memory_worst_bytes_per_entry", "memory_bytes_per_entry",
         "memory_bytes_per_connection", "core_share", "p99_loaded_over_calm", "first_good_s", "exact_from_s", "answers_wrong",
         "counted", "same", "compared")


class Size:
    """How much of everything."""

    def __init__(self, quick=False, long=False, scale=1.0):
        self.tiny = quick or scale < 1
        self.blobs = 100_000 if quick else 10_000_000
        self.blob_curve = [20_000] if quick else [100_000, 1_000_000]
        self.names = 20_000 if quick else 7_300_000
        self.name_curve = [5_000] if quick else [100_000, 1_000_000]
        self.peers = 20 if quick else 1_000
        self.seconds = 0.5 if quick else 5
        self.redis_requests = 100_000 if quick else 3_000_000
        self.connections = 50 if quick else 1_000
        self.queries_per_class = 5 if quick else 30
        self.search_rounds = 2 if quick else 20
        self.counted = 500 if quick else 42_000
        self.events = 5 if quick else 200
        self.reopenings = 20 if quick else 1_000
        self.idle_peers = 50 if quick else 10_000
        self.idle_seconds = 2 if quick else 60
        self.mixed_rate = 500 if quick else 2_000
        self.mixed_entries = 20_000 if quick else 1_000_000
        self.memory_shares = [0.5, 1.0] if quick else [0.1, 0.5, 1.0]
        self.turnovers = 2 if quick else 10
        self.online_seconds = 6
        self.verified = 50 if quick else 1_000
        self.rounds = 1 if quick else 9 if long else 3
        if scale < 1:
            self.shrink(scale)

    def shrink(self, scale):
        """Smaller sets and shorter times, to try the runner out."""
        for name in ("blobs", "names", "redis_requests", "counted", "mixed_entries", "idle_peers"):
            setattr(self, name, max(100, round(getattr(self, name) * scale)))
        for name in ("blob_curve", "name_curve"):
            setattr(self, name, [max(5_000, round(size * scale)) for size in getattr(self, name)])
        self.peers = max(20, round(self.peers * scale))
        self.idle_seconds, self.search_rounds, self.turnovers, self.rounds = 5, 3, 2, 1


class Bench:
    """What rows need: programs, places, sizes, and the index with all names, which several rows share."""

    def __init__(self, arguments, programs):
        self.size = Size(arguments.quick, arguments.long, arguments.scale)
        self.rounds = arguments.rounds or self.size.rounds
        self.long = arguments.long
        self.binary, self.aquatic, self.paths, self._data = programs
        self.redis_tls = redis.has_tls()
        # Before this run's own raw data make the tree differ from its commit.
        self.versions = versions(self.aquatic)
        self._main = None

    def data(self, name):
        """A file that stays between rows."""
        return os.path.join(self._data, name)

    def state(self, name):
        """The folder of a server; emptied when the server starts."""
        return os.path.join(self._data, "state", name)

    def remove(self, *names):
        """Removes files of `data`."""
        for name in names:
            if os.path.exists(self.data(name)):
                os.remove(self.data(name))

    def echo(self):
        """The C program."""
        return echo.build(self.data("echo"))

    def names(self, count=None, copies=1.0):
        """Real names: about `count` entries of all peers together."""
        peers = self.size.peers
        return Population(peers, (count or self.size.names) // peers, copies, self.paths)

    def write_names(self, everything, target, *more):
        """What `everything` registers, as lines of text."""
        words = [self.binary, "bench", "names", *everything.arguments(), "--to", target, *more]
        machine.run_client(words)

    def main_index(self):
        """The index with all names, its peers connected; made when it is first asked for."""
        states = self.data("main-states.txt")
        if self._main is None:
            self.remove("main-states.txt")
            self._main = Haul(self.binary, self.state("main"))
            self._main.register(self.names(), "--checks", 200, "--journal", states)
        return self.names().other(states=states), self._main

    def restart_main_index(self, address):
        """After it was killed."""
        self._main = Haul(self.binary, self.state("main"), listen=address, keep=True)
        return self._main

    def close(self):
        """Ends the shared index."""
        if self._main:
            self._main.stop()
            self._main = None
        shutil.rmtree(os.path.join(self._data, "state"), ignore_errors=True)

    def start_client(self, words, environment):
        """A client that runs while something else happens."""
        command = machine.pinned(machine.CLIENT_CORE, words)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def finish_client(self, process):
        """What it printed."""
        text = process.communicate(timeout=300)[0]
        if process.returncode != 0:
            raise RuntimeError(f"a client failed with {process.returncode}: {text.strip()[-500:]}")
        return json.loads(text)

    def run(self, program, case, number, found):
        """One run as the raw data keeps it."""
        return runner.shown(SHOWN, program, case, number, found)


def versions(binaries):
    """Of all programs."""
    return {
        "haul": install.haul_version(),
        "redis-server": redis.version(),
        "plocate": plocate.version(),
        "sqlite": sqlite.version(),
        "aquatic_udp": aquatic.version(os.path.join(binaries, "aquatic_udp")),
        "python": sys.version.split()[0],
    }


def main():
    """See the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runner.options(parser, ROWS)
    parser.add_argument("--long", action="store_true", help="nine rounds instead of three, SQLite in each of them")
    parser.add_argument("--scale", type=float, default=1.0, help="smaller sets, results into the data folder")
    arguments = parser.parse_args()
    names = runner.chosen(parser, ROWS, arguments.rows)
    data = setup.data_directory()
    docs, directory = runner.places(arguments, data, "index", arguments.quick or arguments.scale < 1)
    failed = []
    if not arguments.report:
        machine.allow_many_files()
        setup.install_programs()
        binary = arguments.binary or install.build_haul()
        programs = (binary, setup.install_aquatic(data), setup.real_paths(data), data)
        if arguments.missing:
            names = runner.without_data(names, directory)
        bench = Bench(arguments, programs)
        try:
            failed = runner.measure(ROWS, bench, names, directory)
        finally:
            bench.close()
    report.write(docs, raw.read_all(directory), os.path.join(setup.HERE, "notes.toml"), page.plotter(arguments.binary))
    return runner.finish(docs, "index.md", failed)


if __name__ == "__main__":
    sys.exit(main())
