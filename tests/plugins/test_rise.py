"""RISE: maps show what keeps the decision, say how far they can be trusted, and hang on the sample alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from auditkit import Capability, Streams, UsageError
from auditkit.engine import missing_capability
from auditkit.findings import flags, metrics
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing
from auditkit.models.tryout import try_out
from auditkit.plan import configure
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.random_masks import RandomMasks
from auditkit_plugins.rise import Rise, _correlation, _Map

CPU = torch.device("cpu")
ALL = Rise(masks=200, share=1)


class Spot(nn.Module):
    """Class 1 where the pixels of one spot are bright; nothing else counts."""

    def forward(self, images):
        bright = 8 * (images[:, :, 2:6, 9:13].flatten(1).mean(1) - 0.4)
        return torch.stack([-bright, bright], 1)


def bright(n=3, height=14, width=18):
    images = torch.full((n, 3, height, width), 0.8)
    return Samples(images, torch.ones(n, dtype=torch.int64), tuple(f"s{row}" for row in range(n)))


def test_a_map_is_the_mean_probability_over_the_masks_that_leave_a_pixel_visible():
    network = LinearModel(classes=3, shape=(3, 8, 8), seed=2)
    samples = toy_samples(2, network=network)
    model = toy_model(network, samples.images)
    masks = RandomMasks.draw(Streams.of(0, "explain.rise\0masks", [samples.ids[1]]), 100, 7, 0.5)
    seen = masks.over(samples.images[1], slice(None)).double()
    label = int(samples.labels[1])
    with torch.no_grad():
        probability = network(samples.images[1] * seen.float()[:, None]).softmax(1)[:, label].double()
    wanted = (seen * probability[:, None, None]).sum(0) / seen.sum(0) - probability.mean()
    ctx_map = {}

    class Watched(Rise):
        def _exhibits(self, maps, samples, ctx):
            ctx_map.update(maps)
            return ()

    findings = run_check(Watched(masks=100, share=1), model, samples)
    np.testing.assert_allclose(ctx_map[1].kept, wanted.clamp_min(0), atol=1e-6)
    flat = np.sort(wanted.clamp_min(0).flatten())
    assert findings.columns["concentration"][1] == pytest.approx(flat[-6:].sum() / flat.sum(), rel=1e-4)
    halves = [(seen[at::2] * probability[at::2, None, None]).sum(0) / seen[at::2].sum(0) for at in (0, 1)]
    wanted = np.corrcoef(*(half.flatten() for half in halves))[0, 1]
    assert findings.columns["reliability"][1] == pytest.approx(wanted, abs=1e-5)
    assert (findings.forwards == 101).all()


def test_many_masks_find_the_spot_and_agree_on_it():
    samples = bright()
    findings = run_check(replace(ALL, masks=1000), toy_model(Spot(), samples.images), samples)
    assert findings.columns["responds"].all()
    assert (findings.columns["reliability"] > 0.8).all()
    assert (findings.columns["concentration"] > 0.3).all()
    for exhibit in findings.exhibits:
        heat = exhibit.panels[1].array[:, :, -1]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert 1 <= row < 7
        assert 8 <= column < 14


def test_too_few_masks_give_maps_that_do_not_agree_and_raise_the_flag():
    network = LinearModel(classes=3, shape=(3, 24, 24), seed=2)
    samples = toy_samples(10, shape=(3, 24, 24), network=network)
    model = toy_model(network, samples.images)
    few, many = (run_check(Rise(masks=masks, share=1, grid=8), model, samples) for masks in (20, 2000))
    assert few.columns["reliability"].mean() < many.columns["reliability"].mean()
    raised = [flags(Rise.spec, "explain.rise", metrics(Rise.spec, one.columns)[0]) for one in (few, many)]
    assert [flag.id for flag in raised[0]] == ["explain.rise.unsettled"]
    assert not raised[1]


def test_images_are_chosen_by_their_names_alone():
    samples = toy_samples(60, network=LinearModel())
    model = toy_model(LinearModel(), samples.images)
    check = Rise(masks=20, share=0.3)
    findings = run_check(check, model, samples)
    chosen = findings.columns["explained"]
    assert 8 <= chosen.sum() <= 28
    assert (findings.forwards == np.where(chosen, 21, 1)).all()
    for name in ("concentration", "reliability"):
        assert (np.isfinite(findings.columns[name]) == findings.columns["responds"]).all()
    assert not (findings.columns["responds"] & ~chosen).any()
    rows = list(range(59, -1, -3))
    part = run_check(check, model, samples.take(rows)).columns
    for name, column in findings.columns.items():
        np.testing.assert_array_equal(part[name], column[rows])
    other = run_check(check, model, samples, seed=1).columns["explained"]
    assert (other != chosen).any()
    more = run_check(replace(check, share=0.6), model, samples).columns["explained"]
    assert (more >= chosen).all()


def test_where_nothing_changes_the_probability_there_is_no_map():
    class Constant(nn.Module):
        def forward(self, images):
            return torch.stack([images.flatten(1).mean(1) * 0 + value for value in (1.0, 0.0)], 1)

    samples = toy_samples(4)
    findings = run_check(ALL, toy_model(Constant(), samples.images), samples)
    assert findings.columns["explained"].all()
    assert not findings.columns["responds"].any()
    assert not findings.columns["unsettled"].any()
    found, _ = metrics(Rise.spec, findings.columns)
    assert found["responds"].value == 0
    assert "reliability" not in found


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_sample_gets_the_same_result_in_any_batch(batch):
    network = LinearModel(classes=3, shape=(1, 9, 12), seed=3)
    samples = toy_samples(4, shape=(1, 9, 12), network=network)
    model = toy_model(network, samples.images)
    check = Rise(masks=90, share=1)
    wanted, got = (run_check(check, model, samples, batch=size).columns for size in (32, batch))
    for name, column in wanted.items():
        np.testing.assert_array_equal(got[name], column)


def test_the_check_keeps_the_contract():
    assert_contract(Rise, options={"masks": 40, "share": 1})
    assert_contract(Rise(masks=40, share=0.5, grid=3, keep=0.8, gallery=2))


def test_it_needs_scores_and_no_gradients():
    network = LinearModel()
    samples = toy_samples(4, network=network)
    planned = configure(Rise, {}, "explain.rise", "test")
    blind = replace(toy_model(network, samples.images), exact=None, no_gradients="none")
    assert missing_capability(planned, blind) is None
    assert Rise.spec.needs == {Capability.SCORES}

    class Answers(nn.Module):
        def forward(self, images):
            return network(images).argmax(1)

    loaded = load_model(Answers().eval(), device=CPU)
    labels = try_out(loaded, Preprocessing(outputs="labels"), samples.images, CPU, 16)
    assert missing_capability(planned, labels) == "it needs scores, and the model gives labels only"


def test_probabilities_and_many_classes_are_explained_too():
    network = nn.Sequential(LinearModel(classes=1000, shape=(1, 8, 8), seed=1), nn.Softmax(1)).eval()
    samples = toy_samples(2, shape=(1, 8, 8), network=network)
    model = try_out(load_model(network, device=CPU), Preprocessing(outputs="probabilities"), samples.images, CPU, 16)
    columns = run_check(ALL, model, samples).columns
    assert columns["responds"].all()


def test_the_gallery_shows_explained_images_with_confident_mistakes_first():
    network = LinearModel(seed=4)
    samples = toy_samples(20, network=network, wrong_every=5)
    check = Rise(masks=20, share=0.5, gallery=4)
    findings = run_check(check, toy_model(network, samples.images), samples)
    shown = [samples.ids.index(exhibit.sample) for exhibit in findings.exhibits]
    assert len(shown) == 4
    assert findings.columns["explained"][shown].all()
    wrong = [row for row in (4, 9, 14, 19) if findings.columns["explained"][row]]
    assert wrong
    assert set(shown[: len(wrong)]) == set(wrong)
    for exhibit in findings.exhibits:
        reliability = findings.columns["reliability"][samples.ids.index(exhibit.sample)]
        assert exhibit.caption.endswith(f"two halves of the 20 masks agree to {reliability:.2f}")
        assert [panel.kind for panel in exhibit.panels] == ["image", "overlay"]
    assert not run_check(replace(check, gallery=0), toy_model(network, samples.images), samples).exhibits


def test_a_flat_half_agrees_with_nothing():
    one = np.random.default_rng(0).normal(size=(5, 7))
    assert _correlation(one, 2 * one + 1) == pytest.approx(1)
    assert _correlation(one, -one) == pytest.approx(-1)
    assert _correlation(one, np.ones_like(one)) == 0


def test_a_pixel_that_no_mask_shows_does_not_count():
    masks = RandomMasks(torch.tensor([[[1.0] * 3, [0.0] * 3, [0.0] * 3]]).repeat(4, 1, 1), torch.zeros(4, 2))
    image = torch.zeros(1, 16, 16)
    hidden = masks.over(image, slice(None)).amax(0) == 0
    assert hidden.any()
    made = _Map.of(torch.tensor([0.2, 0.4, 0.6, 0.8]).double(), masks, image)
    assert torch.isfinite(made.kept).all()
    assert (made.kept[hidden] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 10}, "greater than or equal to 20"),
        ({"masks": 31}, "multiple of 2"),
        ({"grid": 1}, "greater than or equal to 2"),
        ({"keep": 1}, "less than 1"),
        ({"share": 0}, "greater than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        configure(Rise, options, "explain.rise", "test")
