"""The names, questions and expected answers of the report's mix. `haul bench report` uses the same ones."""

SEARCHES = 1000
REGISTRATIONS = 200
LOOKUPS = 800
STRIDE = 13

FIRST = ("annual", "field", "lecture", "holiday", "genome", "sensor", "kernel")
SECOND = ("report", "notes", "photos", "backup", "samples", "slides", "budget", "minutes", "draft", "archive", "video")
EXTENSIONS = ("pdf", "iso", "jpg", "tar.gz", "csv")


def is_common(file):
    """Every fourth file is the same on all peers, so some lookups have several providers."""
    return file % 4 == 0


def owner(peer, file):
    return "all" if is_common(file) else f"p{peer}"


def file_name(run, peer, file):
    first, second = FIRST[file % len(FIRST)], SECOND[file % len(SECOND)]
    return f"{first}-{second}_{run}.{owner(peer, file)}.{file:03}.{EXTENSIONS[file % len(EXTENSIONS)]}"


def file_info(name, file):
    return {"size": len(name), "mtime": 1_700_000_000 + file}


def asked_peer(peer, peers, operation):
    """Whose files the peer asks about: everyone's in turn, its own too."""
    return (peer - 1 + operation) % peers + 1


def search(run, peer, peers, operation):
    """The text of a search, and the names that it must find."""
    other = asked_peer(peer, peers, operation)
    ten = operation * 3 % (REGISTRATIONS // 10)
    common = operation % 4 == 0
    text = f"_{run}.{'all' if common else f'p{other}'}.{ten:02}"
    files = [file for file in range(ten * 10, ten * 10 + 10) if is_common(file) == common]
    return text, {file_name(run, other, file) for file in files}


def lookup(run, peer, peers, operation):
    """The name that a lookup asks for, and the peers that have it."""
    other = asked_peer(peer, peers, operation)
    file = operation * STRIDE % REGISTRATIONS
    return file_name(run, other, file), set(range(1, peers + 1)) if is_common(file) else {other}
