"""One table of all attacks that have a peer: how many times as fast as it, and how close to the network's own limit.

    python -m benchmarks [--only noise.pgd ...] [--threads 1] [--cifar10 FOLDER]

Small sizes, so that the whole takes a few minutes on one thread: a table to notice a loss with. Figures to quote come
from the modules themselves (`python -m benchmarks.pgd` and so on), which also compare what the attacks achieve.

*Times as fast*: processor time of the fastest peer over auditkit's, for the same network, images, budget and steps or
queries; a peer's fixed steps beside auditkit's early end are part of the comparison. *Of the limit*: the time that the
passes would take which the check reports, made by nothing but the network as it came (plain float32, in batches of
128), over the time that the check took. It is above 100 % where the copy that searches is faster than the network.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from auditkit.check import Check
from auditkit.plan import Planned
from auditkit.preparing import set_up
from auditkit_plugins.minimal import Minimal
from auditkit_plugins.occlusion import Occlusion
from auditkit_plugins.one_pixel import OnePixel
from auditkit_plugins.pgd import PGD
from auditkit_plugins.square import Square
from auditkit_plugins.worst import Worst
from benchmarks import minimal, occlusion, pgd, pixel, square
from benchmarks.subjects import BATCH, CIFAR10, Subject, subject

EPS = 1 / 255
STEPS = 50
QUERIES = 200
STRIDE = 4
# A tenth of the paper's; its own would take minutes an image.
GENERATIONS = 10
_ROUNDS = 5

Peer = Callable[[Subject], object]


@dataclass(frozen=True)
class Comparison:
    """A check, on how many images it is tried, and its peers by name, each with the package that it needs."""

    check: Check
    images: int
    peers: Mapping[tuple[str, str], Peer]
    """By (name, import package)."""


@dataclass(frozen=True)
class Limit:
    """Seconds of the processor an image for a forward pass, and for a forward and a backward pass."""

    forward: float
    both: float


def comparisons() -> dict[str, Comparison]:
    """Return what is compared, by the id of the check."""
    budget = {"eps": (EPS,)}
    return {
        "noise.pgd": Comparison(
            PGD(**budget, steps=pgd.STEPS),
            64,
            {
                ("torchattacks", "torchattacks"): lambda of: pgd.torchattacks_pgd(of.network, of.samples, EPS),
                ("Foolbox", "foolbox"): lambda of: pgd.foolbox_pgd(of.network, of.samples, EPS),
                ("ART", "art"): lambda of: pgd.art_pgd(of.network, of.samples, EPS),
            },
        ),
        "noise.square": Comparison(
            Square(**budget, queries=QUERIES),
            16,
            {("ART", "art"): lambda of: square.art_square(of, EPS, QUERIES)},
        ),
        "noise.worst": Comparison(Worst(**budget), 4, {("AutoAttack", "pyautoattack"): by_autoattack}),
        "pixel.one": Comparison(
            OnePixel(search="evolution", population=pixel.POPULATION, generations=GENERATIONS),
            2,
            {("torchattacks", "torchattacks"): by_evolution},
        ),
        "explain.occlusion": Comparison(
            Occlusion(window=occlusion.WINDOW, stride=STRIDE), 32, {("captum", "captum"): by_captum}
        ),
        "noise.minimal": Comparison(
            Minimal(steps=STEPS),
            16,
            {
                ("adv_lib FMN", "adv_lib"): lambda of: by_minimum_norm(of, "adv_lib FMN, first step 1"),
                ("Foolbox FMN", "foolbox"): lambda of: by_minimum_norm(of, "Foolbox FMN"),
            },
        ),
    }


def by_autoattack(of: Subject) -> object:
    """Run the standard version."""
    from pyautoattack import AutoAttack

    peer = AutoAttack(of.network, norm="Linf", eps=EPS, version="standard", seed=0, device="cpu")
    return peer.run_standard_evaluation(of.samples.images, of.samples.labels, batch_size=BATCH)


def by_evolution(of: Subject) -> object:
    """Run OnePixel with the paper's population."""
    import torchattacks

    attack = torchattacks.OnePixel(
        of.network, pixels=1, steps=GENERATIONS, popsize=pixel.POPULATION, inf_batch=pixel.POPULATION
    )
    return attack(of.samples.images, of.samples.labels)


