from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from auditkit.errors import UsageError
from auditkit.samples import open_dataset


class Counting:
    """A map data set that remembers what was asked of it."""

    def __init__(self, count=10, image=None, label=None):
        self.asked = []
        self.count = count
        self.image = image
        self.label = label

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        image = np.full((4, 5, 3), index % 256, np.uint8) if self.image is None else self.image
        return image, index % 3 if self.label is None else self.label


def everything(data, **options):
    dataset = open_dataset(data, **options)
    return dataset.read(0, len(dataset)).samples


def test_only_the_rows_asked_for_are_decoded_and_none_is_kept():
    rows = Counting(1_000_000)
    dataset = open_dataset(rows)
    assert rows.asked == [0]
    rows.asked.clear()
    dataset.read(500_000, 500_004)
    dataset.read(500_002, 500_003)
    assert rows.asked == [500_000, 500_001, 500_002, 500_003, 500_002]


def test_a_limit_takes_the_first_and_reads_no_more():
    rows = Counting()
    dataset = open_dataset(rows, limit=3)
    assert dataset.read(0, 3).samples.ids == ("0", "1", "2")
    assert max(rows.asked) == 2


RNG = np.random.default_rng(2)
HWC = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
CHW = HWC.transpose(2, 0, 1) / 255
IMAGES = {
    "pil": Image.fromarray(HWC),
    "uint8 HWC": HWC,
    "uint8 CHW": HWC.transpose(2, 0, 1),
    "uint8 tensor": torch.from_numpy(HWC),
    "float CHW": CHW,
    "float HWC": HWC / 255,
    "float tensor": torch.from_numpy(CHW).float().requires_grad_(),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_images_of_every_kind(image):
    images = everything(Counting(2, image)).images
    assert images.shape == (2, 3, 4, 5)
    assert np.allclose(images[0], CHW, atol=1e-6)


def test_where_both_axes_could_be_channels_the_habit_of_the_type_decides():
    cube = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    assert np.allclose(everything(Counting(1, cube)).images[0], cube.transpose(2, 0, 1) / 255)
    assert np.allclose(everything(Counting(1, cube / 255)).images[0], cube / 255)


def test_grey_images():
    assert everything(Counting(1, HWC[:, :, 0])).images.shape == (1, 1, 4, 5)
    assert everything(Counting(1, Image.fromarray(HWC).convert("L")), grey=False).images.shape == (1, 3, 4, 5)


@pytest.mark.parametrize("label", [2, np.int64(2), torch.tensor(2), np.array(2)])
def test_labels_of_every_integer_kind(label):
    assert everything(Counting(1, label=label)).labels.tolist() == [2]


def test_lists_of_pairs_and_tensor_datasets_are_map_datasets():
    assert len(everything([(HWC, 0), (HWC, 1)])) == 2
    assert len(everything(TensorDataset(torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2])))) == 3


def test_classes_and_ids_are_used():
    rows = Counting(3)
    rows.classes, rows.ids = ["a", "b", "c"], ["x", "y", 7]
    dataset = open_dataset(rows)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.read(0, 3).samples.ids == ("x", "y", "7")
    assert open_dataset(rows, class_names=["p", "q", "r"]).class_names == ("p", "q", "r")


def with_ids(*ids):
    rows = Counting(2)
    rows.ids = ids
    return rows


class Failing(Counting):
    def __getitem__(self, index):
        if index == 1:
            raise RuntimeError("first line\nsecond line")
        return super().__getitem__(index)


WRONG = {
    "empty": (Counting(0), ["no samples"]),
    "no pair": ([HWC], ["item 0", "wanted (image, label)", "ndarray"]),
    "triple": ([(HWC, 1, 2)], ["item 0", "tuple of 3"]),
    "float label": (Counting(label=1.0), ["item 0", "float"]),
    "text label": (Counting(label="cat"), ["item 0", "str"]),
    "negative label": (Counting(label=-1), ["item 0", "-1"]),
    "dictionary": (Counting(image={}), ["0 is a dict"]),
    "shape": (Counting(image=np.zeros((4, 4, 4))), ["(4, 4, 4)"]),
    "normalised": (Counting(image=CHW * 4 - 2), ["normalisation"]),
    "nan": (Counting(image=CHW * np.nan), ["NaN"]),
    "same ids": (with_ids("a", "a"), ["'a'"]),
    "few ids": (with_ids("a"), ["1 ids for 2"]),
    "raises": (Failing(), ["1 cannot be read", "RuntimeError: second line"]),
}


@pytest.mark.parametrize(("rows", "told"), WRONG.values(), ids=WRONG.keys())
def test_wrong_items_are_refused(rows, told, refused):
    with refused(*told):
        everything(rows)


def test_an_item_that_raises_can_be_skipped():
    read = open_dataset(Failing(4), skip_bad=True).read(0, 4)
    assert read.samples.ids == ("0", "2", "3")
    assert read.skipped[0].id == "1"


def test_a_label_beyond_the_classes_is_refused(refused):
    with refused("item 2", "2 class names"):
        everything(Counting(), class_names=["a", "b"])


FACTORY = """
import numpy as np

class Rows:
    classes = ["a", "b"]
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return np.full((4, 4, 3), index, np.uint8), index % 2

ready = Rows()
number = 3
def make(): return Rows()
def pair(): return np.zeros((2, 4, 4, 3), np.uint8), [0, 1]
def fail(): raise ValueError("no such thing")
def nothing(): return None
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    return tmp_path / "mine.py"


@pytest.mark.parametrize("name", ["make", "Rows", "ready", "pair"])
def test_factories_in_a_file(factory, name):
    before = list(sys.path)
    dataset = open_dataset(f"{factory}:{name}")
    assert dataset.source == f"{factory}:{name}"
    assert len(dataset) in (2, 4)
    assert sys.path == before


def test_factories_in_a_module(factory, monkeypatch):
    monkeypatch.syspath_prepend(factory.parent)
    assert len(open_dataset("mine:make", limit=3)) == 3


def test_wrong_factories_are_refused(factory, refused):
    with refused("fail", "ValueError: no such thing"):
        open_dataset(f"{factory}:fail")
    for name in ("nothing", "number"):
        with refused(f"{factory}:{name}", "wanted a folder", kind=UsageError):
            open_dataset(f"{factory}:{name}")
    with refused("did you mean make?", kind=UsageError):
        open_dataset(f"{factory}:maker")
