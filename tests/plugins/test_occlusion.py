"""Occlusion: the maps are captum's, the columns are what a loop over covers finds, and no gradient is needed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from auditkit import (
    CLEAN_LOGITS,
    QUICK_LOGITS,
    Capability,
    Context,
    CoverSweep,
    UsageError,
    Windows,
    filling,
    pixel_map,
)
from auditkit.artifacts import Shelf
from auditkit.config import settings_from
from auditkit.engine import missing_capability
from auditkit.errors import ExecutionError
from auditkit.models.open import load_model
from auditkit.models.prepare import folded_copy, quick_copy
from auditkit.models.preprocess import Preprocessing
from auditkit.models.tryout import try_out
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.occlusion import Occlusion

CPU = torch.device("cpu")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def convolutional(channels=3, classes=5):
    network = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return network.eval()


def quickened(network, images):
    model = toy_model(network, images)
    return replace(model, quick=quick_copy(model, folded_copy(model, images), images))


def by_captum(network, images, classes, size, stride, fill):
    channels, height, width = images.shape[1:]
    return captum.attr.Occlusion(network).attribute(
        images,
        sliding_window_shapes=(channels, *size),
        strides=(channels, *stride),
        baselines=fill.expand(len(images), channels, height, width),
        target=classes,
        perturbations_per_eval=8,
    )


def own_map(model, samples, windows, fill):
    shelf = Shelf(model, samples)
    classes = shelf.get(QUICK_LOGITS).argmax(1)
    at = classes.view(-1, 1, 1).expand(-1, len(windows), 1)
    covered = shelf.get(CoverSweep(windows, fill).artifact).gather(2, at).squeeze(2)
    return classes, pixel_map(shelf.get(QUICK_LOGITS).gather(1, classes.unsqueeze(1)) - covered, windows)


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "deployed"])
@pytest.mark.parametrize("fill", ["mean", "grey", "black", "blur"])
@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [((3, 16, 16), (4, 4), (2, 2)), ((1, 16, 16), (4, 4), (4, 4)), ((3, 12, 20), (4, 6), (2, 1))],
    ids=["square", "grey", "wide"],
)
def test_the_map_is_captums(quick, fill, shape, size, stride):
    network = convolutional(shape[0])
    samples = toy_samples(4, shape=shape, network=network)
    model = quickened(network, samples.images) if quick else toy_model(network, samples.images)
    windows = Windows.grid(*shape[1:], size, stride)
    classes, maps = own_map(model, samples, windows, fill)
    wanted = by_captum(network, samples.images, classes, size, stride, filling(fill, windows)(samples.images))
    assert wanted.abs().max() > 0.01
    np.testing.assert_allclose(maps, wanted[:, 0], atol=1e-5)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"NO REAL MODELS: {DATA} is absent")
def test_the_map_of_a_resnet_is_captums(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(DATA), *sys.path])
    import models

    network = models.resnet20(DATA / "cifar10" / "resnet20.safetensors")
    settings = settings_from({"limit": 4, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(network, str(DATA / "cifar10" / "images_600.npz"), settings))
    samples = bench.read(0, 4).samples
    assert bench.model.quick is not None
    windows = Windows.grid(32, 32, (8, 8), (4, 4))
    classes, maps = own_map(bench.model, samples, windows, "mean")
    fill = filling("mean", windows)(samples.images)
    wanted = by_captum(network, samples.images, classes, (8, 8), (4, 4), fill)[:, 0]
    # Scores of this network reach 20, so this is the tenth digit of a float32 sum of many.
    np.testing.assert_allclose(maps, wanted, atol=1e-5 * float(wanted.abs().max()))


@pytest.fixture(scope="module")
def network():
    return LinearModel(classes=4, shape=(3, 8, 8), seed=1)


@pytest.fixture(scope="module")
def samples(network):
    return toy_samples(12, network=network)


def test_the_columns_are_what_a_loop_over_the_covers_finds(network, samples):
    findings = run_check(Occlusion(window=3, stride=2, fill="black"), toy_model(network, samples.images), samples)
    corners = [(top, left) for top in (0, 2, 4, 5) for left in (0, 2, 4, 5)]
    for row, image in enumerate(samples.images):
        with torch.no_grad():
            scores = network(image[None])[0]
            predicted = int(scores.argmax())
            drops, lost, labels = [], [], []
            for top, left in corners:
                covered = image.clone()
                covered[:, top : top + 3, left : left + 3] = 0
                under = network(covered[None])[0]
                drops.append(float(scores[predicted] - under[predicted]))
                lost.append(float(scores.softmax(0)[predicted] - under.softmax(0)[predicted]))
                labels.append(int(under.argmax()))
        flips = np.array(labels) != predicted
        columns = {name: column[row] for name, column in findings.columns.items()}
        assert columns["flips"] == flips.any()
        assert columns["flipping_share"] == flips.mean()
        assert columns["largest_drop"] == pytest.approx(max(lost), abs=1e-6)
        total, count = np.zeros((2, 8, 8))
        for (top, left), drop in zip(corners, drops, strict=True):
            total[top : top + 3, left : left + 3] += drop
            count[top : top + 3, left : left + 3] += 1
        speaks_for = np.sort((total / count).clip(0).flatten())
        assert (total < 0).any()
        assert columns["concentration"] == pytest.approx(speaks_for[-6:].sum() / speaks_for.sum(), rel=1e-4)
        top, left = corners[int(np.argmax(drops))]
        assert (columns["strongest_row"], columns["strongest_column"]) == (top + 1, left + 1)
    assert 0 < findings.columns["flips"].mean() <= 1
    assert (findings.forwards == 16 + 2).all()


class Corner(nn.Module):
    """Tells two classes apart by the top left pixels alone: the brighter they are, the surer it is of class 1."""

    def forward(self, images):
        bright = 20 * (images[:, :, :2, :2].flatten(1).mean(1) - 0.5)
        return torch.stack([-bright, bright], 1)


def bright_corner(n=3, size=16):
    images = torch.full((n, 3, size, size), 0.3)
    images[:, :, :2, :2] = 0.9
    return Samples(images, torch.ones(n, dtype=torch.int64), tuple(f"s{row}" for row in range(n)))


def test_the_place_that_the_decision_hangs_on_is_found():
    samples = bright_corner()
    findings = run_check(Occlusion(window=4, stride=4), toy_model(Corner(), samples.images), samples)
    columns = findings.columns
    assert columns["flips"].all()
    assert (columns["flipping_share"] == 1 / 16).all()
    assert (columns["largest_drop"] > 0.99).all()
    assert (columns["concentration"] == 1).all()
    assert (columns["strongest_row"] == 2).all()
    assert (columns["strongest_column"] == 2).all()


def test_an_image_that_no_cover_harms_does_not_respond_and_has_no_place():
    """The corner is black already, and nothing else counts."""
    samples = bright_corner()
    samples.images[:, :, :2, :2] = 0.0
    samples.images[:, :, 4:] = 0.0
    findings = run_check(Occlusion(window=2, stride=2, fill="black"), toy_model(Corner(), samples.images), samples)
    columns = findings.columns
    assert not columns["responds"].any()
    assert not columns["flips"].any()
    assert (columns["largest_drop"] == 0).all()
    for name in ("concentration", "strongest_row", "strongest_column"):
        assert np.isnan(columns[name]).all()


def test_without_options_the_windows_are_those_that_checks_share():
    """The detector of stickers asks for the same sweep and must not pay for it again."""
    samples = bright_corner(size=32)
    model = toy_model(Corner(), samples.images)
    asked = []
    shelf = Shelf(replace(model, deployed=lambda images: asked.append(len(images)) or model.deployed(images)), samples)
    for artifact in (CLEAN_LOGITS, QUICK_LOGITS, CoverSweep(Windows.covering(32, 32, 5, 5, 6)).artifact):
        shelf.get(artifact)
    done = len(asked)
    ctx = Context("explain.occlusion", 0, 32, shelf, None)
    findings = Occlusion().run(shelf.model, samples, ctx)
    assert len(asked) == done >= 3
    assert (findings.forwards == 38).all()


@pytest.mark.parametrize(
    ("options", "size", "stride", "shape"),
    [
        ({"window": 4}, (4, 4), (2, 2), (12, 20)),
        ({"window": 5, "stride": 1}, (5, 5), (1, 1), (12, 20)),
        ({"window": 0.25}, (3, 5), (2, 3), (12, 20)),
        ({"window": 0.26, "stride": 0.1}, (4, 6), (2, 2), (12, 20)),
        ({"window": 0.001}, (1, 1), (1, 1), (4, 4)),
    ],
)
def test_lengths_are_pixels_or_shares_of_the_side(options, size, stride, shape):
    assert Occlusion(**options)._windows(*shape) == Windows.grid(*shape, size, stride)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4.5}, "a window from 1 on is in whole pixels, below 1 a share of the side; got 4.5"),
        ({"window": 4, "stride": 1.5}, "a stride from 1 on is in whole pixels"),
        ({"stride": 2}, "a stride goes with a window"),
        ({"window": 0}, "greater than 0"),
        ({"fill": "pink"}, "'mean', 'grey', 'blur' or 'black'"),
        ({"top": 0}, "greater than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        configure(Occlusion, options, "explain.occlusion", "test")


@pytest.mark.parametrize(
    ("options", "message"), [({"window": 9}, "got windows of 9"), ({"window": 2, "stride": 3}, "stride of 3")]
)
def test_covers_that_do_not_fit_the_images_are_refused_in_one_line(network, samples, options, message):
    with pytest.raises(ExecutionError, match=message) as caught:
        run_check(Occlusion(**options), toy_model(network, samples.images), samples)
    assert "\n" not in str(caught.value)


def test_the_check_keeps_the_contract():
    assert_contract(Occlusion)
    assert_contract(Occlusion(window=3, stride=2, fill="blur", gallery=2))


def test_a_convolutional_model_keeps_the_contract():
    network = convolutional()
    assert_contract(Occlusion, network=network, samples=toy_samples(5, shape=(3, 12, 16), network=network))


def test_it_needs_scores_and_no_gradients(network, samples):
    planned = configure(Occlusion, {}, "explain.occlusion", "test")
    blind = replace(toy_model(network, samples.images), exact=None, no_gradients="none")
    assert missing_capability(planned, blind) is None
    assert Occlusion.spec.needs == {Capability.SCORES}

    class Answers(nn.Module):
        def forward(self, images):
            return network(images).argmax(1)

    loaded = load_model(Answers().eval(), device=CPU)
    labels = try_out(loaded, Preprocessing(outputs="labels"), samples.images, CPU, 16)
    assert missing_capability(planned, labels) == "it needs scores, and the model gives labels only"


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "deployed"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_sample_gets_the_same_result_in_any_batch_and_shard(quick, batch):
    network = convolutional()
    samples = toy_samples(9, shape=(3, 12, 16), network=network)
    model = quickened(network, samples.images) if quick else toy_model(network, samples.images)
    wanted = run_check(Occlusion(), model, samples).columns
    got = run_check(Occlusion(), model, samples, batch=batch).columns
    shards = [run_check(Occlusion(), model, samples.take(rows)).columns for rows in ([8, 0, 3], [1, 2, 4, 5, 6, 7])]
    for name, column in wanted.items():
        np.testing.assert_array_equal(got[name], column)
        parts = np.concatenate([shard[name] for shard in shards])
        np.testing.assert_array_equal(parts, column[[8, 0, 3, 1, 2, 4, 5, 6, 7]])


def test_softmax_outputs_and_many_classes_are_explained_too():
    network = nn.Sequential(convolutional(1, 1000), nn.Softmax(1)).eval()
    samples = toy_samples(3, shape=(1, 12, 16), network=network)
    model = try_out(load_model(network, device=CPU), Preprocessing(outputs="probabilities"), samples.images, CPU, 16)
    columns = run_check(Occlusion(window=4, fill="black"), model, samples).columns
    with torch.no_grad():
        clean = network(samples.images)
    assert columns["responds"].all()
    assert (columns["largest_drop"] > 0).all()
    assert (columns["largest_drop"] <= clean.amax(1).numpy() + 1e-6).all()


def test_the_gallery_shows_the_images_first_that_lose_most_under_one_cover():
    samples = bright_corner()
    samples.images[0, :, :2, :2] = 0.51
    samples.images[2, :, :2, :2] = 0.52
    exhibits = run_check(Occlusion(window=4, gallery=2), toy_model(Corner(), samples.images), samples).exhibits
    assert [exhibit.sample for exhibit in exhibits] == ["s1", "s2"]
    first = exhibits[0]
    assert "class 1, recognised with 100.0% confidence; one cover takes 100.0% of it" in first.caption
    assert first.caption.endswith("1 of 49 covers change the decision")
    assert [panel.kind for panel in first.panels] == ["image", "overlay", "heat", "image"]
    assert first.panels[2].array.shape == (7, 7)
    assert first.panels[2].array.argmin() == 0
    assert first.panels[3].title == "the strongest cover: class 0"
    assert len(np.unique(first.panels[3].array[:4, :4])) == 1
    assert (first.panels[3].array[4:] == first.panels[0].array[4:]).all()
    assert run_check(Occlusion(gallery=0), toy_model(Corner(), samples.images), samples).exhibits == ()
