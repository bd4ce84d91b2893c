"""The cover sweep: every pair of image and window, once, in batches that nobody can tell from the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_graphs import model_of, numbers
from torch import nn

from auditkit.artifacts import Shelf
from auditkit.config import settings_from
from auditkit.context import TimeLimitError
from auditkit.covers import QUICK_LOGITS, CoverSweep, Windows, cover_sweep, filling
from auditkit.covers.sweep import sweep_batch
from auditkit.errors import ExecutionError
from auditkit.preparing import set_up
from auditkit.testing import LinearModel, toy_model, toy_samples
from auditkit.workbench import Recipe

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
WINDOWS = Windows.grid(8, 10, (3, 4), (2, 3))


@pytest.fixture(scope="module")
def network():
    return LinearModel(classes=4, shape=(3, 8, 10), seed=1)


@pytest.fixture(scope="module")
def samples(network):
    return toy_samples(7, shape=(3, 8, 10), network=network)


def one_by_one(scores, images, windows, fill):
    """Cover one image with one window at a time."""
    rows = []
    for image, colour in zip(images, fill.expand_as(images), strict=True):
        for top, left in windows.corners:
            covered = image.clone()
            part = np.s_[:, top : top + windows.height, left : left + windows.width]
            covered[part] = colour[part]
            rows.append(scores(covered[None])[0])
    return torch.stack(rows).view(len(images), len(windows), -1)


@pytest.mark.parametrize("batch", [1, 3, 7, 16, 1000])
@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_every_image_is_seen_under_every_window(network, samples, batch, fill):
    fills = filling(fill, WINDOWS)
    got = cover_sweep(network, samples.images, WINDOWS, fills, batch)
    assert got.shape == (7, len(WINDOWS), 4)
    assert not got.requires_grad
    wanted = one_by_one(network, samples.images, WINDOWS, fills(samples.images))
    torch.testing.assert_close(got, wanted.detach(), rtol=1e-5, atol=1e-5)


def test_batches_are_full_and_never_larger(network, samples):
    seen = []

    def scores(covered):
        seen.append(len(covered))
        return network(covered)

    cover_sweep(scores, samples.images, WINDOWS, filling("black", WINDOWS), 16)
    pairs = len(samples) * len(WINDOWS)
    assert seen == [16] * (pairs // 16) + [pairs % 16]


def test_the_images_are_not_changed(network, samples):
    before = samples.images.clone()
    cover_sweep(network, samples.images, WINDOWS, filling("black", WINDOWS), 16)
    assert torch.equal(samples.images, before)


def test_windows_of_other_images_are_refused(network, samples):
    other = Windows.grid(8, 8, (3, 3), (2, 2))
    with pytest.raises(ExecutionError, match="cover images of 8x8 pixels; got images of 8x10"):
        cover_sweep(network, samples.images, other, filling("mean", other), 16)


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self, body):
        super().__init__()
        self.body, self.seen = body, 0

    def forward(self, images):
        self.seen += len(images)
        return self.body(images)


def test_two_who_ask_for_the_same_share_one_sweep(samples):
    counting = Counting(LinearModel(classes=4, shape=(3, 8, 10), seed=1))
    model = toy_model(counting, samples.images)
    shelf = Shelf(model, samples)
    counting.seen = 0
    first = shelf.get(CoverSweep(WINDOWS).artifact)
    asked = counting.seen
    assert asked >= len(samples) * len(WINDOWS)
    again = Windows.grid(8, 10, (3, 4), (2, 3))
    assert shelf.get(CoverSweep(again, pause=lambda: None).artifact) is first
    assert counting.seen == asked
    other = shelf.get(CoverSweep(WINDOWS, "black").artifact)
    assert counting.seen == 2 * asked
    assert not torch.equal(other, first)


def test_a_long_sweep_stops_between_batches_when_it_is_told_to(samples):
    counting = Counting(LinearModel(classes=4, shape=(3, 8, 10), seed=1))
    model = replace(toy_model(counting, samples.images), batch=16)
    counting.seen = 0
    calls = []

    def pause():
        calls.append(counting.seen)
        if len(calls) == 3:
            raise TimeLimitError("too long")

    with pytest.raises(TimeLimitError):
        CoverSweep(WINDOWS, pause=pause)(model, samples)
    assert calls == [0, 16, 32]


def test_the_quick_scores_of_clean_images_are_what_a_sweep_is_compared_with(network, samples):
    model = toy_model(network, samples.images)
    assert torch.equal(Shelf(model, samples).get(QUICK_LOGITS), model.logits(samples.images))


def test_no_images_give_no_rows(network, samples):
    model = toy_model(network, samples.images)
    assert CoverSweep(WINDOWS)(model, samples.take([])).shape == (0, len(WINDOWS), 4)


def test_the_batch_fits_the_cache_and_is_never_larger_than_allowed():
    small, large = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 224, 224)
    assert sweep_batch(small, 8) == 8
    assert sweep_batch(small, 1000) % 16 == 0
    assert sweep_batch(small, 1000) > sweep_batch(large, 1000) == 16
    assert sweep_batch(torch.empty(1, 3, 32, 32, device="meta"), 1000) == 1000


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_sample_gets_the_same_bits_in_any_batch_and_company(network, samples, batch):
    sweep = CoverSweep(WINDOWS)
    model = toy_model(network, samples.images)
    wanted = sweep(model, samples)
    model = replace(model, batch=batch)
    assert torch.equal(sweep(model, samples), wanted)
    assert torch.equal(sweep(model, samples.take([6, 2])), wanted[[6, 2]])


def test_a_fixed_batch_and_softmax_and_many_classes_are_no_matter(tmp_path):
    """An exported graph that takes eight images at a time, and returns 1000 probabilities."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "eight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    path = tmp_path / "fixed.onnx"
    constants = {"weight": numbers(80, 1000), "eight": np.zeros((8, 1000), np.float32)}
    onnx.save(model_of(nodes, constants, (8, 1, 8, 10), (8, 1000)), str(path))
    samples = toy_samples(5, shape=(1, 8, 10))
    np.savez(tmp_path / "images.npz", x=(samples.images * 255).byte().numpy(), y=samples.labels.numpy())
    settings = settings_from({"batch": 32, "device": "cpu", "outputs": "probabilities", "colour": "grey"})
    bench = set_up(Recipe(str(path), str(tmp_path / "images.npz"), settings))
    assert bench.model.batching.fixed == 8
    read = bench.read(0, 5).samples
    got = CoverSweep(WINDOWS)(bench.model, read)
    wanted = one_by_one(bench.model.logits, read.images, WINDOWS, filling("mean", WINDOWS)(read.images))
    assert got.shape == (5, len(WINDOWS), 1000)
    assert torch.equal(got, wanted)


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize("name", ["resnet20.pt", "resnet20_int8.onnx"])
def test_real_models_in_any_form_are_swept_alike_in_any_batch(name):
    settings = settings_from({"limit": 9, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / name), str(CIFAR / "images_600.npz"), settings))
    samples = bench.read(0, 9).samples
    sweep = CoverSweep(Windows.covering(32, 32, 8, 8, 2))
    wanted = sweep(bench.model, samples)
    fill = filling("mean", sweep.windows)(samples.images)
    plain = one_by_one(bench.model.logits, samples.images[:1], sweep.windows, fill[:1])
    torch.testing.assert_close(wanted[:1], plain, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    for batch in (1, 7):
        assert torch.equal(sweep(replace(bench.model, batch=batch), samples), wanted)
