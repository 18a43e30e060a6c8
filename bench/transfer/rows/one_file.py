"""The one file that many rows move."""

import os
from typing import Any

import content
from rivals.rival import fresh, run


def one_file(bench: Any, system: str, name: str, file: str, size: int) -> tuple[str, str]:
    """A fresh place of this name on a file system, with the file in its folder `content`; and the file's BLAKE3."""
    place = fresh(os.path.join(bench.place(system), name))
    path = os.path.join(place, "content", file)
    content.write_file(path, size)
    return place, run(bench.b3sum, "--no-names", path).strip()
