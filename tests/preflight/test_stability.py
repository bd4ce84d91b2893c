from __future__ import annotations

import pytest
import torch
from torch import nn


def _with_dropout(network, wrapped):
    return wrapped(network, after=nn.Dropout(0.3))


def _trains_norms(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return network


def test_randomness_by_design_is_found(network, wrapped, signs, examine):
    noisy = wrapped(network, lambda x: x + 0.05 * torch.rand_like(x)).eval()
    found = examine(noisy, signs)
    assert set(found.warnings) == {"preflight.random"}
    note = found.warnings["preflight.random"].note
    assert "by design" in note.text
    assert "eval" not in note.remedy


def test_dropout_exported_in_training_mode_is_found(network, wrapped, signs, examine, export, tmp_path):
    path = export(
        _with_dropout(network, wrapped).train(),
        tmp_path / "net.onnx",
        signs.images[:2],
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
    )
    found = examine(path, signs)
    assert "preflight.random" in found.warnings
    assert "preflight.batch_dependent" not in found.warnings
    assert "model.eval()" in found.warnings["preflight.random"].note.remedy


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_dropout_traced_in_training_mode_is_found(network, wrapped, signs, examine, tmp_path):
    path = tmp_path / "net.pt"
    training = wrapped(network, after=lambda y: nn.functional.dropout(y, 0.3, training=True))
    torch.jit.trace(training, signs.images[:2], check_trace=False).save(str(path))
    found = examine(path, signs)
    assert "preflight.random" in found.warnings
    assert "model.eval()" in found.warnings["preflight.random"].note.remedy


def test_batch_mates_that_matter_are_found(network, signs, examine):
    found = examine(_trains_norms(network), signs)
    assert "preflight.batch_dependent" in found.warnings
    assert "preflight.random" not in found.warnings


def test_network_left_in_training_mode_is_found(network, signs, examine):
    found = examine(network.train(), signs)
    assert "model.eval()" in found.warnings["preflight.batch_dependent"].note.remedy
    assert "training mode" in found.infos["preflight.model"].note.text


def test_export_for_one_image_is_reported(network, signs, examine, export, tmp_path):
    path = export(network, tmp_path / "net.onnx", signs.images[:1], fixed=True)
    found = examine(path, signs)
    assert not found.warnings
    assert "batches of 1" in found.infos["preflight.model"].note.text


def test_network_that_insists_on_its_batch_is_reported(network, wrapped, signs, examine):
    def four_only(images):
        if len(images) != 1:
            raise ValueError("one image at a time")
        return images

    found = examine(wrapped(network, four_only), signs.take(range(40)))
    assert not found.warnings
    assert "one image at a time" in found.infos["preflight.batch_size"].note.text


def test_missing_gradients_are_explained(network, wrapped, signs, examine):
    found = examine(wrapped(network, after=lambda y: y.detach()), signs)
    assert not found.warnings
    assert "no gradient" in found.infos["preflight.gradients"].note.text
