"""All keys of run.yaml as a table, for the page that describes them."""

from dataclasses import MISSING

from hybridopt.training.config.keys import Branch, every
from hybridopt.training.config.writing import flow

__all__ = ["keys_table"]

HEAD = ("| key | what it is | by default | allowed |", "|---|---|---|---|")


def keys_table():
    """Return a Markdown table of all keys: name, meaning, default, and what is allowed."""
    return "\n".join([*HEAD, *(_row(member) for member in every())])


def _row(member):
    if isinstance(member, Branch):
        short = f"a mapping, or `{member.short}` alone" if member.short else "a mapping"
        default, allowed = "null" if member.optional else "", short + (", or null" if member.optional else "")
    else:
        default, allowed = _shown(member.default, member.name), member.allowed
    cells = [f"`{member.name}`", member.meaning, f"`{default}`" if default else "", allowed]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _shown(default, name):
    return "" if default is MISSING else flow(default, name)
