"""The goals of the comparison, each with the figure that decides it."""

from common import raw
from common.goal import Goal, at_most, both, middle, ratio

# plocate knows no filters and FTS5 no words of two letters: they are compared on what they know.
PLOCATE_CLASSES = ("rare", "medium", "common", "two_letters", "no_hit", "two_terms", "three_terms")
FTS_CLASSES = ("rare", "medium", "common", "no_hit", "two_terms", "three_terms")
ALL_CLASSES = (*PLOCATE_CLASSES, "filtered")


def ours_over_classes(row, case, classes, side="client"):
    """The median over classes of our median times, in microseconds."""
    return middle([row.median("haul", case, f"{side}_{name}.p50_us") for name in classes])


def plocate_faster(rows):
    """Our client time against plocate's less its start, over the classes that it knows."""
    row = rows["search"]
    start = row.median("plocate", "calm", "start_s")
    theirs = middle([row.median("plocate", "calm", f"samples:{name}") for name in PLOCATE_CLASSES]) - start
    quotient = theirs * 1e6 / ours_over_classes(row, "churn", PLOCATE_CLASSES)
    same, compared = (row.median("plocate", "same_answers", name) for name in ("same", "compared"))
    return f"{quotient:.1f} x; {same:.0f} of {compared:.0f} counts alike", quotient >= 5


def fts_faster(kind, least):
    """Against FTS5, ranked or not."""

    def decide(rows):
        row = rows["search"]
        theirs = middle([row.median("sqlite", "calm", f"samples:{kind} {name}") for name in FTS_CLASSES])
        quotient = theirs * 1e6 / ours_over_classes(row, "churn", FTS_CLASSES)
        return f"{quotient:.2f} x", quotient >= least

    return decide


def above_null(rows):
    """Client p50 less that of the null server."""
    row = rows["search"]
    ours, null = (row.median(program, case, "client_all.p50_us") for program, case in (("haul", "churn"), ("null", "calm")))
    return f"null + {(ours - null) / 1e3:.3f} ms", ours <= null + 250


def count_faster(rows):
    """The exact count, and against plocate."""
    row = rows["count"]
    micros = row.median("haul", "count", "server.p50_us")
    theirs = row.median("plocate", "count", "p50_s")
    exact = row.median("haul", "count", "said_to_be_exact") == 1
    quotient = theirs * 1e6 / micros
    note = "" if exact else "; the count is not exact"
    return f"{micros / 1e3:.2f} ms; plocate / {quotient:.0f}{note}", exact and micros <= 1_000 and quotient >= 100


def memory_flat(rows):
    """Steady and worst, at all sizes, connections and all else of the process included."""
    row = rows["memory"]
    runs = row.runs("haul")
    steady = max(one["figures"]["memory_steady_bytes_per_entry_with_empty"] for one in runs)
    worst = max(one["figures"]["memory_worst_bytes_per_entry_with_empty"] for one in runs)
    return f"{steady:.0f} B steady, {worst:.0f} B worst, largest of {len(runs)} sizes", steady <= 120 and worst <= 180


def memory_redis(rows):
    """Against redis with the same facts."""
    row = rows["memory"]
    ours = row.runs("haul")[-1]["figures"]["memory_steady_bytes_per_entry"]
    quotient = ours / row.runs("redis")[-1]["figures"]["memory_bytes_per_entry"]
    return f"{quotient:.2f} x", quotient <= 0.4


def restarted(rows):
    """All rounds: nothing wrong in the first second, all exact, nothing lost."""
    runs = rows["restart"].runs("haul")
    if not runs:
        raise ValueError("no runs")
    first = max(one["figures"]["first_good_s"] for one in runs)
    exact = max(one["figures"]["exact_from_s"] for one in runs)
    wrong = sum(one["figures"]["answers_wrong"] for one in runs)
    lost = sum(one["figures"]["acknowledged_lost"] for one in runs)
    shares = sum(one["figures"]["acknowledged_peers"] for one in runs)
    text = f"first {first:.2f} s, {wrong:.0f} wrong; exact from {exact:.2f} s; {lost:.0f} of {shares:.0f} shares lost"
    return text, first <= 1 and wrong == 0 and exact <= 10 and lost == 0


def beside(rows):
    """p99 of lookups while a peer registers."""
    row = rows["mixed"]
    quotient = row.median("haul", "mixed", "p99_loaded_over_calm")
    p99 = row.median("haul", "mixed", "loaded.p99_us") / 1e3
    return f"{quotient:.2f} x, {p99:.2f} ms", quotient <= 1.5 and p99 <= 5


CPU = "per_server_cpu_s"
LOOKUPS = "lookups_per_server_cpu_s"
REQUESTS = "requests_per_server_cpu_s"
RETURNS = [("haul", size, f"return_frame_bytes_{way}") for size in ("large", "small") for way in ("up", "down")]

