"""`auditkit harden` and `auditkit stickers`: a bounded copy of a model, and a detector beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from auditkit.cli.options import PATH, command_line, model_options, sample_options
from auditkit.cli.root import cli
from auditkit.cli.running import run_and_tell
from auditkit.errors import UsageError

__all__: list[str] = []

_AFTER_HARDENING = """\
What the bounds buy is not known yet: only an audit of both models, with the same options, measures it.
next: auditkit run {model} --data {data} --out audit-before
      auditkit run {out} --data {data} --out audit-after"""

_AFTER_FITTING = """\
next: auditkit run {model} --data {data} --checks detect.stickers
      judges it on the images that it has not seen; use the same options and seed"""


@cli.command()
@click.argument("model")
@click.option("--data", required=True, help="Folder, .npz, module:factory or path.py:factory.")
@click.option("--out", type=PATH, required=True, help="New file: .onnx for an ONNX model, .pt or .pt2 for any other.")
@click.option(
    "--quantile",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.999,
    show_default=True,
    help="Share of the activations that a bound leaves alone.",
)
@click.option("--per", type=click.Choice(["channel", "layer"]), default="channel", show_default=True)
@click.option(
    "--overflow",
    type=click.Choice(["fold", "leak", "clip"]),
    default="fold",
    show_default=True,
    help="Beyond a bound: lead back down, go on rising slowly, or stay.",
)
@click.option("--report", type=PATH, help="Also attack both models, and report into this folder.")
@model_options
@sample_options
@click.option("--seed", type=int, help="Decides which images are held out. Default: 0.")
@click.option("--batch", type=int, help="Images at once; changes speed only.")
@click.option("--device", help="auto (default), cpu, cuda, cuda:1.")
def harden(
    model: str, data: str, out: Path, quantile: float, per: Any, overflow: Any, report: Path | None, **given: Any
) -> int:
    """Write a copy of MODEL with bounded activations, and tell what that costs on clean images."""
    from auditkit.auditing import run_audit
    from auditkit.config import settings_from
    from auditkit.hardening import WHAT_IT_BUYS
    from auditkit.hardening import harden as write_hardened
    from auditkit.workbench import Recipe

    values = {name: value for name, value in given.items() if value is not None}
    recipe = Recipe(model, data, settings_from(values))
    click.echo(write_hardened(recipe, out, quantile, per, overflow).summary())
    if report is None:
        click.echo(_AFTER_HARDENING.format(model=model, data=data, out=out))
        return 0
    options = {WHAT_IT_BUYS: {"quantile": quantile, "per": per, "overflow": overflow}}
    bought = Recipe(model, data, settings_from({**values, "checks": (WHAT_IT_BUYS,), "options": options}))
    return run_and_tell(
        lambda progress: run_audit(bought, report, progress, command=command_line()), report, False, False
    )


@cli.group()
def stickers() -> None:
    """Deploy a detector of stickers beside a model."""


@stickers.command("fit")
@click.argument("model")
@click.option("--data", required=True, help="Folder, .npz, module:factory or path.py:factory.")
@click.option("--out", type=PATH, required=True, help="New .npz file.")
@click.option("--set", "chosen", multiple=True, metavar="NAME=VALUE", help="Option of the check detect.stickers.")
@model_options
@sample_options
@click.option("--seed", type=int, help="Decides which images are held out. Default: 0.")
@click.option("--batch", type=int, help="Images at once; changes speed only.")
@click.option("--device", help="auto (default), cpu, cuda, cuda:1.")
def fit(model: str, data: str, out: Path, chosen: tuple[str, ...], **given: Any) -> int:
    """Fit and calibrate a detector of stickers for MODEL, and write it to a file."""
    from auditkit.config import settings_from
    from auditkit.stickers import fit_stickers
    from auditkit.workbench import Recipe

    options = {}
    for item in chosen:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set takes NAME=VALUE here, such as queries=100; got {item!r}")
        options[name.strip()] = value
    settings = settings_from({name: value for name, value in given.items() if value is not None})
    fitted = fit_stickers(Recipe(model, data, settings), out, options)
    click.echo(fitted.summary())
    click.echo(_AFTER_FITTING.format(model=model, data=data, out=out))
    return 0
