"""Colours in a mask: the best rectangle by counting, the best colours by formula, and the published sticker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.config import settings_from
from auditkit.errors import UsageError
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_origin, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins import mask_patch
from auditkit_plugins.mask_patch import MaskPatch

LISA = Path(__file__).resolve().parents[3] / "shared" / "data" / "lisa"
NETWORK = LinearModel(classes=2, seed=1)
SAMPLES = toy_samples(24, seed=2, network=NETWORK)
AREA = 4 / 64


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


@pytest.fixture
def mask_file(tmp_path):
    """A mask of two pixels."""
    inside = np.zeros((8, 8))
    inside[2, 3:5] = 1
    np.save(tmp_path / "mask.npy", inside)
    return str(tmp_path / "mask.npy")


def lowest_margins(samples, masks):
    """Return (N,): the margin of each image with the best of all colours inside its mask, bool (N, H, W)."""
    weight = NETWORK.weight.detach()
    across = (weight[samples.labels] - weight[1 - samples.labels]).view_as(samples.images)
    bias = (NETWORK.bias[samples.labels] - NETWORK.bias[1 - samples.labels]).detach()
    best = torch.where(masks.unsqueeze(1), (across < 0).float(), samples.images)
    return (across * best).flatten(1).sum(1) + bias


def test_with_a_given_mask_it_fools_exactly_what_some_colours_fool(model, mask_file):
    """In a linear network the best colours are corners of the colour cube."""
    findings = run_check(MaskPatch(mask=mask_file, steps=12, rounds=2), model, SAMPLES)
    mask = torch.from_numpy(np.load(mask_file) > 0).expand(24, -1, -1)
    possible = (lowest_margins(SAMPLES, mask) < 0).numpy() & findings.columns["clean_correct"]
    assert 3 <= possible.sum() < findings.columns["clean_correct"].sum()
    np.testing.assert_array_equal(findings.columns["fooled"], possible)
    assert (findings.columns["distance"][possible] <= 2 / 64).all()


def every_rectangle(side, pixels):
    for tall in range(1, side + 1):
        for wide in range(1, min(side, pixels // tall) + 1):
            for top in range(side - tall + 1):
                for left in range(side - wide + 1):
                    mask = torch.zeros(side, side, dtype=torch.bool)
                    mask[top : top + tall, left : left + wide] = True
                    yield mask


def test_the_rectangle_that_is_found_holds_most_gain():
    """Four pixels have three shapes, and all of them are tried in every place."""
    gain = torch.rand(6, 5, 5, generator=torch.Generator().manual_seed(0))
    found = mask_patch._best_rectangle(gain, torch.full((6,), 4.0))
    for row in range(6):
        most = max(float(gain[row][mask].sum()) for mask in every_rectangle(5, 4))
        assert float(gain[row][found[row]].sum()) == pytest.approx(most)
        assert int(found[row].sum()) <= 4


@pytest.mark.parametrize("pixels", [0, 1, 2, 3, 7, 30, 100])
def test_no_rectangle_is_larger_than_it_may_be(pixels):
    gain = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(1))
    sizes = mask_patch._best_rectangle(gain, torch.full((4,), float(pixels))).flatten(1).sum(1)
    assert (sizes <= pixels).all()
    assert (sizes >= min(pixels, 54) // 2).all()


def test_one_rectangle_of_its_own_is_the_best_one_there_is(model):
    findings = run_check(MaskPatch(area=(AREA,), rectangles=1, steps=12, rounds=1), model, SAMPLES)
    rectangles = list(every_rectangle(8, 4))
    lowest = torch.stack([lowest_margins(SAMPLES, mask.expand(24, -1, -1)) for mask in rectangles]).amin(0)
    possible = (lowest < 0).numpy() & findings.columns["clean_correct"]
    assert possible.sum() >= 3
    assert not (findings.columns["fooled"] & ~possible).any()
    assert findings.columns["fooled"].sum() >= 0.9 * possible.sum()


def test_aim_beats_chance(model):
    findings = run_check(MaskPatch(area=(AREA,)), model, SAMPLES)
    assert findings.columns["fooled"].sum() >= 3 * max(1, findings.columns["fooled_by_chance"].sum())
    everything = run_check(MaskPatch(area=(1.0,), rectangles=1, steps=1), model, SAMPLES)
    assert everything.columns["fooled_by_chance"].any(), "the control is alive"


def test_later_rounds_try_other_places():
    attack = MaskPatch(area=(AREA,), rectangles=1, steps=30, rounds=6)
    constant = toy_model(LinearModel(classes=2, seed=3), SAMPLES.images)
    state = attack.start(toy_origin(attack, constant, SAMPLES, AREA))
    state = replace(state, gradient=torch.ones_like(state.images))
    seen = []
    for _ in range(4):
        state = attack._begun(state)
        seen.append(state.mask[0])
    assert len({tuple(mask.flatten().tolist()) for mask in seen}) > 1


def test_a_target_steers_where_the_images_go():
    network = LinearModel(classes=4, seed=5)
    samples = toy_samples(30, seed=6, network=network)
    model = toy_model(network, samples.images)
    for target in (1, 2):
        columns = run_check(MaskPatch(area=(0.4,), target=target), model, samples).columns
        free = run_check(MaskPatch(area=(0.4,)), model, samples).columns
        away = columns["fooled"] & (samples.labels != target).numpy()
        assert away.sum() > 5
        share = (columns["attacked_label"][away] == target).mean()
        assert share > (free["attacked_label"][away] == target).mean()
    with pytest.raises(UsageError, match="target is one of the 4 classes from 0; got 9"):
        run_check(MaskPatch(target=9, steps=2), model, samples)


def test_colours_show_on_the_object_only(model):
    masks = torch.zeros(24, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 1:5] = True
    samples = replace(SAMPLES, masks=masks)
    attack = MaskPatch(area=(0.2,), on_object=True, steps=6, rounds=2)
    state = attack.start(toy_origin(attack, model, samples, 0.2))
    state = attack._begun(replace(state, gradient=torch.ones_like(state.images)))
    assert state.mask.any()
    assert not (state.mask & ~masks).any()
    assert not ((attack.control(toy_origin(attack, model, samples, 0.2)) != samples.images).any(1) & ~masks).any()


def test_a_mask_file_may_have_channels_and_soft_edges_and_is_the_budget(tmp_path):
    inside = np.zeros((4, 5, 3), dtype=np.float32)
    inside[1, 1], inside[1, 2, 0], inside[2, 2] = 1, 1, 0.1
    np.savez(tmp_path / "mask.npz", mask=inside, noise=inside)
    assert MaskPatch(mask=str(tmp_path / "mask.npz")).eps == (0.1,)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (None, "no .npy file"),
        (np.zeros((4, 4)), "holds no pixel"),
        (np.ones(7), r"shape \(H, W\) or \(H, W, C\); got \(7,\)"),
    ],
)
def test_a_mask_that_is_none_is_refused_in_one_line(tmp_path, made, wanted):
    file = tmp_path / "mask.npy"
    if made is not None:
        np.save(file, made)
    with pytest.raises(UsageError, match=wanted) as raised:
        configure(MaskPatch, {"mask": str(file)}, "patch.mask", "here")
    assert "\n" not in str(raised.value)


def test_a_mask_of_another_size_is_refused_in_one_line(model, tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((8, 9)))
    with pytest.raises(UsageError, match=r"the mask is 8 x 9 pixels, the images 8 x 8$"):
        run_check(MaskPatch(mask=str(tmp_path / "mask.npy")), model, SAMPLES)


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_the_check_keeps_the_contract(preset):
    assert_contract(MaskPatch, options={**MaskPatch.spec.presets[preset], "steps": 9, "rounds": 3})


def test_the_check_keeps_the_contract_with_a_given_mask_and_a_target(mask_file):
    assert_contract(MaskPatch, options={"mask": mask_file, "steps": 8, "rounds": 2, "target": 1})
    assert_contract(MaskPatch, options={"area": "0.05, 0.4", "steps": 8, "rounds": 3, "on_object": True})


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(1, 4, 4), (3, 4, 8)]), rectangles=st.integers(1, 3))
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape, rectangles):
    network = LinearModel(classes=3, shape=shape, seed=seed)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    check = MaskPatch(area=(0.1, 0.3), rectangles=rectangles, steps=9, rounds=3)
    wanted, *others = (run_check(check, model, samples, batch=batch) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)


@pytest.mark.skipif(not LISA.is_dir(), reason=f"NO REAL MODELS: {LISA} is absent")
def test_the_published_sticker_fools_17_of_20_stop_signs_and_half_its_area_is_enough_for_as_many():
    bench = set_up(Recipe(str(LISA / "lisa_cnn.onnx"), str(LISA / "stop_signs_20.npz"), settings_from({})))
    samples = bench.read(0, 20).samples
    sticker = np.load(LISA / "sticker.npz")
    pixels = samples.images.permute(0, 2, 3, 1).numpy()
    with_sticker = np.clip(pixels + sticker["mask"] * sticker["noise"], 0, 1).transpose(0, 3, 1, 2)
    said = bench.model.logits(torch.from_numpy(with_sticker).float()).argmax(1)
    assert int((said == 12).sum()) == int((said != 14).sum()) == 17

    given_mask = MaskPatch(mask=str(LISA / "sticker.npz"))
    assert 0.029 < given_mask.eps[0] < 0.0295
    assert run_check(given_mask, bench.model, samples).columns["fooled"].sum() >= 17

    half = run_check(MaskPatch(area=(given_mask.eps[0] / 2,), steps=60, rounds=3), bench.model, samples).columns
    assert half["fooled"].sum() >= 17
    assert half["distance"][half["fooled"]].max() <= given_mask.eps[0] / 2
    assert half["fooled_by_chance"].sum() <= 2
