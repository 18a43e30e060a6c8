"""Rows of searches by name."""

import statistics

from common import machine
from haul import Haul
from rivals import sqlite
from rivals.plocate import Plocate


def search(bench):
    """The same queries, cut from the names, for haul, plocate and FTS5."""
    everything, index = bench.main_index()
    queries = bench.data("queries.tsv")
    size = bench.size
    words = ("--per-class", size.queries_per_class, "--rounds", size.search_rounds)
    runs = []
    plocate = build_plocate(bench, everything)
    base = build_sqlite(bench, everything)
    with Haul(bench.binary, bench.state("null"), role="null", ticket=index.ticket) as null:
        for number in range(bench.rounds):
            unchecked = ("--unchecked",) if number else ()
            found = index.tool("search", everything, *words, "--queries-out", queries, "--with-peers", *unchecked)
            runs.append(bench.run("haul", "calm", number, found))
            found = null.tool("search", everything, *words, "--null", null.null())
            runs.append(bench.run("null", "calm", number, found))
            runs.append(bench.run("plocate", "calm", number, plocate_times(plocate, queries)))
            times = sqlite.run(machine.SERVER_CORE, "search", base, queries, 1)
            runs.append(bench.run("sqlite", "calm", number, {"samples": times}))
            found = index.tool("search", everything, *words, "--churn", 1, *unchecked)
            runs.append(bench.run("haul", "churn", number, found))
        found = index.tool("search", everything, *words, "--with-peers", "--anywhere", "--unchecked")
        runs.append(bench.run("haul", "anywhere", 0, found))
    runs.append(bench.run("plocate", "same_answers", 0, same_answers(plocate, queries, runs[0])))
    return {"runs": runs, "parameters": {"names": everything.peers * everything.files_per_peer}}


def search_curve(bench):
    """Search latency against the number of names."""
    runs = []
    size = bench.size
    words = ("--per-class", size.queries_per_class, "--rounds", size.search_rounds)
    for names in size.name_curve:
        everything = bench.names(count=names)
        queries = bench.data("queries-curve.tsv")
        plocate = build_plocate(bench, everything)
        with Haul(bench.binary, bench.state("curve")) as index:
            index.register(everything, "--checks", 100)
            for number in range(bench.rounds):
                found = index.tool("search", everything, *words, "--unchecked", "--queries-out", queries)
                runs.append(bench.run("haul", str(names), number, found))
                runs.append(bench.run("plocate", str(names), number, plocate_times(plocate, queries)))
    return {"runs": runs, "parameters": {"names": size.name_curve}}


def count(bench):
    """The exact number of files with a common word."""
    everything, index = bench.main_index()
    plocate = build_plocate(bench, everything)
    runs = []
    for number in range(bench.rounds):
        found = index.tool("count", everything, "--near", bench.size.counted, "--with-peers")
        runs.append(bench.run("haul", "count", number, found))
        word = found["parameters"]["word"]
        start = plocate.start_seconds()
        times = [plocate.ask([word], "-c") - start for _ in range(10)]
        figures = {"counted": plocate.count([word]), "p50_s": statistics.median(times), "start_s": start}
        runs.append(bench.run("plocate", "count", number, {"figures": figures, "samples": {"seconds": times}}))
    return {"runs": runs, "parameters": {"word": word}}


def build_plocate(bench, everything):
    """plocate's index over the same names, one line for each file."""
    plain = bench.data("plain.txt")
    bench.write_names(everything, plain, "--plain")
    plocate = Plocate(bench.data("plocate"))
    plocate.build(plain)
    return plocate


def build_sqlite(bench, everything):
    """FTS5 over the same names."""
    lines, base = bench.data("search.tsv"), bench.data("search.sqlite")
    bench.write_names(everything, lines)
    sqlite.run(machine.SERVER_CORE, "build", base, lines)
    bench.remove("search.tsv")
    return base


def read_queries(path):
    """(class, words, filter) of each query."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            label, words, extra = line.rstrip("\n").split("\t")
            yield label, words.split(), extra


def plocate_times(plocate, queries):
    """Seconds of each query that plocate understands, by class, with the start of its process and less it."""
    start = plocate.start_seconds()
    samples = {}
    for label, words, extra in read_queries(queries):
        if not extra:
            samples.setdefault(label, []).append(plocate.ask(words, "-l", "100"))
    return {"figures": {"start_s": start}, "samples": samples}


def same_answers(plocate, queries, first):
    """How many queries plocate and the scan of all names count alike, among names in ASCII."""
    known = first["samples"]
    place, same, compared = {}, 0, 0
    for label, words, extra in read_queries(queries):
        number = place[label] = place.get(label, -1) + 1
        counts = known.get(f"matching_ascii_files_{label}", [])
        if extra or number >= len(counts):
            continue
        compared += 1
        same += plocate.count_ascii(words) == counts[number]
    return {"figures": {"compared": compared, "same": same}}

