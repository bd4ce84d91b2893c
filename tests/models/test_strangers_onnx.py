"""ONNX files of strangers are refused with one line before a runtime, a converter or the file system gets them."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from strangers import SIDE, classifier_nodes, graph_of, refusal, written

from auditkit.errors import AuditError, ExecutionError
from auditkit.models.open import load_model

CPU = torch.device("cpu")


def with_external(path, location, *, offset=None, length=None, content=None, place="initializer"):
    """Write a graph that adds an external tensor of three numbers."""
    value = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1)
    tensor = numpy_helper.from_array(value, "shift")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", location), ("offset", offset), ("length", length)):
        if entry is not None:
            tensor.external_data.add(key=key, value=str(entry))
    nodes = [helper.make_node("Add", ["image", "shift"], ["shifted"]), *classifier_nodes("shifted")]
    model = graph_of(nodes)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "attribute":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["shift"], value=tensor))
    elif place == "sparse":
        indices = numpy_helper.from_array(np.arange(3, dtype=np.int64), "i")
        tensor.dims[:] = [3]
        sparse = helper.make_sparse_tensor(tensor, indices, [1, 3, 1, 1])
        model.graph.sparse_initializer.append(sparse)
    elif place == "subgraph":
        inside = helper.make_graph(
            [helper.make_node("Constant", [], ["inside"], value=tensor)],
            "branch",
            [],
            [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
        )
        model.graph.node.insert(0, helper.make_node("If", ["yes"], ["shift"], then_branch=inside, else_branch=inside))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    else:
        opset = [helper.make_opsetid("", 17)]
        body = [helper.make_node("Constant", [], ["made"], value=tensor)]
        model.functions.append(helper.make_function("own", "shifts", [], ["made"], body, opset))
        model.opset_import.append(helper.make_opsetid("own", 1))
        model.graph.node.insert(0, helper.make_node("shifts", [], ["shift"], domain="own"))
    if content is not None:
        (path.parent / location).write_bytes(content)
    return written(path, model)


NUMBERS = np.arange(3, dtype=np.float32).tobytes()
PLACES = ("initializer", "attribute", "subgraph", "function")


@pytest.mark.parametrize("place", PLACES)
def test_external_data_in_the_folder_is_read_wherever_in_the_graph_it_is_named(tmp_path, place):
    path = with_external(tmp_path / "net.onnx", "net.data", content=NUMBERS, place=place)
    scores = load_model(path, device=CPU).run(torch.zeros(2, 3, SIDE, SIDE))
    torch.testing.assert_close(scores, torch.tensor([[0.0, 1.0, 2.0]] * 2))


@pytest.mark.parametrize("place", [*PLACES, "sparse"])
@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "ABSOLUTE", "link.bin", "linked/secret.bin"]
)
def test_external_data_outside_of_the_folder_is_never_read(tmp_path, place, location):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(NUMBERS)
    (folder / "link.bin").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    path = with_external(folder / "net.onnx", str(secret) if location == "ABSOLUTE" else location, place=place)
    assert "is not a file in the model's folder" in refusal(path)


@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "", " net.data", "C:\\secret", "a\\b", "net\0.data", "."])
def test_external_data_at_no_plain_path_is_never_followed(tmp_path, location):
    """Onnxruntime takes the first one for an address in memory."""
    refusal(with_external(tmp_path / "net.onnx", location, offset=4096, length=12))


def test_external_data_whose_place_is_not_said_is_refused(tmp_path):
    refusal(with_external(tmp_path / "net.onnx", None))


def test_a_missing_file_of_external_data_is_named(tmp_path):
    assert "wanted it beside the model, as net.data" in refusal(with_external(tmp_path / "net.onnx", "net.data"))


@pytest.mark.parametrize(
    ("offset", "length"), [(4, 12), (0, 13), (-4, 12), (2**62, 12), ("x", 12), (0, "9" * 40), (0, -1), (13, None)]
)
def test_external_data_beyond_the_file_is_refused(tmp_path, offset, length):
    path = with_external(tmp_path / "net.onnx", "net.data", offset=offset, length=length, content=NUMBERS)
    assert "goes beyond the file of 12 bytes" in refusal(path)


def test_external_data_of_another_length_than_the_shape_is_refused(tmp_path):
    path = with_external(tmp_path / "net.onnx", "net.data", length=8, content=NUMBERS)
    assert "does not have the 8 bytes" in refusal(path)


def test_a_device_is_no_external_data(tmp_path):
    os.mkfifo(tmp_path / "net.data")
    assert "missing" in refusal(with_external(tmp_path / "net.onnx", "net.data"))


@pytest.mark.parametrize("dims", [[2**40], [10**6, 10**6], [2**62, 2**62], [-1], [4]])
def test_a_tensor_that_claims_more_than_its_bytes_is_refused(tmp_path, dims):
    model = graph_of([helper.make_node("Add", ["image", "shift"], ["shifted"]), *classifier_nodes("shifted")])
    model.graph.initializer.add(name="shift", data_type=TensorProto.FLOAT, dims=dims, raw_data=NUMBERS)
    assert "shift" in refusal(written(tmp_path / "net.onnx", model))


def test_a_sparse_tensor_that_would_fill_the_memory_is_refused(tmp_path):
    values = numpy_helper.from_array(np.ones(1, dtype=np.float32), "weights")
    sparse = helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i"), [10**6, 10**6]
    )
    nodes = [helper.make_node("ReduceMax", ["weights"], ["most"], keepdims=0)]
    model = graph_of([*nodes, helper.make_node("Add", ["image", "most"], ["shifted"]), *classifier_nodes("shifted")])
    model.graph.sparse_initializer.append(sparse)
    assert "sparse tensor weights would be 7.3 TiB" in refusal(written(tmp_path / "net.onnx", model))


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a graph", b"\x0a" * 1000, b"\xff" * 50, b"PK\x03\x04"])
def test_a_file_that_is_no_graph_is_refused_with_one_line(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    assert "not a readable ONNX file" in refusal(tmp_path / "net.onnx", ExecutionError)


def test_a_file_that_is_cut_short_is_refused_at_every_length(tmp_path):
    content = graph_of(classifier_nodes()).SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(AuditError) as caught:
            load_model(path, device=CPU)
        assert len(str(caught.value).splitlines()) == 1


def field(number, content):
    """Return a field of protobuf that holds bytes."""
    length, digits = len(content), []
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *digits, length]) + content


@pytest.mark.parametrize("depth", [40, 5000])
def test_graphs_inside_of_graphs_without_end_are_refused(tmp_path, depth):
    graph = field(2, b"innermost")
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(2, b"out") + field(4, b"If") + field(5, branch))
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08" + field(7, graph))
    assert "not a readable ONNX file" in refusal(tmp_path / "net.onnx", ExecutionError)


def test_an_operator_of_a_library_is_named_with_what_to_do(tmp_path):
    node = helper.make_node("Detonate", ["image"], ["shifted"], domain="com.example")
    model = graph_of([node, *classifier_nodes("shifted")], domains=("com.example",))
    message = refusal(written(tmp_path / "net.onnx", model))
    assert "the operator Detonate is of the domain com.example" in message
    assert "auditkit loads no libraries of custom operators; export the model with standard operators" in message


def test_an_operator_of_a_library_is_found_inside_a_branch(tmp_path):
    inside = helper.make_graph(
        [helper.make_node("Detonate", ["image"], ["inner"], domain="com.example")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["shifted"], then_branch=inside, else_branch=inside)
    model = graph_of([node, *classifier_nodes("shifted")], {"yes": np.array(True)}, domains=("com.example",))
    assert "com.example" in refusal(written(tmp_path / "net.onnx", model))


def test_compiled_code_in_a_node_is_refused(tmp_path):
    node = helper.make_node("EPContext", ["image"], ["shifted"], domain="com.microsoft", ep_cache_context="../x.so")
    refusal(written(tmp_path / "net.onnx", graph_of([node, *classifier_nodes("shifted")])))


def test_a_function_of_the_file_is_no_library(tmp_path):
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model = graph_of(
        [helper.make_node("own", ["image"], ["r"], domain="local"), *classifier_nodes("r")], domains=("local",)
    )
    model.functions.append(helper.make_function("local", "own", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    assert load_model(written(tmp_path / "net.onnx", model), device=CPU).format == "onnx"


def functions_in_a_row(depth, last):
    """Return a graph of functions of which each calls the next one eight times."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = graph_of(
        [helper.make_node("f0", ["image"], ["r"], domain="local"), *classifier_nodes("r")], domains=("local",)
    )
    for number in range(depth):
        called = f"f{number + 1}" if number + 1 < depth else last
        domain = "local" if called.startswith("f") else ""
        names = ["x", *(f"x{place}" for place in range(7)), "y"]
        body = [helper.make_node(called, [one], [other], domain=domain) for one, other in pairwise(names)]
        model.functions.append(helper.make_function("local", f"f{number}", ["x"], ["y"], body, opsets))
    return model


