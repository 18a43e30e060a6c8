"""Tests of the pure parts: python3 -m unittest discover bench/transfer. Nothing is measured."""

import os
import sys
import tempfile
import unittest
from typing import Any
from xml.etree import ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import bounds
import content
import cost
import faults
import goals
import links
import plots
import report
import swarms
from common import raw
from rivals import floor, rqbit, sendme
from rows import churn, providers, share, sources, swarm, turns


def costs(wall: float, cpu: float, size: float = 1e9) -> dict[str, Any]:
    """Figures of a run."""
    return {"wall_s": wall, "cpu_s": cpu, "mb_per_s": size / wall / 1e6, "mb_per_cpu_s": size / cpu / 1e6,
            "files_per_s": 1 / wall, "files_per_cpu_s": 1 / cpu, "others_share": 0.0, "steal_share": 0.0}


def rows() -> dict[str, Any]:
    """Raw data of some rows, written and read again."""
    walls = {"haul": (2, 3), "nginx": (2, 1), "nginx_tls": (4, 3), "sendme": (20, 24), "rqbit": (5, 5)}
    runs = [raw.run(name, "tmpfs", n, costs(wall + n, cpu)) for name, (wall, cpu) in walls.items() for n in range(3)]
    runs.append(raw.run("floor", "tmpfs", 0, {f"{step}_mb_per_cpu_s": 600.0 for step in report.LIMITS}))
    shaped = [raw.run("haul", "1000 Mbit/s", 0, {**costs(9, 1), "mbit_per_s": 930}),
              raw.run("iperf3", "1000 Mbit/s", 0, {"mbit_per_s": 940})]
    sizes = [raw.run("haul", "5", 0, costs(1, 1, 5))]
    remarked = [raw.run("haul", "again", 0, {"figures": costs(0.2, 0.1), "remarks": ["odd"]}),
                raw.run("floor", "again", 0, costs(0.1, 0.1))]
    with tempfile.TemporaryDirectory() as directory:
        for name, found in (("one_to_one", runs), ("shaped", shaped), ("sizes", sizes), ("share", remarked)):
            what = {"bytes": [5]} if name == "sizes" else {"bytes": 10}
            raw.write(directory, {"row": name, "runs": found, "parameters": what, "versions": {"haul": "abc"}})
        return raw.read_all(directory)


