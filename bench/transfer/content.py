"""Files and folders that are the same in every run: bytes are AES-CTR key streams, sizes and names come from a seed."""

import math
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

SEED = 1
# Files look old: what was written a moment ago is hashed again by haul and by nobody else.
OLD = 1_700_000_000
# Like a Linux source tree: median 4.7 kB, mean 13 kB, 3% above 64 KiB.
MEDIAN_BYTES = 4_700
SIGMA = 1.45
LARGEST_BYTES = 4 << 20
FILES_PER_FOLDER = 18
DEPTH = 9
WORDS = ("arch boot core drivers fs include init kernel lib mm net power scripts security sound tools block certs clk "
         "crypto dma firmware gpio hid i2c input iommu leds media memory misc mmc mtd nvme pci phy regulator reset rtc "
         "scsi serial spi thermal timer usb video virt watchdog xen").split()
SUFFIXES = (".c", ".c", ".c", ".h", ".h", ".yaml", ".rst", ".txt", ".dts", "")


class Tree(NamedTuple):
    """A folder: its folders, parents first, and its files with their sizes, folder by folder."""

    folders: list[str]
    files: list[tuple[str, int]]

    def bytes(self) -> int:
        """All files together."""
        return sum(size for _, size in self.files)


def plan_tree(count: int, seed: int = SEED) -> Tree:
    """A tree of so many small files; the same for the same arguments."""
    source = random.Random(seed)
    folders = plan_folders(max(1, count // FILES_PER_FOLDER), source)
    counts = spread(count, len(folders), source)
    files = []
    for folder, files_here in zip(folders, counts):
        for number in range(files_here):
            name = f"{source.choice(WORDS)}-{source.choice(WORDS)}{number}{source.choice(SUFFIXES)}"
            files.append((f"{folder}/{name}", small_size(source)))
    return Tree(folders, files)


def plan_folders(count: int, source: random.Random) -> list[str]:
    """Paths of folders, each one's parent before it."""
    folders = [source.choice(WORDS) + "0"]
    while len(folders) < count:
        parent = source.choice(folders)
        place = "" if source.random() < 0.01 or parent.count("/") >= DEPTH - 1 else parent + "/"
        folders.append(f"{place}{source.choice(WORDS)}{len(folders)}")
    return sorted(folders)


def spread(count: int, folders: int, source: random.Random) -> list[int]:
    """How many files lie in each folder: few in most, hundreds in some, none in none: not everybody sends empty ones."""
    weights = [source.lognormvariate(0, 1.2) for _ in range(folders)]
    total, counts, given, seen = sum(weights), [], 0, 0.0
    for weight in weights:
        seen += weight
        counts.append(round((count - folders) * seen / total) - given)
        given += counts[-1]
    return [more + 1 for more in counts]


def small_size(source: random.Random) -> int:
    """Bytes of one file."""
    return min(LARGEST_BYTES, max(1, round(source.lognormvariate(math.log(MEDIAN_BYTES), SIGMA))))


@contextmanager
def key_stream(seed: int) -> Iterator[BinaryIO]:
    """Bytes without an end that no program can compress."""
    command = ["openssl", "enc", "-aes-128-ctr", "-K", f"{seed:032x}", "-iv", "0" * 32, "-in", "/dev/zero"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        try:
            yield process.stdout
        finally:
            process.kill()


def write_file(path: str, size: int, seed: int = SEED) -> None:
    """One file of so many bytes."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with key_stream(seed) as source, open(path, "wb") as file:
        left = size
        while left:
            left -= file.write(source.read(min(left, 1 << 20)))
    os.utime(path, (OLD, OLD))


def write_tree(tree: Tree, target: str, seed: int = SEED) -> None:
    """All folders and files; every file has bytes of its own."""
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    for folder in tree.folders:
        os.makedirs(os.path.join(target, folder), exist_ok=True)
    with key_stream(seed) as source:
        for path, size in tree.files:
            whole = os.path.join(target, path)
            with open(whole, "wb") as file:
                file.write(source.read(size))
            os.utime(whole, (OLD, OLD))


def write_list(tree: Tree, path: str) -> None:
    """The tree as `floor create` reads it: size, tab, path; -1 for a folder."""
    with open(path, "w", encoding="utf-8") as file:
        made: set[str] = set()
        for folder in tree.folders:
            for parent in parents(folder):
                if parent not in made:
                    made.add(parent)
                    file.write(f"-1\t{parent}\n")
        file.writelines(f"{size}\t{name}\n" for name, size in tree.files)


def parents(folder: str) -> list[str]:
    """A path and all above it, from the top."""
    parts = folder.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def measure_tree(root: str) -> tuple[int, int]:
    """(files, bytes) below a folder."""
    files = size = 0
    for folder, _, names in os.walk(root):
        files += len(names)
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
    return files, size
