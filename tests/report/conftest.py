"""A result such as an audit of a traffic-sign model gives, made without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from detector_audit import detector_audit
from understanding import explained, profiled, separated
from whole_audit import bounded, hard, noticed

from auditkit.gate import judge
from auditkit.report import Page, render_html
from auditkit.requirements import parse_gate
from auditkit.result import (
    CheckRecord,
    CurveRecord,
    ExhibitRecord,
    FlagRecord,
    ModelRecord,
    NoteRecord,
    PanelRecord,
    PointRecord,
    Result,
    SamplesRecord,
    Verdict,
)
from auditkit.stats import mean, proportion

N = 600
Arrays = dict[str, npt.NDArray[Any]]


def curve(metric: str, x_label: str, points: dict[str, tuple[float, int]]) -> CurveRecord:
    return CurveRecord(
        metric=metric,
        title=f"Robust accuracy over {x_label}",
        x_label=x_label,
        y_label="Robust accuracy",
        points=tuple(PointRecord(x=x, label=label, estimate=proportion(k, N)) for label, (x, k) in points.items()),
    )


def attack(key: str, title: str, x_label: str, points: dict[str, tuple[float, int]], **more: Any) -> CheckRecord:
    metrics = {"clean_accuracy": proportion(563, N)}
    metrics |= {f"robust_accuracy@{label}": proportion(k, N) for label, (_, k) in points.items()}
    last = list(points.values())[-1][1]
    metrics["robust_accuracy"] = proportion(last, N)
    metrics["attack_success_rate"] = proportion(563 - last, 563)
    return CheckRecord(
        key=key,
        id=key.partition("@")[0],
        version=1,
        title=title,
        why=(
            "Changes too small to notice must not change the decision. An attacker who knows the model "
            "looks for the worst of them; what survives this search is a bound on what survives any."
        ),
        distribution="auditkit 0.1.0",
        references=("Madry et al. 2018, https://arxiv.org/abs/1706.06083",),
        status="done",
        options={"eps": [x for x, _ in points.values()], "steps": 50, "norm": "linf", "restarts": 1},
        threat_model="White box: knows the weights; wants any wrong class; may change every pixel a little.",
        norm="linf",
        metrics=metrics,
        metric_titles={
            "clean_accuracy": "Clean accuracy",
            "robust_accuracy": "Robust accuracy",
            "attack_success_rate": "Attack success rate",
        },
        curves=(curve("robust_accuracy", x_label, points),),
        queries={"forward": 10.7, "backward": 9.9},
        seconds=4.13,
        **more,
    )


def exhibits(key: str, count: int, arrays: Arrays, budget: str = "8/255", side: int = 32) -> tuple[ExhibitRecord, ...]:
    rng = np.random.default_rng(sum(key.encode()))
    made = []
    for number in range(count):
        y, x = np.mgrid[0:side, 0:side] / (side - 1)
        disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.14
        sky = np.stack([0.35 + 0.3 * y, 0.5 + 0.2 * y, 0.75 - 0.3 * y], axis=-1)
        sign = np.array([0.8, 0.12, 0.1]) if number % 2 else np.array([0.1, 0.25, 0.7])
        image = np.where(disc[..., None], sign, sky) + rng.normal(0, 0.015, (side, side, 3))
        image = np.clip(image, 0, 1)
        change = 8 / 255 * np.sign(rng.normal(size=image.shape))
        if "pixel" in budget:
            change = np.zeros_like(image)
            change[9, 12] = 1 - image[9, 12]
        heat = np.exp(-((x - 0.5) ** 2 + (y - 0.45) ** 2) * 18) * rng.uniform(0.4, 1, x.shape)
        panels = {
            "clean": ("image", np.uint8(np.rint(image * 255))),
            "attacked": ("image", np.uint8(np.rint(np.clip(image + change, 0, 1) * 255))),
            "difference": ("difference", np.float32(change)),
            "saliency, clean": ("heat", np.float32(heat)),
            "saliency, attacked": ("heat", np.float32(np.roll(heat, side // 4, axis=1))),
        }
        names = {title: f"{key}/{number}/{title}" for title in panels}
        arrays.update({names[title]: array for title, (_, array) in panels.items()})
        made.append(
            ExhibitRecord(
                sample=f"signs/stop/{number:05d}.png",
                caption=f"stop (99 %) became speed limit 50 ({88 - number} %) within {budget}",
                score=1.0 - number / 10,
                panels=tuple(
                    PanelRecord(title=title, kind=kind, array=names[title])  # type: ignore[arg-type]
                    for title, (kind, _) in panels.items()
                ),
            )
        )
    return tuple(made)


@pytest.fixture(scope="session")
def arrays() -> Arrays:
    """Arrays of the exhibits of `result`; filled by it."""
    return {}


@pytest.fixture(scope="session")
def result(arrays: Arrays) -> Result:
    """Nine checks (seven done, one skipped, one failed) and five gates, at least one of each verdict."""
    linf = {"1/255": (1 / 255, 480), "2/255": (2 / 255, 371), "4/255": (4 / 255, 190), "8/255": (8 / 255, 31)}
    pgd = attack(
        "noise.pgd",
        "Keeps its decisions under imperceptible noise",
        "L-inf budget",
        linf,
        exhibits=exhibits("noise.pgd", 5, arrays),
    )
    square = attack(
        "noise.square@queries500",
        "Keeps its decisions when only its answers are known",
        "L-inf budget",
        {"2/255": (2 / 255, 521), "8/255": (8 / 255, 242)},
        exhibits=exhibits("noise.square", 2, arrays),
    )
    pixel = attack(
        "pixel.one",
        "Keeps its decisions when single pixels change",
        "Changed pixels",
        {"1": (1.0, 540), "3": (3.0, 498), "5": (5.0, 470)},
        exhibits=exhibits("pixel.one", 1, arrays, "1 pixel"),
    ).model_copy(update={"norm": "l0"})
    focus = pixel.model_copy(
        update={
            "key": "explain.focus",
            "id": "explain.focus",
            "title": "Looks at the sign, not at what surrounds it",
            "threat_model": None,
            "metrics": {"saliency_inside": mean(np.random.default_rng(0).normal(1.3, 0.4, N))},
            "metric_titles": {"saliency_inside": "Saliency inside the sign, against its area"},
            "curves": (),
            "exhibits": (),
        }
    )
    skipped = focus.model_copy(
        update={
            "key": "detect.cover",
            "id": "detect.cover",
            "title": "Notices stickers",
            "status": "skipped",
            "reason": "needs BOXES, which the samples do not carry",
            "metrics": {},
        }
    )
    failed = focus.model_copy(
        update={
            "key": "patch.universal",
            "id": "patch.universal",
            "title": "Withstands a printed sticker",
            "status": "failed",
            "reason": "RuntimeError: the gradient is not finite at step 3",
            "metrics": {},
        }
    )
    found = Result(
        model=ModelRecord(
            name="signs-resnet20.onnx",
            format="onnx",
            digest="9f2c64d1a8b07e35" * 4,
            classes=43,
            input="RGB in [0, 1], 32 x 32, float32, batch of any size",
            provider="onnxruntime CPUExecutionProvider",
            gradients="onnx2fx twin, agreed with onnxruntime on 64 images (largest difference 2.1e-6)",
            search_copy="bfloat16, channels last, agreed on 100 % of 64 images",
            preprocessing={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "resize": None},
        ),
        samples=SamplesRecord(
            source="data/gtsrb-test",
            n=N,
            skipped={"signs/broken/00001.png": "truncated file"},
            fingerprint="4be1c0ffee" * 4,
            shape=(3, 32, 32),
            class_names=("stop", "speed limit 50", "yield"),
        ),
        verdict=Verdict.NONE,
        gates=(),
        checks=(pgd, square, pixel, focus, explained(arrays), profiled(), separated(), skipped, failed),
        flags=(
            FlagRecord(
                id="sanity.masking",
                check="noise.pgd",
                text="The score-based attack beat the gradient attack on 12 images: gradients may be masked.",
                remedy="Run noise.pgd with more restarts and report the worst of both attacks.",
            ),
        ),
        notes=(
            NoteRecord(
                id="samples.balance",
                level="warning",
                text="Class 'stop' holds 41 % of the images.",
                remedy="Read shares with that in mind, or give balanced images.",
            ),
            NoteRecord(id="model.batch", level="info", text="Answers do not depend on the batch.", remedy=""),
        ),
        settings={"seed": 0, "preset": "standard", "confidence": 0.95},
        volatile={
            "date": "2026-11-22T09:14:03Z",
            "versions": {"auditkit": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.27.0"},
            "command": "auditkit run signs-resnet20.onnx --data data/gtsrb-test",
            "seconds": 48.2,
        },
    )
    gates = (
        "noise.pgd/clean_accuracy >= 0.9",
        "noise.pgd/robust_accuracy@2/255 >= 60%",
        "pixel.one/robust_accuracy >= 0.7",
        "noise.pgd/robust_accuracy >= 0.4",
        "patch.universal/robust_accuracy >= 0.5",
    )
    return judge(found, [parse_gate(text) for text in gates])


@pytest.fixture(scope="session")
def whole(result: Result, arrays: Arrays) -> Result:
    """The result with what the page treats in its own way: hard images, noticed stickers, bounded activations."""
    return result.model_copy(update={"checks": (*result.checks, hard(arrays), noticed(), bounded())})


@pytest.fixture(scope="session")
def detector_arrays() -> Arrays:
    """Arrays of the exhibits of `detected`; filled by it."""
    return {}


@pytest.fixture(scope="session")
def detected(detector_arrays: Arrays) -> Result:
    """An audit of a detector: five checks, three gates, boxes of every tone."""
    return detector_audit(detector_arrays)


@pytest.fixture(scope="session")
def pages(result: Result, arrays: Arrays) -> dict[str, Page]:
    """The report of `result` in each layout."""
    return {
        "single": render_html(result, arrays, layout="single"),
        "folder": render_html(result, arrays, layout="folder"),
    }


PAYLOAD = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=go()>\x08\u202e`|*[a](b)$x$"
_FIXED = {"status", "verdict", "measured", "change", "bound", "level", "kind", "array", "method", "schema", "norm"}
_FIXED |= {"task", "tone"}
# Mappings whose keys come from plugins, model files and the user's settings.
_CHOSEN_NAMES = {"metrics", "metric_titles", "options", "queries", "lines", "preprocessing", "settings", "volatile"}
# Those that the page asks for by name.
_KNOWN_NAMES = {"seed", "confidence", "date", "versions", "until_decided"}


def _poison(value: Any, names: bool = False) -> Any:
    match value:
        case str():
            return value + PAYLOAD
        case dict():
            return {
                name + PAYLOAD if names and name not in _KNOWN_NAMES else name: item
                if name in _FIXED and not names
                else _poison(item, name in _CHOSEN_NAMES)
                for name, item in value.items()
            }
        case list():
            return [_poison(item) for item in value]
        case _:
            return value


def poisoned(result: Result) -> Result:
    """Return the result with markup, control characters and addresses in every text that anybody could choose."""
    data = _poison(result.model_copy(update={"disclaimer": "Demo."}).model_dump(mode="json", by_alias=True))
    data["samples"]["skipped"] = {PAYLOAD: PAYLOAD}
    return Result.model_validate(data)


@pytest.fixture(scope="session")
def hostile(result: Result) -> Result:
    """The result with a payload in every text."""
    return poisoned(result)


@pytest.fixture(scope="session")
def hostile_whole(whole: Result) -> Result:
    """The whole audit with a payload in every text; the check of hard images keeps the id that the page knows."""
    poison = poisoned(whole)
    checks = (
        check.model_copy(update={"id": "samples.hard"}) if check.id.startswith("samples.hard") else check
        for check in poison.checks
    )
    return poison.model_copy(update={"checks": tuple(checks)})


@pytest.fixture(scope="session")
def hostile_detected(detected: Result) -> Result:
    """The audit of a detector with a payload in every text, those of boxes among them."""
    return poisoned(detected)


@pytest.fixture(scope="session")
def ungated(result: Result) -> Result:
    """The result without requirements."""
    return judge(result, [])


@pytest.fixture(scope="session")
def nothing_done(result: Result) -> Result:
    """A result whose only check was skipped."""
    left = result.check("detect.cover")
    assert left is not None
    update = {"checks": (left,), "flags": (), "notes": (), "settings": {}, "volatile": {}}
    return judge(result.model_copy(update=update), [])