class ContentTest(unittest.TestCase):
    def test_a_tree_is_the_same_again_and_has_the_sizes_of_real_ones(self):
        tree = content.plan_tree(20_000)
        self.assertEqual(tree, content.plan_tree(20_000))
        self.assertEqual(len(tree.files), 20_000)
        self.assertEqual(len({path for path, _ in tree.files}), 20_000)
        self.assertEqual(len(set(tree.folders)), 20_000 // content.FILES_PER_FOLDER)
        self.assertEqual({os.path.dirname(path) for path, _ in tree.files}, set(tree.folders))
        self.assertTrue(11_000 < tree.bytes() / 20_000 < 15_000)
        large = sum(size > 65_536 for _, size in tree.files)
        self.assertTrue(0.02 < large / 20_000 < 0.05)
        self.assertTrue(max(folder.count("/") for folder in tree.folders) < content.DEPTH)

    def test_a_tree_is_written_as_planned(self):
        tree = content.plan_tree(60)
        with tempfile.TemporaryDirectory() as place:
            root, listed = os.path.join(place, "tree"), os.path.join(place, "list")
            content.write_tree(tree, root)
            self.assertEqual(content.measure_tree(root), (60, tree.bytes()))
            path, size = tree.files[7]
            self.assertEqual(os.path.getsize(os.path.join(root, path)), size)
            content.write_list(tree, listed)
            with open(listed, encoding="utf-8") as file:
                lines = [line.rstrip("\n").split("\t") for line in file]
        made = {path for size, path in lines if size == "-1"}
        self.assertEqual(len(lines), 60 + len(made))
        self.assertTrue(all(os.path.dirname(path) in made for size, path in lines if size != "-1"))

    def test_bytes_of_a_file_are_the_same_again(self):
        with tempfile.TemporaryDirectory() as place:
            one, other = os.path.join(place, "a"), os.path.join(place, "b")
            content.write_file(one, 3_000_000)
            content.write_file(other, 3_000_000)
            with open(one, "rb") as first, open(other, "rb") as second:
                bytes_of_one = first.read()
                self.assertEqual(bytes_of_one, second.read())
        self.assertEqual(len(bytes_of_one), 3_000_000)
        self.assertGreater(len(set(bytes_of_one)), 250)


class CostTest(unittest.TestCase):
    def test_lines_of_proc(self):
        line = "12 (a) b) S 7 1 1 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0"
        self.assertEqual(cost.stat_fields(line), (7, 127))

    def test_descendants(self):
        self.assertEqual(cost.with_descendants([2], {2: 1, 3: 2, 4: 3, 5: 1}), {2, 3, 4})

    def test_a_child_that_works_is_counted(self):
        with cost.Cost() as found:
            turns.run("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        figures = found.figures(1_000_000, 2)
        self.assertGreater(figures["cpu_s"], 0)
        self.assertAlmostEqual(figures["files_per_s"] * figures["wall_s"], 2)


class GoalTest(unittest.TestCase):
    def test_reached_missed_and_not_measured(self):
        found = [(goal.row, goal.goal, *goal.result(rows())) for goal in goals.GOALS]
        self.assertIn(("one_to_one", "6 x sendme", "8.00 x", True), found)
        self.assertIn(("one_to_one", "2 x rqbit", "1.67 x", False), found)
        self.assertIn(("one_to_one", "1.2 x nginx with TLS, curl, b3sum", "1.00 x", False), found)
        self.assertIn(("one_to_one", "1 x the time of curl from nginx, plaintext and unverified", "1.00 x", True), found)
        self.assertIn(("share", "1.2 x the time of a walk that only stats", "2.00 x", False), found)
        self.assertIn(("shaped", "0.98 x the TCP payload rate of iperf3", "0.989 x, 930 of 940 Mbit/s", True), found)
        self.assertIn(("small_files", "10 x sendme", "not measured", None), found)

    def test_every_goal_names_a_row_of_the_runner(self):
        import run

        self.assertLessEqual({goal.row for goal in goals.GOALS}, set(run.ROWS))


class ReportTest(unittest.TestCase):
    def test_the_page_names_every_goal_asks_for_causes_and_draws(self):
        drawn = []
        with tempfile.TemporaryDirectory() as docs:
            os.makedirs(os.path.join(docs, "transfer"))
            report.write(docs, rows(), os.path.join(docs, "notes.toml"), lambda curves, target: drawn.append(curves))
            with open(os.path.join(docs, "transfer.md"), encoding="utf-8") as file:
                text = file.read()
        for goal in goals.GOALS:
            self.assertIn(f"| {goal.work} | {goal.goal} |", text)
        self.assertIn("**one_to_one**: not examined yet.", text)
        self.assertIn("| tmpfs | nginx_tls | 5 | 3 | 200 | 333 |", text)
        self.assertIn("haul reaches 0.56 of the chain.", text)
        self.assertIn("share, haul again, round 0: odd", text)
        self.assertEqual([line["name"] for line in drawn[0]["lines"]][0], "haul")


class RivalTest(unittest.TestCase):
    def test_tickets_of_sendme(self):
        self.assertEqual(sendme.find_ticket("  sendme receive blobabc123 \n"), "blobabc123")
        self.assertIsNone(sendme.find_ticket("imported file"))

    def test_torrents(self):
        self.assertEqual(rqbit.encode({"b": 3, "a": b"xy", "c": {}}), b"d1:a2:xy1:bi3e1:cdee")
        with tempfile.TemporaryDirectory() as place:
            path = os.path.join(place, "x")
            content.write_file(path, rqbit.PIECE_BYTES + 1)
            made = rqbit.torrent(path)
        self.assertIn(b"6:lengthi4194305e4:name1:x12:piece lengthi4194304e6:pieces40:", made)

    def test_rates_of_openssl(self):
        text = "+DT:AES-128-GCM:1:16384\n+R:395811:AES-128-GCM:1.000000\n+H:16384\n+F:22:AES-128-GCM:6484967424.00\n"
        self.assertAlmostEqual(floor.aead_rate(text), 6484.967424)

    def test_medians_of_looks(self):
        self.assertEqual(share.middle([{"wall_s": 3.0}, {"wall_s": 1.0}, {"wall_s": 2.0}]), {"wall_s": 2.0})


class SourcesTest(unittest.TestCase):
    def test_the_shortest_possible_time(self):
        size = 500_000_000
        self.assertAlmostEqual(sources.limit("clean", size, 1.0), 8.0)
        # 560 Mbit/s are left without the one that dies: the sink's link still decides.
        self.assertAlmostEqual(sources.limit("one dies", size, 1.0), 8.0)
        self.assertAlmostEqual(sources.limit("clean", size, 0.5), 16.0)
        self.assertAlmostEqual(sources.best_seconds(size, 1.0, lost=260, at=0.5), 4 + 5)

    def test_counters_of_a_link(self):
        text = "Inter-|   Receive\n face |bytes\n    lo:  12 1 0\n  link: 345 6 0\n"
        self.assertEqual(faults.received_in(text, "link"), 345)


class LinksTest(unittest.TestCase):
    def test_buckets_are_small_and_hold_a_packet(self):
        self.assertEqual(links.bucket(1000), ["rate", "1000000kbit", "burst", "125000", "limit", "2625000"])
        self.assertEqual(links.bucket(10)[3:4], ["66000"])


class BoundsTest(unittest.TestCase):
    def test_the_fluid_bound_is_the_worst_of_its_three_parts(self):
        ends = [bounds.End(50, 100)] * 4
        self.assertAlmostEqual(bounds.fluid(50_000_000, bounds.End(40), ends), 10)
        self.assertAlmostEqual(bounds.fluid(50_000_000, bounds.End(400), [*ends, bounds.End(50, 20)]), 20)
        self.assertAlmostEqual(bounds.fluid(50_000_000, bounds.End(40), [bounds.End(10)] * 4), 20)
        self.assertAlmostEqual(bounds.by_seed_alone(50_000_000, bounds.End(40), 4), 40)
        self.assertAlmostEqual(bounds.chain(50_000_000, [bounds.End(40), bounds.End(80, 100), bounds.End(1, 100)]), 10)

    def test_in_stages_it_is_the_same_while_nobody_comes_or_goes(self):
        for seed, ends in ((bounds.End(40), [bounds.End(50, 100)] * 4), (bounds.End(200), [bounds.End(10, 100)] * 3)):
            whole = bounds.fluid(20_000_000, seed, ends)
            self.assertAlmostEqual(bounds.staged(20_000_000, seed, ends), whole, delta=3 * bounds.STEP)

    def test_who_comes_late_and_who_goes_make_it_longer(self):
        size, seed, end = 20_000_000, bounds.End(80), bounds.End(80, 80)
        still = bounds.staged(size, seed, [end] * 3)
        self.assertAlmostEqual(bounds.staged(size, seed, [end, end, end._replace(joins=4)]), 6, delta=0.1)
        poor = [bounds.End(20, 80)] * 3
        leaver = [*poor[:2], poor[2]._replace(up=80, leaves_at=0.5)]
        self.assertGreater(bounds.staged(size, seed, leaver), bounds.staged(size, seed, [*poor[:2], bounds.End(80, 80)]))
        self.assertGreaterEqual(bounds.staged(size, seed._replace(leaves_after=1.05), [end] * 3), still)


class SwarmTest(unittest.TestCase):
    def test_counters_are_read_as_the_kernel_writes_them(self):
        dev = ("Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n"
               "   far: 11 1 0 0 0 0 0 0 2222 3 0 0 0 0 0 0\n")
        self.assertEqual(swarms.sent_in(dev, "far"), 2222)
        with self.assertRaises(ValueError):
            swarms.sent_in(dev, "near")
        snmp = "Ip: A\nIp: 1\nTcp: InSegs OutSegs RetransSegs\nTcp: 7 200 30\n"
        self.assertEqual(swarms.segments_in(snmp), (200, 30))
        self.assertEqual(swarms.repeated((100, 5), (200, 30)), 0.25)
        self.assertEqual(swarms.repeated((100, 5), (100, 5)), 0)

    def test_fetches_run_side_by_side_and_one_that_fails_does_not_hide_the_others(self):
        def fails():
            raise RuntimeError("no")

        good = {"from": [{"peer": "a", "bytes": 3}, {"peer": "b", "bytes": 4}]}
        gots = swarms.together([lambda: good, fails, lambda: {"from": [{"peer": "b", "bytes": 1}]}], [0, 0, 0.01])
        self.assertEqual([str(got.error) for got in gots], ["None", "no", "None"])
        self.assertEqual(swarms.given(gots), {"a": 3, "b": 5})
        self.assertGreaterEqual(gots[2].ended, gots[2].seconds)

    def test_more_providers_carry_more_until_the_sink_is_full(self):
        self.assertEqual([providers.most(count) for count in (1, 2, 3, 4, 8)], [200, 350, 450, 500, 500])

    def test_the_last_peer_is_held_against_the_bound(self):
        found = swarm.times([10, 11, 12], 12, 10)
        self.assertEqual((found["over_limit"], found["median_over_limit"]), (1.2, 1.1))
        self.assertAlmostEqual(swarm.bound(25_000_000, 16, (40, 40)), 5)
        self.assertAlmostEqual(swarm.bound(25_000_000, 16, (40, 10)), 16 * 25e6 * 8 / 200e6)


class ChurnTest(unittest.TestCase):
    def test_without_acknowledgements_it_is_the_bound_of_its_rates(self):
        size = 25_000_000
        for name, course in churn.COURSES.items():
            seconds = course.limit(size, (50, 50))
            self.assertGreaterEqual(seconds, 3.99 * 50 / course.seed_up, name)
            self.assertGreater(course.limit(size, (50, 45)), seconds * 0.999, name)
        self.assertAlmostEqual(churn.COURSES["swarm_off"].limit(size, (50, 50)), 4, delta=0.05)
        self.assertAlmostEqual(churn.COURSES["swarm_chain"].limit(size, (50, 45)), 4.4, delta=0.1)

    def test_who_leaves_does_not_count(self):
        self.assertEqual(churn.MIXED.stays(), [0, 1, 3, 4, 6, 7])
        self.assertEqual(churn.MIXED.begins(25_000_000)[0], 0)


class PlotsTest(unittest.TestCase):
    def test_marks_are_round_and_reach_beyond_the_highest_value(self):
        for high in (0.7, 1, 7, 48.3, 610):
            marks = plots.steps(high)
            self.assertTrue(marks[0] == 0 and marks[-1] >= high and 4 <= len(marks) - 1 <= 11, marks)
        self.assertEqual([plots.mark(value) for value in (0.25, 50.0, 1000)], ["0.25", "50", "1,000"])

    def test_a_picture_is_whole_and_inside_its_frame(self):
        lines = [plots.Line("a & b", [(1, 5), (8, 40)]), plots.Line("bound", [(1, 4), (8, 30)], bound=True)]
        text = plots.draw("Rate", plots.Axis("providers", [1, 2, 4, 8]), plots.Axis("Mbit/s"), lines)
        root = ElementTree.fromstring(text)
        circles = [one for one in root.iter() if one.tag.endswith("circle")]
        self.assertEqual(len(circles), 2, "a bound has no points")
        for one in circles:
            self.assertTrue(plots.LEFT <= float(one.get("cx")) <= plots.WIDTH - plots.RIGHT)
            self.assertTrue(plots.TOP <= float(one.get("cy")) <= plots.HEIGHT - plots.BOTTOM)
        self.assertIn("prefers-color-scheme:dark", text)


if __name__ == "__main__":
    unittest.main()
