"""What a sweep over eight budgets costs, beside each of its budgets alone: seconds, passes and verdicts, in one run.

python -m benchmarks.sweep [--images 200] [--check noise.worst] [--cifar10 FOLDER]
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from auditkit.budgets import budget_text
from auditkit.check import Findings
from auditkit.plan import configure
from auditkit.registry import find, load_check
from benchmarks.subjects import Subject, arguments, subject

GRIDS = {"resnet20": (0.125, 0.25, 0.375, 0.5, 0.75, 1, 1.5, 2), "resnet2b": (0.5, 1, 2, 3, 4, 6, 8, 12)}


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    seconds: float
    passes: float
    findings: Findings


def timed(of: Subject, check: str, budgets: list[float]) -> Cost:
    """Run the check over these budgets; a backward pass counts as two forward passes."""
    planned = configure(load_check(find(check)), {"eps": budgets}, check, "benchmark")
    began = time.perf_counter()
    findings = of.bench.run(planned, of.samples, lambda _: None).findings
    seconds = time.perf_counter() - began
    assert findings.forwards is not None
    assert findings.backwards is not None
    return Cost(seconds, float(findings.forwards.mean() + 2 * findings.backwards.mean()), findings)


def main() -> None:
    """Print the table of each network."""
    parser = arguments(__doc__, 200)
    parser.add_argument("--check", default="noise.worst")
    options = parser.parse_args()
    for name, grid in GRIDS.items():
        of = subject(options.cifar10, name, options.images)
        budgets = [eps / 255 for eps in grid]
        sweep = timed(of, options.check, budgets)
        print(f"{options.check}, {name}, {len(of.samples)} images: the sweep takes {sweep.seconds:.1f} s")
        print(f"{'budget':>12}{'seconds':>10}{'sweep/one':>11}{'by passes':>11}{'robust':>9}{'in the sweep':>14}")
        total = 0.0
        for eps in budgets:
            one = timed(of, options.check, [eps])
            total += one.seconds
            budget = budget_text(eps)
            left, in_sweep = (found.columns[f"robust@{budget}"].mean() for found in (one.findings, sweep.findings))
            print(
                f"{budget:>12}{one.seconds:>10.1f}{sweep.seconds / one.seconds:>10.2f}x"
                f"{sweep.passes / one.passes:>10.2f}x{left:>9.2%}{in_sweep:>14.2%}"
            )
        print(f"all budgets one by one: {total:.1f} s, {total / sweep.seconds:.1f}x the sweep")


if __name__ == "__main__":
    main()
