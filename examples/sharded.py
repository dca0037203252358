"""torchrun and FSDP2: every process keeps its rows of weights, gradients and state; the result is saved as ever.

torchrun --nproc-per-node 2 examples/sharded.py
"""

import os

import torch
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
text = torch.tensor(list(open(__file__, "rb").read())).unfold(0, 64, 16)


def sharded_model(device):
    """Return a model with the same weights on all ranks, of which each then keeps its rows, and its optimizer."""
    torch.manual_seed(0)
    model = hybridopt.wrap(LlamaForCausalLM(config).to(device), policy="frugal", density=0.25, update_gap=20)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model, model.hybrid.optimizer(lr=1e-2)


def train(model, optimizer, steps):
    """Train on batches of 8 rows a rank, and print what loss they have in the mean."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    for step in steps:
        rows = [(8 * (step * ranks + rank) + i) % len(text) for i in range(8)]
        batch = text[rows].to(next(model.parameters()).device)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()  # gradients are added up over the ranks, and each keeps those of its rows
        optimizer.step()
        optimizer.zero_grad()
        distributed.all_reduce(mean := loss.detach() / ranks)
        if rank == 0 and step % 5 == 4:
            print(f"step {step + 1}: loss {mean.item():.2f}")


def main():
    """Train, save a checkpoint, go on from it, and save the model."""
    gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)

    model, optimizer = sharded_model(device)
    train(model, optimizer, range(15))
    weights, state = get_state_dict(model, optimizer)
    checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id="checkpoint")

    model, optimizer = sharded_model(device)  # on any number of ranks
    weights, state = get_state_dict(model, optimizer)
    checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id="checkpoint")
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    train(model, optimizer, range(15, 30))

    model.hybrid.save_pretrained("trained")  # called by all, written by the first
    if distributed.get_rank() == 0:  # and read by one process that is not sharded
        torch.manual_seed(0)
        hybridopt.from_pretrained(LlamaForCausalLM(config), "trained")
    distributed.barrier()
    distributed.destroy_process_group()


main()
