"""Render traffic signs into an .npz file: `python render.py FILE --count N --seed SEED`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from auditkit.demo.signs import CLASS_NAMES, render_signs


def main() -> None:
    """Write uint8 images `x`, labels `y` and the classes' `names`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True, help="another seed gives other signs")
    options = parser.parse_args()
    signs = render_signs(options.count, options.seed)
    np.savez_compressed(options.file, x=signs.images, y=signs.labels, names=np.array(CLASS_NAMES))


if __name__ == "__main__":
    main()
