"""A zeroth-order run on the device, rebuilt on the CPU from its log."""

import copy
import hashlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import hybridopt

from ..shared.llama_model import bare
from .measure import loss_of


def replay(device: str, steps: int) -> dict:
    """Train on the device, rebuild on the CPU; return for each dtype whether every bit of the weights is the same."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        start = bare("60m" if device == "cuda" else "tiny", "cpu").to(dtype)
        base, model = copy.deepcopy(start), start.to(device)
        hybridopt.wrap(model, policy="mezo")
        optimizer = model.hybrid.optimizer(lr=1e-6, nonfinite="skip")
        tokens = torch.randint(model.config.vocab_size, (2, 32), device=device)
        for _ in range(steps):
            optimizer.step(partial(loss_of, model, tokens))
        with TemporaryDirectory() as folder:
            model.hybrid.save_pretrained(Path(folder) / "out")
            again = hybridopt.from_pretrained(base, Path(folder) / "out")
        found[str(dtype).removeprefix("torch.")] = digest(model) == digest(again)
    return {"steps": steps, "equal_sha256": found}


def digest(model: nn.Module) -> str:
    """Return the SHA-256 of all weights."""
    sha = hashlib.sha256()
    for _, p in sorted(model.named_parameters()):
        sha.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
