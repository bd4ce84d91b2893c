"""`auditkit verify`: whether files are still those that a statement was made about; nothing is measured."""

from __future__ import annotations

from pathlib import Path

import click

from auditkit.cli.options import PATH
from auditkit.cli.root import cli
from auditkit.errors import ExitCode

__all__: list[str] = []


@cli.command("verify")
@click.argument("statement", type=PATH)
@click.argument("result", type=PATH)
@click.option("--model", type=PATH, help="The file of the model, whose digest is compared, too.")
def verify_files(statement: Path, result: Path, model: Path | None) -> int:
    """Compare a stored RESULT (the folder of an audit) with the digests in a STATEMENT that was made of it.

    The statement's own signature is not looked at: verify it first, with the tool that made it.
    """
    from auditkit.verification import verify

    verification = verify(statement, result, model)
    for name in verification.same:
        click.echo(f"same: {name}")
    for line in verification.mismatches:
        click.echo(f"MISMATCH: {line}")
    return ExitCode.FAIL if verification.mismatches else ExitCode.PASS
