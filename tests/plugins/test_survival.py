"""Survival: what still fools after which distortion, beside what the clean image does with the same draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit import Finished, Metric, Spec, Streams, from_16bit
from auditkit.config import settings_from
from auditkit.errors import UsageError
from auditkit.findings import curves, metrics
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.stored import as_16bit
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.camera import DISTORTIONS, RANDOM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.sticker import Sticker
from auditkit_plugins.survival import FAMILIES, Survival

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
GREY = 1 / 255
KEEPS_PLAIN = ("lens", "perspective", "placement", "rescale", "blur", "rounding")


class Bright(nn.Module):
    """Class 1 where the mean of the image lies above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        above = 100 * (images.flatten(1).mean(1) - self.threshold)
        return torch.stack([-above, above], 1)


@dataclass(frozen=True)
class Noise:
    spec: ClassVar[Spec] = Spec("noise.fake", "t", "w", (Metric("found", "found", "t"),))


@dataclass(frozen=True)
class Patch:
    spec: ClassVar[Spec] = Spec("patch.fake", "t", "w", (Metric("found", "found", "t"),))


def plain(*values, n=4):
    images = torch.tensor(values).repeat_interleave(n).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    return Samples(images, torch.zeros(len(images), dtype=torch.int64), tuple(f"s{at}" for at in range(len(images))))


def finished(check, attacked, found=None, fooled=None):
    found = np.ones(len(attacked), dtype=bool) if found is None else np.array(found)
    columns = {"found": found} | ({} if fooled is None else {"fooled": np.array(fooled)})
    return Finished(check, columns, as_16bit(attacked[torch.from_numpy(found)]))


def value(findings, name):
    return metrics(Survival.spec, findings.columns)[0][name].value


def test_the_check_keeps_the_contract_beside_attacks_and_alone():
    network = LinearModel(seed=4)
    assert_contract(
        Survival,
        options={"draws": 2, "strengths": "3"},
        samples=toy_samples(6, network=network, wrong_every=4),
        network=network,
        beside=(PGD(eps=(4 * GREY,), steps=4), Sticker(queries=20)),
    )


@pytest.mark.parametrize("preset", ["smoke", "standard"])
def test_a_preset_keeps_the_contract(preset):
    samples = toy_samples(3, network=LinearModel())
    assert_contract(Survival, options=Survival.spec.presets[preset], samples=samples)


def test_what_is_faint_is_lost_and_what_is_strong_survives():
    """A plain grey image is only changed by what changes light; below half a grey level rounding undoes an attack."""
    samples = plain(100 * GREY)
    faint, strong = samples.images + 0.4 * GREY, torch.ones_like(samples.images)
    model = toy_model(Bright(100.3 * GREY), samples.images)
    read = {"noise.fake": finished(Noise(), faint), "patch.fake": finished(Patch(), strong)}
    findings = run_check(Survival(strengths=(1, 2)), model, samples, finished=read)
    assert value(findings, "noise_survives_rounding") == 0
    assert value(findings, "noise_survives_blur") == 1
    for name in DISTORTIONS:
        assert value(findings, f"patch_survives_{name}") == 1
    for name in KEEPS_PLAIN:
        assert value(findings, f"clean_stays_correct_{name}") == 1
    assert value(findings, "noise_survives@2") < value(findings, "patch_survives@2") == 1
    assert value(findings, "patch_excess@2") == pytest.approx(value(findings, "clean_stays_correct@2"))


