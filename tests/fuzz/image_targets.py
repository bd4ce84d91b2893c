"""What strangers send as data: images, arrays, tables of labels, annotations."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Target
from PIL import Image
from structure import bundle, unbundle

from auditkit.samples import Dataset, open_dataset, open_images
from auditkit.samples.base import fingerprint

__all__ = ["TARGETS"]

_SIDES = (7, 5)


def _picture(mode: str = "RGB", seed: int = 0, sides: tuple[int, int] = _SIDES) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (*sides, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(values[:, :, :3]).convert(mode)


@cache
def _saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _animated(form: str) -> bytes:
    buffer = io.BytesIO()
    first, *others = (_picture(seed=seed) for seed in range(4))
    first.save(buffer, form, save_all=True, append_images=others, duration=10)
    return buffer.getvalue()


def _oriented(form: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    exif[270] = "a picture"
    return _saved(form, exif=exif.tobytes())


_FORMATS: dict[str, Callable[[], list[bytes]]] = {
    "png": lambda: [
        *(_saved("PNG", mode) for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "I;16")),
        _animated("PNG"),
        _oriented("PNG"),
    ],
    "jpeg": lambda: [
        _saved("JPEG"),
        _saved("JPEG", "L"),
        _saved("JPEG", "CMYK"),
        _saved("JPEG", progressive=True),
        _oriented("JPEG"),
    ],
    "bmp": lambda: [_saved("BMP", mode) for mode in ("RGB", "L", "1", "P", "RGBA")],
    "gif": lambda: [_saved("GIF", mode) for mode in ("RGB", "L", "P")] + [_animated("GIF")],
    "tiff": lambda: [
        *(_saved("TIFF", mode) for mode in ("RGB", "L", "1", "P", "CMYK", "F", "I;16", "YCbCr")),
        *(_saved("TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        _saved("TIFF", "1", compression="group4"),
        _animated("TIFF"),
        _oriented("TIFF"),
    ],
    "webp": lambda: [_saved("WEBP"), _saved("WEBP", "RGBA", lossless=True), _animated("WEBP"), _oriented("WEBP")],
    "ppm": lambda: [
        *(_saved("PPM", mode) for mode in ("RGB", "L", "1", "I;16")),
        b"P3\n2 2\n255\n" + b"1 2 3 " * 4,
        b"P2\n# said by nobody\n2 2\n65535\n0 1 2 3\n",
        b"P1\n2 2\n0 1 1 0\n",
        b"Pf\n2 2\n-1.0\n" + bytes(16),
    ],
}


def _read_all(dataset: Dataset) -> None:
    read = dataset.read(0, min(len(dataset), 8))
    fingerprint(read.samples.digests())


def _run_image(data: bytes, folder: Path) -> None:
    place = folder / "data" / "stop"
    place.mkdir(parents=True)
    (place / "0.png").write_bytes(data)
    _read_all(open_dataset(folder / "data"))
    _read_all(open_dataset(folder / "data", resize=(4, 4), grey=True, skip_bad=True))


def _run_masks(data: bytes, folder: Path) -> None:
    _write(folder, {"data/stop/0.png": _saved("PNG"), "masks/stop/0.png": data})
    _read_all(open_dataset(folder / "data", masks=folder / "masks", resize=(4, 4)))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _npz(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def _archives() -> list[bytes]:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (4, *_SIDES, 3), dtype=np.uint8), np.arange(4) % 2
    names = np.array(["stop", "yield"])
    return [
        _npz(x=x, y=y, names=names, ids=np.array(list("abcd"))),
        _npz(images=np.float32(x.transpose(0, 3, 1, 2) / 255), labels=y.astype(np.uint8)),
        _npz(compressed=True, x=x[:, :, :, 0], y=y, masks=x[:, :, :, 1] > 100),
        _npz(x=x, y=y, ids=np.array([b"a", b"b", b"c", b"\xff"])),
        _npz(x=np.array([{"a": 1}], dtype=object), y=y[:1]),
        _npz(compressed=True, x=np.zeros((16, 256, 256, 3), dtype=np.uint8), y=np.zeros(16, dtype=int)),
    ]


def _run_archive(data: bytes, folder: Path) -> None:
    file = folder / "data.npz"
    file.write_bytes(data)
    _read_all(open_dataset(file, resize=(4, 4), skip_bad=True))


def _run_archive_of_images(data: bytes, folder: Path) -> None:
    file = folder / "data.npz"
    file.write_bytes(data)
    _read_all(open_images(file))


def _archives_of_masks() -> list[bytes]:
    masks = np.random.default_rng(2).integers(0, 2, (2, *_SIDES))
    return [
        _npz(masks=masks.astype(bool), ids=np.array(["stop/0.png", "stop/1.png"])),
        _npz(masks=masks),
        _npz(compressed=True, masks=masks.astype(np.int8), ids=np.array([b"stop/0.png", b"yield/2.png"])),
    ]


def _run_archive_of_masks(data: bytes, folder: Path) -> None:
    _write(folder, {"data/stop/0.png": _saved("PNG"), "data/stop/1.png": _saved("PNG"), "masks.npz": data})
    _read_all(open_dataset(folder / "data", masks=folder / "masks.npz"))


def _tables() -> list[bytes]:
    def table(*lines: tuple[object, ...]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows(lines)
        return text.getvalue().encode()

    return [
        table(("file", "label"), ("0.png", 0), ("stop/1.png", 1)),
        table(("file", "label"), ("0.png", "stop"), ("stop/1.png", "yield")),
        table(("file", "label", "mask"), ("0.png", 0, "stop/1.png"), ("stop/1.png", 1, "")),
        table(("path", "class", "x", "y", "width", "height"), ("0.png", 0, 1, 1, 3, 4), ("stop/1.png", 1, 0, 0, 9, 9)),
        table(("image", "y", "left", "top", "right", "bottom"), ("0.png", 3, 0.5, 1, 3, 4.5)),
        b"\xef\xbb\xbffile,label\r\n0.png,1\r\n../secret.txt,0\r\n",
    ]


def _run_table(data: bytes, folder: Path) -> None:
    _write(folder, {"0.png": _saved("PNG"), "stop/1.png": _saved("PNG"), "labels.csv": data})
    _read_all(open_dataset(folder))


def _annotations() -> list[bytes]:
    images = [{"id": 1, "file_name": "stop/0.png", "width": 5, "height": 7}, {"id": "b", "file_name": "1.png"}]
    categories = [{"id": 1, "name": "stop"}, {"id": 7, "name": "yield", "class_index": 0}]
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 3.5, 4]}
    polygon = {**box, "segmentation": [[0, 0, 4, 0, 4, 6.5], [1, 1, 2, 2, 3, 1]]}
    runs = {**box, "segmentation": {"size": [7, 5], "counts": [7, 14, 14]}, "iscrowd": True}
    packed = {**box, "segmentation": {"size": [7, 5], "counts": "7>>"}, "image_id": "b", "category_id": 7}
    return [
        json.dumps({"images": images, "annotations": marks, "categories": categories}).encode()
        for marks in ([box], [polygon, box], [runs, polygon], [packed, box], [box, polygon, runs, packed])
    ]


def _run_annotations(data: bytes, folder: Path, option: str = "masks") -> None:
    _write(folder, {"data/stop/0.png": _saved("PNG"), "data/1.png": _saved("PNG"), "coco.json": data})
    if option == "masks":
        (folder / "data" / "1.png").rename(folder / "data" / "stop" / "1.png")
    given: dict[str, Any] = {option: folder / "coco.json"}
    _read_all(open_dataset(folder / "data", **given))


def _folders() -> list[bytes]:
    picture = _saved("PNG")
    return [
        bundle({"stop/0.png": picture, "yield/1.jpg": _saved("JPEG"), "yield/2.PNG": picture}),
        bundle({"labels.csv": b"file,label\n0.png,1\n", "0.png": picture}),
        bundle({"stop/\x1b[2J.png": picture, "a\nb/0.png": picture, ".hidden/0.png": b""}),
    ]


def _run_folder(data: bytes, folder: Path) -> None:
    """Names of files are a stranger's as well, as far as a file system has them."""
    root = folder / "data"
    root.mkdir()
    for name, content in unbundle(data).items():
        parts = [part for part in name.replace("\x00", "").split("/") if part not in ("", ".", "..")]
        place = root.joinpath(*(part[:80] for part in parts))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        except OSError:  # a name that is a file and a folder, or none
            continue
    _read_all(open_dataset(root, resize=(4, 4)))
    _read_all(open_images(root, resize=(4, 4), skip_bad=True))


_COCO_WORDS = (b'"segmentation"', b'"counts"', b'"size"', b'"bbox"', b'"images"', b'"id"', b'"height"', b"null")
_CSV_WORDS = (b"file", b"label", b"mask", b"left", b"top", b"right", b"bottom", b",", b'"', b"\n", b"0.png", b";")

TARGETS = (
    *(Target(f"image.{form}", corpus, _run_image) for form, corpus in _FORMATS.items()),
    Target("masks.pictures", lambda: [each for corpus in _FORMATS.values() for each in corpus()], _run_masks),
    Target("folder", _folders, _run_folder),
    Target("npz", _archives, _run_archive),
    Target("npz.images", _archives, _run_archive_of_images),
    Target("npz.masks", _archives_of_masks, _run_archive_of_masks),
    Target("labels.csv", _tables, _run_table, _CSV_WORDS),
    Target("coco.masks", _annotations, _run_annotations, _COCO_WORDS),
    Target("coco.boxes", _annotations, partial(_run_annotations, option="boxes"), _COCO_WORDS),
)
