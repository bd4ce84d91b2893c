"""FastestDet on some images of COCO, where the shared data are; a test without them is skipped, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from auditkit.imports import import_object
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing
from auditkit.objects.detector import Detector
from auditkit.objects.tryout import Reading, try_out_detector
from auditkit.samples import Samples, open_dataset

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
COCO = SHARED / "coco"


def fastest_detector(images: int) -> tuple[Detector, Samples]:
    """Return the detector, and the first few images with their objects."""
    if not COCO.is_dir():
        pytest.skip(f"NO REAL MODELS: {COCO} is absent")
    samples = open_dataset(COCO / "images", boxes=COCO / "annotations.json", resize=(352, 352)).read(0, images).samples
    factory, device = f"{SHARED / 'models.py'}:fastestdet_rgb", torch.device("cpu")
    loaded = load_model(factory, weights=COCO / "fastestdet.safetensors", device=device)
    reading = Reading(import_object(f"{SHARED / 'models.py'}:decode_detections"))
    return try_out_detector(loaded, Preprocessing(), samples.images, device, 16, 80, reading), samples
