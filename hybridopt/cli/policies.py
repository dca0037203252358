"""The command `hybridopt policies`; what takes time to import is imported inside it."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["policies"]

Name = Annotated[str | None, typer.Argument(help="One policy, told at length; all by default.")]


def policies(name: Name = None) -> None:
    """List every policy with its options and their defaults, or tell one at length: meaning, rates, tags."""
    Console().print(*([_all()] if name is None else _one(name)), sep="\n")


def _all() -> Table:
    from dataclasses import fields

    from ..core.registry import find, names
    from ..policy.description import default, started_from

    table = Table("policy", "what it does", "start from", show_lines=True)
    table.add_column("options", overflow="fold")  # a value that is cut off would tell nothing
    for name in names("policies"):
        policy = find("policies", name)
        options = "\n".join(f"{field.name}={default(field)}" for field in fields(policy))
        rates = "\n".join(f"{use} {rate}" for use, rate, _ in started_from(name) if rate)
        table.add_row(name, (policy.__doc__ or "").strip().partition("\n")[0], rates, escape(options))
    return table


def _one(name: str) -> list[str | Table]:
    from ..policy.description import described

    found = described(name)
    options = Table("option", "default", "what it is")
    for each in found["options"]:
        options.add_row(*map(escape, each))
    rates = Table("learning rate", "to start from", "where it comes from")
    for use, rate, source in found["rates"]:
        rates.add_row(f'lr="{use}"', rate, escape(source))
    tags = Table("role", "trained")
    for role, tag in found["tags"].items():
        tags.add_row(role, tag)
    text = [escape(found[key]) for key in ("summary", "notes") if found[key]]
    return [f"[bold]{name}[/bold]", *text, options, rates, *([tags] if found["tags"] else [])]
