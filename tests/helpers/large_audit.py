"""A result of ten thousand images with all kinds of records, as large as audits get, made without a model."""

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
    ModelRecord,
    NoteRecord,
    PanelRecord,
    PointRecord,
    ProfileRecord,
    Result,
    SamplesRecord,
    TableRecord,
    Verdict,
)
from auditkit.stats import mean, proportion

Arrays = dict[str, npt.NDArray[Any]]

IMAGES, CLASSES, SIDE, ROWS = 10_000, 1000, 224, 8
ATTACKS, MAPS, PROFILES, CURVES = 14, 9, 6, 6
BUDGETS = {"0.5/255": 0.5, "1/255": 1.0, "2/255": 2.0, "4/255": 4.0, "8/255": 8.0, "16/255": 16.0}
CLASS_NAMES = tuple(f"class {number:04d}, a kind of thing" for number in range(CLASSES))


def large_audit() -> tuple[Result, Arrays]:
    """Return 35 checks on 10,000 images of 224 x 224 in 1000 classes, and the arrays of 280 exhibits."""
    arrays: Arrays = {}
    rng = np.random.default_rng(0)
    photograph = _photograph(rng)
    checks = (
        *(_attack(number, photograph, rng, arrays) for number in range(ATTACKS)),
        *(_explained(number, photograph, rng, arrays) for number in range(MAPS)),
        *(_profiled(number, photograph, rng, arrays) for number in range(PROFILES)),
        *(_separated(number, photograph, rng, arrays) for number in range(CURVES)),
    )
    result = Result(
        model=ModelRecord(
            name="resnet50.onnx",
            format="onnx",
            digest="9f2c64d1a8b07e35" * 4,
            classes=CLASSES,
            input="RGB in [0, 1], 224 x 224",
            provider="onnxruntime CPUExecutionProvider",
            gradients="a torch twin of the ONNX graph",
            search_copy="bfloat16, channels last",
            preprocessing={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        ),
        samples=SamplesRecord(
            source="data/validation",
            n=IMAGES,
            skipped={f"class/{number:05d}.jpg": "truncated file" for number in range(200)},
            fingerprint="4be1c0ffee" * 4,
            shape=(3, SIDE, SIDE),
            class_names=CLASS_NAMES,
        ),
        verdict=Verdict.NONE,
        gates=(),
        checks=checks,
        flags=(),
        notes=tuple(NoteRecord(id=f"note.{n}", level="warning", text="It matters.", remedy="Look.") for n in range(5)),
        settings={"seed": 0, "preset": "full", "confidence": 0.95},
        volatile={"date": "2026-11-22T09:14:03Z", "versions": {"auditkit": "0.1.0"}},
    )
    gates = [parse_gate(f"noise.attack{number}/robust_accuracy@2/255 >= 0.5") for number in range(ATTACKS)]
    return judge(result, gates), arrays


def _photograph(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return an image (H, W, 3) that compresses about as badly as photographs do."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    smooth = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x * y)], axis=2)
    return np.uint8(np.clip(255 * (0.7 * smooth + 0.1) + rng.normal(0, 8, (SIDE, SIDE, 3)), 0, 255))


def _exhibits(
    key: str, kinds: dict[str, str], photograph: npt.NDArray[np.uint8], rng: np.random.Generator, arrays: Arrays
) -> tuple[ExhibitRecord, ...]:
    made = []
    for number in range(ROWS):
        image = np.roll(photograph, 17 * number, axis=1)
        heat = rng.uniform(0, 1, (SIDE // 8, SIDE // 8)).repeat(8, 0).repeat(8, 1)
        contents = {
            "image": image,
            "difference": np.float32(rng.choice([-8, 8], image.shape) / 255),
            "heat": np.float32(heat),
            "overlay": np.concatenate([image / 255, heat[:, :, None]], axis=2).astype(np.float32),
        }
        panels = []
        for title, kind in kinds.items():
            name = f"{key}/{number}/{title}"
            arrays[name] = contents[kind]
            panels.append(PanelRecord(title=title, kind=kind, array=name))  # type: ignore[arg-type]
        caption = f"{CLASS_NAMES[number]} is taken for {CLASS_NAMES[-number - 1]} with 99.1% confidence"
        made.append(ExhibitRecord(sample=f"{key}/{number:05d}.jpg", caption=caption, score=1.0, panels=tuple(panels)))
    return tuple(made)


def _table(title: str) -> TableRecord:
    """Return a table of a thousand classes, two estimates each."""
    rows = tuple(
        (name, 10, proportion(at % 11, 10), mean(np.array([at, at + 1.0]) / CLASSES))
        for at, name in enumerate(CLASS_NAMES)
    )
    return TableRecord(title=title, columns=("class", "images", "right", "endurance"), rows=rows)


def _attack(number: int, photograph: npt.NDArray[np.uint8], rng: np.random.Generator, arrays: Arrays) -> CheckRecord:
    left = {label: proportion(int(8000 / (1 + x * (number + 1))), IMAGES) for label, x in BUDGETS.items()}
    points = tuple(PointRecord(x=BUDGETS[label], label=label, estimate=estimate) for label, estimate in left.items())
    kinds = {"clean: a": "image", "attacked: b": "image", "difference": "difference", "saliency": "heat"}
    metrics = {"clean_accuracy": proportion(8000, IMAGES), "robust_accuracy": left["16/255"]}
    metrics |= {f"robust_accuracy@{label}": estimate for label, estimate in left.items()}
    curve = CurveRecord(
        metric="robust_accuracy", title="Robust accuracy", x_label="budget", y_label="robust accuracy", points=points
    )
    return check(
        f"noise.attack{number}",
        "Keeps its decisions",
        "It matters.",
        norm="linf",
        metrics=metrics,
        curves=(curve, curve.model_copy(update={"metric": "attack_success_rate", "title": "Success"})),
        tables=(_table("Class by class"),) if number % 4 == 0 else (),
        exhibits=_exhibits(f"noise.attack{number}", kinds, photograph, rng, arrays),
    )


def _explained(number: int, photograph: npt.NDArray[np.uint8], rng: np.random.Generator, arrays: Arrays) -> CheckRecord:
    key = f"explain.map{number}"
    return check(
        key,
        "Looks at the object",
        "It matters.",
        metrics={f"share_{n}": mean(rng.normal(0.3, 0.1, 100)) for n in range(20)},
        tables=(_table("Class by class, the worst first"),) if number % 4 == 0 else (),
        exhibits=_exhibits(key, {"image": "image", "clean": "overlay", "attacked": "overlay"}, photograph, rng, arrays),
    )


def _profiled(number: int, photograph: npt.NDArray[np.uint8], rng: np.random.Generator, arrays: Arrays) -> CheckRecord:
    key = f"profile.layers{number}"
    places = tuple(f"layer{at // 6}.{at // 2 % 3}.relu{at % 2}" for at in range(150))
    lines = {name: tuple(rng.uniform(1, 9, len(places)).tolist()) for name in ("clean", "noise", "stickers")}
    profile = ProfileRecord(title="Largest", x_label="layers", y_label="activation", places=places, lines=lines)
    return check(
        key,
        "No neuron shouts",
        "It matters.",
        metrics={"top_share": mean(rng.normal(0.3, 0.1, 100))},
        profiles=(profile, profile.model_copy(update={"logarithmic": True, "title": "The same"})),
        exhibits=_exhibits(key, {"image": "image", "activations": "overlay"}, photograph, rng, arrays),
    )


def _separated(number: int, photograph: npt.NDArray[np.uint8], rng: np.random.Generator, arrays: Arrays) -> CheckRecord:
    key = f"detect.score{number}"
    curves = tuple(
        CurveRecord(
            metric=f"auroc_{kind}",
            title=f"Hits over false alarms: {kind}",
            x_label="false alarms",
            y_label="hits",
            points=tuple(
                PointRecord(x=x / 100, label=f"{x} %", estimate=proportion(int(100 * (x / 100) ** 0.3), 100))
                for x in range(101)
            ),
            roc=True,
            figure="Noticed" if kind < 4 else None,
            line=f"kind {kind}",
        )
        for kind in range(6)
    )
    return check(
        key,
        "Notices",
        "It matters.",
        metrics={f"kind{kind}_noticed": proportion(60 + kind, 100) for kind in range(6)},
        curves=curves,
        exhibits=_exhibits(key, {"clean": "image", "attacked": "image"}, photograph, rng, arrays),
    )
