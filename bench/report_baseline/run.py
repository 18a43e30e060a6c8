"""Drives the report's mix against the report's design and writes results.json and samples.csv.

    python3 run.py --peers 1..3 --rounds 3 --out DIR

Every level (number of peers) of every round gets a fresh server. All peers do the same operation at the same time:
registrations, then searches, then lookups. The first failed request or wrong answer ends the run with exit code 1.
"""

import argparse
import collections
import json
import math
import multiprocessing
import os
import platform
import socket
import subprocess
import sys
import threading
import time

import mix
from exchanger import MessageExchanger

HERE = os.path.dirname(os.path.abspath(__file__))
OPERATIONS = {"register": mix.REGISTRATIONS, "search": mix.SEARCHES, "lookup": mix.LOOKUPS}
TIMEOUT_S = 60
RUN = "r0"


class Failure(Exception):
    """A request that failed or an answer that is wrong."""


class Peer:
    """One peer of a level: its connection, and the requests of the mix with their expected answers."""

    def __init__(self, port, number, peers):
        self.number, self.peers = number, peers
        connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.exchanger = MessageExchanger(connection)
        self.exchanger.send(("join", number, self.address(number)))
        self.expect(self.exchanger.receive(), ("joined", number), "join")

    @staticmethod
    def address(number):
        return ("127.0.0.1", 40_000 + number)

    def expect(self, answer, wanted, what):
        if answer != wanted:
            raise Failure(f"{what} of peer {self.number} of {self.peers}: expected {wanted!r}, got {answer!r}")

    def request(self, operation, number):
        """The request, and a function that checks its answer."""
        what = f"{operation} {number}"
        if operation == "register":
            name = mix.file_name(RUN, self.number, number)
            return ("register", name, mix.file_info(name, number)), lambda a: self.expect(a, ("registered", name), what)
        if operation == "search":
            text, names = mix.search(RUN, self.number, self.peers, number)
            return ("search", text), lambda a: self.expect((a[0], sorted(a[1])), ("found", sorted(names)), what)
        name, holders = mix.lookup(RUN, self.number, self.peers, number)
        wanted = ("providers", sorted((holder, self.address(holder)) for holder in holders))
        return ("lookup", name), lambda a: self.expect((a[0], sorted(a[1])), wanted, what)

    def run(self, operation, in_flight):
        """Does all requests of an operation; returns start, end and every latency in seconds."""
        requests = [self.request(operation, number) for number in range(OPERATIONS[operation])]
        waiting, latencies = collections.deque(), []

        def take():
            check, sent = waiting.popleft()
            answer = self.exchanger.receive()
            latencies.append(time.perf_counter() - sent)
            check(answer)

        started = time.perf_counter()
        for message, check in requests:
            if len(waiting) == in_flight:
                take()
            waiting.append((check, time.perf_counter()))
            self.exchanger.send(message)
        while waiting:
            take()
        return started, time.perf_counter(), latencies

    def leave(self):
        self.exchanger.send(("exit",))
        self.expect(self.exchanger.receive(), ("bye",), "exit")
        self.exchanger.close()


def peer_process(port, number, peers, in_flight, barrier, outcomes):
    try:
        peer = Peer(port, number, peers)
        for operation in OPERATIONS:
            barrier.wait(TIMEOUT_S)  # Everyone is ready; the driver reads the server's CPU time.
            barrier.wait(TIMEOUT_S)
            outcomes.put((number, operation, peer.run(operation, in_flight)))
        barrier.wait(TIMEOUT_S)
        peer.leave()
    except threading.BrokenBarrierError:
        pass  # Another peer failed and has said why.
    except Exception as error:
        outcomes.put((number, "failed", str(error)))
        barrier.abort()


def cpu_seconds(pid):
    """CPU seconds of a process and all its descendants that run now."""
    total, waiting = 0.0, [pid]
    while waiting:
        process = waiting.pop()
        try:
            # The kernel's clock id of another process's CPU time: see clock_getcpuclockid(3).
            total += time.clock_gettime((~process << 3) | 2)
            for task in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{task}/children", encoding="ascii") as children:
                    waiting += map(int, children.read().split())
        except (FileNotFoundError, OSError):
            continue
    return total


