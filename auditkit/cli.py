"""The command line: `auditkit run`, `gate`, `report`, `harden`, `stickers`, `checks`, `demo`, `init`, `doctor`."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from auditkit.errors import AuditError, ExitCode, UsageError

__all__ = ["cli", "main"]

_PATH = click.Path(path_type=Path)
_DEFAULT_CONFIG = Path("auditkit.toml")
_FORMATS = ("html", "json", "junit", "markdown", "sarif", "cyclonedx", "in-toto", "model-index")
_DEMO_DISCLAIMER = (
    "Demonstration: the images are traffic signs rendered by code, and the network is a small one trained on such "
    "renderings. Nothing here says anything about photographs or about a product."
)
_DEMO_GATES = (
    "noise.gaussian/clean_accuracy >= 0.9",
    "noise.gaussian/robust_accuracy@8/255 >= 0.8",
    "noise.pgd/robust_accuracy@2/255 >= 0.5",
)
_AFTER_HARDENING = """\
What the bounds buy is not known yet: only an audit of both models, with the same options, measures it.
next: auditkit run {model} --data {data} --out audit-before
      auditkit run {out} --data {data} --out audit-after"""

_AFTER_FITTING = """\
next: auditkit run {model} --data {data} --checks detect.stickers
      judges it on the images that it has not seen; use the same options and seed"""

_AFTER_SCAFFOLDING = """\
next: pip install --editable {folder}
      pytest {folder}
      auditkit run MODEL --data DATA --checks {check_id}"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("auditkit"), prog_name="auditkit")
def cli() -> None:
    """Audit an image model: attack it, see what it looks at, judge it, and show the evidence."""


def main() -> None:
    """Run the command line and exit with a code that means something (see `auditkit.ExitCode`)."""
    try:
        code = cli(prog_name="auditkit", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("auditkit: interrupted; what is done is kept, the same command goes on from there", err=True)
        code = ExitCode.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = ExitCode.USAGE
    except click.ClickException as error:
        click.echo(f"auditkit: {_on_one_line(error.format_message())}", err=True)
        code = ExitCode.USAGE
    except AuditError as error:
        click.echo(f"auditkit: {_on_one_line(str(error))}", err=True)
        code = error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"auditkit: {_on_one_line(f'{where}{error.strerror or error}')}", err=True)
        code = ExitCode.EXECUTION
    except Exception as error:
        if os.environ.get("AUDITKIT_DEBUG"):
            traceback.print_exc()
        text = (str(error).strip().splitlines() or [""])[0]
        click.echo(f"auditkit: internal error, {type(error).__name__}: {text} (AUDITKIT_DEBUG=1 shows where)", err=True)
        code = ExitCode.EXECUTION
    sys.exit(int(code or 0))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _model_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--weights", type=_PATH, help="Weights of a factory: safetensors or a state dict."),
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


def _sample_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--labels", type=_PATH, help="CSV of file and label, for a flat folder."),
            click.option("--masks", type=_PATH, help="Where the objects are: folder of pictures, COCO .json or .npz."),
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


