from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from auditkit.report.colour_bars import colour_bars
from auditkit.report.heat import colour_strip, heat_colours, lay_over
from auditkit.report.pictures import Drawn, Picture, draw_exhibit
from auditkit.result import ExhibitRecord, PanelRecord


def row(**panels: tuple[str, np.ndarray]) -> Drawn:
    exhibit = ExhibitRecord(
        sample="a",
        caption="b",
        score=0.0,
        panels=tuple(PanelRecord(title=name, kind=kind, array=name) for name, (kind, _) in panels.items()),
    )
    return draw_exhibit(exhibit, {name: array for name, (_, array) in panels.items()})


def draw(**panels: tuple[str, np.ndarray]) -> dict[str, Picture]:
    pictures = row(**panels).pictures
    return {name: picture for name, picture in zip(panels, pictures, strict=True) if picture is not None}


def pixels(picture: Picture) -> np.ndarray:
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.size == (picture.width, picture.height)
        return np.asarray(image.convert("RGB"))


def test_small_images_are_enlarged_without_blur():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    drawn = pixels(draw(a=("image", image))["a"])
    np.testing.assert_array_equal(drawn, image.repeat(5, axis=0).repeat(5, axis=1))


@pytest.mark.parametrize("shape", [(20, 40, 1), (20, 40), (20, 40, 3), (20, 40, 4)])
def test_grey_and_oblong_images_are_drawn(shape):
    assert pixels(draw(a=("image", np.full(shape, 77, np.uint8)))["a"]).shape == (80, 160, 3)


def test_large_images_are_reduced():
    drawn = draw(a=("image", np.full((400, 800, 3), 9, np.uint8)), b=("heat", np.ones((400, 800), np.float32)))
    assert {pixels(picture).shape for picture in drawn.values()} == {(80, 160, 3)}


def test_differences_are_amplified_around_mid_grey_by_the_stated_factor():
    change = np.zeros((4, 4, 3), np.float32)
    change[0, 0], change[1, 1] = 8 / 255, -4 / 255
    picture = draw(a=("difference", change))["a"]
    assert picture.scale == "\N{MULTIPLICATION SIGN} 15"
    drawn = pixels(picture)
    step = 160 // 4
    assert drawn[0, 0] == pytest.approx([127.5 + 15 * 8] * 3, abs=0.6)
    assert drawn[step, step] == pytest.approx([127.5 - 15 * 4] * 3, abs=0.6)
    assert tuple(drawn[-1, 0]) == (128,) * 3


def test_full_range_and_empty_differences_are_drawn():
    assert draw(a=("difference", np.ones((2, 2, 1), np.float32)))["a"].scale.endswith(" 0.5")
    assert draw(a=("difference", np.zeros((2, 2, 1), np.float32)))["a"].scale == "no change"


def test_heat_panels_of_a_row_share_one_scale():
    weak, strong = np.full((8, 8), 0.5, np.float32), np.full((8, 8), 2.0, np.float32)
    drawn = draw(weak=("heat", weak), strong=("heat", strong))
    assert drawn["weak"].scale == drawn["strong"].scale == "0 to 2"
    assert tuple(pixels(drawn["strong"])[0, 0]) == tuple(heat_colours()[255])
    assert tuple(pixels(drawn["weak"])[0, 0]) == tuple(heat_colours()[64])


def test_a_map_of_zeros_says_so_and_needs_no_colour_bar():
    zeros = ("heat", np.zeros((8, 8), np.float32))
    assert not pixels(draw(a=zeros)["a"]).max() > 10
    assert draw(a=zeros)["a"].scale == "zero everywhere"
    assert row(a=zeros).heat.top == 0
    assert draw(a=zeros, b=("heat", np.ones((8, 8), np.float32)))["a"].scale == "zero everywhere"


def overlay(image: np.ndarray, heat: np.ndarray) -> tuple[str, np.ndarray]:
    return "overlay", np.concatenate([image, heat[..., None]], axis=2).astype(np.float32)


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int)).max(axis=-1)


# What the palette of 256 colours may change of one.
PALETTE = 6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_overlay_hides_nothing_where_its_map_is_zero(channels):
    ramp = np.repeat(np.linspace(0, 1, 32)[None, :, None], channels, axis=2).repeat(32, axis=0)
    heat = np.zeros((32, 32))
    heat[:4] = 5
    drawn = pixels(draw(a=overlay(ramp, heat))["a"])[::5, ::5]
    shown = drawn[8:]
    assert distance(shown, shown[..., :1]).max() <= PALETTE  # grey
    assert (np.diff(shown[:, :, 0].astype(int), axis=1) >= -PALETTE).all()
    assert shown[0, -1, 0] - int(shown[0, 0, 0]) > 100  # and as rich in contrast as grey allows


