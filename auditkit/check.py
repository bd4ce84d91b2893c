"""The plugin contract: what a check declares (`Spec`), what it gets (`Context`), what it returns (`Findings`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from auditkit.context import Context
    from auditkit.models.base import Capability
    from auditkit.precision import Matches
    from auditkit.samples import Samples

__all__ = [
    "OUTSIDE",
    "Check",
    "Conclusion",
    "Curve",
    "Exhibit",
    "Findings",
    "Finished",
    "FlagRule",
    "Grid",
    "Learner",
    "Lesson",
    "Map",
    "Mark",
    "Metric",
    "Panel",
    "Profile",
    "ProfileLine",
    "Spec",
    "Summarising",
    "Table",
    "Tally",
]


@dataclass(frozen=True)
class Metric:
    """How a per-sample column (or numbers about other images, `Findings.others`) becomes one number with an interval.

    A column may carry a budget behind an `@` (`robust@2/255`); the metric then exists once a budget
    (`robust_accuracy@2/255`), and its plain name stands for the largest one.

    Kinds that tell two groups apart by a score (the larger, the more suspicious) compare `column`, the group that
    should be noticed, with `against`, the group that should not: `auroc` is the chance that a score of the first lies
    above one of the second, `tpr` the share of the first beyond the threshold that the share `at` of the second lies
    beyond, and `fpr` the share of the second beyond the threshold that the share `at` of the first lies beyond. NaN
    counts in neither group; either name may be one of `Findings.others`.

    Kinds for detectors of objects: `ratio` is the sum of `column` over that of `against`, both counts of objects an
    image. `precision` is the average precision of `Findings.matches[column]` at the overlap `at` (mean over ten
    overlaps where it is None) or, with `against`, what is lost of that of `Findings.matches[against]`.
    """

    name: str
    column: str
    title: str
    kind: Literal["proportion", "mean", "median", "auroc", "tpr", "fpr", "ratio", "precision"] = "proportion"
    among: str | None = None
    """A boolean column: only its samples count (the denominator). None: all samples. Not for two groups."""
    against: str | None = None
    """The group to compare with, for the kinds that tell two groups apart; the counts to divide by, for `ratio`; the
    matches before, for a loss of `precision`."""
    at: float | None = None
    """The false alarms allowed (`tpr`), or the share that must be noticed (`fpr`), or the overlap (`precision`)."""

    def __post_init__(self) -> None:
        """Refuse a comparison without its second group, and the like: a slip of the author of a check."""
        two_groups = self.kind in ("auroc", "tpr", "fpr")
        if self.kind in ("ratio", "precision"):
            if self.among is not None or (self.kind == "ratio" and self.against is None):
                raise ValueError(f"metric {self.name}: a ratio has against, and neither it nor a precision has among")
            return
        if two_groups != (self.against is not None) or (two_groups and self.among is not None):
            wanted = "names two groups, and no among" if two_groups else "has one group, and no against"
            raise ValueError(f"metric {self.name}: a metric of kind {self.kind} {wanted}")
        if (self.kind in ("tpr", "fpr")) != (self.at is not None):
            raise ValueError(f"metric {self.name}: `at` goes with the kinds tpr and fpr, and they need it")


@dataclass(frozen=True)
class Curve:
    """A figure: a metric over the budgets that its columns carry, or the share of samples beyond each value of one.

    With `against`, it is the receiver operating characteristic of two groups, which a metric of kind `auroc` compares.
    """

    metric: str
    title: str
    x_label: str
    column: str | None = None
    """A column of numbers: the curve then is the share of all samples that are true in `among` and lie beyond x in this
    column, over about 25 values of x. NaN lies beyond every x. It may be one of `Findings.others`."""
    among: str | None = None
    """A boolean column, for a curve with a `column`. None: every sample counts as true."""
    against: str | None = None
    """The group that should not be noticed; `column` then names the one that should, see `Metric`."""
    figure: str | None = None
    """Title of a figure that it shares with the other curves of the check that name it. None: it has its own."""
    line: str = ""
    """What its line is called in a shared figure."""
    unattacked: str = "clean_accuracy"
    """The metric that a curve over budgets has at zero, where there is one of that name."""


@dataclass(frozen=True)
class Map:
    """A picture of where in the image something lies, over all samples: two columns of numbers, NaN where nowhere."""

    title: str
    row: str
    column: str


@dataclass(frozen=True)
class FlagRule:
    """A flag that is raised when a metric's value lies beyond a threshold, with its meaning and its remedy."""

    id: str
    metric: str
    above: float
    text: str
    remedy: str
    each_class: bool = False
    """Whether it is raised for single classes: where the whole interval of the metric, which is one of those of
    `by_class`, lies beyond the threshold. Its text is followed by the names of these classes."""
    doubts: frozenset[Capability] = frozenset()
    """While the flag is up, a check that needs one of these proves no robustness: its requirements cannot pass."""


@dataclass(frozen=True)
class Grid:
    """A table of metrics in place of a long list: `ROW_COLUMN` is the name of the one in a cell.

    Rows and columns are given by their part of the name, with what to call them.
    """

    title: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, row by row."""
        return tuple(f"{row}_{column}" for row in self.rows for column in self.columns)


Lesson = Mapping[str, npt.NDArray[Any]]
"""What a check learned from images: named arrays of numbers or texts, kept with the audit's units."""


