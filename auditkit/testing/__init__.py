"""For authors of checks: toy models whose smallest attack is known in closed form, and the contract as a test."""

from auditkit.testing.contract import assert_contract
from auditkit.testing.running import run_check, run_learn
from auditkit.testing.toys import LinearModel, linear_distance, toy_detector, toy_model, toy_origin, toy_samples

__all__ = [
    "LinearModel",
    "assert_contract",
    "linear_distance",
    "run_check",
    "run_learn",
    "toy_detector",
    "toy_model",
    "toy_origin",
    "toy_samples",
]
