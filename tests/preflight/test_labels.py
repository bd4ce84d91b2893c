from __future__ import annotations

import pytest
import torch

from auditkit.errors import ExecutionError
from auditkit.models.preprocess import Preprocessing
from auditkit.samples import Samples

NAMES = tuple("abcdefghij")


def _counted_from(samples: Samples, first: int) -> Samples:
    return Samples(samples.images, samples.labels + first, samples.ids)


def _extra(position: int):
    pad = (1, 0) if position == 0 else (0, 1)
    return lambda y: torch.nn.functional.pad(y, pad, value=-20.0)


def test_background_class_is_found(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, after=_extra(0)), colours, class_names=NAMES)
    assert set(found.warnings) == {"preflight.background"}
    assert found.line == "--label-offset 1"
    assert found.after > 0.95


def test_labels_from_one_are_found(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, after=_extra(-1)), _counted_from(colours, 1))
    assert set(found.warnings) == {"preflight.labels"}
    assert found.line == "--label-offset -1"
    assert found.after > 0.95


def test_labels_one_too_low_are_found(colour_net, colours, examine):
    known = colours.take(colours.labels > 0)
    found = examine(colour_net, _counted_from(known, -1), class_names=NAMES)
    assert set(found.warnings) == {"preflight.labels"}
    assert found.line == "--label-offset 1"
    assert found.after > 0.95


def test_offset_that_should_not_have_been_given_is_found(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, after=_extra(-1)), _counted_from(colours, 1), label_offset=1)
    (diagnosis,) = found.warnings.values()
    assert diagnosis.note.remedy == "leave out --label-offset"
    assert diagnosis.remedy.label_offset == -1


def test_label_beyond_the_outputs_stops_and_says_how_to_go_on(colour_net, colours, examine):
    with pytest.raises(ExecutionError) as caught:
        examine(colour_net, _counted_from(colours, 1))
    for part in (colours.ids[9], "label 10", "10 outputs", "--label-offset -1"):
        assert part in str(caught.value)
    with pytest.raises(ExecutionError, match="indices"):
        examine(colour_net, _counted_from(colours, 5))


def test_names_that_do_not_match_are_reported(colour_net, colours, examine):
    assert "10 outputs" in examine(colour_net, colours, class_names=(*NAMES, "k")).infos["preflight.classes"].note.text
    shuffled = Samples(colours.images, colours.labels.flip(0), colours.ids)
    assert "preflight.classes" in examine(colour_net, shuffled, class_names=(*NAMES, "k")).warnings


def test_accuracy_at_chance_is_reported(colour_net, colours, examine):
    other = torch.tensor([3, 1, 4, 8, 5, 9, 2, 6, 0, 7])
    mixed = Samples(colours.images, other[(colours.labels + torch.arange(200) // 10) % 10], colours.ids)
    found = examine(colour_net, mixed)
    assert set(found.warnings) == {"preflight.accuracy"}
    assert "of 200 images" in found.warnings["preflight.accuracy"].note.text


def test_always_the_commonest_answer_is_chance(wrapped, colour_net, colours, examine):
    labels = torch.where(torch.arange(200) % 20 == 0, 1, 0)
    found = examine(
        wrapped(colour_net, after=lambda y: y * 0 + torch.arange(10, 0, -1)),
        Samples(colours.images, labels, colours.ids),
        Preprocessing(),
    )
    assert "95.0% of 200 images" in found.warnings["preflight.accuracy"].note.text


def test_classes_in_another_order_are_no_matter_of_preprocessing(colour_net, colours, examine):
    for seed in range(20):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
        found = examine(colour_net, Samples(colours.images, order[colours.labels], colours.ids))
        assert set(found.warnings) <= {"preflight.accuracy"}
