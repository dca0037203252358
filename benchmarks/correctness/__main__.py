"""Check that results on a device are those of the CPU, case by case, each row kept at once.

doctor: what `hybridopt doctor` looks at, its self-test included. eager and compiled: every policy, with all weights
trained and with LoRA, updates at once and in the backward pass, two steps of a small Llama. quantized: the same on
quantized weights; what was trained is saved, read again, and has to have the same checksums.
"""

import argparse
from threading import Lock

import torch

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.records import Records
from .cases import CHECKS, cases_of
from .workers import work


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("correctness", __doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS), help="what is checked, in order")
    command.add_argument("--jobs", type=int, default=1, help="processes")
    command.add_argument("--fast", action="store_true", help="few policies, and nothing is compiled")
    return command.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    screen, lock = console(), Lock()
    records = Records(options.out / "correctness.jsonl", ("check", "case"))
    records.clear()
    about = {"settings": {"device": options.device}, "environment": environment(device="cpu")}

    def keep(rows: list[dict]) -> None:
        with lock:
            for row in rows:
                records.put(row | about)
                screen.print(f"{row['case']}: {row['state']}, {row['said']}", markup=False, highlight=False)

    work(cases_of(options.checks, options.fast), options.jobs, options.device, keep)


if __name__ == "__main__":
    main()
