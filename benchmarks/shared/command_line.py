"""What the commands of all tables have in common."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from .places import RESULTS


def parser(table: str, text: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m benchmarks.<table>` with --out, described by `text`."""
    kind = argparse.ArgumentDefaultsHelpFormatter
    found = argparse.ArgumentParser(f"python -m benchmarks.{table}", description=text, formatter_class=kind)
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return found


def console(stderr: bool = False, width: int = 130) -> Console:
    """Return a rich console of the terminal's width, or of `width` characters where the output is no terminal."""
    return Console(stderr=stderr, width=None if sys.stdout.isatty() else width)
