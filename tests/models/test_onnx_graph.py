"""Rewritten graphs still compute what the original did: free batches, no softmax, plain quantisation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_graphs import deployed, gradient, model_of, numbers, pictures

from auditkit.models.twin import (
    compare,
    differentiable_twin,
    is_quantized,
    with_dynamic_batch,
    without_final_softmax,
)


def fixed_networks(batch, opset):
    """Yield graphs exported for `batch` images of 3x8x8, that flatten in every way exporters know."""
    conv = helper.make_node("Conv", ["image", "k"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1])
    head = helper.make_node("MatMul", ["f", "w"], ["scores"])
    weights = {"k": numbers(4, 3, 3, 3), "w": numbers(64, 5, seed=1)}

    def build(nodes, constants):
        shapes = {name: np.array(value, np.int64) for name, value in constants.items()}
        return model_of([conv, *nodes, head], weights | shapes, (batch, 3, 8, 8), (batch, 5), opset)

    def reshape(source, target, result, **attributes):
        return helper.make_node("Reshape", [source, target], [result], **attributes)

    yield "flatten", build([helper.make_node("Flatten", ["c"], ["f"])], {})
    yield "all lengths given", build([reshape("c", "s", "f")], {"s": [batch, 64]})
    yield "rest inferred", build([reshape("c", "s", "f")], {"s": [batch, -1]})
    yield (
        "batch in the middle",
        build([reshape("c", "s", "g"), reshape("g", "t", "f")], {"s": [batch * 4, 16], "t": [batch, -1]}),
    )
    shuffle = [
        reshape("c", "s", "g"),
        helper.make_node("Transpose", ["g"], ["h"], perm=[0, 2, 1, 3, 4]),
        reshape("h", "t", "f"),
    ]
    yield "channel shuffle", build(shuffle, {"s": [batch, 2, 2, 4, 4], "t": [batch, -1]})
    if opset >= 14:
        yield "allowzero", build([reshape("c", "s", "f", allowzero=1)], {"s": [batch, -1]})
    sizes = helper.make_node("Resize", ["c", "", "", "s"], ["g"], mode="linear")
    yield "sizes", build([sizes, reshape("g", "t", "f")], {"s": [batch, 4, 8, 2], "t": [batch, 64]})


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_freed(batch, opset):
    for name, model in fixed_networks(batch, opset):
        x = pictures(4, 3, 8, 8)
        wanted = torch.cat([deployed(model)(rows) for rows in x.split(batch)])
        twin = differentiable_twin(model)
        if name != "batch in the middle":
            freed = with_dynamic_batch(model)
            onnx.checker.check_model(freed, full_check=True)
            assert freed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
            assert freed.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
            torch.testing.assert_close(torch.cat([deployed(freed)(rows) for rows in x.split(3)]), wanted)
        for size in (1, 2, 3, 4):
            got = torch.cat([twin(rows) for rows in x.split(size)])
            torch.testing.assert_close(got, wanted, msg=lambda text, name=name: f"{name}: {text}")


def test_reshapes_of_weights_are_left_alone():
    nodes = [
        helper.make_node("Reshape", ["mean", "s"], ["m"]),
        helper.make_node("Sub", ["image", "m"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    constants = {"mean": numbers(3, 1, 1), "s": np.array([1, -1, 1, 1])}
    model = model_of(nodes, constants, (1, 3, 4, 4), (1, 3))
    x = pictures(3, 3, 4, 4)
    torch.testing.assert_close(deployed(with_dynamic_batch(model))(x), differentiable_twin(model)(x))


def test_a_batch_baked_in_for_good_is_fed_in_its_size():
    nodes = [
        helper.make_node("Concat", ["token", "image"], ["c"], axis=2),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["scores"]),
    ]
    constants = {"token": numbers(2, 3, 1, 4), "w": numbers(60, 5)}
    model = model_of(nodes, constants, (2, 3, 4, 4), (2, 5))
    twin, x = differentiable_twin(model), pictures(6, 3, 4, 4)
    wanted = torch.cat([deployed(model)(rows) for rows in x.split(2)])
    torch.testing.assert_close(twin(x), wanted)
    assert gradient(twin, x[:5]).shape == (5, 3, 4, 4)


def test_a_free_batch_is_left_as_it_is():
    model = model_of([helper.make_node("Flatten", ["image"], ["scores"])], {}, ("n", 3, 4, 4), ("n", 48))
    assert with_dynamic_batch(model) == model


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_the_final_softmax_can_be_left_out(last):
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["p"]),
        helper.make_node(last, ["p"], ["s"], axis=1),
        helper.make_node("Flatten", ["s"], ["scores"]),
    ]
    model = model_of(nodes, {}, ("n", 3, 4, 4), ("n", 3))
    bare = without_final_softmax(model)
    x = pictures(2, 3, 4, 4)
    torch.testing.assert_close(deployed(bare)(x), x.mean((2, 3)))
    assert without_final_softmax(bare) is None
    assert model.graph.node[1].op_type == last


def test_a_softmax_that_others_read_stays():
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Softmax", ["f"], ["s"]),
        helper.make_node("Mul", ["s", "s"], ["scores"]),
    ]
    assert without_final_softmax(model_of(nodes, {}, ("n", 3, 4, 4))) is None


def quantized_networks():
    """Yield graphs of operators that compute with integers."""
    image = {"xs": np.float32(0.02), "xz": np.uint8(3)}
    weights = {"k": np.random.default_rng(2).integers(-60, 60, (4, 3, 3, 3)).astype(np.int8)}
    weights |= {"ks": np.float32([0.01, 0.02, 0.03, 0.01]), "kz": np.zeros(4, np.int8)}
    weights |= {"b": np.array([100, -50, 0, 7], np.int32), "ys": np.float32(0.05), "yz": np.uint8(128)}
    quantize = helper.make_node("QuantizeLinear", ["image", "xs", "xz"], ["q"])
    names = ["q", "xs", "xz", "k", "ks", "kz", "ys", "yz", "b"]
    conv = helper.make_node("QLinearConv", names, ["c"], pads=[1, 0, 0, 1], strides=[2, 1])
    pair = ["c", "ys", "yz", "c", "ys", "yz", "ys", "yz"]
    plus = helper.make_node("QLinearAdd", pair, ["d"], domain="com.microsoft")
    pool_names = ["d", "ys", "yz", "ys", "yz"]
    pool = helper.make_node("QLinearGlobalAveragePool", pool_names, ["p"], domain="com.microsoft")
    flat = helper.make_node("Flatten", ["p"], ["f"])
    weights |= {"w": np.arange(-10, 10, dtype=np.int8).reshape(4, 5), "ws": np.float32(0.1), "wz": np.int8(1)}
    ends = {
        "matmul": helper.make_node("QLinearMatMul", ["f", "ys", "yz", "w", "ws", "wz", "ys", "yz"], ["m"]),
        "gemm": helper.make_node(
            "QGemm", ["f", "ys", "yz", "w", "ws", "wz", "", "ys", "yz"], ["m"], domain="com.microsoft"
        ),
    }
    back = helper.make_node("DequantizeLinear", ["m", "ys", "yz"], ["scores"])
    constants = {name: np.asarray(value) for name, value in (image | weights).items()}
    for name, end in ends.items():
        nodes = [quantize, conv, plus, pool, flat, end, back]
        yield name, model_of(nodes, constants, ("n", 3, 8, 8), ("n", 5))
    dynamic = [
        helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"]),
        helper.make_node("ConvInteger", ["q", "k", "z"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["c"], ["d"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["d", "s"], ["e"]),
        helper.make_node("GlobalMaxPool", ["e"], ["p"]),
        helper.make_node("Flatten", ["p"], ["g"]),
        helper.make_node("DynamicQuantizeLinear", ["g"], ["h", "t", "u"]),
        helper.make_node("MatMulInteger", ["h", "w", "u", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["j"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["j", "t"], ["scores"]),
    ]
    yield "dynamic", model_of(dynamic, constants, ("n", 3, 8, 8), ("n", 5))


def test_operators_on_integers():
    for name, model in quantized_networks():
        twin, x = differentiable_twin(model), pictures(8, 3, 8, 8) * 2 - 1
        assert is_quantized(twin)
        agreement = compare(twin, deployed(model), x)
        assert agreement.largest_difference < 0.05, name
        assert agreement.median_difference < 1e-3, name
        assert gradient(twin, x).abs().sum() > 0, name
