from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
from PIL import Image

from auditkit.samples import decode
from auditkit.samples.decode import decode_file, decode_image
from auditkit.samples.pixels import BadImage, as_pixels, fit, fit_mask


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "ppm", "webp"])
def test_lossless_files_come_back_exactly(tmp_path, suffix):
    pixels = noise(7, 9, 3)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    assert np.array_equal(decode_file(tmp_path / f"a.{suffix}"), pixels)


def test_a_jpeg_is_decoded_like_pillow(tmp_path):
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "a.jpg")
    assert np.array_equal(decode_file(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("suffix", ["png", "pgm", "bmp", "jpg"])
def test_grey_files_have_one_channel(tmp_path, suffix):
    Image.fromarray(noise(7, 9)).save(tmp_path / f"a.{suffix}")
    assert decode_file(tmp_path / f"a.{suffix}").shape == (7, 9, 1)


def test_of_an_animation_the_first_picture_counts(tmp_path):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert decode_file(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_depth(tmp_path, suffix):
    values = np.array([[0, 1, 256, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    pixels = decode_file(tmp_path / f"a.{suffix}")
    assert pixels.dtype == np.float32
    assert np.allclose(pixels[0, :, 0], values[0] / 65535, atol=1e-7)


def test_a_deep_pgm_is_scaled_by_its_own_maximum(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([0, 1023], dtype=">u2").tobytes())
    assert decode_file(tmp_path / "a.pgm")[0, :, 0].tolist() == [0.0, 1.0]


def test_32_bit_integers_have_no_known_range(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match="32-bit"):
        decode_file(tmp_path / "a.tif")


def test_float_files_must_lie_in_the_range(tmp_path):
    Image.fromarray(np.array([[0.0, 0.25]], dtype=np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(np.array([[0.0, 3.0]], dtype=np.float32)).save(tmp_path / "b.tif")
    assert decode_file(tmp_path / "a.tif")[0, :, 0].tolist() == [0.0, 0.25]
    with pytest.raises(BadImage, match=r"0 to 3"):
        decode_file(tmp_path / "b.tif")


def test_transparency_is_dropped_not_blended(tmp_path):
    pixels = noise(4, 4, 4)
    pixels[:, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_file(tmp_path / "a.png"), pixels[:, :, :3])


def test_grey_with_transparency_stays_grey(tmp_path):
    pixels = noise(4, 4, 2)
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    assert np.array_equal(decode_file(tmp_path / "a.png"), pixels[:, :, :1])


def test_a_palette_with_transparent_entries_gives_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert decode_file(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"])
def test_every_mode_of_pillow_becomes_one_or_three_channels(mode):
    base = Image.fromarray(noise(4, 5, 3))
    image = base.convert("RGBA").convert(mode) if mode == "RGBa" else None
    if mode in {"La", "PA"}:
        image = base.convert("LA").convert(mode) if mode == "La" else base.convert("P").convert("PA")
    pixels = decode_image(image or base.convert(mode))
    assert pixels.shape == (4, 5, 1 if mode in {"1", "L", "LA", "La"} else 3)
    assert pixels.dtype == np.uint8
    assert len(np.unique(pixels)) > 1


def test_black_and_white_is_0_and_255():
    assert decode_image(Image.fromarray(np.array([[True, False]]))).ravel().tolist() == [255, 0]


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode_file(tmp_path / "a.png"), np.rot90(pixels, -1))


def truncated(path):
    Image.fromarray(noise(32, 32, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-600])


BAD_FILES = {
    "missing": (lambda path: None, "missing"),
    "folder": (lambda path: path.mkdir(), "not a regular file"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "text": (lambda path: path.write_text("hello"), "no image of a known format"),
    "truncated": (truncated, "cannot be decoded"),
    "postscript": (
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "no image of a known format",
    ),
}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(("make", "told"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files_have_a_reason(tmp_path, make, told, suffix):
    path = tmp_path / f"a.{suffix}"
    make(path)
    with pytest.raises(BadImage, match=told) as caught:
        decode_file(path)
    assert len(str(caught.value).splitlines()) == 1


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise(12, 12, 3)).save(path)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 8)] = rng.integers(0, 256, 8)
            path.write_bytes(damaged.tobytes())
            with contextlib.suppress(BadImage):
                assert decode_file(path).shape[2] in (1, 3)


def test_permission_denied_is_told(tmp_path, monkeypatch):
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.png")

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", deny)
    with pytest.raises(BadImage, match="permission denied"):
        decode_file(tmp_path / "a.png")


@pytest.mark.parametrize("side", [8001, 9600, 14000])
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, side):
    path = tmp_path / "a.pgm"
    path.write_bytes(f"P5 {side} {side} 255\n".encode())
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadImage, match="64 megapixels"):
        decode_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadImage, match="64 megapixels"):
            decode_file(path)
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 20)
    assert decode_image(Image.fromarray(noise(4, 5, 3))).shape == (4, 5, 3)
    with pytest.raises(BadImage):
        decode_image(Image.fromarray(noise(3, 7, 3)))


def test_fit_gives_channels_first_floats():
    pixels = noise(4, 5, 3)
    fitted = fit(pixels, 3, None)
    assert fitted.dtype == np.float32
    assert np.array_equal(fitted, pixels.transpose(2, 0, 1).astype("float32") / 255)


@pytest.mark.parametrize("size", [(3, 2), (8, 11), (4, 5)])
def test_resizing_is_pillows_for_bytes_and_close_to_it_for_floats(size):
    pixels = noise(4, 5, 3)
    wanted = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)) / 255
    assert fit(pixels, 3, size).shape == (3, *size)
    assert np.allclose(fit(pixels, 3, size), wanted.transpose(2, 0, 1), atol=1e-6)
    floats = pixels.astype(np.float32) / np.float32(255)
    assert np.allclose(fit(floats, 3, size), fit(pixels, 3, size), atol=2 / 255)


def test_shrinking_smooths():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (8, 32))[:, :, None]
    assert np.allclose(fit(stripes, 1, (8, 8)), 0.5, atol=0.02)


def test_grey_and_colour_turn_into_each_other():
    colour, grey = noise(4, 5, 3), noise(4, 5, 1)
    by_pillow = np.asarray(Image.fromarray(colour).convert("L")) / 255
    assert np.allclose(fit(colour, 1, None)[0], by_pillow, atol=1e-6)
    floats = colour.astype(np.float32) / np.float32(255)
    assert np.allclose(fit(floats, 1, None)[0], by_pillow, atol=1.01 / 255)
    assert fit(np.ones((2, 2, 3), np.float32), 1, None).max() <= 1.0
    spread = fit(grey, 3, (8, 10))
    assert spread.shape == (3, 8, 10)
    assert np.array_equal(spread[0], spread[2])


def test_masks_are_resized_without_inventing_values():
    mask = np.array([[True, False], [False, True]])
    assert np.array_equal(fit_mask(mask, (4, 4)), mask.repeat(2, axis=0).repeat(2, axis=1))
    assert fit_mask(mask, None) is mask


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.full((2, 2, 3), np.nan), "NaN"),
        (np.full((2, 2, 3), np.inf), "infinite"),
        (np.full((2, 2, 3), 255.0), "uint8"),
        (np.full((2, 2, 3), -1e300), "uint8"),
        (np.full((2, 2, 3), -0.01), "model"),
        (np.zeros((2, 2, 3), np.int64), "int64"),
        (np.zeros((0, 2, 3), np.uint8), "no pixels"),
    ],
)
def test_pixels_out_of_range_are_refused(array, told):
    with pytest.raises(BadImage, match=told):
        as_pixels(array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_are_taken_and_rounding_is_forgiven(dtype):
    pixels = as_pixels(np.array([[[0.0], [0.5], [1.0]]], dtype=dtype))
    assert pixels.dtype == np.float32
    assert pixels.ravel().tolist() == [0.0, 0.5, 1.0]
    assert as_pixels(np.full((1, 1, 1), 1.000001)).max() == 1.0
