"""rsync's daemon: plaintext; checks a sum of each file as it arrives."""

import os
import subprocess
import time

from common import machine
from rivals.rival import Rival, fresh, run, sync

CONFIGURATION = """use chroot = no
[content]
path = {root}
read only = yes
{user}
"""


def version() -> str:
    """Its version."""
    return subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


class Daemon(machine.Server):
    """Serves a folder."""

    core = None

    def __init__(self, place: str, root: str):
        fresh(place)
        self.port = machine.free_port()
        path = os.path.join(place, "rsyncd.conf")
        user = "uid = 0\ngid = 0" if os.geteuid() == 0 else ""
        with open(path, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(root=root, user=user))
        words = ["rsync", "--daemon", "--no-detach", f"--config={path}", "--address=127.0.0.1", f"--port={self.port}"]
        super().__init__(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        if self.process.poll() is not None:
            raise RuntimeError("the rsync daemon did not start")


class Rsync(Rival):
    """A whole folder."""

    name = "rsync"

    def __init__(self, place: str, root: str):
        self.daemon = Daemon(os.path.join(place, "rsyncd"), root)

    def pids(self) -> list[int]:
        return [self.daemon.pid]

    def fetch(self, target: str) -> None:
        run("rsync", "-a", f"rsync://127.0.0.1:{self.daemon.port}/content/", target + "/")
        sync(target)

    def stop(self) -> None:
        self.daemon.stop()
