"""detect.stickers: the contract, the promise on clean images, certificates that no patch breaks, and the kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from auditkit import Capability, ExecutionError, Samples, StickerRule
from auditkit.artifacts import Shelf
from auditkit.detection import STICKER_SCORES, gather_evidence
from auditkit.testing import LinearModel, assert_contract, run_check, run_learn, toy_model, toy_samples
from auditkit_plugins.sticker import Sticker
from auditkit_plugins.sticker_alarms import DetectStickers
from auditkit_plugins.sticker_kinds import KINDS, attack_of, attacked_by

SMALL = DetectStickers(queries=12, side=0.25, learn_from=80, windows=3)
MINIMAL = replace(SMALL, strong=False, single=False, patch=False, redundant=False, quiet=False)


class Lookout(nn.Module):
    """Classes are told by the mean colour of quarters of the image, after a layer of rectified local averages."""

    def __init__(self, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6 * 4, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, images):
        return self.head(nn.functional.adaptive_avg_pool2d(torch.relu(self.first(images)), 2).flatten(1))


def smooth(n, seed=0):
    """Return images of few low frequencies, so that a sticker is something unusual."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 3, 3, generator=generator)
    images = nn.functional.interpolate(0.3 + 0.4 * coarse, (16, 16), mode="bilinear")
    with torch.no_grad():
        labels = Lookout().eval()(images).argmax(1)
    return Samples(images, labels, tuple(f"{row:04d}" for row in range(n)))


@pytest.fixture(scope="module")
def samples():
    return smooth(200)


@pytest.fixture(scope="module")
def model(samples):
    return toy_model(Lookout().eval(), samples.images)


@pytest.fixture(scope="module")
def lesson(model, samples):
    return run_learn(SMALL, model, samples.take(range(100)))


@pytest.fixture(scope="module")
def findings(model, samples, lesson):
    return run_check(SMALL, model, samples.take(range(100, 200)), lesson=lesson)


def test_the_contract():
    assert_contract(MINIMAL, network=Lookout().eval(), samples=smooth(120))


def test_a_model_without_activations_is_judged_by_covers_alone():
    network = LinearModel(classes=4, seed=1)
    samples = toy_samples(120, network=network)
    model = toy_model(network, samples.images)
    lesson = run_learn(SMALL, model, samples.take(range(60)))
    assert StickerRule.of(lesson).activity is None
    columns = run_check(SMALL, model, samples.take(range(60, 120)), lesson=lesson).columns
    assert np.isnan(columns["clean_activity"]).all()
    assert not columns["quiet_found"].any()
    assert np.isfinite(columns["clean_combined"]).all()


def test_the_rule_survives_being_stored(lesson, model, samples):
    rule = StickerRule.of(lesson)
    again = StickerRule.of(rule.arrays())
    evidence = gather_evidence(Shelf(model, samples), rule.windows, rule.fill)
    assert rule.thresholds == again.thresholds
    for name in STICKER_SCORES:
        assert torch.equal(rule.scores(evidence)[name], again.scores(evidence)[name])


def test_fitting_and_calibration_share_no_image(lesson):
    rule = StickerRule.of(lesson)
    assert rule.fitted_on[0] == 40
    assert rule.calibrated_on == 40


def test_one_percent_is_not_promised_on_forty_images(lesson, findings):
    assert StickerRule.of(lesson).threshold("combined", 0.01) == np.inf
    assert not findings.columns["promises_1"].any()
    assert not findings.columns["alarm_1"].any()


