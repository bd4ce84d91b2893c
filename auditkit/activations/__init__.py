"""How loud the neurons of a network are: streaming statistics of its activations, those of shards to be merged."""

from auditkit.activations.calibration import ActivationCalibration, calibrate_activations
from auditkit.activations.histogram import MagnitudeHistogram
from auditkit.activations.moments import Moments
from auditkit.activations.profile import ActivationStatistics, profile_activations
from auditkit.activations.tail import tail_index
from auditkit.activations.totals import ActivationTotals

__all__ = [
    "ActivationCalibration",
    "ActivationStatistics",
    "ActivationTotals",
    "MagnitudeHistogram",
    "Moments",
    "calibrate_activations",
    "profile_activations",
    "tail_index",
]
