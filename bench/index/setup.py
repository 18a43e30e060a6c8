"""What this comparison needs besides haul: programs, the list of real paths. Done once; a second run finds it done."""

import gzip
import os
import subprocess

from common import install

HERE = os.path.dirname(os.path.abspath(__file__))
# Debian's packages by the program that shows that they are there.
PACKAGES = {
    "redis-server": "redis-server",
    "plocate": "plocate",
    "sqlite3": "sqlite3",
    "apt-file": "apt-file",
    "cc": "gcc",
    "openssl": "openssl",
    "taskset": "util-linux",
}
AQUATIC = ("aquatic_udp", "aquatic_udp_load_test")


def data_directory():
    """Where lists, databases and states stay between runs; never committed."""
    return install.data_directory(HERE)


def install_programs():
    """Debian's packages, without starting their services."""
    install.packages(PACKAGES, {"/usr/include/openssl/ssl.h": "libssl-dev"})


def install_aquatic(data):
    """aquatic_udp and its load test; returns the folder of the programs."""
    return install.cargo_install(data, "aquatic", list(AQUATIC), list(AQUATIC))


def real_paths(data):
    """Paths of Debian's Contents lists, sorted, each once, one per line; returns the file."""
    target = os.path.join(data, "paths.txt")
    if os.path.exists(target):
        return target
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    lists = contents_lists()
    if not lists:
        subprocess.run([*sudo, "apt-file", "update"], check=True)
        lists = contents_lists()
    if not lists:
        raise RuntimeError("apt-file has fetched no Contents list")
    unsorted = os.path.join(data, "paths.unsorted")
    with open(unsorted, "wb", buffering=1 << 20) as out:
        for path in lists:
            for line in read_lines(path):
                name = contents_path(line)
                if name:
                    out.write(name + b"\n")
    subprocess.run(["sort", "-u", "-o", target + ".new", unsorted], check=True, env={**os.environ, "LC_ALL": "C"})
    os.remove(unsorted)
    os.rename(target + ".new", target)
    return target


def contents_lists():
    """Where apt keeps the Contents lists."""
    text = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Contents-deb"],
        check=True, capture_output=True, text=True,
    ).stdout
    found = []
    for path in text.split():
        # apt names the file as it would be unpacked; on disk it may be compressed.
        found += [path + suffix for suffix in ("", ".gz", ".lz4") if os.path.exists(path + suffix)][:1]
    return found


def read_lines(path):
    """Lines of a list, compressed or not."""
    if path.endswith(".lz4"):
        helper = subprocess.Popen(["/usr/lib/apt/apt-helper", "cat-file", path], stdout=subprocess.PIPE)
        with helper.stdout as lines:
            yield from lines
        if helper.wait() != 0:
            raise RuntimeError("a Contents list cannot be read")
        return
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as lines:
        yield from lines


def contents_path(line):
    """The path of a line `path  section/package,…`; paths may hold spaces, the last column holds none."""
    parts = line.rstrip().rsplit(None, 1)
    return parts[0].rstrip().lstrip(b"./") if len(parts) == 2 else b""
