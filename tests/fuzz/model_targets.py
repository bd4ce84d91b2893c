"""Model files: each is loaded as an audit loads it, before its first image, or looked at as the doctor does."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import structure
import torch
from google.protobuf.message import Message
from harness import Target
from mutate import Draw, mutated
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from strangers import SIDE, Small, classifier_nodes, exported, graph_of

from auditkit.doctor import examine_model
from auditkit.errors import AuditError
from auditkit.models.open import load_model
from auditkit.models.torch_files import _load_weights

__all__ = ["TARGETS"]

CPU = torch.device("cpu")
_NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**16, 2**20, 2**31 - 1, 2**40, 2**62, -(2**63))
_TEXTS = ("", "image", "scores", "../secret.txt", "*/_ORT_MEM_ADDR_/*", "Loop", "Expand", "a" * 300, "\x1b[2J", "own")


def _load(path: Path) -> None:
    with warnings.catch_warnings():
        # What torch says of its own plans is no fault of the file.
        warnings.simplefilter("ignore")
        load_model(path, device=CPU)


def _onnx(data: bytes, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(data)
    (folder / "net.data").write_bytes(np.arange(3, dtype=np.float32).tobytes())
    _load(folder / "net.onnx")


def _script(data: bytes, folder: Path) -> None:
    (folder / "net.pt").write_bytes(data)
    _load(folder / "net.pt")


def _export(data: bytes, folder: Path) -> None:
    (folder / "net.pt2").write_bytes(data)
    _load(folder / "net.pt2")


def _weights(data: bytes, folder: Path) -> None:
    path = folder / ("net.ckpt" if data[:1] in (b"P", b"\x80") else "net.safetensors")
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _load_weights(Small(), path)


def _doctor(data: bytes, folder: Path) -> None:
    """Look at the input under each suffix that its beginning allows; the lines that are printed are judged, too."""
    if data[:2] == b"PK":
        suffixes: tuple[str, ...] = (".pt", ".pt2")
    elif data[:1] == b"\x80":
        suffixes = (".bin",)
    else:
        suffixes = (".onnx", ".safetensors")
    for suffix in suffixes:
        path = folder / f"net{suffix}"
        path.write_bytes(data)
        lines, _ = examine_model(path)
        odd = next((line for line in lines if not line.isprintable()), None)
        if odd is not None:
            raise AuditError(odd)


def _graphs() -> list[onnx.ModelProto]:
    ones = np.ones((1, 3, 1, 1), dtype=np.float32)
    shifted = [helper.make_node("Add", ["image", "shift"], ["shifted"]), *classifier_nodes("shifted")]
    convolved = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        *classifier_nodes("m"),
    ]
    weights = np.linspace(-1, 1, 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    graphs = [graph_of(shifted, {"shift": ones}), graph_of(convolved, {"w": weights}, shape=(1, 3, SIDE, SIDE))]
    graphs += [_external(shifted), _quantised(), _branching(), _calling(), _resized(), _sparse(shifted)]
    return graphs


def _external(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    model = graph_of(nodes)
    tensor = model.graph.initializer.add(name="shift", data_type=TensorProto.FLOAT, dims=[1, 3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "net.data"), ("offset", "0"), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return model


def _quantised() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["d"]),
        *classifier_nodes("d"),
    ]
    weights = np.arange(4 * 3 * 9, dtype=np.uint8).reshape(4, 3, 3, 3)
    return graph_of(nodes, {"s": np.float32(0.1), "z": np.uint8(3), "w": weights})


def _branching() -> onnx.ModelProto:
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["image"], ["inner"])],
            "branch",
            [],
            [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
        )
        for kind in ("Relu", "Neg")
    ]
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=branches[0], else_branch=branches[1])
    return graph_of([node, *classifier_nodes("chosen")], {"yes": np.array(True)})


def _calling() -> onnx.ModelProto:
    model = graph_of(
        [helper.make_node("own", ["image"], ["r"], domain="local"), *classifier_nodes("r")], domains=("local",)
    )
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "own", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    return model


def _resized() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "two"], ["first"]),
        helper.make_node("Concat", ["first", "sizes"], ["target"], axis=0),
        helper.make_node("Resize", ["image", "", "", "target"], ["big"], mode="nearest"),
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("Add", ["big", "zeros"], ["sum"]),
        *classifier_nodes("sum"),
    ]
    pairs = {"zero": [0], "two": [2], "sizes": [16, 16]}
    return graph_of(nodes, {name: np.array(value, dtype=np.int64) for name, value in pairs.items()})


def _sparse(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    model = graph_of(nodes)
    values = numpy_helper.from_array(np.ones(2, dtype=np.float32), "shift")
    indices = numpy_helper.from_array(np.array([0, 2], dtype=np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1, 3, 1, 1]))
    return model


def _onnx_corpus() -> list[bytes]:
    return [model.SerializeToString() for model in _graphs()]


def _mutated_graph(data: bytes, draw: Draw) -> bytes:
    """Change one to three fields somewhere in a graph, so that what comes out is still protobuf."""
    try:
        model = onnx.ModelProto.FromString(data)
        for _ in range(1 + draw.below(3)):
            _change(draw.one_of(list(_messages(model))), draw)
        return bytes(model.SerializeToString())
    # What was mutated before may be no graph any more.
    except Exception:
        return mutated(data, [data], (), draw)


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else (value,):
                yield from _messages(part)


def _change(message: Any, draw: Draw) -> None:
    fields = list(message.DESCRIPTOR.fields)
    there = [field for field, _ in message.ListFields()]
    field = draw.one_of(there if there and draw.chance(0.8) else fields)
    value = getattr(message, field.name)
    if field.message_type is not None:
        _change_messages(message, field.name, value, draw)
    elif hasattr(value, "append"):
        _change_list(value, draw)
    elif draw.chance(0.1):
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other(value, draw))


def _change_messages(message: Message, name: str, value: Any, draw: Draw) -> None:
    if not hasattr(value, "add"):
        message.ClearField(name)
    elif len(value) and draw.chance(0.5):
        at = draw.below(len(value))
        if draw.chance(0.5):
            value.append(value[at])
        else:
            del value[at]
    elif len(value) > 1:
        value[draw.below(len(value))].CopyFrom(value[draw.below(len(value))])
    else:
        value.add()


def _change_list(value: Any, draw: Draw) -> None:
    if len(value) and draw.chance(0.2):
        del value[draw.below(len(value))]
    elif len(value) and draw.chance(0.8):
        at = draw.below(len(value))
        value[at] = _other(value[at], draw)
    elif len(value):
        value.append(value[0])


def _other(value: Any, draw: Draw) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        small = draw.one_of((value + 1, value - 1, value * 2, -value, draw.below(25), draw.below(25)))
        return small if draw.chance(0.7) else draw.one_of(_NUMBERS) % 2**31
    if isinstance(value, float):
        return draw.one_of((0.0, -1.0, 1e30, float("nan"), float("inf"), value * 2))
    if isinstance(value, bytes):
        return value[: draw.below(len(value) + 1)] if draw.chance(0.5) else value + b"\x00" * draw.below(9)
    return draw.one_of(_TEXTS)


def _scripts() -> list[bytes]:
    network = Small().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = (torch.jit.script(network), torch.jit.trace(network, torch.rand(1, 3, SIDE, SIDE)))
        return [_bytes_of(kind.save) for kind in kinds]


def _programs() -> list[bytes]:
    return [_bytes_of(exported)]


def _states() -> list[bytes]:
    state = Small().state_dict()
    old, new = io.BytesIO(), io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, new)
    return [save(state), save({}), old.getvalue(), new.getvalue()]


def _everything() -> list[bytes]:
    return [*_onnx_corpus(), *_scripts(), *_programs(), *_states()]


def _bytes_of(write: Callable[..., Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt2"
        write(path if write is exported else str(path))
        return path.read_bytes()


_CODE = (
    b"torch.save(",
    b"torch.from_file(",
    b"ops.aten.",
    b"ops.inductor._reinterpret_tensor(",
    b"getattr(self, ",
    b"__torch__.torch.classes.",
    b"def __setstate__(self",
    b"CONSTANTS.c0",
)
_PROGRAM = (b"torch.ops.aten.relu.default", b"torch.os.system", b"as_int", b"as_expr", b"Symbol('s77')", b"__import__")


def _mutated_program(data: bytes, draw: Draw) -> bytes:
    """Change a value in one of the JSON entries of an archive."""
    entries = structure.unbundle(data)
    names = [name for name in entries if name.endswith(".json")]
    if not names:
        return mutated(data, [data], _PROGRAM, draw)
    name = draw.one_of(names)
    try:
        tree = json.loads(entries[name])
        holders = list(_holders(tree))
        for _ in range(1 + draw.below(2)):
            holder = draw.one_of(holders)
            key = draw.one_of(list(holder) if isinstance(holder, dict) else range(len(holder)))
            value = holder[key]
            holder[key] = (
                _other(value, draw) if isinstance(value, bool | int | float | str) else draw.one_of((None, [], {}))
            )
        entries[name] = json.dumps(tree).encode()
    # A mutation of before may have left no JSON, or nothing to hold.
    except Exception:
        return mutated(data, [data], _PROGRAM, draw)
    return structure.bundle(entries)


def _holders(tree: Any) -> Any:
    if isinstance(tree, dict | list) and tree:
        yield tree
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(part)


TARGETS = (
    Target("onnx", _onnx_corpus, _onnx, mutate=_mutated_graph),
    Target("torchscript", _scripts, _script, words=_CODE),
    Target("torch_export", _programs, _export, words=_PROGRAM, mutate=_mutated_program),
    Target("weights", _states, _weights),
    Target("doctor", _everything, _doctor),
)
