"""noise.worst beside the official AutoAttack (standard): the same networks, images and budgets, in one run.

    python -m benchmarks.cascade [--images 128] [--subjects resnet20:0.5/255,resnet2b:2/255] [--cifar10 FOLDER]

FOLDER holds `resnet20.onnx`, `resnet2b.onnx` and `images_600.npz`. Robust accuracies of the peer are recounted here.
"""

from __future__ import annotations

import time

import torch

from auditkit.budgets import budget_text, parse_budget
from auditkit.plan import Planned
from auditkit_plugins.worst import Worst
from benchmarks.subjects import BATCH, Subject, arguments, subject, survivors


def compare(of: Subject, eps: float) -> None:
    """Print a line for auditkit and one for the peer."""
    from pyautoattack import AutoAttack

    n = len(of.samples)
    began = time.perf_counter()
    findings = of.bench.run(Planned("noise.worst", Worst(eps=(eps,)), "", {}), of.samples, lambda _: None).findings
    own_seconds = time.perf_counter() - began
    own = torch.from_numpy(findings.columns["robust"])
    assert findings.forwards is not None
    assert findings.backwards is not None
    began = time.perf_counter()
    peer = AutoAttack(of.network, norm="Linf", eps=eps, version="standard", seed=0, device="cpu")
    attacked, *_ = peer.run_standard_evaluation(of.samples.images, of.samples.labels, batch_size=BATCH)
    seconds = time.perf_counter() - began
    left = survivors(of, attacked, eps)
    print(f"{of.name}, eps {budget_text(eps)}, {n} images, {torch.get_num_threads()} threads")
    print(
        f"  auditkit     {own_seconds:8.1f} s  robust {own.float().mean():.2%}  passes/image "
        f"{findings.forwards.mean():.0f} forward, {findings.backwards.mean():.0f} backward"
    )
    print(
        f"  AutoAttack   {seconds:8.1f} s  robust {left.float().mean():.2%}  "
        f"auditkit is {seconds / own_seconds:.1f}x faster"
    )
    print(f"  fooled by AutoAttack only: {int((own & ~left).sum())}, by auditkit only: {int((left & ~own).sum())}")


def main() -> None:
    """Print the comparison for each subject."""
    parser = arguments(__doc__, 128)
    parser.add_argument("--subjects", default="resnet20:0.5/255,resnet2b:2/255")
    options = parser.parse_args()
    for entry in options.subjects.split(","):
        name, _, budget = entry.partition(":")
        compare(subject(options.cifar10, name, options.images), parse_budget(budget))


if __name__ == "__main__":
    main()
