from __future__ import annotations

import numpy as np
import pytest
import torch

from auditkit.samples import open_dataset


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


@pytest.fixture
def archive(tmp_path):
    def save(**arrays):
        np.savez_compressed(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return save


def everything(data, **options):
    dataset = open_dataset(data, **options)
    return dataset.read(0, len(dataset)).samples


LABELS = np.array([0, 1, 2, 0, 1])


def test_bytes_channels_last(archive, pixels):
    path = archive(x=pixels, y=LABELS, names=np.array(["a", "b", "c"]))
    dataset = open_dataset(path)
    samples = dataset.read(0, 5).samples
    assert torch.equal(samples.images, torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255)
    assert samples.labels.tolist() == LABELS.tolist()
    assert samples.ids == ("0", "1", "2", "3", "4")
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.source == str(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_layouts_and_types_are_one(archive, pixels, dtype):
    wanted = everything(archive(x=pixels, y=LABELS)).images
    first = pixels.transpose(0, 3, 1, 2)
    assert torch.equal(everything(archive(images=first, labels=LABELS)).images, wanted)
    floats = (first / 255).astype(dtype)
    assert torch.allclose(everything(archive(x=floats, y=LABELS)).images, wanted, atol=1e-3)


def test_grey_stacks(archive, pixels):
    grey = pixels[:, :, :, 0]
    assert everything(archive(x=grey, y=LABELS)).images.shape == (5, 1, 6, 7)
    assert everything(archive(x=grey[:, None], y=LABELS)).images.shape == (5, 1, 6, 7)
    assert everything(archive(x=grey, y=LABELS), grey=False).images.shape == (5, 3, 6, 7)
    assert everything(archive(x=pixels, y=LABELS), grey=True).images.shape == (5, 1, 6, 7)


def test_ids_and_masks(archive, pixels):
    masks = pixels[:, :, :, 0] > 100
    path = archive(x=pixels, y=LABELS, ids=np.array([b"a", b"b", b"c", b"\xff", b"e\n"]), masks=masks)
    samples = everything(path)
    assert samples.ids == ("a", "b", "c", "\\xff", "e\\n")
    assert np.array_equal(samples.masks, masks)
    assert everything(path, resize=(12, 14)).masks.shape == (5, 12, 14)
    integers = everything(archive(x=pixels, y=LABELS, masks=masks.astype(np.uint8)))
    assert np.array_equal(integers.masks, masks)


def test_a_limit_takes_the_first(archive, pixels):
    path = archive(x=pixels, y=LABELS)
    assert everything(path, limit=3).digests() == everything(path).take([0, 1, 2]).digests()
    assert len(everything(path, limit=50)) == 5


def test_given_names_go_before_stored_ones(archive, pixels):
    path = archive(x=pixels, y=LABELS, class_names=np.array(["a", "b", "c"]))
    assert open_dataset(path, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")


ZEROS = np.zeros((5, 6, 7, 3), np.uint8)
WRONG = {
    "no x": ({"y": LABELS, "z": LABELS}, ["x or images", "y, z"]),
    "no y": ({"x": ZEROS, "y_predicted": LABELS}, ["y or labels", "y_predicted"]),
    "both": ({"x": ZEROS, "images": ZEROS, "y": LABELS}, ["both x and images"]),
    "pickled": ({"x": ZEROS, "y": LABELS, "names": np.array([1, "a"], dtype=object)}, ["pickled"]),
    "ambiguous": (
        {"x": np.zeros((5, 3, 7, 3), np.uint8), "y": LABELS},
        ["axis 1 or on axis 3", "(5, 3, 7, 3)"],
    ),
    "channels": ({"x": np.zeros((5, 6, 7, 4), np.uint8), "y": LABELS}, ["(5, 6, 7, 4)"]),
    "rank": ({"x": np.zeros((5, 6), np.uint8), "y": LABELS}, ["(5, 6)"]),
    "integers": ({"x": ZEROS.astype(np.int64), "y": LABELS}, ["int64"]),
    "text": ({"x": np.array(["a"]), "y": LABELS}, ["<U1"]),
    "length": ({"x": ZEROS, "y": LABELS[:3]}, ["(3,)", "(5,)"]),
    "one hot": ({"x": ZEROS, "y": np.eye(5, dtype=np.int64)}, ["(5, 5)"]),
    "float labels": ({"x": ZEROS, "y": LABELS / 2}, ["float64"]),
    "negative": ({"x": ZEROS, "y": LABELS - 1}, ["row 0", "-1"]),
    "beyond names": ({"x": ZEROS, "y": LABELS, "names": np.array(["a", "b"])}, ["row 2", "2 class names"]),
    "huge": ({"x": ZEROS, "y": LABELS.astype(np.uint64) + np.uint64(2**63)}, ["row", "too large"]),
    "ids": ({"x": ZEROS, "y": LABELS, "ids": np.array(["a", "b", "a", "c", "d"])}, ["'a'", "row 2", "row 0"]),
    "few ids": ({"x": ZEROS, "y": LABELS, "ids": np.array(["a"])}, ["1 ids for 5"]),
    "ids rank": ({"x": ZEROS, "y": LABELS, "ids": np.array([["a"]])}, ["one-dimensional"]),
    "masks": ({"x": ZEROS, "y": LABELS, "masks": np.zeros((5, 7, 6), bool)}, ["(5, 7, 6)", "(5, 6, 7)"]),
    "mask values": ({"x": ZEROS, "y": LABELS, "masks": np.full((5, 6, 7), 2)}, ["bool"]),
    "float masks": ({"x": ZEROS, "y": LABELS, "masks": np.zeros((5, 6, 7))}, ["float64"]),
    "none": ({"x": ZEROS[:0], "y": LABELS[:0]}, ["no samples"]),
    "no pixels": ({"x": ZEROS[:, :0], "y": LABELS}, ["no pixels"]),
}


@pytest.mark.parametrize(("arrays", "told"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arrays_are_refused(archive, refused, arrays, told):
    path = archive(**arrays)
    with refused(str(path), *told):
        open_dataset(path)


def test_a_bad_row_is_named_or_skipped_and_reported(archive, refused, pixels):
    floats = (pixels / 255).astype(np.float32)
    floats[2, 0, 0, 0] = np.nan
    floats[4] *= 255
    path = archive(x=floats, y=LABELS)
    with refused(str(path), "2 holds NaN"):
        everything(path)
    read = open_dataset(path, skip_bad=True).read(0, 5)
    assert read.samples.ids == ("0", "1", "3")
    assert [skipped.id for skipped in read.skipped] == ["2", "4"]
    assert "uint8" in read.skipped[1].reason


@pytest.mark.parametrize("damage", [b"", b"hello", b"PK\x03\x04 and no more"])
def test_what_is_no_archive_is_refused(tmp_path, refused, damage):
    (tmp_path / "a.npz").write_bytes(damage)
    with refused("a.npz", "npz archive"):
        open_dataset(tmp_path / "a.npz")


def test_a_damaged_archive_is_refused(archive, refused, pixels):
    path = archive(x=pixels, y=LABELS)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with refused("data.npz", "npz archive"):
        open_dataset(path)


def test_a_single_array_is_refused(tmp_path, refused, pixels):
    np.save(tmp_path / "a.npy", pixels)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with refused("a.npz", "single array"):
        open_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_tensors_in_memory(pixels, kind):
    tensor = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    given = tensor if kind == torch.uint8 else (tensor / 255).to(kind)
    dataset = open_dataset((given, torch.from_numpy(LABELS)))
    assert dataset.source == "arrays in memory"
    assert torch.allclose(dataset.read(0, 5).samples.images, tensor / 255, atol=5e-3)


def test_arrays_in_memory_are_neither_kept_twice_nor_changed(pixels):
    before = pixels.copy()
    samples = everything((pixels, LABELS.tolist()))
    samples.images.zero_()
    assert np.array_equal(pixels, before)
    assert everything((pixels, LABELS.tolist())).images.max() > 0


def test_float_shards_do_not_share_memory_with_the_given_tensor():
    given = torch.rand(2, 3, 4, 4)
    everything((given, [0, 1])).images.zero_()
    assert given.max() > 0


def test_ragged_lists_are_refused(refused):
    with refused("images", "one shape"):
        open_dataset(([[[0.0]], [[0.0, 1.0]]], [0, 1]))
    with refused("labels", "one shape"):
        open_dataset((np.zeros((2, 4, 4)), [[0], [0, 1]]))
