"""QZO trains the scales of quantized weights, and nothing else."""

import copy

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError
from support.models import tiny_gpt2, tiny_llama
from support.probing import direction
from support.quantization import fingerprint, open_scales_, quantize_, scales, targets_of

TOKENS = torch.arange(32).view(2, 16) % 90
SCHEMES = ("nf4", "fp4", "int8")


def loss_of(model):
    return model(input_ids=TOKENS, labels=TOKENS).loss


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def opened(model):
    return {name: x for name, _, x in scales(model)}


def trained(model, steps=3, lr=1e-3, **options):
    optimizer = model.hybrid.optimizer(lr=lr, **options)
    for _ in range(steps):
        optimizer.step(lambda: loss_of(model))
    return optimizer


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_opening_the_scales_changes_no_answer(scheme, build):
    model = build()
    quantize_(model, scheme, targets_of(model, scheme, ["lm_head"]))
    before = logits(model)
    open_scales_(model)
    assert logits(model).equal(before)
    first = opened(model)
    open_scales_(model)
    assert all(opened(model)[n] is x for n, x in first.items())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_is_that_of_the_equation_and_codes_stay(scheme):
    lr, eps = 1e-3, 1e-3
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization=scheme, eps=eps, clip=None)
    start = {n: x.detach().clone() for n, x in opened(model).items()}
    codes = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert start.keys() == {n for n, tag in model.hybrid.tags.items() if tag != "frozen"}

    def at(factor):
        for name, x in opened(model).items():
            x.data.copy_(start[name] + factor * direction(name, x))
        with torch.no_grad():
            return loss_of(model).double().item()

    g = (at(eps) - at(-eps)) / (2 * eps)
    at(0)
    trained(model, 1, lr)
    for name, x in opened(model).items():
        expected = (start[name] - lr * g * direction(name, x)).clamp(min=0)
        torch.testing.assert_close(x.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)
    assert all(p.equal(codes[n]) for n, p in model.named_parameters())


def test_scales_never_become_negative_and_the_derivative_is_clipped():
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4", clip=0.01)
    before = {n: x.detach().clone() for n, x in opened(model).items()}
    trained(model, 1, lr=1.0)
    moves = torch.cat([(x.detach() - before[n]).abs() for n, x in opened(model).items()])
    assert moves.max() <= 0.0101
    trained(model, 3, lr=1e3)
    assert all((x >= 0).all() for x in opened(model).values())
    assert any((x == 0).any() for x in opened(model).values())


def test_losses_fall():
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4")
    before = loss_of(model).item()
    trained(model, 60, lr=1e-3)
    assert loss_of(model).item() < before - 0.01


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_scales_are_saved_and_come_back(scheme, build, tmp_path):
    model = hybridopt.wrap(build(), policy="qzo", quantization=scheme)
    trained(model)
    model.hybrid.save_pretrained(tmp_path / "out")
    again = hybridopt.from_pretrained(build(), tmp_path / "out")
    assert logits(again).equal(logits(model))
    assert all(x.equal(opened(model)[n]) for n, x in opened(again).items())
    trained(again)


def test_a_base_that_came_quantized_takes_the_scales_back(tmp_path):
    def base():
        model = tiny_llama()
        quantize_(model, "nf4", targets_of(model, "nf4", ["lm_head"]))
        return model

    model = hybridopt.wrap(base(), policy="qzo")
    trained(model)
    model.hybrid.save_pretrained(tmp_path / "out")
    assert logits(hybridopt.from_pretrained(base(), tmp_path / "out")).equal(logits(model))


def test_adapters_may_be_trained_beside_the_scales(tmp_path):
    lora = LoraConfig(r=4, target_modules="all-linear")
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4", peft_config=lora)
    assert {e.split(".")[-2] for e, tag in model.hybrid.tags.items() if tag != "frozen"} >= {"weight", "default"}
    before = fingerprint(model)
    trained(model)
    assert fingerprint(model) != before  # scales count
    model.hybrid.save_pretrained(tmp_path / "out")
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path / "out")
    assert logits(again).equal(logits(model))


def test_other_policies_leave_opened_scales_alone():
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4").hybrid.unwrap()
    model = hybridopt.wrap(model, policy="adamw", peft_config=LoraConfig(r=4, target_modules="all-linear"))
    assert {tag for name, tag in model.hybrid.tags.items() if name.endswith("absmax")} == {"frozen"}


def test_nothing_changes_with_lr_0_and_the_model_can_be_copied():
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4")
    before = logits(model)
    trained(model, 2, lr=0.0)
    assert logits(model).equal(before)
    assert logits(copy.deepcopy(model)).equal(before)


def test_a_model_without_quantized_weights_is_refused():
    model = tiny_llama()
    with pytest.raises(HybridOptError, match="quantization='fp4', 'int8' or 'nf4'"):
        hybridopt.wrap(model, policy="qzo")
    assert not hasattr(model, "hybrid")


def test_scales_take_no_first_order_treatment():
    from hybridopt import Policy, Route, Treatment

    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4").hybrid.unwrap()
    with pytest.raises(HybridOptError, match="no backward pass reaches"):
        hybridopt.wrap(model, policy=Policy((Route(None, role="quantized"), Route(Treatment()))))
