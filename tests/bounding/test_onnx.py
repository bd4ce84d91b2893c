"""A bounded ONNX graph computes what the bounded twin does, in every opset, layout and type that it takes."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import model_of, numbers, pictures

from auditkit.bounding import (
    NothingToBound,
    bounded_copy,
    bounded_onnx,
    find_onnx_sites,
    find_sites,
    onnx_twin_with_sites,
)
from auditkit.errors import ExecutionError, UsageError

IMAGES = pictures(5, 3, 8, 8)
OVERFLOWS = ("fold", "leak", "clip")


def conv(source, result, weight="k"):
    return helper.make_node("Conv", [source, weight], [result], pads=[1, 1, 1, 1])


def graph(nodes, constants=None, opset=17, **options):
    """Return a graph: convolution to `c0`, the nodes that make `last` (4 channels) of it, pooling, linear."""
    nodes = [
        conv("image", "c0", "first"),
        *nodes,
        helper.make_node("GlobalAveragePool", ["last"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["scores"]),
    ]
    weights = {"first": 3 * numbers(4, 3, 3, 3), "k": 3 * numbers(4, 4, 3, 3, seed=1), "w": numbers(4, 5, seed=2)}
    return model_of(nodes, weights | (constants or {}), (None, 3, 8, 8), (None, 5), opset, **options)


def rectifiers(opset=17):
    """Return a graph with every kind of site, in order: Relu, LeakyRelu, PRelu, Clip, and HardSwish where it exists."""
    if opset >= 11:
        clip = helper.make_node("Clip", ["d2", "zero", "six"], ["e2"])
    else:
        clip = helper.make_node("Clip", ["d2"], ["e2"], min=0.0, max=6.0)
    nodes = [
        helper.make_node("Relu", ["c0"], ["d0"], name="stem/Relu"),
        conv("d0", "c1"),
        helper.make_node("LeakyRelu", ["c1"], ["d1"], alpha=0.1),
        conv("d1", "c2"),
        helper.make_node("PRelu", ["c2", "slopes"], ["d2"]),
        clip,
        conv("e2", "c3"),
        helper.make_node("HardSwish", ["c3"], ["last"]) if opset >= 14 else helper.make_node("Relu", ["c3"], ["last"]),
    ]
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1)
    constants = {"slopes": slopes} | ({"zero": np.float32(0), "six": np.float32(6)} if opset >= 11 else {})
    return graph(nodes, {name: np.asarray(value) for name, value in constants.items()}, opset)


def run(model, images=IMAGES, plainly=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if plainly:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def by_twin(model, bounds, overflow, slope=0.1):
    with torch.no_grad():
        return bounded_copy(onnx_twin_with_sites(model), IMAGES, bounds, overflow, slope).network(IMAGES)


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_sites_are_those_of_the_twin_in_the_same_order(opset):
    model = rectifiers(opset)
    sites = find_onnx_sites(model)
    last = "hardswish" if opset >= 14 else "relu"
    assert [site.operation for site in sites] == ["relu", "leaky_relu", "prelu", "clamp", last]
    assert [site.name for site in sites] == ["stem/Relu", "d1", "d2", "e2", "last"]
    twins = find_sites(onnx_twin_with_sites(model), IMAGES)
    assert [(site.operation, site.shape) for site in sites] == [(site.operation, site.shape) for site in twins]


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bounded_graph_computes_what_the_bounded_twin_does(opset, overflow, per_channel):
    model = rectifiers(opset)
    bounds = [torch.tensor([0.2, 0.3, 0.4, 0.5]) if per_channel else 0.4] * 5
    before = model.SerializeToString()
    bounded = bounded_onnx(model, bounds, overflow, 0.1)
    assert model.SerializeToString() == before
    assert bounded.summary() == "5 of 5 sites bounded (ONNX graph)"
    onnx.checker.check_model(bounded.model, full_check=True)
    wanted = by_twin(model, bounds, overflow)
    torch.testing.assert_close(run(bounded.model), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - run(model)).abs().max() > 0.01


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_infinite_bounds_change_no_bit(overflow):
    model = rectifiers()
    whole = bounded_onnx(model, [math.inf] * 5, overflow)
    assert whole.is_bounded == (False,) * 5
    assert torch.equal(run(whole.model), run(model))
    # Where some channels are bounded, onnxruntime may lay out the tensors in another way, which rounds differently.
    mixed = bounded_onnx(model, [torch.tensor([1e30, math.inf, math.inf, 1e30])] * 5, overflow)
    assert mixed.is_bounded == (True,) * 5
    assert torch.equal(run(mixed.model, plainly=True), run(model, plainly=True))
    layers = bounded_onnx(model, [1e30] * 5, overflow)
    assert torch.equal(run(layers.model, plainly=True), run(model, plainly=True))


def test_an_existing_clip_is_lowered_and_never_raised():
    for opset in (9, 13):
        model = rectifiers(opset)
        lowered = bounded_onnx(model, [None, None, None, 0.5, None], "clip").model
        assert [node.op_type for node in lowered.graph.node].count("Clip") == 1
        torch.testing.assert_close(run(lowered), by_twin(model, [None, None, None, 0.5, None], "clip"))
        raised = bounded_onnx(model, [None, None, None, 50.0, None], "clip").model
        assert torch.equal(run(raised), run(model))


def test_old_opsets_take_what_they_can_express():
    model = graph([helper.make_node("Relu", ["c0"], ["last"])], opset=7)
    for bound, overflow in ((0.3, "clip"), (0.3, "fold")):
        # onnxruntime and onnx2fx both read opset 7.
        bounded = bounded_onnx(model, [bound], overflow, 0.1).model
        torch.testing.assert_close(run(bounded), by_twin(model, [bound], overflow))
    with pytest.raises(ExecutionError, match="the graph has opset 7; such a bound needs 8 or newer"):
        bounded_onnx(model, [torch.ones(4)], "clip")


def test_vectors_and_tokens_are_bounded_along_their_last_axis():
    nodes = [
        helper.make_node("Reshape", ["image", "tokens"], ["t"]),
        helper.make_node("MatMul", ["t", "a"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["v"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["v", "b"], ["g"]),
        helper.make_node("Relu", ["g"], ["scores"]),
    ]
    constants = {"tokens": np.array([0, 24, 8]), "a": numbers(8, 6), "b": numbers(6, 5, seed=1)}
    model = model_of(nodes, constants, (None, 3, 8, 8), (None, 5))
    bounds = [torch.linspace(0.05, 0.3, 6), torch.linspace(0.01, 0.1, 5)]
    assert [site.shape for site in find_onnx_sites(model)] == [(24, 6), (5,)]
    torch.testing.assert_close(run(bounded_onnx(model, bounds, "fold", 0.1).model), by_twin(model, bounds, "fold"))


def test_a_clamp_of_the_image_is_no_site():
    nodes = [helper.make_node("Clip", ["image", "zero", "one"], ["i"]), conv("i", "c", "first")]
    nodes += [helper.make_node("Relu", ["c"], ["last"])]
    nodes += [helper.make_node("GlobalAveragePool", ["last"], ["scores"])]
    constants = {"zero": np.array(0, np.float32), "one": np.array(1, np.float32), "first": numbers(4, 3, 3, 3)}
    model = model_of(nodes, constants, (None, 3, 8, 8), (None, 4, 1, 1))
    assert [site.name for site in find_onnx_sites(model)] == ["last"]


def test_a_rectified_output_keeps_its_name():
    model = model_of(
        [conv("image", "c", "first"), helper.make_node("Relu", ["c"], ["scores"])],
        {"first": numbers(4, 3, 3, 3)},
        (None, 3, 8, 8),
        (None, 4, 8, 8),
    )
    for overflow in OVERFLOWS:
        bounded = bounded_onnx(model, [0.2], overflow)
        assert [output.name for output in bounded.model.graph.output] == ["scores"]
        onnx.checker.check_model(bounded.model, full_check=True)


def test_names_that_are_taken_are_not_taken_again():
    nodes = [
        helper.make_node("Relu", ["c0"], ["d"]),
        helper.make_node("Identity", ["d"], ["d_unbounded"]),
        helper.make_node("Identity", ["d_unbounded"], ["d_bound"]),
        helper.make_node("Identity", ["d_bound"], ["last"]),
    ]
    model = graph(nodes)
    for overflow in OVERFLOWS:
        bounded = bounded_onnx(model, [0.2], overflow, 0.1)
        torch.testing.assert_close(run(bounded.model), by_twin(model, [0.2], overflow))


def test_half_precision_rounds_bounds_up():
    nodes = [helper.make_node("Cast", ["image"], ["h"], to=TensorProto.FLOAT16), conv("h", "c", "first")]
    nodes += [helper.make_node("Relu", ["c"], ["last"]), helper.make_node("GlobalAveragePool", ["last"], ["p"])]
    nodes += [helper.make_node("Cast", ["p"], ["scores"], to=TensorProto.FLOAT)]
    constants = {"first": numbers(4, 3, 3, 3).astype(np.float16)}
    model = model_of(nodes, constants, (None, 3, 8, 8), (None, 4, 1, 1))
    bounded = bounded_onnx(model, [torch.tensor([0.1, 0.2, 0.3, 0.7])], "fold").model
    (bound,) = [
        numpy_helper.to_array(node.attribute[0].t)
        for node in bounded.graph.node
        if node.op_type == "Constant" and node.output[0].endswith("capped_bound")
    ]
    assert bound.dtype == np.float16
    assert (bound.astype(np.float64).ravel() >= np.array([0.1, 0.2, 0.3, 0.7], np.float32)).all()
    onnx.checker.check_model(bounded, full_check=True)


def quantised(kind, zero_point):
    """Return a graph whose quantiser has left a Relu out, where its integers begin at zero."""
    nodes = [
        helper.make_node("QuantizeLinear", ["c0", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["last"]),
    ]
    return graph(nodes, {"scale": np.array(0.02, np.float32), "zero": np.array(zero_point, kind)})


@pytest.mark.parametrize(("kind", "lowest"), [(np.int8, -128), (np.uint8, 0)])
def test_a_relu_that_the_quantiser_left_out_is_found_and_bounded(kind, lowest):
    model = quantised(kind, lowest)
    assert [site.name for site in find_onnx_sites(model)] == ["c0_rectified"]
    twin = onnx_twin_with_sites(model)
    assert [site.operation for site in find_sites(twin, IMAGES)] == ["relu"]
    with torch.no_grad():
        torch.testing.assert_close(twin(IMAGES), run(model))
    bounds = [torch.tensor([0.2, 0.4, 0.6, 0.8])]
    torch.testing.assert_close(run(bounded_onnx(model, bounds, "clip").model), by_twin(model, bounds, "clip"))
    assert torch.equal(run(bounded_onnx(model, [torch.full((4,), 1e30)], "fold").model), run(model))


def test_a_tensor_that_is_quantised_twice_is_one_site():
    model = quantised(np.int8, -128)
    again = [
        helper.make_node("QuantizeLinear", ["c0", "scale", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "scale", "zero"], ["d2"]),
        helper.make_node("GlobalAveragePool", ["d2"], ["unused"]),
    ]
    model.graph.node.extend(again)
    assert len(find_onnx_sites(model)) == 1
    torch.testing.assert_close(run(bounded_onnx(model, [0.2], "clip").model), by_twin(model, [0.2], "clip"))


def test_a_quantiser_that_keeps_negative_values_hides_no_relu():
    with pytest.raises(NothingToBound):
        find_onnx_sites(quantised(np.int8, 0))


def test_a_relu_inside_a_local_function_is_found():
    body = [helper.make_node("Relu", ["x"], ["y"])]
    function = helper.make_function("own", "Rectify", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    model = graph([helper.make_node("Rectify", ["c0"], ["last"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(function)
    assert len(find_onnx_sites(model)) == 1
    assert run(bounded_onnx(model, [0.1], "clip").model).shape == (5, 5)


def test_a_graph_that_states_no_shapes_takes_a_bound_a_layer_only():
    nodes = [helper.make_node("Odd", ["c0"], ["o"], domain="own"), helper.make_node("Relu", ["o"], ["last"])]
    model = graph(nodes)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert bounded_onnx(model, [0.1], "clip").is_bounded == (True,)
    with pytest.raises(ExecutionError, match="node last: the graph states no shape"):
        bounded_onnx(model, [torch.ones(4)], "clip")


def branch(inner):
    body = helper.make_graph([inner], "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return helper.make_node("If", ["flag"], ["last"], then_branch=body, else_branch=body)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("QLinearConv", ["c0", *"abcdefg"], ["last"]), r"last \(QLinearConv\) computes with integers"),
        (helper.make_node("ConvInteger", ["c0", "k"], ["last"]), r"last \(ConvInteger\) computes with integers"),
        (
            helper.make_node("FusedConv", ["c0", "k"], ["last"], domain="com.microsoft", activation="Relu"),
            r"last \(FusedConv\) has its activation inside",
        ),
        (branch(helper.make_node("Relu", ["c0"], ["y"])), r"last \(If\) has rectifiers in a branch"),
    ],
)
def test_activations_out_of_reach_are_refused(node, message):
    with pytest.raises(ExecutionError, match=message):
        bounded_onnx(graph([node]), [1.0])


def test_a_graph_without_rectifiers_is_refused_with_a_reason():
    with pytest.raises(NothingToBound, match=r"^test: nothing to bound"):
        bounded_onnx(graph([helper.make_node("Tanh", ["c0"], ["last"])]), [])


def test_bounds_that_do_not_fit_are_refused():
    model = graph([helper.make_node("Relu", ["c0"], ["last"])])
    with pytest.raises(UsageError, match="wanted 1 bounds, one a site; got 2"):
        bounded_onnx(model, [1.0, 1.0])
    with pytest.raises(UsageError, match=r"site last has 4 channels; got a bound of shape \(3,\)"):
        bounded_onnx(model, [torch.ones(3)])
    with pytest.raises(UsageError, match="zero or a positive number; got -1"):
        bounded_onnx(model, [-1.0])
