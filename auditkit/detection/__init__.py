"""Noticing stickers: covering parts of an image, listening to the network, and a threshold that keeps its promise."""

from auditkit.detection.activity import activity, activity_sites
from auditkit.detection.conformal import CALIBRATION_CONFIDENCE, conformal_threshold, images_needed
from auditkit.detection.consistency import CONSISTENCY_SCORES, Consistency, consistency
from auditkit.detection.detector import StickerAlarms, StickerDetector
from auditkit.detection.discriminant import Discriminant, fit_discriminant
from auditkit.detection.evidence import Evidence, gather_evidence
from auditkit.detection.peeling import peeled_dissent
from auditkit.detection.rule import FALSE_ALARMS, STICKER_SCORES, StickerRule, fit_rule

__all__ = [
    "CALIBRATION_CONFIDENCE",
    "CONSISTENCY_SCORES",
    "FALSE_ALARMS",
    "STICKER_SCORES",
    "Consistency",
    "Discriminant",
    "Evidence",
    "StickerAlarms",
    "StickerDetector",
    "StickerRule",
    "activity",
    "activity_sites",
    "conformal_threshold",
    "consistency",
    "fit_discriminant",
    "fit_rule",
    "gather_evidence",
    "images_needed",
    "peeled_dissent",
]
