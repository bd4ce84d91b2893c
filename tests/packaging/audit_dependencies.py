"""Look for known vulnerabilities in the locked versions, with pip-audit; `make audit-dependencies`.

    .venv/bin/python tests/packaging/audit_dependencies.py PIP_AUDIT [arguments of pip-audit]

Exit code 0: every locked version was looked up, and none is known to be vulnerable. 1: some are. 3: it was not found
out, for all or for some of them. pip-audit itself returns 1 where it finds something and where it reaches nobody.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "constraints.txt"
CLEAN, VULNERABLE, NOT_RUN = 0, 1, 3


def command(pip_audit: str, arguments: Sequence[str]) -> list[str]:
    """Return the command; versions are taken as they stand in the lock, and nothing is installed or resolved."""
    fixed = ["--requirement", str(LOCK), "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    return [pip_audit, *fixed, *arguments]


def reading(output: str, complaint: str, wanted: int) -> tuple[int, list[str]]:
    """Return the exit code and what to print, from what pip-audit wrote to its two streams about `wanted` versions."""
    try:
        dependencies = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        return NOT_RUN, [f"NOT RUN: the service of known vulnerabilities gave no answer; pip-audit: {last}"]
    skipped = [each for each in dependencies if "skip_reason" in each]
    asked = [each for each in dependencies if "skip_reason" not in each]
    found = [line for each in asked for line in _vulnerabilities(each)]
    unknown = [f"NOT AUDITED: {each['name']}: {each['skip_reason']}" for each in skipped]
    summary = f"{len(asked)} of {wanted} locked versions looked up, {len(found)} known vulnerabilities"
    code = VULNERABLE if found else CLEAN if len(asked) == wanted else NOT_RUN
    return code, [*found, *unknown, summary]


def _vulnerabilities(dependency: dict[str, Any]) -> list[str]:
    lines = []
    for each in dependency["vulns"]:
        fixed = ", ".join(each["fix_versions"]) or "no version yet"
        lines.append(f"VULNERABLE: {dependency['name']} {dependency['version']}: {each['id']}, fixed in {fixed}")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Run pip-audit, print its findings, return the exit code."""
    if not arguments:
        raise SystemExit(__doc__)
    try:
        done = subprocess.run(command(arguments[0], arguments[1:]), capture_output=True, text=True, check=False)
    except OSError as error:
        code, lines = NOT_RUN, [f"NOT RUN: {arguments[0]}: {error.strerror}"]
    else:
        pins = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line and line[0] != "#"]
        code, lines = reading(done.stdout, done.stderr, len(pins))
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
