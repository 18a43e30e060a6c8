"""floor.c: the plainest loops, and other limits of the machine."""

import json
import os
import re
import subprocess
import time

from common import machine
from cost import Cost
from rivals.rival import Rival, run

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build(directory: str) -> str:
    """Compiles it; returns the program's path."""
    program = os.path.join(directory, "floor")
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, os.path.join(HERE, "floor.c")], check=True)
    return program


def ask(program: str, *words: object) -> tuple[float, float, int]:
    """(seconds, CPU seconds, entries or bytes)."""
    fields = run(program, *words).split()
    return float(fields[0]), float(fields[1]), int(fields[2])


class Create(Rival):
    """Creates, writes and closes the files of a list, with bytes from memory."""

    name = "floor"

    def __init__(self, program: str, listed: str):
        self.program, self.listed = program, listed

    def prepare(self, target: str) -> None:
        os.makedirs(target)

    def fetch(self, target: str) -> None:
        ask(self.program, "create", self.listed, target)


def limits(floor: str, b3sum: str, folder: str, size: int) -> dict[str, float]:
    """MB per CPU-second of each step of a transfer in memory, each alone on one core; `folder` is a memory file system.
    `chain` is all of them one after the other: read, encrypt, send and receive, decrypt, hash, write."""
    path = os.path.join(folder, "floor.bin")
    seconds, cpu, done = ask(floor, "write", path, size)
    found = {"write": done / cpu / 1e6, "write_wall": done / seconds / 1e6}
    _, cpu, done = ask(floor, "copy", 4 * size)
    found["memcpy"] = done / cpu / 1e6
    with Cost() as cost:
        run("dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none")
    found["read"] = size / cost.client_cpu / 1e6
    with Cost() as cost:
        run(b3sum, "--num-threads", 1, path)
    found["b3sum"] = size / cost.client_cpu / 1e6
    os.remove(path)
    found["aes_128_gcm"] = aead_rate(run("openssl", "speed", "-mr", "-evp", "aes-128-gcm", "-bytes", 16384, "-seconds", 1))
    found["iperf3"] = loopback(size)
    steps = ("read", "aes_128_gcm", "iperf3", "aes_128_gcm", "b3sum", "write")
    found["chain"] = 1 / sum(1 / found[step] for step in steps)
    return {f"{name}_mb_per_cpu_s" if not name.endswith("wall") else f"{name}_mb_per_s": rate for name, rate in found.items()}


def aead_rate(text: str) -> float:
    """MB/s from the last line of `openssl speed -mr`: +F:…:bytes per second."""
    return float(re.findall(r"^\+F:.*:([\d.]+)\s*$", text, re.MULTILINE)[-1]) / 1e6


def loopback(size: int) -> float:
    """MB per CPU-second of both ends of an iperf3 stream on the loopback."""
    port = machine.free_port()
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", str(port)], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    with Cost() as cost:
        text = run("iperf3", "-c", "127.0.0.1", "-p", port, "-n", 4 * size, "-J")
        server.wait(60)
    return json.loads(text)["end"]["sum_received"]["bytes"] / cost.client_cpu / 1e6


def link_rate(sender: list[str], receiver: list[str], address: str, seconds: float) -> float:
    """Mbit/s of TCP payload from one namespace to another, measured by the receiver."""
    server = subprocess.Popen([*receiver, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    try:
        # The first second fills buckets and windows.
        text = run("iperf3", "-c", address, "-t", seconds, "-O", 1, "-J", inside=sender)
        server.wait(30)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e6


def link_rate_both(one: list[str], other: list[str], address: str, seconds: float) -> float:
    """Mbit/s of TCP payload that each of two ends sends while it receives as much, the mean of both."""
    server = subprocess.Popen([*other, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    try:
        text = run("iperf3", "-c", address, "-t", seconds, "-O", 1, "--bidir", "-J", inside=one)
        server.wait(30)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    end = json.loads(text)["end"]
    return (end["sum_received"]["bits_per_second"] + end["sum_received_bidir_reverse"]["bits_per_second"]) / 2e6
