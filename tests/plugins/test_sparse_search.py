"""Sparse-RS for pixels: whom it finds, which pixels it may change, its schedule, and that no draw is undefined."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_origin, toy_samples
from auditkit.threat import allowed, distance
from auditkit_plugins import sparse_search
from auditkit_plugins.sparse_search import SparseSearch

SHAPE = (3, 3, 4)


class Curved(nn.Module):
    """A small network with a bend, for which no formula says which pixel matters."""

    def __init__(self, shape=SHAPE, seed=0, lead=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = shape[0] * shape[1] * shape[2]
        self.first = nn.Parameter(torch.randn(16, size, generator=generator))
        self.second = nn.Parameter(torch.randn(3, 16, generator=generator))
        self.lead = nn.Parameter(torch.tensor([lead, 0.0, 0.0]))

    def forward(self, images):
        return torch.tanh((images.flatten(1) - 0.5) @ self.first.T) @ self.second.T + self.lead


class Recorder:
    """Answers an attack's queries with a network, and keeps what was asked."""

    def __init__(self, network):
        self.network = network
        self.asked = []

    def logits(self, images):
        self.asked.append(images)
        with torch.no_grad():
            return self.network(images)


def stepped(attack, network, samples, times, eps=None):
    """Return what was asked, and the states before each step and after the last."""
    recorder, model = Recorder(network), toy_model(network, samples.images)
    origin = toy_origin(attack, model, samples, float(attack.eps[-1]))
    states = [attack.start(origin if eps is None else replace(origin, eps=eps))]
    for _ in range(times):
        states.append(attack.step(recorder, states[-1]))
    return recorder.asked, states


def fooled_by_one_corner(network, samples):
    """Return bool (N,): whether any pixel in any corner colour changes the prediction, by trying them all."""
    channels, height, width = samples.images.shape[1:]
    found = torch.zeros(len(samples), dtype=torch.bool)
    for row, column in itertools.product(range(height), range(width)):
        for colour in itertools.product((0.0, 1.0), repeat=channels):
            images = samples.images.clone()
            images[:, :, row, column] = torch.tensor(colour)
            with torch.no_grad():
                found |= network(images).argmax(1) != samples.labels
    return found


def test_it_finds_one_pixel_wherever_trying_all_of_them_does():
    network = Curved(lead=9.0)
    samples = toy_samples(48, seed=3, shape=SHAPE, network=network, wrong_every=1000)
    wanted = fooled_by_one_corner(network, samples).numpy()
    assert 10 < wanted.sum() < 42
    found = run_check(SparseSearch(eps=(1,), queries=1000), toy_model(network, samples.images), samples, batch=64)
    np.testing.assert_array_equal(found.columns["fooled"], wanted)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 12), (3, 8, 4)])
def test_it_takes_images_of_any_shape_and_more_slots_than_pixels(shape):
    network = LinearModel(classes=2, shape=shape, seed=1)
    samples = toy_samples(9, shape=shape, network=network, wrong_every=4)
    assert_contract(SparseSearch(eps=(1, 5), queries=12, restarts=2), network=network, samples=samples)


def test_each_row_stays_within_its_own_number_of_pixels_and_uses_corner_colours():
    network = Curved((3, 5, 7))
    samples = toy_samples(12, seed=1, shape=(3, 5, 7), network=network)
    eps = torch.tensor([1.0, 2.0, 5.0] * 4)
    asked, states = stepped(SparseSearch(eps=(1, 2, 5), queries=60), network, samples, 60, eps)
    for points in asked:
        assert allowed("l0", eps, samples.images, points).all()
        changed = (points != samples.images).any(1)
        colours = points.movedim(1, -1)[changed]
        assert ((colours == 0) | (colours == 1)).all()
    most = torch.stack([distance("l0", samples.images, points) for points in asked]).amax(0)
    assert torch.equal(most, eps)
    assert (states[-1].margin < states[1].margin).any()


