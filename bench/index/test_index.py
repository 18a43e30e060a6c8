"""Tests of the pure parts: python3 -m unittest discover bench/index. Nothing is measured."""

import io
import json
import os
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import goals
import report
import setup
from common import raw
from haul import Population
from rivals import aquatic, redis, sqlite


def latency(p50, p99=None):
    """A latency as haul prints it."""
    p99 = p99 or 2 * p50
    return {"count": 10, "p50_us": p50, "p99_us": p99, "mean_us": p50, "p999_us": p99, "max_us": p99, "buckets": [[1, 10]]}


def rows():
    """Raw data of two rows, written and read again."""
    lookup = [raw.run("haul", "uniform", n, {"figures": {"lookups_per_server_cpu_s": 8e6 + n}}) for n in range(3)]
    lookup += [raw.run("redis", "uniform", n, {"per_server_cpu_s": 6e5}) for n in range(3)]
    churn = {"figures": {"queries_steal_share": 0.5}, "latencies": {"server_all": latency(60, 9_000)}}
    search = [
        raw.run("haul", "churn", 0, churn),
        raw.run("haul", "calm", 0, {"figures": {}, "latencies": {}, "texts": {"rare": ["name:abc"]}, "remarks": ["odd"]}),
        raw.run("plocate", "calm", 0, {"figures": {"start_s": 0.001}, "samples": {"rare": [0.004] * 100}}),
    ]
    with tempfile.TemporaryDirectory() as directory:
        for name, runs in (("lookup", lookup), ("search", search)):
            raw.write(directory, {"row": name, "runs": runs, "parameters": {"blobs": 10}, "versions": {"haul": "abc"}})
        return raw.read_all(directory)


class RawTest(unittest.TestCase):
    def test_medians_and_quartiles_survive_the_file(self):
        row = raw.Row(rows()["lookup"])
        self.assertEqual(row.median("haul", "uniform", "lookups_per_server_cpu_s"), 8e6 + 1)
        self.assertEqual(row.spread("haul", "uniform", "lookups_per_server_cpu_s"), (8e6 + 0.5, 8e6 + 1, 8e6 + 1.5))
        self.assertIsNone(row.median("haul", "hot", "lookups_per_server_cpu_s"))

    def test_long_lists_and_histograms_leave_the_json(self):
        row = rows()["search"]
        self.assertNotIn("buckets", json.dumps(row))
        self.assertEqual(raw.Row(row).median("plocate", "calm", "samples:rare"), 0.004)
        self.assertEqual(raw.Row(row).median("haul", "churn", "server_all.p99_us"), 9_000)

    def test_numbers_are_short(self):
        shown = [raw.number(value) for value in (8_250_000, 12_345, 640, 3, 0.25, 0.0123, None)]
        self.assertEqual(shown, ["8.25 M", "12.3 k", "640", "3", "0.25", "0.0123", "–"])


class CurveTest(unittest.TestCase):
    def test_the_largest_set_comes_from_its_own_row(self):
        found = rows()
        one = raw.run("haul", "5", 0, {"figures": {"lookups_per_server_cpu_s": 9e6}})
        found["lookup_curve"] = {"row": "lookup_curve", "parameters": {"blobs": [5]}, "runs": [one]}
        drawn = []
        report.draw("docs", found, lambda curves, target: drawn.append(curves))
        self.assertEqual(drawn[0]["lines"][0]["points"], [[5, 9e6], [10, 8e6 + 1]])


class GoalTest(unittest.TestCase):
    def test_reached_missed_and_not_measured(self):
        found = {(goal.work, goal.goal): goal.result(rows()) for goal in goals.GOALS}
        first = found["lookup by hash, 64 per frame, per server CPU-second", "10 x redis GET at pipeline 64, plaintext"]
        self.assertEqual(first, ("13.33 x", True))
        self.assertEqual(found["the same", "p99 4 ms"], ("9 ms", False))
        self.assertIsNone(found["10,000 idle peers, memory of each", "16 KiB"][1])

    def test_every_goal_names_a_row_of_the_runner(self):
        import run

        self.assertLessEqual({goal.row for goal in goals.GOALS}, set(run.ROWS))


class ReportTest(unittest.TestCase):
    def test_the_page_names_every_goal_and_asks_for_causes(self):
        with tempfile.TemporaryDirectory() as docs:
            os.makedirs(os.path.join(docs, "index"))
            report.write(docs, rows(), os.path.join(docs, "notes.toml"), lambda curves, target: None)
            with open(os.path.join(docs, "index.md"), encoding="utf-8") as file:
                text = file.read()
        for goal in goals.GOALS:
            self.assertIn(f"| {goal.work} | {goal.goal} |", text)
        self.assertIn("**search**: not examined yet.", text)
        self.assertIn("50% of the machine's time was stolen", text)
        self.assertIn("`name:abc`", text)


class RivalTest(unittest.TestCase):
    def test_redis_commands(self):
        self.assertEqual(redis.request("GET", "ab"), b"*2\r\n$3\r\nGET\r\n$2\r\nab\r\n")
        command = redis.entry_commands(b"7", bytes(32), b"12", b"a/b")
        self.assertTrue(command.startswith(b"*6\r\n$4\r\nHSET\r\n$7\r\ne:7:a/b\r\n$1\r\ns\r\n$2\r\n12\r\n"))
        self.assertTrue(command.endswith(b"$34\r\nb:" + bytes(32) + b"\r\n$1\r\n7\r\n"))
        self.assertEqual(redis.read_answer(io.BytesIO(b"$2\r\nhi\r\n")), "hi")
        self.assertEqual(len(redis.KEY_PREFIX), 20)

    def test_announces_are_counted_from_the_report(self):
        text = "Test ran for 5 seconds\nAverage responses per second: 9.0\n  - Announce responses: 200.50\n"
        self.assertEqual(aquatic.answers(text), 1002.5)

    def test_sqlite_builds_and_finds(self):
        blob = "b3:" + "ab" * 32
        lines = [f"0\t{blob}\t5\tusr/lib/python.so\n", f"0\t{blob}\t5\tetc/other\n", f"1\t{blob}\t5\tpyth/x\n"]
        with tempfile.TemporaryDirectory() as directory:
            base, queries = os.path.join(directory, "base"), os.path.join(directory, "queries")
            self.assertEqual(sqlite.build(base, lines)["operations"], 3)
            with open(queries, "w", encoding="utf-8") as file:
                file.write("rare\tpython\t\ntwo_letters\tpy\t\nfiltered\tpython\text:so\ntwo_terms\tpyth hon\t\n")
            asked = sqlite.read_queries(queries)
            self.assertEqual(asked, [("rare", ["python"]), ("two_terms", ["pyth", "hon"])])
            times = sqlite.search(base, asked, 1)
            self.assertEqual(sorted(times), ["ranked rare", "ranked two_terms", "unranked rare", "unranked two_terms"])


class SetupTest(unittest.TestCase):
    def test_paths_of_contents_lists(self):
        self.assertEqual(setup.contents_path(b"usr/bin/a  b    utils/x,admin/y\n"), b"usr/bin/a  b")
        self.assertEqual(setup.contents_path(b"\n"), b"")

    def test_populations_become_arguments(self):
        words = Population(10, 20, paths=__file__, states="not there yet").other(seed=4).arguments()
        self.assertEqual(words[words.index("--seed") + 1], 4)
        self.assertEqual(words[-2:], ["--paths", __file__])


if __name__ == "__main__":
    unittest.main()
