"""A result such as an audit of a detector gives, made without a detector: boxes of every tone, precision, vanishing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from understanding import check

from auditkit.gate import judge
from auditkit.requirements import parse_gate
from auditkit.result import (
    CheckRecord,
    CurveRecord,
    ExhibitRecord,
    MarkRecord,
    ModelRecord,
    PanelRecord,
    PointRecord,
    Result,
    SamplesRecord,
    Verdict,
)
from auditkit.stats import Estimate

Arrays = dict[str, npt.NDArray[Any]]

SIDE = 352
AREAS = {"0.025": 0.025, "0.1": 0.1}
BUDGETS = {"2/255": 2 / 255, "8/255": 8 / 255}
SEVERITIES = {"1": 1.0, "5": 5.0}


def precision(value: float, half: float = 0.06, n: int = 32) -> Estimate:
    """An average precision, or a loss of it where it is negative."""
    low, high = max(value - half, 0 if value >= 0 else -1), min(value + half, 1)
    return Estimate(value=value, low=low, high=high, n=n, method="bootstrap over images (BCa)")


def objects(value: float, half: float = 0.06, n: int = 104) -> Estimate:
    """A share of objects."""
    low, high = max(value - half, 0), min(value + half, 1)
    return Estimate(value=value, low=low, high=high, n=n, method="Korn-Graubard (objects grouped by image)")


def mark(tone: str, text: str, left: float, top: float, width: float = 0.25, height: float = 0.3) -> MarkRecord:
    """A box of a size."""
    return MarkRecord(left=left, top=top, right=left + width, bottom=top + height, text=text, tone=tone)  # type: ignore[arg-type]


CLEAN = (mark("object", "dog", 0.05, 0.1), mark("found", "cat 91%", 0.4, 0.2), mark("wrong", "kite 52%", 0.7, 0.6))
ATTACKED = (mark("patch", "patch", 0.05, 0.6), mark("lost", "cat", 0.4, 0.2), mark("wrong", "kite 52%", 0.7, 0.6))


def rows(key: str, arrays: Arrays, count: int = 2) -> tuple[ExhibitRecord, ...]:
    """Images before and after, with boxes, and the patch without."""
    made = []
    for number in range(count):
        y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
        image = np.stack([x, y, np.full_like(x, 0.3 + number / 10)], axis=2)
        pictures = {"clean": image, "attacked": image[::-1], "the patch": image[:64, :64]}
        names = {title: f"{key}/{number}/{title}" for title in pictures}
        arrays.update({names[title]: np.uint8(255 * picture) for title, picture in pictures.items()})
        boxes = {"clean": CLEAN, "attacked": ATTACKED, "the patch": ()}
        panels = tuple(PanelRecord(title=t, kind="image", array=names[t], marks=boxes[t]) for t in pictures)
        caption = f"cat vanishes, image {number}"
        made.append(ExhibitRecord(sample=f"{number:012d}.jpg", caption=caption, score=1 - number / 9, panels=panels))
    return tuple(made)


def over(metric: str, estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """A metric at each budget, and that of the largest under its plain name."""
    return {f"{metric}@{budget}": one for budget, one in estimates.items()} | {metric: [*estimates.values()][-1]}


def line(metric: str, x_label: str, places: dict[str, float], found: dict[str, Estimate], **more: Any) -> CurveRecord:
    points = tuple(PointRecord(x=places[label], label=label, estimate=one) for label, one in found.items())
    return CurveRecord(metric=metric, title=metric, x_label=x_label, y_label="Precision", points=points, **more)


def each(places: dict[str, float], first: Estimate, last: Estimate) -> dict[str, Estimate]:
    return dict(zip(places, (first, last), strict=True))


def clean_check() -> CheckRecord:
    metrics = {"ap50": precision(0.4), "ap": precision(0.25), "found_rate": objects(0.45, n=220)}
    return check("samples.precision", "The detector finds the objects", "It should.", metrics=metrics)


def dpatch(arrays: Arrays, pattern: float = 0.1, noise: float = 0.3, plain: float = 0.35) -> CheckRecord:
    """A patch in the picture, beside noise and a plain patch of the same size."""
    values = {"": pattern, "noise_": noise, "plain_": plain}
    found = {name: each(AREAS, precision(0.38), precision(value)) for name, value in values.items()}
    metrics = {"clean_ap50": precision(0.41)}
    for name, estimates in found.items():
        metrics |= over(f"{name}ap50", estimates)
    metrics["ap50_drop"] = precision(-0.02)
    curves = tuple(
        line(f"{name}ap50", "share of the picture", AREAS, estimates, figure="Over area", line=name or "patch")
        for name, estimates in found.items()
    )
    return check(
        "patch.dpatch",
        "A patch takes nothing",
        "Whoever holds it up decides.",
        metrics=metrics,
        curves=curves,
        exhibits=rows("patch.dpatch", arrays),
    )


def vanish(pattern: float = 0.7, noise: float = 0.15, plain: float = 0.1) -> CheckRecord:
    """A patch on objects."""
    metrics: dict[str, Estimate] = {}
    for name, value in {"": pattern, "noise_": noise, "plain_": plain}.items():
        metrics |= over(f"{name}vanish_rate", each(AREAS, objects(0.07), objects(value)))
    metrics |= {"clean_ap50": precision(0.4)} | over("ap50", each(AREAS, precision(0.39), precision(0.08)))
    return check("patch.vanish", "Objects stay", "They should.", metrics=metrics)


def pgd() -> CheckRecord:
    found = each(BUDGETS, precision(0.15), precision(0.02))
    metrics = {"clean_ap50": precision(0.4)} | over("ap50", found)
    metrics |= over("vanish_rate", each(BUDGETS, objects(0.5), objects(0.98)))
    return check(
        "noise.pgd",
        "It withstands noise",
        "It should.",
        norm="linf",
        threat_model="White box: knows the weights.",
        metrics=metrics,
        curves=(line("ap50", "L-inf budget", BUDGETS, found),),
    )


def corruptions() -> CheckRecord:
    found = each(SEVERITIES, precision(0.36), precision(0.11))
    return check(
        "noise.corruptions",
        "It withstands rain",
        "It should.",
        metrics={"clean_ap50": precision(0.4)} | over("ap50", found),
        curves=(line("ap50", "severity", SEVERITIES, found),),
    )


GATES = ("patch.dpatch/ap50 >= 0.2", "samples.precision/ap50 >= 0.2", "patch.vanish/vanish_rate <= 0.6")


def detector_audit(arrays: Arrays) -> Result:
    """Five checks and three gates of a detector; its arrays are added to `arrays`."""
    found = Result(
        model=ModelRecord(
            name="finder.onnx",
            format="onnx",
            digest="5d2a64d1a8b07e35" * 4,
            task="detection",
            classes=80,
            input="3x352x352",
            provider="CPUExecutionProvider",
            gradients="a torch twin",
            search_copy="float32",
            preprocessing={"mean": None, "box_units": "shares", "suppression": 0.45},
        ),
        samples=SamplesRecord(
            source="data/street",
            n=32,
            skipped={},
            fingerprint="4be1c0ffee" * 4,
            shape=(3, SIDE, SIDE),
            class_names=("cat", "dog", "kite"),
        ),
        verdict=Verdict.NONE,
        gates=(),
        checks=(clean_check(), dpatch(arrays), vanish(), pgd(), corruptions()),
        flags=(),
        notes=(),
        settings={"seed": 0, "preset": "standard", "confidence": 0.95},
        volatile={"date": "2026-11-22T09:14:03Z", "versions": {"auditkit": "0.1.0"}},
    )
    return judge(found, [parse_gate(text) for text in GATES])
