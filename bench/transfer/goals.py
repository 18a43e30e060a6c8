"""The goals of the comparison, each with the figure that decides it."""

from common import raw
from common.goal import Decide, Goal, Rows, Verdict, at_most, ratio, ratio_at_most
from rows.simulated import MEASURED, PROGRAM

PER_CPU = "mb_per_cpu_s"
WALL = "wall_s"
RATE = "mbit_per_s"
FAULTS = ("one dies", "one stalls", "one lies")
SWARM = "all at once"
CLIENTS = ("aria2", "transmission", "qbittorrent")
SYSTEMS = {"tmpfs": "in memory", "disk": "on the disk"}


def times_of(row: str, case: str, rival: str, figure: str, least: float) -> Decide:
    """haul's figure by a rival's, at least so much."""
    return ratio(row, ("haul", case, figure), (rival, case, figure), least)


def wall_at_most(row: str, case: str, rival: str, most: float) -> Decide:
    """haul's time by a rival's, at most so much."""
    return ratio_at_most(row, ("haul", case, WALL), (rival, case, WALL), most)


def faster(row: str, case: str, rival: str, least: float) -> Decide:
    """A rival's time by haul's, at least so much."""
    return ratio(row, (rival, case, WALL), ("haul", case, WALL), least)


def share_of_link(case: str, least: float) -> Decide:
    """Payload rate by that of iperf3."""

    def decide(rows: Rows) -> Verdict:
        row = rows["shaped"]
        ours, link = row.median("haul", case, RATE), row.median("iperf3", case, RATE)
        return f"{ours / link:.3f} x, {raw.number(ours)} of {raw.number(link)} Mbit/s", ours / link >= least

    return decide


def wasted(rows: Rows) -> Verdict:
    """What a fault brings over the link twice, or in vain."""
    row = rows["sources"]
    calm = row.median("haul", "clean", "received_over_size")
    quotient = max(row.median("haul", case, "received_over_size") for case in FAULTS) / calm
    return f"{quotient:.3f} x", quotient <= 1.01


def faster_than_torrents(rows: Rows) -> Verdict:
    """qbittorrent with eight that have the file, by haul; each over the bound of its own run."""
    theirs = rows["sources_qbittorrent"].median("qbittorrent", "clean", "over_limit")
    quotient = theirs / rows["sources"].median("haul", "clean", "over_limit")
    return f"{quotient:.2f} x", quotient >= 1


def one_to_one(system: str) -> list[Goal]:
    """Goals of one large file."""
    row, work = "one_to_one", f"one large file, one to one, {SYSTEMS[system]}: bytes per CPU-second of both ends"
    return [
        Goal(row, work, "6 x sendme", times_of(row, system, "sendme", PER_CPU, 6)),
        Goal(row, "the same", "2 x rqbit", times_of(row, system, "rqbit", PER_CPU, 2)),
        Goal(row, "the same", "1.2 x nginx with TLS, curl, b3sum", times_of(row, system, "nginx_tls", PER_CPU, 1.2)),
        Goal(row, "the same, by the clock", "1 x the time of curl from nginx, plaintext and unverified",
             wall_at_most(row, system, "nginx", 1)),
    ]


def small_files(system: str) -> list[Goal]:
    """Goals of many small files."""
    row, work = "small_files", f"80,000 small files, one to one, {SYSTEMS[system]}, by the clock"
    return [
        Goal(row, work, "10 x sendme", faster(row, system, "sendme", 10)),
        Goal(row, "the same", "1.2 x rsync's daemon", faster(row, system, "rsync", 1.2)),
        Goal(row, "the same", "1.5 x the time of a loop that only creates, writes and closes them",
             wall_at_most(row, system, "floor", 1.5)),
    ]


def one_to_many(peers: int) -> list[Goal]:
    """Goals of a swarm."""
    row = f"swarm_{peers}"
    return [
        Goal(row, f"one file from one seed to {peers} peers, 50 Mbit/s up each: the last peer", "1.05 x the shortest possible time",
             at_most(row, [("haul", SWARM, "over_limit")], 1.05, "x")),
        Goal(row, "the same: payload that the seed sends", "1.03 x the file",
             at_most(row, [("haul", SWARM, "seed_payload_over_size")], 1.03, "x")),
    ]


def faster_than_clients(rows: Rows) -> Verdict:
    """The best of them by haul, each over the bound of its own run."""
    found = {name: rows[f"swarm_{name}_tuned"].median(f"{name} tuned", SWARM, "over_limit") for name in CLIENTS
             if f"swarm_{name}_tuned" in rows}
    name = min(found, key=lambda one: found[one])
    quotient = found[name] / rows["swarm_8"].median("haul", SWARM, "over_limit")
    missing = [one for one in CLIENTS if one not in found]
    note = f"; {' and '.join(missing)} not measured" if missing else ""
    return f"{quotient:.2f} x {name}{note}", quotient >= 1.15 and not missing


