"""4-bit codes that FSDP2 cuts: adapters on them are trained, saved and loaded as in one process."""

from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt.model.fsdp.state import cuts_numbers
from support.models import tiny_llama, tiny_moe
from support.quantized import quantized
from support.sharded_llama import trained
from support.sharding import by_layer, going_on, kept

pytestmark = pytest.mark.slow
numbers = pytest.mark.skipif(not cuts_numbers(), reason="this torch shards floats alone")

STEPS = 2
TOKENS = torch.arange(24).view(2, 12)


def base(scheme=None):
    torch.manual_seed(0)
    model = tiny_llama(layers=2, attention_bias=True)
    return quantized(model, scheme, ["lm_head"]) if scheme else model


def wrapped(scheme):
    torch.manual_seed(1)
    lora = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return hybridopt.wrap(base(), policy="lion", peft_config=lora, quantization=scheme)


def whole(model):
    floats = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    return {n: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for n, p in floats.items()}


def run(scheme, out):
    """Train with codes cut, save, and load what was saved onto a base whose codes are cut; return weights."""
    model = by_layer(wrapped(scheme))
    packed = [p for p in model.parameters() if not p.is_floating_point()]
    cut = [p.to_local().numel() / p.numel() for p in packed]
    trained(model)
    model.hybrid.save_pretrained(out)
    again = hybridopt.from_pretrained(by_layer(base(scheme)), out)
    first = whole(again)
    trained(again, first=STEPS)
    return cut, whole(model), first, whole(again), model(input_ids=TOKENS).logits.detach()


def files(folder):
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {p: x if p.suffix == ".safetensors" else sorted(x) for p, x in found.items() if "manifest" not in p.name}


@numbers
@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_adapters_on_cut_codes_are_those_of_one_process(scheme, two, tmp_path):
    found = two.run(run, scheme, str(tmp_path / "two"))
    model = wrapped(scheme)
    trained(model)
    model.hybrid.save_pretrained(tmp_path / "one")
    expected = whole(model)
    with torch.no_grad():
        answer = model(input_ids=TOKENS).logits
    trained(model, first=STEPS)
    for cut, first, loaded, last, logits in found:
        assert len(cut) == 14 and max(cut) <= 0.5
        for n, x in expected.items():
            torch.testing.assert_close(first[n], x, rtol=1e-3, atol=1e-4)
            assert loaded[n].equal(first[n]) and first[n].equal(found[0][1][n]), n
        for n, x in whole(model).items():
            torch.testing.assert_close(last[n], x, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(logits, answer, rtol=1e-3, atol=1e-3)
    one, other = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == other.keys()
    assert all(one[n] == other[n] for n in one if n.suffix != ".safetensors")


def part(number, place, ranks=True):
    model = wrapped("nf4")
    model = by_layer(model) if ranks else model
    optimizer = model.hybrid.optimizer(lr=1e-2)
    with going_on(model, optimizer, place, number):
        trained(model, first=number * STEPS, optimizer=optimizer)
    return whole(model), kept(model, optimizer)


@numbers
def test_checkpoints_go_on_with_other_ranks(two, three, tmp_path):
    two.run(part, 0, str(tmp_path))
    three.run(part, 1, str(tmp_path))
    found, state = part(2, str(tmp_path), ranks=False)
    model = wrapped("nf4")
    optimizer = trained(model)
    for number in (1, 2):
        trained(model, first=number * STEPS, optimizer=optimizer)
    for n, x in whole(model).items():
        torch.testing.assert_close(found[n], x, rtol=1e-3, atol=1e-4)
    assert state.keys() == kept(model, optimizer).keys()


def without_adapters(scheme, ranks, out):
    model = hybridopt.wrap(base(), policy="lion", quantization=scheme)
    model = by_layer(model) if ranks else model
    model.hybrid.save_pretrained(out, full=True)


def mixed(out):
    """Save codes as floats, train in mixed precision, and see what older torch is told."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    without_adapters("nf4", True, out)
    model = by_layer(wrapped("nf4"), mp_policy=MixedPrecisionPolicy(torch.bfloat16))
    with (
        patch.object(torch, "__version__", "2.12.0"),
        pytest.raises(hybridopt.HybridOptError, match=r"take torch 2\.13"),
    ):
        model.hybrid.optimizer(lr=1e-2)
    answer = model(input_ids=TOKENS).logits.detach().float()
    trained(model)
    return answer


@numbers
def test_codes_are_saved_as_floats_and_gathered_as_they_are(two, tmp_path):
    found = two.run(mixed, str(tmp_path / "two"))
    without_adapters("nf4", False, str(tmp_path / "one"))
    assert files(tmp_path / "two") == files(tmp_path / "one")
    with torch.no_grad():
        expected = wrapped("nf4")(input_ids=TOKENS).logits
    for answer in found:
        torch.testing.assert_close(answer, expected, rtol=0.1, atol=0.05)


def experts():
    from torch.distributed.fsdp import fully_shard

    lora = LoraConfig(r=2, target_modules=["q_proj"])
    model = hybridopt.wrap(tiny_moe(), policy="lion", quantization="nf4", peft_config=lora)
    with pytest.raises(hybridopt.HybridOptError, match=r"experts.*fully_shard has turned .*float32"):
        fully_shard(model).hybrid.optimizer(lr=1e-2)
    model = hybridopt.wrap(tiny_moe(), policy="lion", quantization="nf4", peft_config=lora)
    stacks = {p for p in model.parameters() if p.ndim == 3}
    fully_shard(model, ignored_params=stacks).hybrid.optimizer(lr=1e-2)


@numbers
def test_stacks_of_matrices_stay_whole_or_are_refused(two):
    two.run(experts)


def trained_codes():
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Linear(8, 4))
    model = hybridopt.wrap(model, policy="lion", quantization="int8-trainable")
    fully_shard(model, ignored_params={p for p in model.parameters() if hasattr(p, "codes")})
    with pytest.warns(hybridopt.HybridOptWarning, match=r"'0.weight': trained, and not sharded.*leave out ignored"):
        model.hybrid.optimizer(lr=1e-2)


def test_gradients_that_nobody_adds_up_are_told_of(two):
    two.run(trained_codes)
