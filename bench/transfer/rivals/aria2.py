"""aria2 with several mirrors: plaintext HTTP ranges from nginx; nothing is verified until the whole file is there."""

import os
import subprocess

from rivals.nginx import Nginx
from rivals.rival import Rival, run, sync

# A piece of 1 MiB from whoever is free, four connections to each mirror.
OPTIONS = ("--quiet", "--min-split-size=1M", "--split=32", "--max-connection-per-server=4", "--file-allocation=none",
           "--uri-selector=feedback", "--allow-overwrite=true", "--lowest-speed-limit=0", "--timeout=10", "--max-tries=0")


def version() -> str:
    """Its version."""
    return subprocess.run(["aria2c", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


class Aria2(Rival):
    """One file from all mirrors."""

    name = "aria2"

    def __init__(self, mirrors: list[Nginx], path: str, inside: list[str]):
        self.mirrors, self.path, self.inside = mirrors, path, inside

    def pids(self) -> list[int]:
        return [mirror.pid for mirror in self.mirrors]

    def fetch(self, target: str) -> None:
        urls = [mirror.url(self.path, False) for mirror in self.mirrors]
        folder, name = os.path.split(target)
        run("aria2c", *OPTIONS, "--dir", folder, "--out", name, *urls, inside=self.inside)
        sync(target)