def test_every_share_is_that_of_the_distortions_one_by_one():
    samples = plain(0.4, 0.45)
    attacked = samples.images + 0.15
    network = Bright(0.5)
    check = Survival(draws=3, strengths=(1, 3))
    read = {"noise.fake": finished(Noise(), attacked)}
    findings = run_check(check, toy_model(network, samples.images), samples, finished=read, seed=5)
    for strength in (1, 3):
        wrong, right = {}, {}
        for name, distort in DISTORTIONS.items():
            rng = Streams.of(5, f"physical.survival\0{name}", samples.ids)
            draws = range(3 if name in RANDOM else 1)
            for shares, images in ((wrong, from_16bit(as_16bit(attacked))), (right, samples.images)):
                said = [network(distort(images, strength, rng, draw)).argmax(1) == (shares is wrong) for draw in draws]
                shares[name] = torch.stack(said).double().mean(0)
        fools, stays = (torch.stack([*shares.values()]).mean(0).numpy() for shares in (wrong, right))
        assert 0 < fools.mean() < 1
        np.testing.assert_allclose(findings.columns[f"noise_survives@{strength}"], fools)
        np.testing.assert_allclose(findings.columns[f"clean_stays_correct@{strength}"], stays)
        np.testing.assert_allclose(findings.columns[f"noise_excess@{strength}"], fools - (1 - stays), atol=1e-12)
    shots = 2 * (3 * len(RANDOM) + 2)
    assert (findings.forwards == 1 + 1 + 2 * shots).all()


def test_a_family_is_the_mean_of_its_checks_and_a_check_may_run_twice():
    samples = plain(0.4)
    model = toy_model(Bright(0.5), samples.images)
    strong, weak = torch.ones_like(samples.images), samples.images + 0.101
    both = {"noise.fake": finished(Noise(), strong), "noise.fake@2": finished(Noise(), weak)}
    check = Survival(strengths=(3,))
    alone = [run_check(check, model, samples, finished={key: both[key]}) for key in both]
    together = run_check(check, model, samples, finished=both)
    name = "noise_survives@3"
    np.testing.assert_allclose(together.columns[name], (alone[0].columns[name] + alone[1].columns[name]) / 2)
    assert (alone[1].columns[name] < alone[0].columns[name]).all()


def test_an_attack_that_16_bits_or_the_budget_undo_is_left_out():
    samples = plain(0.4)
    attacked = samples.images + torch.tensor([0.2, 1e-6, 0.2, 0.2]).view(-1, 1, 1, 1)
    read = {"noise.fake": finished(Noise(), attacked, [True, True, False, True], [True, True, False, False])}
    columns = run_check(Survival(), toy_model(Bright(0.5), samples.images), samples, finished=read).columns
    assert columns["noise_attacked"].tolist() == [True, False, False, False]
    for name in (f"noise_survives_{name}" for name in DISTORTIONS):
        assert np.isfinite(columns[name]).tolist() == [True, False, False, False]


@pytest.mark.parametrize("nothing", [{}, {"noise.fake": Finished(Noise(), {"found": np.zeros(4, dtype=bool)})}])
def test_without_attacks_it_tells_about_clean_images_only(nothing):
    samples = plain(0.4)
    findings = run_check(Survival(), toy_model(Bright(0.5), samples.images), samples, finished=nothing)
    found, _ = metrics(Survival.spec, findings.columns)
    assert found
    assert all(name.startswith("clean_stays_correct") for name in found)
    assert findings.exhibits == ()
    assert not any(findings.columns[f"{family}_attacked"].any() for family in FAMILIES)


def test_a_model_that_gets_nothing_right_is_reported_as_such():
    samples = plain(0.4)
    samples = replace(samples, labels=torch.ones_like(samples.labels))
    findings = run_check(Survival(), toy_model(Bright(0.5), samples.images), samples)
    assert not metrics(Survival.spec, findings.columns)[0]
    assert (findings.forwards == 1).all()


