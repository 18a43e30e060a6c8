#!/usr/bin/env python3
"""Transfers beside the programs that a user would pick instead: measures all rows and writes the report.

    bench/transfer/run.py                    everything, about two hours
    bench/transfer/run.py --quick            tiny sizes, to see that everything works; writes nothing into docs
    bench/transfer/run.py --rows share       these rows again; the report is made from all raw data
    bench/transfer/run.py --report           the report alone
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import report
from common import install, machine, page, raw, runner
from rivals import aria2, floor, nginx, programs, rsync
from rows import churn, one_to_one, providers, shaped, share, simulated, small_files, sources, swarm

ROWS = {
    "one_to_one": one_to_one.one_to_one,
    "sizes": one_to_one.sizes,
    "share": share.share,
    "small_files": small_files.small_files,
    "shaped": shaped.shaped,
    "sources": sources.sources,
    "sources_changing": sources.changing,
    "sources_qbittorrent": sources.torrents,
    "providers": providers.providers,
    "swarm_4": swarm.swarm_4,
    "swarm_8": swarm.swarm_8,
    "swarm_16": swarm.swarm_16,
    "swarm_bbr": swarm.swarm_bbr,
    **churn.ROWS,
    **swarm.RIVALS,
    "simulated": simulated.simulated,
    "simulated_many": simulated.many,
}
# Shown while a row runs.
SHOWN = ("wall_s", "cpu_s", "mb_per_s", "mb_per_cpu_s", "files_per_s", "mbit_per_s", "over_limit", "banned",
         "received_over_size", "others_share", "chain_mb_per_cpu_s", "median_over_limit", "over_first", "seed_payload_over_size",
         "sent_again_share", "idle_share")
MIB = 1 << 20
# A memory file system that every Linux has.
MEMORY = "/dev/shm"
# Of all programs that are measured, if others use the machine meanwhile: these get 3% while one of ours wants to run.
PRIORITY = -15
# Source, target, and what a program keeps beside them.
COPIES = 3


class Size:
    """How much of everything."""

    def __init__(self, quick: bool = False):
        self.tiny = quick
        self.large = (64 if quick else 4096) * MIB
        self.sizes = [MIB] if quick else [MIB, 16 * MIB, 256 * MIB]
        self.small = 8_000 if quick else 80_000
        self.floor = (64 if quick else 1024) * MIB
        # (Mbit/s, bytes): long enough that the beginning is seen and does not decide.
        self.shaped = [(1000, 16 * MIB), (100, 4 * MIB)] if quick else [(1000, 1024 * MIB), (100, 192 * MIB)]
        self.sources = (64 if quick else 512) * MIB
        self.changing = (128 if quick else 1536) * MIB
        self.providers = (16 if quick else 256) * MIB
        # With less, a seed that leaves goes before others have all of the file.
        self.swarm = (64 if quick else 256) * MIB
        # At most so many in a swarm.
        self.peers = 3 if quick else 16
        self.seconds = 2 if quick else 6
        self.rounds = 1 if quick else 3
        # For programs that need minutes.
        self.slow_rounds = 1


class Bench:
    """What rows need: programs, places, sizes."""

    def __init__(self, arguments: argparse.Namespace, binary: str, binaries: str, data: str):
        self.size = Size(arguments.quick)
        self.rounds = arguments.rounds or self.size.rounds
        self.binary, self.data, self.ahead = binary, data, arguments.ahead
        self.sendme, self.rqbit, self.b3sum = (os.path.join(binaries, name) for name in programs.CRATES)
        self.trash = os.path.join(data, "trash")
        self.floor = floor.build(data)
        # Before this run's own raw data make the tree differ from its commit.
        self.versions = versions(binaries)
        self.places = {"tmpfs": os.path.join(MEMORY, "haul-bench"), "disk": os.path.join(data, "disk")}
        self.file_system = file_system(data)
        free = os.statvfs(MEMORY)
        if free.f_bavail * free.f_frsize < COPIES * self.size.large:
            raise SystemExit(f"{MEMORY} needs room for {COPIES} files of {self.size.large >> 20} MiB")

    def place(self, system: str) -> str:
        """A folder in memory or on the disk."""
        os.makedirs(self.places[system], exist_ok=True)
        return self.places[system]

    def close(self) -> None:
        """Leaves nothing in memory; what lies on the disk goes to the trash at once."""
        shutil.rmtree(self.places["tmpfs"], ignore_errors=True)
        self.throw_away(self.places["disk"])

    def throw_away(self, path: str) -> None:
        """Removes it later: a disk that is told of every deleted file (`discard`) needs minutes for a large folder."""
        if os.path.exists(path):
            os.makedirs(self.trash, exist_ok=True)
            os.rename(path, os.path.join(self.trash, f"{os.getpid()}-{time.monotonic_ns()}"))

    def empty_trash(self) -> None:
        """After all that is measured."""
        subprocess.run(["rm", "-rf", self.trash], check=True)

    def run(self, program: str, case: str, number: int, found: dict[str, Any]) -> dict[str, Any]:
        """One run as the raw data keeps it."""
        return runner.shown(SHOWN, program, case, number, found)


def file_system(path: str) -> str:
    """The kind of the file system that holds a path."""
    return subprocess.run(["findmnt", "-no", "FSTYPE", "-T", path], capture_output=True, text=True, check=True).stdout.strip()


def versions(binaries: str) -> dict[str, str]:
    """Of all programs."""
    own = {"haul": install.haul_version(), "nginx": nginx.version(), "rsync": rsync.version(), "aria2": aria2.version()}
    return {**own, **programs.versions(binaries)}


def go_ahead() -> None:
    """Raises the priority of this process and all that it starts; where the kernel groups by session, also the group's."""
    os.nice(PRIORITY)
    group = "/proc/self/autogroup"
    if os.path.exists(group):
        with open(group, "w", encoding="ascii") as file:
            file.write(str(PRIORITY))


def main() -> int:
    """See the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runner.options(parser, ROWS)
    parser.add_argument("--keep-trash", action="store_true", help="leave what was fetched on the disk to the next run")
    parser.add_argument("--ahead", action="store_true", help="all programs run at a high priority: others use this machine")
    arguments = parser.parse_args()
    # Whoever ends this ends all that it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = runner.chosen(parser, ROWS, arguments.rows)
    data = install.data_directory(HERE)
    docs, directory = runner.places(arguments, data, "transfer", arguments.quick)
    failed: list[str] = []
    if not arguments.report:
        if arguments.ahead:
            go_ahead()
        machine.allow_many_files()
        binaries = programs.install_all(data)
        bench = Bench(arguments, arguments.binary or install.build_haul(), binaries, data)
        if arguments.missing:
            names = runner.without_data(names, directory)
        try:
            failed = runner.measure(ROWS, bench, names, directory)
        finally:
            bench.close()
            if not arguments.keep_trash:
                bench.empty_trash()
    report.write(docs, raw.read_all(directory), os.path.join(HERE, "notes.toml"), page.plotter(arguments.binary))
    return runner.finish(docs, "transfer.md", failed)


if __name__ == "__main__":
    sys.exit(main())