@dataclass(frozen=True)
class Spec:
    """What a check says about itself."""

    id: str
    title: str
    """A claim that holds when the model does well."""
    why: str
    """Why it matters: a paragraph for the reader of the report."""
    metrics: tuple[Metric, ...]
    needs: frozenset[Capability] = frozenset()
    scope: Literal["sample", "dataset", "calibrated", "outside"] = "sample"
    """Whether the check learns something first (see `Learner`), and from what. `dataset`: from about half of the
    images, and is judged on the others. `calibrated`: from a few of them, spread evenly, and is judged on all.
    `outside`: from the images of a second data set (`--ood`), without which it is skipped."""
    reads: tuple[str, ...] = ()
    """Patterns of the checks whose columns it reads; it runs after them, and finds them in `ctx.finished`."""
    curves: tuple[Curve, ...] = ()
    maps: tuple[Map, ...] = ()
    by_class: tuple[str, ...] = ()
    """Names of metrics that a table shows class by class, the worst class by the first of them on top."""
    worst: Literal["least", "largest"] = "least"
    """Which values of the first metric of `by_class` are the worst."""
    grids: tuple[Grid, ...] = ()
    """Metrics that the report shows as tables."""
    flags: tuple[FlagRule, ...] = ()
    references: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The presets that run this check (`smoke`, `standard`, `full`), each with the options it sets there."""
    version: int = 1
    """Raised when the findings change for the same input."""


@dataclass(frozen=True)
class Mark:
    """A box drawn on a picture: its edges as shares of the picture's width and height, and what stands beside it.

    tone `object`: what somebody annotated. `found`: what a detector reports rightly. `wrong`: what it reports, and is
    not there. `lost`: what it no longer reports. `patch`: what was put there.
    """

    left: float
    top: float
    right: float
    bottom: float
    text: str
    tone: Literal["object", "found", "wrong", "lost", "patch"]


@dataclass(frozen=True)
class Panel:
    """One picture of an exhibit.

    kind `image`: uint8 (H, W, C). kind `difference`: float32 (H, W, C), attacked minus clean, in [-1, 1].
    kind `heat`: float32 (H, W), not negative, any scale. kind `overlay`: float32 (H, W, C + 1), an image in [0, 1] and,
    as its last channel, the heat to lay over it.
    """

    title: str
    kind: Literal["image", "difference", "heat", "overlay"]
    array: npt.NDArray[Any]
    marks: tuple[Mark, ...] = ()


OUTSIDE = "ood: "
"""What stands before the id of an image that is no sample, but one of the second data set (`--ood`)."""


@dataclass(frozen=True)
class Exhibit:
    """One sample for the gallery; the exhibits with the largest `score` (then smallest id) are kept."""

    sample: str
    """Its id; of an image of the second data set, the id behind `OUTSIDE`."""
    caption: str
    score: float
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Tally:
    """An array about many samples at once, and how those of several shards become one: element by element."""

    array: npt.NDArray[Any]
    combine: Literal["sum", "largest", "least"] = "sum"


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers (None: an empty cell) under the names of the columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


@dataclass(frozen=True)
class ProfileLine:
    """One line of a profile: a value for each place, None where there is none."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Profile:
    """A figure of values along a sequence of named places, such as the layers of a network from input to output."""

    title: str
    x_label: str
    y_label: str
    places: tuple[str, ...]
    lines: tuple[ProfileLine, ...]
    logarithmic: bool = False


@dataclass(frozen=True)
class Conclusion:
    """What the tallies of all shards together show."""

    tables: tuple[Table, ...] = ()
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What a check found on N samples: data only, never markup.

    Columns are (N,) arrays aligned with the samples: bool for shares, int or float for means and medians. They are
    finite, except that a float column may be NaN where the `among` column of its metric is false.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    exhibits: tuple[Exhibit, ...] = ()
    forwards: npt.NDArray[np.int64] | None = None
    """(N,) forward passes spent on each sample; None: the check did not count."""
    backwards: npt.NDArray[np.int64] | None = None
    attacked: npt.NDArray[np.uint16] | None = None
    """(F, C, H, W), the attacked images of the F samples that are true in column `found`, 65535 being white: for checks
    that read this one. None: the check attacks nothing."""
    others: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """(M,) numbers about other images than these samples, such as those of `--ood`: the same in every shard."""
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    """What only all samples together show; see `Summarising`."""
    matches: Mapping[str, Matches] = field(default_factory=dict)
    """How detections fared against the annotated objects, under names that metrics of kind `precision` use."""


class Check(Protocol):
    """A check: one frozen dataclass whose fields are its options, one `spec`, one method.

    What it is given as `model` is a `Model`, or a `Detector` where it is announced as a check of detectors.
    """

    spec: ClassVar[Spec]

    def run(self, model: Any, samples: Samples, ctx: Context) -> Findings:
        """Look at `samples` (images in [0, 1]) and return one row of findings a sample."""
        ...


class Learner(Check, Protocol):
    """A check that learns from some images first; its scope says from which, and which `run` sees."""

    def learn(self, model: Any, samples: Samples, ctx: Context) -> Lesson:
        """Return what the images `samples` teach; `run` finds it in `ctx.lesson`.

        With the scope `outside` it is called for one shard of the second data set after the other: `ctx.lesson` then
        holds what it returned for the shards before, and it returns what all of them teach.
        """
        ...


class Summarising(Check, Protocol):
    """A check with tallies: it says what they show once those of all shards are one."""

    def conclude(self, tallies: Mapping[str, npt.NDArray[Any]]) -> Conclusion:
        """Return tables and figures of the merged tallies."""
        ...


@dataclass(frozen=True)
class Finished:
    """A check that ran before, and what it found on the same samples."""

    check: Check
    columns: Mapping[str, npt.NDArray[Any]]
    attacked: npt.NDArray[np.uint16] | None = None
    """As in `Findings`."""
