"""redis-server: keys and values in memory, an append-only file synced every second."""

import os
import re
import shutil
import socket
import subprocess
import time

from common import machine

# 20 bytes; redis-benchmark puts 12 digits behind them: 32 in all, as a hash has.
KEY_PREFIX = "haul-bench-blob-key:"
KEYS_PER_SCRIPT = 100_000
# Makes keys KEY_PREFIX + 12 digits, as redis-benchmark asks for them.
FILL = """
local value = ARGV[3]
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
  redis.call('SET', KEYS[1] .. string.format('%012d', number), value)
end
"""


def version():
    """Its version."""
    text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"v=(\S+)", text)[1]


def has_tls():
    """Whether it was built with TLS."""
    text = subprocess.run(["redis-benchmark", "--help"], capture_output=True, text=True, check=False)
    return "--tls" in text.stdout + text.stderr


class Redis(machine.Server):
    """A server with an empty memory."""

    def __init__(self, directory, durable=False, tls=False):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        self.port, self.tls_port = machine.free_port(), None
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        command += ["--appendonly", "yes" if durable else "no", "--appendfsync", "everysec"]
        command += ["--maxclients", 20_000, "--loglevel", "warning", "--daemonize", "no"]
        if tls:
            self.tls_port = machine.free_port()
            machine.certificate(directory)
            command += ["--tls-port", self.tls_port, "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]
            command += ["--tls-ca-cert-file", "cert.pem", "--tls-auth-clients", "no"]
            command += ["--tls-protocols", "TLSv1.3", "--tls-ciphersuites", "TLS_AES_128_GCM_SHA256"]
        super().__init__(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=directory)
        for _ in range(200):
            try:
                if self.ask("PING") == "PONG":
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def ask(self, *words):
        """One command; its simple or bulk answer as text."""
        with socket.create_connection(("127.0.0.1", self.port)) as link:
            link.sendall(request(*words))
            with link.makefile("rb") as answers:
                return read_answer(answers)

    def fill(self, keys, value_bytes):
        """So many keys with random-looking values of this length."""
        value = os.urandom(value_bytes).hex()[:value_bytes]
        for start in range(0, keys, KEYS_PER_SCRIPT):
            end = min(start + KEYS_PER_SCRIPT, keys)
            answer = self.ask("EVAL", FILL, "1", KEY_PREFIX, str(start), str(end), value)
            if answer:
                raise RuntimeError(f"redis did not fill: {answer}")
        found = int(self.ask("DBSIZE"))
        if found != keys:
            raise RuntimeError(f"redis has {found} keys instead of {keys}")

    def get(self, keys, requests, clients=50, pipeline=64, tls=False):
        """GETs of random keys by redis-benchmark; every key must be there."""
        before = self.hits()
        command = ["redis-benchmark", "-p", self.tls_port if tls else self.port, "-c", clients, "-P", pipeline]
        command += ["-n", requests, "-r", keys, "-q", *(["--tls", "--insecure"] if tls else [])]
        command += ["GET", KEY_PREFIX + "__rand_int__"]
        with machine.Meter(self.pid) as meter:
            machine.run_client(command, stderr=subprocess.DEVNULL)
        hits, misses = self.hits()
        if misses != before[1] or hits - before[0] < requests:
            raise RuntimeError(f"{misses - before[1]} of {requests} keys were not there")
        return meter.figures(hits - before[0])

    def hits(self):
        """(found, not found) so far."""
        text = self.ask("INFO", "stats")
        return tuple(int(re.search(rf"keyspace_{kind}:(\d+)", text)[1]) for kind in ("hits", "misses"))

    def register(self, commands, entries):
        """Sends a file of `write_commands`; every command must be answered without an error."""
        with machine.Meter(self.pid) as meter, open(commands, "rb") as file:
            text = machine.run_client(["redis-cli", "-p", self.port, "--pipe"], stdin=file)
        if not re.search(rf"errors: 0, replies: {2 * entries}\b", text):
            raise RuntimeError(f"redis did not take all commands: {text}")
        return meter.figures(entries)


def write_commands(lines, path):
    """Writes, for each entry of `haul bench names`, its fields under its peer and path (HSET) and the peer into the
    set of its blob's providers (SADD), as redis reads them. Returns the number of entries."""
    entries = 0
    with open(lines, "rb") as source, open(path, "wb", buffering=1 << 20) as target:
        for line in source:
            peer, blob, size, name = line.rstrip(b"\n").split(b"\t", 3)
            target.write(entry_commands(peer, bytes.fromhex(blob[3:].decode("ascii")), size, name))
            entries += 1
    return entries


def entry_commands(peer, blob, size, path):
    """HSET e:PEER:PATH s SIZE b BLOB and SADD b:BLOB PEER."""
    key = b"e:" + peer + b":" + path
    hset = b"*6\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n$1\r\ns\r\n$%d\r\n%b\r\n$1\r\nb\r\n$32\r\n%b\r\n"
    sadd = b"*3\r\n$4\r\nSADD\r\n$34\r\nb:%b\r\n$%d\r\n%b\r\n"
    return hset % (len(key), key, len(size), size, blob) + sadd % (blob, len(peer), peer)


def request(*words):
    """A command as redis reads it."""
    encoded = [word.encode("utf-8") if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def read_answer(answers):
    """One answer."""
    line = answers.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode("utf-8")
    if kind == b"$":
        length = int(rest)
        return answers.read(length + 2)[:-2].decode("utf-8") if length >= 0 else ""
    if kind == b"-":
        raise RuntimeError(f"redis: {rest}")
    return rest
