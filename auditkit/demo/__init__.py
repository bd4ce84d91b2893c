"""The demo: rendered traffic signs and a small network that reads them, both free of third-party rights."""

from __future__ import annotations

from pathlib import Path

__all__ = ["IMAGES", "WEIGHTS"]

WEIGHTS = Path(__file__).with_name("signs.safetensors")
"""The trained weights of `auditkit.demo.network.SignNet`."""

IMAGES = Path(__file__).with_name("signs.npz")
"""200 test images: `x` uint8 (200, 32, 32, 3), `y` int64 (200,), `masks` bool (200, 32, 32), and `names`."""
