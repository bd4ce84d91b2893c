"""One pixel: the scan finds what an exhaustive search finds, and the evolution is that of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import auditkit
from auditkit.config import settings_from
from auditkit.preparing import set_up
from auditkit.report import render_html
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_origin, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.one_pixel import OnePixel
from auditkit_plugins.pixel_evolution import Evolution
from auditkit_plugins.pixels import corner_colours, with_pixel

SHAPE = (3, 6, 10)
NETWORK = LinearModel(classes=3, shape=SHAPE, seed=4)
SAMPLES = toy_samples(16, seed=5, shape=SHAPE, network=NETWORK)
CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


def exhaustive(network, image, label):
    """Return the lowest margin over every pixel in every extreme colour, by loops."""
    channels, height, width = image.shape
    candidates = []
    for row in range(height):
        for column in range(width):
            for colour in corner_colours(image[None]):
                changed = image.clone()
                changed[:, row, column] = colour
                candidates.append(changed)
    with torch.no_grad():
        scores = network(torch.stack(candidates))
    own = scores[:, label].clone()
    scores[:, label] = -torch.inf
    return float((own - scores.amax(1)).min()), len(candidates), channels


@pytest.mark.parametrize(
    "options",
    [
        {**OnePixel.spec.presets["smoke"], "queries": 64},
        {"queries": 128, "give_up": False},
        {"search": "evolution", "population": 10, "generations": 3},
    ],
)
def test_it_keeps_the_contract(options):
    assert_contract(OnePixel, options=options, network=NETWORK, samples=SAMPLES)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (3, 2, 9)])
def test_it_takes_images_of_any_shape_and_grey_ones(shape):
    network = LinearModel(classes=2, shape=shape, seed=1)
    samples = toy_samples(5, seed=3, shape=shape, network=network)
    for search in ("scan", "evolution"):
        attack = OnePixel(search=search, queries=200, population=5, generations=2)
        findings = run_check(attack, toy_model(network, samples.images), samples)
        assert not findings.columns["overstepped"].any()


def test_with_enough_queries_it_fools_what_an_exhaustive_search_fools(model):
    """An image left out would mean that the order of the scan loses candidates for good."""
    findings = run_check(OnePixel(give_up=False), model, SAMPLES)
    both = set()
    for row in findings.columns["clean_correct"].nonzero()[0]:
        lowest, _, _ = exhaustive(NETWORK, SAMPLES.images[row], int(SAMPLES.labels[row]))
        if lowest < -1e-3:
            assert findings.columns["fooled"][row]
        both.add(bool(findings.columns["fooled"][row]))
    assert both == {True, False}


def test_a_scan_that_gives_up_loses_little_and_spends_less(model):
    patient, hasty = (run_check(OnePixel(give_up=give_up), model, SAMPLES) for give_up in (False, True))
    assert hasty.columns["fooled"].sum() == patient.columns["fooled"].sum()
    assert hasty.forwards.sum() <= patient.forwards.sum()


def test_no_extreme_colour_is_asked_about_twice_and_none_is_left_out():
    """A scan that comes back to what it knows wastes the queries of every image that is not fooled."""

    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([2.0, 1.0]).expand(len(images), 2) + 0 * images.flatten(1)[:, :1]

    shape = (3, 5, 4)
    samples = Samples(torch.full((2, *shape), 0.5), torch.zeros(2, dtype=torch.int64), ("a", "b"))
    attack = OnePixel(give_up=False)
    origin = toy_origin(attack, toy_model(Constant(), samples.images), samples, 1.0)
    state, asked = attack.start(origin), [[], []]
    every = 8 * shape[1] * shape[2]

    class Recorder:
        def logits(self, images, marks):
            for row, some in enumerate(images.view(2, -1, *shape)):
                extreme = ((some == 0.5) | (some == 0) | (some == 1)).flatten(1).all(1)
                asked[row] += [image.numpy().tobytes() for image in some[extreme]]
            return Constant()(images)

    for _ in range(2 * -(-every // 14)):
        state = attack.step(Recorder(), state)
    for seen in asked:
        assert len(seen) == len(set(seen)) == every


def test_the_attacked_image_differs_at_the_marked_pixel_only(model):
    findings = run_check(OnePixel(), model, SAMPLES)
    found = findings.columns["found"].nonzero()[0]
    assert len(found) >= 3
    for image, row in zip(findings.attacked, found, strict=True):
        different = np.abs(image / 65535 - SAMPLES.images[row].numpy()).max(0) > 1e-4
        at = int(findings.columns["row"][row]), int(findings.columns["column"][row])
        assert different.sum() == 1
        assert different[at]


def test_aim_beats_chance(model):
    columns = run_check(OnePixel(), model, SAMPLES).columns
    assert columns["fooled_by_chance"].sum() < columns["fooled"].sum()


class TestTheEvolution:
    def children(self, population, generation=1, factor=0.5):
        search = Evolution(population, 3)
        n = 40
        parents = torch.rand(n, population, 5, generator=torch.Generator().manual_seed(0))
        images = torch.zeros(n, 3, 8, 8)
        origin = toy_origin(
            OnePixel(), toy_model(LinearModel(seed=0), images), toy_samples(n, network=LinearModel(seed=0)), 1.0
        )
        state = replace(search.start(origin), parents=parents)
        at = torch.arange(population).expand(n, -1)
        return parents, search._children(state, torch.full((n,), generation), at)

    def test_a_child_is_one_candidate_moved_by_half_the_difference_of_two_others(self):
        parents, children = self.children(4)
        for row in range(5):
            for own in range(4):
                others = [index for index in range(4) if index != own]
                possible = [
                    (parents[row, a] + 0.5 * (parents[row, b] - parents[row, c])).clamp(0, 1)
                    for a in others
                    for b in others
                    for c in others
                    if len({a, b, c}) == 3
                ]
                assert min(float((children[row, own] - one).abs().max()) for one in possible) < 1e-6

    def test_all_choices_of_three_others_are_equally_likely(self):
        population, counts = 4, {}
        for generation in range(1, 60):
            parents, children = self.children(population, generation)
            for row in range(40):
                base = (children[row, 0] - parents[row]).abs().sum(1)
                counts.setdefault(generation, []).append(int(base.argmin()))
        bases = np.concatenate(list(counts.values()))
        assert set(bases) <= {0, 1, 2, 3}

    def test_it_stops_at_the_first_success_and_spends_no_more_than_the_paper(self, model):
        attack = OnePixel(search="evolution", population=20, generations=4)
        findings = run_check(attack, model, SAMPLES)
        correct, fooled = findings.columns["clean_correct"], findings.columns["fooled"]
        spent = findings.forwards - 1 - 1
        assert (spent[correct & ~fooled] == 20 * 5).all()
        assert (spent[fooled] - 2 <= 20 * 5).all()

    def test_it_gets_better_with_the_generations(self, model):
        states = []
        attack = OnePixel(search="evolution", population=30, generations=10)
        origin = toy_origin(attack, model, SAMPLES, 1.0)
        state = attack.start(origin)

        class Plain:
            def logits(self, images, marks):
                with torch.no_grad():
                    return NETWORK(images)

        for _ in range(attack.steps):
            state = attack.step(Plain(), state)
            states.append(state.fitness.amin(1))
        assert (states[-1] <= states[0]).all()
        assert (states[-1] < states[0] - 0.01).sum() >= 8


@settings(max_examples=9, deadline=None)
@given(
    batch=st.sampled_from([1, 7, 64]),
    seed=st.integers(0, 3),
    attack=st.sampled_from(
        [
            OnePixel(queries=96),
            OnePixel(queries=1200, give_up=False),
            OnePixel(search="evolution", population=10, generations=3),
        ]
    ),
)
def test_the_batch_changes_nothing(model, batch, seed, attack):
    one, other = (run_check(attack, model, SAMPLES, batch=size, seed=seed) for size in (batch, 16))
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[name], err_msg=name)
    np.testing.assert_array_equal(one.attacked, other.attacked)


def test_places_are_shares_of_the_image_and_the_last_row_and_column_are_in_reach():
    images = torch.zeros(1, 1, 4, 6)
    candidates = torch.tensor([[[0.0, 0.0, 1.0], [0.999, 0.999, 1.0], [1.0, 1.0, 1.0], [0.5, 0.5, 1.0]]])
    changed, places = with_pixel(images, candidates)
    assert places[0].tolist() == [[0, 0], [3, 5], [3, 5], [2, 3]]
    assert changed.sum((2, 3, 4)).tolist() == [[1, 1, 1, 1]]


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="the real models of ../shared/data are not here")
def test_on_a_real_network_a_few_hundred_queries_fool_one_image_in_four():
    bench = set_up(
        Recipe(str(CIFAR10 / "resnet20.onnx"), str(CIFAR10 / "images_600.npz"), settings_from({"limit": 24}))
    )
    samples = bench.read(0, 24).samples
    findings = run_check(OnePixel(queries=192), bench.model, samples, batch=64, search=bench.search)
    share = findings.columns["fooled"].sum() / findings.columns["clean_correct"].sum()
    assert 0.2 <= share <= 0.45


def test_the_report_begins_with_a_map_of_where_the_pixels_lie():
    data = (SAMPLES.images.numpy(), SAMPLES.labels.numpy())
    audited = auditkit.audit(NETWORK, data, checks=("pixel.one",), shard=5, precision="float32", device="cpu")
    (record,) = audited.result.checks
    first = record.exhibits[0]
    assert first.caption == f"Where the pixels that fool lie ({int(audited.table['pixel.one/fooled'].sum())} images)"
    counts = audited.arrays[first.panels[0].array]
    assert counts.shape == SHAPE[1:]
    assert counts.sum() == audited.table["pixel.one/fooled"].sum() > 0
    assert "Where the pixels that fool lie" in render_html(audited.result, audited.arrays, layout="single").html
