"""`auditkit checks`: which there are, what one does, and the package of a new one."""

from __future__ import annotations

from pathlib import Path

import click

from auditkit.cli.options import PATH
from auditkit.cli.root import cli

__all__: list[str] = []

_AFTER_SCAFFOLDING = """\
next: pip install --editable {folder}
      pytest {folder}
      auditkit run MODEL --data DATA --checks {check_id}"""


@cli.group()
def checks() -> None:
    """See which checks there are and what they do."""


@checks.command("list")
@click.option("--json", "as_json", is_flag=True)
def list_checks(as_json: bool) -> int:
    """List the installed checks; none is imported."""
    import json

    from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries

    found = [
        {"id": entry.id, "for": kind, "distribution": entry.distribution, "value": entry.point.value}
        for kind, group in (("classifiers", CHECKS), ("detectors", DETECTOR_CHECKS))
        for entry in entries(group)
    ]
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        width = max((len(item["id"]) for item in found), default=0)
        for item in found:
            click.echo(f"{item['id']:{width}}  {item['for']:{len('classifiers')}}  {item['distribution']}")
    return 0


@checks.command("show")
@click.argument("check_id")
@click.option("--detectors", is_flag=True, help="The check of this id that is for detectors of objects.")
def show_check(check_id: str, detectors: bool) -> int:
    """Show what a check does, what it needs, its options and metrics."""
    import inspect

    from auditkit.plan import default_options
    from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries, find, load_check

    known = entries(DETECTOR_CHECKS if detectors else CHECKS)
    if not detectors and check_id not in {entry.id for entry in known}:
        known = (*known, *(entry for entry in entries(DETECTOR_CHECKS) if entry.id == check_id))
    entry = find(check_id, known)
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
@click.option("--out", type=PATH, help="Folder of the package. Default: auditkit- and its name, with dashes.")
def new_check(check_id: str, out: Path | None) -> int:
    """Write a package with a small check that works, to make your own of; NAME is its id, such as physical.dusk."""
    import shlex

    from auditkit.scaffold import scaffold

    files = scaffold(check_id, out)
    click.echo("\n".join(f"written: {file}" for file in files))
    click.echo(_AFTER_SCAFFOLDING.format(folder=shlex.quote(str(files[0].parent)), check_id=check_id))
    return 0
