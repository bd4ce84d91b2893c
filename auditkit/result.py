"""The stored result of an audit: frozen data, strict JSON, the one thing that gate and report read."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from auditkit.requirements import Bound, Change, Level, Waiver
from auditkit.stats import Estimate

__all__ = [
    "SCHEMA",
    "CheckRecord",
    "ColumnRecord",
    "CurveRecord",
    "ExhibitRecord",
    "FlagRecord",
    "GateRecord",
    "MarkRecord",
    "ModelRecord",
    "NoteRecord",
    "PanelRecord",
    "PointRecord",
    "ProfileRecord",
    "Result",
    "SamplesRecord",
    "TableRecord",
    "Verdict",
]

SCHEMA = 1


class Verdict(StrEnum):
    """What a gate, or all gates together, say; NONE means that nothing was required.

    WARN and WAIVED are requirements that are not met, and do not count: by their level, or by somebody's decision.
    """

    PASS = "pass"  # noqa: S105 (a verdict, not a password)
    WARN = "warn"
    WAIVED = "waived"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    MISSING = "missing"
    NONE = "none"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelRecord(_Record):
    """What was audited."""

    name: str
    format: str = Field(description="torchscript, torch.export, torch, onnx ...")
    digest: str = Field(description="sha256 of the model's file or files, or of its weights")
    task: Literal["classification", "detection"] = Field(
        default="classification", description="what it does: name the class of an image, or find objects in it"
    )
    classes: int
    input: str = Field(description="what the network takes, in words")
    provider: str = Field(description="what computed the verdicts: torch or an onnxruntime execution provider")
    gradients: str = Field(description="where gradients came from, or why there are none")
    search_copy: str = Field(description="the copy that attacks searched with; verdicts never come from it")
    preprocessing: dict[str, Any]


class SamplesRecord(_Record):
    """The labelled images of the audit."""

    source: str
    n: int
    of: int | None = Field(default=None, description="how many the data set holds; `n` of them were used")
    skipped: dict[str, str] = Field(description="images that could not be used, with the reason")
    fingerprint: str
    shape: tuple[int, int, int] = Field(description="channels, height, width")
    class_names: tuple[str, ...] | None
    outside: str | None = Field(default=None, description="the second data set (--ood), of images unlike these")


class PointRecord(_Record):
    """One point of a curve."""

    x: float
    label: str
    estimate: Estimate


class CurveRecord(_Record):
    """A metric over a budget (or hits over false alarms), ready to be drawn."""

    metric: str
    title: str
    x_label: str
    y_label: str
    points: tuple[PointRecord, ...]
    roc: bool = Field(default=False, description="whether x is a share of false alarms, and the estimates are hits")
    figure: str | None = Field(default=None, description="title of a figure that several curves of a check share")
    line: str = Field(default="", description="what the line is called there")


class MarkRecord(_Record):
    """A box drawn on a picture, its edges as shares of the picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float
    text: str
    tone: Literal["object", "found", "wrong", "lost", "patch"]


class PanelRecord(_Record):
    """One picture of an exhibit; `array` is its key in `exhibits.npz`.

    kind `image`: uint8 (H, W, C), RGB or grey. kind `difference`: float32 (H, W, C), attacked minus clean, in
    [-1, 1]. kind `heat`: float32 (H, W), not negative, any scale. kind `overlay`: float32 (H, W, C + 1), an image in
    [0, 1] and the heat to lay over it.
    """

    title: str
    kind: Literal["image", "difference", "heat", "overlay"]
    array: str
    marks: tuple[MarkRecord, ...] = ()


class TableRecord(_Record):
    """A table; a cell is text, a number, an estimate, or empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | Estimate | None, ...], ...]


class ProfileRecord(_Record):
    """Values along a sequence of places, such as the layers of a network: one tuple of values a line."""

    title: str
    x_label: str
    y_label: str
    places: tuple[str, ...]
    lines: dict[str, tuple[float | None, ...]]
    logarithmic: bool = False


class ExhibitRecord(_Record):
    """One sample in a check's gallery."""

    sample: str
    caption: str
    score: float
    panels: tuple[PanelRecord, ...]


