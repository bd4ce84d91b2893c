"""Would stickers be noticed? A detector is fitted on some images, and judged on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    STICKER_SCORES,
    Capability,
    Consistency,
    Context,
    Evidence,
    Exhibit,
    Fill,
    Findings,
    FlagRule,
    Lesson,
    Model,
    Samples,
    Shelf,
    Spec,
    StickerRule,
    Windows,
    activity,
    fit_rule,
    gather_evidence,
    image_panel,
    overlay_panel,
    peeled_dissent,
    pixel_map,
)
from auditkit_plugins.outline import outlined
from auditkit_plugins.sticker_kinds import KINDS, LEARNED_FROM, Stickered, attack_of, attacked_by, random_stickers
from auditkit_plugins.sticker_metrics import COMPARED, GRIDS, PROMISES, curves, metrics

__all__ = ["DetectStickers"]

Columns = dict[str, npt.NDArray[Any]]

_SOUND_FILLS = ("grey", "black")
# Examples of each kind.
_SHOWN = 2


@dataclass(frozen=True)
class DetectStickers:
    """Cover parts of an image and listen to the network; learn what stickers look like there, and raise alarms."""

    spec: ClassVar[Spec] = Spec(
        id="detect.stickers",
        title="Stickers that fool the model are noticed",
        why=(
            "A sticker is a small thing with a large effect. Covering it takes the effect away, and while it is there "
            "some units of the network answer far louder than they ever do. So a detector beside the model could raise "
            "an alarm. How many false alarms that costs, and which stickers it misses, is measured here on images that "
            "it has not seen, beside the plain confidence of the model."
        ),
        metrics=metrics(),
        needs=frozenset({Capability.SCORES}),
        scope="dataset",
        curves=curves(),
        grids=GRIDS,
        flags=(
            FlagRule(
                "detect.false_alarms",
                "false_alarms",
                0.1,
                "More than 10 % of the clean images raise an alarm, where 5 % were promised: the images that the "
                "detector was calibrated on are not like those that it was judged on.",
                "Calibrate it on images of the kind that it will see.",
            ),
            FlagRule(
                "detect.blind",
                "strong_missed",
                0.5,
                "More than half of the strong stickers raise no alarm.",
                "Do not rely on this detector; see which of its scores tells anything.",
            ),
        ),
        references=(
            "Horváth 2020, Adversarial samples in machine learning (talk)",
            "McCoyd et al. 2020 (Minority Reports), https://arxiv.org/abs/2004.13799",
            "Xiang et al. 2022 (PatchCleanser), https://arxiv.org/abs/2108.09135",
            "Vovk, Gammerman and Shafer 2005 (conformal prediction)",
            "Vovk 2012 (conditional validity), https://arxiv.org/abs/1209.2673",
            "Friedman 1989 (regularised discriminant analysis)",
        ),
        presets={
            "standard": {
                "queries": 100,
                "learn_from": 300,
                "peel": 0,
                "patch": False,
                "redundant": False,
                "quiet": False,
            },
            "full": {},
        },
    )

    queries: Annotated[int, Field(ge=1)] = 200
    """Of a sticker attack, an image; those that are to be missed may spend four times as many."""
    side: Annotated[float, Field(gt=0, le=1)] = 5 / 32
    """The longest side of a sticker, as a share of the image's shorter side; the covers hide one of this size."""
    fill: Fill = "grey"
    """What a cover shows. Certificates need one that does not depend on the image: `grey` or `black`."""
    windows: Annotated[int, Field(ge=2)] = 6
    """How many covers there are along an axis."""
    peel: Annotated[int, Field(ge=0)] = 3
    """How many further covers stay on the image, one after the other, for the score `peeled`; 0 leaves it out."""
    learn_from: Annotated[int, Field(ge=40)] = 400
    """How many images at most the rule is fitted and calibrated on, half of them each."""
    strong: bool = True
    single: bool = True
    patch: bool = True
    redundant: bool = True
    quiet: bool = True

    def learn(self, model: Model, samples: Samples, ctx: Context) -> Lesson:
        """Fit the rule on some images and stickers on them, and calibrate its thresholds on others."""
        draws = ctx.streams(samples.ids, "parts").uniform(0, ()).tolist()
        order = sorted(range(len(samples)), key=lambda row: (draws[row], samples.ids[row]))[: self.learn_from]
        half = len(order) // 2
        fitted, calibrated = samples.take(order[:half]), samples.take(order[half:])
        height, width = samples.images.shape[2:]
        windows = Windows.standard(height, width, self.side, self.windows)
        stickers = [
            attacked_by(attack_of(kind, self.queries, self.side, _silent), model, fitted, ctx).samples
            for kind in LEARNED_FROM
        ]
        evidence = [
            gather_evidence(Shelf(model, part), windows, self.fill, ctx.check_time)
            for part in (fitted, calibrated, *stickers)
        ]
        return fit_rule(evidence[0], evidence[2:], evidence[1], windows, self.fill).arrays()

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Judge the rule on clean images and on every kind of sticker."""
        rule = StickerRule.of(ctx.lesson)
        columns = self._clean_columns(rule, samples, ctx)
        columns |= self._harmless_columns(rule, model, samples, ctx)
        passes = len(rule.windows) * (1 + self.peel) + 2
        forwards = np.full(len(samples), passes + len(rule.windows) + 2, dtype=np.int64)
        exhibits: list[Exhibit] = []
        for kind in KINDS:
            ctx.check_time()
            wanted = kind == "minimal" or getattr(self, kind)
            possible = kind != "patch" or (Capability.GRADIENTS in model.capabilities and ctx.search is not None)
            possible = possible and (kind != "quiet" or rule.activity is not None)
            if not (wanted and possible):
                columns |= _no_columns(kind, len(samples))
                continue
            attack = attack_of(kind, self.queries, self.side, _alarm(rule, model))
            found = attacked_by(attack, model, samples, ctx)
            evidence, scores = self._judged(rule, Shelf(model, found.samples), ctx)
            columns |= _kind_columns(kind, rule, evidence.consistency, scores, found, len(samples))
            forwards += found.forwards
            forwards[found.rows.cpu().numpy()] += passes
            exhibits += _exhibits(kind, rule, evidence.consistency, scores, found, ctx)
        ctx.progress(len(samples))
        return Findings(columns, tuple(exhibits), forwards=forwards)

    def _judged(self, rule: StickerRule, shelf: Shelf, ctx: Context) -> tuple[Evidence, dict[str, Tensor]]:
        evidence = gather_evidence(shelf, rule.windows, rule.fill, ctx.check_time)
        scores = rule.scores(evidence)
        if self.peel:
            scores["peeled"] = peeled_dissent(
                shelf, evidence.consistency, rule.windows, rule.fill, self.peel, ctx.check_time
            )
        return evidence, scores

    def _clean_columns(self, rule: StickerRule, samples: Samples, ctx: Context) -> Columns:
        clean, scores = self._judged(rule, ctx.shelf, ctx)
        correct = ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels
        sound = torch.full_like(correct, rule.fill in _SOUND_FILLS)
        least_sure = clean.consistency.least_sure(samples.labels)
        columns: Columns = {
            f"clean_{name}": _numbers(scores, name, len(samples)) for name in (*STICKER_SCORES, "peeled")
        }
        columns |= {f"alarm_{name}": _alarms(rule, scores, share) for name, share in PROMISES.items()}
        columns["promises_1"] = np.full(len(samples), np.isfinite(rule.threshold("combined", 0.01)))
        return columns | {
            "clean_correct": correct.cpu().numpy(),
            "clean_wrong": (~correct).cpu().numpy(),
            "certifiable": (correct & sound).cpu().numpy(),
            "certified": (correct & sound & (least_sure > rule.threshold("dissent", 0.05))).cpu().numpy(),
            "least_sure": least_sure.cpu().numpy(),
        }

    def _harmless_columns(self, rule: StickerRule, model: Model, samples: Samples, ctx: Context) -> Columns:
        """Show random stickers, which attack nobody: an alarm then says that a sticker is there, not that it fools."""
        stickered = Samples(random_stickers(model, samples, self.side, ctx), samples.labels, samples.ids)
        shelf = Shelf(model, stickered)
        harmless = shelf.get(CLEAN_LOGITS).argmax(1) == ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        scores = rule.scores(gather_evidence(shelf, rule.windows, rule.fill, ctx.check_time))
        alarms = _alarms(rule, scores, 0.05)
        return {"harmless": harmless.cpu().numpy(), "harmless_alarm": alarms & harmless.cpu().numpy()}


def _silent(images: Tensor) -> Tensor:
    return images.new_zeros(len(images))


def _alarm(rule: StickerRule, model: Model) -> Callable[[Tensor], Tensor]:
    """Return how far the score of the activations lies beyond its threshold, in spreads of clean images."""
    discriminant, watched = rule.activity, model.watched
    if discriminant is None or watched is None:
        return _silent
    threshold = rule.threshold("activity", 0.05)

    def alarm(images: Tensor) -> Tensor:
        return (discriminant.score(activity(watched, model.sites, images).to(images.device)) - threshold) / rule.spread

    return alarm


def _numbers(scores: Mapping[str, Tensor], name: str, n: int) -> npt.NDArray[np.float64]:
    """Return a score's numbers (n,), NaN where the model does not allow it."""
    return scores[name].cpu().numpy() if name in scores else np.full(n, np.nan)


