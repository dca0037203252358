"""Without bitsandbytes all that needs no 4-bit weights works: FRUGAL, LoRA, saving, plans, the Trainer."""

import subprocess
import sys

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.slow

HIDE = """
import importlib.util, sys
from importlib.machinery import PathFinder

found = PathFinder.find_spec
hidden = lambda name, *more: None if name.split(".")[0] == "bitsandbytes" else found(name, *more)
PathFinder.find_spec = staticmethod(hidden)
assert importlib.util.find_spec("bitsandbytes") is None
"""
WORK = """
import torch
from peft import LoraConfig
from transformers import TrainingArguments

import hybridopt
from hybridopt.integrations.trainer import HybridTrainer
from hybridopt.planning import Request, plan_live
from support.models import batch, tiny_llama

Request(policy="frugal", lora=8), Request(policy="frugal", quantization="int8-trainable")
config = LoraConfig(r=4, target_modules="all-linear")
for how in ({}, {"peft_config": config}, {"quantization": "int8-trainable"}):
    model = hybridopt.wrap(tiny_llama(), "frugal", **how)
    assert plan_live(model, seq_len=8, batch_size=1).peak_bytes > 0
    optimizer = model.hybrid.optimizer(lr=1e-3)
    model(**batch(model)).loss.backward()
    optimizer.step()
    model.hybrid.save_pretrained("saved")
    again = hybridopt.from_pretrained(tiny_llama(), "saved")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())

rows = [{"input_ids": row, "labels": row} for row in torch.randint(3, 96, (8, 12))]
args = TrainingArguments("run", max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True)
trainer = HybridTrainer(tiny_llama(), args, train_dataset=rows, policy="frugal")
trainer.train()
assert trainer.state.global_step == 2 and "bitsandbytes" not in sys.modules
print("all of it")
"""


def test_all_of_it_works(tmp_path):
    code = HIDE + f"sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT)!r}]\n" + WORK
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("all of it\n"), done.stderr[-3000:]