def test_functions_that_call_each_other_many_times_do_not_fill_the_memory(tmp_path):
    message = refusal(written(tmp_path / "net.onnx", functions_in_a_row(12, "Relu")))
    assert "nodes with its functions written out; auditkit takes 1000000" in message


@pytest.mark.parametrize(("depth", "last"), [(1, "f0"), (3, "f0"), (3, "f1")])
def test_a_function_that_calls_itself_is_refused(tmp_path, depth, last):
    assert "calls itself" in refusal(written(tmp_path / "net.onnx", functions_in_a_row(depth, last)))


def test_a_graph_that_bites_its_tail_is_refused(tmp_path):
    nodes = [
        helper.make_node("Add", ["image", "second"], ["first"], name="one"),
        helper.make_node("Relu", ["first"], ["second"], name="two"),
        *classifier_nodes("second"),
    ]
    message = refusal(written(tmp_path / "net.onnx", graph_of(nodes)))
    assert "the graph net is cyclic: the node one (Add) waits for its own result" in message


def test_a_node_that_feeds_itself_is_refused(tmp_path):
    nodes = [helper.make_node("Add", ["image", "sum"], ["sum"]), *classifier_nodes("sum")]
    assert "waits for its own result" in refusal(written(tmp_path / "net.onnx", graph_of(nodes)))