def _alarms(rule: StickerRule, scores: Mapping[str, Tensor], share: float) -> npt.NDArray[np.bool_]:
    return (scores["combined"] > rule.threshold("combined", share)).cpu().numpy()


def _kind_columns(
    kind: str, rule: StickerRule, covers: Consistency, scores: Mapping[str, Tensor], stickered: Stickered, n: int
) -> Columns:
    """Return what a kind of stickers did on n samples, of which some were attacked and some of these fooled."""
    rows = stickered.rows.cpu().numpy()

    def spread_out(values: npt.NDArray[Any], empty: Any) -> npt.NDArray[Any]:
        column = np.full(n, empty, dtype=values.dtype)
        column[rows] = values
        return column

    alarms = _alarms(rule, scores, PROMISES["5"])
    touched = _touched(rule.windows, stickered.changed)
    hit = touched.gather(1, covers.window.unsqueeze(1)).squeeze(1)
    recovered = covers.label == stickered.samples.labels
    columns = {f"{kind}_{name}": spread_out(_numbers(scores, name, len(rows)), np.nan) for name in COMPARED}
    return columns | {
        f"{kind}_found": spread_out(np.ones(len(rows), dtype=bool), False),
        f"{kind}_alarm": spread_out(alarms, False),
        f"{kind}_missed": spread_out(~alarms, False),
        f"{kind}_hit": spread_out(hit.cpu().numpy(), False),
        f"{kind}_chance": spread_out(touched.double().mean(1).cpu().numpy(), np.nan),
        f"{kind}_recovered": spread_out(recovered.cpu().numpy(), False),
    }


