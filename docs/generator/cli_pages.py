"""The reference of the command line and of the settings, from click and pydantic."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from check_pages import cell

from auditkit.cli import cli
from auditkit.config import Settings

__all__ = ["command_line", "settings_page"]


def command_line() -> str:
    """Return a page with every command, its arguments and its options."""
    lead = (
        "# Command line\n\nMade from the program itself; `auditkit COMMAND --help` prints the same. "
        "What the exit codes mean stands under [gates](../gates.md#exit-codes).\n"
    )
    return "\n".join([lead, *(_command(command, path) for path, command in _commands(cli, "auditkit"))])


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from _commands(child, f"{path} {name}")


def _command(command: click.Command, path: str) -> str:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    context = click.Context(command, info_name=path)
    usage = " ".join(
        [path, *(argument.make_metavar(context) for argument in arguments), "[OPTIONS]" if options else ""]
    )
    lines = [f"## {path}\n", f"{command.help}\n", f"```text\n{usage.strip()}\n```\n"]
    if options:
        lines += ["| option | what it does |", "|---|---|", *(_option(option, context) for option in options), ""]
    return "\n".join(lines)


def _option(option: click.Option, context: click.Context) -> str:
    takes = "" if option.is_flag else f" {option.make_metavar(context)}"
    # A bar would end the cell, even in code.
    names = ", ".join(f"`{name}{takes}`" for name in option.opts).replace("|", "/")
    default = f" Default: {option.default}." if option.show_default and option.default is not None else ""
    required = " Required." if option.required else ""
    return f"| {names} | {cell(option.help or '')}{default}{required} |"


def settings_page() -> str:
    """Return a page with every setting of an audit."""
    help_texts = {
        parameter.name: parameter.help
        for parameter in cli.commands["run"].params
        if isinstance(parameter, click.Option)
    }
    lead = (
        "# Settings\n\nMade from the code. A setting has the same name in `auditkit.toml` and as an argument of "
        "`auditkit.audit`; on the command line it is an option, with `-` for `_`. The command line goes before the "
        "file. An unknown name is an error. In the file `model`, `data` and `out` may stand, too.\n"
    )
    lines = [lead, "| setting | type | default | what it does |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        text = help_texts.get(name) or _OTHERWISE.get(name) or field.description or ""
        lines.append(f"| `{name}` | `{cell(_type(field.annotation))}` | {_default(field.default)} | {cell(text)} |")
    return "\n".join(lines) + "\n"


# Settings whose option on the command line has another name, or that have none.
_OTHERWISE = {
    "options": 'Options of checks: on the command line `--set`, in TOML a table such as `[options."noise.pgd"]`.',
    "class_names": "The names of the classes, in the order of the model's outputs.",
    "shard": "How many images are a unit of work: what is lost at most when a run is interrupted.",
}


def _type(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin is typing.Literal:
        return " or ".join(f'"{value}"' for value in inner)
    if origin is None:
        return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "None").replace("Path", "path")
    if origin in (tuple, dict):
        return f"{origin.__name__}[{', '.join('...' if part is ... else _type(part) for part in inner)}]"
    return " or ".join(map(_type, inner))


def _default(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"
