"""Dtypes have one name, however they are given."""

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.dtypes import DTYPES, dtype_name, short_dtype
from hybridopt.planning import Request


@pytest.mark.parametrize("short", DTYPES)
def test_both_names_and_torchs_own_mean_the_same(short):
    name = DTYPES[short]
    for given in (short, name, f"torch.{name}", getattr(torch, name)):
        assert dtype_name("load", "dtype", given) == name
    assert short_dtype("plan", "dtype", name) == short_dtype("plan", "dtype", short) == short
    assert Request(dtype=name) == Request(dtype=short)
    assert Request(lora=4, adapter_dtype=short) == Request(lora=4, adapter_dtype=name)


@pytest.mark.parametrize("check", [dtype_name, short_dtype])
def test_others_are_refused_with_the_nearest(check):
    for given, near in (("bf15", "bf16"), ("bfloat61", "bfloat16")):
        with pytest.raises(HybridOptError, match=f"merge: dtype='{given}' is not known; did you mean '{near}'"):
            check("merge", "dtype", given)
    with pytest.raises(HybridOptError, match="merge: dtype='int8' is not known"):
        check("merge", "dtype", "int8")
