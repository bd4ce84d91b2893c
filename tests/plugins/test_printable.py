"""Printability: nothing at a printable colour, the plain distance elsewhere, and a slope that leads there."""

from __future__ import annotations

import pytest
import torch

from auditkit.errors import ExecutionError
from auditkit_plugins.printable import non_printability, printable_colours


@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_of_the_palette_is_printable(channels):
    palette = printable_colours(channels)
    assert ((palette >= 0) & (palette <= 1)).all()
    pictures = palette.T.reshape(1, channels, 1, -1)
    assert float(non_printability(pictures)) == pytest.approx(0, abs=1e-6)


def test_a_score_is_the_mean_distance_to_the_nearest_colour():
    pictures = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pixels = pictures.permute(0, 2, 3, 1).reshape(3, 20, 3)
    wanted = torch.cdist(pixels, printable_colours(3).expand(3, -1, -1)).amin(2).mean(1)
    torch.testing.assert_close(non_printability(pictures), wanted, atol=2e-6, rtol=0)


def test_pure_screen_colours_are_less_printable_than_ink():
    """Without this the penalty would not keep a patch away from what no printer gives."""
    pure_green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    green_ink = torch.tensor([0.0, 0.59, 0.25]).view(1, 3, 1, 1)
    assert float(non_printability(pure_green)) > 0.3 + float(non_printability(green_ink))


def test_the_slope_leads_to_a_printable_colour_and_is_finite_there():
    pictures = torch.tensor([0.1, 0.9, 0.2]).view(1, 3, 1, 1)
    for _ in range(200):
        leaf = pictures.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(non_printability(leaf).sum(), leaf)
        pictures = pictures - 0.01 * gradient
    assert float(non_printability(pictures)) < 0.02
    ink = torch.tensor([0.0, 0.59, 0.25]).view(1, 3, 1, 1).requires_grad_(True)
    assert torch.autograd.grad(non_printability(ink).sum(), ink)[0].isfinite().all()


def test_pictures_of_other_channels_are_refused_in_one_line():
    with pytest.raises(ExecutionError, match="1 or 3 channels; these have 4"):
        non_printability(torch.rand(1, 4, 2, 2))
