"""What operations take on a CPU, where that is more than they hand out, is what torch's allocator sees."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.shared.peak import Peak
from hybridopt.planning.trace.tracker import Tracker
from hybridopt.planning.trace.workspaces import room_of

N = 4096


class Told(TorchDispatchMode):
    """Sum up what the operations within it are said to take."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        room = room_of("cpu")(function)
        self.size += 0 if room is None else room(args, kwargs or {})
        return function(*args, **kwargs or {})


def taken(work) -> int:
    """Bytes that are there for a moment, those of the result among them."""
    work()  # what is made once
    with Peak("cpu") as peak:
        work()
    return peak.extra


def operands():
    torch.manual_seed(0)
    full = torch.randn(N)
    return full.bfloat16(), full, full.half(), full.double(), full > 0, torch.randn(64, 64).bfloat16(), torch.randn(64)


b, f, h, d, o, square, row = operands()
OPERATIONS = {
    "add": lambda: b + f,
    "both are cast": lambda: b + h,
    "multiply by a mask": lambda: b * o,
    "compare": lambda: b < f,
    "where": lambda: torch.where(o, b, f),
    "addcmul": lambda: torch.addcmul(f, b, b),
    "a row": lambda: square * row,
    "wider": lambda: f - d,
    "a number": lambda: b * torch.tensor(2.0),
    "one dtype": lambda: f + f,
    "a copy": lambda: b.float(),
    "add in place": lambda: f.add_(b),
    "add in place, cast back": lambda: b.add_(f),
    "multiply a square in place": lambda: square.mul_(row),
    "copy in place": lambda: f.copy_(b),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operands_of_other_dtypes_are_cast_as_a_whole(name):
    with Told() as told:
        OPERATIONS[name]()
    found = taken(OPERATIONS[name])
    if name in ("a number", "one dtype", "a copy", "copy in place"):
        assert told.size == 0 and found <= 4 * N + 16  # the result, and a number in another dtype
    else:
        assert told.size == found >= 4 * N


def test_a_product_of_four_bits_makes_the_whole_weight_first():
    pytest.importorskip("bitsandbytes")
    from torch import nn

    from hybridopt.model.quantization.scheme_names import named

    layer = named("nf4", "test").quantize(nn.Linear(256, 1024, bias=False).bfloat16())
    x = torch.randn(8, 256).bfloat16()
    with torch.no_grad(), Told() as told:
        layer(x)
    with torch.no_grad():
        found = taken(lambda: layer(x))
    assert told.size == pytest.approx(found, rel=0.1)  # oneDNN takes a little, too
    assert told.size > 256 * 1024 * 2


def test_the_tracker_counts_it_within_the_operation_alone():
    with Tracker([b, f], "cpu") as tracker:
        out = b + f
        assert tracker.now == out.nbytes and tracker.peak == 4 * N + out.nbytes
        del out
        assert tracker.now == 0
    with Tracker([b, f], "cuda") as tracker:
        out = b + f
    assert tracker.peak == out.nbytes
