"""Masks beside a data set: pictures, COCO annotations, archives, and columns of a table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from auditkit.config import read_config, settings_from
from auditkit.errors import UsageError
from auditkit.origin import object_masks
from auditkit.preparing import set_up
from auditkit.samples import Samples, open_dataset
from auditkit.workbench import Recipe

SIZE = (6, 5)


def everything(data, **options):
    dataset = open_dataset(data, **options)
    return dataset.read(0, len(dataset)).samples


def mask(samples, name):
    return samples.masks[samples.ids.index(name)].numpy()


def drawn(seed, size=SIZE):
    return np.random.default_rng(seed).random(size) < 0.5


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "masks"


class TestAFolderOfPictures:
    def test_a_mask_is_the_picture_of_the_same_name_and_any_ending(self, class_folder, folder):
        save(folder / "ant" / "0.png", drawn(0).astype(np.uint8) * 255)
        save(folder / "ant" / "1.BMP", drawn(1).astype(np.uint8))
        save(folder / "bee" / "0.tiff", np.stack([drawn(2).astype(np.uint8) * 9, *[np.zeros(SIZE, np.uint8)] * 2], 2))
        samples = everything(class_folder, masks=folder)
        for seed, name in enumerate(["ant/0.png", "ant/1.png", "bee/0.png"]):
            assert np.array_equal(mask(samples, name), drawn(seed))
        assert samples.masks.flatten(1).any(1).sum() == 3
        assert samples.digests() != everything(class_folder).digests()

    def test_a_palette_counts_by_its_numbers_not_by_its_colours(self, class_folder, folder):
        picture = Image.fromarray(drawn(0).astype(np.uint8)).convert("P")
        picture.putpalette([255, 255, 255, 0, 0, 0])
        folder.joinpath("ant").mkdir(parents=True)
        picture.save(folder / "ant" / "0.png")
        assert np.array_equal(mask(everything(class_folder, masks=folder), "ant/0.png"), drawn(0))

    def test_the_traces_that_jpeg_leaves_are_no_object(self, tmp_path, folder, picture):
        wanted = np.zeros((32, 32), dtype=bool)
        wanted[5:20, 7:23] = True
        save(folder / "one" / "a.jpg", wanted.astype(np.uint8) * 255, quality=60)
        assert (np.asarray(Image.open(folder / "one" / "a.jpg")) > 0).sum() > wanted.sum()
        save(tmp_path / "data" / "one" / "a.png", np.asarray(picture(0, 32, 32)))
        assert np.array_equal(mask(everything(tmp_path / "data", masks=folder), "one/a.png"), wanted)

    def test_the_exact_name_goes_before_another_ending(self, class_folder, folder):
        save(folder / "ant" / "0.bmp", drawn(1).astype(np.uint8))
        save(folder / "ant" / "0.png", drawn(0).astype(np.uint8))
        assert np.array_equal(mask(everything(class_folder, masks=folder), "ant/0.png"), drawn(0))

    def test_two_pictures_for_one_image_are_refused(self, class_folder, folder, refused):
        save(folder / "ant" / "0.bmp", drawn(0).astype(np.uint8))
        save(folder / "ant" / "0.gif", drawn(0).astype(np.uint8))
        with refused(str(folder), "0.bmp and 0.gif", "ant/0.png"):
            open_dataset(class_folder, masks=folder)

    def test_arrays_find_their_pictures_by_their_ids(self, tmp_path, folder):
        save(folder / "1.png", drawn(1).astype(np.uint8))
        images = np.zeros((3, *SIZE, 3), dtype=np.uint8)
        assert np.array_equal(mask(everything((images, [0, 0, 0]), masks=folder), "1"), drawn(1))
        save(folder / "v1.5.png", drawn(2).astype(np.uint8))
        np.savez(tmp_path / "data.npz", x=images, y=[0, 0, 0], ids=["a", "v1.5", "../masks/1"])
        samples = everything(tmp_path / "data.npz", masks=folder)
        assert np.array_equal(mask(samples, "v1.5"), drawn(2))
        assert samples.masks.flatten(1).any(1).tolist() == [False, True, False]

    def test_a_mask_is_resized_with_its_image_to_the_nearest_pixel(self, class_folder, folder):
        save(folder / "ant" / "0.png", drawn(0).astype(np.uint8))
        samples = everything(class_folder, masks=folder, resize=(12, 15))
        assert np.array_equal(mask(samples, "ant/0.png"), np.kron(drawn(0), np.ones((2, 3), dtype=bool)))

    @pytest.mark.parametrize("skip_bad", [False, True])
    def test_a_mask_of_another_size_is_refused(self, class_folder, folder, refused, skip_bad):
        save(folder / "ant" / "0.png", drawn(0, (5, 6)).astype(np.uint8))
        with refused(str(folder / "ant" / "0.png"), "5x6", "ant/0.png is 6x5"):
            everything(class_folder, masks=folder, skip_bad=skip_bad)

    def test_a_picture_that_cannot_be_read_is_named_or_its_image_left_out(self, class_folder, folder, refused):
        save(folder / "ant" / "0.png", drawn(0).astype(np.uint8))
        (folder / "ant" / "1.png").write_bytes(b"")
        with refused("ant/1.png has a mask", str(folder / "ant" / "1.png"), "0 bytes", "--skip-bad"):
            everything(class_folder, masks=folder)
        dataset = open_dataset(class_folder, masks=folder, skip_bad=True)
        assert [skipped.id for skipped in dataset.read(0, 9).skipped] == ["ant/1.png"]

    def test_a_folder_without_any_mask_of_these_images_is_refused(self, class_folder, folder, refused):
        save(folder / "0.png", drawn(0).astype(np.uint8))
        (folder / "ant").mkdir()
        (folder / "ant" / "0.txt").write_text("no picture")
        with refused(str(folder), "none of the 9 images", "such as ant/0.png"):
            open_dataset(class_folder, masks=folder)


WRONG_ANNOTATIONS = {
    "no json": ("{", ["EOF"]),
    "a list": ("[]", ["no COCO annotations"]),
    "no images": ('{"annotations": []}', ["images", "required"]),
    "a text for a number": ('{"images": [], "annotations": [{"image_id": 7, "bbox": ["a", 1, 1, 1]}]}', ["bbox.0"]),
    "a box of three numbers": ('{"images": [], "annotations": [{"image_id": 7, "bbox": [1, 1, 1]}]}', ["bbox"]),
    "a negative width": ('{"images": [], "annotations": [{"image_id": 7, "bbox": [1, 1, -1, 1]}]}', ["bbox.2"]),
    "NaN": ('{"images": [], "annotations": [{"image_id": 7, "bbox": [NaN, 1, 1, 1]}]}', ["bbox.0"]),
    "a place beyond any image": (
        '{"images": [], "annotations": [{"image_id": 7, "bbox": [1e300, 1, 1e300, 1]}]}',
        ["bbox.0", "10000000"],
    ),
    "an image of no width": ('{"images": [{"id": 1, "file_name": "a", "width": 0}], "annotations": []}', ["width"]),
    "an image that is a bomb": (
        '{"images": [{"id": 1, "file_name": "a", "width": 1000000, "height": 1000000}], "annotations": []}',
        ["images.0", "64 megapixels"],
    ),
    "runs of a bomb": (
        '{"images": [], "annotations": [{"image_id": 7, "segmentation": {"size": [1000000, 1000000], "counts": [1]}}]}',
        ["annotations.0", "64 megapixels"],
    ),
    "an absurd class": (
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "class_index": 1000000000000}]}',
        ["categories.0.class_index"],
    ),
    "brackets without end": ("[" * 100_000, ["no COCO annotations"]),
    "half a corner": (
        '{"images": [], "annotations": [{"image_id": 7, "segmentation": [[1, 2, 3]]}]}',
        ["annotations.0.segmentation", "3 numbers"],
    ),
    "runs that do not fill": (
        '{"images": [], "annotations": [{"image_id": 7, "segmentation": {"size": [2, 2], "counts": [3]}}]}',
        ["annotations.0", "do not fill 2x2"],
    ),
    "damaged runs": (
        '{"images": [], "annotations": [{"image_id": 7, "segmentation": {"size": [2, 2], "counts": "Z"}}]}',
        ["annotations.0", "cut off"],
    ),
    "an unknown image": (
        '{"images": [{"id": 1, "file_name": "ant/0.png"}], "annotations": [{"image_id": 7}]}',
        ["annotations.0", "7"],
    ),
    "the same id twice": (
        '{"images": [{"id": 1, "file_name": "ant/0.png"}, {"id": 1, "file_name": "b"}], "annotations": []}',
        ["two images", "1"],
    ),
    "the same file twice": (
        '{"images": [{"id": 1, "file_name": "ant/0.png"}, {"id": 2, "file_name": "ant/0.png"}], "annotations": []}',
        ["ant/0.png is listed twice"],
    ),
    "unknown names": (
        '{"images": [{"id": 1, "file_name": "dog.png"}], "annotations": []}',
        ["none of the 9 images", "'dog.png'", "'ant/0.png'"],
    ),
    "no images at all": ('{"images": [], "annotations": []}', ["none of the 9 images", "lists no images"]),
}


class TestCoco:
    @pytest.fixture
    def write(self, tmp_path):
        def write(**parts):
            path = tmp_path / "a.json"
            images = [{"id": 7, "file_name": "ant/0.png", "width": 5, "height": 6}, {"id": 8, "file_name": "bee/1.png"}]
            path.write_text(json.dumps({"images": images, "annotations": [], "categories": []} | parts))
            return path

        return write

    def test_boxes_polygons_and_runs_of_an_image_are_one_object(self, class_folder, write):
        runs = {"size": [6, 5], "counts": [0, 1, 28, 1]}
        polygons = [[3, 0, 4, 0, 4, 1, 3, 1], [4, 1, 5, 1, 5, 2, 4, 2]]
        packed = {"size": [6, 5], "counts": "51h0"}
        path = write(
            annotations=[
                {"image_id": 7, "bbox": [1, 2, 1, 1]},
                {"image_id": 7, "segmentation": polygons, "bbox": [0, 0, 5, 6]},
                {"image_id": 7, "segmentation": runs, "iscrowd": 1},
                {"image_id": 8, "segmentation": packed},
            ]
        )
        samples = everything(class_folder, masks=path)
        assert np.argwhere(mask(samples, "ant/0.png")).tolist() == [[0, 0], [0, 3], [1, 4], [2, 1], [5, 4]]
        assert np.argwhere(mask(samples, "bee/1.png")).tolist() == [[5, 0]]
        assert samples.masks.flatten(1).any(1).sum() == 2

    @pytest.mark.parametrize("name", ["ant", "ANT", "Ant"])
    def test_annotations_with_the_name_of_the_class_go_before_others(self, class_folder, write, name):
        categories = [{"id": 1, "name": name}, {"id": 2, "name": "leaf"}]
        boxes = [
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 6]},
            {"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]},
            {"image_id": 8, "category_id": 2, "bbox": [0, 0, 2, 2]},
        ]
        samples = everything(class_folder, masks=write(categories=categories, annotations=boxes))
        assert mask(samples, "ant/0.png").sum() == 4
        assert mask(samples, "bee/1.png").sum() == 4, "no category is called bee, so any object counts"
        samples = everything(class_folder, masks=write(categories=categories, annotations=boxes[:1] + boxes[2:]))
        assert not mask(samples, "ant/0.png").any(), "there are ants, but none was seen here"

    def test_a_number_in_front_of_a_class_does_not_hide_its_name(self, class_folder, write):
        (class_folder / "ant").rename(class_folder / "03 ant")
        categories = [{"id": 1, "name": "ant"}, {"id": 2, "name": "leaf"}]
        boxes = [
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 6]},
            {"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]},
        ]
        path = write(images=[{"id": 7, "file_name": "03 ant/0.png"}], categories=categories, annotations=boxes)
        assert mask(everything(class_folder, masks=path), "03 ant/0.png").sum() == 4

    def test_images_are_also_found_by_their_bare_names(self, class_folder, write):
        box = [{"image_id": 1, "bbox": [0, 0, 1, 1]}]
        path = write(images=[{"id": 1, "file_name": "train/3.png"}], annotations=box)
        samples = everything(class_folder, masks=path)
        assert mask(samples, "ant/3.png").sum() == 1
        assert samples.masks.sum() == 1

    def test_a_bare_name_that_could_be_two_images_is_refused(self, class_folder, write, refused):
        with refused("a.json", "0.png could be ant/0.png or bee/0.png"):
            open_dataset(class_folder, masks=write(images=[{"id": 1, "file_name": "0.png"}]))
        images = [{"id": 1, "file_name": "x/3.png"}, {"id": 2, "file_name": "y/3.png"}]
        with refused("a.json", "3.png could be x/3.png or y/3.png"):
            open_dataset(class_folder, masks=write(images=images))

    def test_a_bare_name_that_is_taken_by_its_path_is_not_ambiguous(self, class_folder, write):
        box = [{"image_id": 1, "bbox": [0, 0, 1, 1]}]
        path = write(images=[{"id": 1, "file_name": "ant/0.png"}], annotations=box)
        assert everything(class_folder, masks=path).masks.sum() == 1

    @pytest.mark.parametrize(("text", "told"), WRONG_ANNOTATIONS.values(), ids=WRONG_ANNOTATIONS.keys())
    def test_a_wrong_file_is_refused(self, class_folder, tmp_path, refused, text, told):
        (tmp_path / "a.json").write_text(text)
        with refused(str(tmp_path / "a.json"), *told):
            open_dataset(class_folder, masks=tmp_path / "a.json")

    def test_annotations_of_another_size_are_refused(self, class_folder, write, refused):
        box = [{"image_id": 7, "bbox": [0, 0, 1, 1]}]
        images = [{"id": 7, "file_name": "ant/0.png", "width": 50, "height": 60}]
        with refused("a.json", "60x50", "ant/0.png is 6x5"):
            open_dataset(class_folder, masks=write(images=images, annotations=box))
        runs = [{"image_id": 7, "segmentation": {"size": [5, 6], "counts": [30]}}]
        with refused("a.json", "ant/0.png", "5x6", "6x5"):
            open_dataset(class_folder, masks=write(annotations=runs))


class TestAnArchive:
    @pytest.fixture
    def archive(self, tmp_path):
        def archive(**arrays):
            np.savez(tmp_path / "m.npz", **arrays)
            return tmp_path / "m.npz"

        return archive

    def test_masks_go_by_their_ids(self, class_folder, archive):
        masks = np.stack([drawn(0), drawn(1), drawn(2)])
        path = archive(masks=masks.astype(np.uint8), ids=["bee/0.png", "elsewhere", "ant/1.png"])
        samples = everything(class_folder, masks=path)
        assert np.array_equal(mask(samples, "bee/0.png"), drawn(0))
        assert np.array_equal(mask(samples, "ant/1.png"), drawn(2))
        assert samples.masks.flatten(1).any(1).sum() == 2

    def test_masks_without_ids_go_by_position_and_before_those_of_the_data(self, archive):
        images = np.zeros((3, *SIZE, 3), dtype=np.uint8)
        masks = np.stack([drawn(0), drawn(1), drawn(2)])
        for data in ((images, [0, 0, 0]), (images, [0, 0, 0], ~masks)):
            assert np.array_equal(everything(data, masks=archive(masks=masks)).masks, masks)
        assert np.array_equal(everything((images, [0, 0, 0]), masks=archive(masks=masks), limit=2).masks, masks[:2])

    def test_what_is_no_archive_of_masks_is_refused(self, class_folder, archive, refused):
        images = np.zeros((3, *SIZE, 3), dtype=np.uint8)
        with refused("m.npz", "masks", "mask"):
            open_dataset(class_folder, masks=archive(mask=drawn(0)[None]))
        with refused("m.npz", "(6, 5)", "(N, H, W)"):
            open_dataset(class_folder, masks=archive(masks=drawn(0)))
        with refused("m.npz", "float64"):
            open_dataset(class_folder, masks=archive(masks=drawn(0)[None] * 0.5))
        with refused("m.npz", "2 masks for 3 images", "ids"):
            open_dataset((images, [0, 0, 0]), masks=archive(masks=np.stack([drawn(0)] * 2)))
        with refused("m.npz", "1 ids for 2 masks"):
            open_dataset((images, [0, 0, 0]), masks=archive(masks=np.stack([drawn(0)] * 2), ids=["0"]))
        with refused("m.npz", "none of the 9 images", "'dog'", "'ant/0.png'"):
            open_dataset(class_folder, masks=archive(masks=drawn(0)[None], ids=["dog"]))
        with refused("m.npz, mask ant/0.png", "7x5", "6x5"):
            open_dataset(class_folder, masks=archive(masks=drawn(0, (7, 5))[None], ids=["ant/0.png"]))
        path = archive(masks=drawn(0)[None])
        path.write_bytes(path.read_bytes()[:50])
        with refused("m.npz", "npz archive"):
            open_dataset(class_folder, masks=path)


WRONG_TABLES = {
    "no picture": ("file,label,mask\nant/0.png,0,m/none.png\n", ["line 2", "m/none.png is not a file"]),
    "outside": ("file,label,mask\nant/0.png,0,../x.png\n", ["line 2", "../x.png lies outside"]),
    "half a box": ("file,label,left,top,right,bottom\nant/0.png,0,1,2,3,\n", ["line 2", "bottom", "''"]),
    "words": ("file,label,left,top,right,bottom\nant/0.png,0,1,2,c,4\n", ["line 2", "right", "'c'", "number"]),
    "not finite": ("file,label,x,y,width,height\nant/0.png,0,1,2,inf,4\n", ["line 2", "width", "'inf'"]),
    "empty": (
        "file,label,left,top,right,bottom\nant/0.png,0,3,2,3,4\n",
        ["line 2", "0.png is empty", "left 3"],
    ),
    "beside": ("file,label,left,top,right,bottom\nant/0.png,0,50,2,60,4\n", ["line 2", "no pixel", "6x5"]),
    "two kinds": ("file,label,mask,left,top,right,bottom\nant/0.png,0,m,1,1,2,2\n", ["mask and left, top"]),
}


class TestATable:
    @pytest.fixture
    def table(self, class_folder):
        def table(text, **options):
            (class_folder / "labels.csv").write_text(text)
            return everything(class_folder, **options)

        return table

    def test_a_column_names_pictures(self, class_folder, table):
        save(class_folder / "m" / "x.png", drawn(3).astype(np.uint8))
        samples = table("file,label,mask\nant/0.png,0,m/x.png\nbee/0.png,1,\n")
        assert np.array_equal(mask(samples, "ant/0.png"), drawn(3))
        assert not mask(samples, "bee/0.png").any()

    @pytest.mark.parametrize(
        ("header", "box"),
        [
            ("file,label,left,top,right,bottom", "1,2,3,6"),
            ("file,label,x,y,width,height", "1,2,2,4"),
            ("width,file,Height,x,y,label", None),
        ],
    )
    def test_four_columns_are_a_box_in_pixels_of_the_file(self, table, header, box):
        line = f"ant/0.png,0,{box}" if box else "2,ant/0.png,4,1,2,0"
        samples = table(f"{header}\n{line}\n")
        assert np.argwhere(mask(samples, "ant/0.png")).tolist() == [[row, at] for row in (2, 3, 4, 5) for at in (1, 2)]
        assert table(f"{header}\n{line}\n", resize=(3, 5)).masks.sum() == 4

    def test_a_row_without_a_box_has_no_known_object(self, table):
        samples = table("file,label,left,top,right,bottom\nant/0.png,0,,,,\nant/1.png,0,0,0,1,1\n")
        assert samples.masks.flatten(1).sum(1).tolist() == [0, 1]

    @pytest.mark.parametrize("header", ["file,y,x,width", "file,label,x,y", "file,label,left,top,width,height"])
    def test_other_columns_are_no_masks(self, table, header):
        columns = header.split(",")
        values = ["ant/0.png" if column == "file" else "0" for column in columns]
        assert table(f"{header}\n{','.join(values)}\n").masks is None

    def test_an_option_goes_before_the_columns(self, class_folder, table, folder):
        save(folder / "ant" / "0.png", drawn(0).astype(np.uint8))
        samples = table("file,label,left,top,right,bottom\nant/0.png,0,0,0,1,1\nant/1.png,0,0,0,1,1\n", masks=folder)
        assert np.array_equal(mask(samples, "ant/0.png"), drawn(0))
        assert not mask(samples, "ant/1.png").any()

    @pytest.mark.parametrize(("text", "told"), WRONG_TABLES.values(), ids=WRONG_TABLES.keys())
    def test_a_wrong_table_is_refused(self, class_folder, table, refused, text, told):
        with refused(str(class_folder / "labels.csv"), *told):
            table(text)


def test_arrays_may_bring_their_masks():
    images, masks = np.zeros((2, *SIZE, 3), dtype=np.uint8), np.stack([drawn(0), drawn(1)])
    assert np.array_equal(everything((images, [0, 0], masks)).masks, masks)
    assert np.array_equal(everything((torch.zeros(2, 3, *SIZE), [0, 0], torch.from_numpy(masks))).masks, masks)


def test_masks_that_are_not_there_or_of_no_known_kind_are_refused(class_folder, tmp_path, refused):
    with refused(str(tmp_path / "none"), "no such file", "COCO", kind=UsageError):
        open_dataset(class_folder, masks=tmp_path / "none")
    (tmp_path / "m.txt").write_text("x")
    with refused("m.txt", "COCO", kind=UsageError):
        open_dataset(class_folder, masks=tmp_path / "m.txt")
    opened = open_dataset(class_folder)
    with refused("open already", kind=UsageError):
        open_dataset(opened, masks=tmp_path)


def test_an_image_without_a_known_object_is_attacked_everywhere():
    """Patches that must lie on the object would otherwise have no place at all."""
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[1, 2:4, 1:3] = True
    images, labels, ids = torch.zeros(3, 3, *SIZE), torch.zeros(3, dtype=torch.int64), ("a", "b", "c")
    found = object_masks(Samples(images, labels, ids, masks))
    assert found[0].all()
    assert torch.equal(found[1], masks[1])
    assert found[2].all()
    assert object_masks(Samples(images, labels, ids)).all()


def test_an_audit_reads_masks_and_its_configuration_names_them_from_where_it_lies(class_folder, folder, tmp_path):
    save(folder / "ant" / "0.png", drawn(0).astype(np.uint8))
    (tmp_path / "auditkit.toml").write_text('masks = "masks"')
    settings = settings_from(read_config(tmp_path / "auditkit.toml") | {"device": "cpu"})
    assert settings.masks == folder
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 3))
    bench = set_up(Recipe(network, class_folder, settings))
    assert np.array_equal(mask(bench.read(0, 9).samples, "ant/0.png"), drawn(0))
