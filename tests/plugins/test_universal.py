"""Universal noise: nearly the best that a formula allows, learned on some images, judged on others, beside chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditkit.findings import metrics
from auditkit.samples import Samples
from auditkit.testing import (
    LinearModel,
    assert_contract,
    linear_distance,
    run_check,
    run_learn,
    toy_model,
    toy_samples,
)
from auditkit.threat import allowed
from auditkit_plugins.universal import UniversalNoise

GREY = 1 / 255
SETTINGS = {"steps": 40, "mini_batch": 16}


@pytest.fixture(scope="module")
def network():
    return LinearModel(classes=2, seed=1)


@pytest.fixture(scope="module")
def samples(network):
    return toy_samples(240, seed=2, network=network, wrong_every=10)


@pytest.fixture(scope="module")
def model(network, samples):
    return toy_model(network, samples.images[:16])


def of_class(samples, network, label):
    """Return the samples that the network takes for this class."""
    with torch.no_grad():
        return samples.take(network(samples.images).argmax(1) == label)


def halves(samples):
    middle = len(samples) // 2
    return samples.take(range(middle)), samples.take(range(middle, len(samples)))


def learned_and_judged(check, model, samples, **context):
    training, judged = halves(samples)
    lesson = run_learn(check, model, training, **context)
    return lesson, judged, run_check(check, model, judged, lesson=lesson, **context)


def value(check, findings, name):
    return metrics(check.spec, findings.columns)[0][name].value


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_against_one_class_it_is_nearly_the_best_noise_there_is(network, model, samples, label, norm):
    """Against one of two classes of a linear network the best noise is the same for every image."""
    chosen = of_class(samples, network, label)
    needed = linear_distance(network, chosen.images, torch.full_like(chosen.labels, label), norm).numpy()
    eps = float(np.quantile(needed, 0.6))
    check = UniversalNoise(eps=(eps,), norm=norm, **SETTINGS)
    lesson, judged, findings = learned_and_judged(check, model, chosen)
    best = needed[-len(judged) :] <= eps
    assert 0.4 < best.mean() < 0.8
    reached = value(check, findings, "fooling_rate")
    assert 0.95 * best.mean() <= reached <= best.mean() + 0.01
    (noise,) = (array for name, array in lesson.items() if name.startswith("noise@"))
    aim = (network.weight[1 - label] - network.weight[label]).detach().view(noise.shape)
    aim = aim.sign() if norm == "linf" else aim
    similarity = float((aim * torch.from_numpy(noise)).sum() / aim.norm() / np.linalg.norm(noise))
    assert similarity > 0.97
    assert value(check, findings, "dominant_share") == 1.0


def test_random_noise_of_the_same_amplitude_is_far_weaker(network, model, samples):
    check = UniversalNoise(eps=(1.5 * GREY,), **SETTINGS)
    _, _, findings = learned_and_judged(check, model, of_class(samples, network, 0))
    assert value(check, findings, "fooling_rate") > 0.3
    assert value(check, findings, "noise_fooling_rate") < 0.1


def test_the_control_uses_the_same_budget_up(network, model, samples):
    """Noise of a hundred times the amplitude is not far weaker, so the control is alive."""
    check = UniversalNoise(eps=(0.75,), **SETTINGS)
    _, _, findings = learned_and_judged(check, model, samples)
    assert value(check, findings, "noise_fooling_rate") > 0.3


@pytest.mark.parametrize(("norm", "budgets"), [("linf", (GREY, 4 * GREY)), ("l2", (0.1, 0.4))])
def test_each_budget_has_noise_of_its_own_inside_it(model, samples, norm, budgets):
    check = UniversalNoise(eps=budgets, norm=norm, **SETTINGS)
    lesson, _, findings = learned_and_judged(check, model, samples)
    noises = [array for name, array in lesson.items() if name.startswith("noise@")]
    middle = torch.full((1, *noises[0].shape), 0.5)
    for eps, noise in zip(budgets, noises, strict=True):
        assert allowed(norm, eps, middle, middle + torch.from_numpy(noise)).all()
        assert not allowed(norm, 0.95 * eps, middle, middle + torch.from_numpy(noise)).any()
    changed = [column.mean() for name, column in findings.columns.items() if name.startswith("changed@")]
    assert changed[0] < changed[1]


def test_it_is_judged_by_what_the_model_said_before_and_robustness_by_the_labels(network, model, samples):
    check = UniversalNoise(eps=(2 * GREY,), **SETTINGS)
    lesson, judged, findings = learned_and_judged(check, model, samples)
    noise = torch.from_numpy(lesson["noise@2/255"])
    with torch.no_grad():
        before, after = network(judged.images).argmax(1), network((judged.images + noise).clamp(0, 1)).argmax(1)
    columns = findings.columns
    np.testing.assert_array_equal(columns["changed@2/255"], before != after)
    np.testing.assert_array_equal(columns["clean_correct"], before == judged.labels)
    np.testing.assert_array_equal(columns["robust@2/255"], (before == judged.labels) & (after == judged.labels))
    np.testing.assert_array_equal(columns["attacked_label@2/255"], after)
    assert (columns["changed@2/255"] & ~columns["clean_correct"]).any(), "an image that was wrong can change, too"


def test_the_dominant_label_is_the_commonest_in_training(network, model, samples):
    """Against two classes noise serves one: nearly all that changes goes to the other."""
    mostly = torch.cat([of_class(samples, network, 0).images, of_class(samples, network, 1).images[:12]])
    order = torch.randperm(len(mostly), generator=torch.Generator().manual_seed(0))
    mixed = Samples(mostly[order], torch.zeros(len(mostly), dtype=torch.int64), tuple(map(str, range(len(mostly)))))
    check = UniversalNoise(eps=(1.5 * GREY,), **SETTINGS)
    lesson, _, findings = learned_and_judged(check, model, mixed)
    assert lesson["dominant@1.5/255"] == 1
    assert value(check, findings, "dominant_share") > 0.9


def test_the_gallery_shows_images_that_the_noise_fools(network, model, samples):
    _, judged, findings = learned_and_judged(UniversalNoise(eps=(2 * GREY,), **SETTINGS), model, samples)
    columns = findings.columns
    fooled = columns["clean_correct"] & ~columns["robust@2/255"]
    assert 0 < len(findings.exhibits) <= 8
    for exhibit in findings.exhibits:
        assert fooled[judged.ids.index(exhibit.sample)]


def test_it_spends_a_pass_for_each_picture_of_each_image(model, samples):
    _, _, findings = learned_and_judged(UniversalNoise(eps=(GREY, 2 * GREY), **SETTINGS), model, samples)
    assert (findings.forwards == 1 + 2 * 2).all()
    assert not findings.backwards.any()


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_the_check_keeps_the_contract(preset):
    options = {**UniversalNoise.spec.presets[preset], "steps": 4, "mini_batch": 3}
    assert_contract(UniversalNoise, options=options)
    assert_contract(UniversalNoise, options={"norm": "l2", "eps": "0.1, 0.5", "steps": 3})
