"""Images unlike the data: how sure the model is of them, and which score tells them from its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    OUTSIDE,
    Artifact,
    Capability,
    Context,
    Curve,
    Exhibit,
    Findings,
    FlagRule,
    Lesson,
    Metric,
    Model,
    Samples,
    Spec,
    image_panel,
)
from auditkit_plugins.last_layer import last_weights, with_bounded_features

__all__ = ["Outside"]

Values = npt.NDArray[np.float64]

# Each score is larger, the more an image looks like none of the model's own.
_SCORES = {
    "softmax": "largest softmax value",
    "max_logit": "largest logit",
    "energy": "energy",
    "norm": "norm of the penultimate features",
    "react": "energy of bounded features",
}
_ROC = "Images unlike the data that are noticed, over false alarms"
_SURENESS = "Images of which the model is surer than this"


def _metrics() -> tuple[Metric, ...]:
    metrics = [
        Metric("confidence", "confidence", "Confidence on the data's own images", "mean"),
        Metric("ood_confidence", "ood_confidence", "Confidence on images unlike the data", "mean"),
        Metric("sure", "sure", "Own images of which the model is sure"),
        Metric("ood_sure", "ood_sure", "Images unlike the data of which the model is sure"),
        Metric("length", "length", "Length of the penultimate features, own images", "mean", among="layered"),
        Metric("ood_length", "ood_length", "The same, images unlike the data", "mean", among="ood_layered"),
    ]
    kinds: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("auroc", "AUROC, own images against images unlike them", {"kind": "auroc"}),
        ("tpr1", "Images unlike the data noticed at 1 % false alarms", {"kind": "tpr", "at": 0.01}),
        ("tpr5", "Images unlike the data noticed at 5 % false alarms", {"kind": "tpr", "at": 0.05}),
        (
            "fpr95",
            "False alarms when 95 % of the images unlike the data (the positives) are noticed",
            {"kind": "fpr", "at": 0.95},
        ),
    )
    for short, title, kind in kinds:
        for score, name in _SCORES.items():
            metrics.append(Metric(f"{short}_{score}", f"ood_{score}", f"{title}: {name}", against=score, **kind))
    return tuple(metrics)


def _curves() -> tuple[Curve, ...]:
    return (
        *(
            Curve(
                f"auroc_{score}",
                f"{_ROC}: {name}",
                "own images flagged (false alarms)",
                column=f"ood_{score}",
                against=score,
                figure=_ROC,
                line=name,
            )
            for score, name in _SCORES.items()
        ),
        Curve("confidence", "Confidence", "confidence", "confidence", figure=_SURENESS, line="own images"),
        Curve("ood_confidence", "Confidence", "confidence", "ood_confidence", figure=_SURENESS, line="unlike the data"),
    )


@dataclass(frozen=True)
class Outside:
    """Ask the model about images of a second data set, and compare five scores on them with those of its own images."""

    spec: ClassVar[Spec] = Spec(
        id="profile.ood",
        title="The model is less sure of images unlike its own",
        why=(
            "A classifier names one of its classes for every image, also for one that shows none of them, and often "
            "with high confidence: a network that knows animals and vehicles calls a house number a ship. Whoever "
            "relies on confidence must know how sure the model is of what it never learned, and which score shows it."
        ),
        metrics=_metrics(),
        needs=frozenset({Capability.SCORES}),
        scope="outside",
        curves=_curves(),
        flags=(
            FlagRule(
                "profile.overconfident",
                "ood_sure",
                above=0.5,
                text="The model is sure of most images that are unlike its data: its confidence does not tell what it "
                "knows from what it does not.",
                remedy="Do not accept answers by confidence alone. Reject by the score with the largest AUROC, at a "
                "threshold set on your own images; or train with images of no class.",
            ),
        ),
        references=(
            "Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136",
            "Liu et al. 2020 (energy), https://arxiv.org/abs/2010.03759",
            "Hendrycks et al. 2022 (largest logit), https://arxiv.org/abs/1911.11132",
            "Sun et al. 2021 (ReAct), https://arxiv.org/abs/2111.12797",
        ),
        presets={"standard": {}, "full": {}},
    )

    sure: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """The confidence beyond which the model counts as sure."""
    bound: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Features are bounded at this quantile of those of up to 128 own images."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def learn(self, model: Model, samples: Samples, ctx: Context) -> Lesson:
        """Measure images unlike the data, and keep the pictures of those of which the model is surest."""
        measured = self._measured(model, samples, ctx)
        shown = _pictures(samples, measured["confidence"], ctx.shelf.get(CLEAN_LOGITS).argmax(1))
        before = ctx.lesson or {name: array[:0] for name, array in {**measured, **shown}.items()}
        joined = {name: np.concatenate([before[name], array]) for name, array in {**measured, **shown}.items()}
        surest = np.lexsort((joined["shown_id"], -joined["shown_confidence"]))[: self.gallery]
        return {name: joined[name][surest] if name in shown else joined[name] for name in joined}

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Measure the model's own images, and set them beside the others."""
        columns = self._measured(model, samples, ctx)
        ctx.progress(len(samples))
        passes = 1 + _ends_in_softmax(model) + int(columns["layered"].any())
        return Findings(
            columns=columns,
            exhibits=_exhibits(ctx),
            forwards=np.full(len(samples), passes, dtype=np.int64),
            others={f"ood_{name}": ctx.lesson[name] for name in columns},
        )

    def _measured(self, model: Model, samples: Samples, ctx: Context) -> dict[str, npt.NDArray[Any]]:
        """Return one value an image: confidence, length of the features, and the scores; NaN where there is none."""
        logits = ctx.shelf.get(CLEAN_LOGITS).double()
        confidence = logits.softmax(1).amax(1)
        raw = _unnormalised(model, samples.images, logits)
        length, bounded = self._last_layer(model, samples.images, ctx)
        measured = {
            "confidence": confidence,
            "sure": confidence > self.sure,
            "layered": ~length.isnan(),
            "length": length,
            "softmax": _odds_against(logits),
            "max_logit": -raw.amax(1),
            "energy": -raw.logsumexp(1),
            "norm": -length,
            "react": -bounded.logsumexp(1),
        }
        return {name: values.cpu().numpy() for name, values in measured.items()}

    def _last_layer(self, model: Model, images: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Return the length of the penultimate features, float64 (N,), and logits (N, K) from bounded ones, or NaN."""
        nothing = torch.full((len(images), model.info.classes), torch.nan, dtype=torch.float64, device=images.device)
        if model.exact is None or ctx.calibration is None or not len(ctx.calibration.samples):
            return nothing[:, 0], nothing
        exact = model.exact.unnormalised
        weights = last_weights(exact, images, model.info.classes)
        known = ctx.calibration.get(_FEATURES)
        if weights is None or not known.numel():
            return nothing[:, 0], nothing
        bound = float(np.quantile(known.cpu().numpy(), self.bound))
        found = with_bounded_features(exact, images, weights, bound)
        if found is None:
            return nothing[:, 0], nothing
        features, bounded = found
        return torch.linalg.vector_norm(features.double(), dim=1), bounded.double()


def _penultimate(model: Model, samples: Samples) -> Tensor:
    """Return float32 (N, D), what goes into the last linear layer; empty where there is none."""
    empty = torch.empty(0, 0, device=samples.images.device)
    if model.exact is None:
        return empty
    exact = model.exact.unnormalised
    weights = last_weights(exact, samples.images, model.info.classes)
    found = with_bounded_features(exact, samples.images, weights, torch.inf) if weights is not None else None
    return found[0] if found is not None else empty


_FEATURES = Artifact("profile.ood.features", _penultimate)


def _odds_against(logits: Tensor) -> Tensor:
    """Return the logarithm of (1 - p) / p, (N,), for the largest softmax value p: without ties where p rounds to 1."""
    largest, label = logits.max(1, keepdim=True)
    return logits.scatter(1, label, -torch.inf).logsumexp(1) - largest.squeeze(1)


def _ends_in_softmax(model: Model) -> bool:
    return model.exact is not None and model.exact.before_softmax is not None


def _unnormalised(model: Model, images: Tensor, logits: Tensor) -> Tensor:
    """Return scores (N, K) before any softmax: with it, the energy of every image would be the same. NaN: not known."""
    if model.exact is not None and _ends_in_softmax(model):
        return model.exact.unnormalised.logits(images).double()
    normalised = model.info.preprocessing.get("outputs") == "probabilities"
    return torch.full_like(logits, torch.nan) if normalised else logits


def _pictures(samples: Samples, confidence: Values, labels: Tensor) -> dict[str, npt.NDArray[Any]]:
    """Return images (N, C, H, W) as bytes, and what to say of them."""
    pixels = (samples.images * 255).round().to(torch.uint8)
    return {
        "shown_id": np.array(samples.ids),
        "shown_confidence": confidence,
        "shown_label": labels.cpu().numpy(),
        "shown_pixels": pixels.cpu().numpy(),
    }


def _exhibits(ctx: Context) -> tuple[Exhibit, ...]:
    exhibits = []
    names = ("shown_id", "shown_confidence", "shown_label", "shown_pixels")
    for name, confidence, label, pixels in zip(*(ctx.lesson[key] for key in names), strict=True):
        taken = ctx.class_name(int(label))
        panel = image_panel(f"taken for {taken}", torch.from_numpy(pixels) / 255)
        caption = f"an image unlike the data is taken for {taken} with {float(confidence):.1%} confidence"
        exhibits.append(Exhibit(f"{OUTSIDE}{name}", caption, float(confidence), (panel,)))
    return tuple(exhibits)
