"""Right for the right reasons: whether what decides lies on the object, and whether the object alone decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Capability,
    Context,
    Findings,
    FlagRule,
    Metric,
    Model,
    Samples,
    Spec,
)
from auditkit_plugins.attribution.integrated_gradients import baseline_images
from auditkit_plugins.faithfulness import Faithfulness, elsewhere, faithfulness, places
from auditkit_plugins.localisation import Localisation, localise
from auditkit_plugins.reasons_gallery import worst_images
from auditkit_plugins.relevance import RelevanceMethod, relevance

__all__ = ["Reasons"]

_CURVES = 4
"""Deletion and insertion, each in the order of the map and of the control."""
_ENDS = 3
"""What the curves begin and end with: the image, the plain one and the blurred one."""


@dataclass(frozen=True)
class Reasons:
    """Compare what moves the score of the predicted class with where the object is; cover the object, and the rest."""

    spec: ClassVar[Spec] = Spec(
        id="explain.reasons",
        title="The model is right for the right reasons",
        why=(
            "A model can be right because of something beside the object: a watermark, the background, a mark that "
            "happened to be on all training images of a class. It then fails where that is missing, and can be fooled "
            "by whoever adds it. Accuracy does not show this, as long as the test images have the same marks. So this "
            "check asks where in the image the decision comes from. With masks of the objects it measures how much of "
            "that lies on the object, and whether the answer stays when only the object is shown, or only the rest. "
            "With or without masks it measures whether the map itself is to be believed: the pixels that it names "
            "should matter more than others."
        ),
        metrics=(
            Metric(
                "ratio",
                "ratio",
                "Relevance on the object, as a multiple of the share of the image that it covers",
                "median",
                among="measured",
            ),
            Metric("beside", "beside", "Images with less relevance on the object than its area has", among="measured"),
            Metric(
                "background_suffices",
                "background_suffices",
                "Images whose answer stays when the object is covered",
                among="masked",
            ),
            Metric(
                "object_suffices",
                "object_suffices",
                "Images whose answer stays when all but the object is covered",
                among="masked",
            ),
            Metric(
                "relevance_mass", "relevance_mass", "Share of the relevance on the object", "mean", among="measured"
            ),
            Metric(
                "relevance_rank",
                "relevance_rank",
                "Share of the most relevant pixels that lie on the object, as many as it has",
                "mean",
                among="measured",
            ),
            Metric("pointing", "pointing", "Images whose most relevant pixel lies on the object", among="measured"),
            Metric(
                "pointing_chance",
                "pointing_chance",
                "Share of the image that the object covers: how often the most relevant pixel would hit it by chance",
                "mean",
                among="measured",
            ),
            Metric("faithful", "faithful", "Images whose map beats its control both ways", among="traced"),
            Metric(
                "deletion",
                "deletion",
                "Mean probability of the class while pixels are taken away, the most relevant first",
                "mean",
                among="traced",
            ),
            Metric(
                "deletion_control", "deletion_control", "Deletion in the order of the control", "mean", among="traced"
            ),
            Metric(
                "insertion",
                "insertion",
                "Mean probability of the class while a blurred image becomes clear, the most relevant pixels first",
                "mean",
                among="traced",
            ),
            Metric(
                "insertion_control",
                "insertion_control",
                "Insertion in the order of the control",
                "mean",
                among="traced",
            ),
            Metric("masked", "masked", "Images of which it is known where the object is"),
        ),
        needs=frozenset({Capability.SCORES}),
        by_class=(
            "ratio",
            "background_suffices",
            "object_suffices",
            "pointing",
            "pointing_chance",
        ),
        flags=(
            FlagRule(
                id="reasons.beside_the_object",
                metric="beside",
                above=0.5,
                text=(
                    "On most images less of what decides lies on the object than its area would have by chance: the "
                    "model looks at something else."
                ),
                remedy=(
                    "See the worst images and the table of classes. In training, vary what lies beside the object, or "
                    "crop it away."
                ),
            ),
            FlagRule(
                id="reasons.background_suffices",
                metric="background_suffices",
                above=0.5,
                text="On most images the answer stays the same when the object is covered: the model does not need it.",
                remedy=(
                    "Look for what the images of a class have in common beside the object, and train without it. Make "
                    "sure that the masks cover the whole object."
                ),
            ),
            FlagRule(
                id="reasons.class_without_object",
                metric="background_suffices",
                above=0.5,
                each_class=True,
                text="The images of some classes mostly keep their answer when the object is covered.",
                remedy=(
                    "Look at the worst images of these classes for what they have in common beside the object, such as "
                    "a mark in a corner, and train without it."
                ),
            ),
        ),
        references=(
            "Ross et al. 2017, https://arxiv.org/abs/1703.03717",
            "Arras et al. 2022, https://arxiv.org/abs/2003.07258",
            "Zhang et al. 2018, https://arxiv.org/abs/1608.00507",
            "Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421",
            "Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901",
        ),
        presets={
            "smoke": {"steps": 8, "traced": 0.25},
            "standard": {"steps": 14, "traced": 0.5},
            "full": {},
        },
    )

    method: RelevanceMethod = "occlusion"
    """Which map says what is relevant."""
    steps: Annotated[int, Field(ge=2, le=1000)] = 28
    """Steps in which pixels are taken away or shown."""
    control: Literal["moved", "random"] = "moved"
    """What the map must beat: itself moved to another place, or pixels in random order."""
    traced: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the images for which that is done."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map every image, and compare the maps with the masks and with what the deployed model says to parts."""
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        found = relevance(self.method, model, samples, predicted, ctx)
        masks = _masks(samples)
        where = localise(found.maps.cpu().numpy(), masks.cpu().numpy())
        columns = _on_the_object(where, ctx.streams(samples.ids, "pointing").uniform(0, (1,)).flatten().cpu().numpy())
        columns |= _parts(model, samples, masks, predicted, where)
        traces = self._traces(model, samples, found.maps, predicted, ctx)
        columns |= traces
        ctx.progress(len(samples))
        extra = 2 * columns["masked"] + (_CURVES * (self.steps - 1) + _ENDS) * columns["traced"]
        return Findings(
            columns,
            worst_images(samples, masks, found, predicted, columns, ctx, self.gallery),
            forwards=(1 + found.forwards + extra).astype(np.int64),
            backwards=np.full(len(samples), found.backwards, dtype=np.int64),
        )

    def _traces(
        self, model: Model, samples: Samples, maps: Tensor, predicted: Tensor, ctx: Context
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the areas under the curves of some images, for the map and for its control; NaN for the others."""
        chosen = ctx.streams(samples.ids, "traced").uniform(0, (1,)).flatten() < self.traced
        names = ("deletion", "deletion_control", "insertion", "insertion_control")
        columns = {name: np.full(len(samples), np.nan) for name in names}
        rows = chosen.nonzero().flatten()
        for start in range(0, len(rows), ctx.batch):
            part = rows[start : start + ctx.batch]
            areas = self._areas(model, samples, maps[part], predicted[part], part, ctx)
            for name in names:
                columns[name][part.cpu().numpy()] = getattr(areas, name).cpu().numpy()
        better = columns["deletion"] < columns["deletion_control"]
        better &= columns["insertion"] > columns["insertion_control"]
        return {"traced": chosen.cpu().numpy(), "faithful": better, **columns}

    def _areas(
        self, model: Model, samples: Samples, maps: Tensor, classes: Tensor, part: Tensor, ctx: Context
    ) -> Faithfulness:
        images = samples.images[part]
        streams = ctx.streams([samples.ids[row] for row in part.tolist()], "order")
        lots = streams.uniform(0, images.shape[2:])
        random = self.control == "random"
        control = torch.zeros_like(maps) if random else elsewhere(maps, streams.uniform(1, (1,)).flatten())
        return faithfulness(
            lambda shown, rows: _probability(model.logits(shown), classes[rows]),
            images,
            baseline_images(images, "mean"),
            baseline_images(images, "blur"),
            places(maps, lots),
            places(control, lots),
            self.steps,
            ctx.batch,
            ctx.check_time,
        )


def _masks(samples: Samples) -> Tensor:
    """Return bool (N, H, W), false everywhere in an image of which nobody said where the object is."""
    if samples.masks is not None:
        return samples.masks
    n, _, height, width = samples.images.shape
    return torch.zeros((n, height, width), dtype=torch.bool, device=samples.images.device)


def _probability(logits: Tensor, classes: Tensor) -> Tensor:
    """Return float64 (N,): of logits (N, K) the probability of each row's own class."""
    return torch.softmax(logits.double(), 1).gather(1, classes.unsqueeze(1)).squeeze(1)


def _on_the_object(where: Localisation, lots: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of the maps; of several strongest pixels the one that points is drawn by `lots` (N,)."""
    return {
        "masked": ~np.isnan(where.share),
        "measured": where.measured,
        "ratio": where.ratio,
        "beside": where.ratio < 1,
        "relevance_mass": where.mass,
        "relevance_rank": where.rank,
        "pointing": lots < where.pointing,
        "pointing_chance": where.share,
    }


def _parts(
    model: Model, samples: Samples, masks: Tensor, predicted: Tensor, where: Localisation
) -> dict[str, npt.NDArray[Any]]:
    """Return for which images the answer stays when the object is covered, and when all but the object is."""
    known = torch.from_numpy(~np.isnan(where.share)).to(masks.device)
    rows = known.nonzero().flatten()
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, hidden in (("background_suffices", masks), ("object_suffices", ~masks)):
        stays = torch.zeros_like(known)
        if len(rows):
            shown = torch.stack([_covered(samples.images[row], hidden[row]) for row in rows.tolist()])
            stays[rows] = model.logits(shown).argmax(1) == predicted[rows]
        columns[name] = stays.cpu().numpy()
    return columns


def _covered(image: Tensor, hidden: Tensor) -> Tensor:
    """Return the image (C, H, W) with the mean colour of the rest where `hidden` (H, W) is true."""
    colour = image[:, ~hidden].double().mean(1).to(image.dtype)
    return torch.where(hidden, colour.view(-1, 1, 1), image)
