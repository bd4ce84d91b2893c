"""Images without labels: opened from whatever holds them, with the same pixels, and refused in one line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from auditkit.errors import UsageError
from auditkit.samples import open_dataset, open_images

SHARED = Path(__file__).parents[3] / "shared" / "data"
PIXELS = np.random.default_rng(4).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


class Items:
    """A map data set of images alone."""

    ids = tuple("abcdef")

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        return Image.fromarray(PIXELS[index])


class Pairs(Items):
    def __getitem__(self, index):
        return PIXELS[index], "a label of no use"


@pytest.fixture
def folder(tmp_path):
    """Six pictures: two in the folder itself, four deeper, and what else lies about in such folders."""
    root = tmp_path / "images"
    places = ["0.png", "1.png", "a/2.png", "a/b/3.PNG", "b/4.bmp", "b/5.png"]
    for place, pixels in zip(places, PIXELS, strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / place)
    (root / ".hidden").mkdir()
    Image.fromarray(PIXELS[0]).save(root / ".hidden" / "x.png")
    (root / "labels.csv").write_text("file,label\nabsent.png,cat\n")
    (root / "b" / "readme.txt").write_text("house numbers")
    (root / "empty").mkdir()
    return root


def archive(path, **arrays):
    np.savez(path, **arrays)
    return path


def read(data, **options):
    dataset = open_images(data, **options)
    return dataset.read(0, len(dataset)).samples


def test_the_same_images_come_from_every_kind_of_source(tmp_path, folder):
    wanted = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).astype(np.float32)) / 255
    sources = {
        "folder": folder,
        "text": str(folder),
        "archive": archive(tmp_path / "a.npz", x=PIXELS),
        "archive with more": archive(tmp_path / "b.npz", images=PIXELS, y=np.full(6, -1), y_predicted=np.arange(9)),
        "array": PIXELS,
        "tensor": torch.from_numpy(PIXELS),
        "pair": (PIXELS, ["no", "number"]),
        "triple": (PIXELS, None, None),
        "map data set": Items(),
        "map data set of pairs": Pairs(),
        "list": list(PIXELS),
    }
    for name, source in sources.items():
        samples = read(source)
        assert torch.equal(samples.images, wanted), name
        assert samples.labels.tolist() == [0] * 6, name
        assert open_images(source).class_names is None, name


def test_images_have_their_own_names(tmp_path, folder):
    assert read(folder).ids == ("0.png", "1.png", "a/2.png", "a/b/3.PNG", "b/4.bmp", "b/5.png")
    assert read(archive(tmp_path / "a.npz", x=PIXELS, ids=np.array(list("uvwxyz")))).ids == tuple("uvwxyz")
    assert read(Items()).ids == tuple("abcdef")
    assert read(PIXELS).ids == tuple("012345")


def test_labels_that_are_there_change_no_digest(tmp_path):
    """Else other labels would make another lesson of the same images."""
    plain, labelled = (archive(tmp_path / f"{n}.npz", x=PIXELS, y=np.full(6, n)) for n in range(2))
    assert read(plain).digests() == read(labelled).digests() == read(PIXELS).digests()


def test_a_factory_is_called(tmp_path):
    (tmp_path / "made.py").write_text(
        textwrap.dedent("""
            import numpy as np

            def images():
                return np.zeros((2, 4, 4, 3), dtype=np.uint8)

            def text():
                return "images"
        """)
    )
    assert len(read(f"{tmp_path / 'made.py'}:images")) == 2
    with pytest.raises(UsageError, match=r"a str is not known as images; wanted a folder of images, an .npz file"):
        open_images(f"{tmp_path / 'made.py'}:text")


def test_an_open_data_set_is_taken_as_it_is():
    opened = open_dataset((PIXELS, [0] * 6))
    assert open_images(opened, resize=(3, 3), grey=True) is opened


def test_size_and_colour_are_those_asked_for(folder):
    samples = read(folder, resize=(4, 3), grey=True)
    assert samples.images.shape == (6, 1, 4, 3)
    grey = read(PIXELS[:, :, :, 0], grey=False)
    assert grey.images.shape == (6, 3, 5, 7)


def test_an_image_that_cannot_be_read_stops_or_is_left_out(folder, refused):
    (folder / "a" / "2.png").write_bytes(b"no picture")
    with refused("a/2.png", "--skip-bad"):
        read(folder)
    dataset = open_images(folder, skip_bad=True)
    found = dataset.read(0, len(dataset))
    assert len(found.samples) == 5
    assert [skipped.id for skipped in found.skipped] == ["a/2.png"]


def test_nothing_that_can_be_opened_is_told_in_one_line(tmp_path, folder, refused):
    for text in ("", str(tmp_path / "nowhere"), "no_such_module_here:images"):
        with refused(kind=UsageError):
            open_images(text)
    with refused("did you mean images?", kind=UsageError):
        open_images(tmp_path / "imagse")
    with refused("there are no images in it"):
        open_images(folder / "empty")
    with refused("not known as a data set", kind=UsageError):
        open_images(folder / "b" / "readme.txt")
    with refused("a dict is not known as images", kind=UsageError):
        open_images({"x": PIXELS})
    with refused("wanted one array called x or images, its arrays are: y"):
        open_images(archive(tmp_path / "y.npz", y=np.arange(3)))
    with refused("wanted one array called x or images"):
        open_images(archive(tmp_path / "both.npz", x=PIXELS, images=PIXELS))
    with refused("(2, 3)"):
        open_images(np.zeros((2, 3), dtype=np.uint8))
    with refused("wanted at least one"):
        open_images([])
    with refused("int64"):
        open_images(np.zeros((2, 4, 4, 3), dtype=np.int64))
    with refused("too long"):
        open_images("x" * 5000 + ".npz")


@pytest.mark.skipif(not (SHARED / "svhn").is_dir(), reason=f"NO REAL IMAGES: {SHARED / 'svhn'} is absent")
def test_house_numbers_have_no_labels_and_need_none():
    assert read(SHARED / "svhn" / "images_100.npz").images.shape == (100, 3, 32, 32)
