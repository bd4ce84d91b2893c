"""pixel.one: its scan beside differential evolution, our own of the paper, ART's and torchattacks', in one run.

    python -m benchmarks.pixel [--images 100] [--peer-images 4] [--deployed] [--cifar10 FOLDER]

All three evolutions have the paper's budget (population 400, up to 100 generations, up to the first success). Scan and
our evolution go through the images in parts and print what is known after each, so a run that is stopped loses little.
The peers take images one by one, so a few are enough to time them; with `--peer-images 0` they are left out.
With `--deployed` our queries go to onnxruntime, which on a CPU without bfloat16 is faster than the search copy.
Seconds of the processor (of all threads) stand beside those of the clock, for machines that others use too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from auditkit.plan import Planned
from auditkit.stats import proportion
from auditkit_plugins.one_pixel import OnePixel
from benchmarks.subjects import Subject, arguments, subject

POPULATION, GENERATIONS = 400, 100
PART = 10
# So many more images are read than are wanted, to make up for those that the network gets wrong.
_SPARE = 0.15


@dataclass
class Tally:
    """What one search did on the images so far."""

    label: str
    check: OnePixel
    fooled: np.ndarray
    queries: np.ndarray
    seconds: float = 0.0
    processor: float = 0.0

    @staticmethod
    def of(label: str, check: OnePixel) -> Tally:
        """Return the tally of no image."""
        return Tally(label, check, np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))

    def go_on(self, part: Subject) -> None:
        """Search these images too."""
        began, worked = time.perf_counter(), time.process_time()
        findings = part.bench.run(Planned("pixel.one", self.check, "", {}), part.samples, lambda _: None).findings
        self.seconds += time.perf_counter() - began
        self.processor += time.process_time() - worked
        assert findings.forwards is not None
        self.fooled = np.concatenate([self.fooled, findings.columns["fooled"]])
        self.queries = np.concatenate([self.queries, findings.forwards])

    def __str__(self) -> str:
        n = len(self.fooled)
        share = proportion(int(self.fooled.sum()), n)
        success = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        cost = f"{self.seconds / n:8.2f} s an image ({self.processor / n:.2f} of the processor)"
        return f"  {self.label:28}{cost}  success {success}  {self.queries.mean():.0f} queries"


def compared(of: Subject, tallies: list[Tally]) -> None:
    """Take all images through all searches, part by part, and print after each part."""
    for first in range(0, len(of.samples), PART):
        part = chosen(of, range(first, min(first + PART, len(of.samples))))
        for tally in tallies:
            tally.go_on(part)
        print(f" {len(tallies[0].fooled)} images:")
        for tally in tallies:
            print(tally, flush=True)
        if len(tallies) == 2:
            scan, evolution = tallies
            ratio = scan.queries.mean() / evolution.queries.mean()
            print(
                f"  fooled by the scan only: {(scan.fooled & ~evolution.fooled).sum()}, by the evolution only: "
                f"{(evolution.fooled & ~scan.fooled).sum()}; the scan takes {ratio:.1%} of the queries",
                flush=True,
            )


def chosen(of: Subject, rows: range | list[int]) -> Subject:
    """Return the subject with some of its images."""
    return Subject(of.name, of.bench, of.model, of.network, of.samples.take(list(rows)))


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
    parser.add_argument("--deployed", action="store_true", help="ask the deployed model, not the search copy")
    options = parser.parse_args()
    everything = subject(options.cifar10, "resnet20", int(options.images * (1 + _SPARE)))
    if options.deployed:
        everything.bench.search = None
    right = everything.model.logits(everything.samples.images).argmax(1) == everything.samples.labels
    of = chosen(everything, right.nonzero().flatten()[: options.images].tolist())
    print(f"resnet20, the first {len(of.samples)} images that are right, {torch.get_num_threads()} threads", flush=True)
    tallies = [Tally.of("auditkit, scan", OnePixel())]
    if not options.skip_evolution:
        evolution = OnePixel(search="evolution", population=POPULATION, generations=GENERATIONS)
        tallies.append(Tally.of("auditkit, evolution", evolution))
    compared(of, tallies)
    seconds = tallies[0].seconds / len(of.samples)
    few = chosen(of, range(options.peer_images))
    peers = (("torchattacks OnePixel", by_torchattacks), ("ART PixelAttack", by_art))
    for name, attack in peers if options.peer_images else ():
        began = time.perf_counter()
        attacked = attack(few)
        peer = (time.perf_counter() - began) / len(few.samples)
        with torch.no_grad():
            fooled = few.network(attacked).argmax(1) != few.samples.labels
        print(
            f"  {name:28}{peer:8.2f} s an image  success {fooled.float().mean():.2%} of {len(few.samples)}"
            f"  auditkit's scan is {peer / seconds:.0f}x faster",
            flush=True,
        )


if __name__ == "__main__":
    main()
