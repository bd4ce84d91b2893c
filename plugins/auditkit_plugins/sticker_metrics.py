"""What the check of stickers measures: scores by kinds, alarms, and where they point."""

from __future__ import annotations

from auditkit import Curve, Grid, Metric
from auditkit_plugins.sticker_kinds import KINDS

__all__ = ["COMPARED", "GRIDS", "PROMISES", "curves", "metrics"]

PROMISES = {"1": 0.01, "5": 0.05}
"""The shares of false alarms, by their per cent."""

COMPARED = {
    "combined": "all evidence together",
    "activity": "activations alone",
    "dissent": "covers alone (another class under a cover)",
    "peeled": "covers alone (another class after several covers)",
    "margin": "covers alone (what a cover takes from the margin)",
    "doubt": "plain confidence",
}
"""The scores that are compared, by name."""

_BY_KIND, _BY_SCORE = "Stickers told from clean images by the combined score", "Minimal stickers, by score"


def metrics() -> tuple[Metric, ...]:
    """Return what is measured on clean images, and of each kind."""
    found: list[Metric] = [
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
        fooled = f"{kind}_found"
        found += [
            Metric(
                f"{kind}_noticed", f"{kind}_alarm", f"{words}: share with an alarm, at 5 % false alarms", among=fooled
            ),
            *(
                Metric(
                    f"{kind}_auroc" if score == "combined" else f"{kind}_auroc_{score}",
                    f"{kind}_{score}",
                    f"{words}: AUROC, {by}",
                    "auroc",
                    against=f"clean_{score}",
                )
                for score, by in COMPARED.items()
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
                for name, share in PROMISES.items()
            ),
            Metric(f"{kind}_hit", f"{kind}_hit", f"{words}: the strongest cover touches a sticker", among=fooled),
            Metric(f"{kind}_hit_by_chance", f"{kind}_chance", f"{words}: a random cover does", "mean", among=fooled),
            Metric(
                f"{kind}_recovered", f"{kind}_recovered", f"{words}: the covers vote for the true class", among=fooled
            ),
            Metric(f"{kind}_missed", f"{kind}_missed", f"{words}: share without an alarm", among=fooled),
        ]
    return tuple(found)


GRIDS = (
    Grid(
        "AUROC: how well stickers are told from clean images",
        KINDS,
        {"auroc" if score == "combined" else f"auroc_{score}": words for score, words in COMPARED.items()},
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


def curves() -> tuple[Curve, ...]:
    """Return operating characteristics by kind and by score, and how many images are certified at each threshold."""
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
            for score, by in COMPARED.items()
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
