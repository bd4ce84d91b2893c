from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from auditkit.demo import IMAGES, WEIGHTS
from auditkit.demo.network import SignNet, sign_net
from auditkit.demo.signs import CLASS_NAMES, SIDE, SignImages, render_signs


@pytest.fixture(scope="module")
def signs() -> SignImages:
    return render_signs(60, seed=7)


def test_image_depends_on_seed_and_position_alone(signs):
    fewer = render_signs(13, seed=7)
    np.testing.assert_array_equal(fewer.images, signs.images[:13])
    np.testing.assert_array_equal(fewer.masks, signs.masks[:13])
    assert not np.array_equal(render_signs(1, seed=8).images, signs.images[:1])


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what is under test
    render_signs(3, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_arrays_have_the_promised_form(signs):
    assert signs.images.shape == (60, SIDE, SIDE, 3)
    assert signs.images.dtype == np.uint8
    assert signs.masks.shape == (60, SIDE, SIDE)
    assert signs.masks.dtype == np.bool_
    assert signs.labels.dtype == np.int64


def test_no_images_at_all_is_a_valid_request():
    assert render_signs(0, seed=0).images.shape == (0, SIDE, SIDE, 3)


def test_classes_are_balanced(signs):
    assert set(np.bincount(signs.labels, minlength=len(CLASS_NAMES))) == {6}


def test_masks_hold_the_sign_and_leave_background(signs):
    share = signs.masks.mean(axis=(1, 2))
    assert share.min() > 0.05
    assert share.max() < 0.95


def test_mask_lies_where_the_sign_is():
    """A red sign is redder inside its mask than the same scene is outside it."""
    signs = render_signs(100, seed=3)
    redness = signs.images[..., 0].astype(float) - signs.images[..., 1:].mean(axis=-1)
    no_entry = np.flatnonzero(signs.labels == CLASS_NAMES.index("no entry"))
    redder = [redness[i][signs.masks[i]].mean() > redness[i][~signs.masks[i]].mean() for i in no_entry]
    assert np.mean(redder) >= 0.8


def test_network_reads_the_demo_images():
    with np.load(IMAGES) as demo:
        images, labels, masks, names = demo["x"], demo["y"], demo["masks"], demo["names"]
    assert images.shape == (200, SIDE, SIDE, 3)
    assert masks.shape == (200, SIDE, SIDE)
    assert tuple(names) == CLASS_NAMES
    with torch.inference_mode():
        logits = sign_net()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    assert (logits.argmax(dim=1).numpy() == labels).mean() >= 0.93


def test_weights_of_another_form_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"classifier.bias": SignNet().classifier.bias.detach()}, tmp_path / "other.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        sign_net(tmp_path / "other.safetensors")


def test_data_files_are_small():
    assert WEIGHTS.stat().st_size < 500_000
    assert IMAGES.stat().st_size < 700_000


def test_package_import_leaves_torch_alone():
    code = "import sys, auditkit.demo; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
