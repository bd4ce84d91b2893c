"""`auditkit init` and `auditkit doctor`: a configuration to start from, and what this machine offers."""

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
def doctor() -> int:
    """Explain this machine: versions, devices, and what would get in the way."""
    from auditkit.doctor import examine

    lines, healthy = examine()
    click.echo("\n".join(lines))
    return 0 if healthy else ExitCode.EXECUTION
