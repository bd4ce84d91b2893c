"""PGD-40 beside torchattacks, Foolbox and ART: the same network, images, budget and steps, in one run.

    python -m benchmarks.pgd [--eps 1/255] [--images 512] [--cifar10 FOLDER]

FOLDER holds `resnet20.safetensors`, `images_600.npz` and, beside it, `models.py`; without it the network and the images
of `auditkit demo` are used. Every robust accuracy is recomputed here, with the plain float32 network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditkit.budgets import budget_text, parse_budget
from auditkit.config import settings_from
from auditkit.demo import IMAGES, WEIGHTS
from auditkit.models.preprocess import Preprocessed
from auditkit.plan import Planned
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.workbench import Recipe, Workbench
from auditkit_plugins.pgd import PGD

STEPS = 40
BATCH = 128


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    robust: int
    passes: float


@dataclass
class Clock:
    """Seconds spent inside the networks' own forward and backward passes."""

    inside: float = 0.0


@contextmanager
def timed_passes(clock: Clock) -> Iterator[None]:
    """Time every forward pass of a prepared network and every backward pass."""
    forward, backward = Preprocessed.forward, torch.autograd.grad

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                clock.inside += time.perf_counter() - began

        return call

    Preprocessed.forward = timed(forward)  # type: ignore[method-assign]
    torch.autograd.grad = timed(backward)
    try:
        yield
    finally:
        Preprocessed.forward = forward  # type: ignore[method-assign]
        torch.autograd.grad = backward


def robust(network: nn.Module, samples: Samples, attacked: Tensor, eps: float) -> int:
    """Count the images that are right before and after, by the plain network; a point outside the budget counts not."""
    inside = (attacked - samples.images).abs().flatten(1).amax(1) <= eps * (1 + 1e-5) + 1e-6
    with torch.no_grad():
        clean = torch.cat([network(part).argmax(1) for part in samples.images.split(BATCH)])
        after = torch.cat([network(part).argmax(1) for part in attacked.split(BATCH)])
    correct = clean == samples.labels
    return int((correct & ~(inside & (after != samples.labels))).sum())


def ours(bench: Workbench, network: nn.Module, samples: Samples, eps: float) -> tuple[Row, float]:
    """Run noise.pgd; return its row and the share of the time outside the passes."""
    planned = Planned("noise.pgd", PGD(eps=(eps,), steps=STEPS), "benchmark", {})
    clock = Clock()
    deployed = bench.loaded.run

    def timed_deployed(inputs: Tensor) -> Any:
        began = time.perf_counter()
        try:
            return deployed(inputs)
        finally:
            clock.inside += time.perf_counter() - began

    object.__setattr__(bench.loaded, "run", timed_deployed)
    began = time.perf_counter()
    with timed_passes(clock):
        findings = bench.run(planned, samples, lambda finished: None).findings
    seconds = time.perf_counter() - began
    object.__setattr__(bench.loaded, "run", deployed)
    assert findings.backwards is not None
    row = Row("auditkit", seconds, int(findings.columns["robust"].sum()), float(findings.backwards.mean()))
    return row, 1 - clock.inside / seconds


def torchattacks_pgd(network: nn.Module, samples: Samples, eps: float) -> Tensor:
    """Run torchattacks' PGD with its own ratio of step to budget."""
    import torchattacks

    attack = torchattacks.PGD(network, eps=eps, alpha=eps / 4, steps=STEPS, random_start=True)
    parts = zip(samples.images.split(BATCH), samples.labels.split(BATCH), strict=True)
    return torch.cat([attack(images, labels) for images, labels in parts]).detach()


def foolbox_pgd(network: nn.Module, samples: Samples, eps: float) -> Tensor:
    """Run Foolbox's LinfPGD with its own ratio of step to budget."""
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(steps=STEPS)
    parts = zip(samples.images.split(BATCH), samples.labels.split(BATCH), strict=True)
    return torch.cat([attack(model, images, labels, epsilons=eps)[1] for images, labels in parts]).detach()


