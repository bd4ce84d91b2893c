"""Boxes: no value that a cover can change lies outside of its box; cutting and putting back changes nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.covers.boxes import Boxes, Reach, Span, cut, put

REACHES = st.builds(Reach, st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3))


@settings(max_examples=150, deadline=None)
@given(side=st.integers(1, 20), reach=REACHES, data=st.data())
def test_every_output_that_depends_on_the_box_is_in_the_next_box(side, reach, data):
    if side + 2 * reach.padding < reach.taps:
        return
    size = data.draw(st.integers(1, side))
    starts = tuple(sorted(data.draw(st.sets(st.integers(0, side - size), min_size=1))))
    span = Span(side, size, starts).through(reach)
    assert span.side == (side + 2 * reach.padding - reach.taps) // reach.stride + 1
    for start, outer in zip(starts, span.starts, strict=True):
        assert 0 <= outer <= span.side - span.size
        for output in range(span.side):
            taps = range(reach.kernel)
            seen = {output * reach.stride - reach.padding + tap * reach.dilation for tap in taps}
            if seen & set(range(start, start + size)):
                assert outer <= output < outer + span.size
        # What is cut out of the padded inputs for these outputs holds the changed ones, and lies in the padded map.
        first = outer * reach.stride
        length = reach.inputs(span.size) + 2 * reach.margin
        offset = start + reach.padding + reach.margin - first
        assert 0 <= offset <= length - size
        assert first + length <= side + 2 * (reach.padding + reach.margin)


@settings(max_examples=50, deadline=None)
@given(side=st.integers(2, 20), data=st.data())
def test_joined_boxes_hold_each_of_them(side, data):
    sizes = data.draw(st.lists(st.integers(1, side), min_size=1, max_size=3))
    spans = [Span(side, size, tuple(data.draw(st.integers(0, side - size)) for _ in range(4))) for size in sizes]
    joined = Span.joined(spans)
    for span in spans:
        for start, outer in zip(span.starts, joined.starts, strict=True):
            assert 0 <= outer <= start
            assert start + span.size <= outer + joined.size <= side


def test_boxes_know_their_share_of_the_map():
    boxes = Boxes(Span(8, 2, (0, 6)), Span(10, 5, (1,)))
    assert boxes.share == pytest.approx(1 / 8)
    assert (boxes.size, boxes.sides) == ((2, 5), (8, 10))
    assert boxes.everywhere == Boxes(Span(8, 8, (0, 0)), Span(10, 10, (0,)))
    assert Boxes.joined([boxes, boxes.everywhere]) == boxes.everywhere


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_part_is_cut_from_its_own_map_and_put_back_there_alone(channels, memory_format):
    maps = torch.randn(4, channels, 9, 7).contiguous(memory_format=memory_format)
    rows, top, left = torch.tensor([[2, 0, 2, 3], [0, 5, 4, 3], [3, 0, 1, 2]])
    parts = cut(maps, rows, top, left, (4, 3))
    for part, row, y, x in zip(parts, rows, top, left, strict=True):
        assert torch.equal(part, maps[row, :, y : y + 4, x : x + 3])
    changed = maps[rows].contiguous(memory_format=torch.channels_last)
    wanted = changed.clone()
    put(changed, -parts, top, left)
    for row, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        wanted[row, :, y : y + 4, x : x + 3] *= -1
    assert torch.equal(changed, wanted)