def test_the_stronger_a_map_the_more_its_colour_covers():
    heat = np.repeat(np.linspace(0, 1, 32)[None], 32, axis=0)
    black, white = (pixels(draw(a=overlay(np.full((32, 32, 3), grey), heat))["a"])[0, ::5] for grey in (0.0, 1.0))
    apart = distance(black, white)
    assert (np.diff(apart) <= PALETTE).all()
    assert apart[0] > 100
    assert 5 < apart[-1] < 40  # the image shows even below the strongest colour
    assert distance(white[-1], heat_colours()[255]).max() < 60


def test_overlays_and_maps_of_a_row_share_one_scale():
    grey = np.full((8, 8, 3), 0.5)
    weak, strong = np.full((8, 8), 0.5), np.full((8, 8), 2.0)
    alone = draw(a=overlay(grey, weak))["a"]
    drawn = row(a=overlay(grey, weak), b=overlay(grey, strong), c=("heat", weak.astype(np.float32)))
    together, _, heat = (picture for picture in drawn.pictures if picture is not None)
    assert (drawn.heat.top, drawn.heat.beyond) == (2.0, False)
    assert (alone.scale, together.scale) == ("0 to 0.5", "0 to 2")
    assert distance(pixels(alone)[0, 0], pixels(together)[0, 0]).max() > 50
    assert tuple(pixels(heat)[0, 0]) == tuple(heat_colours()[64])


def test_a_scale_ends_where_a_hundredth_lies_beyond_and_says_so():
    heat = np.ones((20, 20), np.float32)
    heat[0, :3] = 50
    drawn = row(a=("heat", heat))
    assert (drawn.heat.top, drawn.heat.beyond, drawn.heat.top_text) == (1.0, True, "1")


def test_the_colour_bar_has_the_colours_of_the_pictures():
    grey = np.stack([np.zeros((32, 32, 3)), np.ones((32, 32, 3))])
    heat = np.repeat(((np.arange(32) + 0.5) / 32)[None], 32, axis=0)
    full = np.vstack([heat[:31], np.ones((1, 32))])  # the scale ends at one
    for number, strip in enumerate(colour_strip(over=True)):
        drawn = pixels(draw(a=overlay(grey[number], full))["a"])[0, ::5]
        assert distance(drawn, strip).max() <= PALETTE
    drawn = pixels(draw(a=("heat", full.astype(np.float32)))["a"])[0, ::5]
    np.testing.assert_array_equal(drawn, colour_strip(over=False)[0])
    assert colour_bars().count("<rect") == 3 * 32
    assert all(f"#{bytes(colour).hex()}" in colour_bars() for line in colour_strip(over=True) for colour in line)


def test_a_large_overlay_has_the_colour_of_the_mean_of_its_values():
    stripes = np.where(np.arange(320) % 2, 2.0, 0.0)[None].repeat(320, axis=0)
    stripes[:20] = 2.0
    picture = draw(a=overlay(np.full((320, 320, 3), 0.5), stripes))["a"]
    even = draw(a=overlay(np.full((160, 160, 3), 0.5), np.where(np.arange(160) < 10, 2.0, 1.0)[:, None].repeat(160, 1)))
    assert distance(pixels(picture), pixels(even["a"])).max() <= PALETTE


def test_an_overlay_takes_half_the_bytes_of_its_colours():
    y, x = np.mgrid[0:160, 0:160] / 160
    image = np.stack([x, y, np.random.default_rng(0).uniform(0, 1, x.shape)], axis=2)
    heat = np.minimum(x / x[:, :-2].max(), 1)
    buffer = io.BytesIO()
    Image.fromarray(lay_over(image, heat)).save(buffer, format="PNG", optimize=True)
    assert len(draw(a=overlay(image, heat))["a"].png) < 0.6 * len(buffer.getvalue())


def test_what_is_no_number_is_drawn_as_nothing():
    heat = np.ones((8, 8), np.float32)
    heat[0, 0], heat[0, 1] = np.nan, np.inf
    drawn = row(a=("heat", heat), b=overlay(np.full((8, 8, 3), np.nan), heat))
    assert drawn.heat.top == 1.0
    picture = drawn.pictures[0]
    assert picture is not None
    assert tuple(pixels(picture)[0, 0]) == tuple(heat_colours()[0])
