"""Tensors that hold the numbers that they held are told from others, whichever byte it is."""

import pytest
import torch

from hybridopt.execution.cpp import builder
from hybridopt.execution.cpp.kept_numbers import KeptNumbers


@pytest.fixture(params=["a kernel", "none"])
def made(request, monkeypatch):
    if request.param == "none":
        monkeypatch.setattr(builder, "function", lambda text, entry=builder.ENTRY: None)
    elif not builder.available():
        pytest.skip("there is no compiler")
    return KeptNumbers


def test_every_number_counts(made):
    before, sizes = torch.get_num_threads(), (1, 4, 16, 1000, 20_000)  # the last one in three chunks
    xs = [torch.arange(n) for n in sizes]
    kept = made(xs)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert kept.equal(xs) and kept.equal([x.clone() for x in xs])
        for x in xs:
            for place in {0, len(x) // 2, len(x) - 1, min(8192, len(x) - 1)}:
                x.data[place] += 1 << 40
                assert not kept.equal(xs)
                x.data[place] -= 1 << 40
        assert kept.equal(xs)
    torch.set_num_threads(before)
