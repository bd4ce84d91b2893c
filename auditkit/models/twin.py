"""The differentiable twin of an ONNX network: the same function in torch, for gradients and activations.

The deployed network gives the verdicts. The twin only shows the way, and only after `compare` found that both
agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx2fx
import torch
from torch import fx

from auditkit.errors import ExecutionError
from auditkit.models import onnx_operators
from auditkit.models.batching import InFixedBatches
from auditkit.models.fx_graph import drop_unused, fold_constants, settle_shapes
from auditkit.models.onnx_graph import (
    free_inputs,
    input_shape,
    with_dynamic_batch,
    with_plain_quantization,
    without_final_softmax,
)

__all__ = [
    "TwinAgreement",
    "TwinError",
    "compare",
    "differentiable_twin",
    "is_quantized",
    "with_dynamic_batch",
    "without_final_softmax",
]

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)
_ROWS_AT_ONCE = 64


class TwinError(ExecutionError):
    """No torch twin of an ONNX graph can be had; the message is the reason, on one line."""


def differentiable_twin(model: onnx.ModelProto) -> torch.nn.Module:
    """Convert an ONNX graph with one image input into a frozen torch module.

    Args:
        model: the graph; it is not changed.

    Returns:
        A module in eval mode that takes what the graph takes, float32 of shape (N, ...) for any N, and
        returns what the graph returns: a tensor, or a tuple of those. Weights are float32 buffers, so
        `.to(device)`, `.to(torch.bfloat16)` and `copy.deepcopy` work; nothing in it requires a gradient.
        Quantised graphs have straight-through gradients. Where the graph insists on its batch size, the module
        feeds it that many images at a time.

    Raises:
        TwinError: the graph cannot be converted, or does not run, or gives the image no gradient.
    """
    try:
        image = _only_image(model)
        # A caller's no_grad or inference_mode would leave weights that can never be part of a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            return _tried(_converted(model), image)
    except TwinError:
        raise
    except Exception as error:
        raise TwinError(_one_line(error)) from error


def _only_image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    inputs, outputs = free_inputs(model), model.graph.output
    if len(inputs) != 1 or not outputs:
        raise TwinError(f"a twin needs one input, and outputs; the graph has {len(inputs)} and {len(outputs)}")
    if inputs[0].type.tensor_type.elem_type not in _FLOATS:
        raise TwinError(f"the input {inputs[0].name} is not floating point, so no gradient can reach it")
    return inputs[0]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _converted(model: onnx.ModelProto) -> fx.GraphModule:
    plain = with_plain_quantization(with_dynamic_batch(model))
    module = onnx2fx.convert(onnx_operators.with_own_operators(plain))
    fold_constants(module)
    settle_shapes(module)
    drop_unused(module)
    module.recompile()
    return module.float().eval().requires_grad_(False)


def _tried(twin: torch.nn.Module, image: onnx.ValueInfoProto) -> torch.nn.Module:
    """Return the twin in a form that was seen to work and to give gradients; a free size cannot be tried."""
    shape = input_shape(image)
    batch, lengths = (shape or [None])[0], [length for length in shape[1:] if length]
    if not lengths or len(lengths) < len(shape) - 1:
        return twin
    trial = torch.linspace(0, 1, 3 * math.prod(lengths)).reshape(3, *lengths).requires_grad_()
    # Calling forward, here and below, because calling an fx module prints a traceback before it raises.
    if batch and not _treats_rows_alike(twin, trial):
        twin.forward(trial[:1].expand(batch, *lengths))
        twin = InFixedBatches(twin, batch)
    scores = twin.forward(trial)
    outputs = scores if isinstance(scores, tuple | list) else (scores,)
    if not all(isinstance(output, torch.Tensor) and output.shape[:1] == trial.shape[:1] for output in outputs):
        raise TwinError("the output does not have one row an image")
    reached = [output for output in outputs if output.requires_grad]
    if not reached:
        raise TwinError("no gradient of the output reaches the image")
    torch.autograd.grad(torch.stack([output.sum() for output in reached]).sum(), trial)
    return twin


def _treats_rows_alike(twin: torch.nn.Module, trial: torch.Tensor) -> bool:
    """Tell whether rows may come in any number: a batch size baked in may fail, or worse, mix the rows."""
    with torch.no_grad():
        try:
            together = twin.forward(trial)
            alone = torch.cat([twin.forward(trial[i : i + 1]) for i in range(len(trial))])
        except (RuntimeError, IndexError, ValueError, TypeError):
            return False
    # A sum in another order may fall to the other side of a rounding step.
    tolerance = 0.1 if is_quantized(twin) else 1e-3
    return together.shape == alone.shape and _distances(together, alone).max().item() <= tolerance


def _distances(scores: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return absolute differences relative to the largest absolute reference score; the shape of both."""
    scale = reference.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return (scores - reference).abs() / scale


def is_quantized(twin: torch.nn.Module) -> bool:
    """Tell whether a twin rounds its activations, so that its gradients are straight-through."""
    rounding = (onnx_operators.quantize, onnx_operators.quantize_dynamically)
    graphs = [module.graph for module in twin.modules() if isinstance(module, fx.GraphModule)]
    return any(node.target in rounding for graph in graphs for node in graph.nodes)


@dataclass(frozen=True)
class TwinAgreement:
    """How well a twin and the deployed model agree on real images.

    Attributes:
        largest_difference: the largest difference of two scores, relative to the largest absolute score.
        label_agreement: the share of labels (largest score along axis 1) that are the same, 0 to 1.
        n: the number of images.
        median_difference: the median difference, relative to the same scale.
        quantized: whether the twin rounds activations; the order of rounding then differs legitimately.
    """

    largest_difference: float
    label_agreement: float
    n: int
    median_difference: float
    quantized: bool

    @property
    def trustworthy(self) -> bool:
        """Whether gradients of the twin may stand for the deployed model's."""
        if self.quantized:
            return self.label_agreement >= 0.97 and self.median_difference < 0.05
        return self.label_agreement >= 0.99 and self.largest_difference <= 1e-3


def compare(twin: torch.nn.Module, run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> TwinAgreement:
    """Compare a twin with the deployed model on images.

    Args:
        twin: as `differentiable_twin` returns it.
        run: the deployed model, (N, ...) images to (N, classes, ...) scores.
        images: float32, shape (N, ...), N at least 1, on the twin's device, in the model's range.

    Returns:
        The agreement; scores that are not finite make it untrustworthy.

    Raises:
        TwinError: the twin fails on these images, or its scores have another shape.
    """
    wanted, got = [], []
    for start in range(0, len(images), _ROWS_AT_ONCE):
        rows = images[start : start + _ROWS_AT_ONCE]
        wanted.append(run(rows).float().cpu())
        try:
            with torch.no_grad():
                got.append(twin.forward(rows).float().cpu())
        except Exception as error:
            raise TwinError(_one_line(error)) from error
    deployed, twins = torch.cat(wanted), torch.cat(got)
    if deployed.shape != twins.shape:
        raise TwinError(f"the twin's scores have shape {tuple(twins.shape)}, the model's {tuple(deployed.shape)}")
    distances = _distances(twins, deployed)
    same = (twins.argmax(dim=1) == deployed.argmax(dim=1)).float().mean()
    return TwinAgreement(
        largest_difference=float(distances.max()),
        label_agreement=float(same),
        n=len(images),
        median_difference=float(distances.median()),
        quantized=is_quantized(twin),
    )
