"""What a row wants of every program, haul included."""

import os
import shutil
import subprocess


class Rival:
    """A program that brings a file or a folder from one end to the other. Made with the content in place; servers run
    until `stop`."""

    name = "nobody"

    def pids(self) -> list[int]:
        """Processes that run before the clock starts and belong to the transfer."""
        return []

    def prepare(self, target: str) -> None:
        """What a user has done before, such as starting a daemon. Costs nothing."""

    def fetch(self, target: str) -> None:
        """Under the clock: everything to `target`, a path that does not exist, synced."""
        raise NotImplementedError

    def finish(self, target: str) -> None:
        """After the clock: moves what was fetched to `target` if it lies elsewhere."""

    def rest(self) -> None:
        """After each run: ends what `prepare` started."""

    def stop(self) -> None:
        """Ends its servers."""


def run(*words: object, cwd: str | None = None, inside: list[str] | None = None, seconds: float = 1200) -> str:
    """Runs a client to its end; its standard output."""
    command = [*(inside or []), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds)
    if done.returncode != 0:
        text = (done.stdout[-400:] + done.stderr[-400:]).decode(errors="replace")
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {text}")
    return done.stdout.decode(errors="replace")


def sync(path: str) -> None:
    """A file to its disk, as haul does at the end of a download; of a folder, its whole file system, as haul does."""
    run("sync", *(["-f"] if os.path.isdir(path) else []), path)


def fresh(folder: str) -> str:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder
