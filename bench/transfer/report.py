"""docs/benchmarks/transfer.md from the raw data: what stands in this page only."""

import os
from typing import Any

import goals
import plots
from common import page, raw
from rows.simulated import COUNTS, PROGRAM, SETTINGS

Rows = dict[str, dict[str, Any]]
LIMITS = ("read", "aes_128_gcm", "iperf3", "b3sum", "write", "memcpy", "chain")
COLUMNS = {"wall_s": "seconds", "cpu_s": "CPU seconds", "mb_per_s": "MB/s", "mb_per_cpu_s": "MB per CPU-second"}
FILE_COLUMNS = {"wall_s": "seconds", "cpu_s": "CPU seconds", "files_per_s": "files/s", "files_per_cpu_s": "files per CPU-second"}
LINK_COLUMNS = {"wall_s": "seconds", "cpu_s": "CPU seconds", "mbit_per_s": "Mbit/s"}
SOURCE_COLUMNS = {"wall_s": "seconds", "over_limit": "by the shortest possible", "cpu_s": "CPU seconds",
                  "received_over_size": "received by size", "banned": "banned"}
SWARMS = ("swarm_4", "swarm_8", "swarm_16", "swarm_bbr", "swarm_aria2_tuned", "swarm_transmission_tuned",
          "swarm_qbittorrent_tuned", "swarm_aria2", "swarm_transmission", "swarm_qbittorrent")
# Not in the picture: they are no swarms of so many equal peers.
COURSES = ("swarm_off", "swarm_random", "swarm_chain", "swarm_unequal", "swarm_staggered", "swarm_leavers", "swarm_seed_leaves",
           "swarm_mixed", "swarm_index_dies")
SWARM_COLUMNS = {"wall_s": "last, seconds", "median_s": "median, seconds", "over_limit": "last by the shortest possible",
                 "seed_payload_over_size": "seed's payload by size", "seed_wire_over_size": "seed's wire by size",
                 "peer_wire_least": "least of a peer's", "peer_wire_most": "most", "sent_again_share": "segments sent again",
                 "idle_share": "machine idle"}
SIMULATED_COLUMNS = {"wall_s": "last, seconds", "median_s": "median, seconds", "over_limit": "last by the shortest possible",
                     "median_over_limit": "median by it", "seed_payload_over_size": "seed's payload by size",
                     "wasted_over_size": "thrown away by size"}
PROGRAMS = ("haul", "nginx", "nginx_tls", "rsync", "sendme", "rqbit", "b3sum", "aria2", "qbittorrent", "floor", "iperf3")
TABLES = {
    "one_to_one": ("One large file, one to one", ("tmpfs", "disk"), COLUMNS),
    "share": ("Sharing a folder", ("large", "small", "again"), {**COLUMNS, "files_per_s": "files/s"}),
    "small_files": ("Many small files, one to one", ("tmpfs", "disk"), FILE_COLUMNS),
    "shaped": ("One file over a shaped link", ("1000 Mbit/s", "100 Mbit/s"), LINK_COLUMNS),
    "sources": ("One file from eight providers", ("clean", "one dies", "one stalls", "one lies"), SOURCE_COLUMNS),
    "sources_qbittorrent": ("The same by BitTorrent", ("clean",), SOURCE_COLUMNS),
    "sources_changing": ("The same while all rates change", ("rates change",), SOURCE_COLUMNS),
}


def write(docs: str, rows: Rows, notes_path: str, chart: page.Chart) -> None:
    """Writes transfer.md and its pictures into `docs`; `chart(curves, file)` draws one."""
    parts = [head(rows), page.goal_table(rows, goals.GOALS), page.missed(rows, goals.GOALS, page.read_notes(notes_path)),
             curves(docs, rows, chart)]
    parts += [table(rows, name) for name in TABLES if name in rows]
    parts += [providers_picture(docs, rows), swarm_table(rows), swarm_picture(docs, rows), simulated_table(rows)]
    parts += [limits(rows), page.remarks(rows), method(), priority(rows), page.machine_text(rows)]
    page.write(os.path.join(docs, "transfer.md"), parts)


def head(rows: Rows) -> str:
    """What this page is."""
    return (
        "# Transfers beside what else one would use\n\n"
        "One command measures everything and writes this page: `bench/transfer/run.py`. Medians over the rounds; raw data "
        "stand in [transfer/](transfer). haul always speaks TLS 1.3 with keys on both sides, verifies every 64 KiB with "
        "BLAKE3 before it is written, and ends with fsync; what the others do stands under Method." + page.warning(rows)
    )


