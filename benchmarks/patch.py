"""patch.universal on held-out images: what it may be put through, and where it is stuck.

    python -m benchmarks.patch [--images 600] [--steps 150] [--target CLASS] [--only NAME ...] [--cifar10 FOLDER]

Each row trains one patch on 5 % of the image and shows it to images that it has not seen, with a 95 % interval over
these images.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from auditkit.plan import Planned
from auditkit.stats import mean
from auditkit_plugins.universal_patch import UniversalPatch
from benchmarks.subjects import arguments, subject

AS_IT_IS: dict[str, Any] = {"turn": 0.0, "shrink": 0.0, "light": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "anywhere": {},
    "anywhere-as-it-is": AS_IT_IS,
    "best": {"place": "best"},
    "best-little": {"place": "best", "turn": 5.0, "shrink": 0.0, "light": 0.1},
    "best-as-it-is": {"place": "best", **AS_IT_IS},
}


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, 600)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--target", type=int, help="train for this class; none: the check tries the likely ones")
    parser.add_argument("--only", nargs="*", choices=sorted(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    of = subject(options.cifar10, "resnet20", options.images)
    held_out = torch.from_numpy(of.bench.held_out(of.samples.ids))
    training, judged = (of.samples.take(rows.nonzero().flatten().tolist()) for rows in (~held_out, held_out))
    print(f"resnet20, {len(training)} images to learn from, {len(judged)} to judge on", flush=True)
    for name in options.only:
        began = time.process_time()
        check = UniversalPatch(steps=options.steps, target=options.target, **SETTINGS[name])
        planned = Planned("patch.universal", check, "", {})
        lesson = of.bench.learn(planned, training, {})
        columns = of.bench.run(planned, judged, lambda _: None, lesson).findings.columns
        aimed_at = columns["aimed_at"]
        print(f"  {name:20}{time.process_time() - began:6.0f} s of the processor", end="")
        for what in ("fooled", "fooled_by_noise", "fooled_by_grey"):
            share = mean(columns[f"{what}@0.05"][aimed_at].astype(np.float64))
            print(f"  {what} {share.value:.1%} ({share.low:.1%} to {share.high:.1%})", end="")
        place = lesson.get("place@0.05")
        where = "" if place is None else f", {place[0]:.2f} down and {place[1]:.2f} across"
        print(f"  {aimed_at.sum()} images, class {int(lesson['dominant@0.05'])}{where}", flush=True)


if __name__ == "__main__":
    main()
