"""What a run needs: programs and a release build of haul. Done once; a second run finds it done."""

import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def data_directory(comparison: str) -> str:
    """Where programs, states and content stay between runs; never committed. `comparison` is its folder."""
    path = os.environ.get("HAUL_BENCH_DATA") or os.path.join(comparison, "data")
    os.makedirs(path, exist_ok=True)
    return path


def packages(wanted: dict[str, str], headers: dict[str, str] | None = None) -> None:
    """Debian's packages by the program, or the header, that shows that they are there; starts no services."""
    missing = [package for program, package in wanted.items() if not shutil.which(program)]
    missing += [package for header, package in (headers or {}).items() if not os.path.exists(header)]
    if not missing:
        return
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True, env=environment)
    install = [*sudo, "apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    subprocess.run([*install, *sorted(set(missing))], check=True, env=environment)


def cargo_install(data: str, name: str, crates: list[str], programs: list[str]) -> str:
    """Programs from crates, built for this machine's processor; returns their folder."""
    root = os.path.join(data, name)
    binaries = os.path.join(root, "bin")
    if not all(os.path.exists(os.path.join(binaries, program)) for program in programs):
        target = os.path.join(data, name + "-target")
        environment = {**os.environ, "CARGO_TARGET_DIR": target, "RUSTFLAGS": "-C target-cpu=native"}
        # For speed, also where a program's own profile asks for a small one.
        environment["CARGO_PROFILE_RELEASE_OPT_LEVEL"] = "3"
        # Not --locked: lock files of old releases hold what no longer builds.
        subprocess.run(["cargo", "install", "--root", root, *crates], check=True, env=environment, cwd=data)
        shutil.rmtree(target, ignore_errors=True)
    return binaries


def build_haul() -> str:
    """The release build; returns the program's path."""
    subprocess.run(["cargo", "build", "--release", "-p", "haul"], check=True, cwd=ROOT)
    return release_binary()


def release_binary() -> str:
    """Where the release build stands."""
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    return os.path.join(target, "release", "haul")


def haul_version() -> str:
    """The commit of the tree."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
