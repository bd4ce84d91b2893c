"""Attacked attention: closed forms of how far maps move, and stickers that draw all saliency to themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from torch import nn

from auditkit import Finished, Metric, Samples, Spec, saliency
from auditkit.findings import metrics
from auditkit.stored import as_16bit
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.attacked_attention import AttackedAttention
from auditkit_plugins.attention import centre, overlap, shift
from auditkit_plugins.pgd import PGD
from auditkit_plugins.sticker import Sticker

SIDE = 12


@dataclass(frozen=True)
class Patch:
    spec: ClassVar[Spec] = Spec("patch.fake", "t", "w", (Metric("found", "found", "t"),))


@dataclass(frozen=True)
class Noise:
    spec: ClassVar[Spec] = Spec("noise.fake", "t", "w", (Metric("found", "found", "t"),))


@dataclass(frozen=True)
class Other:
    spec: ClassVar[Spec] = Spec("sanity.fake", "t", "w", (Metric("found", "found", "t"),))


class Sees(nn.Module):
    """Class 0 by the mean of the image; class 1 by how many pixels are white, and only those move its score."""

    def forward(self, images):
        white = 50 * torch.relu(images - 0.9).sum((1, 2, 3))
        return torch.stack([images.mean((1, 2, 3)), white], 1)


def finished(check, attacked, found=None):
    found = np.ones(len(attacked), dtype=bool) if found is None else np.array(found)
    return Finished(check, {"found": found}, as_16bit(attacked[torch.from_numpy(found)]))


def grey(n=4):
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(n, 3, SIDE, SIDE, generator=generator)
    return Samples(images, torch.zeros(n, dtype=torch.int64), tuple(f"s{at}" for at in range(n)))


def stickered(samples):
    attacked = samples.images.clone()
    attacked[:, :, 2:5, 6:10] = 1
    return attacked


def run(samples, network=None, **finished):
    return run_check(AttackedAttention(), toy_model(network or Sees(), samples.images), samples, finished=finished)


def test_the_check_keeps_the_contract_beside_attacks_and_alone():
    network = LinearModel(seed=4)
    assert_contract(
        AttackedAttention,
        options={"gallery": 3},
        samples=toy_samples(6, network=network, wrong_every=4),
        network=network,
        beside=(PGD(eps=(4 / 255,), steps=4), Sticker(queries=20)),
    )


def test_a_sticker_that_decides_draws_all_saliency_to_itself():
    """Before, all pixels move the score alike: a share as large as the sticker lies where it will be."""
    samples = grey()
    findings = run(samples, **{"patch.fake": finished(Patch(), stickered(samples))})
    area = 12 / SIDE**2
    found = {name: estimate.value for name, estimate in metrics(AttackedAttention.spec, findings.columns)[0].items()}
    assert found["patch_changed"] == pytest.approx(area)
    assert found["patch_on_changed_before"] == pytest.approx(area)
    assert found["patch_on_changed"] == pytest.approx(1)
    assert found["patch_overlap"] == pytest.approx(area)
    # From the middle of the image, 5.5 and 5.5, to the middle of the sticker, 3 and 7.5.
    assert found["patch_shift"] == pytest.approx(np.hypot(2.5, 2.0) / np.hypot(SIDE, SIDE))
    assert not any(name.startswith(("noise", "pixel")) for name in found)


def test_where_the_place_does_not_matter_the_control_says_so():
    """This network sees white anywhere, so the moved sticker does what the sticker did."""
    samples = grey(8)
    columns = run(samples, **{"patch.fake": finished(Patch(), stickered(samples))}).columns
    np.testing.assert_allclose(columns["patch_overlap_control"], columns["patch_overlap"])
    np.testing.assert_allclose(columns["patch_on_changed_control"], 1)
    assert (columns["patch_shift_control"] != columns["patch_shift"]).any(), "it lies elsewhere"


def test_of_a_linear_model_no_attack_moves_the_map_of_a_class():
    network = LinearModel(classes=2, shape=(3, SIDE, SIDE))
    samples = grey()
    samples = Samples(samples.images, network(samples.images).argmax(1), samples.ids)
    weight = (network.weight[1 - samples.labels] - network.weight[samples.labels]).detach().view(-1, 3, SIDE, SIDE)
    attacked = (samples.images + 0.3 * weight.sign()).clamp(0, 1)
    columns = run(samples, network, **{"noise.fake": finished(Noise(), attacked)}).columns
    assert columns["noise_mapped"].all()
    assert not columns["noise_small"].any(), "all pixels changed, so there is no place to look at"
    maps = [
        saliency(toy_model(network, samples.images).exact, samples.images, which)
        for which in (samples.labels, 1 - samples.labels)
    ]
    wanted = [overlap(*(heat[row].double().numpy() for heat in maps)) for row in range(4)]
    np.testing.assert_allclose(columns["noise_overlap"], wanted)


def test_only_attacked_images_that_fool_count_and_a_sample_has_the_mean_of_its_attacks():
    samples = grey()
    whole = stickered(samples)
    half = samples.images.clone()
    half[:, :, 2:5, 6:8] = 1
    some = finished(Patch(), whole, [True, True, False, True])
    columns = run(samples, a=some, b=finished(Patch(), half), c=finished(Other(), whole)).columns
    areas = [12 / SIDE**2, 6 / SIDE**2]
    np.testing.assert_allclose(columns["patch_changed"], [np.mean(areas), np.mean(areas), areas[1], np.mean(areas)])
    findings = run(samples, a=some, b=finished(Patch(), half))
    assert findings.forwards.tolist() == [10, 10, 6, 10]
    assert findings.backwards.tolist() == [5, 5, 3, 5]


def test_an_image_without_saliency_is_not_compared():
    class Flat(nn.Module):
        def forward(self, images):
            bright = torch.relu(images.mean((1, 2, 3)) - 0.5)
            return torch.stack([torch.full_like(bright, 1e-3), bright], 1)

    samples = grey()
    dark = Samples(samples.images / 2, samples.labels, samples.ids)
    columns = run(dark, Flat(), **{"patch.fake": finished(Patch(), torch.ones_like(dark.images))}).columns
    assert not columns["patch_mapped"].any()
    assert np.isnan(columns["patch_overlap"]).all()


def test_the_gallery_shows_clean_and_attacked_side_by_side_those_first_that_share_least():
    samples = grey()
    larger = samples.images.clone()
    larger[:, :, :6, :6] = 1
    attacked = torch.cat([stickered(samples)[:2], larger[2:]])
    exhibits = run(samples, **{"patch.fake": finished(Patch(), attacked)}).exhibits
    assert [exhibit.sample for exhibit in exhibits] == ["s0", "s1", "s2", "s3"]
    assert [panel.kind for panel in exhibits[0].panels] == ["image", "overlay", "image", "overlay"]
    assert exhibits[0].caption.startswith("patch.fake: class 0 becomes class 1; the maps share 8%")
    assert "8.3% of the pixels that changed had 8.3% of the saliency and have 100.0%" in exhibits[0].caption
    marked = exhibits[0].panels[3].array[:, :, -1] > 0
    assert np.argwhere(marked).min(0).tolist() == [2, 6]
    assert marked.sum() == 12


HEATS = arrays.arrays(np.float64, (3, 4), elements=st.floats(0, 10)).filter(lambda heat: heat.sum() > 1e-3)


@given(HEATS, HEATS)
def test_what_maps_share_is_one_less_half_their_difference(first, second):
    wanted = 1 - np.abs(first / first.sum() - second / second.sum()).sum() / 2
    assert overlap(first, second) == pytest.approx(wanted, abs=1e-9)
    assert overlap(first, second) == overlap(second, first)
    assert overlap(first, first * 3) == pytest.approx(1)


@given(HEATS, HEATS)
def test_the_shift_is_the_way_between_the_centres_of_mass(first, second):
    one, two = (ndimage.center_of_mass(heat) for heat in (first, second))
    assert centre(first) == pytest.approx(one)
    assert shift(first, second) == pytest.approx(np.hypot(one[0] - two[0], one[1] - two[1]) / 5, abs=1e-9)


def test_from_corner_to_corner_is_nearly_the_diagonal():
    first, second = np.zeros((30, 40)), np.zeros((30, 40))
    first[0, 0] = second[29, 39] = 2
    assert shift(first, second) == pytest.approx(np.hypot(29, 39) / 50)
    assert overlap(first, second) == 0
