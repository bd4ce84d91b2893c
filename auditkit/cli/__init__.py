"""The command line: one module a family of commands; nothing heavy is imported before a command needs it."""

from auditkit.cli import checks, judging, machine, preventing, running, verifying
from auditkit.cli.root import cli, main

__all__ = ["checks", "cli", "judging", "machine", "main", "preventing", "running", "verifying"]
