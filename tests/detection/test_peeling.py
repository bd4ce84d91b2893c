"""Peeling finds a second sticker under which the first one hides, and is what a loop over rounds would do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditkit import Samples, Windows
from auditkit.artifacts import Shelf
from auditkit.detection import gather_evidence, peeled_dissent
from auditkit.testing import toy_model

WINDOWS = Windows.grid(12, 12, (4, 4), (4, 4))


class AnyLight(nn.Module):
    """Class 1 as soon as there is one light spot; more of them make it surer."""

    def forward(self, images):
        spots = (images[:, 0] - 0.8).clamp_min(0).flatten(1).sum(1) / 0.8
        return torch.stack([0.5 - spots, spots - 0.5], 1) * 10


def spotted(*spots):
    images = torch.full((1, 3, 12, 12), 0.4)
    for top, left in spots:
        images[:, :, top : top + 2, left : left + 2] = 1.0
    return images


def dissent(images, rounds):
    model = toy_model(AnyLight().eval(), torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    shelf = Shelf(model, Samples(images, torch.zeros(len(images)).long(), tuple(map(str, range(len(images))))))
    first = gather_evidence(shelf, WINDOWS, "grey").consistency
    return peeled_dissent(shelf, first, WINDOWS, "grey", rounds)


@pytest.mark.parametrize("spots", [1, 2, 3])
def test_as_many_rounds_as_there_are_further_stickers_undo_the_decision(spots):
    images = spotted(*[(0, 0), (5, 5), (9, 1)][:spots])
    values = [float(dissent(images, rounds)) for rounds in range(4)]
    assert all(value < 0.1 for value in values[: spots - 1])
    assert all(value > 0.9 for value in values[spots - 1 :])


def test_no_round_is_the_sweep_itself_and_more_rounds_never_lower_it():
    images = torch.cat([spotted((0, 0)), spotted((0, 0), (6, 6)), spotted()])
    found = [dissent(images, rounds) for rounds in range(3)]
    assert bool((found[1] >= found[0]).all())
    assert bool((found[2] >= found[1]).all())


def test_an_images_answer_does_not_depend_on_the_others():
    images = torch.cat([spotted((0, 0)), spotted((0, 0), (6, 6)), spotted((9, 9), (1, 7))])
    together = dissent(images, 2)
    assert torch.equal(torch.cat([dissent(images[row : row + 1], 2) for row in range(3)]), together)