class ColumnRecord(_Record):
    """Where in `samples.npz` a metric's values lie, one an image: `CHECK/column`, counted where `among` is true."""

    column: str
    among: str | None
    kind: Literal["share", "mean", "median"]


class CheckRecord(_Record):
    """What one check found, or why it found nothing."""

    key: str
    id: str
    version: int
    title: str = Field(description="a claim that holds when the model does well")
    why: str
    distribution: str = Field(description="the installed package that the check came from, with its version")
    references: tuple[str, ...]
    needs: tuple[str, ...] = Field(default=(), description="what it needs of the model, such as gradients")
    status: Literal["done", "skipped", "failed"]
    reason: str | None = None
    options: dict[str, Any]
    threat_model: str | None = None
    norm: str | None = Field(default=None, description="how budgets are measured: linf, l2 ...; null where none are")
    metrics: dict[str, Estimate] = {}
    metric_titles: dict[str, str] = {}
    metric_columns: dict[str, ColumnRecord] = Field(default={}, description="of the metrics that have a value an image")
    curves: tuple[CurveRecord, ...] = ()
    tables: tuple[TableRecord, ...] = ()
    tabulated: tuple[str, ...] = Field(default=(), description="metrics that stand in `tables`, too")
    profiles: tuple[ProfileRecord, ...] = ()
    exhibits: tuple[ExhibitRecord, ...] = ()
    queries: dict[str, float] = Field(default={}, description="mean forward and backward passes per sample")
    seconds: float = 0.0


class GateRecord(_Record):
    """One requirement and how it ended."""

    metric: str
    change: Change | None = Field(default=None, description="what is judged is how far the metric fell or rose")
    bound: Bound
    threshold: float
    threshold_text: str
    level: Level = "error"
    waiver: Waiver | None = None
    verdict: Verdict
    measured: Verdict = Field(description="the verdict that the numbers alone give, before level and waiver")
    estimate: Estimate | None
    text: str = Field(description="what was found, in one sentence")
    note: str | None = Field(default=None, description="what level and waiver make of it")


class FlagRecord(_Record):
    """A reason to doubt or read a finding with care: what it means, and what to do."""

    id: str
    check: str
    text: str
    remedy: str
    doubts: tuple[str, ...] = Field(
        default=(), description="what is in doubt: a check that needs it (see `needs`) cannot meet a requirement"
    )


class NoteRecord(_Record):
    """What the preflight noticed about the model and its images."""

    id: str
    level: Literal["info", "warning"]
    text: str
    remedy: str


class Result(_Record):
    """Everything that an audit found; what gate and report read.

    Two audits of the same model, samples, checks, options and seed differ only in `volatile` and in `seconds`.
    """

    schema_version: int = Field(default=SCHEMA, alias="schema", serialization_alias="schema")
    model: ModelRecord
    samples: SamplesRecord
    verdict: Verdict
    gates: tuple[GateRecord, ...]
    checks: tuple[CheckRecord, ...]
    flags: tuple[FlagRecord, ...]
    notes: tuple[NoteRecord, ...]
    settings: dict[str, Any] = Field(description="seed, presets, confidence: what, with the options, fixes the result")
    disclaimer: str | None = Field(default=None, description="a sentence that the report must show on top")
    volatile: dict[str, Any] = Field(description="dates, machine, versions, command, seconds")

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    def check(self, key: str) -> CheckRecord | None:
        """Return the record of the check with this key, None where there is none."""
        return next((check for check in self.checks if check.key == key), None)

    def to_json(self) -> str:
        """Return the result as strict, stable JSON text."""
        data = self.model_dump(mode="json", by_alias=True)
        return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
