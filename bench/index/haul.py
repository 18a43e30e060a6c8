"""haul as a server that is measured, and its load tools as the client."""

import json
import os
import shutil
import subprocess

from common import machine

# More than any row connects.
TICKET_USES = 100_000
GROUPS = 3


class Population:
    """What is registered: the arguments that all load tools share."""

    def __init__(self, peers, files_per_peer, copies=1.0, paths=None, seed=1, groups=GROUPS, states=None):
        self.peers, self.files_per_peer, self.copies = peers, files_per_peer, copies
        self.paths, self.seed, self.groups = paths, seed, groups
        # What `register --journal` wrote: peers that return need not work out what they hold.
        self.states = states

    def arguments(self):
        """As words of a command line."""
        words = ["--peers", self.peers, "--files-per-peer", self.files_per_peer, "--copies", self.copies]
        words += ["--seed", self.seed, "--groups", self.groups]
        for option in ("paths", "states"):
            value = getattr(self, option)
            words += [f"--{option}", value] if value and os.path.exists(value) else []
        return words

    def other(self, **changes):
        """The same with other values."""
        return Population(**{**self.__dict__, **changes})


class Haul(machine.Server):
    """An index, or the null server, as `haul bench serve`."""

    ends_with_stdin = True

    def __init__(self, binary, state, role="index", listen="127.0.0.1:0", keep=False, ticket=None):
        self.binary, self.state = binary, state
        if not keep:
            shutil.rmtree(state, ignore_errors=True)
        command = [binary, "bench", "serve", role, "--state", state, "--uses", TICKET_USES, "--groups", GROUPS]
        super().__init__([*command, "--listen", listen])
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"haul bench serve {role} did not start")
        self.ready = json.loads(line)
        # Tools that ask a null server derive their questions as with an index, and need any ticket for that.
        self.ticket = self.ready["ticket"] or ticket
        self.holders = []

    def null(self):
        """What `--null` takes."""
        return f"{self.ready['address']}@{self.ready['key']}"

    def words(self, tool, population, *more):
        """The command line of a load tool."""
        words = [self.binary, "bench", tool, *population.arguments(), "--server-pid", self.pid, "--json"]
        return [*map(str, words), *map(str, more)]

    def tool(self, tool, population, *more):
        """Runs a load tool on the client's core; returns what it found."""
        text = machine.run_client(self.words(tool, population, *more), env=self.environment())
        return slim(json.loads(text))

    def environment(self):
        """The ticket, away from the list of processes."""
        return {**os.environ, "HAUL_INDEX": self.ticket}

    def start(self, tool, population, *more, wait=True):
        """Starts a load tool that stays (`register --hold`); returns its process and what it found."""
        command = machine.pinned(machine.CLIENT_CORE, self.words(tool, population, *more))
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment()
        )
        self.holders.append(process)
        if not wait:
            return process, None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"haul bench {tool} failed with {process.wait()}")
        return process, slim(json.loads(line))

    def register(self, population, *more):
        """Registers and keeps the peers connected."""
        return self.start("register", population, "--hold", *more)[1]

    def release(self):
        """Lets go the peers that were kept connected."""
        for process in self.holders:
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        self.holders = []

    def stop(self, seconds=60):
        self.release()
        super().stop(seconds)


def slim(outcome):
    """Without what stands once in the report."""
    for key in ("machine", "versions", "v", "type"):
        outcome.pop(key, None)
    return outcome
