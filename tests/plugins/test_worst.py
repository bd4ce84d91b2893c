"""noise.worst: no weaker than any of its attacks, works without gradients, without scores, and on hidden gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.testing import LinearModel, assert_contract, linear_distance, run_check, toy_model, toy_samples
from auditkit_plugins.apgd import APGD
from auditkit_plugins.pgd import PGD
from auditkit_plugins.worst import Worst

QUICK = {"steps": 8, "targets": 2, "queries": 40}


class Rounded(nn.Module):
    """A linear model on rounded images: its gradients are zero, and it is as easy to fool as before."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner((images * 64).round() / 64)


def subject(classes=4, n=24):
    network = LinearModel(classes=classes, seed=3)
    samples = toy_samples(n, seed=5, network=network)
    return network, samples, toy_model(network, samples.images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_fools_what_can_be_fooled_on_a_linear_model(norm):
    network, samples, model = subject()
    least = linear_distance(network, samples.images, samples.labels, norm).numpy()
    eps = float(np.median(least[least > 0]))
    found = run_check(Worst(eps=(eps / 2, eps), norm=norm, **QUICK), model, samples).columns
    decided = (least < 0.95 * eps) | (least > 1.0001 * eps)
    np.testing.assert_array_equal(found["fooled"][decided], ((least > 0) & (least < eps))[decided])
    shares = sum(found[name].astype(int) for name in found if name.startswith("by_"))
    np.testing.assert_array_equal(shares[found["fooled"]], 1)


def test_it_is_no_weaker_than_its_first_attack():
    _, samples, model = subject(n=40)
    eps = (0.003, 0.005)
    alone = run_check(APGD(eps=eps, steps=8), model, samples, key="noise.worst").columns
    together = run_check(Worst(eps=eps, **QUICK), model, samples).columns
    for name in [name for name in alone if name.startswith("fooled")]:
        assert (together[name] | ~alone[name]).all(), name


def test_hidden_gradients_do_not_make_a_model_robust():
    inner, samples, _ = subject(classes=2)
    model = toy_model(Rounded(inner), samples.images)
    eps = (16 / 255,)
    gradient = run_check(PGD(eps=eps), model, samples).columns
    worst = run_check(Worst(eps=eps, steps=8, targets=1, queries=300), model, samples).columns
    assert gradient["robust"].sum() > worst["robust"].sum() + 5
    assert worst["by_queries"].sum() > 5


def test_without_gradients_the_search_on_scores_is_left():
    _, samples, model = subject()
    blind = replace(model, exact=None, no_gradients="a test")
    found = run_check(Worst(eps=(0.05,), **QUICK), blind, samples, search=None).columns
    assert found["fooled"].any()
    np.testing.assert_array_equal(found["by_queries"], found["fooled"])


@settings(max_examples=4, deadline=None)
@given(batch=st.sampled_from([1, 7, 64]))
def test_the_batch_changes_nothing(batch):
    _, samples, model = subject(n=10)
    check = Worst(eps=(0.002, 0.004, 0.008), **QUICK)
    wanted, got = (run_check(check, model, samples, batch=size).columns for size in (32, batch))
    for name, column in wanted.items():
        np.testing.assert_array_equal(column, got[name], err_msg=name)


def test_the_contract():
    assert_contract(Worst, options={"eps": "0.01, 0.03", "steps": 4, "targets": 1, "queries": 6})
