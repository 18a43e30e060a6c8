"""BitTorrent clients in a swarm, with a tracker of ours at the index's end: as they come, and tuned for a local network.

Each client has a folder, and touches a file when its torrent is done. All but aria2 run before the clock starts, as
haul's daemons do. Plaintext, SHA-1 by piece, no sync."""

import hashlib
import json
import os
import subprocess
import time
from typing import Any

from common import machine
from links import Links
from rivals.rival import fresh, run
from rivals.rqbit import encode

# Small pieces are passed on sooner; clients choose 256 KiB for files of this size, too.
PIECE_BYTES = 256 << 10
TRACKER_PORT, PEER_PORT, CONTROL_PORT = 6969, 51413, 9091
LOOK_SECONDS = 0.02
DONE_LIMIT = 210.0
SETTLE_SECONDS = 3.0


def torrent(path: str, tracker: str) -> tuple[bytes, str]:
    """The torrent of one file, and its name at trackers; only the tracker tells of others."""
    pieces = b""
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            pieces += hashlib.sha1(piece).digest()
    info = {"length": os.path.getsize(path), "name": os.path.basename(path).encode(), "piece length": PIECE_BYTES,
            "pieces": pieces, "private": 1}
    whole = encode({"announce": tracker.encode(), "info": info})
    return whole, hashlib.sha1(encode(info)).hexdigest()


