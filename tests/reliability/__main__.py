"""Try everything that may go wrong, many times, and print what survived: `python tests/reliability`.

Takes an hour or two on one core; `--rounds 5` tries everything five times. `--write` puts the figures into
docs/reliability.md.
"""

import argparse
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


def parse():
    from reliability.attacks import ATTACKS

    options = argparse.ArgumentParser("python tests/reliability", description=__doc__)
    options.add_argument("--rounds", type=int, help="of every attack (default: its own number)")
    options.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS), help="attacks by name")
    options.add_argument("--first", type=int, default=10_000, help="the first seed")
    options.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    return options.parse_args()


def main():
    import torch
    from reliability.attacks import ATTACKS, table, write
    from rich.progress import Progress

    from support.attacks import tally

    options, found = parse(), {}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with Progress() as progress:
        for name in options.only:
            attack = ATTACKS[name]
            rounds = options.rounds or attack.rounds
            task = progress.add_task(name, total=rounds)
            seeds = range(options.first, options.first + rounds)
            found[name] = tally(attack, seeds, lambda task=task: progress.advance(task))
    print(table(found))
    for name, figures in found.items():
        for text in figures.lost:
            print(f"{name}: {text}")
    if options.write:
        write(found)
    sys.exit(any(figures.lost for figures in found.values()))


if __name__ == "__main__":
    main()
