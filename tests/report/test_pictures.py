from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from auditkit.report.pictures import Picture, draw_exhibit, heat_colours
from auditkit.result import ExhibitRecord, PanelRecord


def draw(**panels: tuple[str, np.ndarray]) -> dict[str, Picture]:
    exhibit = ExhibitRecord(
        sample="a",
        caption="b",
        score=0.0,
        panels=tuple(PanelRecord(title=name, kind=kind, array=name) for name, (kind, _) in panels.items()),
    )
    pictures = draw_exhibit(exhibit, {name: array for name, (_, array) in panels.items()})
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
    assert drawn["weak"].scale == drawn["strong"].scale == "scale 0 to 2"
    assert tuple(pixels(drawn["strong"])[0, 0]) == tuple(heat_colours()[255])
    assert tuple(pixels(drawn["weak"])[0, 0]) == tuple(heat_colours()[64])


def test_no_heat_is_no_error():
    assert not pixels(draw(a=("heat", np.zeros((8, 8), np.float32)))["a"]).max() > 10
