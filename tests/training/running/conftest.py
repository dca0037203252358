"""A tiny model in a folder, and runs on it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridopt.training.config.reading import run_of
from support.tiny_chat import save_tiny_chat, write_rows

QUICK = (
    "train.batch=4",
    "train.accumulate=1",
    "train.lr=0.01",
    "train.schedule=constant",
    "train.warmup=0",
    "train.save_every=null",
    "train.eval_every=null",
    "train.dtype=fp32",
    "train.checkpointing=false",
    "gpu=1GiB",
    "method.policy=adamw",
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("tiny") / "model", layers=1)


@dataclass
class Workshop:
    """Makes runs on the tiny model, in a folder of their own."""

    folder: Path
    model: Path

    def data(self, format="messages", count=16):
        return write_rows(self.folder / f"{format}.jsonl", format, count)

    def run(self, *sets, format="messages", count=16, out="out", model=None):
        given = [f"output.folder={self.folder / out}", *QUICK, *sets]
        return run_of(str(model or self.model), [str(self.data(format, count))], given)

    def log(self, out="out"):
        return [json.loads(line) for line in (self.folder / out / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def workshop(tiny_model, tmp_path):
    return Workshop(tmp_path, tiny_model)
