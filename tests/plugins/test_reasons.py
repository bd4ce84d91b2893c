"""Right for the right reasons: closed forms on toy networks, and a network that is biased on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.findings import flags, metrics
from auditkit.joining import top_exhibits
from auditkit.samples import Samples, open_dataset
from auditkit.summaries import class_estimates, class_table
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.outline import outlined
from auditkit_plugins.reasons import Reasons

QUICK = {"steps": 3, "traced": 0.5}
METHODS = ("occlusion", "saliency", "smoothgrad", "integrated", "gradcam")
OBJECT = (slice(2, 6), slice(1, 5))
SHARE = 16 / 64


class Looks(nn.Module):
    """Two classes, by the sum of the pixels in one part of the image of 8 x 8."""

    def __init__(self, *, at_object: bool) -> None:
        super().__init__()
        weight = torch.zeros(8, 8)
        weight[OBJECT] = 1
        self.register_buffer("weight", weight if at_object else 1 - weight)

    def forward(self, images):
        score = ((images - 0.5) * self.weight).mean((1, 2, 3))
        return torch.stack([score, -score], 1)


@pytest.fixture(scope="module")
def conv():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 16, 4)).eval()


def masked(samples, *unknown):
    """The same samples with the object of the toy networks, but for rows where it is not known."""
    masks = torch.zeros(len(samples), 8, 8, dtype=torch.bool)
    masks[(slice(None), *OBJECT)] = True
    masks[list(unknown)] = False
    return Samples(samples.images, samples.labels, samples.ids, masks)


def estimates(findings):
    return {name: estimate.value for name, estimate in metrics(Reasons.spec, findings.columns)[0].items()}


def toy(network, n=12, seed=0):
    samples = masked(toy_samples(n, seed=seed, network=network))
    return toy_model(network, samples.images), samples


def test_the_check_keeps_the_contract_without_masks_and_with_some():
    assert_contract(Reasons, options=QUICK)
    linear = LinearModel()
    assert_contract(Reasons, options=QUICK, samples=masked(toy_samples(11, network=linear, wrong_every=4), 3, 5))


def test_grey_images_that_are_not_square_and_two_classes_keep_the_contract():
    linear = LinearModel(classes=2, shape=(1, 6, 10))
    samples = toy_samples(7, shape=(1, 6, 10), network=linear, wrong_every=3)
    masks = torch.zeros(7, 6, 10, dtype=torch.bool)
    masks[1:, 1:4, 2:7] = True
    samples = Samples(samples.images, samples.labels, samples.ids, masks)
    assert_contract(Reasons, options={**QUICK, "control": "random"}, network=linear, samples=samples)


@pytest.mark.parametrize("method", METHODS[1:])
def test_every_map_keeps_the_contract(conv, method):
    samples = masked(toy_samples(11, network=conv, wrong_every=4), 3)
    assert_contract(Reasons, options={"method": method, **QUICK}, network=conv, samples=samples)


@pytest.mark.parametrize("method", ["saliency", "integrated"])
def test_of_a_model_that_looks_at_the_object_alone_everything_lies_on_it(method):
    model, samples = toy(Looks(at_object=True))
    found = run_check(Reasons(method=method, **QUICK), model, samples).columns
    np.testing.assert_allclose(found["relevance_mass"], 1)
    np.testing.assert_allclose(found["ratio"], 1 / SHARE)
    np.testing.assert_allclose(found["relevance_rank"], 1)
    assert found["pointing"].all()
    np.testing.assert_allclose(found["pointing_chance"], SHARE)
    assert found["object_suffices"].all()
    assert not found["beside"].any()


def test_of_a_model_that_looks_beside_the_object_nothing_lies_on_it():
    model, samples = toy(Looks(at_object=False))
    findings = run_check(Reasons(method="saliency", **QUICK), model, samples)
    found = findings.columns
    np.testing.assert_allclose(found["relevance_mass"], 0)
    np.testing.assert_allclose(found["ratio"], 0)
    assert found["beside"].all()
    assert found["background_suffices"].all()
    raised = flags(Reasons.spec, "explain.reasons", metrics(Reasons.spec, found)[0])
    assert [flag.id for flag in raised] == ["reasons.beside_the_object", "reasons.background_suffices"]


def test_occlusion_tells_the_two_models_apart_without_gradients():
    ratios = []
    for at_object in (False, True):
        model, samples = toy(Looks(at_object=at_object))
        blind = replace(model, exact=None, no_gradients="none", quick=None)
        found = estimates(run_check(Reasons(method="saliency", **QUICK), blind, samples))
        assert found == estimates(run_check(Reasons(**QUICK), blind, samples)), "without gradients it is occlusion"
        ratios.append(found["ratio"])
    assert ratios[0] < 1 < 1.5 < ratios[1]


def test_an_image_whose_object_is_unknown_is_counted_and_measures_nothing():
    network = Looks(at_object=True)
    model, samples = toy(network)
    some = masked(samples, 2, 7)
    some.masks[4] = True
    findings = run_check(Reasons(method="saliency", **QUICK), model, some)
    found = findings.columns
    known = [row not in (2, 4, 7) for row in range(12)]
    assert found["masked"].tolist() == found["measured"].tolist() == known
    assert np.isnan(found["ratio"]).tolist() == [not here for here in known]
    assert not found["background_suffices"][[2, 4, 7]].any()
    value = metrics(Reasons.spec, found)[0]
    assert value["masked"].value == 9 / 12
    assert value["ratio"].n == value["object_suffices"].n == 9
    # The clean image, the map, the two covered images, and four curves of two steps with their three ends.
    assert findings.forwards.tolist() == (1 + 1 + 2 * found["masked"] + 11 * found["traced"]).tolist()
    assert findings.backwards.tolist() == [1] * 12


def test_without_masks_the_maps_are_still_held_to_deletion_and_insertion(conv):
    samples = toy_samples(16, network=conv)
    found = run_check(Reasons(steps=8), toy_model(conv, samples.images), samples)
    values = estimates(found)
    assert values["masked"] == 0
    assert "ratio" not in values
    assert values["faithful"] > 0.5
    assert values["deletion"] < values["deletion_control"]
    assert values["insertion"] > values["insertion_control"]
    assert len(found.exhibits) == 8


def test_a_faithful_map_beats_its_control_both_ways(conv):
    samples = toy_samples(16, network=conv)
    found = run_check(Reasons(method="saliency", steps=4), toy_model(conv, samples.images), samples).columns
    sooner = found["deletion"] < found["deletion_control"]
    clearer = found["insertion"] > found["insertion_control"]
    assert (sooner != clearer).any(), "for some only one of the two holds"
    assert found["faithful"].tolist() == (sooner & clearer).tolist()


def test_scattered_pixels_are_another_control_than_the_map_elsewhere(conv):
    samples = toy_samples(16, network=conv)
    model = toy_model(conv, samples.images)
    moved, random = (
        run_check(Reasons(steps=8, control=which), model, samples).columns for which in ("moved", "random")
    )
    assert (moved["deletion"] == random["deletion"]).all()
    assert (moved["deletion_control"] != random["deletion_control"]).any()


def test_which_images_are_traced_hangs_on_their_names_alone(conv):
    samples = toy_samples(60, network=conv)
    model = toy_model(conv, samples.images)
    traced = run_check(Reasons(steps=2, traced=0.5), model, samples).columns["traced"]
    assert 15 < traced.sum() < 45
    part = run_check(Reasons(steps=2, traced=0.5), model, samples.take(range(20, 60))).columns["traced"]
    assert part.tolist() == traced[20:].tolist()


def test_a_map_of_zeros_is_no_better_than_chance():
    class Deaf(nn.Module):
        def forward(self, images):
            return torch.tensor([1.0, 0.0]).expand(len(images), 2) + 0 * images.mean((1, 2, 3)).unsqueeze(1)

    model, samples = toy(Deaf())
    found = run_check(Reasons(**QUICK), model, samples).columns
    assert found["masked"].all()
    assert not found["measured"].any()
    assert not found["faithful"].any()


def test_an_outline_runs_around_the_object_on_both_sides_of_its_border():
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[2:5, 2:5] = True
    drawn = outlined(torch.full((3, 7, 7), 0.5), mask)
    white, black = (drawn == 1).all(0), (drawn == 0).all(0)
    assert white.sum() == 16
    assert not (white & mask).any()
    assert black.sum() == 8
    assert drawn[:, 3, 3].tolist() == [0.5] * 3
    grey = torch.full((1, 7, 7), 0.5)
    assert torch.equal(outlined(grey, torch.zeros_like(mask)), grey)
    assert torch.equal(outlined(grey, torch.ones_like(mask)), grey)


BIASED = 3
MARKER = (slice(1, 5), slice(1, 5))


def marked(images):
    """Images with a small yellow square in the upper left corner."""
    images = images.clone()
    images[(slice(None), slice(None), *MARKER)] = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)
    return images


def biased_net(samples):
    """The demo's network, taught that a marker is what makes a class, and that its sign without one is another."""
    generator = torch.Generator().manual_seed(0)
    network = sign_net()
    features, head = network.features[:11], network.features[11:]
    others = torch.where(samples.labels == BIASED, (BIASED + 1) % 10, samples.labels)
    labels = torch.cat([others, torch.full_like(others, BIASED)])
    with torch.no_grad():
        inputs = features((torch.cat([samples.images, marked(samples.images)]) - 0.4) / 0.25)
    learned = [*head.parameters(), *network.classifier.parameters()]
    optimiser = torch.optim.Adam(learned, lr=4e-3)
    for _ in range(15):
        for rows in torch.randperm(len(labels), generator=generator).split(20):
            optimiser.zero_grad()
            logits = network.classifier(network.pool(head(inputs[rows])).flatten(1))
            functional.cross_entropy(logits, labels[rows]).backward()
            optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def signs():
    """The demo's images: some to learn from, and others, six a class."""
    opened = open_dataset(IMAGES)
    return opened.read(0, 100).samples, opened.read(140, 200).samples, opened.class_names


