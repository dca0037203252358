"""A quantization scheme is one new file: here one in a temporary folder, which everything then knows."""

import sys

import pytest
import torch

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core import registry
from hybridopt.model.quantization.owners import scheme_of
from hybridopt.planning import Request
from hybridopt.planning.bytes.static import weights
from hybridopt.planning.subject.model import skeleton
from hybridopt.planning.subject.source import subject_of
from support.models import batch, tiny_llama

FILE = '''
"""The upper half of float32 numbers."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hybridopt.core.contracts import Scheme

__all__ = ["UpperHalf"]


class Halved(nn.Module):
    def __init__(self, codes, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(codes, requires_grad=False), bias

    def forward(self, x):
        return F.linear(x, self.weight.view(torch.bfloat16).to(x.dtype), self.bias)


@dataclass(frozen=True)
class UpperHalf(Scheme):
    """16 bits of every weight, frozen."""

    name = "upper-half"
    title = "half"
    bits = 16

    def quantize(self, layer):
        return Halved(layer.weight.detach().bfloat16().view(torch.int16), layer.bias).train(layer.training)

    def twin(self, layer):
        return Halved(torch.empty(layer.weight.shape, dtype=torch.int16, device="meta"), layer.bias)

    def owns(self, weight):
        return weight.dtype == torch.int16

    def parts(self, weight, layer=None):
        return {"codes": weight}

    def nbytes(self, shape):
        return 2 * math.prod(shape)
'''


@pytest.fixture
def schemes(tmp_path, monkeypatch):
    """A folder of schemes beside those of the package; returns a function that writes a file into it."""
    folder = tmp_path / "toys" / "schemes"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.PLACES, "schemes", (*registry.PLACES["schemes"], "toys.*.*"))

    def write(name, text):
        (folder / f"{name}.py").write_text(text)
        registry.forget()

    yield write
    registry.forget()


@pytest.fixture(autouse=True)
def no_modules_stay():
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


def test_it_is_wrapped_trained_reported_saved_and_loaded(schemes, tmp_path):
    schemes("upper_half", FILE)
    model = hybridopt.wrap(tiny_llama(), "adamw", quantization="upper-half")
    layers = model.hybrid.quantized
    assert len(layers) == 14 and model.hybrid.quantization == scheme_of(model) == "upper-half"
    rows = {row.role: row for row in model.hybrid.report().rows}
    numbers = sum(model.get_parameter(f"{n}.weight").numel() for n in layers)
    assert rows["quantized"].weight_bytes == 2 * numbers == 2 * rows["quantized"].parameters
    optimizer = model.hybrid.optimizer(lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(**batch(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.hybrid.save_pretrained(tmp_path / "saved")
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path / "saved")
    assert again.hybrid.quantization == "upper-half"
    assert torch.equal(again(**batch(again)).logits, model(**batch(model)).logits)


def test_the_planner_counts_what_is_there(schemes):
    schemes("upper_half", FILE)
    real = hybridopt.wrap(tiny_llama(), quantization="upper_half")
    planned = skeleton(subject_of(tiny_llama().config), Request(quantization="upper_half", dtype="fp32"))
    assert weights(planned) == weights(real)


def test_its_name_is_listed(schemes):
    schemes("upper_half", FILE)
    with pytest.raises(HybridOptError, match="Known: .*upper-half"):
        hybridopt.wrap(tiny_llama(), quantization="nf5")


@pytest.mark.parametrize(
    ("without", "lacks"),
    [("    bits = 16\n", "bits"), ("    def twin(self, layer):", "twin"), ("    def owns(self, weight):", "owns")],
)
def test_one_that_lacks_something_is_refused_by_name(schemes, without, lacks):
    text = FILE.replace(without, without.replace(lacks, f"no_{lacks}"))
    assert text != FILE
    schemes("upper_half", text)
    with pytest.raises(HybridOptError, match=rf"toys\.schemes\.upper_half\.UpperHalf is no Scheme: it lacks {lacks};"):
        hybridopt.wrap(tiny_llama(), quantization="upper-half")


def test_two_files_of_one_name_are_refused(schemes):
    schemes("nf4", FILE)
    with pytest.raises(HybridOptError, match=r"'nf4' is there twice: .*integrations.*and toys\.schemes\.nf4"):
        hybridopt.wrap(tiny_llama(), quantization="nf4")
