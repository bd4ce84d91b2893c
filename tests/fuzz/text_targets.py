"""What strangers write in text: settings, requirements, options of checks."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from harness import Target

from auditkit.cli import cli
from auditkit.config import read_config, settings_from
from auditkit.gate import judge
from auditkit.plan import plan_checks
from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries, load_check
from auditkit.requirements import parse_requirement

__all__ = ["TARGETS"]

_GATE_WORDS = (
    b"noise.pgd",
    b"/",
    b"robust_accuracy",
    b"@",
    b"2/255",
    b">=",
    b"<=",
    b">",
    b"<",
    b" drop ",
    b" rise ",
    b"40%",
    b"0.4",
    b" ",
    b"\t",
    b"-",
    b"inf",
    b"nan",
    b"1e400",
)
_CONFIG_WORDS = (
    b"preset",
    b"checks",
    b"gates",
    b"options",
    b"[options.'noise.pgd']",
    b"[[gates]]",
    b"require",
    b"level",
    b"waiver",
    b"model",
    b"data",
    b"out",
    b"limit",
    b"resize",
    b"class_names",
    b"mean",
    b"boxes",
    b"decode",
    b"=",
    b'"',
    b'"""',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\n",
    b"true",
    b"nan",
    b"inf",
    b"2027-01-31",
    b"07:32:00",
    b"0x7fffffffffffffff",
    b"1_000",
    b"\\u0000",
    b"\\n",
    b"\\u001b",
)
_CONFIGS = (
    """
preset = "smoke"
checks = ["noise.pgd", "noise.gaussian"]
gates = ["noise.pgd/robust_accuracy >= 0.4", "noise.gaussian/clean_accuracy >= 90%"]
model = "net.onnx"
data = "images"
mean = [0.485, 0.456, 0.406]
std = "imagenet"
resize = "227x320"
limit = 100
class_names = ["stop", "yield"]

[options."noise.pgd"]
eps = "2/255, 8/255"
steps = 20
""",
    """
boxes = "boxes.json"
decode = "decode.py:decode"
overlap = 0.5
score = 0.3
box_units = "pixels"

[[gates]]
require = "noise.pgd/precision drop <= 2%"
level = "warn"

[[gates]]
require = "samples.precision/precision >= 0.3"
waiver = {reason = "known", until = 2027-01-31, owner = "me"}
""",
    """
time_limit = 1.5
workers = 2
seed = 7
device = "cpu"
precision = "float32"
skip_bad = true
colour = "grey"
label_offset = -1
outputs = "labels"
classes = 10
baseline = "earlier"
ood = "others"
""",
)


def _warmed(function: Any) -> Any:
    """Load all checks first: what they import is no work of an input."""

    @functools.wraps(function)
    def corpus() -> list[bytes]:
        for group in (CHECKS, DETECTOR_CHECKS):
            for entry in entries(group):
                load_check(entry)
        return function()

    return corpus


@_warmed
def _configs() -> list[bytes]:
    return [text.encode() for text in _CONFIGS]


def _run_config(data: bytes, folder: Path) -> None:
    file = folder / "auditkit.toml"
    file.write_bytes(data)
    values = read_config(file)
    for name in ("model", "data", "out"):
        values.pop(name, None)
    settings = settings_from(values)
    for gate in settings.gates:
        parse_requirement(gate)
    group = CHECKS if settings.boxes is None else DETECTOR_CHECKS
    with _without_digests():
        plan_checks(settings.checks, settings.options, settings.preset, group)


def _without_digests() -> AbstractContextManager[object]:
    """Leave out the digests of all code, which every check of a plan gets: no part of reading options, and slow."""
    return patch("auditkit.plan.code_digest", return_value="")


def _gates() -> list[bytes]:
    return [
        b"noise.pgd/robust_accuracy >= 0.4",
        b"noise.pgd/robust_accuracy@2/255 >= 40%",
        b"noise.pgd@strong/robust_accuracy@0.5/255 > 1/3",
        b"patch.universal/attack_success_rate <= 5 %",
        b"noise.gaussian/clean_accuracy drop <= 2%",
        b"profile.ood/auroc rise < -0.1",
    ]


def _run_gate(data: bytes, folder: Path) -> None:
    gate = parse_requirement(data.decode(errors="surrogateescape"))
    again = parse_requirement(str(gate))
    if again != gate:
        raise AssertionError(f"{gate} was read as {again!r}, not {gate!r}")
    from stored_targets import example_result

    judge(example_result(), [gate]).to_json()


@_warmed
def _options() -> list[bytes]:
    return [
        b"noise.pgd.eps=2/255,8/255\nnoise.pgd.steps=20\nnoise.pgd/robust_accuracy >= 0.4",
        b"noise.corruptions.severities=1,5\nnoise.gaussian.eps=0.1",
        b"patch.sticker.area=0.02\npixel.one.pixels=3\npixel.one/robust_accuracy@3 > 0",
        b"noise.square.queries=100\nnoise.minimal.steps=5\nphysical.space.degrees=10",
        b"checks noise.[a-f]*\nchecks samples.hard\nnoise.fgsm.eps=4/255",
    ]


def _run_options(data: bytes, folder: Path) -> None:
    """Give the lines to the command line as one would: gates, choices of checks, and options of checks."""
    arguments = ["run", "no.onnx", "--data", str(folder / "none"), "--out", str(folder / "out"), "--quiet"]
    lines = data.decode(errors="surrogateescape").splitlines()
    if not any(line.startswith("checks ") for line in lines):
        arguments += ["--checks", "noise.pgd,noise.gaussian,patch.sticker"]
    for line in lines:
        if line.startswith("checks "):
            arguments += ["--checks", line.removeprefix("checks ")]
        else:
            arguments += ["--gate" if ">" in line or "<" in line else "--set", line]
    with click.Context(cli), _without_digests():
        cli.main(arguments, prog_name="auditkit", standalone_mode=False)


TARGETS = (
    Target("config", _configs, _run_config, _CONFIG_WORDS),
    Target("gate", _gates, _run_gate, _GATE_WORDS),
    Target("options", _options, _run_options, (*_GATE_WORDS, b"=", b".eps=", b"checks ", b"\n", b"*", b"[", b"!")),
)