def _no_columns(kind: str, n: int) -> Columns:
    """Return the columns of a kind of stickers that nobody tried."""
    numbers = {f"{kind}_{name}": np.full(n, np.nan) for name in (*COMPARED, "chance")}
    return numbers | {
        f"{kind}_{name}": np.zeros(n, dtype=bool) for name in ("found", "alarm", "missed", "hit", "recovered")
    }


def _touched(windows: Windows, changed: Tensor) -> Tensor:
    """Return bool (M, K): whether each window covers a changed pixel, bool (M, H, W)."""
    return torch.stack(
        [
            changed[:, top : top + windows.height, left : left + windows.width].flatten(1).any(1)
            for top, left in windows.corners
        ],
        1,
    )


def _exhibits(
    kind: str,
    rule: StickerRule,
    covers: Consistency,
    scores: Mapping[str, Tensor],
    stickered: Stickered,
    ctx: Context,
) -> list[Exhibit]:
    """Show the images of a kind that are noticed least."""
    beyond = scores["combined"] - rule.threshold("combined", PROMISES["5"])
    lost = pixel_map(covers.lost.clamp_min(0), rule.windows).float()
    shown = sorted(range(len(beyond)), key=lambda row: (float(beyond[row]), stickered.samples.ids[row]))[:_SHOWN]
    exhibits = []
    for row in shown:
        image = stickered.samples.images[row]
        top, left = rule.windows.corners[int(covers.window[row])]
        window = torch.zeros_like(stickered.changed[row])
        window[top : top + rule.windows.height, left : left + rule.windows.width] = True
        noticed = "noticed" if float(beyond[row]) > 0 else "not noticed"
        label = ctx.class_name(int(covers.label[row]))
        exhibits.append(
            Exhibit(
                sample=stickered.samples.ids[row],
                caption=f"{KINDS[kind]}: {noticed}",
                score=-float(beyond[row]),
                panels=(
                    image_panel(f"clean: {ctx.class_name(int(stickered.samples.labels[row]))}", stickered.clean[row]),
                    image_panel(f"attacked; the covers vote for {label}", outlined(image, window)),
                    overlay_panel("margin that covers take", image, lost[row]),
                ),
            )
        )
    return exhibits