class Process(machine.Server):
    """A program at an end, unpinned."""

    core = None

    def __init__(self, links: Links, number: int, place: str, *words: object, **options: Any):
        log = open(os.path.join(place, "log.txt"), "ab")
        super().__init__([*links.inside(number), *map(str, words)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                         cwd=place, **options)
        log.close()


class Client:
    """One client at one end. `prepare` starts what a user has running, `add` gives it the torrent."""

    def __init__(self, links: Links, number: int, place: str, listed: str, tuned: bool):
        self.links, self.number, self.listed, self.tuned = links, number, listed, tuned
        self.place = fresh(os.path.join(place, f"client{number}"))
        self.folder = fresh(os.path.join(self.place, "files"))
        self.done = os.path.join(self.place, "done")
        self.hook = os.path.join(self.place, "hook.sh")
        with open(self.hook, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\ntouch {self.done}\n")
        os.chmod(self.hook, 0o755)
        self.process: Process | None = None

    def prepare(self) -> None:
        """Costs nothing."""

    def add(self, seed: bool = False) -> None:
        """Begins; a seed has the file already."""
        raise NotImplementedError

    def start(self, *words: object, **options: Any) -> None:
        """Its process."""
        self.process = Process(self.links, self.number, self.place, *words, **options)

    def wait_done(self) -> dict[str, Any]:
        """Until its torrent is complete."""
        limit = time.monotonic() + DONE_LIMIT
        while not os.path.exists(self.done):
            if time.monotonic() > limit:
                raise RuntimeError(f"not done after {DONE_LIMIT:.0f} s")
            if self.process and self.process.process.poll() is not None:
                raise RuntimeError(f"ended too early: {self.process.process.returncode}")
            time.sleep(LOOK_SECONDS)
        return {}

    def stop(self) -> None:
        """Ends it."""
        if self.process:
            self.process.process.terminate()
            self.process.stop(5)


class Aria2Torrent(Client):
    """aria2c, one process for a download."""

    def add(self, seed: bool = False) -> None:
        words = ["aria2c", "--quiet", "--dir", self.folder, "--enable-dht=false", "--enable-peer-exchange=false",
                 "--file-allocation=none", "--seed-ratio=0.0", "--seed-time=60", f"--listen-port={PEER_PORT}",
                 f"--on-bt-download-complete={self.hook}", "--no-conf"]
        if self.tuned:
            words += ["--bt-max-peers=0", "--bt-request-peer-speed-limit=100M", "--disk-cache=256M"]
        if seed:
            words += ["--check-integrity=true", "--bt-hash-check-seed=true"]
        self.start(*words, self.listed)


class Transmission(Client):
    """transmission-daemon, driven over its own socket."""

    def prepare(self) -> None:
        settings = {"download-dir": self.folder, "rpc-whitelist-enabled": False, "rpc-port": CONTROL_PORT,
                    "rpc-bind-address": "127.0.0.1", "peer-port": PEER_PORT, "dht-enabled": False, "pex-enabled": False,
                    "lpd-enabled": False, "port-forwarding-enabled": False, "utp-enabled": not self.tuned,
                    "script-torrent-done-enabled": True, "script-torrent-done-filename": self.hook}
        if self.tuned:
            settings |= {"upload-slots-per-torrent": 32, "encryption": 0, "cache-size-mb": 64, "preallocation": 0,
                         "peer-limit-per-torrent": 100}
        with open(os.path.join(self.place, "settings.json"), "w", encoding="utf-8") as file:
            json.dump(settings, file)
        self.start("transmission-daemon", "-f", "-g", self.place)

    def add(self, seed: bool = False) -> None:
        run("transmission-remote", f"127.0.0.1:{CONTROL_PORT}", "-a", self.listed, inside=self.links.inside(self.number))


class QBittorrent(Client):
    """qbittorrent-nox, driven over its web interface."""

    def prepare(self) -> None:
        folder = os.path.join(self.place, "qBittorrent", "config")
        os.makedirs(folder)
        lines = ["[LegalNotice]", "Accepted=true", "[BitTorrent]", "Session\\DHTEnabled=false", "Session\\LSDEnabled=false",
                 "Session\\PeXEnabled=false", f"Session\\Port={PEER_PORT}", f"Session\\DefaultSavePath={self.folder}"]
        if self.tuned:
            # uTP off, many slots and connections.
            lines += ["Session\\BTProtocol=TCP", "Session\\MaxUploads=-1", "Session\\MaxUploadsPerTorrent=-1",
                      "Session\\MaxConnections=-1", "Session\\MaxConnectionsPerTorrent=-1",
                      "Session\\PieceExtentAffinity=false"]
        lines += ["[Preferences]", "WebUI\\LocalHostAuth=false", "WebUI\\Address=127.0.0.1", "WebUI\\UseUPnP=false",
                  f"WebUI\\Port={CONTROL_PORT}", "[AutoRun]", "enabled=true", f"program={self.hook}"]
        with open(os.path.join(folder, "qBittorrent.conf"), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        self.start("qbittorrent-nox", f"--profile={self.place}")

    def add(self, seed: bool = False) -> None:
        inside, asked = self.links.inside(self.number), f"http://127.0.0.1:{CONTROL_PORT}/api/v2/torrents/"
        words = ["curl", "-sS", "--fail"]
        run(*words, "-F", f"torrents=@{self.listed}", "-F", f"savepath={self.folder}", asked + "add", inside=inside)
        if seed and self.tuned:
            # It shows each piece to one peer first (BEP 16); begun once the file is checked.
            time.sleep(SETTLE_SECONDS)
            run(*words, "-d", "hashes=all&value=true", asked + "setSuperSeeding", inside=inside)


CLIENTS: dict[str, type[Client]] = {"aria2": Aria2Torrent, "transmission": Transmission, "qbittorrent": QBittorrent}


def tracker(links: Links, place: str, known: str) -> Process:
    """At the last end, for one torrent: Debian's opentracker wants a list of those that it may track."""
    last = len(links.rates) - 1
    with open(os.path.join(fresh(place), "torrents"), "w", encoding="ascii") as file:
        file.write(known + "\n")
    words = ["opentracker", "-i", links.address(last), "-p", TRACKER_PORT, "-d", place, "-w", "torrents", "-u", "nobody"]
    return Process(links, last, place, *words)


def tracker_url(links: Links) -> str:
    """Of `tracker`."""
    return f"http://{links.address(len(links.rates) - 1)}:{TRACKER_PORT}/announce"