def table(rows: Rows, name: str) -> str:
    """Medians by program, with the quartiles of the time."""
    title, cases, columns = TABLES[name]
    row = raw.Row(rows[name])
    lines = [f"## {title}", "", page.parameters(rows[name]), ""]
    heads = [*columns.values(), "quartiles of the seconds", "rounds"]
    lines += ["| case | program | " + " | ".join(heads) + " |", "| --- | --- |" + " --: |" * len(heads)]
    for case in cases:
        for program in PROGRAMS:
            values = [row.median(program, case, column) for column in columns]
            if any(value is not None for value in values):
                cells = [raw.number(value) for value in values]
                spread = row.spread(program, case, "wall_s")
                cells += [f"{raw.number(spread[0])} – {raw.number(spread[2])}" if spread else "–"]
                cells += [str(len(row.runs(program, case)))]
                lines.append(f"| {case} | {program} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def swarm_table(rows: Rows) -> str:
    """One seed to many: haul, and clients beside it."""
    found = [(name, rows[name]) for name in (*SWARMS, *COURSES) if name in rows]
    if not found:
        return ""
    lines = ["## One seed to many peers", "",
             "256 MiB, links of 50 Mbit/s up and 100 down, all begin at once, unless the row says otherwise; see Method.", ""]
    heads = ["peers", "what happens", "TCP", "program", *SWARM_COLUMNS.values(), "rounds"]
    lines += ["| " + " | ".join(heads) + " |", "| --: | --- | --- | --- |" + " --: |" * (len(heads) - 4)]
    for name, one in found:
        row, settings = raw.Row(one), one["parameters"]
        for program, case in sorted({(run["program"], run["case"]) for run in one["runs"]}):
            if program != "iperf3":
                cells = [raw.number(row.median(program, case, column)) for column in SWARM_COLUMNS]
                cells.append(str(len(row.runs(program))))
                start = [settings["peers"], case, settings["congestion"], program]
                lines.append(f"| {' | '.join(map(str, start))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def providers_picture(docs: str, rows: Rows) -> str:
    """Rate against the number of providers, with what their links carry."""
    if "providers" not in rows:
        return ""
    row = raw.Row(rows["providers"])
    counts = sorted({int(run["case"]) for run in row.runs("haul")})
    lines = [plots.Line(name, [(count, row.median("haul", str(count), figure)) for count in counts], bound)
             for name, figure, bound in (("haul", "mbit_per_s", False), ("what the links carry", "limit_mbit_per_s", True))]
    picture = plots.draw("One file from so many providers, the fastest first", plots.Axis("providers"),
                         plots.Axis("Mbit/s of payload"), lines)
    with open(os.path.join(docs, "transfer", "providers.svg"), "w", encoding="utf-8") as file:
        file.write(picture)
    uplinks, downlink = (rows["providers"]["parameters"][name] for name in ("uplinks", "downlink"))
    return ("## Rate against the number of providers\n\n"
            f"Uplinks of {uplinks} Mbit/s, the sink's downlink {downlink}; lookup, connecting and the outline included.\n\n"
            "![Rate against the number of providers](transfer/providers.svg)")


def swarm_picture(docs: str, rows: Rows) -> str:
    """Time against the number of peers, measured and simulated, with the bound."""
    lines: list[plots.Line] = []
    rivals: list[plots.Line] = []
    points: dict[str, list[tuple[float, float]]] = {"last peer": [], "median peer": [], "bound": []}
    for name in SWARMS:
        if name not in rows:
            continue
        row, settings = raw.Row(rows[name]), rows[name]["parameters"]
        for program in sorted({run["program"] for run in rows[name]["runs"]} - {"iperf3"}):
            last = row.median(program, goals.SWARM, "wall_s")
            if program != "haul":
                if "tuned" in program:
                    rivals.append(plots.Line(f"{program}, measured", [(settings["peers"], last)]))
            elif settings["congestion"] == "cubic":
                points["last peer"].append((settings["peers"], last))
                points["median peer"].append((settings["peers"], row.median(program, goals.SWARM, "median_s")))
                points["bound"].append((settings["peers"], row.median(program, goals.SWARM, "limit_s")))
    if not points["last peer"]:
        return ""
    simulated = raw.Row(rows.get("simulated"))
    for name in ("within half a second", "in one instant"):
        # The simulator's links carry nothing but payload: its times are set against the bound of the measured ones.
        found = [(peers, simulated.median(PROGRAM, f"{peers} {name}", "over_limit")) for peers in COUNTS]
        spots = [(peers, over * points["bound"][0][1]) for peers, over in found if over]
        lines += [plots.Line(f"haul, simulated, all begin {name}", spots)] if spots else []
    lines += [plots.Line("haul, last peer, measured", points["last peer"]), *rivals]
    ends = [peers for line in lines for peers, _ in line.points]
    lines.append(plots.Line("shortest possible", [(end, points["bound"][0][1]) for end in (min(ends), max(ends))], bound=True))
    ticks = [tick for tick in (4, 8, 16, 32, 64, 128, 256) if tick <= max(8, max(ends))]
    picture = plots.draw("256 MiB from one seed, 50 Mbit/s up, to so many peers at once", plots.Axis("peers", ticks),
                         plots.Axis("seconds until the last has it"), lines)
    with open(os.path.join(docs, "transfer", "swarm.svg"), "w", encoding="utf-8") as file:
        file.write(picture)
    return "![Time against the number of peers](transfer/swarm.svg)"


def simulated_table(rows: Rows) -> str:
    """Swarms in virtual time."""
    lines = []
    for name in ("simulated", "simulated_many"):
        parameters = rows[name]["parameters"] if name in rows else {}
        row = raw.Row(rows.get(name))
        for case in dict.fromkeys(run["case"] for run in row.runs(PROGRAM)):
            shown = case if name == "simulated" else f"{parameters['peers']} {case}, {parameters['bytes']}"
            figures = " | ".join(raw.number(row.median(PROGRAM, case, figure)) for figure in SIMULATED_COLUMNS)
            lines.append(f"| {shown} | {figures} |")
    if not lines:
        return ""
    return "\n".join([
        "## Simulated swarms", "", f"{SETTINGS}. The planner is the index's own.", "",
        f"| peers | {' | '.join(SIMULATED_COLUMNS.values())} |", f"| --- |{' --: |' * len(SIMULATED_COLUMNS)}", *lines])


def limits(rows: Rows) -> str:
    """What the machine can do, and how near haul comes."""
    row = raw.Row(rows.get("one_to_one"))
    found = {step: row.median("floor", "tmpfs", f"{step}_mb_per_cpu_s") for step in LIMITS}
    if found["chain"] is None:
        return ""
    lines = ["## What the machine can do", "",
             "Each step of a transfer in memory alone on one core, measured in the same run; the chain is all of them one "
             "after the other for each byte: read, encrypt, send and receive (iperf3, both ends), decrypt, hash, write.", "",
             "| step | MB per CPU-second |", "| --- | --: |"]
    lines += [f"| {step} | {raw.number(value)} |" for step, value in found.items()]
    ours = row.median("haul", "tmpfs", "mb_per_cpu_s")
    if ours:
        lines += ["", f"haul reaches {ours / found['chain']:.2f} of the chain."]
    return "\n".join(lines)


def curves(docs: str, rows: Rows, chart: page.Chart) -> str:
    """How the rate grows with the size of the file."""
    if "sizes" not in rows:
        return ""
    row, sizes = raw.Row(rows["sizes"]), rows["sizes"]["parameters"]["bytes"]
    largest = rows.get("one_to_one", {}).get("parameters", {}).get("bytes")
    drawn = []
    for label, program in (("haul", "haul"), ("curl from nginx, plaintext", "nginx"), ("nginx TLS, curl, b3sum", "nginx_tls"),
                           ("sendme", "sendme")):
        points = [(size, row.median(program, str(size), "mb_per_s")) for size in sizes]
        if largest:
            points.append((largest, raw.Row(rows["one_to_one"]).median(program, "tmpfs", "mb_per_s")))
        drawn.append({"name": label, "points": [[size, value] for size, value in points if value]})
    picture = {"title": "One file, one to one, in memory", "x_label": "bytes", "y_label": "MB per second by the clock",
               "lines": [line for line in drawn if line["points"]]}
    chart(picture, os.path.join(docs, "transfer", "sizes.svg"))
    return "## Curve\n\n![Rate against the size of the file](transfer/sizes.svg)"


def priority(rows: Rows) -> str:
    """Said of rows that were measured while others used the machine."""
    names = [name for name, row in rows.items() if row.get("ahead")]
    if not names:
        return ""
    return (
        f"Others used the machine while {', '.join(names)} were measured. All measured programs then ran at a high priority "
        "(nice -15, and so their session's group): others got what these left idle, and at most a thirtieth beside them. "
        "Runs were repeated if that came to more than half of the machine, in later rows three fifths in memory and never on the "
        "disk or over a link. What others did shared caches and memory with what was measured, and took most from programs "
        "that keep less than two cores busy."
    )


def method() -> str:
    """How it was measured."""
    return """## Method

- Both ends run on the same machine and share its cores. The clock runs from the start of the client's command to its
  end, with fsync; servers run before, and so does haul's sink, a fresh daemon without any state in each run. CPU seconds
  are those of all processes of both ends and their children (/proc), until they are at rest; the kernel's own threads
  count for nobody. Sources are in the page cache (hot), targets do not exist before.
- Programs take turns, each round begins with another one; tables show medians and how many rounds there are: fewer of
  programs that need minutes. A run begins when the machine is calm,
  and is repeated, three times at most, if more than 8% of the machine worked for others (30% on the disk, where the
  kernel's write-back counts as others; 40% where a link decides), or 2% was stolen; if none was calm, the calmest stands,
  with a remark.
- Before each run a quarter more memory than its file takes is written and given back at once. The host of this virtual
  machine takes back memory that lies free for some seconds, and without this whoever comes first after a pause pays up
  to four times the CPU seconds.
- What arrives is compared with its source in every run (after the clock): a file by its BLAKE3, a folder byte by byte in
  the first round, by count and size in the others. Folders on the disk are removed after all runs: ext4 without a journal
  leaves the inodes of deleted files alone for a while, and whoever creates files meanwhile searches for others.
- **One large file**: bytes from AES-CTR, which nothing compresses. haul: `haul get ID`. nginx: sendfile, plaintext, `curl
  -o`. nginx_tls: TLS 1.3 with AES-128-GCM, `curl -o`, then `b3sum` on all cores. sendme: without relays, direct address;
  its sender refers to the file in place. rqbit: plaintext BitTorrent with SHA-1, the one peer given. All but haul are
  followed by `sync FILE` under the clock; haul's own fsyncs are part of `get`.
- **Sharing**: from `haul share add` at a fresh peer until everything is hashed, registered and durable at the index in the
  same process; b3sum gets the same files from `find -print0 | xargs -0` and keeps nothing. Looking again: from the order
  until the share is ready; the floor is getdents and fstatat of every entry in one thread, in C, less its start. Both are
  the middle of five looks in each round. Files lie on the disk's file system, in the page cache.
- **Small files**: a made-up tree, sizes as in the Linux sources (log-normal, median 4.7 kB, mean 13 kB, 3% above 64 KiB), the
  same in every run. rsync: daemon, plaintext, `rsync -a`. The floor creates, writes and closes the same files with bytes
  from memory, one thread, in C. On the disk all end with syncfs: haul and the floor by themselves, others by `sync -f`.
- **Shaped link**: two network namespaces joined through others that shape (`tc tbf`, a bucket of 1 ms, a queue of 20 ms), so
  that senders are not told of drops. iperf3 measures the link in each round, from its second second on, at the receiver.
  haul's clock includes the lookup at the index, which lies at the source's end, connecting, and the outline.
- **Eight providers**: each at a link of 10, 20, 40, 60, 80, 100, 150, 200 Mbit/s up, a fresh sink of 500 Mbit/s, the index at
  an end of its own. The shortest possible time is that of all links full from the first moment, at the part of its rate
  that a link carries for iperf3 in the same round. At 60% the provider of 100 Mbit/s is killed, or that of 150 is stopped
  (SIGSTOP); the one of 80 lies from the beginning:
  the kernel gives it a wrong first byte of whatever it reads (strace). aria2: plaintext HTTP
  from eight nginx, pieces of 1 MiB, four connections to each; it verifies nothing, so that it cannot take part with a liar.
  qbittorrent, tuned as below, runs at all nine ends. Where rates change, each uplink takes over that of the next one every
  5 s, so that together they carry as much as before, and the file has 1.5 GiB.
  Received by size is what came over the sink's link, headers included.
- **One seed to many**: end by end 50 Mbit/s up and 100 down, the index and the BitTorrent tracker at an end without limits.
  The clock runs from the `get` commands (or the order to a client that runs already; aria2 is started by it) to the last
  peer's final name. The shortest possible time is max(F/u_s, F/d, N F/(u_s + sum u_i)), at the rates that iperf3 finds in the same
  round: the seed's with nothing coming back, the peers' while they receive as much. TCP controls congestion as Linux does by
  default (cubic), whatever the measuring machine is set to; one row has BBR. Payload is what peers verified; wire is what
  the shapers let through, headers and segments sent again included. Planner off and random plans are settings of the index
  (`swarm_plans`). In the chain the index makes no plans, and each end reaches the one before and the one behind it alone.
  Unequal: 10, 100, 20, 50, 15, 80, 30, 40 and 25 Mbit/s up. Joins spread: evenly over a fifth of what the seed needs to
  send the file once. A third leave: the third, sixth and ninth end their daemons (SIGTERM) when they have half. Seed leaves:
  one of 150 Mbit/s ends its daemon when it has sent 1.05 times the file, peers have 30 up. All of it: unequal, spread, a third
  leave, and the seed of 50. Index dies: SIGKILL when the first peer has half. Their bound is the same in steps of 20 ms for those
  that are there: who is behind rises first. Less than 30% of the machine idle voids a run. Clients:
  pieces of 256 KiB, a private tracker, plaintext, no sync. Tuned: aria2 without a limit of peers, a cache, no lower limit of
  speed; transmission without uTP, 32 slots, no encryption; qbittorrent with TCP only, super-seeding, no limits.
- sendme, rqbit and b3sum are built by `cargo install` for speed (sendme's own profile asks for a small program) and for this
  machine's processor (`-C target-cpu=native`); haul as it is released.
"""
