"""How much memory and time audits of different sizes take: each in a process of its own, with one thread.

The images are made from their numbers when they are read, so none of them is in memory before. Linux only: the peak is
what the kernel counted (VmHWM of /proc/self/status).

python -m benchmarks.memory [--images 1000 100000] [--side 32] [--checks noise.gaussian,noise.fgsm]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from auditkit import audit

CLASSES = 10
# One of each kind: plain columns, attacks whose images are kept, tallies, a gallery, a check that learns, one that
# reads the others, one that looks at a second data set.
CHECKS = (
    "noise.gaussian",
    "noise.fgsm",
    "noise.pgd",
    "noise.universal",
    "profile.activations",
    "profile.ood",
    "explain.saliency",
    "samples.hard",
)
OPTIONS: dict[str, dict[str, Any]] = {
    "noise.gaussian": {"eps": "8/255", "draws": 2},
    "noise.fgsm": {"eps": "12/255"},
    "noise.pgd": {"eps": "12/255", "steps": 3},
    "noise.universal": {"eps": "8/255", "steps": 20},
}
OUTSIDE_IMAGES = 512
MEBIBYTE = 1 << 20


class Generated:
    """Labelled images (side, side, 3) of soft stripes, of which each class has its own direction, under noise."""

    def __init__(self, images: int, side: int, seed: int = 0) -> None:
        self.images, self.seed = images, seed
        down, across = np.mgrid[0:side, 0:side] / side
        angles = np.arange(CLASSES) * np.pi / CLASSES
        waves = [np.sin(12 * (np.cos(angle) * across + np.sin(angle) * down)) for angle in angles]
        self._stripes = [(0.5 + 0.08 * wave[:, :, None]).astype(np.float32) for wave in waves]

    def __len__(self) -> int:
        """Return the number of images."""
        return self.images

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Make one image and its label."""
        if not 0 <= index < self.images:
            raise IndexError(index)
        stripes = self._stripes[index % CLASSES]
        rng = np.random.default_rng((self.seed, index))
        noisy = stripes + 0.15 * rng.standard_normal((*stripes.shape[:2], 3), dtype=np.float32)
        return (noisy.clip(0, 1) * 255).astype(np.uint8), index % CLASSES


def small_network() -> nn.Module:
    """Return a small convolutional network that was shown a few of the images."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )
    pairs = [Generated(512, 32, seed=1)[at] for at in range(512)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in pairs]) / 255
    labels = torch.tensor([label for _, label in pairs])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def peak_memory() -> int:
    """Return the most memory that this process has had in use so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(images: int, side: int, checks: tuple[str, ...]) -> dict[str, float]:
    """Audit so many images in this process and return what it took."""
    torch.set_num_threads(1)
    network = small_network()
    with tempfile.TemporaryDirectory() as folder:
        at_start, began = peak_memory(), time.perf_counter()
        audited = audit(
            network,
            Generated(images, side),
            checks=checks,
            options={check: OPTIONS[check] for check in checks if check in OPTIONS},
            ood=Generated(OUTSIDE_IMAGES, side, seed=2) if "profile.ood" in checks else None,
            out=folder,
        )
        seconds = time.perf_counter() - began
        sizes = {file.name: file.stat().st_size for file in Path(folder).iterdir() if file.is_file()}
    failed = [f"{check.key}: {check.reason}" for check in audited.result.checks if check.status != "done"]
    if failed:
        raise SystemExit("\n".join(failed))
    return {
        "images": images,
        "start": at_start,
        "peak": peak_memory(),
        "seconds": seconds,
        "writing": seconds - float(audited.result.volatile["seconds"]),
        "report": sizes["report.html"],
        "table": sizes["samples.npz"],
    }


def main() -> None:
    """Print a row for each number of images, and how far the peaks lie apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--side", type=int, default=32, help="height and width of an image")
    parser.add_argument("--checks", default=",".join(CHECKS))
    parser.add_argument("--here", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.images[0], options.side, tuple(options.checks.split(",")))))
        return
    print(f"{options.checks}, images of {options.side}x{options.side}, one thread")
    print(f"{'images':>9}{'peak MiB':>10}{'seconds':>10}{'end s':>8}{'report MiB':>12}{'table MiB':>11}")
    peaks = []
    for images in options.images:
        command = [sys.executable, "-m", "benchmarks.memory", "--here", "--images", str(images)]
        command += ["--side", str(options.side), "--checks", options.checks]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
        row = json.loads(told.splitlines()[-1])
        peaks.append(row["peak"] / MEBIBYTE)
        report, table = row["report"] / MEBIBYTE, row["table"] / MEBIBYTE
        print(
            f"{images:>9}{peaks[-1]:>10.0f}{row['seconds']:>10.1f}{row['writing']:>8.1f}{report:>12.2f}{table:>11.2f}",
            flush=True,
        )
    print(f"largest peak less smallest: {max(peaks) - min(peaks):.0f} MiB ('end s': assembling, judging and writing)")


if __name__ == "__main__":
    main()
