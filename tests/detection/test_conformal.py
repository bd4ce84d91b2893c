"""The conformal threshold keeps its promise, and makes none that it cannot keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit.detection import conformal_threshold, images_needed
from auditkit.errors import ExecutionError


@pytest.mark.parametrize(("share", "images"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1)])
def test_the_least_number_of_images(share, images):
    assert images_needed(share) == images
    assert conformal_threshold(torch.arange(float(images)), share) == images - 1
    with pytest.raises(ExecutionError, match=f"needs {images} clean images to calibrate on, got {images - 1}"):
        conformal_threshold(torch.arange(float(images - 1)), share)


@given(n=st.integers(19, 300), share=st.sampled_from([0.05, 0.1, 0.2]))
def test_of_all_places_for_a_new_image_at_most_the_share_lies_beyond(n, share):
    """n + 1 exchangeable scores: each is as likely to be the new one, which is the whole proof."""
    scores = torch.arange(float(n + 1))
    beyond = sum(
        float(scores[new]) > conformal_threshold(torch.cat([scores[:new], scores[new + 1 :]]), share)
        for new in range(n + 1)
    )
    assert beyond <= share * (n + 1) + 1e-9


@pytest.mark.parametrize(("n", "share"), [(45, 0.05), (150, 0.05), (400, 0.01)])
def test_nine_calibrations_of_ten_keep_the_promise_and_no_more_than_needed(n, share):
    """Scores of uniform numbers: the share beyond a threshold t is 1 - t."""
    draws = torch.rand(4000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = np.mean([1 - conformal_threshold(row, share) <= share for row in draws])
    assert kept >= 0.9 - 3 * (0.09 / 4000) ** 0.5
    ranks = [int((row <= conformal_threshold(row, share)).sum()) for row in draws[:3]]
    one_lower = np.mean((1 - draws.sort(1).values[:, ranks[0] - 2] <= share).numpy())
    assert one_lower < 0.9 or ranks[0] == n


@given(st.lists(st.floats(-10, 10), min_size=19, max_size=40))
def test_ties_and_order_do_not_matter(scores):
    threshold = conformal_threshold(torch.tensor(scores), 0.05)
    assert threshold == conformal_threshold(torch.tensor(sorted(scores)), 0.05)
    assert np.isclose(threshold, scores, rtol=1e-6, atol=1e-30).any()
