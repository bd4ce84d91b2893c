"""Records of checks that explain and profile: overlays, tables, profiles and curves of hits over false alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.result import (
    CheckRecord,
    CurveRecord,
    ExhibitRecord,
    PanelRecord,
    PointRecord,
    ProfileRecord,
    TableRecord,
)
from auditkit.separation import auroc, roc
from auditkit.stats import Estimate, mean, proportion

Arrays = dict[str, npt.NDArray[Any]]

SIGNS = ("stop", "yield", "no entry", "priority road", "roundabout", "ahead only", "keep right", "keep left")
SIGNS += tuple(f"speed limit {speed}" for speed in (20, 30, 50, 60, 70, 80, 100, 120))


def check(key: str, title: str, why: str, **more: Any) -> CheckRecord:
    return CheckRecord(
        key=key,
        id=key,
        version=1,
        title=title,
        why=why,
        distribution="auditkit 0.1.0",
        references=("Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901",),
        status="done",
        options={"window": 8, "stride": 4},
        seconds=2.5,
        **more,
    )


def by_class() -> TableRecord:
    """Sixteen classes, the worst first, each with a share, and a mean that the third class lacks."""
    rng = np.random.default_rng(1)
    rows = [
        (name, 30 + at, proportion(2 * at, 30 + at), mean(rng.normal(1 + at / 9, 0.3, 30)) if at != 2 else None)
        for at, name in enumerate(SIGNS)
    ]
    return TableRecord(
        title="Class by class, the worst first",
        columns=("class", "images", "Strongest point inside the sign", "Saliency inside the sign, against its area"),
        rows=tuple(rows),
    )


def overlay_exhibit(arrays: Arrays, key: str, image: npt.NDArray[Any], maps: Arrays) -> ExhibitRecord:
    """An image (H, W, C) in [0, 1], and maps (H, W) that are laid over it."""
    panels = {"image": ("image", np.uint8(np.rint(image * 255)))}
    for title, heat in maps.items():
        panels[title] = ("overlay", np.concatenate([image, heat[..., None]], axis=2).astype(np.float32))
    arrays.update({f"{key}/{title}": array for title, (_, array) in panels.items()})
    return ExhibitRecord(
        sample=f"signs/stop/{key}.png",
        caption="stop is taken for yield with 93.1 % confidence",
        score=0.9,
        panels=tuple(
            PanelRecord(title=title, kind=kind, array=f"{key}/{title}")  # type: ignore[arg-type]
            for title, (kind, _) in panels.items()
        ),
    )


def explained(arrays: Arrays) -> CheckRecord:
    """A check with overlays, on one sample in colour and one in grey, and a table class by class."""
    y, x = np.mgrid[0:32, 0:32] / 31
    disc = ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.14)[..., None]
    colour = np.where(disc, [0.8, 0.12, 0.1], np.stack([0.4 + 0.3 * y, 0.5 + 0.2 * y, 0.8 - 0.3 * y], axis=2))
    middle = 0.03 * np.exp(-((x - 0.5) ** 2 + (y - 0.45) ** 2) * 18)
    corner = 0.09 * (np.maximum(x, y) < 0.2)
    rows = (
        overlay_exhibit(arrays, "00001", colour, {"clean: stop": middle, "attacked: yield": corner}),
        overlay_exhibit(arrays, "00002", colour.mean(2, keepdims=True), {"occlusion": middle, "nothing": 0 * middle}),
    )
    return check(
        "explain.reasons",
        "Is right for the right reasons",
        "A model that reads the corner of the image instead of the sign fails as soon as the corner changes.",
        metrics={"inside": proportion(412, 600)},
        metric_titles={"inside": "Strongest point inside the sign"},
        tables=(by_class(),),
        exhibits=rows,
    )


def layers(count: int) -> tuple[str, ...]:
    return ("conv1.relu", *(f"layer{1 + at // 6}.{at // 2 % 3}.relu{1 + at % 2}" for at in range(count - 1)))


def profile(count: int, *, logarithmic: bool) -> ProfileRecord:
    """A profile that has gaps, a value between two gaps, and zeros."""
    at = np.arange(count)
    clean: list[float | None] = (3 + 2 * np.sin(at / 5) + at / count * 4).tolist()
    attacked: list[float | None] = ((3 + 2 * np.sin(at / 5)) * (1 + (at / count) ** 3 * 60)).tolist()
    clean[4], attacked[3], attacked[5] = 0.0, None, None
    return ProfileRecord(
        title="Largest activation, layer by layer",
        x_label="layers, from input to output",
        y_label="largest activation",
        places=layers(count),
        lines={"clean images": tuple(clean), "attacked images": tuple(attacked)},
        logarithmic=logarithmic,
    )


def profiled() -> CheckRecord:
    """A check with a short and a long profile, and a table of mixed cells."""
    rows: list[tuple[str | int | float | Estimate | None, ...]] = [
        ("layer3.2.relu2", 3, 0.123456, "signs/stop/00012.png"),
        ("conv1.relu", 1234567, 12345.678, None),
        ("fc", None, None, "none"),
    ]
    return check(
        "profile.activations",
        "No neuron shouts over the others",
        "A few over-represented activations decide for the others, and make the network fragile.",
        metrics={"top_share": mean(np.random.default_rng(0).normal(0.31, 0.05, 600))},
        metric_titles={"top_share": "Share of the total that the ten loudest neurons carry"},
        profiles=(profile(19, logarithmic=False), profile(150, logarithmic=True)),
        tables=(
            TableRecord(title="The loudest neurons", columns=("layer", "unit", "excess", "image"), rows=tuple(rows)),
        ),
    )


def separated() -> CheckRecord:
    """A check with three curves of hits over false alarms in one figure, and one in a figure of its own."""
    rng = np.random.default_rng(2)
    clean = rng.normal(0, 1, 400)
    groups = {name: rng.normal(shift, 1, 300) for name, shift in (("softmax", 1.0), ("energy", 2.0), ("norm", 0.2))}
    curves = [
        CurveRecord(
            metric=f"auroc_{name}",
            title=f"Hits over false alarms: {name}",
            x_label="false alarms",
            y_label=f"auroc {name}",
            points=tuple(
                PointRecord(x=share, label=f"{100 * share:.3g} %", estimate=hits) for share, hits in roc(scores, clean)
            ),
            roc=True,
            figure="Other images noticed" if name != "norm" else None,
            line=name,
        )
        for name, scores in [*groups.items(), ("max-logit", groups["energy"] - 0.6)]
    ]
    return check(
        "profile.ood",
        "Notices images unlike those it learned",
        "A network trained on signs gives an answer for every image, also for a cat.",
        metrics={f"auroc_{name}": auroc(scores, clean) for name, scores in groups.items()},
        metric_titles={f"auroc_{name}": f"AUROC of {name}" for name in groups},
        curves=tuple(curves),
    )
