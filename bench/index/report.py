"""docs/benchmarks/index.md from the raw data: goals, tables with quartiles, curves, method."""

import os

import goals
from common import page, raw
from common.goal import middle

# What each row's table shows: program, case, figure, heading.
TABLES = {
    "lookup": ("Lookups by hash", [
        ("haul", "uniform", "lookups_per_server_cpu_s"), ("redis", "uniform", "per_server_cpu_s"),
        ("redis_tls", "uniform", "per_server_cpu_s"), ("aquatic", "uniform", "per_server_cpu_s"),
        ("haul", "zipf", "lookups_per_server_cpu_s"), ("haul", "hot", "lookups_per_server_cpu_s"),
        ("redis", "hot", "per_server_cpu_s"), ("redis_tls", "hot", "per_server_cpu_s"),
        ("haul", "uniform", "lookups_per_s"), ("redis", "uniform", "per_s"), ("haul", "uniform", "closed_loop.p99_us"),
    ]),
    "one_in_flight": ("One request in flight on each connection", [
        ("haul", "one", "requests_per_server_cpu_s"), ("null", "one", "requests_per_server_cpu_s"),
        ("echo", "one", "per_server_cpu_s"), ("redis_tls", "one", "per_server_cpu_s"),
        ("redis", "one", "per_server_cpu_s"), ("haul", "one", "requests_per_s"), ("null", "one", "requests_per_s"),
        ("echo", "one", "per_s"), ("redis_tls", "one", "per_s"),
    ]),
    "register": ("Registration", [
        ("haul", "register", "settled_per_server_cpu_s"), ("redis", "register", "per_server_cpu_s"),
        ("sqlite", "register", "per_server_cpu_s"), ("haul", "register", "registered_per_s"),
        ("haul", "register", "settled_per_s"), ("redis", "register", "per_s"), ("sqlite", "register", "per_s"),
        ("haul", "register", "commit.p50_us"), ("haul", "register", "commit.p99_us"),
    ]),
    "leave_return": ("Leaving and returning", [
        ("haul", "large", "until_invisible.p50_us"), ("haul", "large", "until_invisible.p99_us"),
        ("haul", "large", "open_until_shown.p50_us"), ("haul", "large", "handshake_and_hello.p50_us"),
        ("haul", "large", "return_frame_bytes_up"), ("haul", "large", "return_frame_bytes_down"),
        ("haul", "large", "return_bytes_with_hello"),
    ]),
    "count": ("Exact count", [
        ("haul", "count", "counted"), ("plocate", "count", "counted"), ("haul", "count", "server.p50_us"),
        ("haul", "count", "client.p50_us"), ("plocate", "count", "p50_s"),
    ]),
    "idle": ("Idle peers", [
        ("haul", "idle", "memory_bytes_per_connection"), ("haul", "idle", "memory_bytes_per_connection_after_renewals"),
        ("haul", "idle", "core_share"), ("haul", "idle", "still_connected"),
    ]),
    "mixed": ("Lookups beside a large registration", [
        ("haul", "mixed", "calm.p50_us"), ("haul", "mixed", "calm.p99_us"), ("haul", "mixed", "loaded.p50_us"),
        ("haul", "mixed", "loaded.p99_us"), ("haul", "mixed", "p99_loaded_over_calm"),
        ("haul", "mixed", "registration_s"),
    ]),
    "restart": ("After kill -9", [
        ("haul", "restart", "connected_s"), ("haul", "restart", "first_good_s"), ("haul", "restart", "exact_from_s"),
        ("haul", "restart", "answers_exact"), ("haul", "restart", "answers_marked_partial"),
        ("haul", "restart", "answers_wrong"), ("haul", "restart", "acknowledged_peers"),
        ("haul", "restart", "acknowledged_newer"), ("haul", "restart", "acknowledged_lost"),
    ]),
}


def write(docs, rows, notes_path, chart):
    """Writes index.md and its pictures into `docs`; `chart(curves, file)` draws one."""
    pictures = draw(docs, rows, chart)
    parts = [head(rows), page.goal_table(rows, goals.GOALS), page.missed(rows, goals.GOALS, page.read_notes(notes_path)),
             pictures]
    parts += [page.table(rows, name, *TABLES[name]) for name in TABLES if name in rows]
    parts += [search_table(rows), memory_table(rows), page.remarks(rows), method(), page.machine_text(rows)]
    page.write(os.path.join(docs, "index.md"), parts)


