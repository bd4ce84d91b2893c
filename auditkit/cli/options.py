"""Options that several commands have in common."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

__all__ = [
    "DEFAULT_CONFIG",
    "PATH",
    "command_line",
    "detector_options",
    "gate_options",
    "model_options",
    "requirements",
    "sample_options",
    "worker_options",
]

PATH = click.Path(path_type=Path)
DEFAULT_CONFIG = Path("auditkit.toml")


def model_options(command: Any) -> Any:
    """Give a command the options that say how the network is loaded and fed."""
    for option in reversed(
        (
            click.option("--weights", type=PATH, help="Weights of a factory: safetensors or a state dict."),
            click.option(
                "--trust-pickle", is_flag=True, default=None, help="Load a pickled model; runs the code in it."
            ),
            click.option("--mean", help="Subtracted a channel, RGB, in units of --input-range; or: imagenet."),
            click.option("--std", help="Divided by, a channel; or: imagenet."),
            click.option("--input-range", help="What the network takes: 1 (default), 255, or -1,1."),
            click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), help="What the network takes."),
            click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="What the network takes."),
            click.option(
                "--outputs", type=click.Choice(["logits", "probabilities", "labels"]), help="What it returns."
            ),
            click.option("--classes", type=int, help="How many there are, where the network returns labels."),
        )
    ):
        command = option(command)
    return command


def sample_options(command: Any) -> Any:
    """Give a command the options that say how the images are read."""
    for option in reversed(
        (
            click.option("--labels", type=PATH, help="CSV of file and label, for a flat folder."),
            click.option("--masks", type=PATH, help="Where the objects are: folder of pictures, COCO .json or .npz."),
            click.option("--ood", help="A second data set, of images unlike the data; it needs no labels."),
            click.option("--resize", help="Resize images to N or HxW."),
            click.option("--colour", type=click.Choice(["auto", "rgb", "grey"]), help="Read images in colour or grey."),
            click.option("--label-offset", type=int, help="Added to every label, for a background class and the like."),
            click.option("--skip-bad", is_flag=True, default=None, help="Count unreadable images instead of stopping."),
            click.option("--limit", type=int, help="Use this many images only."),
        )
    ):
        command = option(command)
    return command


def detector_options(command: Any) -> Any:
    """Give a command the options for detectors of objects."""
    for option in reversed(
        (
            click.option("--boxes", type=PATH, help="COCO .json with the objects in the images: MODEL is a detector."),
            click.option("--decode", help="module:function or path.py:function that makes boxes of what it returns."),
            click.option(
                "--box-units", type=click.Choice(["auto", "shares", "pixels"]), help="Of the boxes that it returns."
            ),
            click.option("--overlap", help="Above which two boxes of a class are one object; or: none."),
            click.option("--score", type=float, help="How sure it is of what counts as found. Default: 0.3."),
        )
    ):
        command = option(command)
    return command


def worker_options(command: Any) -> Any:
    """Give a command the options that say who computes."""
    for option in reversed(
        (
            click.option("--workers", type=int, help="Processes; 0 (default): this one, or as many as a cluster has."),
            click.option("--executor", type=click.Choice(["local", "ray"]), help="Where the workers are."),
            click.option("--ray-address", help="Of a Ray cluster, or: auto. Default: one is started on this machine."),
            click.option("--gpus-per-worker", type=float, help="Share of a GPU for each worker of a cluster; 1."),
            click.option("--memory-limit", type=float, help="Gigabytes that a worker process may hold."),
        )
    ):
        command = option(command)
    return command


def gate_options(command: Any) -> Any:
    """Give a command the options that say what is required."""
    for option in reversed(
        (
            click.option(
                "--gate",
                "gates",
                multiple=True,
                metavar="REQUIREMENT",
                help='Such as "noise.pgd/robust_accuracy >= 0.4", or "... drop <= 2%" against a baseline.',
            ),
            click.option(
                "--warn",
                "warnings",
                multiple=True,
                metavar="REQUIREMENT",
                help="One that only warns.",
            ),
            click.option("--baseline", type=PATH, help="Stored audit of the same images, for gates on a drop or rise."),
        )
    ):
        command = option(command)
    return command


def requirements(gates: Sequence[str], warnings: Sequence[str]) -> tuple[str | dict[str, str], ...]:
    """Return requirements as settings hold them."""
    return (*gates, *({"require": text, "level": "warn"} for text in warnings))


def command_line() -> str:
    """Return the command as it was typed, for the result."""
    return shlex.join(["auditkit", *sys.argv[1:]])
