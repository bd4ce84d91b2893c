"""Exported images: each in its folder, as it was attacked, with a line in the manifest; complete or not there."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import auditkit
from auditkit import export
from auditkit.errors import UsageError
from auditkit.testing import LinearModel, toy_samples

ODD = ("a/b.png", "a b", "..", "x" * 200)


@pytest.fixture
def data():
    return toy_samples(13, seed=2, network=LinearModel(classes=3, seed=1))


def audited(data, folder, **settings):
    options = {"noise.pgd": {"steps": 5, "eps": "4/255"}, "noise.fgsm": {"eps": "2/255"}}
    chosen = {"checks": ("noise.pgd", "noise.fgsm", "samples.hard"), "options": options, **settings}
    pair = (data.images.numpy(), data.labels.numpy())
    return auditkit.audit(LinearModel(classes=3, seed=1), pair, export=folder, **chosen)


def manifest(folder):
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("shard", [5, 100])
def test_every_attacked_and_every_hard_image_is_there_once(tmp_path, data, shard):
    folder = tmp_path / "deep" / "export"
    result = audited(data, folder, shard=shard)
    lines = manifest(folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert sorted(line["file"] for line in lines) == files
    assert len({line["file"] for line in lines}) == len(lines)
    for key in ("noise.pgd", "noise.fgsm"):
        fooled = result.table["id"][result.table[f"{key}/fooled"]]
        assert sorted(line["id"] for line in lines if line["check"] == key) == sorted(fooled)
    hard = result.table["id"][result.table["samples.hard/hard"]]
    assert sorted(line["id"] for line in lines if line["file"].startswith("hard/")) == sorted(hard)
    assert len(hard)


def test_a_file_shows_what_the_attack_made(tmp_path, data):
    folder = tmp_path / "export"
    result = audited(data, folder)
    images = dict(zip(result.table["id"], data.images.numpy(), strict=True))
    for line in manifest(folder):
        written = np.asarray(Image.open(folder / line["file"])).transpose(2, 0, 1) / 255
        budget = {"noise.pgd": 4, "noise.fgsm": 2, "": 0}[line["check"]] / 255
        moved = np.abs(written - images[line["id"]]).max()
        assert moved <= budget + 0.51 / 255
        assert moved >= budget - 0.51 / 255
        assert line["label"] == line["class"].lstrip("0") or line["class"] == "0000"


def test_the_manifest_says_which_images_still_fool_as_files(tmp_path, data):
    folder = tmp_path / "export"
    audited(data, folder)
    network = LinearModel(classes=3, seed=1)
    told = set()
    for line in manifest(folder):
        if not line["check"]:
            continue
        pixels = np.asarray(Image.open(folder / line["file"])).transpose(2, 0, 1).astype(np.float32) / 255
        wrong = int(network(torch.from_numpy(pixels)[None]).argmax()) != int(line["label"])
        assert line["fools_as_png"] == str(wrong)
        told.add(wrong)
    assert True in told


@pytest.mark.parametrize("name", [*ODD, ".", "", "CON?", "ü", "a_b"])
def test_names_are_safe_and_stay_different(name):
    safe = export._safe(name)
    assert safe
    assert "/" not in safe
    assert safe not in (".", "..")
    assert len(safe) < 120
    assert sum(export._safe(other) == safe for other in {*ODD, ".", "", "CON?", "ü", "a_b"}) == 1


def test_nothing_is_overwritten_and_nothing_is_measured_for_nothing(tmp_path, data):
    (tmp_path / "export").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        audited(data, tmp_path / "export")
    assert not list((tmp_path / "export").iterdir())


def test_an_export_that_fails_leaves_no_half_folder(tmp_path, data, monkeypatch):
    def broken(image):
        raise OSError("disk full")

    monkeypatch.setattr(export, "_as_image", broken)
    with pytest.raises(OSError, match="disk full"):
        audited(data, tmp_path / "export")
    assert not list(tmp_path.iterdir())
