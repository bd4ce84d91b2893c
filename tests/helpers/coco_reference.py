"""The whole of pycocotools as a reference: data sets in memory, evaluated without printing."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def whole_pipeline(found, annotated, most=100):
    """Return COCOeval after evaluate and accumulate; one COCO image for each entry, all areas alone."""
    images, objects, detections = [], [], []
    for row, (seen, true) in enumerate(zip(found, annotated, strict=True)):
        height, width = true.size
        images.append({"id": row, "height": height, "width": width})
        scale = np.array([width, height, width, height], dtype=np.float64)
        for box, category, crowd in zip(true.boxes * scale, true.categories, true.crowd, strict=True):
            objects.append({"image_id": row, "category_id": int(category), "iscrowd": int(crowd), **_corners(box)})
        for box, category, score in zip(seen.boxes * scale, seen.categories, seen.scores, strict=True):
            detections.append(
                {"image_id": row, "category_id": int(category), "score": float(np.float32(score)), **_corners(box)}
            )
    categories = sorted({each["category_id"] for each in objects + detections})
    truth = {"images": images, "annotations": _numbered(objects), "categories": [{"id": each} for each in categories]}
    claims = {**truth, "annotations": _numbered(detections)}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_coco(truth), _coco(claims), "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [most]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _corners(box):
    left, top, right, bottom = (float(each) for each in box)
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}


def _numbered(annotations):
    return [{"id": 1 + row, **each} for row, each in enumerate(annotations)]


def _coco(data):
    made = COCO()
    made.dataset = data
    made.createIndex()
    return made


def precisions(evaluator):
    """Return AP at each threshold, and their mean; None without an object."""
    precision = evaluator.eval["precision"][..., 0, 0]
    present = precision[:, :, (precision > -1).all(axis=(0, 1))]
    return [*present.mean(axis=(1, 2)), present.mean()] if present.size else None
