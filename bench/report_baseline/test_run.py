"""python3 -m unittest discover bench/report_baseline"""

import unittest

import mix
import run
from unittest import mock


class Percentiles(unittest.TestCase):
    def test_nearest_rank(self):
        ordered = list(range(1, 1001))
        self.assertEqual([run.percentile(ordered, f) for f in (0, 0.5, 0.99, 0.999, 1)], [1, 500, 990, 999, 1000])
        self.assertEqual(run.percentile([7], 0.999), 7)


class Mix(unittest.TestCase):
    def test_the_names_are_those_of_haul_bench(self):
        self.assertEqual(mix.file_name("r0", 2, 17), "holiday-budget_r0.p2.017.jpg")
        self.assertEqual(mix.file_name("r0", 2, 20), mix.file_name("r0", 1, 20))
        self.assertEqual(mix.search("r0", 1, 3, 1)[0], "_r0.p2.03")
        self.assertEqual(mix.lookup("r0", 1, 3, 4), ("holiday-draft_r0.all.052.jpg", {1, 2, 3}))

    def test_every_search_finds_something(self):
        self.assertTrue(all(mix.search("r0", 1, 3, number)[1] for number in range(mix.SEARCHES)))


class Level(unittest.TestCase):
    def test_two_peers_with_several_in_flight(self):
        with mock.patch.dict(run.OPERATIONS, {"search": 40, "lookup": 40}):
            rows, samples = run.run_level(2, 4, 0)
        self.assertEqual([(row["operation"], row["count"]) for row in rows],
                         [("register", 400), ("search", 80), ("lookup", 80)])
        self.assertTrue(all(0 < row["p50_us"] <= row["p99_us"] for row in rows))
        self.assertEqual(len(samples), 6)

    def test_a_wrong_answer_stops_the_run(self):
        with mock.patch.object(mix, "lookup", lambda *_: (mix.file_name("r0", 1, 1), {9})):
            with self.assertRaisesRegex(run.Failure, "lookup 0 of peer 1"):
                run.run_level(1, 1, 0)


if __name__ == "__main__":
    unittest.main()
