"""The cover sweep beside captum's Occlusion: the same network object, images, windows and threads, in one run.

python -m benchmarks.occlusion [--images 16] [--strides 4,1] [--threads 0] [--rounds 7] [--cpu-time] [--data FOLDER]

Both map the same ResNet-20 with windows of 8 pixels that show the image's mean colour. Captum is timed with one window
a call (its default; in the first round only), and with several; it gets one image a call, or more. The ways take turns
in every round; each line gives the median of the rounds and the least. What auditkit prepares once an audit (its folded
copy) is not in its time; its map and all scores are. On a busy machine, compare the processor's time of one thread:
--threads 1 --cpu-time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import torch
from captum.attr import Occlusion  # type: ignore[import-untyped]
from torch import Tensor, nn

from auditkit.artifacts import Shelf
from auditkit.config import settings_from
from auditkit.covers import QUICK_LOGITS, CoverSweep, Windows, filling, pixel_map
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.workbench import Recipe, Workbench

DATA = Path(__file__).parents[2] / "shared" / "data"
WINDOW = 8
PER_EVAL = (7, 16, 49)
DEFAULT = "captum, default, one image a call"


def grid(samples: Samples, stride: int) -> Windows:
    """Return the windows that both cover the images with."""
    _, height, width = samples.images[0].shape
    return Windows.grid(height, width, (WINDOW, WINDOW), (stride, stride))


def own_map(bench: Workbench, samples: Samples, classes: Tensor, windows: Windows) -> Tensor:
    """Return (N, H, W) as explain.occlusion does, from a sweep that keeps all scores."""
    shelf = Shelf(bench.model, samples)
    covered = shelf.get(CoverSweep(windows).artifact)
    at = classes.view(-1, 1, 1).expand(-1, len(windows), 1)
    clean = shelf.get(QUICK_LOGITS).gather(1, classes.unsqueeze(1))
    return pixel_map(clean - covered.gather(2, at).squeeze(2), windows)


def captum_map(
    network: nn.Module, samples: Samples, classes: Tensor, stride: int, together: int, per_eval: int
) -> Tensor:
    """Return captum's map (N, H, W), `together` images and `per_eval` windows a call."""
    occlusion = Occlusion(network)
    fill = filling("mean", grid(samples, stride))
    maps = []
    with torch.no_grad():
        for images, chosen in _parts(samples.images, classes, together):
            attributions = occlusion.attribute(
                images,
                sliding_window_shapes=(images.shape[1], WINDOW, WINDOW),
                strides=(images.shape[1], stride, stride),
                baselines=fill(images).expand_as(images),
                target=chosen,
                perturbations_per_eval=per_eval,
            )
            maps.append(attributions[:, 0])
    return torch.cat(maps)


def _parts(images: Tensor, classes: Tensor, together: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(images), together):
        yield images[start : start + together], classes[start : start + together]


def seconds_of(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the times of each way; they take turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            if number == 0 or name != DEFAULT:
                began = clock()
                way()
                seconds[name].append(clock() - began)
    return seconds


def compare(
    bench: Workbench, network: nn.Module, samples: Samples, stride: int, rounds: int, clock: Callable[[], float]
) -> None:
    """Print the table of one stride."""
    classes = bench.model.logits(samples.images).argmax(1)
    windows = grid(samples, stride)
    n, pairs = len(samples), len(samples) * len(windows)
    print(f"window {WINDOW}, stride {stride}: {n} images x {len(windows)} windows = {pairs} covered images")

    def captum(together: int, per_eval: int) -> Callable[[], Tensor]:
        return lambda: captum_map(network, samples, classes, stride, together, per_eval)

    ways: dict[str, Callable[[], Tensor]] = {"auditkit": lambda: own_map(bench, samples, classes, windows)}
    ways[DEFAULT] = captum(1, 1)
    ways[f"captum, default, {n} images a call"] = captum(n, 1)
    for per_eval in PER_EVAL:
        ways[f"captum, {per_eval} windows a call, one image"] = captum(1, per_eval)
    for together in sorted({4, n}):
        ways[f"captum, 8 windows a call, {together} images"] = captum(together, 8)
    difference = (ways["auditkit"]() - captum(n, 8)()).abs().max()
    scale = captum(n, 8)().abs().max()
    print(f"  largest difference of the maps: {difference:.1e}, of a map's largest value {scale:.3g}")
    rows = {name: (median(times), min(times)) for name, times in seconds_of(ways, rounds, clock).items()}
    own = rows["auditkit"]
    for name, (middle, least) in rows.items():
        each = f"{middle / pairs * 1e6:9.0f} us a covered image (least {least / pairs * 1e6:.0f})"
        print(f"  {name:40}{each}{middle / own[0]:8.2f} x auditkit")
    best = [min(row[at] for name, row in rows.items() if name.startswith("captum")) for at in (0, 1)]
    print(
        f"  times as fast as captum: {rows[DEFAULT][0] / own[0]:.2f} (its default), {best[0] / own[0]:.2f} (its best; "
        f"by the least times {best[1] / own[1]:.2f})"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--strides", default="4,1")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
    sys.path.insert(0, str(options.data))
    import models  # type: ignore[import-not-found]

    network = models.resnet20(options.data / "cifar10" / "resnet20.safetensors")
    settings = settings_from({"limit": options.images, "device": "cpu", "precision": "float32"})
    began = time.perf_counter()
    bench = set_up(Recipe(network, str(options.data / "cifar10" / "images_600.npz"), settings))
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "unknown"
    print(f"ResNet-20, {torch.get_num_threads()} threads, load {load}, set-up {time.perf_counter() - began:.1f} s")
    samples = bench.read(0, options.images).samples
    for stride in options.strides.split(","):
        compare(bench, network, samples, int(stride), options.rounds, clock)


if __name__ == "__main__":
    main()
