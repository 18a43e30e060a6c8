"""Processes on fixed cores, and what they cost: CPU time and memory from /proc."""

import os
import resource
import signal
import socket
import subprocess
import time

SERVER_CORE = 0
CLIENT_CORE = 1
# Ten thousand connections and their files.
OPEN_FILES = 65_536


def allow_many_files():
    """Raises the limit of open files for this process and all that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, max(hard, OPEN_FILES)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pinned(core, command):
    """The command on one core; with none, or on a machine with one core, unpinned."""
    if core is None or (os.cpu_count() or 1) < 2:
        return list(map(str, command))
    return ["taskset", "-c", str(core), *map(str, command)]


class Server:
    """A child process on the server's core. Ends with `stop`, or with this process."""

    core = SERVER_CORE

    def __init__(self, command, **options):
        options.setdefault("stdin", subprocess.PIPE)
        options.setdefault("stdout", subprocess.PIPE)
        self.process = subprocess.Popen(pinned(self.core, command), **options)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, seconds=60):
        """Closes its standard input, then asks, then kills."""
        if self.process.poll() is None and self.process.stdin:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        for act in (None, self.process.terminate, self.process.kill):
            if act is None and not self.ends_with_stdin:
                continue
            if act and self.process.poll() is None:
                act()
            try:
                self.process.wait(seconds if act is None else 10)
                break
            except subprocess.TimeoutExpired:
                continue
        if self.process.stdout:
            self.process.stdout.close()

    ends_with_stdin = False

    def kill(self):
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def run_client(command, **options):
    """Runs a command on the client's core and returns its standard output."""
    options.setdefault("check", True)
    return subprocess.run(pinned(CLIENT_CORE, command), stdout=subprocess.PIPE, text=True, **options).stdout


def cpu_seconds(pid):
    """CPU time of a running process so far, all threads, as far as they have not ended."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        except FileNotFoundError:
            continue
    return total / 1e9


def anonymous_bytes(pid):
    """Memory that is not backed by a file."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    raise ValueError("no Anonymous: in smaps_rollup")


def steal_ticks():
    """(stolen, all) ticks of the machine so far."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return ticks[7], sum(ticks)


class Meter:
    """What a server and its client cost between `__enter__` and `__exit__`."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        self.server = cpu_seconds(self.pid)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.client = children.ru_utime + children.ru_stime
        self.stolen = steal_ticks()
        self.wall = time.monotonic()
        return self

    def __exit__(self, *_):
        self.wall = time.monotonic() - self.wall
        self.server = cpu_seconds(self.pid) - self.server
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.client = children.ru_utime + children.ru_stime - self.client
        stolen, every = steal_ticks()
        self.steal = (stolen - self.stolen[0]) / max(1, every - self.stolen[1])

    def figures(self, operations):
        """The same names as a load tool of haul gives."""
        return {
            "operations": operations,
            "wall_s": self.wall,
            "per_s": operations / self.wall,
            "server_cpu_s": self.server,
            "client_cpu_s": self.client,
            "per_server_cpu_s": operations / max(self.server, 1e-9),
            "steal_share": self.steal,
        }


def wait_until_quiet(pid, looks=5, pause=0.1, busy=0.002, limit=180):
    """Waits until a server works no more; returns (wall, CPU seconds) spent until its last work."""
    begun, last = time.monotonic(), (0.0, 0.0)
    cpu = cpu_seconds(pid)
    first, quiet = cpu, 0
    while quiet < looks and time.monotonic() - begun < limit:
        time.sleep(pause)
        now = cpu_seconds(pid)
        if now - cpu > busy:
            quiet, last = 0, (time.monotonic() - begun, now - first)
        else:
            quiet += 1
        cpu = now
    return last


def describe():
    """The machine, without its name."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) // (1 << 20)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "kernel": os.uname().release.split("-")[0],
        "load_before": os.getloadavg()[0],
    }


def free_port():
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def certificate(directory):
    """An own certificate for programs that need one: cert.pem and key.pem."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"],
        cwd=directory, check=True, capture_output=True,
    )
