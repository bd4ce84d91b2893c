"""Model files as a stranger with bad intent would write them."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from auditkit.errors import AuditError, UsageError
from auditkit.models.open import load_model

SIDE = 8


def refusal(path: Path, kind: type[AuditError] = UsageError) -> str:
    """Return the one line with which auditkit refuses to load a model."""
    with pytest.raises(kind) as caught:
        load_model(path, device=torch.device("cpu"))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert str(path) in message
    return message


class Marker:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(4, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.relu(self.convolution(images)).mean((2, 3)))


def exported(path: Path, network: nn.Module | None = None) -> Path:
    """Write an honest torch.export file for any number of images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.rand(4, 3, SIDE, SIDE),)
        program = torch.export.export(network or Small().eval(), example, dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.export.save(program, path)
    return path


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def rewritten(path: Path, entry: str, change: Callable[[bytes], bytes]) -> Path:
    """Change one entry of an archive, named without the folder that all are in; the checksums fit again."""
    entries = entries_of(path)
    folder = next(iter(entries)).split("/", 1)[0]
    entries[f"{folder}/{entry}"] = change(entries.get(f"{folder}/{entry}", b""))
    return write_archive(path, entries)


def reprogrammed(path: Path, change: Callable[[Any], None]) -> Path:
    """Change the program of a torch.export file."""

    def edit(content: bytes) -> bytes:
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return rewritten(path, "models/model.json", edit)


def saved(thing: object) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def pickled(thing: object) -> bytes:
    return pickle.dumps(thing)


def graph_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    shape: tuple[int | str, ...] = ("N", 3, SIDE, SIDE),
    output: str = "scores",
    opset: int = 17,
    domains: tuple[str, ...] = ("com.microsoft",),
) -> onnx.ModelProto:
    """Return a graph from `image` to `scores`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def classifier_nodes(image: str = "image") -> list[onnx.NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", [image], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
