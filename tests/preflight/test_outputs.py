from __future__ import annotations

import torch

from auditkit.models.preprocess import Preprocessing


def test_softmax_is_found(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, after=lambda y: y.softmax(1)), colours)
    assert set(found.warnings) == {"preflight.softmax"}
    assert found.line == "--outputs probabilities"
    assert found.after == found.before > 0.95


def test_softmax_in_an_onnx_file_is_found_and_set_right(network, wrapped, signs, examine, export, tmp_path):
    path = export(wrapped(network, after=lambda y: y.softmax(1)), tmp_path / "net.onnx", signs.images[:2])
    found = examine(path, signs)
    assert set(found.warnings) == {"preflight.softmax"}
    assert not examine(path, signs, Preprocessing(outputs="probabilities")).warnings


def test_log_probabilities_need_nothing(colour_net, wrapped, colours, examine):
    assert not examine(wrapped(colour_net, after=lambda y: y.log_softmax(1)), colours).warnings


def test_probabilities_that_are_none_are_found(colour_net, colours, examine):
    found = examine(colour_net, colours, Preprocessing(outputs="probabilities"))
    assert set(found.warnings) == {"preflight.softmax"}
    assert found.warnings["preflight.softmax"].note.remedy == "use --outputs logits"


def test_softmax_and_range_get_a_complete_remedy(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, lambda x: x / 255, lambda y: y.softmax(1)), colours)
    assert set(found.warnings) == {"preflight.softmax", "preflight.input_range"}
    last = [each.remedy for each in found.diagnoses if each.remedy][-1]
    assert last.option_line == "--input-range 255 --outputs probabilities"


def test_scaled_scores_are_saturated(colour_net, wrapped, colours, examine):
    found = examine(wrapped(colour_net, after=lambda y: y * 1e4), colours)
    assert set(found.warnings) == {"preflight.saturated"}
    assert "of 200 images" in found.warnings["preflight.saturated"].note.text


def test_saturated_probabilities_are_lost(colour_net, wrapped, colours, examine):
    found = examine(
        wrapped(colour_net, after=lambda y: (y * 20).softmax(1)), colours, Preprocessing(outputs="probabilities")
    )
    assert set(found.warnings) == {"preflight.saturated"}


def test_one_output_is_reported(colours, wrapped, colour_net, examine):
    zeros = colours.take(colours.labels == 0)
    found = examine(wrapped(colour_net, after=lambda y: y[:, :1]), zeros)
    assert "preflight.classes" in found.warnings
    assert torch.equal(zeros.labels, torch.zeros_like(zeros.labels))
