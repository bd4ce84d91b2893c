"""How long the report of a large audit takes, where the time goes, and how large it becomes.

Run with `python -m benchmarks.report`.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from large_audit import large_audit

from auditkit.report import render_html
from auditkit.report.gallery import Layout


def main() -> None:
    """Print seconds and bytes of both layouts, and the profile of the larger one."""
    result, arrays = large_audit()
    exhibits = sum(len(check.exhibits) for check in result.checks)
    print(f"{result.samples.n} images, {len(result.checks)} checks, {exhibits} exhibits, {os.cpu_count()} cores")
    layouts: tuple[Layout, ...] = ("single", "folder")
    render_html(result.model_copy(update={"checks": result.checks[:1]}), arrays, layout="single")  # loads matplotlib
    for layout in layouts:
        begun = time.perf_counter()
        page = render_html(result, arrays, layout=layout)
        seconds = time.perf_counter() - begun
        size, files = len(page.html.encode()), sum(map(len, page.files.values()))
        print(f"{layout}: {seconds:.2f} s, page of {size:,} bytes, {len(page.files)} files of {files:,} bytes")
    profile = cProfile.Profile()
    profile.runcall(render_html, result, arrays, layout="folder")
    pstats.Stats(profile).sort_stats("cumulative").print_stats("auditkit.report|matplotlib.figure|PIL|jinja2", 25)


if __name__ == "__main__":
    main()
