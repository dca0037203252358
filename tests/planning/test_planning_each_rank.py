"""Every amount of a plan for several GPUs is that of one of them: as counted on two ranks that take a step."""

import warnings
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

from benchmarks.plan_grid.measure import prepared
from hybridopt.core.storages import storage_id
from hybridopt.execution.sharded import batched_collectives
from hybridopt.model.fsdp.sharded_tensors import local
from hybridopt.optimizer import updates
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.model import Subject
from support.ranks import Ranks
from support.sharding import by_layer

pytestmark = pytest.mark.slow

SETTINGS = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 97, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 301, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA = Subject("llama", SETTINGS)
SIZE = {"seq_len": 16, "batch": 2, "device": "cpu", "dtype": "fp32", "gpus": 2}
CELLS = {
    "where rows lie": {"policy": "adamw"},
    "in bfloat16": {"policy": "frugal", "dtype": "bf16"},
    "in rounds": {"policy": "adafactor"},
    "by one rank": {"policy": "muon"},
    "subspaces": {"policy": "galore"},
    "blocks in turn": {"policy": "badam"},
    "adapters": {"policy": "adamw", "lora": 4},
    "probes": {"policy": "mezo"},
    "probes with moments": {"policy": "zo_adam"},
    "replicas": {"policy": "adamw", "parallel": "ddp"},
    "replicas of a matrix rule": {"policy": "muon", "parallel": "ddp"},
}


@pytest.fixture(scope="module")
def two():
    made = Ranks(2)
    yield made
    made.close()


def counted(names):
    return {name: step(Request(**SIZE | CELLS[name])) for name in names}


def step(request):
    """Return what this rank keeps, what its update reads and writes, and what it gathers on its way."""
    from torch.nn.parallel import DistributedDataParallel

    model, _ = prepared(LLAMA, request)
    base = model.get_base_model() if request.lora else model
    ran = by_layer(model) if request.parallel == "fsdp" else DistributedDataParallel(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = model.hybrid.optimizer(lr=1e-6, compile=False)
    tokens = torch.randint(SETTINGS["vocab_size"], (2, 16))
    seen = {"moved": 0, "gradients": 0, "start": 0, "end": 0, "update": 0}

    def look(stage):
        seen[stage] = max(seen.get(stage, 0), gathered(model))

    def within(number, output):
        look(f"forward {number}")
        if output.requires_grad:
            output.register_hook(lambda _: look(f"backward {number}"))

    base.lm_head.register_forward_pre_hook(lambda *_: look("head"))
    for number, layer in enumerate(base.model.layers):
        layer.mlp.register_forward_hook(lambda _, __, output, number=number: within(number, output))

    def loss():
        return ran(input_ids=tokens, labels=tokens).loss

    if not optimizer.gradients_needed:
        optimizer.probe(loss)
    else:
        loss().backward()
        seen["gradients"] = sum(local(p.grad).nbytes for p in model.parameters() if p.grad is not None)
    with counting(seen):
        optimizer.step()
    state = [x for each in optimizer.state.values() for x in each.values() if isinstance(x, torch.Tensor)]
    seen["state"] = sum(local(x).nbytes for x in state if not x.is_meta)
    seen["layer"] = request.gpus * sum(local(x).nbytes for x in base.model.layers[0].parameters())  # of the first rank
    seen["weights"] = sum(local(x).nbytes for x in (*model.parameters(), *model.buffers()))
    if ran is not model:
        buckets = sum(bucket.buffer().nbytes for bucket in ran.reducer._get_zeros_like_grad_buckets())
        seen |= dict.fromkeys(("end", "update"), buckets)
    return seen


def gathered(model):
    """The bytes of layers that are whole, and of the buffers that others arrive in, or have arrived in last."""
    from torch.distributed.fsdp import FSDPModule

    found = {}
    for module in model.modules():
        group = module._get_fsdp_state()._fsdp_param_group if isinstance(module, FSDPModule) else None
        if group is None:
            continue
        last = group.comm_ctx.all_gather_state
        buffers = [group._all_gather_result, None if last is None else last.all_gather_result]
        whole = [x for param in group.fsdp_params for x in param.all_gather_outputs]
        for x in [*whole, *(buffer.all_gather_output for buffer in buffers if buffer is not None)]:
            found[storage_id(x)] = x.untyped_storage().nbytes()
    return sum(found.values())


@contextmanager
def counting(seen):
    """Count what tasks read and write, and rows that go to the rank that updates, and come back."""
    own = updates.run, batched_collectives.run_rounds, batched_collectives.run_whole

    def add(tasks):
        for task in tasks:
            grad = task.grad.nbytes if isinstance(task.grad, torch.Tensor) else 0
            seen["moved"] += 2 * task.param.nbytes + grad + 2 * sum(x.nbytes for x in task.raw.values())

    def run(tasks, compile):
        add(tasks)
        return own[0](tasks, compile)

    def rounds(work):
        work = list(work)
        add(task for task, _ in work)
        return own[1](work)

    def whole(work, run):
        seen["moved"] += sum(2 * x.param.nbytes + (0 if x.grad is None else x.grad.nbytes) for x in work)
        return own[2](work, run)

    estimated = updates.run_estimated

    def probed(task, compile):
        add([task])
        return estimated(task, compile)

    waits = patch.multiple(batched_collectives, run_rounds=rounds, run_whole=whole)
    with waits, patch.multiple(updates, run=run, run_estimated=probed):
        yield


@pytest.fixture(scope="module")
def found(two):
    return two.run(counted, list(CELLS))


@pytest.mark.parametrize("name", CELLS)
def test_amounts_are_those_of_the_rank_with_most(name, found):
    request, ranks = Request(**SIZE | CELLS[name]), [each[name] for each in found]
    planned = Estimator(LLAMA).estimate(request)
    most = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
    assert planned.work.update == most["moved"]
    assert planned.state_bytes == most["state"]
    assert planned.weights_bytes == most["weights"]
    copied = most["layer"] if planned.stage == "backward 1" else 0  # by gloo, as the layer before is fetched
    assert planned.collectives_bytes == most[planned.stage] + copied
    if planned.stage == "update":
        assert planned.gradients_bytes == most["gradients"]
