"""Our ONNX operators against onnxruntime, and their gradients against the closed form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx2fx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from auditkit.models.onnx_operators import DOMAIN, cast, dequantize, quantize, with_own_operators

onnxruntime.set_default_logger_severity(3)

KINDS = {
    np.int8: onnx.TensorProto.INT8,
    np.uint8: onnx.TensorProto.UINT8,
    np.int16: onnx.TensorProto.INT16,
    np.uint16: onnx.TensorProto.UINT16,
}


def graph(nodes, constants, opset=21):
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "test", [image], [result], initializers)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=domains, ir_version=min(10, 8 if opset < 19 else 10))


def by_onnxruntime(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def by_torch(model, x):
    return onnx2fx.convert(with_own_operators(model))(torch.from_numpy(x))


def round_trip(scale, zero_point, **attributes):
    constants = {"scale": scale} | ({} if zero_point is None else {"zero": zero_point})
    last = [] if zero_point is None else ["zero"]
    quantized = helper.make_node("QuantizeLinear", ["x", "scale", *last], ["q"], **attributes)
    back = helper.make_node("DequantizeLinear", ["q", "scale", *last], ["y"], **attributes)
    return graph([quantized, back], constants)


def points(kind, shape, rng):
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    axis=st.sampled_from([None, -4, -3, -2, -1, 0, 1, 2, 3]),
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    exponent=st.integers(-9, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_quantization_is_exact_for_any_axis(kind, axis, shape, exponent, seed):
    rng = np.random.default_rng(seed)
    length = () if axis is None else (shape[axis],)
    scale = (2.0**exponent * rng.uniform(0.5, 2, length)).astype(np.float32)
    span = float(np.iinfo(kind).max) * 2.0**exponent
    x = rng.uniform(-2 * span, 2 * span, shape).astype(np.float32)
    given_axis = {} if axis is None else {"axis": axis}
    model = round_trip(np.asarray(scale), np.asarray(points(kind, length, rng)), **given_axis)
    np.testing.assert_array_equal(by_torch(model, x).numpy(), by_onnxruntime(model, x))


def test_ties_go_to_the_even_step():
    x = (np.arange(-300, 300, dtype=np.float32) / 2).reshape(1, -1)
    model = round_trip(np.float32([1.0])[0:1].reshape(()), np.int8(0).reshape(()))
    np.testing.assert_array_equal(by_torch(model, x).numpy(), by_onnxruntime(model, x))


def test_without_zero_point_the_range_is_unsigned():
    x = np.linspace(-3, 300, 50, dtype=np.float32)
    model = round_trip(np.asarray(np.float32(0.7)), None)
    np.testing.assert_array_equal(by_torch(model, x).numpy(), by_onnxruntime(model, x))


@pytest.mark.parametrize(("axis", "block"), [(1, 2), (1, 3), (0, 2), (-1, 4)])
def test_blocked_scales(axis, block):
    rng = np.random.default_rng(3)
    shape = (4, 6)
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block)
    scale = rng.uniform(0.01, 0.1, blocks).astype(np.float32)
    x = rng.normal(0, 3, shape).astype(np.float32)
    model = round_trip(scale, points(np.int8, blocks, rng), axis=axis, block_size=block)
    np.testing.assert_array_equal(by_torch(model, x).numpy(), by_onnxruntime(model, x))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_dequantization_of_stored_weights(kind, axis):
    rng = np.random.default_rng(4)
    weight = points(kind, (3, 3, 3), rng)
    zero = np.zeros(3, kind) if kind is np.int32 else points(kind, 3, rng)
    constants = {"w": weight, "scale": rng.uniform(0.01, 1, 3).astype(np.float32), "zero": zero}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["d"], axis=axis),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    model, x = graph(nodes, constants), np.zeros((3, 3, 3), np.float32)
    np.testing.assert_array_equal(by_torch(model, x).numpy(), by_onnxruntime(model, x))


def test_gradient_passes_inside_the_range_and_stops_where_it_saturates():
    scale, zero = torch.tensor([0.5, 0.25]), torch.tensor([0, 10], dtype=torch.int8)
    x = torch.tensor([[-64.2, -64.3, 0.3, 63.7, 63.8], [-34.5, -34.7, 0.1, 29.3, 29.4]], requires_grad=True)
    steps = quantize(x, scale, zero, torch.int8, 0, 0)
    back = dequantize(steps, scale, zero, 0, 0)
    inside = torch.tensor([[1.0, 0, 1, 1, 0], [1.0, 0, 1, 1, 0]])
    slope = torch.tensor([[2.0], [4.0]])
    torch.testing.assert_close(torch.autograd.grad(steps.sum(), x, retain_graph=True)[0], inside * slope)
    torch.testing.assert_close(torch.autograd.grad(back.sum(), x)[0], inside)
    assert steps.detach().tolist() == [[-128, -128, 1, 127, 127], [-128, -128, 10, 127, 127]]


def test_dynamic_quantization():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = graph(nodes, {})
    for x in (np.linspace(-1, 2, 40), np.linspace(1, 2, 40), np.linspace(-3, -1, 40), np.zeros(4)):
        x = x.astype(np.float32)
        np.testing.assert_allclose(by_torch(model, x).numpy(), by_onnxruntime(model, x), rtol=0, atol=1e-6)
    x = torch.linspace(-1, 2, 9, requires_grad=True)
    gradient = torch.autograd.grad(onnx2fx.convert(with_own_operators(model))(x).sum(), x)[0]
    torch.testing.assert_close(gradient, torch.ones(9))


RESIZES = [
    ("nearest", coordinates, nearest)
    for coordinates in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
] + [
    (mode, coordinates, "floor")
    for mode in ("linear", "cubic")
    for coordinates in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
]


def resize_graph(target, lengths, opset=18, rank_two=False, **attributes):
    constants = {"target": np.asarray(lengths, np.int64 if target == "sizes" else np.float32)}
    names = ["x", "", "target"] if target == "scales" else ["x", "", "", "target"]
    return graph([helper.make_node("Resize", names, ["y"], **attributes)], constants, opset)


@pytest.mark.parametrize(("mode", "coordinates", "nearest"), RESIZES)
def test_resize(mode, coordinates, nearest):
    x = np.random.default_rng(5).normal(size=(2, 3, 7, 5)).astype(np.float32)
    style = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    targets = [("sizes", (2, 3, 14, 10)), ("sizes", (2, 3, 4, 9)), ("sizes", (2, 3, 1, 5))]
    targets += [("scales", (1, 1, 2, 3)), ("scales", (1, 1, 0.6, 1.3))]
    for target, lengths in targets:
        model = resize_graph(target, lengths, **style)
        np.testing.assert_allclose(by_torch(model, x).numpy(), by_onnxruntime(model, x), atol=2e-5, rtol=0)


def test_resize_options():
    x = np.random.default_rng(6).normal(size=(1, 2, 6, 8)).astype(np.float32)
    for model in (
        resize_graph("sizes", (9, 5), axes=[2, 3], mode="linear"),
        resize_graph("scales", (2.0,), axes=[-1], mode="nearest"),
        resize_graph("scales", (1, 1, 1.7, 1.7), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
        resize_graph("scales", (1, 1, 2, 2), opset=13, mode="nearest", nearest_mode="floor"),
        resize_graph("scales", (1, 1, 7 / 6, 11 / 8), mode="linear"),
    ):
        np.testing.assert_allclose(by_torch(model, x).numpy(), by_onnxruntime(model, x), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizes_of_old_operator_sets(mode):
    x = np.random.default_rng(7).normal(size=(1, 2, 6, 8)).astype(np.float32)
    old = {"scales": np.float32([1, 1, 2, 3])}
    down = {"scales": np.float32([1, 1, 0.5, 0.75])}
    for model in (
        graph([helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=[1.0, 1.0, 2.0, 3.0])], {}, 8),
        graph([helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)], old, 9),
        graph([helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)], old, 10),
        graph([helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)], down, 10),
    ):
        np.testing.assert_allclose(by_torch(model, x).numpy(), by_onnxruntime(model, x), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_is_differentiable(mode):
    module = onnx2fx.convert(with_own_operators(resize_graph("scales", (1, 1, 1.5, 2), mode=mode)))
    x = torch.linspace(-1, 1, 24).reshape(1, 2, 4, 3).requires_grad_()
    y = module(x)
    direction = torch.linspace(1, -2, y.numel()).reshape(y.shape)
    gradient = torch.autograd.grad((y * direction).sum(), x)[0]
    # Resizing is linear, so the gradient and the function are each other's transpose.
    torch.testing.assert_close((gradient * x).sum(), (y * direction).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "rare",
    [
        {"coordinate_transformation_mode": "tf_crop_and_resize"},
        {"mode": "linear", "antialias": 1},
        {"keep_aspect_ratio_policy": "not_larger"},
    ],
)
def test_rare_resizes_are_refused(rare):
    with pytest.raises(onnx2fx.ConversionError, match="not supported"):
        onnx2fx.convert(with_own_operators(resize_graph("sizes", (1, 1, 4, 4), **rare)))


def test_cast_keeps_the_working_type():
    half = torch.tensor([1.5], dtype=torch.bfloat16)
    assert cast(half, torch.float32) is half
    assert cast(torch.tensor([True]), torch.float32, like=half).dtype is torch.bfloat16
    assert cast(half, torch.int64).tolist() == [1]


def test_the_shared_registry_keeps_its_own_operators():
    assert "QuantizeLinear" in onnx2fx.get_supported_ops(DOMAIN)
    model = round_trip(np.asarray(np.float32(1)), np.asarray(np.uint8(0)))
    with_own_operators(model)
    assert {node.domain for node in model.graph.node} == {""}
    assert onnx2fx.convert(model)(torch.tensor([1.4])).tolist() == [1.0]
