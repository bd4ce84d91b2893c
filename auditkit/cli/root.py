"""The command itself, and the exit code of whatever goes wrong in it."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version

import click

from auditkit.errors import AuditError, ExitCode
from auditkit.quoting import printable

__all__ = ["cli", "main"]


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
        click.echo(
            f"auditkit: internal error, {type(error).__name__}: {_on_one_line(text)} (AUDITKIT_DEBUG=1 shows where)",
            err=True,
        )
        code = ExitCode.EXECUTION
    sys.exit(int(code or 0))


def _on_one_line(text: str) -> str:
    return printable(" ".join(text.split()))
