from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from auditkit.errors import UsageError
from auditkit.samples import Skipped, open_dataset


def everything(dataset):
    return dataset.read(0, len(dataset))


def test_class_folders_give_sorted_classes_and_relative_ids(class_folder):
    dataset = open_dataset(class_folder)
    samples = everything(dataset).samples
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.source == str(class_folder)
    assert samples.ids[:5] == ("ant/0.png", "ant/1.png", "ant/2.png", "ant/3.png", "bee/0.png")
    assert samples.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    wanted = np.asarray(Image.open(class_folder / "bee" / "2.png")).transpose(2, 0, 1) / 255
    assert np.allclose(samples.images[6], wanted, atol=1e-7)
    assert samples.masks is None


def test_a_path_may_be_text(class_folder):
    assert everything(open_dataset(str(class_folder))).samples.digests() == (
        everything(open_dataset(class_folder)).samples.digests()
    )


def test_given_class_names_settle_the_indices(class_folder):
    dataset = open_dataset(class_folder, class_names=["cat", "dog", "bee", "ant"])
    assert dataset.class_names == ("cat", "dog", "bee", "ant")
    assert everything(dataset).samples.labels.tolist() == [3, 3, 3, 3, 2, 2, 2, 0, 0]


def test_a_folder_beside_the_given_names_is_refused(class_folder, refused):
    with refused("'cat'", "did you mean cats?", kind=UsageError):
        open_dataset(class_folder, class_names=["ant", "bee", "cats"])


def test_hidden_files_are_ignored(class_folder):
    (class_folder / ".git").mkdir()
    (class_folder / "ant" / ".DS_Store").write_bytes(b"x")
    (class_folder / "README.md").write_text("about")
    assert len(open_dataset(class_folder)) == 9


def test_upper_case_suffixes_count(class_folder):
    (class_folder / "ant" / "0.png").rename(class_folder / "ant" / "0.PNG")
    assert everything(open_dataset(class_folder)).samples.ids[0] == "ant/0.PNG"


def test_linked_class_folders_count(class_folder, tmp_path):
    shutil.move(class_folder / "ant", tmp_path / "elsewhere")
    (class_folder / "ant").symlink_to(tmp_path / "elsewhere")
    assert len(open_dataset(class_folder)) == 9


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be written there")
def test_strange_names_make_printable_ids(class_folder, picture):
    picture(1).save(class_folder / "ant" / "two\nlines.png")
    (class_folder / "ant" / "0.png").rename(class_folder / "ant" / os.fsdecode(b"\xff.png"))
    ids = everything(open_dataset(class_folder)).samples.ids
    assert "ant/two\\nlines.png" in ids
    assert "ant/\\udcff.png" in ids
    assert len(open_dataset(class_folder, limit=3)) == 3


def test_a_text_file_in_a_class_folder_is_named(class_folder, refused):
    (class_folder / "bee" / "notes.txt").write_text("x")
    with refused("bee/notes.txt", "not named like an image"):
        open_dataset(class_folder)
    read = everything(open_dataset(class_folder, skip_bad=True))
    assert [(skipped.id, "not named" in skipped.reason) for skipped in read.skipped] == [("bee/notes.txt", True)]
    assert len(read.samples) == 9


def test_an_empty_class_folder_is_named(class_folder, refused):
    (class_folder / "bear").mkdir()
    (class_folder / "bear" / ".keep").touch()
    with refused(str(class_folder / "bear"), "no images"):
        open_dataset(class_folder)
    dataset = open_dataset(class_folder, skip_bad=True)
    assert dataset.class_names == ("ant", "bear", "bee", "cat")
    assert everything(dataset).samples.labels.tolist() == [0, 0, 0, 0, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_deeper_folders_and_strays_are_refused(class_folder, refused, skip_bad, picture):
    picture(0).save(class_folder / "stray.png")
    with refused("stray.png", "has no class"):
        open_dataset(class_folder, skip_bad=skip_bad)
    with refused("data/ant", "sub-folders are the classes"):
        (class_folder / "stray.png").unlink()
        open_dataset(class_folder.parent, skip_bad=skip_bad)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_empty_folder_is_refused(tmp_path, refused, skip_bad):
    with refused(str(tmp_path), "no images"):
        open_dataset(tmp_path, skip_bad=skip_bad)


def test_images_without_labels_are_refused(tmp_path, picture, refused):
    picture(0).save(tmp_path / "a.png")
    with refused(str(tmp_path), "labels.csv", kind=UsageError):
        open_dataset(tmp_path)


def test_a_folder_that_cannot_be_listed_is_told(class_folder, refused, monkeypatch):
    real = type(class_folder).iterdir

    def deny(path):
        if path.name == "bee":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(type(class_folder), "iterdir", deny)
    with refused(str(class_folder / "bee"), "Permission denied"):
        open_dataset(class_folder)


DAMAGE = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no image"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "bomb": lambda path: path.write_bytes(b"P5 20000 20000 255\n"),
    "dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere.png")),
}


