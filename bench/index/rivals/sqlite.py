"""SQLite: a table of entries with an index on the blob, and an FTS5 index of trigrams over names. Runs as a process of
its own (`python3 sqlite.py build|search …`), so that its CPU time is its own."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time

TABLES = """
CREATE TABLE entry (id INTEGER PRIMARY KEY, peer INTEGER, path TEXT, size INTEGER, blob BLOB);
CREATE INDEX entry_blob ON entry (blob);
CREATE VIRTUAL TABLE names USING fts5 (name, content='', tokenize='trigram');
"""
# What FTS5 answers: trigrams need three letters.
CLASSES = ("rare", "medium", "common", "no_hit", "two_terms", "three_terms")
RANKED = " ORDER BY rank"


def version():
    """Its version."""
    return sqlite3.sqlite_version


def open_at(path):
    """As a careful user sets it: write-ahead log, synced at every commit."""
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("PRAGMA cache_size=-262144")
    return base


def build(path, lines):
    """One transaction for each peer, as the peers commit; `lines` are those of `haul bench names`, by peer. Returns
    figures."""
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.remove(path + suffix)
    base = open_at(path)
    base.executescript(TABLES)
    begun, cpu, count = time.monotonic(), time.process_time(), 0
    for rows in by_peer(lines):
        base.execute("BEGIN")
        entries = ((count + n, *row) for n, row in enumerate(rows))
        base.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", entries)
        names = ((count + n, row[1].rsplit("/", 1)[-1]) for n, row in enumerate(rows))
        base.executemany("INSERT INTO names (rowid, name) VALUES (?, ?)", names)
        base.execute("COMMIT")
        count += len(rows)
    return {
        "operations": count,
        "wall_s": time.monotonic() - begun,
        "server_cpu_s": time.process_time() - cpu,
        "per_server_cpu_s": count / max(1e-9, time.process_time() - cpu),
        "per_s": count / (time.monotonic() - begun),
        "file_bytes": os.path.getsize(path),
    }


def by_peer(lines):
    """Rows of one peer after the other."""
    rows, last = [], None
    for line in lines:
        peer, blob, size, path = line.rstrip("\n").split("\t", 3)
        if peer != last and rows:
            yield rows
            rows = []
        last = peer
        rows.append((int(peer), path, int(size), bytes.fromhex(blob[3:])))
    if rows:
        yield rows


def search(path, queries, rounds):
    """Seconds of each query by class, unranked and ranked, with the hits' paths, sizes and blobs."""
    base = open_at(path)
    times = {}
    for _ in range(rounds):
        for kind, order in (("unranked", ""), ("ranked", RANKED)):
            hits = f"SELECT rowid FROM names WHERE name MATCH ?{order} LIMIT 100"
            text = f"SELECT path, size, blob FROM entry WHERE id IN ({hits})"
            for label, words in queries:
                match = " AND ".join(f'"{word}"' for word in words)
                begun = time.perf_counter()
                base.execute(text, (match,)).fetchall()
                times.setdefault(f"{kind} {label}", []).append(time.perf_counter() - begun)
    return times


def read_queries(path):
    """Those of `haul bench search --queries-out` that FTS5 can answer."""
    queries = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            label, words, extra = line.rstrip("\n").split("\t")
            if label in CLASSES and not extra and all(len(word) >= 3 for word in words.split()):
                queries.append((label, words.split()))
    return queries


def run(core, *words):
    """Runs this file as a process on a core; returns what it printed."""
    from common import machine

    command = machine.pinned(core, [sys.executable, os.path.abspath(__file__), *map(str, words)])
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(words):
    """`build BASE LINES` or `search BASE QUERIES ROUNDS`."""
    if words[0] == "build":
        with open(words[2], encoding="utf-8", errors="surrogateescape") as lines:
            clean = (line for line in lines if not re.search("[\udc80-\udcff]", line))
            print(json.dumps(build(words[1], clean)))
    else:
        print(json.dumps(search(words[1], read_queries(words[2]), int(words[3]))))


if __name__ == "__main__":
    main(sys.argv[1:])
