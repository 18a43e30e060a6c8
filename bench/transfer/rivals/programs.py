"""Installs what stands beside haul, and says of which version it is."""

import os
import subprocess

from common import install

# Debian's packages by the program that shows that they are there.
PACKAGES = {"nginx": "nginx", "curl": "curl", "rsync": "rsync", "iperf3": "iperf3", "openssl": "openssl", "cc": "gcc",
            "strace": "strace", "ip": "iproute2", "aria2c": "aria2", "opentracker": "opentracker",
            "transmission-daemon": "transmission-daemon",
            "transmission-remote": "transmission-cli", "qbittorrent-nox": "qbittorrent-nox"}
CRATES = ("sendme", "rqbit", "b3sum")


def install_all(data: str) -> str:
    """Everything; returns the folder of what cargo installed."""
    install.packages(PACKAGES)
    return install.cargo_install(data, "rivals", list(CRATES), list(CRATES))


def first_line(*words: str) -> str:
    """What a program says of itself."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()[0]


def versions(binaries: str) -> dict[str, str]:
    """Of programs that say it in their first line."""
    found = {name: first_line(os.path.join(binaries, name), "--version").split()[-1] for name in CRATES}
    found["curl"] = first_line("curl", "--version").split()[1]
    found["iperf3"] = first_line("iperf3", "--version").split()[1]
    found["transmission"] = first_line("transmission-daemon", "--version").split()[1]
    found["qbittorrent"] = first_line("qbittorrent-nox", "--version").split()[-1]
    found["openssl"] = first_line("openssl", "version").split()[1]
    return found
