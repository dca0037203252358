"""Fine-tune all-MiniLM-L6-v2 on SST-2 with each method: accuracy against bytes of optimizer state.

Each method has the same number of tries to find its learning rate (seed 0, by validation accuracy), then runs with
every seed at the best one; the table shows accuracy on GLUE's dev set, which no choice was made on.
"""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

import results
import sst2_table
import sst2_train as train
import torch
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from sst2_train import Method

HERE = Path(__file__).parent
GAP = 25  # six windows in 150 steps, so that each of the six layers has its turn in BAdam
HIGH, MIDDLE, LOW = (3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3), (3e-5, 1e-4, 3e-4)
# 0.1 is what FRUGAL's authors fine-tune with; their pre-training uses 1
FRUGAL = {"policy": "frugal", "update_gap": GAP, "free_lr_scale": 0.1}
ADAPTERS = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "modules_to_save": ["classifier"]}

METHODS = {
    "adamw": Method("AdamW", LOW, {"policy": "adamw"}),
    "frugal-columns": Method("FRUGAL ρ=0.25, columns", MIDDLE, FRUGAL | {"density": 0.25, "split": "columns"}),
    "frugal-block": Method("FRUGAL ρ=0.25, block", MIDDLE, FRUGAL | {"density": 0.25, "split": "block"}),
    "frugal-0": Method("FRUGAL ρ=0", MIDDLE, FRUGAL | {"density": 0.0}),
    "galore": Method("GaLore ρ=0.25", MIDDLE, {"policy": "galore", "density": 0.25, "update_gap": GAP}),
    "badam": Method("BAdam", MIDDLE, {"policy": "badam", "update_gap": GAP}),
    "signsgd": Method("signSGD", LOW, {"policy": "signsgd"}),
    "lora-nf4-frugal": Method(
        "LoRA + NF4 + FRUGAL ρ=0.25",
        HIGH,
        FRUGAL | {"density": 0.25, "split": "columns", "quantization": "nf4"},
        lora=ADAPTERS | {"task_type": "SEQ_CLS"},
    ),
}


class Bench:
    """Runs methods, keeping each run's record in a file of its own; a record that exists is not made again."""

    def __init__(self, folder: Path, budget: train.Budget, splits: train.Splits, progress: Progress):
        self.folder, self.budget, self.splits, self.progress = folder, budget, splits, progress

    def record(self, name: str, lr: float, seed: int) -> dict:
        """Return the record of one run, made now if it is not there."""
        path, method = sst2_table.record_path(self.folder, name, lr, seed), METHODS[name]
        settings = settings_of(method, self.budget)
        return results.load(path, settings) or self.make(path, {"method": name, "lr": lr, "seed": seed}, settings)

    def make(self, path: Path, run: dict, settings: dict) -> dict:
        """Train once and publish the record."""
        name, lr, seed = run.values()
        task = self.progress.add_task(f"{name} lr={lr:g} seed={seed}", total=self.budget.steps)
        advance = partial(self.progress.advance, task)
        measured = train.run(METHODS[name], lr, seed, self.budget, self.splits, advance)
        self.progress.remove_task(task)
        record = run | {"settings": settings, **measured, "environment": results.environment()}
        results.save(path, record)
        self.progress.console.print(f"{path.stem}: {outcome(record)}")
        return record

    def search(self, name: str, tries: int) -> None:
        """Try learning rates with seed 0: the method's own first, then around the best so far."""
        records = {lr: self.record(name, lr, 0) for lr in METHODS[name].lrs[:tries]}
        while len(records) < tries:
            lr = next_lr({lr: sst2_table.quality(record) for lr, record in records.items()})
            records[lr] = self.record(name, lr, 0)


def settings_of(method: Method, budget: train.Budget) -> dict:
    """Everything besides learning rate and seed that decides a run."""
    return asdict(budget) | {"options": method.options, "lora": method.lora}


def next_lr(tried: dict[float, tuple[float, float]]) -> float:
    """Return the rate to try next: beyond the best one if it is the outermost, else between it and its better side."""
    ladder = sorted(tried)
    best = ladder.index(max(tried, key=tried.get))
    if best == 0:
        return rounded(ladder[0] / 10**0.5)
    if best == len(ladder) - 1:
        return rounded(ladder[-1] * 10**0.5)
    beside = max(ladder[best - 1], ladder[best + 1], key=tried.get)
    return rounded((ladder[best] * beside) ** 0.5)


def rounded(lr: float) -> float:
    """Two significant digits."""
    return float(f"{lr:.1e}")


def outcome(record: dict) -> str:
    return (
        f"validation {record['validation']['accuracy']:.4f}, test {record['test']['accuracy']:.4f}, "
        f"{record['state_bytes']} bytes of state, {record['seconds_per_step']['median']:.3f} s/step"
    )


def measure(options: argparse.Namespace, progress: Progress) -> None:
    """Find every method's learning rate, then run the other seeds at it, seed by seed."""
    budget = train.Budget(steps=options.steps)
    bench = Bench(options.out, budget, train.load_splits(options.data, budget), progress)
    for name in options.only:
        bench.search(name, options.tries)
    for seed in options.seeds:
        for name in options.only:
            bench.record(name, sst2_table.chosen_lr(options.out, name), seed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods to run")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="seeds at the chosen rate")
    parser.add_argument("--tries", type=int, default=4, help="learning rates tried for each method, at least 1")
    parser.add_argument("--steps", type=int, default=train.Budget.steps, help="optimizer steps of every run")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/sst2", help="folder of the TSVs")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--threads", type=int, default=1, help="threads for torch")
    parser.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if not options.table:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
            measure(options, progress)
    print(sst2_table.publish(options.out, {name: method.label for name, method in METHODS.items()}))


if __name__ == "__main__":
    main()
