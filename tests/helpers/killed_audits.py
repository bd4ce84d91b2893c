"""Audits that are killed at random moments and gone on with: `python killed_audits.py FOLDER TRIALS WORKERS SEED`.

Prints one JSON text a trial: how long the audit had been at work when it was killed (of how long it takes), what was
stored by then, and what differs in the end from an audit that nobody killed (nothing, it is hoped).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from auditkit import audit
from auditkit.journal import UNFINISHED
from auditkit.testing import LinearModel, toy_samples

CHECKS = ("noise.pgd", "noise.universal", "samples.hard", "sanity.attacks", "explain.saliency")
SETTINGS = {
    "checks": CHECKS,
    "shard": 8,
    "precision": "float32",
    "options": {"noise.pgd": {"steps": 30}, "noise.universal": {"steps": 20}},
    "gates": ("noise.pgd/robust_accuracy >= 0.2",),
}


def made_files(folder: Path) -> tuple[Path, Path]:
    network = LinearModel(classes=3, seed=1).eval()
    samples = toy_samples(80, seed=2, network=network)
    torch.jit.script(network).save(folder / "model.pt")
    np.savez(folder / "data.npz", x=samples.images.numpy(), y=samples.labels.numpy())
    return folder / "model.pt", folder / "data.npz"


def forked(files: tuple[Path, Path], out: Path, workers: int) -> int:
    """Begin an audit in a process of its own; return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        audit(*files, out=out, workers=workers, **SETTINGS)
        code = 0
    finally:
        os._exit(code)


def differences(one: Path, two: Path) -> list[str]:
    """Return what is not the same in two folders of finished audits."""
    told = []
    for folder in (one, two):
        result = json.loads((folder / "result.json").read_bytes())
        del result["volatile"]
        for check in result["checks"]:
            del check["seconds"]
        told.append(result)
    found = [] if told[0] == told[1] else ["result.json"]
    for name in ("samples.npz", "exhibits.npz"):
        with np.load(one / name) as first, np.load(two / name) as second:
            same = first.files == second.files and all(
                np.array_equal(first[key], second[key], equal_nan=first[key].dtype.kind == "f") for key in first.files
            )
        found += [] if same else [name]
    return found + ([UNFINISHED] if (two / UNFINISHED).exists() else [])


def main(folder: Path, trials: int, workers: int, seed: int) -> None:
    torch.set_num_threads(1)
    draw = random.Random(seed)  # noqa: S311
    files = made_files(folder)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(forked(files, folder / "whole", workers), 0)[1]) == 0
    whole = time.monotonic() - began
    for trial in range(trials):
        out = folder / f"killed {trial}"
        moment = draw.uniform(0, whole)
        child = forked(files, out, workers)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stored = len(list(out.glob("units/*.npz")))
        code = os.waitstatus_to_exitcode(os.waitpid(forked(files, out, workers), 0)[1])
        differs = differences(folder / "whole", out) if code == 0 else [f"exit code {code}"]
        line = {"moment": moment, "of": whole, "died": died, "stored": stored, "differs": differs}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