def head(rows):
    """What this page is."""
    return (
        "# The index beside what else one would use\n\n"
        "One command measures everything and writes this page: `bench/index/run.py`. Medians over the rounds; raw data "
        "stand in [index/](index). haul always speaks TLS 1.3 with keys on both sides, and every answer is checked."
        + page.warning(rows)
    )


def search_table(rows):
    """Searches by class."""
    if "search" not in rows:
        return ""
    row = raw.Row(rows["search"])
    first = row.runs("haul", "calm")[0]
    start = row.median("plocate", "calm", "start_s") or 0
    lines = ["## Search by class", "", page.parameters(rows["search"]), "",
             "Times in microseconds: p50 / p99 of haul's own time and of its client, medians of the others; plocate with "
             f"and less the start of its process ({start * 1e3:.2f} ms). haul ranks; words match base names, as with "
             "`plocate -b`.", "",
             "| class | matching files, median | haul server, calm | haul server, churn | haul client, churn | "
             "null client | plocate | less start | FTS5 unranked | FTS5 ranked |",
             "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"]
    for name in (*goals.ALL_CLASSES, "all"):
        counts = first.get("samples", {}).get(f"matching_files_{name}")
        matching = middle(counts) if isinstance(counts, list) and counts else None

        def pair(program, case, side, label=name):
            p50, p99 = (row.median(program, case, f"{side}_{label}.{key}") for key in ("p50_us", "p99_us"))
            return "–" if p50 is None else f"{raw.number(p50)} / {raw.number(p99)}"

        plocate = row.median("plocate", "calm", f"samples:{name}")
        fts = [row.median("sqlite", "calm", f"samples:{kind} {name}") for kind in ("unranked", "ranked")]
        cells = [name, raw.number(matching), pair("haul", "calm", "server"), pair("haul", "churn", "server"),
                 pair("haul", "churn", "client"), pair("null", "calm", "client"),
                 raw.number(plocate and plocate * 1e6), raw.number(plocate and (plocate - start) * 1e6)]
        cells += [raw.number(value and value * 1e6) for value in fts]
        lines.append("| " + " | ".join(cells) + " |")
    texts = first.get("texts", {})
    if texts:
        lines += ["", "<details><summary>The queries</summary>", ""]
        lines += [f"- {name}: " + ", ".join(f"`{text}`" for text in texts[name]) for name in goals.ALL_CLASSES if name in texts]
        lines += ["", "</details>"]
    return "\n".join(lines)


def memory_table(rows):
    """Memory by size."""
    if "memory" not in rows:
        return ""
    row = raw.Row(rows["memory"])
    lines = ["## Memory", "", page.parameters(rows["memory"]), "",
             "Bytes of anonymous memory by entry: all of the process, its connections included, and less what the index took "
             "with all peers connected and nothing registered.", "",
             "| program | entries | steady, all | worst moment, all | registered once, less | steady, less | worst, less |",
             "| --- | --: | --: | --: | --: | --: | --: |"]
    names = ("steady_bytes_per_entry_with_empty", "worst_bytes_per_entry_with_empty", "first_bytes_per_entry",
             "steady_bytes_per_entry", "worst_bytes_per_entry")
    for one in row.runs("haul"):
        figures = [one["figures"].get(f"memory_{name}") for name in names]
        lines.append(f"| haul | {one['case']} | " + " | ".join(raw.number(value) for value in figures) + " |")
    for one in row.runs("redis"):
        lines.append(f"| redis | {one['case']} | | | {raw.number(one['figures']['memory_bytes_per_entry'])} | | |")
    return "\n".join(lines)


def draw(docs, rows, chart):
    """Both curves; the text that shows them."""
    text = []
    if "search_curve" in rows:
        row = raw.Row(rows["search_curve"])
        sizes = rows["search_curve"]["parameters"]["names"]
        lines = [("haul, server p50", "haul", "server_all.p50_us", 1), ("haul, server p99", "haul", "server_all.p99_us", 1),
                 ("haul, client p50", "haul", "client_all.p50_us", 1),
                 ("plocate, rare words", "plocate", "samples:rare", 1e6),
                 ("plocate, common words", "plocate", "samples:common", 1e6)]
        largest = largest_set(rows.get("search"), "names", "calm")
        curves = curve("Search latency, first 100 hits", "names", "microseconds", row, sizes, lines, largest)
        chart(curves, os.path.join(docs, "index", "search-latency.svg"))
        text.append("![Search latency against the number of names](index/search-latency.svg)")
    if "lookup_curve" in rows:
        row = raw.Row(rows["lookup_curve"])
        sizes = rows["lookup_curve"]["parameters"]["blobs"]
        lines = [("haul, 64 per frame, TLS", "haul", "lookups_per_server_cpu_s", 1),
                 ("redis GET, pipeline 64, plaintext", "redis", "per_server_cpu_s", 1)]
        largest = largest_set(rows.get("lookup"), "blobs", "uniform")
        curves = curve("Lookups of random blobs", "blobs", "lookups per server CPU-second", row, sizes, lines, largest)
        chart(curves, os.path.join(docs, "index", "lookups.svg"))
        text.append("![Lookups against the number of blobs](index/lookups.svg)")
    return "## Curves\n\n" + "\n\n".join(text) if text else ""