def like_measured(rows: Rows) -> Verdict:
    """The simulator beside real processes, both over the bound of their own runs; the worst of them."""
    found = [rows["simulated"].median(PROGRAM, f"{peers} like measured ones", "over_limit")
             / rows[f"swarm_{peers}"].median("haul", SWARM, "over_limit") for peers in MEASURED]
    return ", ".join(f"{quotient:.3f}" for quotient in found), all(abs(quotient - 1) <= 0.03 for quotient in found)


GOALS = [
    *one_to_one("tmpfs"),
    *one_to_one("disk"),
    Goal("share", "sharing a folder of large files, by the clock", "1 x b3sum", faster("share", "large", "b3sum", 1)),
    Goal("share", "sharing 80,000 small files, by the clock", "3 x find -print0, xargs -0 b3sum",
         faster("share", "small", "b3sum", 3)),
    Goal("share", "looking again at 80,000 files that have not changed", "1.2 x the time of a walk that only stats",
         wall_at_most("share", "again", "floor", 1.2)),
    *small_files("tmpfs"),
    *small_files("disk"),
    Goal("shaped", "one file over 1 Gbit/s, lookup and connecting included", "0.98 x the TCP payload rate of iperf3",
         share_of_link("1000 Mbit/s", 0.98)),
    Goal("shaped", "the same over 100 Mbit/s", "0.98 x the TCP payload rate of iperf3", share_of_link("100 Mbit/s", 0.98)),
    Goal("sources", "one file from eight providers of 10 to 200 Mbit/s, sink of 500", "1.05 x the shortest possible time",
         at_most("sources", [("haul", "clean", "over_limit")], 1.05, "x")),
    Goal("sources", "the same, one dies, stalls or lies: the worst of them", "1.10 x the shortest possible time",
         at_most("sources", [("haul", case, "over_limit") for case in FAULTS], 1.1, "x")),
    Goal("sources", "the same: bytes over the sink's link, the worst of them", "1.01 x those when nothing fails", wasted),
    Goal("sources", "the same, nothing fails", "1.15 x aria2 with eight mirrors", faster("sources", "clean", "aria2", 1.15)),
    Goal("sources_qbittorrent", "the same, nothing fails", "1 x qbittorrent", faster_than_torrents),
    Goal("sources_changing", "the same, every uplink has another rate every 5 s", "1.05 x the shortest possible time",
         at_most("sources_changing", [("haul", "rates change", "over_limit")], 1.05, "x")),
    *(goal for peers in (4, 8, 16) for goal in one_to_many(peers)),
    Goal("swarm_8", "the same with 8 peers, by the clock", "1.15 x the fastest tuned one of aria2, transmission and qbittorrent",
         faster_than_clients),
    Goal("swarm_chain", "one file from one seed through a chain of 8 peers: the last peer", "1.1 x the first one",
         at_most("swarm_chain", [("haul", "chain", "over_first")], 1.1, "x")),
    *(Goal(row, f"one file from one seed to {peers} peers, {what}: the last peer", "1.12 x the shortest possible time",
           at_most(row, [("haul", case, "over_limit")], 1.12, "x"))
      for row, case, peers, what in (
          ("swarm_unequal", "unequal uplinks", 9, "10 to 100 Mbit/s up"),
          ("swarm_staggered", "joins spread", 8, "one after the other"),
          ("swarm_leavers", "a third leave", 9, "a third of them leave half-way"),
          ("swarm_seed_leaves", "seed leaves", 8, "the seed leaves after 1.05 times the file"),
          ("swarm_mixed", "all of it", 9, "all of this at once"))),
    Goal("swarm_index_dies", "one file from one seed to 8 peers, the index is killed half-way: the last peer",
         "1.3 x the shortest possible time", at_most("swarm_index_dies", [("haul", "index dies", "over_limit")], 1.3, "x")),
    Goal("simulated", "4, 8 and 16 peers simulated like the measured ones: the last peer", "within 3% of the measured", like_measured),
    Goal("simulated_many", "1 GiB to 10,000 simulated peers, 1% of them lost: the median peer", "1.05 x the shortest possible time",
         at_most("simulated_many", [(PROGRAM, "1% break", "median_over_limit")], 1.05, "x")),
    Goal("simulated_many", "the same: the last peer", "1.10 x the shortest possible time",
         at_most("simulated_many", [(PROGRAM, "1% break", "over_limit")], 1.10, "x")),
]