def test_a_branch_that_waits_for_what_it_makes_is_refused(tmp_path):
    inside = helper.make_graph(
        [helper.make_node("Relu", ["chosen"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=inside, else_branch=inside)
    model = graph_of([node, *classifier_nodes("chosen")], {"yes": np.array(True)})
    assert "cyclic" in refusal(written(tmp_path / "net.onnx", model))


def test_a_value_that_is_made_twice_is_refused(tmp_path):
    nodes = [
        helper.make_node("Relu", ["image"], ["r"]),
        helper.make_node("Neg", ["image"], ["r"]),
        *classifier_nodes("r"),
    ]
    assert "r is made twice in the graph net" in refusal(written(tmp_path / "net.onnx", graph_of(nodes)))


def test_a_value_that_nothing_makes_is_refused(tmp_path):
    message = refusal(written(tmp_path / "net.onnx", graph_of(classifier_nodes("nowhere"))))
    assert "takes nowhere, which nothing makes" in message


def test_an_output_that_nothing_makes_is_refused(tmp_path):
    message = refusal(written(tmp_path / "net.onnx", graph_of(classifier_nodes(), output="nowhere")))
    assert "nothing in the graph net makes its output nowhere" in message


def integers(*numbers):
    return np.array(numbers, dtype=np.int64)


BOMBS = {
    "ConstantOfShape": ([helper.make_node("ConstantOfShape", ["size"], ["big"])], {"size": integers(2**17, 2**17)}),
    "Expand": ([helper.make_node("Expand", ["one", "size"], ["big"])], {"size": integers(2**40, 1)}),
    "Tile": ([helper.make_node("Tile", ["one", "size"], ["big"])], {"size": integers(2**40)}),
    "Range": ([helper.make_node("Range", ["from", "to", "by"], ["big"])], {"from": 0.0, "to": 1e12, "by": 1.0}),
    "Pad": ([helper.make_node("Pad", ["one", "size"], ["big"])], {"size": integers(0, 2**40)}),
    "Resize": (
        [helper.make_node("Resize", ["image", "", "", "size"], ["big"])],
        {"size": integers(1, 3, 2**20, 2**20)},
    ),
    "Upsample of the image": (
        [helper.make_node("Resize", ["image", "", "factors"], ["big"])],
        {"factors": np.array([1, 1, 1e5, 1e5], dtype=np.float32)},
    ),
    "a size that is computed": (
        [
            helper.make_node("Mul", ["size", "size"], ["square"]),
            helper.make_node("Mul", ["square", "square"], ["more"]),
            helper.make_node("Concat", ["more", "more"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        ],
        {"size": integers(200)},
    ),
    "a product of a column and a row": (
        [
            helper.make_node("ConstantOfShape", ["tall"], ["column"]),
            helper.make_node("ConstantOfShape", ["wide"], ["row"]),
            helper.make_node("Mul", ["column", "row"], ["big"]),
        ],
        {"tall": integers(2**20, 1), "wide": integers(1, 2**20)},
    ),
    "doubled forty times": (
        [helper.make_node("Concat", [f"d{n}", f"d{n}"], [f"d{n + 1}"], axis=0) for n in range(40)]
        + [helper.make_node("Identity", ["d40"], ["big"])],
        {"d0": np.ones(1, dtype=np.float32)},
    ),
    "many of a gigabyte": (
        [helper.make_node("ConstantOfShape", ["size"], [f"g{n}"]) for n in range(8)]
        + [helper.make_node("Sum", [f"g{n}" for n in range(8)], ["big"])],
        {"size": integers(2**28)},
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_few_bytes_that_would_grow_to_fill_the_memory_are_refused_before_they_do(tmp_path, name):
    nodes, constants = BOMBS[name]
    rest = [
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["image", "most"], ["s"]),
    ]
    arrays = {"one": np.ones(1, dtype=np.float32)} | {
        key: np.array(value, dtype=np.float32) if isinstance(value, float) else value
        for key, value in constants.items()
    }
    model = graph_of([*nodes, *rest, *classifier_nodes("s")], arrays)
    message = refusal(written(tmp_path / "net.onnx", model))
    assert any(
        words in message for words in ("auditkit takes 4.0 GiB", "more than 4.0 GiB", "grow beyond 16777216 numbers")
    )


def test_a_bomb_behind_a_constant_node_is_found(tmp_path):
    size = numpy_helper.from_array(integers(2**20, 2**20), "v")
    nodes = [
        helper.make_node("Constant", [], ["size"], value=size),
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["image", "most"], ["s"]),
    ]
    refusal(written(tmp_path / "net.onnx", graph_of([*nodes, *classifier_nodes("s")])))


def growing_branch():
    return helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["big"]),
            helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        ],
        "branch",
        [],
        [helper.make_tensor_value_info("most", TensorProto.FLOAT, None)],
    )


def test_a_bomb_inside_of_a_branch_is_found(tmp_path):
    branch = growing_branch()
    nodes = [helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)]
    constants = {"yes": np.array(True), "size": integers(2**20, 2**20)}
    model = graph_of([*nodes, helper.make_node("Add", ["image", "chosen"], ["s"]), *classifier_nodes("s")], constants)
    assert "the node big (ConstantOfShape)" in refusal(written(tmp_path / "net.onnx", model))


def test_a_bomb_inside_of_a_function_is_found(tmp_path):
    call = helper.make_node("grow", ["size"], ["most"], domain="local")
    model = graph_of(
        [call, helper.make_node("Add", ["image", "most"], ["s"]), *classifier_nodes("s")],
        {"size": integers(2**20, 2**20)},
        domains=("local",),
    )
    body = list(growing_branch().node)
    model.functions.append(
        helper.make_function("local", "grow", ["size"], ["most"], body, [helper.make_opsetid("", 17)])
    )
    assert "(ConstantOfShape) makes would take 4.0 TiB" in refusal(written(tmp_path / "net.onnx", model))


def test_a_function_cannot_hide_behind_another_of_its_name(tmp_path):
    model = functions_in_a_row(1, "f0")
    harmless = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(
        helper.make_function("local", "f0", ["x"], ["y"], [harmless], model.functions[0].opset_import)
    )
    assert "two of its functions have one name" in refusal(written(tmp_path / "net.onnx", model))
    model.functions[1].overload = "other"
    assert "calls itself" in refusal(written(tmp_path / "net.onnx", model))


def test_an_image_that_no_memory_holds_is_refused_before_one_is_made(tmp_path):
    model = graph_of(classifier_nodes(), shape=(1, 3, 10**6, 10**6))
    assert "one image of the input image has 3000000000000 numbers" in refusal(written(tmp_path / "net.onnx", model))


@pytest.mark.parametrize("name", ["\x1b[2J", "two\nlines", "a" * 5000, "\u202e", "{}", "<b>"])
def test_names_in_messages_do_not_steer_the_terminal(tmp_path, name):
    message = refusal(written(tmp_path / "net.onnx", graph_of(classifier_nodes(name))))
    assert len(message) < 1000


@pytest.mark.parametrize(
    "name", ['image"]; __import__("os").mkdir("{}")#', "image=__import__('os').mkdir('{}')", "lambda"]
)
def test_names_of_a_graph_are_no_code_of_its_twin(tmp_path, name):
    """The twin is Python that is written and run; names of values and weights stand in it."""
    marker = tmp_path / "marker"
    odd = name.format(marker)
    nodes = [helper.make_node("Add", [odd, f"{odd}w"], [f"{odd}s"]), *classifier_nodes(f"{odd}s")]
    model = graph_of(nodes, {f"{odd}w": np.ones((1, 3, 1, 1), dtype=np.float32)})
    model.graph.input[0].name = odd
    loaded = load_model(written(tmp_path / "net.onnx", model), device=CPU)
    images = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(loaded.run(images), images.mean((2, 3)) + 1)
    if loaded.network is not None:
        torch.testing.assert_close(loaded.network(images), images.mean((2, 3)) + 1)
    assert not marker.exists()


def test_fields_that_this_version_of_onnx_does_not_know_reach_no_runtime(tmp_path):
    content = graph_of(classifier_nodes()).SerializeToString() + b"\xfa\x7f\x03abc"
    assert b"abc" in onnx.ModelProto.FromString(content).SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content)
    from auditkit.models.inspection.onnx import read_onnx

    assert b"abc" not in read_onnx(tmp_path / "net.onnx")[0].SerializeToString()
