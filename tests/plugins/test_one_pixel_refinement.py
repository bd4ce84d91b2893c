"""Colours between the extremes: a scan of extreme colours alone would miss what only they fool."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit import Streams
from auditkit.samples import Samples
from auditkit.testing import run_check, toy_model
from auditkit_plugins.one_pixel import OnePixel
from auditkit_plugins.pixel_refinement import Refinement
from auditkit_plugins.pixels import corner_colours, with_pixel

HEIGHT, WIDTH = 6, 10
ROW, COLUMN = 4, 7
SHARPNESS = 2.0


class Between(nn.Module):
    """Class 1 wins where the pixel (4, 7) lies within sqrt(0.05) of one colour; a white pixel (1, 2) comes near.

    The scores are 1 and max(1.1 - 2 |pixel (4, 7) - colour|^2, 0.95 * mean of pixel (1, 2)).
    """

    def __init__(self, colour):
        super().__init__()
        self.register_buffer("colour", torch.tensor(colour))

    def forward(self, images):
        away = (images[:, :, ROW, COLUMN] - self.colour).square().sum(1)
        score = torch.maximum(1.1 - SHARPNESS * away, 0.95 * images[:, :, 1, 2].mean(1))
        return torch.stack([torch.ones_like(score), score], 1)


COLOURS = [(0.3, 0.7, 0.2), (0.4,)]


def samples_of(colour, count=8):
    images = torch.zeros(count, len(colour), HEIGHT, WIDTH)
    # As far as can be from the colour, so that the place does not give itself away.
    images[:, :, ROW, COLUMN] = 1 - torch.tensor(colour).round()
    return Samples(images, torch.zeros(count, dtype=torch.int64), tuple(f"image {row}" for row in range(count)))


@pytest.mark.parametrize("colour", COLOURS)
def test_no_extreme_colour_fools_the_toy_network_and_the_best_lies_elsewhere(colour):
    """Otherwise the next test would say nothing about colours between the extremes."""
    samples, lowest = samples_of(colour, 1), {}
    for row in range(HEIGHT):
        for column in range(WIDTH):
            place = torch.tensor([(row + 0.5) / HEIGHT, (column + 0.5) / WIDTH])
            corners = corner_colours(samples.images)
            candidates = torch.cat([place.expand(len(corners), 2), corners], 1).unsqueeze(0)
            scores = Between(colour)(with_pixel(samples.images, candidates)[0].squeeze(0))
            lowest[row, column] = float((scores[:, 0] - scores[:, 1]).min())
    assert min(lowest.values()) == lowest[1, 2] == pytest.approx(0.05)
    assert lowest[ROW, COLUMN] > 0.15


@pytest.mark.parametrize("colour", COLOURS)
def test_the_scan_finds_the_one_colour_that_fools_at_a_place_that_is_not_the_best_in_extreme_colours(colour):
    samples, network = samples_of(colour), Between(colour)
    findings = run_check(OnePixel(), toy_model(network, samples.images), samples)
    assert findings.columns["fooled"].all()
    assert (findings.columns["row"] == ROW).all()
    assert (findings.columns["column"] == COLUMN).all()
    pixels = torch.from_numpy(findings.attacked / 65535)[:, :, ROW, COLUMN]
    assert ((pixels - torch.tensor(colour)).square().sum(1) < 0.1 / SHARPNESS + 1e-3).all()


def refinement(gain, tries, channels=3):
    gain = torch.tensor(gain)
    colour = torch.rand(len(gain), channels, *gain.shape[1:], generator=torch.Generator().manual_seed(0))
    return Refinement(gain, colour, torch.tensor(tries))


numbers = st.integers(0, 5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(-3, 3), st.booleans()), min_size=1, max_size=12), st.integers(0, 99))
def test_what_is_learned_is_what_a_loop_over_the_queries_learns(queries, seed):
    """A place asked about twice at once must keep the better colour, whichever came first."""
    before = refinement([[[0.0, 1.0, -torch.inf], [2.0, -1.0, 0.0]]], [[[0, 1, 2], [3, 4, 5]]])
    places, gains = torch.tensor([[q[0] for q in queries]]), torch.tensor([[float(q[1]) for q in queries]])
    colours = torch.rand(1, len(queries), 3, generator=torch.Generator().manual_seed(seed))
    after = before.learned(places, colours, gains, torch.tensor([[q[2] for q in queries]]))
    gain, colour, tries = (part.flatten(-2)[0].clone() for part in (before.gain, before.colour, before.tries))
    for (place, value, searched), tried in zip(queries, colours[0], strict=True):
        tries[place] += searched
        if value > gain[place]:
            gain[place], colour[:, place] = value, tried
    assert torch.equal(after.gain.flatten(), gain)
    assert torch.equal(after.colour.flatten(2)[0], colour)
    assert torch.equal(after.tries.flatten(), tries)


@settings(max_examples=40, deadline=None)
@given(channels=st.sampled_from([1, 3]), seed=st.integers(0, 999), step=st.integers(1, 1000))
def test_a_try_moves_at_least_one_channel_by_at_most_one_half_and_stays_a_colour(channels, seed, step):
    before = refinement([[[0.0, 1.0], [2.0, 3.0]]], [[[0, 0], [0, 0]]], channels)
    before.colour[:, :, 0] = torch.tensor([0.0, 1.0])
    places = torch.arange(4).repeat(4).unsqueeze(0)
    tried = before.tried(places, Streams.of(seed, "test", ["a"]), torch.tensor([step]))
    known = before.colour.flatten(2)[0].t()[places[0]]
    assert ((tried >= 0) & (tried <= 1)).all()
    assert ((tried[0] - known).abs() <= 0.5).all()
    assert (tried[0] != known).any(1).all()


def test_the_best_sixteen_places_are_searched_in_turn_and_the_least_tried_comes_last():
    gain = torch.arange(20.0).view(1, 4, 5)
    tries = torch.ones(1, 4, 5, dtype=torch.int64)
    tries[0, 3, 1], tries[0, 0, 0], tries[0, 2, 2] = 0, 0, 2
    order = refinement(gain.tolist(), tries.tolist()).places(16)[0].tolist()
    assert order[-3:] == [18, 19, 16]
    assert order[0] == 12
    assert sorted(order) == list(range(4, 20))


def test_an_image_with_fewer_places_has_them_searched_several_times():
    assert refinement([[[1.0, 2.0]]], [[[0, 0]]]).places(5).tolist() == [[1, 0, 1, 0, 1]]
