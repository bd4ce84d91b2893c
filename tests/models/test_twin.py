"""The differentiable twin: agreement with onnxruntime and torch, moving, and honest failures."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_graphs import deployed, gradient, model_of, numbers, pictures

from auditkit.errors import ExecutionError
from auditkit.models.twin import (
    TwinError,
    compare,
    differentiable_twin,
)

onnxruntime.set_default_logger_severity(3)

NETWORKS = ("cifar10/resnet20", "cifar10/resnet20_int8", "cifar10/resnet2b", "lisa/lisa_cnn")
LARGE = ("imagenet/squeezenet10", "coco/fastestdet")


@pytest.fixture(scope="module")
def shared():
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"NO REAL MODELS: {folder} is absent")
    return folder


@pytest.fixture(scope="module")
def images(shared):
    def read(network):
        if network in LARGE:
            side = 227 if network == LARGE[0] else 352
            return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        name = "cifar10/images_600.npz" if network.startswith("cifar10") else "lisa/stop_signs_20.npz"
        with np.load(shared / name) as stored:
            return torch.from_numpy(stored["x"].transpose(0, 3, 1, 2).astype(np.float32) / 255)

    return read


@pytest.mark.parametrize("network", [*NETWORKS, *LARGE])
def test_real_networks_agree_with_onnxruntime(shared, images, network):
    model = onnx.load(shared / f"{network}.onnx")
    before = model.SerializeToString(deterministic=True)
    twin, x = differentiable_twin(model), images(network)
    assert model.SerializeToString(deterministic=True) == before
    agreement = compare(twin, deployed(model), x)
    assert agreement.trustworthy, agreement
    assert agreement.n == len(x)
    assert agreement.quantized == network.endswith("int8")
    if agreement.quantized:
        assert agreement.label_agreement >= 0.97
    assert not twin.training
    assert not any(value.requires_grad for value in twin.state_dict(keep_vars=True).values())
    slope = gradient(twin, x[:3])
    assert slope.isfinite().all()
    assert (slope.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("network", ["cifar10/resnet20", "cifar10/resnet2b", "imagenet/squeezenet10"])
def test_twins_move_and_copy(shared, images, network):
    twin = differentiable_twin(onnx.load(shared / f"{network}.onnx"))
    x = images(network)[:2]
    half = copy.deepcopy(twin).to(torch.bfloat16).to(memory_format=torch.channels_last)
    low = half(x.bfloat16().contiguous(memory_format=torch.channels_last))
    full = twin(x)
    assert low.dtype is torch.bfloat16
    assert full.dtype is torch.float32
    assert (low - full).abs().max() < 0.05 * full.abs().max()
    assert gradient(half, x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("network", [*NETWORKS, *LARGE])
def test_nothing_stays_behind_on_the_host(shared, images, network):
    twin = differentiable_twin(onnx.load(shared / f"{network}.onnx")).to("meta")
    assert gradient(twin, images(network)[:2].to("meta")).device.type == "meta"


def test_gradients_equal_those_of_the_original_network(shared, images):
    spec = importlib.util.spec_from_file_location("shared_models", shared / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    network = models.resnet20(shared / "cifar10/resnet20.safetensors")
    twin = differentiable_twin(onnx.load(shared / "cifar10/resnet20.onnx"))
    x = images("cifar10/resnet20")[:50]
    cosine = torch.cosine_similarity(gradient(twin, x).flatten(1), gradient(network, x).flatten(1))
    assert cosine.min() > 0.9999


def test_straight_through_gradients_point_where_the_float_networks_do(shared, images):
    twins = [differentiable_twin(onnx.load(shared / f"cifar10/{name}.onnx")) for name in ("resnet20", "resnet20_int8")]
    slopes = [gradient(twin, images("cifar10/resnet20")[:50]).flatten(1) for twin in twins]
    assert torch.cosine_similarity(*slopes).median() > 0.7


def test_halves_compute_in_the_twins_type():
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["scores"], to=onnx.TensorProto.FLOAT),
    ]
    half = numbers(48, 5).astype(np.float16)
    model = model_of(nodes, {"w": half}, ("n", 3, 4, 4), kind=onnx.TensorProto.FLOAT16)
    twin, x = differentiable_twin(model), pictures(2, 3, 4, 4)
    assert twin(x).dtype is torch.float32
    assert twin.to(torch.bfloat16)(x.bfloat16()).dtype is torch.bfloat16


def test_a_caller_without_gradients_gets_a_twin_with_gradients():
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["scores"]),
    ]
    model = model_of(nodes, {"w": numbers(48, 5)}, ("n", 3, 4, 4))
    with torch.inference_mode():
        twin = differentiable_twin(model)
    assert gradient(twin, pictures(2, 3, 4, 4)).abs().sum() > 0


def flat_then(*nodes):
    return [helper.make_node("Flatten", ["image"], ["f"]), *nodes]


@pytest.mark.parametrize(
    ("nodes", "kind", "reason"),
    [
        (flat_then(helper.make_node("NoSuch", ["f"], ["scores"])), 1, "NoSuch"),
        (flat_then(helper.make_node("Gelu", ["f", "missing"], ["scores"], domain="no.such")), 1, "no.such"),
        (flat_then(helper.make_node("Sign", ["missing"], ["scores"])), 1, "missing"),
        (flat_then(helper.make_node("MatMul", ["f", "w"], ["scores"])), 1, "48"),
        ([helper.make_node("Flatten", ["w"], ["scores"])], 1, "row"),
        (flat_then(helper.make_node("ArgMax", ["f"], ["scores"], axis=1)), 1, "gradient"),
        (
            flat_then(helper.make_node("Identity", ["f"], ["scores"])),
            onnx.TensorProto.UINT8,
            "floating point",
        ),
    ],
)
def test_what_cannot_be_converted_says_why_on_one_line(nodes, kind, reason, capfd):
    model = model_of(nodes, {"w": numbers(7, 5)}, ("n", 3, 4, 4), kind=kind)
    with pytest.raises(TwinError, match=reason) as caught:
        differentiable_twin(model)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ExecutionError)
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_several_outputs_has_a_twin_that_returns_them_all_with_gradients():
    nodes = [helper.make_node("Flatten", ["image"], ["scores"]), helper.make_node("Neg", ["image"], ["boxes"])]
    model = model_of(nodes, {}, ("n", 3, 4, 4))
    model.graph.output.append(helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, None))
    images = torch.rand(2, 3, 4, 4).requires_grad_()
    scores, boxes = differentiable_twin(model)(images)
    assert torch.equal(scores, images.flatten(1))
    (gradient,) = torch.autograd.grad(boxes.sum(), images)
    assert torch.equal(gradient, -torch.ones_like(images))


def test_the_agreement_is_computed_as_it_says():
    x = torch.eye(4)
    scores = torch.tensor([[0.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    agreement = compare(torch.nn.Identity(), lambda rows: rows, scores)
    assert agreement.trustworthy
    assert (agreement.largest_difference, agreement.label_agreement, agreement.n) == (0.0, 1.0, 4)
    other = compare(torch.nn.Identity(), lambda rows: rows.flip(1), scores)
    assert (other.largest_difference, other.label_agreement) == (1.0, 0.0)
    assert not other.trustworthy
    shifted = compare(torch.nn.Identity(), lambda rows: rows + 0.1, scores)
    assert shifted.label_agreement == 1
    assert math.isclose(shifted.largest_difference, 0.1 / 4.1, rel_tol=1e-5)
    assert not shifted.trustworthy
    assert not compare(torch.nn.Identity(), lambda rows: rows * math.nan, scores).trustworthy
    with pytest.raises(TwinError, match="shape"):
        compare(torch.nn.Identity(), lambda rows: rows[:, :2], x)
