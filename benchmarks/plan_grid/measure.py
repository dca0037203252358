"""The most bytes that a real training step takes on a CPU, for comparison with what was planned.

Two countings of the same steps: op by op, every storage that an operation hands out, as long as it lives; and what
torch's allocator hands out and takes back, which also sees the buffers inside of kernels.
"""

import contextlib
import gc
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from peft import LoraConfig
from torch import Tensor

import hybridopt
from hybridopt import HybridOptimizer
from hybridopt.core.numerics import noise_tables, rounding
from hybridopt.core.storages import storage_id
from hybridopt.planning.request import DTYPES, Request
from hybridopt.planning.subject.model import Subject, checkpoint_
from hybridopt.planning.trace.fake_models import tensors_of
from hybridopt.planning.trace.tracker import Tracker, storages

from ..shared.peak import Peak

__all__ = ["SOURCES", "Measured", "counted", "counted_step", "kept", "measure", "measured_step", "prepared", "step"]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "tie_word_embeddings": False,
}
GPT2 = {"model_type": "gpt2", "n_embd": 256, "n_layer": 6, "n_head": 4, "vocab_size": 2048, "n_positions": 256}
BERT = {
    "model_type": "bert",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 2048,
    "max_position_embeddings": 256,
    "architectures": ["BertForMaskedLM"],
}
SETTINGS: dict[str, dict[str, Any]] = {"llama": LLAMA, "gpt2": GPT2, "bert": BERT}
SOURCES = {kind: Subject(kind, settings) for kind, settings in SETTINGS.items()}


@dataclass(frozen=True)
class Measured:
    """Bytes at the largest moment of all steps: op by op, and by the allocator."""

    ops: int
    allocated: int


def measure(source: Subject, request: Request, steps: int = 2) -> Measured:
    """Train for some steps on one thread.

    Args:
        source: the model.
        request: how it is trained.
        steps: how many; the first makes the state.

    Returns:
        The most of all steps.
    """
    ready = _ready(source, request)
    found = [measured_step(*ready, request.micro_batches) for _ in range(steps)]
    return Measured(max(x.ops for x in found), max(x.allocated for x in found))


def counted(source: Subject, request: Request, steps: int = 2) -> int:
    """Return the most bytes of some steps, op by op alone, which takes half of the time; see `measure`."""
    ready = _ready(source, request)
    return max(counted_step(*ready, request.micro_batches) for _ in range(steps))


def _ready(source: Subject, request: Request) -> tuple[Any, HybridOptimizer, Tensor]:
    """Return model, optimizer, and tokens for each micro-batch."""
    rounding._tables.clear()  # which may have grown by whatever ran before
    model, optimizer = prepared(source, request)
    return model, optimizer, torch.randint(source.settings["vocab_size"], (request.batch, request.seq_len))


def prepared(source: Subject, request: Request) -> tuple[Any, HybridOptimizer]:
    """Return a model with random weights, wrapped as the request says, and its optimizer."""
    torch.manual_seed(0)
    config = source.config(cuda=False)
    kind = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0])
    make = getattr(kind, "_from_config", None) or kind.from_config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(config, dtype=getattr(torch, DTYPES[request.dtype]))
        if request.checkpointing:
            checkpoint_(model, request.reentrant)
        lora = {"peft_config": LoraConfig(r=request.lora, target_modules="all-linear")} if request.lora else {}
        how = {**lora, **request.options, "quantization": request.quantization}
        how["activations"] = request.activations
        wrapped: Any = hybridopt.wrap(model, policy=request.policy, **how)
    return wrapped.train(), wrapped.hybrid.optimizer(lr=1e-6, release=request.release)


def measured_step(model: Any, optimizer: HybridOptimizer, tokens: Tensor, passes: int) -> Measured:
    """Take one step and return what it took.

    Args:
        model: is changed.
        optimizer: of the model.
        tokens: of each micro-batch [batch, sequence].
        passes: micro-batches.
    """
    before = _before(model, optimizer)
    with Peak("cpu") as peak:
        tracked = _tracked(model, optimizer, tokens, passes)
    return Measured(before + tracked, before + peak.extra)


def counted_step(model: Any, optimizer: HybridOptimizer, tokens: Tensor, passes: int) -> int:
    """Take one step and return the most bytes, op by op alone; see `measured_step`."""
    return _before(model, optimizer) + _tracked(model, optimizer, tokens, passes)


def _before(model: Any, optimizer: HybridOptimizer) -> int:
    gc.collect()
    return sum({storage_id(s): s.nbytes() for x in there(model, optimizer) for s in storages(x)}.values())


def _tracked(model: Any, optimizer: HybridOptimizer, tokens: Tensor, passes: int) -> int:
    with Tracker([*there(model, optimizer), tokens], "cpu") as tracker:
        step(model, optimizer, tokens, passes)
    return tracker.peak


def step(model: Any, optimizer: HybridOptimizer, tokens: Tensor, passes: int) -> None:
    """Take one step: probes, forward, backward and update, whichever the policy has.

    Args:
        model: is changed.
        optimizer: of the model.
        tokens: of each micro-batch [batch, sequence].
        passes: micro-batches.
    """
    uses = model.hybrid.resolved().trained.values()
    if any(t.probed for t in uses):
        optimizer.probe(lambda: model(input_ids=tokens, labels=tokens).loss)
    for i in range(passes if any(t.source.backward for t in uses) else 0):
        with optimizer.hold() if i < passes - 1 else contextlib.nullcontext():
            model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def there(model: Any, optimizer: HybridOptimizer) -> list[Tensor]:
    """Return what `kept` does, and what the process and the log of probes keep; looking it up makes tables."""
    drawn = {getattr(t.source, "kind", "gaussian") for t in model.hybrid.resolved().trained.values() if t.probed}
    log = optimizer._probing.log
    heads = [] if log is None else [*log.heads.values()]
    noise = [noise_tables.table(kind, torch.device("cpu")) for kind in drawn]
    return [*kept(model, optimizer), *rounding.made_tables(), *noise, *heads]


def kept(model, optimizer) -> list[Tensor]:
    """Return all tensors that are there between two steps; nobody else may hold them: a step lets go of some."""
    states = optimizer.state.values()
    return [*tensors_of(model), *(x for state in states for x in state.values() if isinstance(x, Tensor))]
