"""The words that the page explains where they stand and in its glossary: what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["TERMS", "Term"]


@dataclass(frozen=True)
class Term:
    """A word as the glossary lists it, and its meaning in a sentence or two."""

    word: str
    meaning: str
    task: Literal["classification", "detection"] | None = None
    """The task whose reports use it; None: all do."""


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "pass": Term("Pass, fail", "The whole interval lies on the right, or on the wrong, side of the threshold."),
        "inconclusive": Term(
            "Inconclusive",
            "The interval straddles the threshold: more images are needed. It does not count as a pass.",
        ),
        "no-evidence": Term(
            "No evidence",
            "The check was skipped, failed, or gave no such metric. It does not count as a pass.",
        ),
        "warning": Term(
            "Warning, waived",
            "Not met, but without effect on the verdict: the requirement only warns, or somebody answers for it.",
        ),
        "interval": Term(
            "Interval",
            "The range that holds the true value at the stated confidence, were the images a random draw. More images "
            "make it narrower.",
        ),
        "clean-accuracy": Term(
            "Clean accuracy", "The share of images that the model classifies correctly as they are.", "classification"
        ),
        "robust-accuracy": Term(
            "Robust accuracy",
            "The share of images classified correctly both as they are and under attack: an upper bound on true "
            "robustness.",
            "classification",
        ),
        "success-rate": Term(
            "Attack success rate",
            "Among the images classified correctly at first, the share that the attack fooled.",
            "classification",
        ),
        "average-precision": Term(
            "Average precision, AP50",
            "How well all objects are found, and nothing else: the area under precision over recall as the score that "
            "counts falls, mean over the classes. AP50 asks for boxes that overlap the annotated ones by half.",
            "detection",
        ),
        "overlap": Term(
            "Overlap (IoU)",
            "The area that two boxes share, over the area that they cover together: 1 for equal boxes, 0 for apart.",
            "detection",
        ),
        "vanish-rate": Term(
            "Vanish rate",
            "Among the objects found at first, the share that is not found under attack: gone, or taken for another.",
            "detection",
        ),
        "budget": Term(
            "Budget (eps)",
            "How much an attack may change: for L-inf, the largest change of any value; 8/255 is 8 of 255 grey levels.",
        ),
        "threat-model": Term("Threat model", "What the attacker knows, wants and may change."),
        "chance": Term("Chance", "What guessing reaches: one image in as many as there are classes.", "classification"),
        "difference": Term(
            "Difference \N{MULTIPLICATION SIGN} k",
            "Attacked minus clean, k times as strong, around mid-grey: grey is unchanged.",
        ),
        "saliency": Term(
            "Saliency", "Where the decision reacts to a change of the pixels; a hint, not an explanation."
        ),
        "map": Term(
            "Map",
            "A value at each pixel, darker to brighter. All maps of a row share one scale, up to their 99th "
            "percentile.",
        ),
        "overlay": Term(
            "Overlay",
            "A map laid over the image in grey. Where nothing is hidden the map is zero; the brighter the colour, the "
            "more it covers. Its colour bar shows the colours over black, and below that over white.",
        ),
        "hits": Term(
            "Hits, false alarms",
            "Of the images that a score should point out, the share that it does; of the others, the share that it "
            "points out wrongly. A lower threshold gives more of both.",
        ),
        "auroc": Term(
            "AUROC",
            "The area under the curve of hits over false alarms: the chance that an image to be pointed out has the "
            "higher score. 1 is perfect, 0.5 is chance.",
        ),
        "profile": Term("Profile", "A value at each place along the network, from input to output."),
        "endurance": Term(
            "Endurance", "How much of the attackers' effort an image withstands, averaged over the attacks."
        ),
        "boxes": Term(
            "Boxes",
            "What is annotated, and what a detector reports: a class and how sure it is. Found: an object of this "
            "class lies there. Of many boxes the largest dozen have labels, as far as there is room.",
        ),
        "pictures": Term(
            "Pictures", "Small images are enlarged pixel by pixel, large ones reduced to 160 pixels, with boxes to 320."
        ),
        "digest": Term(
            "SHA-256, fingerprint",
            "A short number that stands for a file or a set of images: any change of them changes it.",
        ),
        "seed": Term("Seed", "Fixes every random draw, so that the audit can be repeated."),
    }
)
"""By the name with which the templates ask for them, in the order of the glossary."""
