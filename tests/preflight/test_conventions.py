from __future__ import annotations

import pytest
import torch

from auditkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from auditkit.preflight.conventions import candidates
from auditkit.preflight.options import changed_aspects, option_line
from auditkit.samples import Samples

MEAN = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
CAFFE = Preprocessing((0.0, 255.0), (123.675, 116.28, 103.53), None, "bgr")

# What the network does to its input before it sees an image in [0, 1], how it was configured, what is to be said.
CASES = {
    "takes 255": (lambda x: x / 255, Preprocessing(), "input_range", "--input-range 255"),
    "takes -1 to 1": (lambda x: (x + 1) / 2, Preprocessing(), "input_range", "--input-range -1,1"),
    "255 to a network for 1": (lambda x: x, Preprocessing((0.0, 255.0)), "input_range", ""),
    "takes normalised": (
        lambda x: x * STD + MEAN,
        Preprocessing(),
        "normalisation",
        "--mean imagenet --std imagenet",
    ),
    "normalised twice": (
        lambda x: x,
        Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        "normalisation",
        "",
    ),
    "takes BGR": (lambda x: x.flip(1), Preprocessing(), "channel_order", "--channel-order bgr"),
    "given BGR": (lambda x: x, Preprocessing(channel_order="bgr"), "channel_order", ""),
    "takes Caffe's": (
        lambda x: x.flip(1) / 255 + MEAN,
        Preprocessing(),
        "input_range",
        "--input-range 255 --mean 123.675,116.28,103.53 --channel-order bgr",
    ),
    "Caffe's without BGR": (
        lambda x: x.flip(1) / 255 + MEAN,
        Preprocessing((0.0, 255.0), (123.675, 116.28, 103.53)),
        "channel_order",
        "--input-range 255 --mean 123.675,116.28,103.53 --channel-order bgr",
    ),
    "statistics of 255 for images in 1": (
        lambda x: x * STD + MEAN,
        Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
        "normalisation",
        "--mean imagenet --std imagenet",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_convention_is_found(case, colour_net, wrapped, colours, examine):
    before, steps, aspect, line = CASES[case]
    found = examine(wrapped(colour_net, before), colours, steps)
    assert set(found.warnings) == {f"preflight.{aspect}"}
    assert found.before < 0.9
    assert found.after >= 0.99
    assert found.line == line
    note = found.warnings[f"preflight.{aspect}"].note
    assert f"{found.before:.1%} of 200 images" in note.text
    assert found.line in note.remedy
    assert found.rows < 2800


@pytest.mark.parametrize("case", ["takes normalised", "takes BGR"])
def test_convention_of_a_trained_network_is_found(case, network, wrapped, signs, examine):
    before, steps, aspect, _ = CASES[case]
    found = examine(wrapped(network, before), signs, steps)
    assert set(found.warnings) == {f"preflight.{aspect}"}
    assert found.after >= 0.965


def test_options_to_leave_out_are_named(colour_net, colours, examine):
    twice = examine(colour_net, colours, Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    note = twice.warnings["preflight.normalisation"].note
    assert note.remedy == "leave out --mean and --std"
    assert "normalised twice" in note.text


def test_other_layout_is_found_where_the_network_runs_with_both(colours, wrapped, colour_net, examine):
    flat = wrapped(colour_net, lambda x: x.reshape(-1, 8, 8, 3).permute(0, 3, 1, 2))
    found = examine(flat, colours)
    assert set(found.warnings) == {"preflight.layout"}
    assert found.line == "--layout nhwc"
    assert found.after > 0.95


def test_range_and_labels_that_are_both_wrong_get_one_remedy(colour_net, wrapped, colours, examine):
    pad = wrapped(
        colour_net,
        lambda x: x / 255,
        lambda y: torch.nn.functional.pad(y, (1, 0), value=-200.0),
    )
    found = examine(pad, colours, class_names=tuple("abcdefghij"))
    assert set(found.warnings) == {"preflight.input_range", "preflight.background"}
    assert found.line == "--input-range 255 --label-offset 1"
    assert found.after > 0.95


@pytest.mark.parametrize("n", [4, 8, 11])
def test_few_images_raise_no_alarm(n, colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, lambda x: x / 255), colours.take(range(n)))
    assert not found.warnings


def test_images_of_one_class_raise_no_alarm(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, lambda x: x / 255), colours.take(colours.labels == 4))
    assert not found.warnings
    assert "preflight.classes" in found.infos


@pytest.mark.parametrize("balanced", [True, False])
def test_untrained_network_is_only_told_its_accuracy(balanced, colours, examine):
    labels = colours.labels if balanced else torch.where(torch.arange(200) % 5 < 3, 3, colours.labels)
    dealt = labels[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    samples = Samples(colours.images, dealt, colours.ids)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        linear = torch.nn.Sequential(
            torch.nn.Conv2d(3, 12, 8),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(12, 10),
        ).eval()
        for parameter in linear.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        found = examine(linear, samples)
        assert set(found.warnings) <= {"preflight.accuracy"}


def test_candidates_differ_in_effect_and_never_repeat_the_configured():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    configured = Preprocessing(mean=(0.5,), std=(0.5,))
    others = candidates(configured, images, ("nchw",))
    fed = [configured.inputs(images), *(steps.inputs(images) for steps in others)]
    for index, first in enumerate(fed):
        assert not any(torch.allclose(first, second, atol=1e-4) for second in fed[index + 1 :])
    changes = [len(changed_aspects(configured, steps)) for steps in others]
    assert changes == sorted(changes)
    assert len(others) < 40


def test_own_statistics_are_those_of_all_pixels():
    images = (
        torch.rand(7, 3, 5, 4, generator=torch.Generator().manual_seed(3))
        * torch.linspace(0.1, 1, 7)[:, None, None, None]
    )
    mean = images.double().mean((0, 2, 3)).tolist()
    std = images.double().std((0, 2, 3), correction=0).tolist()
    tried = [steps for steps in candidates(Preprocessing(), images, ("nchw",)) if steps.std is not None]
    assert any(
        steps.mean == pytest.approx(mean, rel=1e-5) and steps.std == pytest.approx(std, rel=1e-5) for steps in tried
    )


def test_grey_images_have_no_channel_order():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    lines = {option_line(steps) for steps in candidates(Preprocessing(), images, ("nchw",))}
    assert "--mean 0.1307 --std 0.3081" in lines
    assert not any("bgr" in line or "imagenet" in line for line in lines)


def test_option_line_names_everything():
    assert option_line(CAFFE, -1) == (
        "--input-range 255 --mean 123.675,116.28,103.53 --channel-order bgr --label-offset -1"
    )
    assert option_line(Preprocessing()) == ""
