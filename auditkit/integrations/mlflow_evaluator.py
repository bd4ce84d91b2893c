"""`mlflow.models.evaluate(..., evaluators="auditkit")`: the audit of a model that was logged to MLflow."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.models.evaluation.base import EvaluationResult, ModelEvaluator

from auditkit.errors import UsageError
from auditkit.integrations.mlflow import log_audit

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel
    from torch import nn

__all__ = ["AuditEvaluator"]

_WANTED = "auditkit audits models that were logged with mlflow.pytorch or mlflow.onnx"
# What auditkit.audit takes beside the settings.
_BESIDE = ("export", "out")


class AuditEvaluator(ModelEvaluator):
    """The model evaluator `auditkit`.

    Its configuration holds the settings of `auditkit.audit` (`gates`, `checks`, `options` ...), and `image_shape`, the
    shape of one image in a row of the data, where the model's signature does not tell; `prefix` as for `log_audit`.
    """

    @classmethod
    def can_evaluate(cls, *, model_type: str | None, evaluator_config: Mapping[str, Any], **_: Any) -> bool:
        """Tell whether an audit was asked for: of a classifier, with a setting of auditkit.

        MLflow asks every evaluator there is, unless the caller names some; no audit comes unasked.
        """
        from auditkit.config import Settings

        return model_type == "classifier" and not Settings.model_fields.keys().isdisjoint(evaluator_config or {})

    def evaluate(
        self,
        *,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any],
        model: Any = None,
        **_: Any,
    ) -> EvaluationResult:
        """Audit the model on the data set, and log the audit to the run.

        A failed gate raises nothing, as with any evaluator: the metric `auditkit/passed` is then 0.

        Raises:
            UsageError: a setting, the model or the data is not what it should be.
            ExecutionError: model and data do not work together.
        """
        from auditkit.auditing import audit
        from auditkit.integrations.request import completed, device_of
        from auditkit.integrations.tracking import check_prefix, tracked_metrics

        config = dict(evaluator_config)
        prefix = config.pop("prefix", "auditkit")
        shape = config.pop("image_shape", None)
        beside = {name: config.pop(name) for name in _BESIDE if name in config}
        check_prefix(prefix)
        settings = completed(config)
        uri = _uri(model)
        data = _images(dataset.features_data, shape or _stated_shape(model)), dataset.labels_data
        with tempfile.TemporaryDirectory() as folder:
            network = _network(model, uri, folder)
            if not isinstance(network, Path):
                settings.setdefault("device", device_of(network))
            audited = audit(network, data, **settings, **beside)
        log_audit(audited, run_id, prefix)
        client = mlflow.MlflowClient()
        client.set_tag(run_id, f"{prefix}/model_uri", uri)
        artifacts = f"{client.get_run(run_id).info.artifact_uri}/{prefix}"
        return EvaluationResult(tracked_metrics(audited, prefix), _artifacts(artifacts, prefix))


def _uri(model: Any) -> str:
    """Return where MLflow keeps the model.

    Raises:
        UsageError: it is no logged model of torch or ONNX.
    """
    if not isinstance(model, mlflow.pyfunc.PyFuncModel):
        raise UsageError(f"{_WANTED}; got {'no model' if model is None else type(model).__name__}")
    metadata = model.metadata
    if not metadata.flavors.keys() & {"onnx", "pytorch"}:
        raise UsageError(f"{_WANTED}; got one of {', '.join(sorted(metadata.flavors))}")
    if metadata.model_id is None and metadata.run_id is None:
        raise UsageError(f"{_WANTED}; got one that lies in a folder only")
    return str(metadata.get_model_info().model_uri)


def _network(model: PyFuncModel, uri: str, folder: str) -> Path | nn.Module:
    """Return the file of an ONNX or an exported model, downloaded to `folder`, or the network that MLflow unpickled.

    auditkit unpickles nothing here: MLflow has done so before it asks any evaluator.
    """
    flavors = model.metadata.flavors
    here = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
    if "onnx" in flavors:
        return here / str(flavors["onnx"]["data"])
    exported = here / str(flavors["pytorch"]["model_data"]) / "model.pt2"
    if exported.is_file():
        return exported
    try:
        network: nn.Module = model.get_raw_model()
    except NotImplementedError:
        raise UsageError(f"{_WANTED}; a pickled one in this environment only, with env_manager='local'") from None
    return network


def _stated_shape(model: PyFuncModel) -> tuple[int, ...] | None:
    """Return the shape of one image as the signature of the model states it, None where it does not."""
    schema = model.metadata.get_input_schema()
    if schema is None or not schema.is_tensor_spec() or len(schema.inputs) != 1:
        return None
    shape = tuple(schema.inputs[0].shape[1:])
    return shape if shape and -1 not in shape else None


def _images(rows: Any, shape: Sequence[int] | None) -> npt.NDArray[Any]:
    """Return images (N, *shape) from rows of pixels (N, pixels): MLflow takes no other arrays.

    Raises:
        UsageError: the shape of an image is unknown, or is not that of a row.
    """
    if not isinstance(shape, list | tuple) or not all(isinstance(side, int) for side in shape):
        got = "the model's signature does not tell" if shape is None else f"got {shape!r}"
        raise UsageError(f"image_shape is the shape of one image, such as [3, 32, 32], in evaluator_config; {got}")
    pixels = np.asarray(rows)
    wanted = math.prod(shape)
    if pixels.dtype.kind not in "fu" or pixels.ndim != 2 or pixels.shape[1] != wanted:
        raise UsageError(
            f"auditkit wants rows of {wanted} pixels (image_shape {tuple(shape)}), uint8 or floats in [0, 1]; "
            f"got {pixels.dtype} {pixels.shape}"
        )
    return pixels.reshape(len(pixels), *shape)


def _artifacts(folder: str, prefix: str) -> dict[str, Any]:
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact, TextEvaluationArtifact

    return {
        f"{prefix}/report": TextEvaluationArtifact(f"{folder}/report.html"),
        f"{prefix}/result": JsonEvaluationArtifact(f"{folder}/result.json"),
    }
