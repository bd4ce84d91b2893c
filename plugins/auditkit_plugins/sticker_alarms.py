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
    Context,
    Curve,
    Evidence,
    Exhibit,
    Fill,
    Findings,
    FlagRule,
    Grid,
    Lesson,
    Metric,
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
    pixel_map,
)
from auditkit_plugins.outline import outlined
from auditkit_plugins.sticker_kinds import KINDS, LEARNED_FROM, Stickered, attack_of, attacked_by, random_stickers

__all__ = ["DetectStickers"]

Columns = dict[str, npt.NDArray[Any]]

_PROMISES = {"1": 0.01, "5": 0.05}
_COMPARED = {
    "combined": "all evidence together",
    "activity": "activations alone",
    "dissent": "covers alone (another class under a cover)",
    "margin": "covers alone (what a cover takes from the margin)",
    "doubt": "plain confidence",
}
_BY_KIND, _BY_SCORE = "Stickers told from clean images by the combined score", "Minimal stickers, by score"
_SOUND_FILLS = ("grey", "black")
# Examples of each kind.
_SHOWN = 2


def _metrics() -> tuple[Metric, ...]:
    metrics = [
        Metric("false_alarms", "alarm_5", "Clean images with an alarm, where 5 % are allowed"),
        Metric("false_alarms_at_1", "alarm_1", "Clean images with an alarm, where 1 % are allowed", among="promises_1"),
        Metric(
            "false_alarms_among_wrong",
            "alarm_5",
            "The same of those that the model gets wrong, where 5 % are allowed",
            among="clean_wrong",
        ),
        Metric(
            "harmless_alarms",
            "harmless_alarm",
            "Random stickers of the same size that change no prediction: share with an alarm",
            among="harmless",
        ),
        Metric(
            "certified",
            "certified",
            "Recognised images on which no patch of the covers' size can go unnoticed by the covers",
            among="certifiable",
        ),
    ]
    for kind, words in KINDS.items():
        found = f"{kind}_found"
        metrics += [
            Metric(
                f"{kind}_noticed", f"{kind}_alarm", f"{words}: share with an alarm, at 5 % false alarms", among=found
            ),
            *(
                Metric(
                    f"{kind}_auroc" if score == "combined" else f"{kind}_auroc_{score}",
                    f"{kind}_{score}",
                    f"{words}: AUROC, {by}",
                    "auroc",
                    against=f"clean_{score}",
                )
                for score, by in _COMPARED.items()
            ),
            *(
                Metric(
                    f"{kind}_tpr_at_{name}",
                    f"{kind}_combined",
                    f"{words}: TPR at {name} % FPR, all evidence together",
                    "tpr",
                    against="clean_combined",
                    at=share,
                )
                for name, share in _PROMISES.items()
            ),
            Metric(f"{kind}_hit", f"{kind}_hit", f"{words}: the strongest cover touches a sticker", among=found),
            Metric(f"{kind}_hit_by_chance", f"{kind}_chance", f"{words}: a random cover does", "mean", among=found),
            Metric(
                f"{kind}_recovered", f"{kind}_recovered", f"{words}: the covers vote for the true class", among=found
            ),
            Metric(f"{kind}_missed", f"{kind}_missed", f"{words}: share without an alarm", among=found),
        ]
    return tuple(metrics)


_GRIDS = (
    Grid(
        "AUROC: how well stickers are told from clean images",
        KINDS,
        {"auroc" if score == "combined" else f"auroc_{score}": words for score, words in _COMPARED.items()},
    ),
    Grid(
        "Alarms, by all evidence together",
        KINDS,
        {
            "noticed": "alarm at the calibrated threshold, 5 % being allowed",
            "missed": "no alarm",
            "tpr_at_5": "TPR at 5 % FPR",
            "tpr_at_1": "TPR at 1 % FPR",
        },
    ),
    Grid(
        "Where the covers point",
        KINDS,
        {
            "hit": "the strongest cover touches a sticker",
            "hit_by_chance": "a random cover does",
            "recovered": "covers vote for the true class",
        },
    ),
)