def test_a_set_is_kept_unless_the_margin_grows():
    network = Curved((3, 5, 7))
    samples = toy_samples(12, seed=1, shape=(3, 5, 7), network=network, wrong_every=1000)
    asked, states = stepped(SparseSearch(eps=(3,), queries=80), network, samples, 80)
    kept = 0
    for points, before, after in zip(asked, states, states[1:], strict=False):
        scores = network(points).detach()
        others = scores.scatter(1, samples.labels.unsqueeze(1), -torch.inf).amax(1)
        margin = scores.gather(1, samples.labels.unsqueeze(1)).squeeze(1) - others
        accepted = margin <= before.margin
        kept += int(accepted.sum())
        torch.testing.assert_close(after.margin, torch.where(accepted, margin, before.margin))
        assert torch.equal(after.images, torch.where(accepted.view(-1, 1, 1, 1), points, before.images))
    assert 24 < kept < 80 * 12


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 7, 12), (1, 12, 5)])
def test_pixels_reach_every_place_the_last_row_and_column_too(shape):
    images = toy_samples(1, shape=shape).images
    draws = torch.linspace(2**-25, 1 - 2**-24, 40 * shape[1] * shape[2])
    places = sparse_search._random_places(draws, images)
    counts = torch.bincount(places, minlength=shape[1] * shape[2])
    assert (counts >= 39).all()
    assert len(counts) == shape[1] * shape[2]
    corner = torch.full((1, 1), shape[1] * shape[2] - 1)
    for draw in ([0.0, 0.0], [0.999, 0.999]):
        moved = sparse_search._moved(corner, torch.tensor([[draw]]), images)
        assert 0 <= int(moved) < shape[1] * shape[2]


def test_where_two_slots_hold_one_place_the_first_decides_and_idle_slots_say_nothing():
    """Writing two colours to one place gives either of them on a GPU."""
    clean = torch.full((2, 3, 2, 3), 0.5)
    places = torch.tensor([[4, 4, 1, 4], [2, 5, 2, 0]])
    colours = torch.tensor([[[1.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3]] * 2)
    painted = sparse_search._painted(clean, torch.tensor([4, 1]), places, colours)
    wanted = clean.clone()
    wanted[0, :, 1, 1], wanted[0, :, 0, 1], wanted[1, :, 0, 2] = 1.0, 0.0, 1.0
    assert torch.equal(painted, wanted)


def test_fewer_pixels_are_replaced_at_once_the_longer_it_searches():
    attack = SparseSearch(eps=(100,), queries=1000)
    network = Curved((3, 5, 7))
    samples = toy_samples(1, shape=(3, 5, 7), network=network)
    state = attack.start(toy_origin(attack, toy_model(network, samples.images), samples, 100.0))
    replaced = [
        int(attack._replaced(replace(state, step=torch.tensor([step]))))
        for step in (5, 6, 20, 21, 50, 51, 100, 101, 200, 201, 400, 401, 600, 601, 800, 801)
    ]
    shares = [15, 7, 7, 6, 6, 5, 5, 3, 3, 3, 3, 2, 2, 2, 2, 1]
    assert replaced == shares


def test_the_control_changes_as_many_pixels_without_aim():
    network = Curved((3, 9, 9))
    samples = toy_samples(8, shape=(3, 9, 9), network=network)
    attack = SparseSearch(eps=(2, 6))
    changed = attack.control(toy_origin(attack, toy_model(network, samples.images), samples, 6.0))
    count = distance("l0", samples.images, changed)
    assert (count <= 6).all()
    assert count.mean() > 5
    assert not torch.equal(changed[0] != samples.images[0], changed[1] != samples.images[1])


@pytest.mark.parametrize("eps", [(0.5,), (1.5, 3.0), (0.0, 1.0)])
def test_parts_of_a_pixel_are_refused(eps):
    with pytest.raises(ValueError, match="whole numbers of pixels"):
        SparseSearch(eps=eps)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(1, 4, 4), (3, 4, 8)]), queries=st.integers(1, 40))
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape, queries):
    network = Curved(shape, seed=seed)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    check = SparseSearch(eps=(1, 3), queries=queries)
    wanted, *others = (run_check(check, model, samples, batch=batch) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)
