"""The row of registrations."""

from common import machine
from haul import Haul
from rivals import redis, sqlite


def register(bench):
    """All peers register their files: durable and searchable when acknowledged; until all merges are done."""
    everything = bench.names(copies=1.5)
    lines, commands = bench.data("register.tsv"), bench.data("register.resp")
    bench.write_names(everything, lines)
    entries = redis.write_commands(lines, commands)
    runs = []
    for number in range(bench.rounds):
        with Haul(bench.binary, bench.state("register")) as index:
            found = index.tool("register", everything, "--checks", 200)
            runs.append(bench.run("haul", "register", number, found))
        with redis.Redis(bench.state("redis"), durable=True) as server:
            figures = server.register(commands, entries)
            wall, cpu = machine.wait_until_quiet(server.pid)
            figures["settled_cpu_s"] = figures["server_cpu_s"] + cpu
            figures["settled_wall_s"] = figures["wall_s"] + wall
            figures["memory_bytes_per_entry"] = machine.anonymous_bytes(server.pid) / entries
            runs.append(bench.run("redis", "register", number, figures))
        # It takes longest and varies least.
        if number == 0 or bench.long:
            figures = sqlite.run(machine.SERVER_CORE, "build", bench.data("register.sqlite"), lines)
            runs.append(bench.run("sqlite", "register", number, figures))
    bench.remove("register.tsv", "register.resp", "register.sqlite")
    return {"runs": runs, "parameters": {"entries": entries, "peers": everything.peers}}
