"""The corruption check: every answer is counted where it belongs, and what was not asked is not reported."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from auditkit.config import settings_from
from auditkit.errors import ExecutionError, UsageError
from auditkit.findings import curves, metrics
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.corruptions import Corruptions
from auditkit_plugins.distortions import DISTORTIONS, DistortionName

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


class Bright(nn.Module):
    """Class 1 where the mean of the image lies above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        above = 100 * (images.flatten(1).mean(1) - self.threshold)
        return torch.stack([-above, above], 1)


def grey(n, channels=3, value=0.5):
    ids = tuple(f"grey-{row}" for row in range(n))
    return Samples(torch.full((n, channels, 32, 32), value), torch.zeros(n, dtype=torch.int64), ids)


def test_the_check_keeps_the_contract():
    assert_contract(Corruptions, options={"severities": "1, 5"})
    network = LinearModel(classes=4, shape=(1, 12, 8), seed=3)
    samples = toy_samples(7, shape=(1, 12, 8), network=network, wrong_every=3)
    assert_contract(Corruptions(severities=(2,), gallery=3), network=network, samples=samples)


@pytest.mark.parametrize("preset", ["smoke", "full"])
def test_a_preset_keeps_the_contract(preset):
    assert_contract(Corruptions, options=Corruptions.spec.presets[preset], samples=toy_samples(5))


def test_names_and_functions_are_the_same_list():
    assert get_args(DistortionName) == tuple(DISTORTIONS)
    assert Corruptions().corruptions == tuple(DISTORTIONS)


def test_a_model_is_correct_up_to_the_severity_that_crosses_its_threshold():
    """Brightness adds 0.05, 0.1, 0.15, 0.2 and 0.3; contrast leaves a plain image as it is."""
    samples = grey(6)
    check = Corruptions(corruptions=("brightness", "contrast"), severities=(1, 2, 3, 4, 5))
    findings = run_check(check, toy_model(Bright(0.62), samples.images), samples)
    found, _ = metrics(check.spec, findings.columns)
    assert [found[f"accuracy_brightness@{severity}"].value for severity in range(1, 6)] == [1, 1, 0, 0, 0]
    assert [found[f"accuracy_contrast@{severity}"].value for severity in range(1, 6)] == [1] * 5
    assert [found[f"accuracy@{severity}"].value for severity in range(1, 6)] == [1, 1, 0.5, 0.5, 0.5]
    assert [found[f"worst_case_accuracy@{severity}"].value for severity in range(1, 6)] == [1, 1, 0, 0, 0]
    assert found["mean_accuracy"].value == pytest.approx(0.7)
    assert found["accuracy"].value == found["accuracy@5"].value
    assert found["accuracy_brightness"].value == 0
    assert (findings.forwards == 1 + 2 * 5).all()


def test_the_worst_case_holds_the_clean_image_too():
    samples = grey(4)
    check = Corruptions(corruptions=("brightness",), severities=(5,))
    # Wrong when clean, right once it is brighter.
    samples = Samples(samples.images, torch.ones_like(samples.labels), samples.ids)
    found, _ = metrics(check.spec, run_check(check, toy_model(Bright(0.62), samples.images), samples).columns)
    assert found["accuracy@5"].value == 1
    assert found["clean_accuracy"].value == 0
    assert found["worst_case_accuracy@5"].value == 0


def test_severities_share_their_draws_and_corruptions_do_not(monkeypatch):
    """A curve compares severities, not luck; two kinds of noise are no two strengths of one."""
    seen = {}

    def spy(name):
        def distortion(images, severity, rng):
            seen[name, severity] = rng.keys
            return images

        return distortion

    monkeypatch.setattr("auditkit_plugins.corruptions.DISTORTIONS", {name: spy(name) for name in DISTORTIONS})
    check = Corruptions(corruptions=("gaussian_noise", "shot_noise"), severities=(1, 5), gallery=0)
    samples = toy_samples(4)
    run_check(check, toy_model(LinearModel(), samples.images), samples)
    assert torch.equal(seen["gaussian_noise", 1], seen["gaussian_noise", 5])
    assert not (seen["gaussian_noise", 1] == seen["shot_noise", 1]).any()


def test_what_was_not_asked_is_not_reported():
    samples = toy_samples(9, network=LinearModel())
    check = Corruptions(corruptions=("fog",), severities=(3,))
    found, _ = metrics(check.spec, run_check(check, toy_model(LinearModel(), samples.images), samples).columns)
    assert {name for name in found if name.startswith("accuracy_")} == {"accuracy_fog", "accuracy_fog@3"}
    assert found["accuracy_fog"] == found["accuracy_fog@3"]
    assert found["accuracy_fog"].method == "Clopper-Pearson"