def test_clean_and_attacked_images_and_all_strengths_share_their_draws(monkeypatch):
    seen = {}

    def spy(name):
        def distortion(images, strength, rng, step):
            seen.setdefault(name, set()).add((step, tuple(rng.keys[:1, 0].tolist())))
            return images

        return distortion

    monkeypatch.setattr("auditkit_plugins.survival.DISTORTIONS", {name: spy(name) for name in DISTORTIONS})
    samples = plain(0.4, n=1)
    read = {"noise.fake": finished(Noise(), samples.images + 0.2)}
    run_check(Survival(draws=3), toy_model(Bright(0.5), samples.images), samples, finished=read)
    assert all({step for step, _ in calls} == set(range(3 if name in RANDOM else 1)) for name, calls in seen.items())
    keys = {name: {key for _, key in calls} for name, calls in seen.items()}
    assert all(len(of_one) == 1 for of_one in keys.values())
    assert len(set.union(*keys.values())) == len(DISTORTIONS)


def test_the_gallery_says_what_happened_to_the_attack():
    samples = plain(100 * GREY)
    read = {
        "noise.fake": finished(Noise(), samples.images + 0.4 * GREY),
        "patch.fake": finished(Patch(), torch.ones_like(samples.images)),
    }
    model = toy_model(Bright(100.3 * GREY), samples.images)
    exhibits = run_check(Survival(strengths=(2,)), model, samples, finished=read).exhibits
    assert len(exhibits) == 8
    for exhibit in exhibits:
        last = exhibit.panels[2]
        lost = "the attack is lost" in exhibit.caption
        assert last.title == ("photographed: class 0" if lost else "photographed: class 1")
        assert lost == (last.array.mean() <= 100.5)
    of_patch = [exhibit.caption for exhibit in exhibits if exhibit.caption.startswith("patch.fake")]
    assert len(of_patch) == 4
    assert all("class 0 is taken for class 1" in caption for caption in of_patch)
    assert all(caption.endswith("the attack survives; it survives 100% of all distortions") for caption in of_patch)
    assert not run_check(Survival(gallery=0), model, samples, finished=read).exhibits


def test_the_curves_go_over_the_strengths():
    samples = plain(0.4)
    read = {"patch.fake": finished(Patch(), torch.ones_like(samples.images))}
    findings = run_check(Survival(draws=1), toy_model(Bright(0.5), samples.images), samples, finished=read)
    found, _ = metrics(Survival.spec, findings.columns)
    by_name = {curve.metric: curve for curve in curves(Survival.spec, found)}
    assert [point.x for point in by_name["patch_survives"].points] == [1, 2, 3]
    assert [point.x for point in by_name["clean_stays_correct"].points] == [1, 2, 3]
    assert not by_name["noise_survives"].points


@pytest.mark.parametrize(
    ("options", "message"), [({"strengths": "4"}, "less than or equal to 3"), ({"draws": 0}, "greater than or equal")]
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        configure(Survival, options, "physical.survival", "test")


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(1, 4, 8), (3, 8, 6)]))
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape):
    network = LinearModel(classes=3, shape=shape, seed=seed)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    attack = PGD(eps=(0.05,), steps=3)
    findings = run_check(attack, model, samples)
    read = {"noise.pgd": Finished(attack, findings.columns, findings.attacked)}
    check = Survival(draws=1, strengths=(3,))
    wanted, *others = (run_check(check, model, samples, batch=batch, finished=read) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
def test_on_a_resnet_stickers_survive_more_than_faint_noise_does():
    bench = set_up(
        Recipe(
            str(CIFAR / "resnet20.onnx"),
            str(CIFAR / "images_600.npz"),
            settings_from({"limit": 12, "batch": 32, "device": "cpu", "precision": "float32"}),
        )
    )
    samples = bench.read(0, 12).samples
    attacks = {"noise.pgd": PGD(eps=(2 * GREY,), steps=8), "patch.sticker": Sticker(queries=60)}
    read = {}
    for key, attack in attacks.items():
        findings = run_check(attack, bench.model, samples, key=key)
        read[key] = Finished(attack, findings.columns, findings.attacked)
    findings = run_check(Survival(strengths=(2,), draws=1), bench.model, samples, finished=read)
    assert value(findings, "noise_survives@2") < value(findings, "patch_survives@2")
    assert 0.5 < value(findings, "clean_stays_correct@2") < 1