def _curves() -> tuple[Curve, ...]:
    return (
        *(
            Curve(
                f"{kind}_auroc",
                f"Receiver operating characteristic: {words}",
                "false alarms",
                column=f"{kind}_combined",
                against="clean_combined",
                figure=_BY_KIND,
                line=kind,
            )
            for kind, words in KINDS.items()
        ),
        *(
            Curve(
                f"minimal_auroc_{score}",
                f"Receiver operating characteristic: {by}",
                "false alarms",
                column=f"minimal_{score}",
                against=f"clean_{score}",
                figure=_BY_SCORE,
                line=by,
            )
            for score, by in _COMPARED.items()
            if score != "combined"
        ),
        Curve(
            "certified",
            "Recognised images that keep their class under every cover, over how sure the least sure cover is",
            "confidence",
            column="least_sure",
            among="certifiable",
        ),
    )


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
        metrics=_metrics(),
        needs=frozenset({Capability.SCORES}),
        scope="dataset",
        curves=_curves(),
        grids=_GRIDS,
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
            "Horváth and Egervári 2018 (consistency under covers; talk of 2020)",
            "McCoyd et al. 2020 (Minority Reports), https://arxiv.org/abs/2004.13799",
            "Xiang et al. 2022 (PatchCleanser), https://arxiv.org/abs/2108.09135",
            "Vovk, Gammerman and Shafer 2005 (conformal prediction)",
            "Friedman 1989 (regularised discriminant analysis)",
        ),
        presets={
            "standard": {"queries": 100, "learn_from": 300, "patch": False, "redundant": False, "quiet": False},
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
        clean = gather_evidence(ctx.shelf, rule.windows, rule.fill, ctx.check_time)
        columns = self._clean_columns(rule, clean, samples, ctx)
        columns |= self._harmless_columns(rule, model, samples, ctx)
        forwards = np.full(len(samples), 2 * (len(rule.windows) + 2), dtype=np.int64)
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
            evidence = gather_evidence(Shelf(model, found.samples), rule.windows, rule.fill, ctx.check_time)
            columns |= _kind_columns(kind, rule, evidence, found, len(samples))
            forwards += found.forwards
            forwards[found.rows.cpu().numpy()] += len(rule.windows) + 2
            exhibits += _exhibits(kind, rule, evidence, found, ctx)
        ctx.progress(len(samples))
        return Findings(columns, tuple(exhibits), forwards=forwards)

    def _clean_columns(self, rule: StickerRule, clean: Evidence, samples: Samples, ctx: Context) -> Columns:
        scores = rule.scores(clean)
        correct = ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels
        sound = torch.full_like(correct, rule.fill in _SOUND_FILLS)
        least_sure = clean.consistency.least_sure(samples.labels)
        columns: Columns = {f"clean_{name}": _numbers(scores, name, len(samples)) for name in STICKER_SCORES}
        columns |= {f"alarm_{name}": _alarms(rule, scores, share) for name, share in _PROMISES.items()}
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


def _kind_columns(kind: str, rule: StickerRule, evidence: Evidence, stickered: Stickered, n: int) -> Columns:
    """Return what a kind of stickers did on n samples, of which some were attacked and some of these fooled."""
    rows = stickered.rows.cpu().numpy()

    def spread_out(values: npt.NDArray[Any], empty: Any) -> npt.NDArray[Any]:
        column = np.full(n, empty, dtype=values.dtype)
        column[rows] = values
        return column

    scores = rule.scores(evidence)
    alarms = _alarms(rule, scores, _PROMISES["5"])
    touched = _touched(rule.windows, stickered.changed)
    hit = touched.gather(1, evidence.consistency.window.unsqueeze(1)).squeeze(1)
    recovered = evidence.consistency.label == stickered.samples.labels
    columns = {f"{kind}_{name}": spread_out(_numbers(scores, name, len(rows)), np.nan) for name in _COMPARED}
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
    numbers = {f"{kind}_{name}": np.full(n, np.nan) for name in (*_COMPARED, "chance")}
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


def _exhibits(kind: str, rule: StickerRule, evidence: Evidence, stickered: Stickered, ctx: Context) -> list[Exhibit]:
    """Show the images of a kind that are noticed least."""
    scores = rule.scores(evidence)["combined"]
    beyond = scores - rule.threshold("combined", _PROMISES["5"])
    lost = pixel_map(evidence.consistency.lost.clamp_min(0), rule.windows).float()
    shown = sorted(range(len(beyond)), key=lambda row: (float(beyond[row]), stickered.samples.ids[row]))[:_SHOWN]
    exhibits = []
    for row in shown:
        image = stickered.samples.images[row]
        top, left = rule.windows.corners[int(evidence.consistency.window[row])]
        window = torch.zeros_like(stickered.changed[row])
        window[top : top + rule.windows.height, left : left + rule.windows.width] = True
        noticed = "noticed" if float(beyond[row]) > 0 else "not noticed"
        label = ctx.class_name(int(evidence.consistency.label[row]))
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
