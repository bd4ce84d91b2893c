"""noise.minimal beside adversarial-library's and Foolbox's minimum-norm attacks, at equal numbers of steps, in one run.

    python -m benchmarks.minimal [--images 64] [--steps 100] [--subjects resnet20:linf,resnet20:l2] [--cifar10 FOLDER]

Each peer runs with several settings, since its own best one differs from network to network; the smallest median
counts. The plain float32 network judges all of them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from auditkit.plan import Planned
from auditkit_plugins.minimal import Minimal
from benchmarks.subjects import Subject, arguments, subject

Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]

_ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
_STEP_SIZES = {"linf": (10.0, 1.0, 0.3, 0.1), "l2": (1.0, 0.3, 0.1), "l1": (10.0, 1.0, 0.3)}
_DDN_STARTS = (1.0, 0.3, 0.1)


def peers(norm: str, steps: int) -> dict[str, Peer]:
    """Return the strongest attacks of AttackBench for this norm that run in `steps` forward and backward passes."""
    # adv_lib imports both for its pictures and its models, which nothing here asks for.
    for module in ("visdom", "torchvision", "torchvision.models"):
        sys.modules.setdefault(module, mock.MagicMock())
    import foolbox
    from adv_lib.attacks import ddn, fmn

    found: dict[str, Peer] = {}
    for size in _STEP_SIZES[norm]:
        found[f"adv_lib FMN, first step {size:g}"] = lambda net, x, y, size=size: fmn(
            net, x, y, norm=_ORDER[norm], steps=steps, α_init=size
        )
    if norm == "l2":
        for start in _DDN_STARTS:
            found[f"adv_lib DDN, first radius {start:g}"] = lambda net, x, y, start=start: ddn(
                net, x, y, steps=steps, init_norm=start, levels=None
            )
    attacks = foolbox.attacks
    kind = {"linf": attacks.LInfFMNAttack, "l2": attacks.L2FMNAttack, "l1": attacks.L1FMNAttack}[norm]

    def run_foolbox(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
        return kind(steps=steps)(model, x, y, epsilons=None)[0]

    found["Foolbox FMN"] = run_foolbox
    return found


def distances(of: Subject, attacked: Tensor, norm: str) -> Tensor:
    """Return (N,): how far the success lies; infinite where the attack returned none."""
    with torch.no_grad():
        fooled = of.network(attacked).argmax(1) != of.samples.labels
    inside = ((attacked >= -1e-6) & (attacked <= 1 + 1e-6)).flatten(1).all(1)
    change = (attacked - of.samples.images).flatten(1)
    return torch.where(fooled & inside, change.norm(p=_ORDER[norm], dim=1), math.inf)


def compare(of: Subject, norm: str, steps: int) -> None:
    """Print a line for auditkit, one for each peer, and the ratio to the best."""
    began = time.perf_counter()
    planned = Planned("noise.minimal", Minimal(norm=norm, steps=steps), "", {})  # type: ignore[arg-type]
    columns = of.bench.run(planned, of.samples, lambda _: None).findings.columns
    seconds = time.perf_counter() - began
    correct = columns["clean_correct"]
    own = float(np.median(np.where(columns["found"], columns["distance"], np.inf)[correct]))
    print(f"{of.name}, {norm}, {steps} steps, {int(correct.sum())} images that are right when clean", flush=True)
    print(f"  {'auditkit':34}{seconds:8.1f} s  median {own:.5f}", flush=True)
    best = math.inf
    for name, attack in peers(norm, steps).items():
        torch.manual_seed(0)
        began = time.perf_counter()
        attacked = attack(of.network, of.samples.images.clone(), of.samples.labels.clone()).detach()
        seconds = time.perf_counter() - began
        median = float(np.median(distances(of, attacked, norm).numpy()[correct]))
        best = min(best, median)
        print(f"  {name:34}{seconds:8.1f} s  median {median:.5f}", flush=True)
    print(f"  median over the best peer's: {own / best:.3f}", flush=True)


def main() -> None:
    """Print the comparison for each subject and norm."""
    parser = arguments(__doc__, 64)
    parser.add_argument("--steps", type=int, default=100)
    every = ",".join(f"{name}:{norm}" for name in ("resnet20", "resnet2b") for norm in _ORDER)
    parser.add_argument("--subjects", default=every)
    options = parser.parse_args()
    for entry in options.subjects.split(","):
        name, _, norm = entry.partition(":")
        compare(subject(options.cifar10, name, options.images), norm, options.steps)


if __name__ == "__main__":
    main()