@pytest.mark.parametrize("victim", ["ant/0.png", "bee/1.png"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_bad_image_is_named_or_skipped_and_reported(class_folder, refused, damage, victim):
    whole = everything(open_dataset(class_folder)).samples
    damage(class_folder / victim)
    with refused(victim, str(class_folder)):
        everything(open_dataset(class_folder))
    dataset = open_dataset(class_folder, skip_bad=True)
    read = everything(dataset)
    assert len(dataset) == 9
    assert [skipped.id for skipped in read.skipped] == [victim]
    assert len(read.skipped[0].reason.splitlines()) == 1
    kept = [row for row, name in enumerate(whole.ids) if name != victim]
    assert read.samples.digests() == whole.take(kept).digests()


def test_a_bad_image_is_met_only_when_it_is_read(class_folder, refused):
    (class_folder / "cat" / "1.png").write_bytes(b"")
    dataset = open_dataset(class_folder)
    assert len(dataset.read(0, 8).samples) == 8
    with refused("cat/1.png", "0 bytes", "--skip-bad"):
        dataset.read(8, 9)


def test_a_read_may_lose_all_its_rows(class_folder):
    (class_folder / "cat" / "1.png").write_bytes(b"")
    read = open_dataset(class_folder, skip_bad=True).read(8, 9)
    assert len(read.samples) == 0
    assert read.skipped == (Skipped("cat/1.png", "is empty (0 bytes)"),)


def test_nothing_readable_is_refused_even_with_skipping(class_folder, refused):
    for path in class_folder.rglob("*.png"):
        path.write_bytes(b"")
    with refused("none of 9", "ant/0.png", "0 bytes"):
        open_dataset(class_folder, skip_bad=True)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_another_size_names_both_files_and_the_remedy(class_folder, picture, refused, skip_bad):
    picture(0, height=7, width=8).save(class_folder / "bee" / "0.png")
    dataset = open_dataset(class_folder, skip_bad=skip_bad)
    with refused("bee/0.png is 7x8", "ant/0.png is 6x5", "--resize HxW"):
        dataset.read(4, 5)
    resized = everything(open_dataset(class_folder, resize=(4, 3))).samples
    assert resized.images.shape == (9, 3, 4, 3)


def test_grey_goes_by_the_first_image(class_folder, picture, refused):
    picture(0, channels=1).save(class_folder / "bee" / "0.png")
    assert everything(open_dataset(class_folder)).samples.images.shape[1] == 3
    picture(0, channels=1).save(class_folder / "ant" / "0.png")
    with refused("ant/1.png is in colour", "ant/0.png", "grey=False"):
        everything(open_dataset(class_folder))
    assert everything(open_dataset(class_folder, grey=False)).samples.images.shape[1] == 3
    assert everything(open_dataset(class_folder, grey=True)).samples.images.shape[1] == 1


def test_a_grey_folder_is_grey(tmp_path, picture):
    (tmp_path / "one").mkdir()
    picture(0, channels=1).save(tmp_path / "one" / "a.png")
    assert everything(open_dataset(tmp_path)).samples.images.shape == (1, 1, 6, 5)


def test_a_limit_mixes_the_classes_and_needs_no_seed(class_folder):
    whole = everything(open_dataset(class_folder)).samples
    by_hash = sorted(whole.ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    for limit in (1, 4, 8):
        samples = everything(open_dataset(class_folder, limit=limit)).samples
        assert list(samples.ids) == by_hash[:limit]
        assert set(samples.digests()) <= set(whole.digests())
    for limit in (9, 1000):
        assert everything(open_dataset(class_folder, limit=limit)).samples.digests() == whole.digests()


def test_a_range_outside_is_a_mistake_of_the_caller(class_folder):
    dataset = open_dataset(class_folder)
    for start, stop in [(-1, 2), (0, 10), (3, 2)]:
        with pytest.raises(ValueError, match="of 9 samples"):
            dataset.read(start, stop)
    assert len(dataset.read(9, 9).samples) == 0


def test_types_are_those_promised(class_folder):
    samples = everything(open_dataset(class_folder)).samples
    assert samples.images.dtype == torch.float32
    assert samples.images.is_contiguous()
    assert samples.labels.dtype == torch.int64
