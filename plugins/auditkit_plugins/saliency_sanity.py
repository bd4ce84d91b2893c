"""Do the maps say anything about the network? They must change when what it learned is taken away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Capability,
    Context,
    Curve,
    Differentiable,
    Exhibit,
    Findings,
    FlagRule,
    Metric,
    Model,
    Samples,
    Spec,
    budget_text,
    image_panel,
    overlay_panel,
)
from auditkit_plugins.attribution.cascade import randomised, weights_in_order
from auditkit_plugins.attribution.findings import Gallery, Share
from auditkit_plugins.attribution.methods import Method, MethodName, method
from auditkit_plugins.attribution.rank_correlation import rank_correlation

__all__ = ["SaliencySanity"]

_TINY = 1e-30


@dataclass(frozen=True)
class _Maps:
    """Maps of R images, as the trained network and random ones give them."""

    trained: Tensor
    """(R, H, W)."""
    random: Tensor
    """(R, H, W), with all layers random."""
    similarity: Tensor
    """float64 (stages, R): the rank correlations with `trained`."""


@dataclass(frozen=True)
class SaliencySanity:
    """Make the layers random, from the last to the first, and compare the maps with those of the trained network."""

    spec: ClassVar[Spec] = Spec(
        id="sanity.saliency",
        title="Saliency maps depend on what the network learned",
        why=(
            "A map can look convincing and say nothing about the network: an edge detector marks the outlines of the "
            "object, too. If the maps stay as they are while the weights become random, from the last layer to the "
            "first, they show the image or the shape of the network, and not what it learned (Adebayo et al. 2018)."
        ),
        metrics=(
            Metric(
                "similarity",
                "similarity",
                "Rank correlation of a map with that of a network whose last layers are random",
                "mean",
                among="examined",
            ),
            Metric(
                "similarity_last",
                "similarity_last",
                "The same, when the last layer alone is random",
                "mean",
                among="examined",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        curves=(Curve("similarity", "Likeness of the maps over the share of layers that are random", "random layers"),),
        flags=(
            FlagRule(
                "sanity.saliency",
                "similarity",
                above=0.7,
                text="The maps hardly change when all layers become random. They show the image or the shape of the "
                "network, and say little about what it learned.",
                remedy="Do not explain this model with such maps; look at those of another method, or at what happens "
                "when parts of the image are covered.",
            ),
        ),
        references=("Adebayo et al. 2018, https://arxiv.org/abs/1810.03292",),
        presets={"full": {"stages": 8}},
    )

    method: MethodName = "saliency"
    """Which maps are examined."""
    stages: Annotated[int, Field(ge=1)] = 4
    """At how many shares of random layers, evenly spread up to all, maps are compared."""
    share: Share = 0.25
    """The share of the images that are examined."""
    gallery: Gallery = 4

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Examine the images that a random number of their own chooses."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        chosen = (ctx.streams(samples.ids, "examined").uniform(0, ()) < self.share).cpu()
        part = samples.take(chosen)
        explain = method(self.method, model.exact, samples.images)
        stages = self._stages(len(weights_in_order(model.exact.unnormalised, samples.images)))
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)[chosen.to(samples.images.device)]
        maps = _maps(explain, model.exact.unnormalised, part, predicted, stages, ctx)
        responds = (maps.trained.amax((1, 2)) > maps.trained.amin((1, 2))).cpu().numpy()
        examined = chosen.numpy().copy()
        examined[examined] = responds
        columns: dict[str, npt.NDArray[Any]] = {"examined": examined}
        for name, similarity in zip(self._columns(), maps.similarity.cpu().numpy(), strict=True):
            columns[name] = np.full(len(samples), np.nan)
            columns[name][examined] = similarity[responds]
        ctx.progress(len(samples))
        maps_of_each = chosen.numpy().astype(np.int64) * (1 + len(stages))
        return Findings(
            columns,
            self._exhibits(maps, responds, part, ctx),
            forwards=1 + explain.forwards * maps_of_each,
            backwards=explain.backwards * maps_of_each,
        )

    def _columns(self) -> tuple[str, ...]:
        shares = (budget_text(stage / self.stages) for stage in range(1, self.stages + 1))
        return "similarity_last", *(f"similarity@{share}" for share in shares)

    def _stages(self, layers: int) -> tuple[int, ...]:
        """Return how many of the last layers are random at each stage: one, then ever more, up to all."""
        return 1, *(math.ceil(layers * stage / self.stages) for stage in range(1, self.stages + 1))

    def _exhibits(
        self, maps: _Maps, responds: npt.NDArray[np.bool_], part: Samples, ctx: Context
    ) -> tuple[Exhibit, ...]:
        """Show the images whose maps changed least."""
        similarity = maps.similarity[-1].tolist()
        ranked = sorted(responds.nonzero()[0].tolist(), key=lambda row: (-similarity[row], part.ids[row]))
        exhibits = []
        for row in ranked[: self.gallery]:
            name, image = ctx.class_name(int(part.labels[row])), part.images[row]
            caption = f"{name}: rank correlation {similarity[row]:.2f} once all layers are random"
            # Each by itself: the scores of a random network have another scale.
            shown = (heat[row] / heat[row].amax().clamp_min(_TINY) for heat in (maps.trained, maps.random))
            titles = ("map of the trained network", "map of a random network")
            panels = (overlay_panel(title, image, heat) for title, heat in zip(titles, shown, strict=True))
            exhibits.append(
                Exhibit(part.ids[row], caption, similarity[row], (image_panel(f"image: {name}", image), *panels))
            )
        return tuple(exhibits)


def _maps(
    explain: Method, model: Differentiable, part: Samples, classes: Tensor, stages: Sequence[int], ctx: Context
) -> _Maps:
    """Return the maps of the samples for these classes, and what is left of them at each stage."""
    trained = random = part.images[:, 0]
    if not len(part):
        return _Maps(trained, random, trained.new_zeros(len(stages), 0, dtype=torch.float64))
    streams = ctx.streams(part.ids, "noise")
    trained = explain.maps(model, part.images, classes, streams)
    similarity = []
    for changed in randomised(model, part.images, stages, ctx.seed):
        ctx.check_time()
        random = explain.maps(changed, part.images, classes, streams).nan_to_num(0.0, 0.0, 0.0)
        # A map that is the same everywhere has nothing in common with any other.
        similarity.append(rank_correlation(trained, random).nan_to_num(0.0))
    return _Maps(trained, random, torch.stack(similarity))
