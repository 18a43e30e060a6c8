"""A folder of many small files from one peer to one peer."""

import os
import shutil
from typing import Any

import content
from rivals.floor import Create
from rivals.haul import Haul
from rivals.rival import Rival
from rivals.rsync import Rsync
from rivals.sendme import Sendme
from rows.turns import Wanted, take_turns


def small_files(bench: Any) -> dict[str, Any]:
    """In memory and on the disk, synced in the end."""
    tree = content.plan_tree(bench.size.small)
    runs = []
    for system in ("tmpfs", "disk"):
        runs += on(bench, system, tree)
    parameters = {"files": len(tree.files), "folders": len(tree.folders), "bytes": tree.bytes(), "disk": bench.file_system}
    return {"runs": runs, "parameters": parameters}


def on(bench: Any, system: str, tree: content.Tree) -> list[dict[str, Any]]:
    """On one file system."""
    place = os.path.join(bench.place(system), "small")
    os.makedirs(place)
    folder, listed = os.path.join(place, "content"), os.path.join(place, "list.txt")
    content.write_tree(tree, folder)
    content.write_list(tree, listed)
    os.sync()
    rivals: list[Rival] = [Create(bench.floor, listed)]
    try:
        rivals += [Haul(bench.binary, place, folder, len(tree.files)), Rsync(place, folder)]
        rivals += [Sendme(bench.sendme, place, folder)]
        wanted = Wanted(tree.bytes(), len(tree.files), original=folder)
        return take_turns(bench, system, rivals, wanted, place, system, {"sendme": bench.size.slow_rounds})
    finally:
        for one in rivals:
            one.stop()
        if system == "disk":
            bench.throw_away(place)
        else:
            shutil.rmtree(place, ignore_errors=True)