def art_pgd(network: nn.Module, samples: Samples, eps: float) -> Tensor:
    """Run ART's PGD with its own ratio of step to budget."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classes = int(samples.labels.max()) + 1
    estimator = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), tuple(samples.images.shape[1:]), classes, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescent(
        estimator, eps=eps, eps_step=eps / 3, max_iter=STEPS, num_random_init=1, batch_size=BATCH, verbose=False
    )
    return torch.from_numpy(attack.generate(samples.images.numpy(), samples.labels.numpy()))


PEERS: dict[str, Callable[[nn.Module, Samples, float], Tensor]] = {
    "torchattacks": torchattacks_pgd,
    "Foolbox": foolbox_pgd,
    "ART": art_pgd,
}


def pass_speed(bench: Workbench, images: Tensor) -> tuple[float, float]:
    """Return images a second forward and backward: the plain network, and the search copy."""
    assert bench.model.exact is not None
    assert bench.search is not None
    speeds = []
    for differentiable in (bench.model.exact, bench.search):
        least = np.inf
        for _ in range(4):
            began = time.perf_counter()
            differentiable.gradient(images, lambda logits: logits.amax(1))
            least = min(least, time.perf_counter() - began)
        speeds.append(len(images) / least)
    return speeds[0], speeds[1]


def recipe(folder: Path | None, images: int) -> Recipe:
    """Return the network and the images to attack."""
    if folder is not None and (folder / "resnet20.safetensors").is_file():
        settings = {"weights": folder / "resnet20.safetensors", "limit": images, "batch": BATCH, "shard": images}
        return Recipe(
            f"{folder.parent / 'models.py'}:resnet20", str(folder / "images_600.npz"), settings_from(settings)
        )
    settings = {"weights": WEIGHTS, "limit": images, "batch": BATCH, "shard": images}
    return Recipe("auditkit.demo.network:SignNet", str(IMAGES), settings_from(settings))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eps", default="1/255")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--cifar10", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "cifar10")
    parser.add_argument("--peers", default=",".join(PEERS))
    arguments = parser.parse_args()
    eps = parse_budget(arguments.eps)
    began = time.perf_counter()
    bench = set_up(recipe(arguments.cifar10, arguments.images))
    prepared = time.perf_counter() - began
    samples = bench.read(0, arguments.images).samples
    network = bench.loaded.network
    assert network is not None
    plain, search = pass_speed(bench, samples.images[:BATCH])
    own, outside = ours(bench, network, samples, eps)
    rows = [own]
    for name in filter(None, arguments.peers.split(",")):
        began = time.perf_counter()
        attacked = PEERS[name](network, samples, eps)
        seconds = time.perf_counter() - began
        rows.append(Row(name, seconds, robust(network, samples, attacked, eps), STEPS))
    n = len(samples)
    print(
        f"PGD-{STEPS}, eps {budget_text(eps)}, {n} images, {bench.model.info.name}, {torch.get_num_threads()} threads"
    )
    print(f"search copy: {bench.search.description if bench.search else 'none'} (opened and tried in {prepared:.1f} s)")
    print(f"forward+backward: plain float32 {plain:.0f} images/s, search copy {search:.0f} ({search / plain:.2f}x)")
    print(f"{'':14}{'images/s':>10}{'seconds':>10}{'robust':>9}{'passes/image':>14}{'auditkit is':>14}")
    for row in rows:
        ratio = "" if row is own else f"{row.seconds / own.seconds:.1f}x faster"
        print(
            f"{row.name:14}{n / row.seconds:>10.1f}{row.seconds:>10.2f}{row.robust / n:>9.2%}"
            f"{row.passes:>14.1f}{ratio:>14}"
        )
    print(f"auditkit's time outside the networks' forward and backward: {outside:.1%}")


if __name__ == "__main__":
    main()
