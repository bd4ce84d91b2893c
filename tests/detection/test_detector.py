"""The deployed detector: what was fitted is what is loaded, for the model that it was fitted on and no other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from auditkit import ExecutionError, StickerDetector, UsageError
from auditkit.artifacts import Shelf
from auditkit.cli import main
from auditkit.config import settings_from
from auditkit.detection import StickerRule, gather_evidence
from auditkit.preparing import set_up
from auditkit.stickers import fit_stickers
from auditkit.workbench import Recipe

OPTIONS = {"queries": 12, "side": 0.25, "learn_from": 80, "windows": 3}


class Lookout(nn.Module):
    """Classes are told by the local averages of quarters of the image."""

    def __init__(self, seed=3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(24, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, images):
        return self.head(nn.functional.adaptive_avg_pool2d(torch.relu(self.first(images)), 2).flatten(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network, images, and a detector that was fitted on them."""
    folder = tmp_path_factory.mktemp("stickers")
    generator = torch.Generator().manual_seed(0)
    coarse = 0.3 + 0.4 * torch.rand(200, 3, 3, 3, generator=generator)
    images = nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    pixels = (images * 255).round().to(torch.uint8)
    network = Lookout().eval()
    with torch.no_grad():
        labels = network((pixels / 255 - 0.5) / 0.25).argmax(1)
    np.savez(folder / "images.npz", x=pixels.permute(0, 2, 3, 1).numpy(), y=labels.numpy())
    torch.jit.script(network).save(str(folder / "model.pt"))
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    settings = settings_from({"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "device": "cpu"})
    return Recipe(str(folder / "model.pt"), str(folder / "images.npz"), settings)


@pytest.fixture(scope="module")
def fitted(folder, recipe):
    return fit_stickers(recipe, folder / "detector.npz", OPTIONS)


def test_what_is_loaded_judges_as_what_was_fitted(folder, recipe, fitted):
    detector = StickerDetector.load(folder / "detector.npz", folder / "model.pt")
    bench = set_up(recipe)
    samples = bench.read(0, 200).samples
    evidence = gather_evidence(Shelf(bench.model, samples), fitted.rule.windows, fitted.rule.fill)
    score = fitted.rule.scores(evidence)["combined"]
    alarms = detector(samples.images)
    torch.testing.assert_close(alarms.score, score, rtol=1e-6, atol=1e-6)
    assert torch.equal(alarms.alarm, alarms.score > fitted.rule.threshold("combined", 0.05))
    assert torch.equal(alarms.decision, samples.labels)


def test_stickers_raise_alarms_and_the_window_lies_on_one(folder, fitted, recipe):
    detector = StickerDetector.load(folder / "detector.npz", folder / "model.pt")
    images = set_up(recipe).read(0, 60).samples.images.clone()
    assert float(detector(images).alarm.double().mean()) < 0.2
    images[:, :, 2:6, 2:6] = 1.0
    images[:, :, 9:13, 9:13] = 0.0
    alarms = detector(images)
    assert float(alarms.alarm.double().mean()) > 0.9
    assert alarms.window.shape == (60, 4)
    top, left, height, width = alarms.window.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 16) & (left + width <= 16)).all())


def test_an_answer_does_not_depend_on_the_other_images(folder, fitted, recipe):
    images = set_up(recipe).read(0, 20).samples.images
    whole = StickerDetector.load(folder / "detector.npz", folder / "model.pt")
    small = StickerDetector.load(folder / "detector.npz", folder / "model.pt", batch=7)
    wanted = whole(images)
    for answer in (small(images), whole(images.flip(0))):
        score = answer.score if torch.equal(answer.score, wanted.score) else answer.score.flip(0)
        assert torch.equal(score, wanted.score)
    assert torch.equal(torch.cat([whole(images[row : row + 1]).score for row in range(20)]), wanted.score)


