"""Records of checks that the report treats in its own way: hard images, noticed stickers, bounded activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from understanding import check

from auditkit.result import CheckRecord, ExhibitRecord, PanelRecord, TableRecord
from auditkit.stats import mean, proportion

Arrays = dict[str, npt.NDArray[Any]]


def hard(arrays: Arrays, count: int = 6) -> CheckRecord:
    """A check that ranks images by how easily they fell."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(count):
        titles = ("clean: stop", "noise.pgd: yield", "pixel.one: no entry")
        names = {title: f"samples.hard/{number}/{title}" for title in titles}
        arrays.update({name: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for name in names.values()})
        rows.append(
            ExhibitRecord(
                sample=f"signs/stop/{number:05d}.png",
                caption=f"stop: withstands {10 + number}% of the attackers' effort",
                score=0.9 - number / 100,
                panels=tuple(PanelRecord(title=title, kind="image", array=name) for title, name in names.items()),
            )
        )
    return check(
        "samples.hard",
        "No image is much easier to fool than the others",
        "Some images hang by a thread.",
        metrics={"endurance": mean(rng.uniform(0, 1, 600)), "hard_share": proportion(60, 600)},
        exhibits=tuple(rows),
    )


def noticed(easiest: int = 90, hardest: int = 60, alarms: int | None = 29) -> CheckRecord:
    """A check that notices stickers, and has a table of more columns than an upright page holds."""
    metrics = {"strong_noticed": proportion(hardest, 100), "single_noticed": proportion(easiest, 100)}
    if alarms is not None:
        metrics["false_alarms"] = proportion(alarms, 600)
    columns = ("kind", *(f"largest activation of layer {number}" for number in range(14)))
    table = TableRecord(
        title="Kind by kind",
        columns=columns,
        rows=tuple((f"/layer1/layer{n}.0/Relu_1", *(1234567.0 / (n + k + 1) for k in range(14))) for n in range(16)),
    )
    return check("detect.stickers", "Stickers are noticed", "They should be.", metrics=metrics, tables=(table,))


def bounded(plain: int = 20, with_bounds: int = 50, *, clean: bool = True) -> CheckRecord:
    """A check that compares a network with its bounded copy, on 100 images."""
    metrics = {"robust_accuracy": proportion(plain, 100), "bounded_robust_accuracy": proportion(with_bounds, 100)}
    if clean:
        metrics |= {"clean_accuracy": proportion(93, 100), "bounded_clean_accuracy": proportion(91, 100)}
    return check("prevent.bounded", "Bounded activations help", "A shouting neuron misleads.", metrics=metrics)
