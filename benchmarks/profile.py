"""What profiling activations costs beside a bare forward pass of the same network, and how much memory it needs.

    python -m benchmarks.profile [--images 128] [--rounds 15] [--threads 1 2] [--cifar10 FOLDER]
    python -m benchmarks.profile --memory 1000 100000

Bare passes of the user's network and profiled ones, of the copy that an audit takes activations from, take turns, in
batches of 128. The first number of a line is the least time of each over the
other, which a busy machine disturbs least; the second is the median of the ratios of neighbours. With one thread it is
the processor's time that counts, with more the clock's.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from auditkit import ActivationTotals, Model, Samples, calibrate_activations, profile_activations
from auditkit.models.prepare import folded_copy, watched_copy
from auditkit.store import Unit
from auditkit.summaries import merge_tallies
from auditkit.testing import run_check, run_learn, toy_model
from auditkit_plugins.activation_profile import ActivationProfile
from benchmarks.subjects import BATCH, arguments, subject

_SHARD = 256
_CALIBRATION = 128


class Wide(nn.Module):
    """Seven convolutions of 64 to 256 channels: about 20 times the arithmetic of ResNet-20 for 1.4 times the values."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 64, 64, 128, 128, 256, 256, 256)
        strides = (1, 1, 2, 1, 2, 1, 1)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, 10)."""
        scores: Tensor = self.head(self.features(images).mean((2, 3)))
        return scores


class Tiny(nn.Module):
    """Two layers with a ReLU each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, 8)."""
        scores: Tensor = self.layers(images)
        return scores


def compare(name: str, model: Model, images: Tensor, rounds: int) -> None:
    """Print what a profiled pass takes beside a bare one."""
    assert model.exact is not None
    exact = replace(model.exact, batch=BATCH)
    watched = watched_copy(model, folded_copy(model, images), images)
    assert watched is not None
    watched = replace(watched, batch=BATCH)
    usual = calibrate_activations(watched, model.sites, images, [f"{at:06d}" for at in range(len(images))])
    totals = ActivationTotals.none(model.sites, images.device)
    passes: dict[str, Callable[[], object]] = {
        "bare": lambda: exact.logits(images),
        "profile": lambda: profile_activations(watched, model.sites, usual, images, totals),
        "with exact kurtosis": lambda: profile_activations(watched, model.sites, usual, images, totals, True),
        "numbers an image only": lambda: profile_activations(watched, model.sites, usual, images),
    }
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {which: [] for which in passes}
    for _ in range(rounds + 1):
        for which, run in passes.items():
            began = clock()
            run()
            taken[which].append(clock() - began)
    taken = {which: seconds[1:] for which, seconds in taken.items()}
    values = sum(int(np.prod(site.shape)) for site in model.sites)
    bare = min(taken["bare"])
    print(
        f"{name}, {torch.get_num_threads()} threads: {len(model.sites)} sites, {values} values an image; "
        f"bare {1e3 * bare / len(images):.2f} ms an image, {1e9 * bare / len(images) / values:.1f} ns a value; "
        f"profiled: {watched.description}",
        flush=True,
    )
    for which, seconds in taken.items():
        if which != "bare":
            ratios = [one / other for one, other in zip(seconds, taken["bare"], strict=True)]
            print(f"  {which:<22} {min(seconds) / bare:.2f}x (median {statistics.median(ratios):.2f}x)", flush=True)


def stream(images: int) -> None:
    """Profile images that are made shard by shard, merge what the shards found, and print the peak of memory."""
    torch.manual_seed(0)
    check, network = ActivationProfile(gallery=0), Tiny().eval()

    def shard(start: int, stop: int) -> Samples:
        pixels = torch.rand(stop - start, 3, 8, 8, generator=torch.Generator().manual_seed(start))
        labels = torch.zeros(stop - start, dtype=torch.int64)
        return Samples(pixels, labels, tuple(f"{at:06d}" for at in range(start, stop)))

    first = shard(0, _CALIBRATION)
    model = toy_model(network, first.images)
    lesson = run_learn(check, model, first)
    columns: list[dict[str, np.ndarray]] = []
    unit: Unit | None = None
    began = time.perf_counter()
    for start in range(0, images, _SHARD):
        samples = shard(start, min(start + _SHARD, images))
        findings = run_check(check, model, samples, lesson=lesson, batch=BATCH)
        columns.append({name: np.asarray(column) for name, column in findings.columns.items()})
        if unit is not None:
            merged = merge_tallies([unit.findings.tallies, findings.tallies])
            tallies = {name: replace(tally, array=merged[name]) for name, tally in findings.tallies.items()}
            findings = replace(findings, tallies=tallies)
        unit = Unit(replace(findings, columns={}), 0.0)
    assert unit is not None
    table = check.conclude({name: tally.array for name, tally in unit.findings.tallies.items()}).tables[0]
    kept = sum(column.nbytes for part in columns for column in part.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{images} images in shards of {_SHARD}: {peak:.0f} MiB at the peak, {kept / 2**20:.1f} MiB of it columns; "
        f"{time.perf_counter() - began:.0f} s; {table.rows[0][3]} values at the first site"
    )


def main() -> None:
    parser = arguments(__doc__, BATCH)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", type=int, nargs="+", metavar="IMAGES", help="measure memory instead of time")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        stream(options.stream)
        return
    if options.memory:
        # Each in a process of its own, for a peak is never forgotten.
        for images in options.memory:
            command = [sys.executable, "-m", "benchmarks.profile", "--stream", str(images)]
            subprocess.run(command, check=True)  # noqa: S603
        return
    narrow = subject(options.cifar10, "resnet20", options.images)
    torch.manual_seed(0)
    wide = toy_model(Wide().eval(), narrow.samples.images[:32])
    for threads in options.threads:
        torch.set_num_threads(threads)
        compare("ResNet-20", narrow.model, narrow.samples.images, options.rounds)
        compare("wide network", wide, narrow.samples.images, max(1, options.rounds // 5))


if __name__ == "__main__":
    main()
