"""rqbit: BitTorrent over TCP, plaintext, verified with SHA-1 by piece. One seed, named to the other side."""

import hashlib
import os
import subprocess
import time
from typing import Any

from common import machine
from rivals.rival import Rival, fresh, run, sync

# As many clients choose for files of gigabytes.
PIECE_BYTES = 4 << 20
# Nobody else is asked or told. The other side's port is given by hand.
ALONE = ("--disable-dht", "--disable-trackers", "--disable-lsd", "--disable-upnp-port-forward", "--ipv4-only")
QUIET = ("-v", "error")
CHECK_SECONDS = 120.0


def encode(value: Any) -> bytes:
    """BitTorrent's encoding of numbers, bytes and dictionaries."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    pairs = sorted((key.encode("ascii"), item) for key, item in value.items())
    return b"d" + b"".join(encode(key) + encode(item) for key, item in pairs) + b"e"


def torrent(path: str) -> bytes:
    """The torrent of one file."""
    pieces = b""
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            pieces += hashlib.sha1(piece).digest()
    info = {"length": os.path.getsize(path), "name": os.path.basename(path).encode(), "piece length": PIECE_BYTES,
            "pieces": pieces}
    return encode({"info": info})


class Seed(machine.Server):
    """A client that has all of it."""

    core = None

    def __init__(self, program: str, place: str, path: str, listed: str):
        self.port = machine.free_port()
        words = [program, *QUIET, *ALONE, "--listen-ip", "127.0.0.1", "--listen-port", self.port]
        words += ["download", "--disable-http-api", "--overwrite", "-o", os.path.dirname(path), listed]
        super().__init__(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=place)


class Rqbit(Rival):
    """One file."""

    name = "rqbit"

    def __init__(self, program: str, place: str, path: str):
        self.program, self.base = program, os.path.basename(path)
        self.place = fresh(os.path.join(place, "rqbit"))
        self.listed = os.path.join(self.place, "file.torrent")
        with open(self.listed, "wb") as file:
            file.write(torrent(path))
        self.seed = Seed(program, self.place, path, self.listed)
        self.wait_checked()

    def wait_checked(self) -> None:
        """Until the seed has read its file once and rests."""
        limit = time.monotonic() + CHECK_SECONDS
        time.sleep(1)
        while machine.wait_until_quiet(self.seed.pid)[1] > 0 and time.monotonic() < limit:
            pass
        if self.seed.process.poll() is not None:
            raise RuntimeError("rqbit did not start")

    def pids(self) -> list[int]:
        return [self.seed.pid]

    def fetch(self, target: str) -> None:
        folder = os.path.dirname(target)
        run(self.program, *QUIET, *ALONE, "--disable-tcp-listen", "download", "--disable-http-api", "-o", folder, "-e",
            "--initial-peers", f"127.0.0.1:{self.seed.port}", self.listed, cwd=self.place)
        sync(os.path.join(folder, self.base))

    def finish(self, target: str) -> None:
        os.rename(os.path.join(os.path.dirname(target), self.base), target)

    def stop(self) -> None:
        self.seed.stop()
