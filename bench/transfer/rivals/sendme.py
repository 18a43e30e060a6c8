"""sendme: iroh's blobs over QUIC, encrypted, verified with BLAKE3."""

import os
import re
import subprocess
import threading

from common import machine
from rivals.rival import Rival, fresh, run, sync

# Importing many small files takes it minutes.
TICKET_SECONDS = 900.0
# Nothing outside is asked: no relays, the ticket has the address itself.
OPTIONS = ("--relay", "disabled")


def find_ticket(line: str) -> str | None:
    """The ticket in a line of `sendme send`."""
    found = re.search(r"sendme receive (\S+)", line)
    return found[1] if found else None


class Sendme(Rival):
    """A sender of one file or folder, which it refers to in place, and a receiver for each download."""

    name = "sendme"

    def __init__(self, program: str, place: str, path: str, source: list[str] | None = None, sink: list[str] | None = None):
        self.program, self.base, self.inside = program, os.path.basename(path), sink
        self.home = fresh(os.path.join(place, "sendme"))
        words = [*(source or []), program, "send", path, *OPTIONS, "--ticket-type", "addresses"]
        self.server = Sender(words, cwd=self.home, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        self.ticket = self.server.ticket()

    def pids(self) -> list[int]:
        return [self.server.pid]

    def fetch(self, target: str) -> None:
        folder = os.path.dirname(target)
        run(self.program, "receive", self.ticket, *OPTIONS, cwd=folder, inside=self.inside)
        sync(os.path.join(folder, self.base))

    def finish(self, target: str) -> None:
        os.rename(os.path.join(os.path.dirname(target), self.base), target)

    def stop(self) -> None:
        self.server.stop()


class Sender(machine.Server):
    """`sendme send`."""

    core = None

    def ticket(self) -> str:
        """Waits for it, and from then on throws away what is printed."""
        timer = threading.Timer(TICKET_SECONDS, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                ticket = find_ticket(line.decode(errors="replace"))
                if ticket:
                    threading.Thread(target=self.process.stdout.read, daemon=True).start()
                    return ticket
        finally:
            timer.cancel()
        raise RuntimeError("sendme printed no ticket")
