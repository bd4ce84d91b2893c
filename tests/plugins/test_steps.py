"""noise.steps: the count is a formula on linear models; no chance is in it; contract."""

from __future__ import annotations

import numpy as np

from auditkit.testing import LinearModel, assert_contract, linear_distance, run_check, toy_model, toy_samples
from auditkit_plugins.steps import Steps


def test_the_count_is_the_distance_in_step_lengths():
    network = LinearModel(classes=2, seed=1)
    samples = toy_samples(40, seed=2, network=network)
    least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
    eps, size = 4 / 255, 0.05
    found = run_check(Steps(eps=(eps,), steps=25, step_size=size), toy_model(network, samples.images), samples).columns
    # The first query is the clean image; the k-th stands k - 1 steps away.
    wanted = np.floor(least / (eps * size)) + 2
    near = np.abs(least / (eps * size) - np.round(least / (eps * size))) < 1e-3
    inside = (least > 0) & (wanted <= 21) & ~near
    assert inside.sum() > 10
    assert found["fooled"][inside].all()
    np.testing.assert_array_equal(found["steps"][inside], wanted[inside])
    beyond = least > eps * 1.001
    assert not found["fooled"][beyond].any()


def test_it_depends_on_no_seed():
    network = LinearModel(classes=3, seed=1)
    samples = toy_samples(20, seed=2, network=network)
    model = toy_model(network, samples.images)
    first, second = (run_check(Steps(eps=(0.02,)), model, samples, seed=seed).columns for seed in (0, 1))
    np.testing.assert_array_equal(first["steps"], second["steps"])
    assert first["fooled"].any()


def test_the_contract():
    assert_contract(Steps, options={"steps": 5})
