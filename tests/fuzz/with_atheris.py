"""The same targets led by coverage: `python tests/fuzz/with_atheris.py TARGET [options of libFuzzer]`.

Optional: it needs `pip install atheris`. Mutations are those of `mutate`; what is new is that inputs which reach new
code are kept and mutated further. It stops at the first input that goes wrong, and libFuzzer saves it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["auditkit"]):
    from children import MODULES, targets_of
    from harness import Target, attempt
    from mutate import Draw, mutated

    TARGETS = {target.name: target for module in MODULES for target in targets_of(module)}


def main() -> None:
    """Fuzz the named target until something goes wrong, or until one of libFuzzer's limits (`-runs=1000`)."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"wanted a target: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv[1]]
    corpus = target.corpus()

    def mutation(data: bytes, longest: int, seed: int) -> bytes:
        draw = Draw(np.random.Generator(np.random.Philox(seed)))
        if target.mutate is not None and draw.chance(0.5):
            return target.mutate(data, draw)[:longest]
        return mutated(data, corpus, target.words, draw)[:longest]

    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as place:
        for number, data in enumerate(corpus):
            (Path(place) / str(number)).write_bytes(data)
        # libFuzzer has an alarm of its own: -timeout.
        options = ["-timeout=30", "-max_len=1000000", *sys.argv[2:], place]
        atheris.Setup([sys.argv[0], *options], lambda data: _try(target, data), custom_mutator=mutation)
        atheris.Fuzz()


def _try(target: Target, data: bytes) -> None:
    gone_wrong = attempt(target, data, seconds=0)
    if gone_wrong is not None:
        raise AssertionError("\n".join(gone_wrong))


if __name__ == "__main__":
    main()
