"""What is left of a model and its optimizer when nobody holds them any more."""

import gc
import random
import weakref

import torch
from peft import LoraConfig

import hybridopt
from support.attacks import Attack
from support.models import batch, tiny_llama

WAYS = (
    ({"policy": "frugal"}, "accumulate"),
    ({"policy": "adalomo"}, "fused"),
    ({"policy": "mezo"}, "accumulate"),
    ({"policy": "addax"}, "accumulate"),
    ({"policy": "badam", "update_gap": 1}, "accumulate"),
    ({"policy": "adamw", "peft_config": LoraConfig(r=2, target_modules=["q_proj"])}, "accumulate"),
    ({"policy": "adamw", "quantization": "nf4", "peft_config": LoraConfig(r=2, target_modules=["q_proj"])}, "fused"),
    ({"policy": "signsgd", "quantization": "int8-trainable"}, "accumulate"),
)


def _used(seed):
    options, release = WAYS[seed % len(WAYS)]
    model = hybridopt.wrap(tiny_llama(), **options)
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release)
    inputs = batch(model, seed=seed)
    for _ in range(2):
        if optimizer.probes_needed:
            optimizer.probe(lambda: model(**inputs).loss)
        if optimizer.gradients_needed:
            model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if random.Random(seed).random() < 0.5:
        model.hybrid.unwrap()
    held = [model, optimizer, *model.parameters(), *optimizer.state.values()]
    return [weakref.ref(x) for x in held if not isinstance(x, dict)]


def left(seed):
    """Use a model and an optimizer, drop them, and look for what still lives."""
    gc.collect()
    before = _tensors()
    alive = _used(seed)
    gc.collect()
    assert not [ref() for ref in alive if ref() is not None], f"{WAYS[seed % len(WAYS)]}: still alive"
    _used(seed)
    gc.collect()
    once = _tensors()
    _used(seed)
    gc.collect()
    assert _tensors() <= max(once, before), f"{WAYS[seed % len(WAYS)]}: every use leaves tensors behind"
    return "nothing left"


def _tensors():
    return sum(1 for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter))


ATTACKS = {
    "leaks": Attack(
        "a model is wrapped, trained, saved or not, and dropped",
        "model, optimizer and state are freed; a second use leaves no more tensors than the first",
        left,
        rounds=32,
        few=8,
    ),
}
