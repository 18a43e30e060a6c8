"""aquatic_udp and its own load test: announces over UDP, up to ten peers in an answer."""

import os
import re
import subprocess
import time

from common import machine

SERVER = """socket_workers = 1
[network]
address = "127.0.0.1:{port}"
[protocol]
max_response_peers = 10
[cleaning]
torrent_cleaning_interval = 3600
[statistics]
interval = 3600
"""
# Almost only announces: its own default counts a connect for every announce.
CLIENT = """server_address = "127.0.0.1:{port}"
workers = 1
duration = {seconds}
extra_statistics = false
[network]
multiple_client_ipv4s = false
[requests]
number_of_torrents = {blobs}
number_of_peers = {peers}
announce_peers_wanted = 10
weight_connect = 1
weight_announce = 100
weight_scrape = 0
"""


def version(binary):
    """Its version."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    return (text.stdout + text.stderr).strip().split()[-1]


class Aquatic(machine.Server):
    """A server with nothing announced."""

    def __init__(self, binaries, directory):
        self.binaries, self.directory, self.port = binaries, directory, machine.free_port()
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "server.toml")
        with open(path, "w", encoding="ascii") as file:
            file.write(SERVER.format(port=self.port))
        super().__init__([os.path.join(binaries, "aquatic_udp"), "-c", path], stdin=subprocess.DEVNULL)
        time.sleep(0.5)
        if self.process.poll() is not None:
            raise RuntimeError("aquatic_udp did not start")

    def announce(self, seconds, blobs):
        """Announces for so many seconds; figures count their answers."""
        path = os.path.join(self.directory, "client.toml")
        with open(path, "w", encoding="ascii") as file:
            file.write(CLIENT.format(port=self.port, seconds=seconds, blobs=blobs, peers=2 * blobs))
        with machine.Meter(self.pid) as meter:
            text = machine.run_client([os.path.join(self.binaries, "aquatic_udp_load_test"), "-c", path])
        return meter.figures(answers(text))


def answers(text):
    """Announces answered, from the report of the load test."""
    seconds = int(re.search(r"Test ran for (\d+) seconds", text)[1])
    return float(re.search(r"Announce responses:\s+([\d.]+)", text)[1]) * seconds
