"""Pieces of texture lie where they should, never cover more than they may, and take gradients back to their tile."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit_plugins.detectors.pieces import Piece, laid, plan_sheet
from auditkit_plugins.detectors.places import NUMBERS_A_PLACE, anywhere, at_object, touch

SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
DRAWS = st.lists(SHARES, min_size=NUMBERS_A_PLACE, max_size=NUMBERS_A_PLACE)


@st.composite
def boxes(draw):
    left, top = draw(st.floats(0, 0.8)), draw(st.floats(0, 0.8))
    right, bottom = draw(st.floats(left + 0.02, 1)), draw(st.floats(top + 0.02, 1))
    return left, top, right, bottom


def covered(pieces, size, n=1):
    return plan_sheet(pieces, torch.zeros(n, 3, *size), 8).covered


@given(boxes(), st.floats(0.01, 1), DRAWS, st.sampled_from(["one", "four"]), st.sampled_from(["on", "beside"]))
def test_no_more_of_a_box_is_covered_than_was_allowed(box, area, draws, layout, place):
    size = (90, 120)
    pieces = at_object(0, box, area, size, draws, layout, place)
    left, top, right, bottom = box
    allowed = area * (right - left) * size[1] * (bottom - top) * size[0]
    assert int(covered(pieces, size).sum()) <= allowed + 1e-6
    for piece in pieces:
        assert piece.top >= 0
        assert piece.left >= 0
        assert piece.top + piece.height <= size[0]
        assert piece.left + piece.width <= size[1]


def test_a_piece_on_an_object_has_its_proportions_and_lies_in_its_middle():
    (piece,) = at_object(3, (0.25, 0.0, 0.75, 1.0), 0.25, (80, 80), [0.5] * 4)
    assert piece == Piece(3, 20, 30, 40, 20)


def test_a_piece_lies_up_to_a_tenth_of_the_box_away_from_the_middle():
    middle = at_object(0, (0.0, 0.0, 1.0, 1.0), 0.04, (100, 100), [0.5, 0.5, 0.5, 0.5])[0]
    moved = at_object(0, (0.0, 0.0, 1.0, 1.0), 0.04, (100, 100), [1.0, 0.0, 0.5, 0.5])[0]
    assert (moved.top - middle.top, moved.left - middle.left) == (10, -10)


def test_four_pieces_lie_in_the_quarters_and_share_the_area():
    pieces = at_object(0, (0.0, 0.0, 1.0, 1.0), 0.16, (100, 100), [0.5] * 4, "four")
    assert {(piece.top, piece.left, piece.height, piece.width) for piece in pieces} == {
        (y, x, 20, 20) for y in (15, 65) for x in (15, 65)
    }


@given(boxes(), DRAWS)
def test_a_piece_beside_an_object_touches_its_box_and_lies_outside_where_there_is_room(box, draws):
    left, top, right, bottom = box
    pieces = at_object(0, box, 0.1, (200, 200), draws, place="beside")
    for piece in pieces:
        inside_x = min(piece.left + piece.width, right * 200) - max(piece.left, left * 200)
        inside_y = min(piece.top + piece.height, bottom * 200) - max(piece.top, top * 200)
        free = max(left, 1 - right, top, 1 - bottom) * 200
        if free > max(piece.width, piece.height) + 1:
            assert min(inside_x, inside_y) <= 1


@given(st.floats(0.01, 0.3), st.lists(SHARES, min_size=64, max_size=64), st.sampled_from([1, 4]))
def test_pieces_anywhere_cover_no_more_than_their_share_and_lie_inside(area, draws, count):
    size = (60, 80)
    pieces = anywhere(0, area, size, draws, count)
    assert int(covered(pieces, size).sum()) <= area * 60 * 80 + 1e-6
    assert len({(piece.height, piece.width) for piece in pieces}) <= 1
    assert [piece.tile for piece in pieces] == list(range(len(pieces)))
    assert all(piece.top + piece.height <= 60 and piece.left + piece.width <= 80 for piece in pieces)


def test_pieces_anywhere_keep_apart_where_there_is_room():
    draws = torch.rand(200, 64, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [pair for each in draws for pair in itertools.combinations(anywhere(0, 0.1, (352, 352), each, 4), 2)]
    assert sum(touch(*pair) for pair in pairs) <= len(pairs) / 100


@pytest.mark.parametrize("side", [4, 5])
def test_the_middle_of_a_tile_is_in_the_middle_of_a_piece_and_it_repeats(side):
    tile = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side) / (side * side)
    big = laid(torch.zeros(1, 1, 20, 20), tile, plan_sheet([Piece(0, 2, 3, 12, 12)], torch.zeros(1, 1, 20, 20), side))
    small = laid(torch.zeros(1, 1, 20, 20), tile, plan_sheet([Piece(0, 6, 7, 4, 4)], torch.zeros(1, 1, 20, 20), side))
    assert torch.equal(big[0, 0, 6:10, 7:11], small[0, 0, 6:10, 7:11])
    assert torch.equal(big[0, 0, 2 : 14 - side, 3:15], big[0, 0, 2 + side : 14, 3:15])


def test_each_piece_shows_its_own_tile_in_its_own_light():
    tiles = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 0.8)])
    pieces = [Piece(0, 0, 0, 2, 2), Piece(1, 0, 0, 2, 2, contrast=0.5, brightness=0.1, tile=1)]
    images = torch.full((2, 3, 4, 4), 0.4)
    seen = laid(images, tiles, plan_sheet(pieces, images, 2))
    assert torch.allclose(seen[0, :, :2, :2], torch.tensor(0.2))
    assert torch.allclose(seen[1, :, :2, :2], torch.tensor((0.8 - 0.5) * 0.5 + 0.5 + 0.1))
    assert torch.equal(seen[:, :, 2:], images[:, :, 2:])


def test_gradients_of_all_pixels_that_show_a_texel_add_up():
    tile = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    images = torch.zeros(2, 3, 6, 6)
    sheet = plan_sheet([Piece(0, 0, 0, 4, 4), Piece(1, 2, 2, 2, 2)], images, 2)
    laid(images, tile, sheet).sum().backward()
    assert torch.equal(tile.grad, torch.full((1, 3, 2, 2), 5.0))


def test_a_piece_that_could_have_no_pixel_is_left_out():
    assert at_object(0, (0.0, 0.0, 0.02, 0.02), 0.1, (50, 50), [0.5] * 4) == []
    assert anywhere(0, 1e-6, (50, 50), [0.5] * 8, 1) == []
