"""haul as it is used: daemons with a home of their own, and commands that talk to them."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from typing import Any

from common import machine

READY_SECONDS = 600.0
# How often a share's state is asked for: each question costs the daemon 0.1 ms.
LOOK_SECONDS = 0.005


class OverSocket(http.client.HTTPConnection):
    """HTTP on the daemon's unix socket: what `haul share ls --json` asks, without a process for each look."""

    def __init__(self, path: str):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)

    def ask(self, method: str, path: str) -> list[dict[str, Any]]:
        """The records of an answer."""
        self.request(method, path)
        return [json.loads(line) for line in self.getresponse().read().splitlines() if line]


class Peer(machine.Server):
    """A `haul up`, with an index of its own unless it joins one."""

    core = None

    def __init__(self, binary: str, home: str, *words: str, ticket: str | None = None, address: str = "127.0.0.1",
                 inside: list[str] | None = None, more: dict[str, str] | None = None):
        self.binary, self.home, self.inside = binary, home, inside or []
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        command = [*self.inside, binary, "up", "--json", "--listen", f"{address}:0", "--web-listen", "127.0.0.1:0", *words]
        environment = {**self.environment(), **(more or {})}
        if ticket:
            command += ["--join"]
            environment["HAUL_TICKET"] = ticket
        else:
            command += ["--index-listen", f"{address}:0"]
        log = open(os.path.join(home, "stderr.txt"), "wb")
        super().__init__(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        log.close()
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"haul up did not start: {self.errors()}")
        self.ready = json.loads(line)
        self.socket = OverSocket(os.path.join(home, "run", "haul.sock"))

    @property
    def ticket(self) -> str:
        """Lets others join."""
        return self.ready["ticket"]

    @property
    def key(self) -> str:
        """Names it in full."""
        return self.ready["peer"]

    def environment(self) -> dict[str, str]:
        """Its home, and nothing of what else may be set."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HAUL_")}
        return {**clean, "HAUL_HOME": self.home}

    def errors(self) -> str:
        """The end of what it complained about."""
        with open(os.path.join(self.home, "stderr.txt"), encoding="utf-8", errors="replace") as file:
            return file.read()[-800:]

    def run(self, *words: str) -> list[dict[str, Any]]:
        """Runs a command of haul beside it; its records."""
        command = [*self.inside, self.binary, *words]
        done = subprocess.run(command, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            said = (done.stderr + done.stdout).decode(errors="replace")[-500:]
            raise RuntimeError(f"haul {words[0]} ended with {done.returncode}: {said} {self.errors()}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]

    def get(self, what: str, target: str) -> dict[str, Any]:
        """Fetches; the record of what was done. All of it must have come from others."""
        done = next(record for record in self.run("get", "--json", what, "-o", target) if record["type"] == "done")
        if not done["verified"] or done["resumed_from"]:
            raise RuntimeError(f"not what was to be measured: {done}")
        return done

    def shares(self) -> list[dict[str, Any]]:
        """As `haul share ls --json`."""
        return [record for record in self.socket.ask("GET", "/v1/shares") if record["type"] == "share"]

    def wait_ready(self, files: int) -> dict[str, Any]:
        """Waits until its one share is hashed and durable at the index; it must have so many files."""
        limit = time.monotonic() + READY_SECONDS
        while time.monotonic() < limit:
            shares = self.shares()
            if shares and shares[0]["state"] == "ready":
                share = shares[0]
                if (share["files"], share["hashed"], share["skipped"]) != (files, files, 0):
                    raise RuntimeError(f"not all {files} files are shared: {share}")
                return share
            time.sleep(LOOK_SECONDS)
        raise RuntimeError(f"the share is not ready after {READY_SECONDS:.0f} s: {self.shares()}")

    def rescan(self, name: str, files: int) -> None:
        """Has the share's folder read again, and waits until that is done."""
        self.socket.ask("POST", f"/v1/shares/{name}/rescan")
        limit = time.monotonic() + 5
        while self.shares()[0]["state"] == "ready":
            if time.monotonic() > limit:
                raise RuntimeError("the share was not read again")
        self.wait_ready(files)

    def stop(self, seconds: float = 30) -> None:
        """SIGTERM: it leaves cleanly."""
        if hasattr(self, "socket"):
            self.socket.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
