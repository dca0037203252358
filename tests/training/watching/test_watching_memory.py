"""Bytes of real tensors by kind, and of the process."""

import mmap

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt.training.watching import memory
from hybridopt.training.watching.memory import gradient_bytes, held, measured, model_bytes, state_bytes, tensor_map
from support.models import batch, tiny_llama

LORA = LoraConfig(r=4, target_modules="all-linear")


def test_bytes_of_plain_tensors_are_counted_once_and_in_full():
    model = torch.nn.Linear(3, 2)
    model.register_buffer("extra", torch.zeros(5, dtype=torch.float64))
    model.twin = model.weight
    optimizer = torch.optim.AdamW(model.parameters())
    assert (model_bytes(model), gradient_bytes(model.parameters()), state_bytes(optimizer)) == (8 * 4 + 40, 0, 0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert (gradient_bytes(model.parameters()), state_bytes(optimizer)) == (8 * 4, 2 * 8 * 4 + 2 * 4)


def test_bytes_of_quantized_weights_include_their_constants():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 4, bias=False))
    from support.quantization import quantize_

    quantize_(model, "nf4", ["0"])
    codes, scales, rest = 64 * 64 // 2, 64, 4 + 4 + 4 * 16 + 4 * 256
    assert model_bytes(model) == codes + scales + rest + 4 * 64 * 4


@pytest.mark.parametrize("options", [{}, {"quantization": "nf4", "peft_config": LORA}], ids=["full", "lora-nf4"])
def test_measured_kinds_are_the_plans(options):
    """What the plan foresees of weights, constants, gradients and state is what is there after a step."""
    model = hybridopt.wrap(tiny_llama(), policy="frugal", **options)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    before = measured(model)
    assert before["gradients_bytes"] == before["state_bytes"] == 0
    model(**batch(model)).loss.backward()
    gradients = measured(model, optimizer)["gradients_bytes"]
    optimizer.step()
    found = measured(model, optimizer)
    planned = model.hybrid.report().totals
    assert (gradients, found["state_bytes"]) == (planned.grad_bytes, planned.state_bytes)
    estimate = model.hybrid.memory(seq_len=8)
    assert found["weights_bytes"] == estimate.weights_bytes
    assert found["quantization_bytes"] == estimate.quantization_bytes
    assert found["weights_bytes"] + found["quantization_bytes"] == model_bytes(model)


def test_every_tensor_is_on_the_map():
    model = hybridopt.wrap(tiny_llama(), policy="frugal", quantization="nf4", peft_config=LORA)
    found = {each["name"]: each for each in tensor_map(model)}
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert {name: each["tag"] for name, each in found.items()} == model.hybrid.tags
    quantized = [each for each in found.values() if each["role"] == "quantized"]
    assert quantized and all(each["bytes"] < 4 * each["shape"][0] * each["shape"][1] for each in quantized)
    adapter = next(each for each in found.values() if each["role"] == "adapter")
    assert adapter["bytes"] == 4 * adapter["shape"][0] * adapter["shape"][1]


def test_the_process_holds_what_it_has_written():
    before = held(torch.device("cpu"))
    with mmap.mmap(-1, 2**26) as more:  # from the system, and never from what was freed before
        more.write(b"1" * len(more))
        after = held(torch.device("cpu"))
    assert after["memory_bytes"] - before["memory_bytes"] > 0.9 * 2**26
    assert after["peak_bytes"] >= after["memory_bytes"] - 2**20


def test_a_system_that_tells_little_leaves_out_what_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    assert held(torch.device("cpu")).keys() == {"peak_bytes"}
    (tmp_path / "none").write_text("Name:\tpython\nVmHWM:\t  99999999 kB\nVmRSS:\t  2 kB\nVmSwap:\t 0 kB\n")
    assert held(torch.device("cpu")) == {"memory_bytes": 2048, "peak_bytes": 99999999 * 1024}
