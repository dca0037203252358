"""Memory is read at several places in turns: nothing is left out and nothing is read twice, by any registers."""

import pytest
import torch

from hybridopt.execution.cpp import builder
from hybridopt.execution.cpp.call import KernelCall
from hybridopt.execution.cpp.gradient_check import BITS, TEXT

WAYS = ["", "#define HYBRIDOPT_AVX2\n", "#define HYBRIDOPT_PORTABLE\n"]
TURNS = """
#include "chunks.h"
// tensors: how often each element had its turn, and where turns began; sizes: first, last, step; keys: bytes
extern "C" void hybridopt_run(const Given* given) {
    const Task task = task_of(*given, 0);
    int* found = (int*)task.at[0];
    i64* begun = (i64*)task.at[1];
    in_turns<4>(task.rows, task.width, task.count, (i64)task.keys[0], [&](i64 begin, i64 end) {
        *begun++ = begin;
        for (i64 i = begin; i < end; ++i) ++found[i];
    });
}
"""
pytestmark = pytest.mark.skipif(not builder.available(), reason="there is no compiler")


@pytest.fixture(scope="module", autouse=True)
def built():
    builder.build([TURNS, *(way + TEXT for way in WAYS)])


@pytest.mark.parametrize("step", [1, 7, 512])
@pytest.mark.parametrize("size", [0, 1, 511, 1023, 5000, 20_001])
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize(("bytes", "places"), [(4, 1), (40, 3), (2000, 4)])
def test_every_element_has_one_turn(first, size, step, bytes, places):
    found, begun = torch.zeros(first + size + 9, dtype=torch.int32), torch.full((size + 1,), -1)
    KernelCall(builder.function(TURNS), [[found, begun]], [(first, first + size, step)], 1, 0).run(None, [bytes], [])
    wanted = torch.zeros_like(found)
    wanted[first : first + size] = 1
    assert found.equal(wanted)
    if size == 20_001 and step < 512:  # and the first turns are far from each other
        here = begun[:places].diff()
        assert len(here) == places - 1 and (here > size // (places + 1)).all()


def verdicts(way, grads):
    """Return which gradients are not finite, as the kernel for a kind of registers finds them."""
    flags = torch.zeros(len(grads), dtype=torch.int32)
    bytes, infinite = BITS[grads[0].dtype]
    tensors = [[grad, flag] for grad, flag in zip(grads, flags.split(1), strict=True)]
    sizes = [(bytes, grad.numel(), infinite) for grad in grads]
    KernelCall(builder.function(way + TEXT), tensors, sizes, 0, 0, grad=0).run(None, (), ())
    return flags


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=["native", "avx2", "portable"])
def test_what_is_not_finite_is_seen_at_every_offset(way, dtype):
    fine, grads = torch.tensor([torch.finfo(dtype).max, -torch.finfo(dtype).max, 0.0], dtype=dtype), []
    for size in (1, 2, 15, 16, 17, 63, 65, 131):
        grads += fine.repeat(size // 3 + 1)[:size].repeat(size, 1).unbind()
    far = (5 << 16) + 77  # more than all places of one chunk, with a tail
    ends = {0, 1, 511, 512, far - 1, far - 78, *(i * far // 8 for i in range(1, 8)), *range(16_380, 16_390)}
    grads += [fine.repeat(far // 3 + 1)[:far].clone() for _ in ends]
    places = [i for size in (1, 2, 15, 16, 17, 63, 65, 131) for i in range(size)] + sorted(ends)
    whole = [*grads, grads[0][:0]]
    assert not verdicts(way, whole).any()
    bad = torch.tensor([float("nan"), float("inf"), -float("inf"), -float("nan")], dtype=dtype)
    for i, (grad, at) in enumerate(zip(grads, places, strict=True)):
        grad[at] = bad[i % 4]
    assert verdicts(way, whole).tolist() == [1] * len(grads) + [0]