def largest_set(row, parameter, case):
    """The largest set is measured by the row that is about it: (row, size, case)."""
    return (raw.Row(row), row["parameters"][parameter], case) if row else None


def curve(title, x_label, y_label, row, sizes, lines, largest):
    """As `haul bench curves` reads it."""
    drawn = []
    for label, program, figure, scale in lines:
        points = [(size, row.median(program, str(size), figure)) for size in sizes]
        if largest:
            points.append((largest[1], largest[0].median(program, largest[2], figure)))
        points = [[size, value * scale] for size, value in points if value]
        if points:
            drawn.append({"name": label, "points": points})
    return {"title": title, "x_label": x_label, "y_label": y_label, "lines": drawn}


def method():
    """How it was measured."""
    return """## Method

- The server runs on core 0, its client on core 1 (`taskset`); rounds of all programs follow each other in turn, and
  tables show medians with quartiles. CPU time is that of the server's threads (/proc/PID/task/*/schedstat). Where the
  client's core was saturated, the remarks say so: the rate by the clock is then the client's, the rate by the server's
  CPU-second still the server's.
- **Lookup**: made-up names, 1.5 providers of a blob on average, up to ten; 64 random blobs in a frame, 32 frames on each
  of 4 connections. Size, number of providers and every provider of every answer are checked. redis: GET of as many keys
  of 32 bytes, values as long as haul's answer for one blob, `redis-benchmark -c 50 -P 64`, no misses allowed, nothing
  durable. aquatic_udp: its own load test, 100 announces for each connect, ten peers wanted, a million info-hashes at most;
  only announces count.
- **One in flight**: the null server has haul's framing and TLS and answers without looking; echo.c is epoll and OpenSSL
  (TLS 1.3, AES-128-GCM) with a client of its own, because it knows no raw keys. redis-benchmark drives redis.
- **Registration**: Debian's paths, 1,000 peers, 1.5 providers, three groups, all pages made before the clock starts. haul's
  acknowledgement means durable (fdatasync) and searchable, checked by another connection at once. redis: an HSET of size
  and blob for each entry, an SADD of the peer to the blob's set, `redis-cli --pipe`, AOF synced every second; it cannot
  search. SQLite: WAL, synchronous=FULL, a transaction for each peer, an index on the blob and FTS5 trigrams, through
  Python's module. `settled` is until the server is quiet: merges count.
- **Search**: queries are cut from the real names with a fixed seed, one in flight; answers of the first round are compared
  with a scan of all names. Churn: 1% of the peers leave without a word and return in every second. plocate: a process for
  each query, output thrown away, times with and less the start of a process that finds nothing. Its counts are compared
  among names in ASCII: it folds no accents, so that `bokmal` finds `bokmål` with haul only. FTS5: in process, with path,
  size and blob of each hit; ranked is ORDER BY rank over all hits.
- **Memory**: everything is registered, then each peer deletes its share and registers it again with other contents, ten
  times. Anonymous memory of /proc/PID/smaps_rollup, read every 100 ms; steady is when the server is quiet after the last
  turnover. redis holds the facts of the registration row, without its append-only file.
- **Restart**: peers are online; others register, and what is acknowledged is written down; kill -9; start on the same
  state. 1,000 sampled entries are looked up and searched again and again from the first moment that the index takes a
  connection; exact from = the beginning of the first pass without an incomplete answer. Then every peer offers what was
  acknowledged: the index has that or something newer. Times count from the start of the process.
- **Lookups beside a registration** are sent at times fixed beforehand (Poisson), and latency counts from these times.
- Three rounds are the standard run. `--long` takes nine, and SQLite in each: narrower quartiles, nothing else.
"""
