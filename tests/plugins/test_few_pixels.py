"""pixel.few: no weaker than its attacks, works without gradients and on hidden ones, and says who found what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.config import settings_from
from auditkit.findings import metrics
from auditkit.preparing import set_up
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.few_pixels import FewPixels
from auditkit_plugins.sparse_gradient import SparseGradient

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
QUICK = {"steps": 16, "queries": 60}


class Rounded(nn.Module):
    """A linear model on rounded images: its gradients are zero, and it is as easy to fool as before."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner((images * 64).round() / 64)


def subject(n=24):
    network = LinearModel(classes=4, seed=3)
    samples = toy_samples(n, seed=5, network=network)
    return network, samples, toy_model(network, samples.images)


def test_every_success_is_counted_in_pixels_and_belongs_to_one_attack():
    _, samples, model = subject()
    check = FewPixels(eps=(1, 2, 4), **QUICK)
    found = run_check(check, model, samples).columns
    fooled, pixels = found["fooled"], found["distance"]
    assert fooled.sum() > 10
    for k in check.eps:
        np.testing.assert_array_equal(found[f"fooled@{k:g}"], fooled & (pixels <= k))
    np.testing.assert_array_equal((found["by_gradient"].astype(int) + found["by_queries"])[fooled], 1)
    assert not found["overstepped"].any()
    values, _ = metrics(check.spec, found)
    assert values["median_pixels"].value == np.median(pixels[fooled])


def test_it_is_no_weaker_than_its_first_attack():
    _, samples, model = subject(n=40)
    alone = run_check(SparseGradient(eps=(1, 2), steps=16), model, samples).columns
    together = run_check(FewPixels(eps=(1, 2), **QUICK), model, samples).columns
    for name in ("fooled@1", "fooled@2"):
        assert (together[name] | ~alone[name]).all(), name


def test_hidden_gradients_do_not_make_a_model_robust():
    network, samples, _ = subject()
    model = toy_model(Rounded(network), samples.images)
    gradient = run_check(SparseGradient(eps=(5,), steps=16), model, samples).columns
    both = run_check(FewPixels(eps=(5,), steps=16, queries=200), model, samples).columns
    assert gradient["robust"].sum() > both["robust"].sum() + 5
    assert both["by_queries"].sum() > 5


def test_without_gradients_the_search_on_scores_is_left():
    _, samples, model = subject()
    blind = replace(model, exact=None, no_gradients="a test")
    found = run_check(FewPixels(eps=(5,), **QUICK), blind, samples, search=None).columns
    assert found["fooled"].any()
    np.testing.assert_array_equal(found["by_queries"], found["fooled"])


@pytest.mark.parametrize("eps", [(0.5,), (1.5, 3.0), (0.0, 1.0)])
def test_parts_of_a_pixel_are_refused(eps):
    with pytest.raises(ValueError, match="whole numbers of pixels"):
        FewPixels(eps=eps)


@settings(max_examples=4, deadline=None)
@given(batch=st.sampled_from([1, 7, 64]), seed=st.integers(0, 20))
def test_the_batch_changes_nothing(batch, seed):
    network = LinearModel(classes=3, shape=(3, 4, 5), seed=seed)
    samples = toy_samples(10, seed=seed, shape=(3, 4, 5), network=network)
    model = toy_model(network, samples.images)
    check = FewPixels(eps=(1, 3), steps=9, queries=20)
    wanted, got = (run_check(check, model, samples, batch=size) for size in (32, batch))
    np.testing.assert_array_equal(wanted.forwards, got.forwards)
    for name, column in wanted.columns.items():
        np.testing.assert_array_equal(column, got.columns[name], err_msg=name)


def test_the_contract():
    assert_contract(FewPixels, options={"eps": "1, 3", "steps": 6, "queries": 8})


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
def test_ten_pixels_are_plenty_against_a_resnet_and_ten_random_ones_are_not():
    chosen = settings_from({"limit": 8, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / "resnet20.onnx"), str(CIFAR / "images_600.npz"), chosen))
    check = FewPixels(eps=(3, 10), steps=30, queries=20)
    found = run_check(check, bench.model, bench.read(0, 8).samples, batch=32).columns
    values, _ = metrics(check.spec, found)
    assert values["attack_success_rate@10"].value >= 0.8
    assert values["control_success_rate"].value <= 0.5
