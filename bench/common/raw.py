"""Raw data: what every run found, one file for each row, histograms beside it."""

import csv
import gzip
import io
import json
import os
import statistics

# Longer lists go into the compressed file.
SAMPLES_INLINE = 64
PERCENTILES = ("p50_us", "p99_us", "p999_us", "max_us", "mean_us")


def run(program, case, number, found):
    """One run. `found` is what a load tool printed, or figures alone."""
    if "figures" not in found and "samples" not in found:
        found = {"figures": found}
    one = {"program": program, "case": case, "round": number, "figures": found.get("figures", {})}
    for key in ("parameters", "latencies", "samples", "texts", "remarks"):
        if found.get(key):
            one[key] = found[key]
    return one


def write(directory, found):
    """Writes ROW.json, and ROW.csv.gz with histograms and long lists if there are any."""
    lines = []
    slim = {**found, "runs": [without_lists(one, lines) for one in found["runs"]]}
    path = os.path.join(directory, found["row"])
    with open(path + ".json", "w", encoding="utf-8") as file:
        json.dump(slim, file, indent=1, sort_keys=True)
        file.write("\n")
    packed_path = path + ".csv.gz"
    if not lines:
        if os.path.exists(packed_path):
            os.remove(packed_path)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["program", "case", "round", "list", "value", "count"])
    writer.writerows(lines)
    with open(packed_path, "wb") as file, gzip.GzipFile("", "wb", 9, file, 0) as packed:
        packed.write(text.getvalue().encode("utf-8"))


def without_lists(one, lines):
    """A run without its long lists, which are added to `lines`."""
    place = [one["program"], one["case"], one["round"]]
    slim = {**one, "latencies": {}, "samples": {}}
    for name, latency in one.get("latencies", {}).items():
        slim["latencies"][name] = {key: value for key, value in latency.items() if key != "buckets"}
        lines += [[*place, f"{name} (ns)", low, count] for low, count in latency.get("buckets", [])]
    for name, values in one.get("samples", {}).items():
        if len(values) <= SAMPLES_INLINE:
            slim["samples"][name] = values
        else:
            slim["samples"][name] = summary(values)
            lines += [[*place, name, value, 1] for value in values]
    return {key: value for key, value in slim.items() if key == "figures" or value not in ({}, [])}


def summary(values):
    """Count, median and 99th percentile of a long list."""
    ordered = sorted(values)
    return {"count": len(ordered), "p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99)}


def percentile(ordered, share):
    """Nearest rank."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * int(share * 1000) // 1000) - 1)]


def read_all(directory):
    """Rows by name."""
    rows = {}
    for name in sorted(os.listdir(directory)):
        if name.endswith(".json"):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                row = json.load(file)
            rows[row["row"]] = row
    return rows


class Row:
    """The runs of one row, asked for by program and case."""

    def __init__(self, row):
        self.row = row or {"runs": []}

    def runs(self, program, case=None):
        """In the order of the rounds."""
        return [r for r in self.row["runs"] if r["program"] == program and case in (None, r["case"])]

    def values(self, program, case, name):
        """A figure in all rounds; `latency.p50_us` for a latency, `samples:list` for the median of a list."""
        found = []
        for one in self.runs(program, case):
            if name.startswith("samples:"):
                values = one.get("samples", {}).get(name[8:])
                value = values["p50"] if isinstance(values, dict) else statistics.median(values) if values else None
            elif "." in name:
                latency, key = name.rsplit(".", 1)
                value = one.get("latencies", {}).get(latency, {}).get(key)
            else:
                value = one["figures"].get(name)
            if value is not None:
                found.append(value)
        return found

    def median(self, program, case, name):
        """Over the rounds; None if it was not measured."""
        values = self.values(program, case, name)
        return statistics.median(values) if values else None

    def spread(self, program, case, name):
        """(lower quartile, median, upper quartile)."""
        values = sorted(self.values(program, case, name))
        if not values:
            return None
        if len(values) < 2:
            return values[0], values[0], values[0]
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return low, middle, high


def short(figures):
    """Figures on one line."""
    return "  ".join(f"{name} {number(value)}" for name, value in figures.items() if value is not None)


def number(value):
    """A figure as people read it."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.2f} M"
    if size >= 1e4:
        return f"{value / 1e3:.1f} k"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"
