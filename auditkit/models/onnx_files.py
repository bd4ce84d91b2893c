"""ONNX networks: onnxruntime gives the verdicts, a verified torch twin gives gradients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from auditkit.errors import ExecutionError, UsageError
from auditkit.models.inspection.onnx import read_onnx
from auditkit.models.inspection.text import first_line, shown
from auditkit.models.loaded import Loaded, digest_files
from auditkit.models.twin import (
    TwinError,
    differentiable_twin,
    with_dynamic_batch,
    without_final_softmax,
)

__all__ = ["load_onnx_file"]

_SILENT = 4
_QUANTISED = (
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class _Session:
    """An onnxruntime session as a function over torch tensors."""

    session: onnxruntime.InferenceSession

    def __call__(self, inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        image = self.session.get_inputs()[0]
        array = inputs.detach().cpu().contiguous().numpy()
        wanted = _NUMPY_TYPES[image.type]
        array = array.round().astype(wanted) if wanted is np.uint8 else array.astype(wanted, copy=False)
        outputs = tuple(
            torch.from_numpy(np.ascontiguousarray(output)).float().to(inputs.device)
            for output in self.session.run(None, {image.name: array})
        )
        return outputs[0] if len(outputs) == 1 else outputs


def load_onnx_file(path: Path, device: torch.device) -> Loaded:
    """Load an ONNX graph for onnxruntime, and convert its differentiable twin.

    Raises:
        ExecutionError: the file is damaged, or onnxruntime cannot run it.
        UsageError: the graph does not take one image, or is one that auditkit gives to no runtime.
    """
    graph, external_files = read_onnx(path)
    session = _session(graph.SerializeToString(), path, device)
    image = _image_input(session, path)
    shape = tuple(size if isinstance(size, int) else None for size in image.shape)
    fixed = shape[0]
    notes: tuple[str, ...] = ()
    if fixed is not None:
        freed = _freed(graph, path, device, shape)
        if freed is not None:
            session, fixed = freed, None
            notes = (f"the graph was exported for batches of {shape[0]}; it was made to take any number of images",)
    network, reason = _twin(graph)
    quantised = any(node.op_type in _QUANTISED for node in graph.graph.node)
    before = without_final_softmax(graph)
    return Loaded(
        name=path.name,
        format="onnx (quantised)" if quantised else "onnx",
        digest=digest_files([path, *external_files]),
        provider=session.get_providers()[0],
        run=_Session(session),
        network=network,
        no_network=reason,
        is_twin=True,
        quantised=quantised,
        before_softmax=_twin(before)[0] if before is not None and network is not None else None,
        input_shape=shape[1:],
        output_names=tuple(output.name for output in session.get_outputs()),
        fixed_batch=fixed,
        notes=notes,
    )


def _session(model: bytes, path: Path, device: torch.device) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    # Spinning threads would take the cores from torch, which searches between two verdicts.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise ExecutionError(f"{path}: onnxruntime cannot run this graph ({first_line(error)})") from error


def _image_input(session: onnxruntime.InferenceSession, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        found = shown(", ".join(f"{item.name} {item.shape}" for item in inputs) or "nothing")
        raise UsageError(f"{path}: wanted one image input of four dimensions; the graph takes {found}")
    if inputs[0].type not in _NUMPY_TYPES:
        raise UsageError(f"{path}: wanted a float or uint8 image input; the graph takes {inputs[0].type}")
    return inputs[0]


def _freed(
    graph: onnx.ModelProto, path: Path, device: torch.device, shape: tuple[int | None, ...]
) -> onnxruntime.InferenceSession | None:
    """Return a session that takes any number of images, None where the graph insists on its own number."""
    try:
        session = _session(with_dynamic_batch(graph).SerializeToString(), path, device)
        run = _Session(session)
        sizes = [size or 1 for size in shape]
        image = torch.linspace(0, 1, int(np.prod(sizes))).reshape(sizes)[:1]
        alone, together = _each(run(image)), _each(run(torch.cat([image, 1 - image, image])))
        agrees = all(
            len(rows) == 3 and torch.allclose(rows[2], row[0], rtol=1e-3, atol=1e-3)
            for rows, row in zip(together, alone, strict=True)
        )
    except Exception:
        return None
    return session if agrees else None


def _each(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _twin(graph: onnx.ModelProto) -> tuple[nn.Module | None, str | None]:
    try:
        return differentiable_twin(graph), None
    except TwinError as error:
        return None, str(error)
