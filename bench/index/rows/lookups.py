"""Rows of lookups by hash."""

import os

from haul import Haul, Population
from rivals.aquatic import Aquatic
from rivals.echo import Echo
from rivals.redis import Redis

PEERS = 100
COPIES = 1.5
HOT = 1_000
# Whole frames: header 9; Locate of one blob 36; its answer with 1.5 peers.
REQUEST_BYTES = 45
ANSWER_BYTES = 23
MANY = ("--connections", 4, "--in-flight", 32, "--batch", 64)


def population(blobs):
    """Made-up names; so many different blobs."""
    return Population(PEERS, round(blobs * COPIES / PEERS), COPIES)


def lookup(bench):
    """64 per frame against pipelines of 64, and announces."""
    blobs = bench.size.blobs
    everything = population(blobs)
    runs = []
    with Haul(bench.binary, bench.state("lookup")) as index:
        runs.append(bench.run("haul", "register", 0, index.register(everything, "--checks", 500)))
        seconds = ("--seconds", bench.size.seconds)
        first = index.tool("lookup", everything, *MANY, *seconds)
        value_bytes = max(1, round(first["figures"]["answer_bytes_per_lookup"]))
        with Redis(bench.state("redis"), tls=bench.redis_tls) as redis:
            redis.fill(blobs, value_bytes)
            requests = bench.size.redis_requests
            for number in range(bench.rounds):
                def keep(program, case, found):
                    runs.append(bench.run(program, case, number, found))

                keep("haul", "uniform", index.tool("lookup", everything, *MANY, *seconds))
                keep("redis", "uniform", redis.get(blobs, requests))
                if bench.redis_tls:
                    keep("redis_tls", "uniform", redis.get(blobs, requests, tls=True))
                keep("haul", "hot", index.tool("lookup", everything, *MANY, *seconds, "--hot", HOT))
                keep("redis", "hot", redis.get(HOT, 4 * requests))
                if bench.redis_tls:
                    keep("redis_tls", "hot", redis.get(HOT, 4 * requests, tls=True))
                keep("haul", "zipf", index.tool("lookup", everything, *MANY, *seconds, "--keys", "zipf"))
                with Aquatic(bench.aquatic, bench.state("aquatic")) as aquatic:
                    announced = max(3, round(bench.size.seconds * 2))
                    keep("aquatic", "uniform", aquatic.announce(announced, min(blobs, 1_000_000)))
    return {"runs": runs, "parameters": {"blobs": blobs, "value_bytes": value_bytes, "hot": HOT}}


def lookup_curve(bench):
    """Lookups against the number of blobs."""
    runs, sizes = [], bench.size.blob_curve
    for blobs in sizes:
        everything = population(blobs)
        with Haul(bench.binary, bench.state("lookup")) as index:
            index.register(everything, "--checks", 100)
            with Redis(bench.state("redis")) as redis:
                redis.fill(blobs, 11)
                for number in range(bench.rounds):
                    found = index.tool("lookup", everything, *MANY, "--seconds", bench.size.seconds)
                    runs.append(bench.run("haul", str(blobs), number, found))
                    found = redis.get(blobs, bench.size.redis_requests)
                    runs.append(bench.run("redis", str(blobs), number, found))
    return {"runs": runs, "parameters": {"blobs": sizes}}


def one_in_flight(bench):
    """One request in flight on each of many connections: what a request costs besides the lookup."""
    connections = bench.size.connections
    everything = population(bench.size.blobs // 10)
    runs = []
    words = ("--connections", connections, "--in-flight", 1, "--batch", 1, "--seconds", bench.size.seconds)
    program = bench.echo()
    with Haul(bench.binary, bench.state("lookup")) as index:
        index.register(everything, "--checks", 100)
        null = Haul(bench.binary, bench.state("null"), role="null", ticket=index.ticket)
        redis = Redis(bench.state("redis"), tls=bench.redis_tls)
        echo = Echo(program, bench.state("echo"), ANSWER_BYTES)
        with null, redis, echo:
            redis.fill(bench.size.blobs // 10, 11)
            requests = bench.size.redis_requests // 10
            for number in range(bench.rounds):
                found = {
                    "haul": index.tool("lookup", everything, *words),
                    "null": null.tool("lookup", everything, *words, "--null", null.null()),
                    "echo": echo.ask(connections, bench.size.seconds, REQUEST_BYTES),
                    "redis": redis.get(bench.size.blobs // 10, requests, clients=connections, pipeline=1),
                }
                if bench.redis_tls:
                    keys = bench.size.blobs // 10
                    found["redis_tls"] = redis.get(keys, requests, clients=connections, pipeline=1, tls=True)
                runs += [bench.run(program, "one", number, one) for program, one in found.items()]
    return {"runs": runs, "parameters": {"connections": connections, "cores": os.cpu_count()}}
