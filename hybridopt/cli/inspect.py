"""The command `hybridopt inspect`; what takes time to import is imported inside it."""

import json as plain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["inspect"]

OF_BASE = {"checksums": "known by checksum", "compared": "compared when loaded", "trained": "trained beside adapters"}
Where = Annotated[Path, typer.Argument(help="A model folder, or one that save_pretrained wrote.")]
Tags = Annotated[str | None, typer.Option("--policy", help="Of a model folder: how this policy would train it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def inspect(path: Where, policy: Tags = None, json: Json = False) -> None:
    """Say what a folder holds: of a saved one adapters, changed tensors, run, base and policy; of a model its bytes.

    No weight is read but to verify files, and nothing is downloaded. With --policy the parameters of a model folder
    are tagged: state-full, state-free, split or frozen.
    """
    found = _inspected(path, policy)
    if json:
        typer.echo(plain.dumps(found, indent=2))
        return
    console = Console()
    for table in _tables(found):
        console.print(table)


def _inspected(path: Path, policy: str | None) -> dict[str, Any]:
    from ..core.errors import HybridOptError
    from ..saving.inspection import inspect_saved, is_saved

    if not path.exists() or not is_saved(path):
        from ..policy.model_folder import inspect_model

        return inspect_model(path, policy)
    if policy is not None:
        raise HybridOptError(f"--policy={policy!r} is for model folders; {path} says which policy it was trained by")
    return inspect_saved(path)


def _tables(found: dict[str, Any]) -> list[Table]:
    """Return a table of the plain values, one for each adapter, and one with a row for every role."""
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    head = _values(found["kind"], {key: x for key, x in found.items() if key != "kind" and key not in lists})
    adapters = [_values(f"adapter {each['name']!r}", each) for each in lists.get("adapters", ())]
    return [head, *adapters, *([_rows(lists["roles"])] if "roles" in lists else [])]


def _values(title: str, found: dict[str, Any]) -> Table:
    table = Table(title=title, show_header=False)
    for key, value in found.items():
        table.add_row(key, escape(_text(key, value)))
    return table


def _rows(rows: list[dict[str, Any]]) -> Table:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(escape(_text(name, value)) for name, value in row.items()))
    return table


def _text(key: str, value: Any) -> str:
    from ..core.sizes import human

    if isinstance(value, dict):
        words = OF_BASE if key == "base" else {}
        named = ((words.get(name, name), _text(key if key == "files" else name, each)) for name, each in value.items())
        return "\n".join(f"{name}: {text}" for name, text in named)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return human(value) if key in ("bytes", "files", "state bytes") else f"{value:,}"
    return "-" if value is None else str(value)