@cli.command()
@click.argument("model", required=False)
@click.option("--data", help="Folder, .npz, module:factory or path.py:factory.")
@click.option("--preset", help="smoke, standard (default) or full.")
@click.option("--checks", multiple=True, help="Ids or patterns, repeated or with commas; default: the preset's.")
@click.option("--set", "settings", multiple=True, metavar="CHECK.OPTION=VALUE", help="Set an option of a check.")
@click.option(
    "--gate", "gates", multiple=True, metavar="REQUIREMENT", help='Such as "noise.pgd/robust_accuracy >= 0.4".'
)
@click.option("--config", type=_PATH, help="Settings in TOML; default: ./auditkit.toml, if there.")
@click.option("--out", type=_PATH, help="Folder for results; a run that stopped goes on there. Default: audit.")
@_model_options
@_sample_options
@click.option("--export", type=_PATH, help="Write hard and attacked images to this new folder, to train on.")
@click.option("--seed", type=int, help="Fixes every random draw. Default: 0.")
@click.option("--batch", type=int, help="Images at once; changes speed only.")
@click.option("--workers", type=int, help="Processes; 0 (default): this one.")
@click.option("--device", help="auto (default), cpu, cuda, cuda:1.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Of the search only; verdicts come from the model as it is.",
)
@click.option("--time-limit", type=float, help="Seconds a check may take on a shard.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def run(model: str | None, config: Path | None, as_json: bool, quiet: bool, **given: Any) -> int:
    """Audit MODEL: a .onnx, .pt or .pt2 file, module:factory or path.py:factory."""
    from auditkit.auditing import run_audit
    from auditkit.config import settings_from
    from auditkit.workbench import Recipe

    values = _merge(config, given)
    model = model or values.pop("model", None)
    data = values.pop("data", None)
    out = Path(values.pop("out", None) or "audit")
    export = values.pop("export", None)
    values.pop("model", None)
    if model is None or data is None:
        missing = "MODEL" if model is None else "--data"
        raise UsageError(f"{missing} is missing: auditkit run MODEL --data DATA (or model and data in auditkit.toml)")
    recipe = Recipe(model, data, settings_from(values))
    exported = Path(export) if export is not None else None
    return _run_and_tell(
        lambda progress: run_audit(recipe, out, progress, exported, command=_command()), out, as_json, quiet
    )


def _run_and_tell(work: Any, out: Path, as_json: bool, quiet: bool) -> int:
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

    if config is None and _DEFAULT_CONFIG.is_file():
        config = _DEFAULT_CONFIG
    values = read_config(config) if config is not None else {}
    if checks := given.pop("checks"):
        values["checks"] = tuple(part for item in checks for part in item.split(",") if part)
    if gates := given.pop("gates"):
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


def _command() -> str:
    import shlex

    return shlex.join(["auditkit", *sys.argv[1:]])


@cli.command()
@click.argument("result", type=_PATH)
@click.option("--gate", "gates", multiple=True, metavar="REQUIREMENT", help="Requirements in place of the stored ones.")
@click.option("--json", "as_json", is_flag=True, help="Print the judged result as JSON.")
def gate(result: Path, gates: tuple[str, ...], as_json: bool) -> int:
    """Judge a stored RESULT (the folder of an audit) again; nothing is measured."""
    from rich.console import Console

    from auditkit.auditing import load_result
    from auditkit.gate import exit_code, judge, parse_gate
    from auditkit.terminal import print_result

    judged = load_result(result).result
    if gates:
        judged = judge(judged, [parse_gate(text) for text in gates])
    if as_json:
        click.echo(judged.to_json(), nl=False)
    else:
        print_result(judged, Console(soft_wrap=True))
    return exit_code(judged)


@cli.command()
@click.argument("result", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="report.html for a single file, a folder for the folder layout.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="html", show_default=True)
@click.option("--gate", "gates", multiple=True, metavar="REQUIREMENT", help="Requirements in place of the stored ones.")
def report(result: Path, out: Path, form: str, gates: tuple[str, ...]) -> int:
    """Render a stored RESULT (the folder of an audit) again; nothing is measured."""
    import dataclasses

    from auditkit.auditing import load_result
    from auditkit.gate import judge, parse_gate
    from auditkit.report import junit_xml, markdown_summary
    from auditkit.report.cyclonedx import cyclonedx_bom
    from auditkit.report.in_toto import in_toto_statement
    from auditkit.report.model_index import model_index
    from auditkit.report.sarif import sarif_log
    from auditkit.result import Result
    from auditkit.store import write_atomically

    audited = load_result(result)
    if gates:
        judged = judge(audited.result, [parse_gate(text) for text in gates])
        audited = dataclasses.replace(audited, result=judged)
    if form == "html":
        out = audited.report(out)
    else:
        render = {
            "json": Result.to_json,
            "junit": junit_xml,
            "markdown": markdown_summary,
            "sarif": sarif_log,
            "cyclonedx": cyclonedx_bom,
            "in-toto": in_toto_statement,
            "model-index": model_index,
        }[form]
        write_atomically(out, render(audited.result).encode())
    click.echo(f"report: {out}")
    return 0


@cli.command()
@click.argument("model")
@click.option("--data", required=True, help="Folder, .npz, module:factory or path.py:factory.")
@click.option("--out", type=_PATH, required=True, help="New file: .onnx for an ONNX model, .pt or .pt2 for any other.")
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
@click.option("--report", type=_PATH, help="Also attack both models, and report into this folder.")
@_model_options
@_sample_options
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
    return _run_and_tell(lambda progress: run_audit(bought, report, progress, command=_command()), report, False, False)


@cli.group()
def stickers() -> None:
    """Deploy a detector of stickers beside a model."""


@stickers.command("fit")
@click.argument("model")
@click.option("--data", required=True, help="Folder, .npz, module:factory or path.py:factory.")
@click.option("--out", type=_PATH, required=True, help="New .npz file.")
@click.option("--set", "chosen", multiple=True, metavar="NAME=VALUE", help="Option of the check detect.stickers.")
@_model_options
@_sample_options
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


@cli.group()
def checks() -> None:
    """See which checks there are and what they do."""


@checks.command("list")
@click.option("--json", "as_json", is_flag=True)
def list_checks(as_json: bool) -> int:
    """List the installed checks; none is imported."""
    import json

    from auditkit.registry import entries

    found = [{"id": entry.id, "distribution": entry.distribution, "value": entry.point.value} for entry in entries()]
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        width = max((len(item["id"]) for item in found), default=0)
        for item in found:
            click.echo(f"{item['id']:{width}}  {item['distribution']}")
    return 0


@checks.command("show")
@click.argument("check_id")
def show_check(check_id: str) -> int:
    """Show what a check does, what it needs, its options and metrics."""
    import inspect

    from auditkit.plan import default_options
    from auditkit.registry import find, load_check

    entry = find(check_id)
    kind = load_check(entry)
    spec = kind.spec
    needs = ", ".join(sorted(need.value for need in spec.needs)) or "nothing special"
    lines = [f"{spec.id} ({entry.distribution})", spec.title, "", inspect.getdoc(kind) or "", "", spec.why, ""]
    lines += [f"needs: {needs}", "options:"]
    lines += [f"  {name} = {value}" for name, value in default_options(kind).items()]
    lines += ["metrics:", *(f"  {metric.name}: {metric.title}" for metric in spec.metrics)]
    lines += ["presets: " + (", ".join(spec.presets) or "none"), *(f"see {link}" for link in spec.references)]
    click.echo("\n".join(lines))
    return 0


@checks.command("new")
@click.argument("check_id", metavar="NAME")
@click.option("--out", type=_PATH, help="Folder of the package. Default: auditkit- and its name, with dashes.")
def new_check(check_id: str, out: Path | None) -> int:
    """Write a package with a small check that works, to make your own of; NAME is its id, such as physical.dusk."""
    import shlex

    from auditkit.scaffold import scaffold

    files = scaffold(check_id, out)
    click.echo("\n".join(f"written: {file}" for file in files))
    click.echo(_AFTER_SCAFFOLDING.format(folder=shlex.quote(str(files[0].parent)), check_id=check_id))
    return 0


@cli.command()
@click.option("--out", type=_PATH, default=Path("auditkit-demo"), show_default=True)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def demo(out: Path, quiet: bool) -> int:
    """Audit a small network on rendered traffic signs, both of which come with auditkit."""
    from auditkit.auditing import run_audit
    from auditkit.config import settings_from
    from auditkit.demo import IMAGES, WEIGHTS
    from auditkit.workbench import Recipe

    settings = settings_from({"preset": "smoke", "weights": WEIGHTS, "gates": _DEMO_GATES})
    recipe = Recipe("auditkit.demo.network:SignNet", str(IMAGES), settings)
    _run_and_tell(
        lambda progress: run_audit(recipe, out, progress, command="auditkit demo", disclaimer=_DEMO_DISCLAIMER),
        out,
        False,
        quiet,
    )
    return 0


@cli.command()
@click.option("--out", type=_PATH, default=_DEFAULT_CONFIG, show_default=True)
def init(out: Path) -> int:
    """Write a commented auditkit.toml to start from."""
    from auditkit.starter import STARTER
    from auditkit.store import write_atomically

    if out.exists():
        raise UsageError(f"{out} is there already; move it away, or choose another --out")
    write_atomically(out, STARTER.encode())
    click.echo(f"written: {out}")
    return 0


@cli.command()
def doctor() -> int:
    """Explain this machine: versions, devices, and what would get in the way."""
    from auditkit.doctor import examine

    lines, healthy = examine()
    click.echo("\n".join(lines))
    return 0 if healthy else ExitCode.EXECUTION