GOALS = [
    Goal("lookup", "lookup by hash, 64 per frame, per server CPU-second", "10 x redis GET at pipeline 64, plaintext",
         ratio("lookup", ("haul", "uniform", LOOKUPS), ("redis", "uniform", CPU), 10)),
    Goal("lookup", "the same", "10 x redis GET at pipeline 64, TLS",
         ratio("lookup", ("haul", "uniform", LOOKUPS), ("redis_tls", "uniform", CPU), 10)),
    Goal("lookup", "the same, 1,000 hot keys", "2 x redis GET at pipeline 64",
         ratio("lookup", ("haul", "hot", LOOKUPS), ("redis", "hot", CPU), 2)),
    Goal("lookup", "the same, all keys", "40 x aquatic_udp announces",
         ratio("lookup", ("haul", "uniform", LOOKUPS), ("aquatic", "uniform", CPU), 40)),
    Goal("one_in_flight", "lookup, one in flight on 1,000 connections, per server CPU-second", "0.9 x null server",
         ratio("one_in_flight", ("haul", "one", REQUESTS), ("null", "one", REQUESTS), 0.9)),
    Goal("one_in_flight", "null server, the same", "0.8 x C echo (epoll, OpenSSL)",
         ratio("one_in_flight", ("null", "one", REQUESTS), ("echo", "one", CPU), 0.8)),
    Goal("one_in_flight", "lookup, the same", "1.8 x redis over TLS",
         ratio("one_in_flight", ("haul", "one", REQUESTS), ("redis_tls", "one", CPU), 1.8)),
    Goal("register", "registration until all merges are done, per server CPU-second", "2.5 x redis, AOF everysec",
         ratio("register", ("haul", "register", "settled_per_server_cpu_s"), ("redis", "register", CPU), 2.5)),
    Goal("register", "the same, by the clock", "2.5 x redis, AOF everysec",
         ratio("register", ("haul", "register", "settled_per_s"), ("redis", "register", "per_s"), 2.5)),
    Goal("register", "the same, per server CPU-second and by the clock", "8 x SQLite WAL + FTS5 trigram",
         both(ratio("register", ("haul", "register", "settled_per_server_cpu_s"), ("sqlite", "register", CPU), 8),
              ratio("register", ("haul", "register", "settled_per_s"), ("sqlite", "register", "per_s"), 8))),
    Goal("leave_return", "a peer leaves", "invisible within 5 ms of the close (p99)",
         at_most("leave_return", [("haul", "large", "until_invisible.p99_us")], 5, "ms", 1e-3)),
    Goal("leave_return", "a share returns unchanged", "512 B of frames each way",
         at_most("leave_return", RETURNS, 512, "B")),
    Goal("leave_return", "a share is hidden and shown again", "50 µs of index CPU, whatever its size",
         lambda rows: hide_and_show(rows["leave_return"])),
    Goal("search", "search, first 100 ranked, 1% churn per second, server", "p50 0.1 ms",
         at_most("search", [("haul", "churn", "server_all.p50_us")], 0.1, "ms", 1e-3)),
    Goal("search", "the same", "p99 4 ms", at_most("search", [("haul", "churn", "server_all.p99_us")], 4, "ms", 1e-3)),
    Goal("search", "the same, two terms and three terms", "p50 0.5 ms each",
         at_most("search", [("haul", "churn", f"server_{name}.p50_us") for name in ("two_terms", "three_terms")],
                 0.5, "ms", 1e-3)),
    Goal("search", "the same, client p50", "null echo + 0.25 ms", above_null),
    Goal("search", "the same, client p50 over classes", "5 x faster than plocate -b -i -l 100 less its start",
         plocate_faster),
    Goal("search", "the same", "at least equal to FTS5 trigram, unranked", fts_faster("unranked", 1)),
    Goal("search", "the same", "10 x FTS5 trigram, ranked", fts_faster("ranked", 10)),
    Goal("count", "exact count of a common word", "1 ms and plocate -c -i / 100", count_faster),
    Goal("memory", "anonymous memory by entry after ten turnovers", "120 B steady, 180 B worst, at all sizes",
         memory_flat),
    Goal("memory", "the same", "0.4 x redis with the same facts", memory_redis),
    Goal("idle", "10,000 idle peers, memory of each", "16 KiB",
         at_most("idle", [("haul", "idle", "memory_bytes_per_connection_after_renewals")], 16, "KiB", 1 / 1024)),
    Goal("idle", "the same, CPU", "0.5% of a core", at_most("idle", [("haul", "idle", "core_share")], 0.5, "%", 100)),
    Goal("restart", "kill -9 and restart", "right or marked within 1 s, exact within 10 s, nothing acknowledged lost",
         restarted),
    Goal("mixed", "lookup p99 while one peer registers", "1.5 x calm and 5 ms", beside),
]


def hide_and_show(row):
    """CPU microseconds of one Close and one Open together, for a large and a small share."""
    costs = []
    for size in ("large", "small"):
        costs.append(1e6 / row.median("haul", size, "hide_and_show_per_server_cpu_s"))
    return f"{costs[0]:.0f} µs large, {costs[1]:.0f} µs small", max(costs) <= 50