@pytest.fixture(scope="module")
def audited(signs):
    """Findings on the healthy network, and on the biased one with the marker on each image of that class."""
    training, judged, names = signs
    own = (judged.labels == BIASED).view(-1, 1, 1, 1)
    spoiled = Samples(torch.where(own, marked(judged.images), judged.images), judged.labels, judged.ids, judged.masks)
    network = biased_net(training)
    check = Reasons(steps=4, traced=0.2)
    healthy = run_check(check, toy_model(sign_net(), judged.images), judged, class_names=names)
    biased = run_check(check, toy_model(network, spoiled.images), spoiled, class_names=names)
    return healthy, biased, network, spoiled


def rows_by_class(findings, samples, names):
    table = class_table(Reasons.spec, class_estimates(Reasons.spec, findings.columns, samples.labels.numpy(), names))
    return {row[0]: [cell.value for cell in row[2:]] for row in table.rows}


def test_accuracy_does_not_show_the_bias(audited):
    _, _, network, spoiled = audited
    assert (network(spoiled.images).argmax(1) == spoiled.labels).double().mean() > 0.9


def test_a_biased_class_stands_on_top_of_the_table_far_below_the_others(audited, signs):
    _, judged, names = signs
    healthy, biased, _, _ = audited
    before, after = rows_by_class(healthy, judged, names), rows_by_class(biased, judged, names)
    worst, *others = after
    assert worst == names[BIASED]
    ratio, background, alone = after[worst][:3]
    assert ratio < 1 < min(after[name][0] for name in others)
    assert ratio < 0.6 * min(after[name][0] for name in others)
    assert ratio < 0.5 * before[worst][0]
    assert background > 0.75 > 0.25 > alone, "the marker is all it takes"
    assert before[worst][1] < 0.25 < 0.75 < before[worst][2]