def run_level(peers, in_flight, round_number):
    """One level against a fresh server: rows of results, and samples."""
    server = subprocess.Popen([sys.executable, os.path.join(HERE, "index_server.py")], stdout=subprocess.PIPE, text=True)
    processes = []
    try:
        port = int(server.stdout.readline())
        barrier, outcomes = multiprocessing.Barrier(peers + 1), multiprocessing.Queue()
        for number in range(1, peers + 1):
            arguments = (port, number, peers, in_flight, barrier, outcomes)
            processes.append(multiprocessing.Process(target=peer_process, args=arguments, daemon=True))
            processes[-1].start()
        return measure_level(server.pid, peers, in_flight, round_number, barrier, outcomes)
    finally:
        for process in processes:
            process.join(TIMEOUT_S)
        server.terminate()
        server.wait(TIMEOUT_S)
        server.stdout.close()


def measure_level(server, peers, in_flight, round_number, barrier, outcomes):
    rows, samples = [], []
    for operation, count in OPERATIONS.items():
        try:
            barrier.wait(TIMEOUT_S)
            before = cpu_seconds(server)
            barrier.wait(TIMEOUT_S)
        except threading.BrokenBarrierError:
            next_outcome(outcomes)
            raise Failure("a peer stopped without saying why") from None
        parts = sorted(next_outcome(outcomes) for _ in range(peers))
        cpu = cpu_seconds(server) - before
        wall = max(end for _, _, (_, end, _) in parts) - min(start for _, _, (start, _, _) in parts)
        operations = count * peers
        cell = {"program": "python", "operation": operation, "peers": peers, "in_flight": in_flight}
        rows.append({**cell, "round": round_number, **summary([t for _, _, (_, _, part) in parts for t in part]),
                     "ops_per_s": round(operations / wall, 1), "server_cpu_us": round(cpu / operations * 1e6, 3)})
        samples += [(cell, round_number, number, part) for number, _, (_, _, part) in parts]
    barrier.wait(TIMEOUT_S)
    return rows, samples


def next_outcome(outcomes):
    number, operation, outcome = outcomes.get(timeout=TIMEOUT_S)
    if operation == "failed":
        raise Failure(outcome)
    return number, operation, outcome


def percentile(ordered, fraction):
    """Nearest rank: the smallest sample that at least this fraction of all samples does not exceed."""
    return ordered[max(0, math.ceil(round(fraction * len(ordered), 9)) - 1)]


def summary(latencies):
    ordered = sorted(latencies)
    micros = {"mean_us": sum(ordered) / len(ordered), "p50_us": percentile(ordered, 0.5),
              "p99_us": percentile(ordered, 0.99), "p999_us": percentile(ordered, 0.999)}
    return {"count": len(ordered), **{name: round(value * 1e6, 3) for name, value in micros.items()}}


def cpu_model():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def level_range(text):
    first, _, last = text.partition("..")
    return range(1, int(first) + 1) if not last else range(int(first), int(last) + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=level_range, default=level_range("1..3"), help="N for 1..N, or A..B")
    parser.add_argument("--in-flight", type=int, default=1, help="requests that each peer keeps unanswered (default 1)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--first-round", type=int, default=0, help="number of the first round in the results")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    rows, samples = [], []
    try:
        for round_number in range(arguments.first_round, arguments.first_round + arguments.rounds):
            for peers in arguments.peers:
                level_rows, level_samples = run_level(peers, arguments.in_flight, round_number)
                rows += level_rows
                samples += level_samples
    except Failure as failure:
        sys.exit(f"stopped at the first failed request: {failure}")
    machine = {"cpu": cpu_model(), "cores": os.cpu_count(), "kernel": platform.release()}
    versions = {"python": platform.python_version()}
    results = {"v": 1, "machine": machine, "versions": versions, "rows": rows}
    with open(os.path.join(arguments.out, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    with open(os.path.join(arguments.out, "samples.csv"), "w", encoding="utf-8") as file:
        file.write("program,operation,peers,in_flight,round,peer,latencies_us\n")
        for cell, round_number, number, part in samples:
            micros = " ".join(f"{latency * 1e6:.1f}" for latency in part)
            file.write(f"{','.join(str(value) for value in cell.values())},{round_number},{number},{micros}\n")
    for row in [] if arguments.quiet else rows:
        print(f"{row['operation']:9} peers {row['peers']} in flight {row['in_flight']}: mean {row['mean_us']:8.1f} us, "
              f"p99 {row['p99_us']:8.1f} us, {row['ops_per_s']:8.0f}/s, server CPU {row['server_cpu_us']:7.1f} us")


if __name__ == "__main__":
    main()
