"""pixel.one beside differential evolution: our own of the paper, ART's and torchattacks', in one run.

    python -m benchmarks.pixel [--images 100] [--peer-images 4] [--cifar10 FOLDER]

All three evolutions have the paper's budget (population 400, up to 100 generations). The peers take images one by one,
so a few are enough to time them; success is compared with our own evolution on all images.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from auditkit.plan import Planned
from auditkit_plugins.one_pixel import OnePixel
from benchmarks.subjects import Subject, arguments, subject

POPULATION, GENERATIONS = 400, 100
# So many more images are read than are wanted, to make up for those that the network gets wrong.
_SPARE = 0.15


def own(of: Subject, label: str, check: OnePixel) -> float:
    """Print a line, and return the seconds an image."""
    began = time.perf_counter()
    findings = of.bench.run(Planned("pixel.one", check, "", {}), of.samples, lambda _: None).findings
    seconds = (time.perf_counter() - began) / len(of.samples)
    assert findings.forwards is not None
    success = findings.columns["fooled"].mean()
    print(f"  {label:28}{seconds:8.2f} s an image  success {success:.2%}  {findings.forwards.mean():.0f} queries")
    return seconds


def by_torchattacks(of: Subject) -> torch.Tensor:
    """Run OnePixel at the paper's budget."""
    import torchattacks

    attack = torchattacks.OnePixel(of.network, pixels=1, steps=GENERATIONS, popsize=POPULATION, inf_batch=512)
    return attack(of.samples.images, of.samples.labels)


def by_art(of: Subject) -> torch.Tensor:
    """Run PixelAttack at the paper's budget: one pixel, differential evolution."""
    from art.attacks.evasion import PixelAttack
    from art.estimators.classification import PyTorchClassifier

    classes, shape = of.model.info.classes, tuple(of.samples.images.shape[1:])
    scaled = nn.Sequential(Scaled(), of.network)
    estimator = PyTorchClassifier(
        scaled, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 255), device_type="cpu"
    )
    attack = PixelAttack(estimator, th=1, es=1, max_iter=GENERATIONS, verbose=False)
    images = (of.samples.images * 255).numpy()
    return torch.from_numpy(attack.generate(images, of.samples.labels.numpy())).float() / 255


class Scaled(nn.Module):
    """ART's attack draws colours from 0 to 255."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return images in [0, 1]."""
        return images / 255


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, 100)
    parser.add_argument("--peer-images", type=int, default=4)
    parser.add_argument("--skip-evolution", action="store_true", help="leave our own evolution out: it takes longest")
    options = parser.parse_args()
    everything = subject(options.cifar10, "resnet20", int(options.images * (1 + _SPARE)))
    right = everything.model.logits(everything.samples.images).argmax(1) == everything.samples.labels
    chosen = everything.samples.take(right.nonzero().flatten()[: options.images].tolist())
    of = Subject(everything.name, everything.bench, everything.model, everything.network, chosen)
    print(f"resnet20, the first {len(chosen)} images that are right, {torch.get_num_threads()} threads", flush=True)
    seconds = own(of, "auditkit, scan", OnePixel())
    few = Subject(of.name, of.bench, of.model, of.network, chosen.take(list(range(options.peer_images))))
    for name, attack in (("torchattacks OnePixel", by_torchattacks), ("ART PixelAttack", by_art)):
        began = time.perf_counter()
        attacked = attack(few)
        peer = (time.perf_counter() - began) / len(few.samples)
        with torch.no_grad():
            fooled = few.network(attacked).argmax(1) != few.samples.labels
        print(
            f"  {name:28}{peer:8.2f} s an image  success {fooled.float().mean():.2%} of {len(few.samples)}"
            f"  auditkit is {peer / seconds:.0f}x faster",
            flush=True,
        )
    if not options.skip_evolution:
        evolution = OnePixel(search="evolution", population=POPULATION, generations=GENERATIONS)
        own(of, "auditkit, evolution", evolution)


if __name__ == "__main__":
    main()
