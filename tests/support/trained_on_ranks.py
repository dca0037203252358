"""A `HybridTrainer` of a tiny Llama, on one process or on two: replicas, shards, and shards that accelerate makes."""

import os
import warnings
from pathlib import Path

import torch
from peft import LoraConfig

import hybridopt
from hybridopt.core.launch_environment import world
from hybridopt.integrations.trainer import HybridTrainer
from hybridopt.model.fsdp.applying import shard_
from hybridopt.model.fsdp.sharded_tensors import whole
from hybridopt.training.running.ranks import joined
from support.models import tiny_llama
from support.trainers import arguments, data

__all__ = ["BEGUN_BY_ONE", "CELLS", "gone_on", "trained"]

STEPS, SAVED = 4, 2
CELLS = {  # policy, and what it is given; how the model is shared by two processes
    "mezo-replicas": ({"policy": "mezo", "learning_rate": 1e-3}, "replicas"),
    "mezo-shards": ({"policy": "mezo", "learning_rate": 1e-3}, "shards"),
    "subzero-fsdp": ({"policy": "subzero", "learning_rate": 1e-3}, "fsdp"),
    "addax-shards": ({"policy": "addax", "learning_rate": 1e-2}, "shards"),
    "badam-shards": ({"policy": "badam", "policy_options": {"update_gap": 1}, "learning_rate": 1e-3}, "shards"),
    "muon-fsdp": ({"policy": "muon", "learning_rate": 1e-3, "max_grad_norm": 1.0}, "fsdp"),
    "lora-shards": ({"policy": "adamw", "learning_rate": 1e-2, "lora": True}, "shards"),
}
BEGUN_BY_ONE = ("muon-fsdp", "lora-shards")  # which two go on with


def trained(name, folder, ranks=1, begun=None):
    """Train a cell, and on two processes again from a checkpoint; return weights, losses, weights of the second run.

    Args:
        name: of the cell.
        folder: for checkpoints.
        ranks: processes, which take turns at the examples; one takes as many micro-batches instead.
        begun: folder of the checkpoint of another run; None: the second run goes on with the first.
    """
    given, shared = CELLS[name]
    first, again = (_trainer(given, shared if ranks > 1 else "alone", Path(folder) / name, ranks) for _ in range(2))
    if begun is not None:
        again.train(resume_from_checkpoint=str(Path(begun) / name / f"checkpoint-{SAVED}"))
        return _weights(again)
    first.train()
    losses = [entry["loss"] for entry in first.state.log_history if "loss" in entry]
    if ranks == 1:
        return _weights(first), losses, {}
    again.train(resume_from_checkpoint=str(Path(folder) / name / f"checkpoint-{SAVED}"))
    return _weights(first), losses, _weights(again)


def gone_on(name, folder):
    """Go on alone with the checkpoint of two ranks in a folder, and return the weights."""
    alone = _trainer(CELLS[name][0], "alone", Path(folder) / "alone" / name, 1)
    alone.train(resume_from_checkpoint=str(Path(folder) / name / f"checkpoint-{SAVED}"))
    return _weights(alone)


def _trainer(given, shared, folder, ranks):
    model = tiny_llama()
    if given.get("lora"):
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
        model = hybridopt.wrap(model, given["policy"], peft_config=lora)
    own = {key: value for key, value in given.items() if key in ("policy", "policy_options")}
    settings = {"max_grad_norm": 0.0} | {key: value for key, value in given.items() if key not in own | {"lora": 0}}
    settings |= {"fsdp": True} if shared == "fsdp" else {}
    settings |= {"ddp_backend": "gloo"} if ranks > 1 else {}
    settings |= {"gradient_accumulation_steps": 2 // ranks, "eval_strategy": "no"}
    args = arguments(folder, max_steps=STEPS, save_steps=SAVED, **settings)
    made = HybridTrainer(model, args=args, train_dataset=data(), **({} if given.get("lora") else own))
    if shared == "shards":
        shard_(model)
    return made


def _weights(trainer):
    return {name: whole(p.detach()).clone() for name, p in trainer.model.named_parameters()}


if __name__ == "__main__":
    with warnings.catch_warnings(), joined(world()):
        warnings.simplefilter("ignore")
        found = {name: trained(name, "cells", world().size) for name in CELLS}
        if world().size > 1:
            found["begun by one"] = {name: trained(name, "cells", 2, "../alone/cells") for name in BEGUN_BY_ONE}
    torch.save(found, f"cells-{os.environ['RANK']}.pt")
