"""Compiling is put off until a compiled function is called, and then it is done once."""

import pytest
import torch

from hybridopt.core.deferred_compile import compiled_later


@pytest.fixture
def compiled(monkeypatch):
    """Calls of torch.compile, which returns functions that add 1 to what they are made of."""
    calls = []

    def compile_(model=None, **options):
        calls.append(options)
        return lambda *args: model(*args) + 1

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def test_a_function_is_compiled_when_it_is_called(compiled):
    with compiled_later():
        double = torch.compile(lambda x: 2 * x, dynamic=False)
    assert not compiled
    assert [double(1), double(2)] == [3, 5] and compiled == [{"dynamic": False}]


@pytest.mark.parametrize("given", [torch.nn.Linear(1, 1), None])
def test_modules_and_decorators_are_left_to_torch(given, compiled):
    with compiled_later():
        torch.compile(given, fullgraph=True)
    assert compiled == [{"fullgraph": True}]
    own = torch.compile
    with pytest.raises(ZeroDivisionError), compiled_later():
        _ = 1 / 0
    assert torch.compile is own