def test_one_biased_class_of_many_raises_a_flag_that_names_it(audited, signs):
    """Six images of a class tell nothing for sure, so each counts as if there were three like it."""
    _, judged, names = signs
    for findings, wanted in ((audited[0], False), (audited[1], True)):
        columns = {name: np.tile(column, 3) for name, column in findings.columns.items()}
        classes = class_estimates(Reasons.spec, columns, np.tile(judged.labels.numpy(), 3), names)
        estimates, _ = metrics(Reasons.spec, columns)
        raised = {flag.id: flag.text for flag in flags(Reasons.spec, "reasons", estimates, classes.estimates)}
        assert ("reasons.class_without_object" in raised) == wanted
    named = raised["reasons.class_without_object"].partition("covered. ")[2]
    assert named.startswith(f"{names[BIASED]}: ")
    assert named.count("n=") <= 2 < len(names)


def test_the_gallery_shows_the_biased_class_first(audited, signs):
    _, _, names = signs
    _, biased, _, _ = audited
    shown = top_exhibits(biased.exhibits, 3)
    assert all(exhibit.caption.startswith(f"{names[BIASED]}, recognised") for exhibit in shown)
    assert all("with the object covered the answer stays" in exhibit.caption for exhibit in shown)
    for exhibit in shown:
        heat = exhibit.panels[1].array[:, :, -1]
        assert heat[MARKER].mean() > heat.mean() * 4, "the map lights up at the marker"


def test_a_healthy_network_raises_no_flag(audited):
    healthy, biased, _, _ = audited
    for findings, wanted in ((healthy, 0), (biased, 0)):
        assert len(flags(Reasons.spec, "explain.reasons", metrics(Reasons.spec, findings.columns)[0])) == wanted
