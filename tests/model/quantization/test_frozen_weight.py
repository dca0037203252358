"""A weight of any shape that is kept as codes of a frozen scheme, and is floats to everything else."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybridopt import HybridOptError
from hybridopt.model.quantization.frozen_weight import FrozenWeight
from hybridopt.model.quantization.owners import is_frozen, logical_shape, owner, parts
from hybridopt.model.quantization.scheme_names import named
from support.quantization import SCHEMES, nbytes

SHAPES = [(4, 32, 48), (3, 5, 7), (2, 100, 64), (70, 66), (8, 256, 320)]  # blocks end within and at matrices
ERROR = {"nf4": 0.11, "fp4": 0.15, "int8": 0.01}

LAZY = {
    "one matrix": lambda x: x[1],
    "from behind": lambda x: x[-1],
    "some": lambda x: x[1:3],
    "transposed": lambda x: x.transpose(-1, -2),
    "one of the transposed": lambda x: x.mT[1] if x.ndim == 3 else x.mT,
    "flat": lambda x: x.reshape(-1),
    "in a loop": lambda x: list(x)[1],
    "in pieces": lambda x: x.split(2)[0],
    "in float32": lambda x: x.to(torch.float32),
}
DENSE = {
    "columns": lambda x: x[..., :2] + 0,
    "one more dimension": lambda x: x[None] + 0,
    "by numbers": lambda x: x[torch.tensor([1, 0])],
    "contiguous": lambda x: x.mT.contiguous() + 0,
    "sum": lambda x: x.sum(),
    "an odd piece": lambda x: x.flatten()[3:9] + 0,
}


def dense(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def frozen(shape, scheme="nf4", dtype=torch.float32):
    return nn.Parameter(named(scheme, "test").pack(dense(shape, dtype)), requires_grad=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_stand_for_nearly_the_same_values(scheme, shape):
    weight, x = frozen(shape, scheme), dense(shape)
    assert isinstance(weight, FrozenWeight) and isinstance(weight, nn.Parameter)
    assert (weight.dequantize() - x).norm() < ERROR[scheme] * x.norm()
    assert sum(part.nbytes for part in parts(weight).values()) == nbytes(shape, scheme) == weight.nbytes
    assert owner(weight).name == scheme and is_frozen(weight) and logical_shape(weight) == shape
    empty = named(scheme, "test").pack(x.to("meta"))
    told = {name: (part.shape, part.dtype) for name, part in weight.parts().items()}
    assert told == {name: (part.shape, part.dtype) for name, part in empty.parts().items()}
    assert all(part.is_meta for part in empty.parts().values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_views_keep_the_codes_and_everything_else_sees_the_values(scheme, shape):
    for dtype in (torch.float32, torch.bfloat16):
        weight = frozen(shape, scheme, dtype)
        x, codes = weight.dequantize(), weight.parts()["codes"]
        for name, see in LAZY.items():
            seen = see(weight)
            assert isinstance(seen, FrozenWeight) and seen.stride() == see(x).stride(), name
            assert seen.parts()["codes"] is codes, name
            wanted = see(weight.dequantize(torch.float32)) if name == "in float32" else see(x)
            assert torch.equal(seen.dequantize(), wanted), name
        for name, see in DENSE.items():
            assert type(see(weight)) is torch.Tensor and torch.equal(see(weight), see(x)), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_autograd_keeps_codes_for_the_backward_pass(scheme):
    weight = frozen((4, 64, 128), scheme)
    kept, x = [], torch.randn(5, 128, requires_grad=True)

    def see(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        out = F.linear(x, weight[2])
    assert [type(t) for t in kept] == [FrozenWeight] and kept[0].parts()["codes"] is weight.parts()["codes"]
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad, torch.ones_like(out) @ weight.dequantize()[2])


def test_it_is_copied_moved_and_cast_as_codes():
    weight = frozen((4, 32, 64))
    for again in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):
        assert isinstance(again, nn.Parameter) and torch.equal(again.dequantize(), weight.dequantize())
        assert again.parts()["codes"].data_ptr() != weight.parts()["codes"].data_ptr()
    module = nn.Module()
    module.experts = weight
    module.to(torch.bfloat16)
    assert module.experts.dtype == torch.bfloat16 == module.experts.dequantize().dtype
    assert module.experts.parts()["codes"].dtype == torch.uint8
    assert module.to("meta").experts.device.type == "meta"


@pytest.mark.parametrize(
    "write", [lambda x: x.add_(1), lambda x: x[0].zero_(), lambda x: x.data.mul_(2), lambda x: x.copy_(torch.ones(()))]
)
def test_writing_is_refused_by_name(write):
    weight = frozen((4, 32, 64), "int8")
    before = weight.dequantize()
    with pytest.raises(HybridOptError, match="would write to a weight that quantization='int8' has frozen"):
        write(weight)
    assert torch.equal(weight.dequantize(), before)
