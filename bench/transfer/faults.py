"""Things that go wrong in the middle of a transfer: processes that die or stall once so many bytes have arrived."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable

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
    """Sends a signal to a process once `wire` in the namespace of `resident` has received so many bytes, or what else
    `counted` says. What was stopped goes on afterwards."""

    def __init__(self, resident: int, after_bytes: float, victim: int | None, what: signal.Signals | None,
                 counted: Callable[[int], int] = received_bytes):
        self.resident, self.after, self.victim, self.what = resident, after_bytes, victim, what
        self.counted = counted
        self.over = threading.Event()
        self.happened = False

    def __enter__(self) -> "Fault":
        self.begun = self.counted(self.resident)
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.received = self.counted(self.resident) - self.begun
        self.over.set()
        self.thread.join()
        if self.happened and self.what == signal.SIGSTOP and self.victim:
            signal_tree(self.victim, signal.SIGCONT)

    def _watch(self) -> None:
        while self.victim and self.what and not self.over.wait(LOOK_SECONDS):
            if self.counted(self.resident) - self.begun >= self.after:
                self.happened = True
                signal_tree(self.victim, self.what)
                return


class Liar:
    """Has the kernel give a process wrong bytes: the first one of everything that it reads from a file at a position. What
    it reads before is right, so that it can hash its files undisturbed. None lies about nothing."""

    def __init__(self, pid: int | None, path: str):
        self.pid, self.path = pid, path

    def __enter__(self) -> "Liar":
        if self.pid:
            words = ["-f", "-o", os.devnull, "-P", self.path, "-e", "trace=pread64", "-e", "inject=pread64:poke_exit=@arg2=00"]
            self.tracer = subprocess.Popen(["strace", *words, "-p", str(self.pid)], stderr=subprocess.PIPE)
            # "Process … attached", once all of its threads are.
            self.tracer.stderr.readline()
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self.tracer.terminate()
            self.tracer.wait()
            self.tracer.stderr.close()