def test_an_alarm_is_a_score_beyond_the_threshold(lesson, findings):
    rule, columns = StickerRule.of(lesson), findings.columns
    beyond = columns["clean_combined"] > rule.threshold("combined", 0.05)
    np.testing.assert_array_equal(columns["alarm_5"], beyond)
    for kind in KINDS:
        found = columns[f"{kind}_found"]
        beyond = columns[f"{kind}_combined"][found] > rule.threshold("combined", 0.05)
        np.testing.assert_array_equal(columns[f"{kind}_alarm"][found], beyond)
        assert np.isnan(columns[f"{kind}_combined"][~found]).all()
        assert not (columns[f"{kind}_alarm"] & columns[f"{kind}_missed"]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stays_inside_its_budget(kind, model, samples, lesson):
    part = samples.take(range(24))
    seen = []
    attack = attack_of(kind, 20, 0.25, lambda images: images.new_zeros(len(images)))

    class Watching(DetectStickers):
        def run(self, model, samples, ctx):
            seen.append(attacked_by(attack, model, samples, ctx))
            return super().run(model, samples, ctx)

    run_check(Watching(**{**vars(MINIMAL)}), model, part, lesson=lesson)
    (found,) = seen
    assert len(found.rows)
    share = found.changed.flatten(1).double().mean(1)
    assert bool((share <= attack.eps[0] + 1e-9).all())
    assert torch.equal(found.clean, part.images[found.rows])
    assert bool((model.logits(found.samples.images).argmax(1) != part.labels[found.rows]).all())


def test_redundant_stickers_fool_without_any_one_of_them(model, samples):
    """At least where the search says so: then the whole set and every set of three is another class."""
    attack = attack_of("redundant", 60, 8 / 32, lambda images: images)
    part = samples.take(range(30))
    findings = run_check(attack, model, part)
    names = [f"{name}{number}" for name in ("light", "dark") for number in (1, 2)]
    stickers = torch.tensor(
        np.stack(
            [[findings.columns[f"{name}_{side}"] for side in ("top", "left", "height", "width")] for name in names]
        ).transpose(2, 0, 1),
        dtype=torch.float32,
    )
    found = torch.from_numpy(findings.columns["found"])
    state = replace(_state(attack, part), clean=part.images)
    without = []
    for missing in range(4):
        fewer = stickers.clone()
        fewer[:, missing, 2:] = 0
        labels = model.logits(attack.composed(state, fewer.nan_to_num())).argmax(1)
        without.append(labels != part.labels)
    redundant = torch.stack(without).all(0) & found
    plain = run_check(Sticker(side=(8 / 32,), queries=60, success="strongest"), model, part)
    assert int(redundant.sum()) > 0.3 * int(found.sum())
    assert plain.columns["found"].sum() >= found.sum()


def _state(attack, samples):
    from auditkit import Origin, Streams

    n = len(samples)
    return attack.start(
        Origin(
            images=samples.images,
            labels=samples.labels,
            eps=torch.full((n,), attack.eps[0]),
            restart=torch.zeros(n, dtype=torch.int64),
            logits=torch.zeros(n, 4),
            points=samples.images,
            masks=torch.ones(n, 16, 16, dtype=torch.bool),
            warm=torch.zeros(n, dtype=torch.bool),
            rng=Streams.of(0, "test", samples.ids, torch.device("cpu")),
        )
    )


def test_no_patch_is_missed_on_a_certified_image(model, samples, lesson, findings):
    """All places of a patch in many colours: where it changes the class, a cover is as sure as the certificate says.

    So an alarm at any lower threshold is raised; at the corners as well.
    """
    rule = StickerRule.of(lesson)
    judged, columns = samples.take(range(100, 200)), findings.columns
    by_certificate = np.argsort(columns["least_sure"])
    rows = [row for row in by_certificate if columns["clean_correct"][row]][:8]
    side = 4
    corners = [(top, left) for top in range(16 - side + 1) for left in range(16 - side + 1)]
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).view(5, 3, 1, 1)
    broken = 0
    for row in rows:
        images = judged.images[row].repeat(len(corners), len(colours), 1, 1, 1)
        for number, (top, left) in enumerate(corners):
            images[number, :, :, top : top + side, left : left + side] = colours
        images = images.flatten(0, 1)
        shelf = Shelf(model, Samples(images, torch.zeros(len(images)).long(), tuple(map(str, range(len(images))))))
        consistency = gather_evidence(shelf, rule.windows, rule.fill).consistency
        fooled = consistency.decision != judged.labels[row]
        broken += int(fooled.sum())
        assert bool((consistency.score("dissent")[fooled] >= columns["least_sure"][row] - 1e-6).all())
    assert broken, "no patch fools any of these images, so nothing was tested"


def test_the_certificate_is_that_of_minority_reports(model, samples, lesson, findings):
    """One-mask predictions all right, each with more confidence than the threshold: McCoyd et al. 2020."""
    rule = StickerRule.of(lesson)
    judged = samples.take(range(100, 200))
    columns = findings.columns
    for row in range(0, 100, 7):
        confidences = []
        for top, left in rule.windows.corners:
            image = judged.images[row].clone()
            image[:, top : top + rule.windows.height, left : left + rule.windows.width] = 0.5
            confidences.append(float(model.logits(image[None]).double().softmax(1)[0, judged.labels[row]]))
        assert columns["least_sure"][row] == pytest.approx(min(confidences), abs=1e-5)


def test_a_fill_of_the_images_own_colour_certifies_nothing(model, samples):
    check = replace(MINIMAL, fill="mean")
    lesson = run_learn(check, model, samples.take(range(100)))
    columns = run_check(check, model, samples.take(range(100, 160)), lesson=lesson).columns
    assert not columns["certifiable"].any()
    assert not columns["certified"].any()


def test_stickers_are_told_from_smooth_images(findings):
    """Rectangles of black and white are nothing like what is in these images."""
    clean, minimal = findings.columns["clean_combined"], findings.columns["minimal_combined"]
    assert np.nanmin(minimal) > np.quantile(clean, 0.9)


def test_where_the_model_is_right_about_nothing_there_is_nothing_to_notice(model, samples, lesson):
    part = samples.take(range(100, 120))
    wrong = Samples(part.images, (part.labels + 1) % 4, part.ids)
    columns = run_check(SMALL, model, wrong, lesson=lesson).columns
    assert not any(columns[f"{kind}_found"].any() for kind in KINDS)
    assert columns["clean_wrong"].all()
    assert np.isfinite(columns["clean_combined"]).all()


def test_too_few_images_are_refused_in_one_line(model, samples):
    with pytest.raises(ExecutionError, match=r"wants 2 clean images .* 19 more clean ones .* give more images"):
        run_learn(SMALL, model, samples.take(range(20)))


def test_what_it_needs():
    assert DetectStickers.spec.needs == {Capability.SCORES}
