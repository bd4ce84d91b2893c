"""`auditkit run` and `auditkit demo`: audits of a model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from auditkit.cli.options import (
    DEFAULT_CONFIG,
    PATH,
    command_line,
    detector_options,
    gate_options,
    model_options,
    requirements,
    sample_options,
    worker_options,
)
from auditkit.cli.root import cli
from auditkit.errors import UsageError

__all__ = ["run_and_tell"]

_DEMO_DISCLAIMER = (
    "Demonstration: the images are traffic signs rendered by code, and the network is a small one trained on such "
    "renderings. Nothing here says anything about photographs or about a product."
)
_DEMO_GATES = (
    "noise.gaussian/clean_accuracy >= 0.9",
    "noise.gaussian/robust_accuracy@8/255 >= 0.8",
    "noise.pgd/robust_accuracy@2/255 >= 0.5",
)


@cli.command()
@click.argument("model", required=False)
@click.option("--data", help="Folder, .npz, module:factory or path.py:factory.")
@click.option("--preset", help="smoke, standard (default) or full.")
@click.option("--checks", multiple=True, help="Ids or patterns, repeated or with commas; default: the preset's.")
@click.option("--set", "settings", multiple=True, metavar="CHECK.OPTION=VALUE", help="Set an option of a check.")
@gate_options
@click.option(
    "--until-decided", is_flag=True, default=None, help="Take images in random order; stop when all gates are decided."
)
@click.option("--config", type=PATH, help="Settings in TOML; default: ./auditkit.toml, if there.")
@click.option("--out", type=PATH, help="Folder for results; a run that stopped goes on there. Default: audit.")
@model_options
@detector_options
@sample_options
@click.option("--export", type=PATH, help="Write hard and attacked images to this new folder, to train on.")
@click.option("--seed", type=int, help="Fixes every random draw. Default: 0.")
@click.option("--batch", type=int, help="Images at once; changes speed only.")
@worker_options
@click.option("--device", help="auto (default), cpu, cuda, cuda:1.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Of the search only; verdicts come from the model as it is.",
)
@click.option("--time-limit", type=float, help="Seconds a check may take on a shard.")
@click.option("--start-over", is_flag=True, help="Throw away what an audit left unfinished in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def run(model: str | None, config: Path | None, start_over: bool, as_json: bool, quiet: bool, **given: Any) -> int:
    """Audit MODEL: a .onnx, .pt or .pt2 file, module:factory or path.py:factory."""
    from auditkit.config import settings_from
    from auditkit.executors.zygote import zygote_for

    values = _merge(config, given)
    model = model or values.pop("model", None)
    data = values.pop("data", None)
    out = Path(values.pop("out", None) or "audit")
    export = values.pop("export", None)
    values.pop("model", None)
    if model is None or data is None:
        missing = "MODEL" if model is None else "--data"
        raise UsageError(f"{missing} is missing: auditkit run MODEL --data DATA (or model and data in auditkit.toml)")
    settings = settings_from(values)
    exported = Path(export) if export is not None else None
    with zygote_for(settings) as zygote:
        # Only now: the zygote imports the same at the same time.
        from auditkit.auditing import run_audit
        from auditkit.workbench import Recipe

        work = functools.partial(
            run_audit,
            Recipe(model, data, settings),
            out,
            export=exported,
            start_over=start_over,
            command=command_line(),
            zygote=zygote,
        )
        return run_and_tell(work, out, as_json, quiet)


def run_and_tell(work: Any, out: Path, as_json: bool, quiet: bool) -> int:
    """Audit with a progress bar, print what was found, and return the exit code."""
    from rich.console import Console

    from auditkit.gate import exit_code
    from auditkit.terminal import print_result, progress_for

    progress = progress_for(quiet)
    try:
        audited = work(progress)
    finally:
        progress.close()
    if as_json:
        click.echo(audited.result.to_json(), nl=False)
    else:
        print_result(audited.result, Console(soft_wrap=True))
        click.echo(f"report: {out / 'report.html'}")
    return exit_code(audited.result)


def _merge(config: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the file, overridden by those of the command line."""
    from auditkit.config import read_config

    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    values = read_config(config) if config is not None else {}
    if checks := given.pop("checks"):
        values["checks"] = tuple(part for item in checks for part in item.split(",") if part)
    if gates := requirements(given.pop("gates"), given.pop("warnings")):
        values["gates"] = gates
    options = {key: dict(of_check) for key, of_check in values.get("options", {}).items()}
    for item in given.pop("settings"):
        name, equals, value = item.partition("=")
        check, dot, option = name.strip().rpartition(".")
        if not equals or not dot or "." not in check:
            raise UsageError(f"--set takes CHECK.OPTION=VALUE, such as noise.pgd.steps=20; got {item!r}")
        options.setdefault(check, {})[option] = value
    if options:
        values["options"] = options
    values |= {name: value for name, value in given.items() if value is not None}
    return values


@cli.command()
@click.option("--out", type=PATH, default=Path("auditkit-demo"), show_default=True)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def demo(out: Path, quiet: bool) -> int:
    """Audit a small network on rendered traffic signs, both of which come with auditkit."""
    from auditkit.auditing import run_audit
    from auditkit.config import settings_from
    from auditkit.demo import IMAGES, WEIGHTS
    from auditkit.workbench import Recipe

    settings = settings_from({"preset": "smoke", "weights": WEIGHTS, "gates": _DEMO_GATES})
    recipe = Recipe("auditkit.demo.network:SignNet", str(IMAGES), settings)
    run_and_tell(
        lambda progress: run_audit(recipe, out, progress, command="auditkit demo", disclaimer=_DEMO_DISCLAIMER),
        out,
        False,
        quiet,
    )
    return 0
