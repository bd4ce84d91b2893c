"""How many passes every installed check makes over a small subject: what the network computed, and what was reported.

    .venv/bin/python tests/helpers/pass_counts.py        # after a change that is meant: renews tests/pass_counts.json

Counts, not seconds: they are the same on a busy machine. Passes are counted where the network's first layer is
computed, below autograd, so that no copy of the network (folded, traced, with bounds put in) and no other way to it
goes uncounted. Rows that only fill a batch count too, since they are computed. A backward pass counts if it reaches the
images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy_detectors import SIDE, SquareDetector, toy_scenes

from auditkit.artifacts import Shelf
from auditkit.check import Findings, Finished, Lesson
from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.models.base import Model
from auditkit.objects.detector import Detector
from auditkit.plan import configure
from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries, find, load_check
from auditkit.samples import Samples
from auditkit.testing import run_check, run_learn, toy_detector, toy_model

STORED = Path(__file__).parents[1] / "pass_counts.json"
GROUPS = (CHECKS, DETECTOR_CHECKS)
RENEW = ".venv/bin/python tests/helpers/pass_counts.py"
# Images to judge, and to learn from: a detector of stickers learns from no fewer.
NUMBER, LESSONS = 16, 40

# Few steps are enough to see a pass too many. A check that is not named here runs as in its smallest preset.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    CHECKS: {
        "detect.stickers": {"queries": 10, "windows": 3, "peel": 1, "strong": False, "quiet": False},
        "explain.integrated": {"steps": 8},
        "explain.rise": {"masks": 100},
        "explain.smoothgrad": {"draws": 5},
        "noise.apgd": {"steps": 10, "targets": 2, "eps": "2/255"},
        "noise.minimal": {"steps": 10},
        "noise.steps": {"steps": 10},
        "noise.universal": {"steps": 10},
        "noise.worst": {"steps": 10, "targets": 2, "queries": 50, "eps": "2/255"},
        "patch.mask": {"steps": 10, "rounds": 2},
        "patch.universal": {"steps": 10},
        "physical.space": {"queries": 20, "shrinking": 20},
        "pixel.few": {"steps": 5, "queries": 50, "eps": "1, 3"},
        "pixel.one": {"queries": 256},
        "prevent.bounded": {"queries": 10, "steps": 3},
        "sanity.convergence": {"steps": 5},
    },
    DETECTOR_CHECKS: {
        "detect.stickers": {"steps": 5},
        "patch.dpatch": {"steps": 5, "area": "0.1"},
        "patch.vanish": {"steps": 5, "area": "0.1"},
    },
}

Counts = dict[str, int]


@dataclass
class Passes(TorchDispatchMode):
    """While it is entered, counts calls and rows of a network's first layer, forward and backward.

    The first layer is a convolution whose weights have this shape or, with None, a detector's pooling of windows.
    """

    weight: tuple[int, ...] | None
    forward_calls: int = 0
    forward_rows: int = 0
    backward_calls: int = 0
    backward_rows: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, backward = function.name(), "backward" in function.name()
        if self._is_first_layer(name, args, backward):
            # The gradient comes first in a backward function, the images in a forward one: both have a row an image.
            direction = "backward" if backward else "forward"
            setattr(self, f"{direction}_calls", getattr(self, f"{direction}_calls") + 1)
            setattr(self, f"{direction}_rows", getattr(self, f"{direction}_rows") + len(args[0]))
        return function(*args, **(kwargs or {}))

    def _is_first_layer(self, name: str, args: Sequence[Any], backward: bool) -> bool:
        if self.weight is None:
            return name.startswith("aten::avg_pool2d") and args[1 + backward] == [SIDE, SIDE]
        return name.startswith("aten::convolution") and tuple(args[1 + backward].shape) == self.weight


@dataclass(frozen=True)
class Subject:
    """What checks of a group are run on, and how the passes of its network are known."""

    model: Model | Detector
    samples: Samples
    weight: tuple[int, ...] | None
    finished: Mapping[str, Finished]


def subject(group: str) -> Subject:
    """Return the demo's network and the first images of each class, or a toy detector and scenes."""
    if group == DETECTOR_CHECKS:
        scenes = toy_scenes(2 * NUMBER)
        return Subject(toy_detector(SquareDetector(), scenes), scenes, None, {})
    with np.load(IMAGES) as signs:
        rows = [int(np.flatnonzero(signs["y"] == at % 10)[at // 10]) for at in range(NUMBER + LESSONS)]
        images, labels = torch.from_numpy(signs["x"][rows]), torch.from_numpy(signs["y"][rows])
        masks = torch.from_numpy(signs["masks"][rows])
    ids = tuple(f"{row:03d}" for row in rows)
    samples = Samples(images.permute(0, 3, 1, 2).contiguous() / 255, labels, ids, masks)
    network = sign_net()
    model = toy_model(network, samples.images)
    attack = configure(load_check(find("noise.pgd")), {"steps": 5, "eps": "4/255"}, "noise.pgd", "").check
    judged = samples.take(range(NUMBER))
    findings = run_check(attack, model, judged)
    finished = {"noise.pgd": Finished(attack, findings.columns, findings.attacked)}
    return Subject(model, samples, tuple(network.features[0].weight.shape), finished)


def counted(group: str, check_id: str, of: Subject) -> Counts:
    """Return the passes that a check makes, learning included, and those that it reports."""
    kind = load_check(find(check_id, entries(group)))
    presets = [chosen for chosen in map(kind.spec.presets.get, ("smoke", "standard", "full")) if chosen is not None]
    options = OPTIONS[group].get(check_id, presets[0] if presets else {})
    check = configure(kind, options, check_id, "").check
    judged, others = of.samples.take(range(NUMBER)), of.samples.take(range(NUMBER, len(of.samples)))
    context: dict[str, Any] = {"finished": of.finished} if check.spec.reads else {}
    lesson: Lesson = {}
    with Passes(of.weight) as passes:
        if check.spec.scope == "outside":
            context["calibration"] = Shelf(of.model, judged).samples
        if check.spec.scope != "sample":
            lesson = run_learn(check, of.model, others, **context)
        findings = run_check(check, of.model, judged, lesson=lesson, **context)
    return {name: count for name, count in asdict(passes).items() if name != "weight"} | _reported(findings)


def _reported(findings: Findings) -> Counts:
    reported = {"forward": findings.forwards, "backward": findings.backwards}
    return {f"reported_{name}": int(each.sum()) for name, each in reported.items() if each is not None}


def stored() -> dict[str, dict[str, Counts]]:
    """Return the expected counts, by group and id."""
    expected: dict[str, dict[str, Counts]] = json.loads(STORED.read_text(encoding="utf-8"))
    return expected


def builtin(group: str) -> list[str]:
    """Return the ids of a group that come with auditkit itself."""
    return [entry.id for entry in entries(group) if entry.distribution.split()[0] == "auditkit"]


def main() -> None:
    """Count everything anew and store it."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, Counts]] = {}
    for group in GROUPS:
        of = subject(group)
        found[group] = {check_id: counted(group, check_id, of) for check_id in builtin(group)}
    STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"written: {STORED}\n")


if __name__ == "__main__":
    main()
