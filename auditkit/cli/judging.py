"""`auditkit gate`, `report` and `compare`: stored results, judged, rendered or compared; nothing is measured."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditkit.cli.options import PATH, gate_options, requirements
from auditkit.cli.root import cli
from auditkit.errors import UsageError

if TYPE_CHECKING:
    from auditkit.auditing import AuditResult

__all__: list[str] = []

_FORMATS = ("html", "json", "junit", "markdown", "sarif", "cyclonedx", "in-toto", "model-index", "csv")


@cli.command()
@click.argument("result", type=PATH)
@gate_options
@click.option("--config", type=PATH, help="TOML file whose gates and baseline are taken where no --gate is given.")
@click.option("--json", "as_json", is_flag=True, help="Print the judged result as JSON.")
def gate(
    result: Path,
    gates: tuple[str, ...],
    warnings: tuple[str, ...],
    baseline: Path | None,
    config: Path | None,
    as_json: bool,
) -> int:
    """Judge a stored RESULT (the folder of an audit) again; nothing is measured."""
    from rich.console import Console

    from auditkit.gate import exit_code
    from auditkit.terminal import print_result

    judged = _judged(result, gates, warnings, baseline, config).result
    if as_json:
        click.echo(judged.to_json(), nl=False)
    else:
        print_result(judged, Console(soft_wrap=True))
    return exit_code(judged)


def _judged(
    path: Path, gates: tuple[str, ...], warnings: tuple[str, ...], baseline: Path | None, config: Path | None = None
) -> AuditResult:
    """Return a stored audit with these gates, else those of the file, else its own as they count today."""
    import dataclasses

    from auditkit.auditing import load_result
    from auditkit.baseline import compare_with
    from auditkit.config import read_config, settings_from
    from auditkit.gate import judge, judge_again
    from auditkit.requirements import parse_requirement

    audited = load_result(path)
    settings = read_config(config) if config is not None else {}
    wanted = requirements(gates, warnings) or settings_from({"gates": settings.get("gates", ())}).gates
    base = baseline or settings.get("baseline")
    today = datetime.datetime.now(datetime.UTC).date()
    if not wanted:
        if base is not None:
            raise UsageError('a baseline goes with a gate on a drop or a rise, such as --gate "... drop <= 2%"')
        return dataclasses.replace(audited, result=judge_again(audited.result, today))
    changes = compare_with(load_result(base).measured if base is not None else None, audited.measured)
    judged = judge(audited.result, [parse_requirement(given) for given in wanted], on=today, changes=changes)
    return dataclasses.replace(audited, result=judged)


@cli.command()
@click.argument("result", type=PATH)
@click.option("--out", type=PATH, required=True, help="report.html for a single file, a folder for the folder layout.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="html", show_default=True)
@gate_options
@click.option("--templates", type=PATH, help="Folder of templates that go before those of auditkit; for html.")
def report(
    result: Path,
    out: Path,
    form: str,
    gates: tuple[str, ...],
    warnings: tuple[str, ...],
    baseline: Path | None,
    templates: Path | None,
) -> int:
    """Render a stored RESULT (the folder of an audit) again; nothing is measured."""
    from auditkit.report import junit_xml, markdown_summary, samples_csv
    from auditkit.report.cyclonedx import cyclonedx_bom
    from auditkit.report.in_toto import in_toto_statement
    from auditkit.report.model_index import model_index
    from auditkit.report.sarif import sarif_log
    from auditkit.result import Result
    from auditkit.store import write_atomically
    from auditkit.verification import evidence_digests

    audited = _judged(result, gates, warnings, baseline)
    if templates is not None and form != "html":
        raise UsageError(f"--templates goes with --format html, not {form}")
    if form == "html":
        out = audited.report(out, templates=templates)
    elif form == "csv":
        write_atomically(out, samples_csv(audited.table).encode())
    elif form == "in-toto":
        write_atomically(out, in_toto_statement(audited.result, evidence_digests(result)).encode())
    else:
        render = {
            "json": Result.to_json,
            "junit": junit_xml,
            "markdown": markdown_summary,
            "sarif": sarif_log,
            "cyclonedx": cyclonedx_bom,
            "model-index": model_index,
        }[form]
        write_atomically(out, render(audited.result).encode())
    click.echo(f"report: {out}")
    return 0


@cli.command("compare")
@click.argument("base", type=PATH)
@click.argument("new", type=PATH)
@click.option("--out", type=PATH, help="Write the comparison here; without it, only what moved is printed.")
@click.option("--format", "form", type=click.Choice(["html", "json", "markdown"]), default="html", show_default=True)
def compare_audits(base: Path, new: Path, out: Path | None, form: str) -> int:
    """Compare two stored audits of the same images, BASE and NEW, image by image; nothing is measured."""
    from auditkit.auditing import load_result
    from auditkit.comparison import Comparison, compare
    from auditkit.report.compared import compared_html, compared_lines, compared_markdown
    from auditkit.store import write_atomically

    comparison = compare(load_result(base).measured, load_result(new).measured)
    click.echo("\n".join(compared_lines(comparison)))
    if out is not None:
        render = {"html": compared_html, "json": Comparison.to_json, "markdown": compared_markdown}[form]
        write_atomically(out, render(comparison).encode())
        click.echo(f"comparison: {out}")
    return 0
