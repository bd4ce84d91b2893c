"""Boxes on pictures: where they are, what tells their tones apart without colour, and where labels find room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from detector_audit import mark
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from auditkit.report.marks import FIRST_SCREEN_PEN, GALLERY_PEN, draw_marks
from auditkit.report.pictures import Drawn, draw_exhibit
from auditkit.report.tones import TONES, counted_tones, tone_swatch, tones_among
from auditkit.result import ExhibitRecord, MarkRecord, PanelRecord

GREY = Image.new("RGB", (320, 320), (120, 120, 120))


def pixels(marks: list[MarkRecord], image: Image.Image = GREY, pen=GALLERY_PEN) -> np.ndarray:
    drawn = draw_marks(image, marks, pen)
    assert (drawn.mode, drawn.size) == ("P", image.size)
    return np.asarray(drawn.convert("RGB")).astype(int)


def changed(marks: list[MarkRecord]) -> np.ndarray:
    """Where labels are: pixels that differ from the same boxes without texts."""
    bare = [one.model_copy(update={"text": ""}) for one in marks]
    return (pixels(marks) != pixels(bare)).any(axis=-1)


def extent(where: np.ndarray) -> tuple[int, int]:
    """Return width and height of what is true."""
    y, x = np.nonzero(where)
    return int(x.max() - x.min()) + 1, int(y.max() - y.min()) + 1


def test_a_box_lies_where_its_mark_says():
    drawn = pixels([mark("found", "", 0.25, 0.5, 0.5, 0.25)])
    blue = (drawn == ImageColor.getrgb(TONES["found"].colour)).all(axis=-1)
    y, x = np.nonzero(blue)
    edges = np.array([x.min(), y.min(), x.max(), y.max()]) / 319
    np.testing.assert_allclose(edges, [0.25, 0.5, 0.75, 0.75], atol=1 / 319)
    assert not blue[170:230, 90:230].any()  # its inside is free


def test_each_tone_has_a_line_of_its_own_without_its_colour():
    """Who prints in grey, or sees no colours, still tells them apart."""
    seen = {}
    for name, tone in TONES.items():
        drawn = pixels([mark(name, "", 0.2, 0.2, 0.5, 0.5)])
        seen[name] = (drawn == ImageColor.getrgb(tone.colour)).all(axis=-1)
    for one, other in itertools.combinations(seen, 2):
        assert (seen[one] != seen[other]).sum() > 200, (one, other)
    assert len({tone_swatch(name).replace(tone.colour, "") for name, tone in TONES.items()}) == len(TONES)


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("grey", [0, 120, 255])
def test_a_box_is_seen_on_any_picture(tone, grey):
    drawn = pixels([mark(tone, "", 0.2, 0.2, 0.5, 0.5)], Image.new("RGB", (320, 320), (grey, grey, grey)))
    assert (np.abs(drawn - grey).max(axis=-1) > 100).sum() > 500


@pytest.mark.parametrize(("left", "top"), [*itertools.product((0.0, 0.5, 0.95), repeat=2)])
def test_a_label_stays_whole_inside_the_picture(left, top):
    whole = extent(changed([mark("found", "cat 91%", 0.3, 0.4, 0.5, 0.5)]))
    assert whole[1] >= GALLERY_PEN.letters
    lines = 2 * GALLERY_PEN.line  # where a label lies on the line of its box, nothing changes
    assert np.abs(np.subtract(extent(changed([mark("found", "cat 91%", left, top, 0.05, 0.05)])), whole)).max() <= lines


def test_labels_of_equal_boxes_do_not_cover_each_other():
    one = mark("found", "cat 91%", 0.3, 0.4)
    alone, both = changed([one]), changed([one, one])
    assert both.sum() > 1.7 * alone.sum()


def test_of_many_boxes_the_largest_dozen_have_labels():
    small = [mark("wrong", "kite", 0.02 + 0.14 * x, 0.1 + 0.14 * y, 0.03, 0.03) for x in range(7) for y in range(6)]
    large = [one.model_copy(update={"right": one.left + 0.05, "text": "cat"}) for one in small[::4]]
    marks = [one for one in small if one not in small[::4]] + large
    texts = [one.model_copy(update={"text": ""}) if one in large else one for one in marks]
    assert len(large) == 11
    labels = changed(marks).sum()
    of_one = changed([large[5]]).sum()
    assert 10.5 * of_one < labels < 13 * of_one
    assert changed(texts).sum() < 2 * of_one  # the twelfth


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a\nb\tc\x00\x08",
        "\u202eevil\u2066",
        "猫と犬",
        "قطة",
        "\ud800",
        "e" * 100_000,
        "🙂",
    ],
)
@pytest.mark.parametrize("pen", [GALLERY_PEN, FIRST_SCREEN_PEN])
def test_any_text_is_one_short_line(text, pen):
    marks = [mark("lost", "x", 0.1, 0.3).model_copy(update={"text": text})]
    drawn = pixels(marks, pen=pen)
    bare = pixels([marks[0].model_copy(update={"text": ""})], pen=pen)
    width, height = extent((drawn != bare).any(axis=-1))
    assert (width <= 320, height <= 2 * pen.letters) == (True, True)


def test_accents_do_not_hide_a_letter():
    np.testing.assert_array_equal(changed([mark("lost", "épée", 0.1, 0.3)]), changed([mark("lost", "epee", 0.1, 0.3)]))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(edges=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_boxes_of_any_numbers_are_drawn_inside_any_picture(edges, size):
    left, top, right, bottom = edges
    marks = [
        MarkRecord(left=left, top=top, right=right, bottom=bottom, text="wider than the picture", tone=tone)  # type: ignore[arg-type]
        for tone in TONES
    ]
    assert draw_marks(Image.new("RGB", size), marks, GALLERY_PEN).size == size


def exhibit(**panels: tuple[np.ndarray, tuple[MarkRecord, ...]]) -> Drawn:
    made = tuple(PanelRecord(title=n, kind="image", array=n, marks=marks) for n, (_, marks) in panels.items())
    arrays = {name: array for name, (array, _) in panels.items()}
    return draw_exhibit(ExhibitRecord(sample="a", caption="b", score=0, panels=made), arrays)


def test_images_with_boxes_are_large_and_so_are_those_beside_them():
    """A detector that sees nothing any more is shown as large as before."""
    image, patch = np.zeros((200, 400, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    marks = (mark("found", "cat", 0.1, 0.1),)
    before, after, alone = exhibit(a=(image, marks), b=(image, ()), c=(patch, ())).pictures
    assert before is not None
    assert after is not None
    assert alone is not None
    assert (before.width, before.height) == (after.width, after.height) == (320, 160)
    assert (before.marked, after.marked, alone.marked) == (True, True, False)
    assert max(alone.width, alone.height) <= 160
    (plain,) = exhibit(a=(image, ())).pictures
    assert plain is not None
    assert (plain.width, plain.marked) == (160, False)


@pytest.mark.parametrize("shape", [(50, 60), (50, 60, 1), (50, 60, 3), (50, 60, 4)])
def test_boxes_are_drawn_on_grey_and_small_images(shape):
    (picture,) = exhibit(a=(np.full(shape, 99, np.uint8), (mark("found", "cat", 0.1, 0.1),))).pictures
    assert picture is not None
    assert (picture.width, picture.height) == (300, 250)


def test_a_photo_with_boxes_takes_less_than_half_the_bytes_of_its_colours():
    y, x = np.mgrid[0:352, 0:352] / 352
    photo = np.stack([x, y, (x + y) / 2], axis=2) * 200 + np.random.default_rng(0).normal(20, 6, (352, 352, 1))
    array = np.uint8(np.clip(photo, 0, 255))
    (marked,) = exhibit(a=(array, (mark("found", "cat", 0.1, 0.1),))).pictures
    assert marked is not None
    assert len(marked.png) < 0.5 * 320 * 320 * 3 / 2


def test_tones_are_counted_in_words_in_the_order_of_legends():
    marks = [mark("lost", "a", 0, 0), mark("found", "b", 0, 0), mark("found", "c", 0, 0), mark("patch", "d", 0, 0)]
    assert counted_tones(marks) == "2 found, 1 missed, 1 patch"
    assert counted_tones(marks[3:] * 4) == "4 patches"
    assert counted_tones([]) == "no boxes"
    assert tones_among(marks) == ("found", "lost", "patch")
