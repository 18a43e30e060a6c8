"""Things that go wrong in the middle of a transfer: processes that die or stall once so many bytes have arrived."""

import os
import signal
import subprocess
import threading

from cost import processes, with_descendants

# How often the receiver's link is looked at.
LOOK_SECONDS = 0.02


def received_bytes(pid: int, interface: str = "wire") -> int:
    """What an interface in the namespace of a process has received."""
    with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
        return received_in(file.read(), interface)


def received_in(text: str, interface: str) -> int:
    """The same from the text of /proc/PID/net/dev."""
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() == interface:
            return int(rest.split()[0])
    raise ValueError(f"no interface {interface}")


def signal_tree(pid: int, what: signal.Signals) -> None:
    """A process and all below it, by their ids."""
    found = processes()
    for one in with_descendants([pid], {child: parent for child, (parent, _) in found.items()}):
        try:
            os.kill(one, what)
        except ProcessLookupError:
            continue


class Resident:
    """A process that does nothing in a namespace, so that its counters can be read."""

    def __init__(self, inside: list[str]):
        self.process = subprocess.Popen([*inside, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        # Once it answers it is where it belongs.
        self.process.stdin.write(b"x")
        self.process.stdin.flush()
        self.process.stdout.read(1)

    def __enter__(self) -> "Resident":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class Fault:
    """Sends a signal to a process once `wire` in the namespace of `resident` has received so many bytes. What was
    stopped goes on afterwards."""

    def __init__(self, resident: int, after_bytes: float, victim: int | None, what: signal.Signals | None):
        self.resident, self.after, self.victim, self.what = resident, after_bytes, victim, what
        self.over = threading.Event()
        self.happened = False

    def __enter__(self) -> "Fault":
        self.begun = received_bytes(self.resident)
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.received = received_bytes(self.resident) - self.begun
        self.over.set()
        self.thread.join()
        if self.happened and self.what == signal.SIGSTOP and self.victim:
            signal_tree(self.victim, signal.SIGCONT)

    def _watch(self) -> None:
        while self.victim and self.what and not self.over.wait(LOOK_SECONDS):
            if received_bytes(self.resident) - self.begun >= self.after:
                self.happened = True
                signal_tree(self.victim, self.what)
                return
