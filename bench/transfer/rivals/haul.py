"""haul: a peer with an index that shares a folder, and a fresh peer for each download."""

import os
import shutil

from peers import Peer
from rivals.rival import Rival


class Haul(Rival):
    """`what` is fetched from the share of `folder`: a file's name below it, or nothing for all of it."""

    name = "haul"

    def __init__(self, binary: str, place: str, folder: str, files: int, what: str | None = None,
                 seed_side: tuple[str, list[str]] | None = None, sink_side: tuple[str, list[str]] | None = None):
        self.binary, self.place, self.files = binary, place, files
        self.seed_side, self.sink_side = seed_side or ("127.0.0.1", []), sink_side or ("127.0.0.1", [])
        address, inside = self.seed_side
        self.seed = Peer(binary, os.path.join(place, "haul-seed"), "--share", folder, address=address, inside=inside)
        self.sink: Peer | None = None
        self.seed.wait_ready(files)
        share = os.path.basename(folder)
        self.what = f"{self.seed.key}:{share}/{what}" if what else f"{self.seed.key}:{share}"
        if what:
            found = self.seed.run("lookup", "--json", what)
            self.what = next(record["id"] for record in found if record["type"] == "provider")

    def pids(self) -> list[int]:
        return [self.seed.pid, *([self.sink.pid] if self.sink else [])]

    def prepare(self, target: str) -> None:
        address, inside = self.sink_side
        home = os.path.join(self.place, "haul-sink")
        self.sink = Peer(self.binary, home, ticket=self.seed.ticket, address=address, inside=inside)

    def fetch(self, target: str) -> None:
        assert self.sink
        self.sink.get(self.what, target)

    def rest(self) -> None:
        if self.sink:
            self.sink.stop()
            shutil.rmtree(self.sink.home, ignore_errors=True)
            self.sink = None

    def stop(self) -> None:
        self.rest()
        self.seed.stop()
        shutil.rmtree(self.seed.home, ignore_errors=True)
