"""plocate: a process for each query over its own compressed index of all paths."""

import os
import statistics
import subprocess
import time

from common import machine


def version():
    """Its version."""
    text = subprocess.run(["plocate", "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[1]


class Plocate:
    """An index built from a list of paths."""

    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        self.index = os.path.join(directory, "plocate.db")
        self.tiny = os.path.join(directory, "tiny.db")
        self.tiny_list = os.path.join(directory, "tiny.txt")
        self.accents = os.path.join(directory, "accents.db")
        self.accents_list = os.path.join(directory, "accents.txt")

    def build(self, paths):
        """From a list, one path per line; returns seconds."""
        with open(self.tiny_list, "w", encoding="ascii") as file:
            file.write("a/b\n")
        with open(paths, "rb") as lines, open(self.accents_list, "wb") as file:
            file.writelines(line for line in lines if not line.rsplit(b"/", 1)[-1].isascii())
        command = ["plocate-build", "-p", "-l", "no", self.accents_list, self.accents]
        subprocess.run(command, check=True)
        begun = time.monotonic()
        for source, target in ((paths, self.index), (self.tiny_list, self.tiny)):
            command = machine.pinned(machine.SERVER_CORE, ["plocate-build", "-p", "-l", "no", source, target])
            subprocess.run(command, check=True)
        return time.monotonic() - begun

    def ask(self, words, *options, index=None):
        """Seconds of one query, from before the process starts until it has ended."""
        command = ["plocate", "-d", index or self.index, "-b", "-i", *options, *words]
        actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        begun = time.perf_counter()
        child = os.posix_spawn("/usr/bin/plocate", command, os.environ, file_actions=actions)
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - begun
        # 1: nothing found.
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            raise RuntimeError(f"plocate failed on {words}")
        return seconds

    def start_seconds(self, times=50):
        """What a process costs that finds nothing in an index of one path."""
        return statistics.median(self.ask(["zzzz"], "-l", "100", index=self.tiny) for _ in range(times))

    def count(self, words, index=None):
        """How many paths have all words in their base names."""
        command = ["plocate", "-d", index or self.index, "-b", "-i", "-c", *words]
        return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout or 0)

    def count_ascii(self, words):
        """The same among base names in ASCII, where ignoring case is all that folding is: `bokmal` finds `bokmål` with
        haul and not with plocate."""
        return self.count(words) - self.count(words, index=self.accents)
