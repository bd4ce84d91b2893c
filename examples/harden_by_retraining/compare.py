"""Show two audits of the same images side by side: `python compare.py BEFORE AFTER`, the folders of both."""

from __future__ import annotations

import argparse
from pathlib import Path

from auditkit import AuditResult, exact_mcnemar, load_result

METRICS = ("clean_accuracy", "robust_accuracy", "attack_success_rate", "control_success_rate")


def comparison(before: AuditResult, after: AuditResult, check: str = "patch.sticker") -> str:
    """Return the metrics of both audits, and whether chance could explain the change of the images withstood."""
    if before.table["id"].tolist() != after.table["id"].tolist():
        raise SystemExit("the two audits are of different images; compare audits of the same ones")
    names = [f"{check}/{name}" for name in METRICS] + ["samples.hard/endurance", "samples.hard/hard_share"]
    lines = [f"{'':36}{'before':>32}{'after':>32}"]
    lines += [f"{name:36}{before.metric(name)!s:>32}{after.metric(name)!s:>32}" for name in names]
    robust, robust_after = (audited.table[f"{check}/robust"].astype(bool) for audited in (before, after))
    lost, gained = int((robust & ~robust_after).sum()), int((~robust & robust_after).sum())
    p_value = exact_mcnemar(lost, gained)
    lines.append(f"withstood only before: {lost}, only after: {gained} (exact McNemar p = {p_value:.3g})")
    return "\n".join(lines)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    print(comparison(load_result(options.before), load_result(options.after)))


if __name__ == "__main__":
    main()