def by_captum(of: Subject) -> object:
    """Run captum's Occlusion with several windows a call, on all images at once."""
    classes = of.model.logits(of.samples.images).argmax(1)
    return occlusion.captum_map(of.network, of.samples, classes, STRIDE, len(of.samples), 8)


def by_minimum_norm(of: Subject, name: str) -> object:
    """Run one of the peers of benchmarks.minimal."""
    attack = minimal.peers("linf", STEPS)[name]
    return attack(of.network, of.samples.images.clone(), of.samples.labels.clone())


def opened(folder: Path, images: int) -> Subject:
    """Return the ResNet-20 of `folder` and its images, or the demo's where there is no such folder."""
    if (folder / "resnet20.onnx").is_file():
        return subject(folder, "resnet20", images)
    bench = set_up(pgd.recipe(None, images))
    model = bench.classifier
    assert model.exact is not None
    return Subject("demo", bench, model, model.exact.network, bench.read(0, images).samples)


def limit(of: Subject) -> Limit:
    """Measure the bare passes of the network as it came."""
    images = of.samples.images[:BATCH]
    images = images.repeat(-(-BATCH // len(images)), 1, 1, 1)[:BATCH]

    def forward() -> None:
        with torch.no_grad():
            of.network(images)

    def both() -> None:
        leaf = images.clone().requires_grad_(True)
        torch.autograd.grad(of.network(leaf).amax(1).sum(), leaf)

    return Limit(*(min(seconds(each) for _ in range(_ROUNDS)) / BATCH for each in (forward, both)))


def seconds(run: Callable[[], object]) -> float:
    """Return the processor's time, of all threads: unlike the clock's, it hardly changes on a busy machine."""
    began = time.process_time()
    run()
    return time.process_time() - began


def line(check_id: str, comparison: Comparison, folder: Path) -> str:
    """Compare, and return a line of the table."""
    of = opened(folder, comparison.images)
    bare = limit(of)
    done: list[Any] = []
    planned = Planned(check_id, comparison.check, "benchmark", {})
    n = len(of.samples)
    own = seconds(lambda: done.append(of.bench.run(planned, of.samples, lambda _: None).findings)) / n
    forwards, backwards = (0 if each is None else each.mean() for each in (done[0].forwards, done[0].backwards))
    needed = (forwards - backwards) * bare.forward + backwards * bare.both
    installed = {
        name: run for (name, package), run in comparison.peers.items() if importlib.util.find_spec(package) is not None
    }
    # What peers say while they work would stand between the lines.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        peers = {name: seconds(lambda run=run: run(of)) / n for name, run in installed.items()}
    fastest = min(peers, key=peers.__getitem__, default=None)
    ratio = "not installed" if fastest is None else f"{peers[fastest] / own:.1f} x {fastest}"
    return f"{check_id:18}{n:7}{own:12.3f}{forwards:9.1f}{backwards:9.1f}{needed / own:14.0%}   {ratio}"


def main() -> None:
    """Print the table."""
    known = comparisons()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(known), default=list(known))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cifar10", type=Path, default=CIFAR10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    packages = {package for one in known.values() for _, package in one.peers}
    missing = sorted(package for package in packages if importlib.util.find_spec(package) is None)
    if missing:
        print(f"peers not installed: {', '.join(missing)} (make bench installs them)")
    print(f"{opened(options.cifar10, 1).name}, {torch.get_num_threads()} threads")
    print(
        f"{'check':18}{'images':>7}{'s an image':>12}{'forward':>9}{'backward':>9}{'of the limit':>14}   times as fast"
    )
    for check_id in options.only:
        torch.manual_seed(0)
        print(line(check_id, known[check_id], options.cifar10), flush=True)
    print(f"{time.process_time():.0f} s of the processor in all")


if __name__ == "__main__":
    main()
