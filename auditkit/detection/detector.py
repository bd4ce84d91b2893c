"""A sticker detector that a pipeline deploys beside its model: `StickerDetector`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from auditkit.archives import read_arrays
from auditkit.artifacts import Shelf
from auditkit.detection.evidence import gather_evidence
from auditkit.detection.rule import StickerRule
from auditkit.errors import UsageError
from auditkit.models.base import Model
from auditkit.models.open import load_model
from auditkit.models.prepare import folded_copy, quick_copy, watched_copy
from auditkit.models.preprocess import Preprocessing
from auditkit.models.tryout import try_out
from auditkit.samples import Samples
from auditkit.streams import Streams

__all__ = ["StickerAlarms", "StickerDetector", "detector_file"]

_FORMAT = 1
# Images of noise, whose scores are kept in the file: the model that it is loaded with must give the same.
_TRIALS = 16
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class StickerAlarms:
    """What a detector says about N images."""

    alarm: Tensor
    """bool (N,)."""
    score: Tensor
    """float64 (N,), larger meaning more suspicious."""
    window: Tensor
    """int64 (N, 4): top, left, height and width, in pixels, of the part that the decision hangs on most."""
    label: Tensor
    """int64 (N,): the class that the image would have without the sticker, as the covers vote."""
    decision: Tensor
    """int64 (N,): the class that the model gives."""


@dataclass(frozen=True)
class StickerDetector:
    """Raises an alarm where an image looks as if stickers had decided its class."""

    model: Model
    rule: StickerRule
    score: str = "combined"
    """Which of the rule's scores counts; `activity` alone costs one forward pass, and points nowhere less well."""
    false_alarms: float = 0.05
    """Which share of clean images like those of the calibration may raise an alarm."""

    @staticmethod
    def load(
        file: str | os.PathLike[str],
        model: str | os.PathLike[str] | nn.Module,
        *,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
        batch: int = 128,
        trust_pickle: bool = False,
        score: str = "combined",
        false_alarms: float = 0.05,
    ) -> StickerDetector:
        """Return the detector that `auditkit stickers fit` wrote, for the model that it was fitted on.

        Args:
            file: what was written.
            model: the same model: a file, a factory (`module:factory`) or a module in memory, which is not changed.
            weights: the weights of a factory.
            device: where to compute.
            batch: images at once; changes speed only.
            trust_pickle: whether a model file may be a pickle, which can run any code.
            score: what counts, one of `STICKER_SCORES`.
            false_alarms: 0.05 or 0.01.

        Raises:
            UsageError: `file` is no such file, or belongs to another model.
            ExecutionError: the model cannot be loaded, or there is no such score or threshold.
        """
        arrays = _read(Path(file))
        header = json.loads(str(arrays["header"]))
        steps = Preprocessing(**{**header["preprocessing"], **_tuples(header["preprocessing"])})
        place = torch.device(device)
        loaded = load_model(
            model if isinstance(model, nn.Module) else os.fspath(model),
            weights=None if weights is None else Path(weights),
            device=place,
            trust_pickle=trust_pickle,
        )
        trials = _trials(header["image"], place)
        opened = _prepared(try_out(loaded, steps, trials, place, batch, header["classes"]), trials)
        detector = StickerDetector(opened, StickerRule.of(arrays), score, false_alarms)
        detector.rule.threshold(score, false_alarms)
        detector._hold(arrays, trials, Path(file))
        return detector

    def __call__(self, images: Tensor) -> StickerAlarms:
        """Judge images (N, C, H, W) in [0, 1], as they go into the model's preprocessing.

        An image's answer does not depend on the others.

        Raises:
            ExecutionError: they have another size than the images that the detector was fitted on.
        """
        images = images.to(self.model.device, torch.float32)
        evidence = gather_evidence(_shelf(self.model, images), self.rule.windows, self.rule.fill)
        score = self.rule.scores(evidence)[self.score]
        corners = torch.tensor(self.rule.windows.corners, device=images.device)[evidence.consistency.window]
        size = corners.new_tensor([self.rule.windows.height, self.rule.windows.width]).expand(len(corners), 2)
        return StickerAlarms(
            alarm=score > self.rule.threshold(self.score, self.false_alarms),
            score=score,
            window=torch.cat([corners, size], 1),
            label=evidence.consistency.label,
            decision=evidence.consistency.decision,
        )

    def _hold(self, arrays: Mapping[str, npt.NDArray[Any]], trials: Tensor, file: Path) -> None:
        """Refuse a model that does not give the scores that the file was written with."""
        got, wanted = _trial_scores(self.model, self.rule, trials), arrays["trials"]
        spread = np.abs(wanted).max() + 1
        if got.shape != wanted.shape or not np.abs(got - wanted).max() <= _TOLERANCE * spread:
            header = json.loads(str(arrays["header"]))
            raise UsageError(
                f"{file} was fitted on the model {header['model']} (digest {header['digest'][:12]}); "
                f"got {self.model.info.name} ({self.model.info.digest[:12]}), whose scores are others"
            )


def detector_file(model: Model, rule: StickerRule, image: tuple[int, int, int]) -> bytes:
    """Return the content of the file that `StickerDetector.load` reads; no image of anybody is in it.

    `image` is the size (C, H, W) of the images that the rule was fitted on.
    """
    info = model.info
    header = {
        "format": _FORMAT,
        "model": info.name,
        "digest": info.digest,
        "classes": info.classes,
        "image": image,
        "preprocessing": info.preprocessing,
    }
    trials = _trials(image, model.device)
    arrays = {**rule.arrays(), "header": np.array(json.dumps(header)), "trials": _trial_scores(model, rule, trials)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _read(file: Path) -> dict[str, npt.NDArray[Any]]:
    wanted = f"{file} is no sticker detector; auditkit stickers fit writes one"
    try:
        with file.open("rb") as stored:
            arrays, _ = read_arrays(stored)
        if json.loads(str(arrays["header"]))["format"] != _FORMAT:
            raise UsageError(f"{file} was written by another version of auditkit; fit it again")
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(wanted) from error
    return arrays


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in given.items() if isinstance(value, list)}


def _prepared(model: Model, images: Tensor) -> Model:
    folded = folded_copy(model, images)
    model = replace(model, quick=quick_copy(model, folded, images))
    return replace(model, watched=watched_copy(model, folded, images))


def _trials(image: tuple[int, int, int], device: torch.device) -> Tensor:
    return Streams.of(0, "sticker detector", [str(row) for row in range(_TRIALS)], device).uniform(0, tuple(image))


def _trial_scores(model: Model, rule: StickerRule, trials: Tensor) -> npt.NDArray[np.float64]:
    evidence = gather_evidence(_shelf(model, trials), rule.windows, rule.fill)
    return rule.scores(evidence)["combined"].cpu().numpy()


def _shelf(model: Model, images: Tensor) -> Shelf:
    ids = tuple(str(row) for row in range(len(images)))
    return Shelf(model, Samples(images, torch.zeros(len(images), dtype=torch.int64, device=images.device), ids))
