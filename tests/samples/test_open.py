from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auditkit.errors import UsageError
from auditkit.samples import fingerprint, open_dataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
PIXELS = np.random.default_rng(8).integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)
LABELS = (np.arange(12) * 5 % 4).tolist()


@pytest.mark.parametrize("data", [None, 3, {}, {"x": 1}, PIXELS, (PIXELS,), iter([]), b"x", Path])
def test_other_things_are_refused_with_what_is_accepted(refused, data):
    with refused("wanted a folder", "module:factory", kind=UsageError):
        open_dataset(data)


@pytest.mark.parametrize("name", ["none", "none/deeper", "none.npz", "no/where.npz"])
def test_missing_paths_are_told(tmp_path, refused, name):
    with refused(str(tmp_path / name), "no such file", kind=UsageError):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["x\0y", "two\nlines", r"C:\nowhere\data", "https://example.com/x.zip", "a:b c"])
def test_texts_that_are_neither_paths_nor_specs_are_told(refused, name):
    with refused("no such file", kind=UsageError):
        open_dataset(name)


def test_an_empty_text_is_not_the_current_folder(refused):
    with refused("empty", "wanted a folder", kind=UsageError):
        open_dataset("")


def test_a_spec_that_leads_nowhere_is_told(refused):
    with refused("no_such_module_here", kind=UsageError):
        open_dataset("no_such_module_here.data:make")


def test_a_slip_in_a_path_is_noticed(tmp_path, refused):
    (tmp_path / "images").mkdir()
    with refused("imagse", "did you mean images?", kind=UsageError):
        open_dataset(tmp_path / "imagse")


def test_other_files_are_refused(tmp_path, refused):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    with refused("a.png", "not known", kind=UsageError):
        open_dataset(tmp_path / "a.png")


def test_a_name_too_long_for_the_system_is_an_ordinary_error(refused):
    with refused("too long"):
        open_dataset("x" * 5000)


@pytest.mark.parametrize(
    "options",
    [{"resize": (0, 5)}, {"resize": (5,)}, {"limit": 0}, {"limit": -1}]
    + [{"class_names": names} for names in ("abc", ["a", "a"])],
)
def test_impossible_options_are_refused(refused, options):
    with refused("wanted", kind=UsageError):
        open_dataset((PIXELS, LABELS), **options)


def test_a_table_needs_a_folder(tmp_path, refused):
    np.savez(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    for data in (tmp_path / "a.npz", (PIXELS, LABELS), [(PIXELS[0], 0)]):
        with refused("table of labels", kind=UsageError):
            open_dataset(data, labels_csv=tmp_path / "labels.csv")


def test_an_open_dataset_is_returned_as_it_is(refused):
    opened = open_dataset((PIXELS, LABELS))
    assert open_dataset(opened) is opened
    with refused("open already", kind=UsageError):
        open_dataset(opened, limit=3)


def test_bytes_are_the_same_whichever_way_they_come(tmp_path):
    for row, label in enumerate(LABELS):
        (tmp_path / "f" / f"c{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[row]).save(tmp_path / "f" / f"c{label}" / f"{row:02}.png")
    np.savez(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    pairs = list(zip(PIXELS, LABELS, strict=True))
    for options in ({}, {"resize": (4, 3)}, {"resize": (9, 9), "grey": True}):
        by_array, *others = (
            open_dataset(data, **options).read(0, 12).samples
            for data in (tmp_path / "a.npz", pairs, (PIXELS, LABELS), tmp_path / "f")
        )
        for other in others[:2]:
            assert other.digests() == by_array.digests()
        order = [int(Path(name).stem) for name in others[2].ids]
        assert torch.equal(others[2].images, by_array.images[order])
        assert torch.equal(others[2].labels, by_array.labels[order])


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("law")
    for row, label in enumerate(LABELS):
        (root / "f" / f"c{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[row]).save(root / "f" / f"c{label}" / f"{row:02}.png")
    (root / "f" / "c2" / "00.png").write_bytes(b"")
    (root / "f" / "c1" / "05.png").write_text("x")
    floats = (PIXELS / 255).astype(np.float32)
    floats[3] = np.nan
    np.savez(root / "a.npz", x=floats, y=LABELS, masks=PIXELS[:, :, :, 0] > 99)
    return [root / "f", root / "a.npz", (PIXELS, LABELS), list(zip(PIXELS, LABELS, strict=True))]


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 12), max_size=6),
    resize=st.sampled_from([None, (3, 4)]),
    limit=st.sampled_from([None, 5]),
)
def test_reading_in_parts_gives_what_reading_at_once_gives(sources, which, cuts, resize, limit):
    dataset = open_dataset(sources[which], skip_bad=True, resize=resize, limit=limit)
    count = len(dataset)
    whole = dataset.read(0, count)
    bounds = sorted({0, count, *(min(cut, count) for cut in cuts)})
    parts = [dataset.read(start, stop) for start, stop in itertools.pairwise(bounds)]
    digests = [digest for part in parts for digest in part.samples.digests()]
    assert tuple(digests) == whole.samples.digests()
    assert fingerprint(digests) == fingerprint(whole.samples.digests())
    assert tuple(skipped for part in parts for skipped in part.skipped) == whole.skipped
    assert torch.equal(torch.cat([part.samples.images for part in parts]), whole.samples.images)
    assert len(whole.samples) + len(whole.skipped) == count


def test_real_images():
    path = SHARED / "cifar10" / "images_600.npz"
    if not path.exists():
        pytest.skip(f"REAL DATA NOT TESTED: {path} is not there")
    dataset = open_dataset(path)
    assert len(dataset) == 600
    assert dataset.class_names is not None
    assert dataset.class_names[3] == "cat"
    samples = dataset.read(0, 600).samples
    with np.load(path) as stored:
        assert np.array_equal(samples.images, stored["x"].transpose(0, 3, 1, 2).astype("float32") / 255)
        assert samples.labels.tolist() == stored["y"].tolist()
    assert dataset.read(100, 200).samples.digests() == samples.digests()[100:200]
