"""`auditkit init` and `auditkit doctor`: a configuration to start from, what this machine offers, what a file is."""

from __future__ import annotations

from pathlib import Path

import click

from auditkit.cli.options import DEFAULT_CONFIG, PATH
from auditkit.cli.root import cli
from auditkit.errors import ExitCode, UsageError

__all__: list[str] = []


@cli.command()
@click.option("--out", type=PATH, default=DEFAULT_CONFIG, show_default=True)
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
@click.option("--model", type=PATH, help="Say what this file is and whether it would be loaded; load nothing.")
def doctor(model: Path | None) -> int:
    """Explain this machine, or a model file.

    Without --model: versions, devices, and what would get in the way.
    """
    from auditkit.doctor import examine, examine_model

    if model is not None:
        lines, loads = examine_model(model)
        click.echo("\n".join(lines))
        return 0 if loads else ExitCode.USAGE
    lines, healthy = examine()
    click.echo("\n".join(lines))
    return 0 if healthy else ExitCode.EXECUTION
