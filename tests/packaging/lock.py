"""Write the lock of the development environment: the version of every distribution in the one that runs this.

    .venv/bin/python tests/packaging/lock.py        # writes tests/constraints.txt; `make lock`

It locks versions, not files: docs/supply_chain.md says why.
"""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

LOCK = Path(__file__).parents[1] / "constraints.txt"
# Installed beside the environment by `make bench`, from a file that pins them.
PEERS = Path(__file__).parents[2] / "benchmarks" / "requirements.txt"
# The package itself, and what a virtual environment is born with.
NOT_LOCKED = {"auditkit", "pip"}
_MADE_FOR = "# Made for: "
_HEAD = """\
# The development environment, pinned; a plain `pip install torch==2.13.0` takes whatever build the platform offers."""


def here() -> str:
    """Return what a lock depends on, such as `Python 3.11 on Linux x86_64`."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()} {platform.machine()}"


def canonical(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, tuple[str, str]]:
    """Return name and version of each distribution by canonical name; a build's own label (`+cpu`) is left out."""
    # Not all of sys.path: some packages put folders with others of their own on it.
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    parts = distributions(path=folders)
    found = {canonical(each.name): (each.name, each.version.partition("+")[0]) for each in parts}
    left_out = NOT_LOCKED | locked(PEERS.read_text(encoding="utf-8")).keys()
    return {name: found[name] for name in sorted(found) if name not in left_out}


def locked(text: str) -> dict[str, str]:
    """Return the version of each distribution in a lock by canonical name."""
    lines = (line.strip() for line in text.splitlines())
    pins = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonical(name): version for name, version in pins}


def made_for(text: str) -> str:
    """Return what a lock was made for."""
    return next(line.removeprefix(_MADE_FOR) for line in text.splitlines() if line.startswith(_MADE_FOR))


def differences(text: str) -> list[str]:
    """Return a sentence for each line that the lock lacks, has too much, or has of another version."""
    wanted, found = locked(text), {name: version for name, (_, version) in installed().items()}
    lines = []
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted:
            lines.append(f"{name}=={found[name]} is installed, and the lock lacks this line")
        elif name not in found:
            lines.append(f"{name}=={wanted[name]} is in the lock, and is not installed")
        elif wanted[name] != found[name]:
            lines.append(f"{name}=={wanted[name]} is in the lock, and {found[name]} is installed")
    return lines


def main() -> int:
    """Write the lock, and say what changed."""
    before = LOCK.read_text(encoding="utf-8")
    for line in differences(before):
        sys.stdout.write(f"{line}\n")
    pins = [f"{name}=={version}" for name, version in installed().values()]
    LOCK.write_text("\n".join([_HEAD, f"{_MADE_FOR}{here()}", *pins]) + "\n", encoding="utf-8")
    sys.stdout.write(f"written: {LOCK}, {len(pins)} distributions\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