def test_the_curves_begin_at_clean_accuracy_and_go_over_the_severities():
    samples = toy_samples(9, network=LinearModel(), wrong_every=3)
    check = Corruptions(corruptions=("fog", "jpeg"), severities=(4, 2))
    found, _ = metrics(check.spec, run_check(check, toy_model(LinearModel(), samples.images), samples).columns)
    for curve in curves(check.spec, found):
        assert [(point.x, point.label) for point in curve.points] == [(0, "0"), (2, "2"), (4, "4")]
        assert curve.points[0].estimate.value == pytest.approx(6 / 9)
        assert curve.points[2].estimate == found[f"{curve.metric}@4"]


def test_grey_images_are_not_asked_about_saturation():
    samples = grey(3, channels=1)
    check = Corruptions(corruptions=("saturate", "brightness"), severities=(5,))
    findings = run_check(check, toy_model(Bright(0.62), samples.images), samples)
    found, _ = metrics(check.spec, findings.columns)
    assert "accuracy_saturate" not in found
    assert found["mean_accuracy"].value == 0
    assert (findings.forwards == 2).all()
    with pytest.raises(ExecutionError, match="saturate needs images in colour"):
        run_check(replace(check, corruptions=("saturate",)), toy_model(Bright(0.62), samples.images), samples)


def test_exhibits_show_what_the_mildest_corruption_breaks():
    values = torch.tensor([0.58, 0.5, 0.4, 0.7]).view(-1, 1, 1, 1)
    samples = grey(4)
    samples = Samples(values.expand(4, 3, 32, 32).contiguous(), samples.labels, samples.ids)
    check = Corruptions(corruptions=("brightness",), severities=(1, 3, 5))
    exhibits = run_check(check, toy_model(Bright(0.62), samples.images), samples).exhibits
    # 0.58 fails at severity 1, 0.5 at 3, 0.4 at 5; 0.7 is wrong without any corruption.
    assert [exhibit.sample for exhibit in exhibits] == ["grey-0", "grey-1", "grey-2"]
    assert [int(exhibit.caption.partition("severity ")[2][0]) for exhibit in exhibits] == [1, 3, 5]
    first = exhibits[0].panels
    assert [panel.title for panel in first] == ["clean: class 0", "brightness: class 1"]
    assert [int(panel.array.mean()) for panel in first] == [148, 161]
    assert run_check(replace(check, gallery=0), toy_model(Bright(0.62), samples.images), samples).exhibits == ()


def test_an_exhibit_shows_the_very_image_that_the_model_got_wrong():
    network = LinearModel(classes=5, seed=2)
    samples = toy_samples(20, seed=9, network=network, wrong_every=99)
    check = Corruptions(corruptions=("gaussian_noise",), severities=(5,))
    findings = run_check(check, toy_model(network, samples.images), samples, batch=7)
    assert findings.exhibits
    for exhibit in findings.exhibits:
        shown = torch.from_numpy(exhibit.panels[1].array).permute(2, 0, 1).unsqueeze(0) / 255
        label = samples.labels[samples.ids.index(exhibit.sample)]
        assert int(network(shown).argmax()) != int(label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruptions": "fogg"}, "gaussian_noise"),
        ({"corruptions": ()}, "at least 1"),
        ({"severities": "6"}, "less than or equal to 5"),
        ({"severities": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        configure(Corruptions, options, "noise.corruptions", "test")


def test_options_are_read_as_people_write_them():
    check = configure(Corruptions, {"corruptions": "fog, snow fog", "severities": "5,1,1"}, "k", "test").check
    assert check == Corruptions(corruptions=("fog", "snow"), severities=(1, 5))
    assert configure(Corruptions, {"severities": 3}, "k", "test").check.severities == (3,)


def test_the_clock_is_looked_at():
    samples = grey(2)
    with pytest.raises(ExecutionError, match="time limit"):
        run_check(
            Corruptions(), toy_model(Bright(0.6), samples.images), samples, time_limit=1, started=time.monotonic() - 9
        )


def test_progress_counts_every_sample_once():
    samples, told = toy_samples(11), []
    run_check(
        Corruptions(corruptions=("jpeg",)),
        toy_model(LinearModel(), samples.images),
        samples,
        batch=4,
        progress=told.append,
    )
    assert told == [4, 4, 3]


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
def test_a_resnet_loses_to_noise_first_and_to_brightness_last():
    """As every network trained on clean images in the published tables of CIFAR-10-C."""
    settings = settings_from({"limit": 40, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / "resnet20.onnx"), str(CIFAR / "images_600.npz"), settings))
    samples = bench.read(0, 40).samples
    check = Corruptions(corruptions=("gaussian_noise", "fog", "brightness"), severities=(1, 5))
    found, _ = metrics(check.spec, run_check(check, bench.model, samples, batch=64).columns)
    worst = [found[f"accuracy_{name}@5"].value for name in check.corruptions]
    assert worst == sorted(worst)
    assert worst[0] < 0.5
    assert worst[2] > 0.8
    assert found["accuracy@1"].value > found["accuracy@5"].value + 0.1
    np.testing.assert_allclose(found["clean_accuracy"].value, 0.92, atol=0.08)
