"""The small C server of echo.c: what one request in flight costs with epoll and OpenSSL and nothing else."""

import os
import subprocess
import time

from common import machine

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build(directory):
    """Compiles it; returns the program's path."""
    os.makedirs(directory, exist_ok=True)
    program = os.path.join(directory, "echo")
    source = os.path.join(HERE, "echo.c")
    subprocess.run(["cc", "-O2", "-o", program, source, "-lssl", "-lcrypto"], check=True)
    return program


class Echo(machine.Server):
    """A running echo server."""

    ends_with_stdin = True

    def __init__(self, program, directory, answer_bytes):
        self.program, self.port = program, machine.free_port()
        os.makedirs(directory, exist_ok=True)
        machine.certificate(directory)
        super().__init__([program, "server", self.port, "cert.pem", "key.pem", answer_bytes], cwd=directory)
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError("the echo server did not start")

    def ask(self, connections, seconds, request_bytes):
        """One request in flight on each connection; handshakes do not count."""
        command = machine.pinned(
            machine.CLIENT_CORE, [self.program, "client", self.port, connections, seconds, request_bytes]
        )
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if client.stdout.readline() != "connected\n":
            raise RuntimeError("the echo client did not connect")
        client_before, begun = machine.cpu_seconds(client.pid), time.monotonic()
        with machine.Meter(self.pid) as meter:
            line = client.stdout.readline()
            client_cpu = machine.cpu_seconds(client.pid) - client_before
        wall = time.monotonic() - begun
        client.communicate("\n")
        answers = int(line.split()[0])
        return {**meter.figures(answers), "client_cpu_s": client_cpu, "wall_s": wall}
