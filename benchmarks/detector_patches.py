"""Patches against a detector, judged on every image: learned on either half of few images and judged on the other.

python -m benchmarks.detector_patches patch.vanish --steps 1000 --area 0.1,0.15,0.2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditkit import Detector, Differentiable, Findings, Samples, open_dataset
from auditkit.findings import metrics
from auditkit.joining import join_all_matches
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing
from auditkit.objects.tryout import Reading, search_detector, try_out_detector
from auditkit.plan import Planned, configure
from auditkit.registry import DETECTOR_CHECKS, entries, find, load_check
from auditkit.testing import run_check, run_learn

SHARED = Path(__file__).parents[2] / "shared" / "data"
COCO = SHARED / "coco"
SIZE = 352
SPLIT = 7000


@dataclass(frozen=True)
class Half:
    """One half of the images to learn from; the other is judged."""

    check_id: str
    options: Mapping[str, Any]
    onnx: bool
    which: int
    threads: int
    device: str


def decode(grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (N, M, 4) as shares, and scores of all classes (N, M, K), of FastestDet's grid (N, 5 + K, R, C)."""
    n, _, rows, columns = grid.shape
    at = [torch.arange(count, device=grid.device) for count in (rows, columns)]
    down, across = torch.meshgrid(*at, indexing="ij")
    x, y = (across + grid[:, 1].tanh()) / columns, (down + grid[:, 2].tanh()) / rows
    wide, high = grid[:, 3].sigmoid() / 2, grid[:, 4].sigmoid() / 2
    boxes = torch.stack([x - wide, y - high, x + wide, y + high], 3).reshape(n, -1, 4)
    return boxes, (grid[:, :1].pow(0.6) * grid[:, 5:].pow(0.4)).flatten(2).transpose(1, 2)


def planned(check_id: str, options: Mapping[str, Any]) -> Planned:
    kind = load_check(find(check_id, entries(DETECTOR_CHECKS)))
    return configure(kind, options, check_id, "benchmark")


def subject(onnx: bool, samples: Samples) -> tuple[Detector, Differentiable]:
    device = samples.images.device
    if onnx:
        loaded, steps = load_model(COCO / "fastestdet.onnx", device=device), Preprocessing(channel_order="bgr")
    else:
        factory = f"{SHARED / 'models.py'}:fastestdet_rgb"
        loaded, steps = load_model(factory, weights=COCO / "fastestdet.safetensors", device=device), Preprocessing()
    detector = try_out_detector(loaded, steps, samples.images, device, 32, 80, Reading(decode))
    search = search_detector(detector, samples.images, "float32")
    assert search is not None
    return detector, search


def judged(half: Half) -> tuple[Findings, float]:
    torch.set_num_threads(half.threads)
    dataset = open_dataset(COCO / "images", boxes=COCO / "annotations.json", resize=(SIZE, SIZE))
    samples = dataset.read(0, len(dataset)).samples.to(torch.device(half.device))
    order = np.random.default_rng(SPLIT).permutation(len(samples))
    halves = [sorted(part.tolist()) for part in np.array_split(order, 2)]
    detector, search = subject(half.onnx, samples)
    check = planned(half.check_id, half.options).check
    began = time.perf_counter()
    lesson = run_learn(check, detector, samples.take(halves[half.which]), search=search)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    return run_check(check, detector, samples.take(halves[1 - half.which]), search=search, lesson=lesson), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=["patch.vanish", "patch.dpatch"])
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one-by-one", action="store_true", help="Do not work on both halves at once.")
    known, more = parser.parse_known_args()
    options = {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(more[::2], more[1::2], strict=True)
    }
    halves = [Half(known.check, options, known.onnx, which, known.threads, known.device) for which in (0, 1)]
    with ProcessPoolExecutor(1 if known.one_by_one else 2) as pool:
        parts = list(pool.map(judged, halves))
    findings = [found for found, _ in parts]
    columns = {name: np.concatenate([each.columns[name] for each in findings]) for name in findings[0].columns}
    rows = [len(next(iter(each.columns.values()))) for each in findings]
    matches = join_all_matches([each.matches for each in findings], rows)
    spec = planned(known.check, options).check.spec
    estimates, _ = metrics(spec, columns, matches=matches)
    print(f"{known.check} {options}: learned in {', '.join(f'{seconds:.0f} s' for _, seconds in parts)}")
    for name, estimate in estimates.items():
        print(f"  {name:28} {estimate}")


if __name__ == "__main__":
    main()
