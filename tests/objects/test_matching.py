"""Matching of detections to objects: nothing but what the whole of pycocotools says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_reference import precisions, whole_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auditkit.objects import matching
from auditkit.objects.matching import Annotated, Found, match
from auditkit.precision import IOU_THRESHOLDS, average_precision, check_matches

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def hits_and_ignored(evaluator):
    """Return the numbers of detections and, at each threshold, of hits and of ignored ones, by image and category."""
    table = {}
    for each in evaluator.evalImgs:
        if each is not None and each["dtIds"]:
            matched, ignored = each["dtMatches"] > 0, each["dtIgnore"].astype(bool)
            counts = np.stack([matched & ~ignored, ignored]).tolist()
            table[each["image_id"], each["category_id"]] = each["dtScores"], counts
    return table


# A coarse grid makes equal overlaps, overlaps on a threshold, and empty boxes; few scores make ties.
places = st.tuples(*[st.integers(0, 8)] * 4).map(
    lambda box: np.array([min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]) / 8
)
categories = st.integers(0, 2)


@st.composite
def an_image(draw):
    seen = draw(st.lists(st.tuples(places, categories, st.integers(0, 20)), max_size=8))
    true = draw(st.lists(st.tuples(places, categories, st.booleans()), max_size=6))
    for box, category, _ in draw(st.permutations(true)):
        if draw(st.booleans()):
            nudge = np.array(draw(st.tuples(*[st.integers(-1, 1)] * 2))) / 32
            seen.append((np.clip(box + np.tile(nudge, 2), 0, 1), category, draw(st.integers(0, 20))))
    size = draw(st.tuples(st.integers(1, 500), st.integers(1, 500)))
    return (
        Found(
            np.array([each[0] for each in seen], dtype=np.float32).reshape(-1, 4),
            np.array([each[2] for each in seen], dtype=np.float32) / 20,
            np.array([each[1] for each in seen], dtype=np.int64),
        ),
        Annotated(
            np.array([each[0] for each in true], dtype=np.float64).reshape(-1, 4),
            np.array([each[1] for each in true], dtype=np.int64),
            np.array([each[2] for each in true], dtype=np.bool_),
            size,
        ),
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(an_image(), min_size=1, max_size=4), st.sampled_from([1, 3, 100]))
def test_every_match_is_that_of_pycocotools(images, most):
    found, annotated = zip(*images, strict=True)
    matches = match(found, annotated, range(len(images)), most)
    assert check_matches(matches, len(images)) is None
    reference = whole_pipeline(found, annotated, most)
    ours = {}
    for row, category in sorted({*zip(matches.image.tolist(), matches.category.tolist(), strict=True)}):
        here = (matches.image == row) & (matches.category == category)
        counts = np.stack([matches.hit[here].T, matches.ignored[here].T]).tolist()
        ours[row, category] = matches.score[here].tolist(), counts
    assert ours == hits_and_ignored(reference)
    wanted = precisions(reference)
    for column, iou in enumerate([*IOU_THRESHOLDS, None]):
        estimate = average_precision(matches, len(images), iou)
        if wanted is None:
            assert estimate is None
        else:
            assert estimate.value == pytest.approx(wanted[column], abs=1e-12)


def one(boxes, scores=None, crowd=None, categories=None, size=(100, 100)):
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    categories = np.zeros(len(boxes), np.int64) if categories is None else np.array(categories)
    if scores is None:
        return Annotated(boxes, categories, np.zeros(len(boxes), bool) if crowd is None else np.array(crowd), size)
    return Found(boxes, np.array(scores, dtype=np.float32), categories)


def test_boxes_reach_pycocotools_in_pixels_of_the_images_own_width_and_height():
    boxes = matching._in_pixels(np.array([[0.1, 0.2, 0.5, 0.6]]), (100, 1000))
    assert boxes == pytest.approx(np.array([[100, 20, 400, 40]]))


def test_an_overlap_counts_at_each_threshold_up_to_itself():
    matches = match([one([[0, 0, 0.5, 0.5]], [0.9])], [one([[0, 0, 0.5, 0.6]])], [0])
    assert matches.hit.tolist() == [[True] * 7 + [False] * 3]  # five sixths


def test_a_second_detection_of_an_object_is_a_miss_and_the_surer_one_the_hit():
    box = [0.1, 0.1, 0.4, 0.4]
    matches = match([one([box, box], [0.3, 0.8])], [one([box])], [0])
    assert matches.score.tolist() == pytest.approx([0.8, 0.3])
    assert matches.hit.all(axis=1).tolist() == [True, False]
    assert not matches.hit[1].any()


def test_a_crowd_takes_any_number_of_detections_out_of_the_count_and_is_no_object():
    crowd = [0.0, 0.0, 1.0, 1.0]
    inside = [[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]]
    matches = match([one(inside, [0.3, 0.8])], [one([crowd], crowd=[True])], [0])
    assert matches.ignored.all()
    assert not matches.hit.any()
    assert matches.object_image.size == matches.object_category.size == 0


def test_draws_of_one_image_keep_its_row_and_list_its_objects_each_time():
    box = [0.1, 0.1, 0.4, 0.4]
    seen, true = one([box, box], [0.9, 0.8], categories=[2, 5]), one([box], categories=[5])
    matches = match([seen, seen, seen], [true, true, true], [4, 4, 1])
    assert matches.image.tolist() == [4, 4, 4, 4, 1, 1]
    assert matches.category.tolist() == [2, 5] * 3
    assert matches.hit.all(axis=1).tolist() == [False, True] * 3
    assert (matches.object_image.tolist(), matches.object_category.tolist()) == ([4, 4, 1], [5, 5, 5])


def test_images_without_anything_match_nothing_and_print_nothing(capsys):
    for entries in (0, 2):
        matches = match([one([], [])] * entries, [one([])] * entries, range(entries))
        assert check_matches(matches, entries) is None
        assert (len(matches.image), len(matches.object_image)) == (0, 0)
    match([one([[0, 0, 1, 1]], [0.5])], [one([[0, 0, 1, 1]])], [0])
    assert capsys.readouterr() == ("", "")


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="not 1, 2 and 1 of them"):
        match([one([], [])], [one([])] * 2, [0])


def suppressed(boxes, scores, classes):
    """Return the rows that per-class suppression at 0.45 leaves, the best first."""
    kept = []
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] <= 0.01:
            break
        rivals = [other for other in kept if classes[other] == classes[row]]
        if all(overlap(boxes[row], boxes[other]) <= 0.45 for other in rivals):
            kept.append(row)
    return kept


def overlap(first, second):
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = sides.clip(0).prod()
    return shared / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - shared)


@pytest.mark.skipif(not (SHARED / "coco" / "fastestdet.safetensors").exists(), reason="no COCO sample in shared/data")
def test_the_real_detector_on_real_images_has_its_published_precision():
    spec = importlib.util.spec_from_file_location("shared_models", SHARED / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    network = models.fastestdet_rgb(SHARED / "coco" / "fastestdet.safetensors")
    coco_file = json.loads((SHARED / "coco" / "annotations.json").read_text())
    index = {each["id"]: each["class_index"] for each in coco_file["categories"]}
    pixels, annotated = [], []
    for image in coco_file["images"]:
        with Image.open(SHARED / "coco" / "images" / image["file_name"]) as opened:
            resized = opened.convert("RGB").resize((352, 352), Image.Resampling.BILINEAR)
        pixels.append(torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255)
        ours = [each for each in coco_file["annotations"] if each["image_id"] == image["id"]]
        boxes = np.array([each["bbox"] for each in ours], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes /= np.tile([image["width"], image["height"]], 2)
        classes = np.array([index[each["category_id"]] for each in ours], dtype=np.int64)
        crowd = np.zeros(len(ours), dtype=np.bool_)
        annotated.append(Annotated(boxes, classes, crowd, (image["height"], image["width"])))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            outputs = torch.cat([network(torch.stack(pixels[start : start + 16])) for start in (0, 16)])
    finally:
        torch.set_num_threads(threads)
    found = []
    for boxes, scores, classes in zip(*(each.numpy() for each in models.decode_detections(outputs)), strict=True):
        kept = suppressed(boxes, scores, classes)
        found.append(Found(boxes[kept].clip(0, 1), scores[kept], classes[kept]))
    matches = match(found, annotated, range(32))
    values = [average_precision(matches, 32, iou).value for iou in (0.5, 0.75, None)]
    assert values == pytest.approx([0.3977, 0.2634, 0.2422], abs=2e-4)
    assert values == pytest.approx(
        [precisions(whole_pipeline(found, annotated))[each] for each in (0, 5, 10)], abs=1e-12
    )
