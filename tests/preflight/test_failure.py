from __future__ import annotations

import pytest
import torch
from torch import nn

from auditkit.errors import ExecutionError
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing
from auditkit.models.tryout import try_out
from auditkit.preflight import explain_failure
from auditkit.samples import Samples

CPU = torch.device("cpu")


def _explained(source, samples, steps=None):
    loaded, steps = load_model(source, device=CPU), steps or Preprocessing()
    with pytest.raises(ExecutionError):
        try_out(loaded, steps, samples.images[:8], CPU, 32)
    return explain_failure(loaded, steps, samples, CPU)


def _changed(samples, images):
    return Samples(images.contiguous(), samples.labels[: len(images)], samples.ids[: len(images)])


def test_channels_last_graph(network, wrapped, signs, examine, export, tmp_path):
    last = wrapped(network, lambda x: x.permute(0, 3, 1, 2))
    path = export(last, tmp_path / "net.onnx", signs.images[:2].permute(0, 2, 3, 1))
    assert _explained(path, signs) == "net.onnx runs with --layout nhwc"
    found = examine(path, signs, Preprocessing(layout="nhwc"))
    assert not found.warnings
    assert found.before > 0.95


def test_channels_last_module(network, wrapped, signs):
    last = wrapped(network, lambda x: x.permute(0, 3, 1, 2))
    assert _explained(last, signs).endswith("runs with --layout nhwc")


def test_channels_last_was_wrong(network, signs):
    assert _explained(network, signs, Preprocessing(layout="nhwc")).endswith("--layout nchw")


def test_size_of_the_graph(network, signs, export, tmp_path):
    path = export(network, tmp_path / "net.onnx", signs.images[:1], fixed=True)
    large = _changed(signs, nn.functional.interpolate(signs.images[:8], (40, 48)))
    assert _explained(path, large) == "net.onnx runs with --resize 32x32"


def test_size_that_only_trying_can_tell(signs):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10)).eval()
    assert _explained(network, signs).endswith("runs with --resize 28x28")


def test_colour(network, signs):
    assert _explained(network, _changed(signs, signs.images[:, :1])).endswith("--colour rgb")
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert _explained(grey, signs).endswith("--colour grey")


def test_several_at_once(wrapped, signs):
    network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)).eval()
    checked = wrapped(network, lambda x: x.reshape(-1, 28 * 28) if x.shape[3] == 1 else x)
    assert "--resize 28x28" in _explained(checked, signs)


def test_nothing_helps(wrapped, network, signs):
    def broken(images):
        raise RuntimeError("no")

    assert _explained(wrapped(network, broken), signs) is None
