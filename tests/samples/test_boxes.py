"""Images with boxes: where they are found, whose class a category is, and what a broken file is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from auditkit.errors import ExecutionError, UsageError
from auditkit.samples import Objects, Samples, join_samples, open_dataset


def make(folder, annotations, categories, images=("a.png", "b.png"), size=(40, 20)):
    """Write images of width 40 and height 20, and a COCO file about them."""
    pictures = folder / "images"
    pictures.mkdir(exist_ok=True)
    for number, name in enumerate(images):
        path = pictures / Path(name).name
        Image.fromarray(np.full((size[1], size[0], 3), 40 * number, dtype=np.uint8)).save(path)
    listed = [{"id": number, "file_name": name} for number, name in enumerate(images)]
    file = folder / "boxes.json"
    file.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return pictures, file


PERSON, CAR = {"id": 3, "name": "person"}, {"id": 7, "name": "car"}


def box(image=0, category=3, bbox=(10, 5, 20, 10), **more):
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def test_boxes_become_shares_of_the_image_and_stay_so_when_it_is_resized(tmp_path):
    pictures, file = make(tmp_path, [box(), box(1, 7, (-4, 0, 8, 40))], [CAR, PERSON])
    dataset = open_dataset(pictures, boxes=file, resize=(10, 10))
    samples = dataset.read(0, 2).samples
    assert samples.images.shape == (2, 3, 10, 10)
    first, second = samples.objects
    assert torch.equal(first.boxes, torch.tensor([[0.25, 0.25, 0.75, 0.75]]))
    assert torch.allclose(second.boxes, torch.tensor([[0.0, 0.0, 0.1, 1.0]]))
    assert first.size == (20, 40)
    assert dataset.class_names == ("person", "car")
    assert samples.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("categories", "names", "wanted"),
    [
        ([CAR, PERSON], None, 0),
        ([{**CAR, "class_index": 1}, {**PERSON, "class_index": 5}], None, 5),
        ([{**CAR, "class_index": 1}, PERSON], None, 0),
        ([CAR, PERSON], ("sky", "Car", "Person"), 2),
    ],
    ids=["in the order of their ids", "as the file says", "not all say so", "by name"],
)
def test_a_category_is_the_class_that_it_says(tmp_path, categories, names, wanted):
    pictures, file = make(tmp_path, [box()], categories)
    samples = open_dataset(pictures, boxes=file, class_names=names).read(0, 1).samples
    assert samples.objects[0].classes.tolist() == [wanted]


def test_an_image_without_annotations_has_no_objects_and_a_box_outside_is_none(tmp_path):
    pictures, file = make(tmp_path, [box(bbox=(50, 5, 20, 10))], [PERSON])
    samples = open_dataset(pictures, boxes=file).read(0, 2).samples
    assert [len(each) for each in samples.objects] == [0, 0]
    assert samples.labels.tolist() == [0, 0]


def test_a_crowd_is_marked_and_is_never_the_main_object(tmp_path):
    crowd = box(category=7, bbox=(0, 0, 40, 20), iscrowd=1)
    pictures, file = make(tmp_path, [crowd, box()], [CAR, PERSON])
    objects = open_dataset(pictures, boxes=file).read(0, 1).samples.objects[0]
    assert objects.crowd.tolist() == [True, False]
    assert objects.main_class == 0


def test_images_in_subfolders_are_found_by_their_path_and_else_by_their_name(tmp_path):
    pictures, file = make(tmp_path, [box()], [PERSON], images=("somewhere/else/a.png",))
    assert open_dataset(pictures, boxes=file).read(0, 1).samples.ids == ("somewhere/else/a.png",)


@pytest.mark.parametrize(
    ("annotations", "categories", "images", "message"),
    [
        ([box(category=9)], [PERSON], ("a.png",), "annotations.0: there is no category 9"),
        ([{"image_id": 0, "category_id": 3}], [PERSON], ("a.png",), "annotations.0: there is no bbox"),
        ([box(image=8)], [PERSON], ("a.png",), "there is no image 8"),
        ([box()], [], ("a.png",), "no categories"),
        ([box()], [{**PERSON, "class_index": 0}, {**CAR, "class_index": 0}], ("a.png",), "two categories"),
        ([box()], [PERSON], ("../a.png",), "lies outside"),
        ([box()], [PERSON], ("a.png", "a.png"), "listed twice"),
        ([box(bbox=(0, 0, -1, 5))], [PERSON], ("a.png",), "greater than or equal to 0"),
    ],
)
def test_a_file_that_cannot_be_right_is_told_what_is_wrong(tmp_path, annotations, categories, images, message):
    pictures, file = make(tmp_path, annotations, categories, images)
    with pytest.raises(ExecutionError, match=message) as caught:
        open_dataset(pictures, boxes=file)
    assert "\n" not in str(caught.value)


def test_a_category_that_is_no_class_name_is_told_the_nearest(tmp_path):
    pictures, file = make(tmp_path, [box()], [PERSON])
    with pytest.raises(ExecutionError, match="did you mean persona"):
        open_dataset(pictures, boxes=file, class_names=("persona", "car"))


def test_missing_files_and_options_of_classifiers_are_told(tmp_path):
    pictures, file = make(tmp_path, [box()], [PERSON])
    with pytest.raises(UsageError, match=r"no such file of boxes; did you mean boxes\.json"):
        open_dataset(pictures, boxes=tmp_path / "boxs.json")
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset(tmp_path / "nowhere", boxes=file)
    with pytest.raises(UsageError, match="--masks goes with the images of a classifier"):
        open_dataset(pictures, boxes=file, masks=pictures)
    with pytest.raises(UsageError, match="--boxes goes with a folder"):
        open_dataset(np.zeros((1, 4, 4, 3), dtype=np.uint8), boxes=file)


def test_a_missing_image_is_told_or_skipped(tmp_path):
    pictures, file = make(tmp_path, [box()], [PERSON])
    (pictures / "b.png").unlink()
    with pytest.raises(ExecutionError, match=r"b\.png"):
        open_dataset(pictures, boxes=file).read(0, 2)
    read = open_dataset(pictures, boxes=file, skip_bad=True).read(0, 2)
    assert [skipped.id for skipped in read.skipped] == ["b.png"]
    assert len(read.samples.objects) == 1


def objects(count=1, size=(4, 4)):
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(count, 4).contiguous()
    return Objects(boxes, torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool), size)


def test_objects_travel_with_their_samples():
    images = torch.zeros(3, 3, 4, 4)
    samples = Samples(images, torch.tensor([0, 1, 2]), ("a", "b", "c"), objects=tuple(objects(n) for n in (1, 2, 3)))
    taken = samples.take([2, 0]).to("cpu").shifted(4)
    assert [len(each) for each in taken.objects] == [3, 1]
    assert taken.objects[0].classes.tolist() == [4, 4, 4]
    assert taken.labels.tolist() == [6, 4]
    joined = join_samples([samples.take([0]), samples.take([1])])
    assert [len(each) for each in joined.objects] == [1, 2]
    assert samples.digests()[0] != Samples(images, samples.labels, samples.ids).digests()[0]
    other = Samples(images, samples.labels, samples.ids, objects=tuple(objects(n) for n in (2, 2, 3)))
    assert [a == b for a, b in zip(samples.digests(), other.digests(), strict=True)] == [False, True, True]
    with pytest.raises(ExecutionError, match="2 entries for 3 images"):
        Samples(images, samples.labels, samples.ids, objects=(objects(), objects()))


@pytest.mark.parametrize(
    "corners", [[0.5, 0.0, 0.5, 1.0], [-0.1, 0.0, 0.5, 1.0], [0.0, 0.0, 1.1, 1.0], [float("nan"), 0.0, 1.0, 1.0]]
)
def test_boxes_that_are_empty_or_outside_are_refused(corners):
    with pytest.raises(ExecutionError, match="empty or lies outside"):
        Objects(torch.tensor([corners]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool), (4, 4))