def test_another_model_is_refused(folder, fitted):
    torch.jit.script(Lookout(seed=4).eval()).save(str(folder / "other.pt"))
    with pytest.raises(UsageError, match=r"detector\.npz was fitted on the model model\.pt .* got other\.pt"):
        StickerDetector.load(folder / "detector.npz", folder / "other.pt")


def test_a_network_in_memory_may_take_the_place_of_its_file(folder, fitted, recipe):
    images = set_up(recipe).read(0, 10).samples.images
    network = Lookout().eval()
    from_file = StickerDetector.load(folder / "detector.npz", folder / "model.pt")
    in_memory = StickerDetector.load(folder / "detector.npz", network)
    torch.testing.assert_close(in_memory(images).score, from_file(images).score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"score": "luck"}, "wanted one of .*; got luck"),
        ({"false_alarms": 0.2}, "thresholds are there for 0.01 or 0.05 false alarms; got 0.2"),
    ],
)
def test_what_was_not_calibrated_is_refused(folder, fitted, options, reason):
    with pytest.raises(ExecutionError, match=reason):
        StickerDetector.load(folder / "detector.npz", folder / "model.pt", **options)


def test_files_that_are_no_detectors_are_refused_in_one_line(folder, tmp_path):
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "arrays.npz", header=np.array("3"))
    np.savez(tmp_path / "pickled.npz", header=np.array([object()], dtype=object))
    np.savez(tmp_path / "later.npz", header=np.array(json.dumps({"format": 99})))
    for name, reason in (
        ("none.npz", "there is no file"),
        ("text.npz", "is no sticker detector"),
        ("arrays.npz", "is no sticker detector"),
        ("pickled.npz", "is no sticker detector"),
        ("later.npz", "another version of auditkit"),
    ):
        with pytest.raises(UsageError, match=reason):
            StickerDetector.load(tmp_path / name, folder / "model.pt")


def test_no_image_of_the_data_set_is_in_the_file(folder, fitted):
    with np.load(folder / "detector.npz") as stored:
        assert max(stored[name].size for name in stored.files) < 16 * 16 * 3
        rule = StickerRule.of({name: stored[name] for name in stored.files})
    assert rule.thresholds == fitted.rule.thresholds


def test_the_command_writes_it_and_says_what_it_learned_from(folder, capsys, monkeypatch):
    out = folder / "by_command.npz"
    arguments = ["stickers", "fit", str(folder / "model.pt"), "--data", str(folder / "images.npz"), "--out", str(out)]
    arguments += ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--device", "cpu"]
    arguments += [part for name, value in OPTIONS.items() for part in ("--set", f"{name}={value}")]
    monkeypatch.setattr("sys.argv", ["auditkit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "learned from 40 clean images" in printed
    assert "false alarms promised on images like these: 5%" in printed
    assert "cost: 11 forward passes an image" in printed
    assert StickerDetector.load(out, folder / "model.pt").rule.calibrated_on == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"--out": "detector.txt"}, "a detector is written to a .npz file; got"),
        ({"--set": "queries"}, "--set takes NAME=VALUE here, such as queries=100; got 'queries'"),
        ({"--set": "colour=red"}, "detect.stickers has no option 'colour'"),
        ({"--limit": "30"}, "a sticker rule wants 2 clean images"),
    ],
)
def test_mistakes_get_one_line_and_nothing_is_written(folder, tmp_path, change, reason, capsys, monkeypatch):
    given = {
        "--data": str(folder / "images.npz"),
        "--out": "new.npz",
        "--device": "cpu",
        "--set": "queries=5",
        **change,
    }
    given["--out"] = str(tmp_path / given["--out"])
    arguments = ["stickers", "fit", str(folder / "model.pt"), *(part for pair in given.items() for part in pair)]
    monkeypatch.setattr("sys.argv", ["auditkit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (2, 3)
    printed = capsys.readouterr().err.strip()
    assert reason in printed
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())
