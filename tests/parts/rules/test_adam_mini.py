"""Adam-mini against its restatement, against the authors' own optimizer, and where heads meet splits and adapters."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from adam_mini import Adam_mini
from peft import get_peft_model

from hybridopt import HybridOptError, HybridOptimizer, Plan, Policy, Route, Treatment, wrap
from hybridopt.core.registry import pack, unpack
from hybridopt.model.roles import params
from hybridopt.parts.rules.adam_mini import AdamMini
from support import models
from support.adapted import lora
from support.reference.adam_mini import AdamMini as Restated
from support.rule_driver import directions
from support.training import advance, assert_same, give, state_bytes, tensors, twin

LR, QUERY, KEY = 3e-3, "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"


def optimize(model, **options):
    """An optimizer that knows the module tree, as wrap makes it."""
    known = {p.name: p for p in params(model)}
    return HybridOptimizer(model.named_parameters(), **{"lr": LR, "policy": "adam_mini", "roles": known} | options)


def train(model, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        model(**models.batch(model, seed=step)).loss.backward()
        optimizer.step()


def seconds(optimizer, model):
    """Shapes of the second moments by name."""
    return {n: tuple(optimizer.state[p]["exp_avg_sq"].shape) for n, p in model.named_parameters()}


@pytest.mark.parametrize("value_blocks", ["neuron", "whole"])
def test_as_the_authors_package(value_blocks):
    """Untied Llama with biases and grouped queries: names and sizes that the package knows.

    No biases in the attention: the key's has no gradient but rounding errors.
    """
    mine, theirs = (models.tiny_llama(mlp_bias=True) for _ in range(2))
    optimizer = optimize(mine, value_blocks=value_blocks, weight_decay=0.1)
    reference = Adam_mini(
        theirs.named_parameters(), lr=LR, weight_decay=0.1, dim=64, n_heads=4, n_kv_heads=2, verbose=False
    )
    if value_blocks == "whole":
        reference.wv_names = {}  # as its README advises
    train(mine, optimizer, 12)
    train(theirs, reference, 12)
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        first, last = (next(iter(m.parameters())) for m in (models.tiny_llama(), mine))
        assert (first - last).abs().max() > LR
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        v = reference.state[q]["v" if "v" in reference.state[q] else "vmean"]
        torch.testing.assert_close(optimizer.state[p]["exp_avg_sq"].flatten(), v.flatten(), rtol=1e-4, atol=1e-12)


def each(n, size=1, start=0):
    """Labels start, start, ..., start + 1 ...: n blocks of `size` lines."""
    return start + np.repeat(np.arange(n), size)


def expected(name, shape):
    """The block of every entry, by the tensors' meaning in these models, written down without the package."""
    numel, rows, last = int(np.prod(shape)), shape[0], name.rpartition(".")[2]
    if last.startswith("bias"):
        return np.arange(numel).reshape(shape)
    if len(shape) == 1:
        return np.zeros(shape, int)
    if "query_key_value" in name:  # GPT-NeoX: of every head its query, its key, eight values
        return np.concatenate(
            [[10 * h] * 8 + [10 * h + 1] * 8 + [10 * h + 2 + i for i in range(8)] for h in range(4)]
        )[:, None]
    if "c_attn" in name:
        return np.concatenate([each(8, 16), each(64, start=8)])
    if ".c_" in name:
        return each(shape[1])
    if "q_proj" in name or "k_proj" in name:
        return each(rows // 16, 16)[:, None]
    if "experts" in name:
        return np.arange(shape[0] * shape[1]).reshape(*shape[:2], 1)
    return np.arange(rows).reshape(rows, *[1] * (len(shape) - 1))


def tiny_neox():
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**sizes, num_hidden_layers=1))


@pytest.mark.parametrize(
    "make",
    [models.tiny_llama, models.tiny_gpt2, models.tiny_moe, models.tiny_resnet, models.tiny_lstm, tiny_neox],
    ids=lambda make: make.__name__,
)
def test_as_restated(make):
    model = make().double()
    optimizer, betas = optimize(model, lr=0.01, betas=(0.8, 0.95)), (0.8, 0.95)
    arrays = {n: Restated(p.detach().numpy(), expected(n, p.shape), 0.01, *betas) for n, p in model.named_parameters()}

    for step in range(4):
        give(dict(model.named_parameters()), step)
        optimizer.step()
        for n, p in model.named_parameters():
            arrays[n].step(p.grad.numpy())
    for n, p in model.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), arrays[n].weight, 1e-9, 1e-11, err_msg=n)


def test_wrap_finds_the_heads():
    model = models.tiny_llama(head_dim=8)
    optimizer = wrap(model, policy="adam_mini").hybrid.optimizer(lr=LR)
    told = model.hybrid.report().totals.state_bytes
    train(model, optimizer, 1)
    shapes = seconds(optimizer, model)
    assert (shapes[QUERY], shapes[KEY]) == ((4,), (2,))
    assert shapes[QUERY.replace("q_proj", "v_proj")] == (16,)
    assert shapes["model.norm.weight"] == (1,) and shapes["lm_head.weight"] == (96,)
    assert told == state_bytes(optimizer)


def test_bytes_of_a_large_model_are_planned_on_meta():
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, vocab_size=128256, num_hidden_layers=2))
    found = params(model)
    count = sum(p.numel() for p in model.parameters())

    def per_parameter(**options):
        optimizer = Plan.of(found, unpack({"part": "policies.adam_mini", **options}))
        return optimizer.largest(p.name for p in found) / count

    second = 2 * (32 + 8 + 1024 + 4096 + 2 * 14336 + 4096) + 2 * 128256 + 5
    assert per_parameter() * count == 4 * (count + second)
    assert per_parameter() == pytest.approx(4.0009, abs=1e-4)
    assert per_parameter(codec="int8") == pytest.approx(1.0166, abs=1e-3)


def test_heads_given_in_place_of_the_models():
    model = models.tiny_llama()
    named = HybridOptimizer(model.named_parameters(), policy="adam_mini", heads=8, kv_heads=4)
    same = HybridOptimizer(model.named_parameters(), policy="adam_mini", heads=8)
    known = optimize(model, heads=8)
    for optimizer, wanted in ((named, ((8,), (4,))), (same, ((8,), (8,))), (known, ((8,), (2,)))):
        train(model, optimizer, 1)
        shapes = seconds(optimizer, model)
        assert (shapes[QUERY], shapes[KEY]) == wanted
    neox = tiny_neox()
    per_head = '"blocks": [[1, 8], [1, 8], [8, 1]], "groups": 4'
    assert any(per_head in group["treatment"] for group in optimize(neox, heads=4).param_groups)
    with pytest.raises(HybridOptError, match="heads=2 does not fit.*query_key_value.*4 groups"):
        optimize(neox, heads=2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"heads": 5}, r"heads=5 does not fit parameter 'model.layers.0.self_attn.q_proj.weight'.*64 output neurons"),
        ({"heads": 4, "kv_heads": 3}, r"kv_heads=3 does not fit.*k_proj.*32 output neurons.*leave it out"),
        ({"heads": 0}, "heads=0 is not allowed"),
        ({"value_blocks": "head"}, "value_blocks='head' is not known.*neuron"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"eps": -1}, "eps=-1 is not allowed"),
        ({"dim": 64}, "no option 'dim'"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_changed(options, match):
    model = models.tiny_llama()
    with pytest.raises(HybridOptError, match=match):
        wrap(model, policy="adam_mini", **options)
    assert not hasattr(model, "hybrid") and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("blocks", [((4, 16.0),), ((4,),), 4, ((0, 3),)], ids=str)
def test_bad_blocks_are_refused(blocks):
    with pytest.raises(HybridOptError, match="AdamMini: blocks="):
        AdamMini(blocks=blocks)


@pytest.mark.parametrize("split", ["columns", "block"])
def test_splits_that_keep_rows_whole_keep_the_heads(split):
    model = models.tiny_llama()
    optimizer = optimize(model, policy="frugal", full="adam_mini", split=split, density=0.25, update_gap=2)
    train(model, optimizer, 5)
    state = [(n, optimizer.state[p]) for n, p in model.named_parameters() if "q_proj" in n and optimizer.state.get(p)]
    assert state or split == "block"
    for name, kept in state:
        assert kept["exp_avg_sq"].shape == (4,), name
        assert kept["exp_avg"].shape == ((64, 16) if split == "columns" else (64, 64))


@pytest.mark.parametrize("options", [{"part": "splits.rows"}, {"part": "splits.svd", "side": "left"}], ids=str)
def test_splits_that_take_heads_apart_are_refused(options):
    use = Treatment(full=AdamMini(), split=unpack({"density": 0.5, "update_gap": 2, **options}))
    with pytest.raises(HybridOptError, match="parameter '[^']*q_proj.weight'.*cover 64 rows.*Take split='columns'"):
        optimize(models.tiny_llama(), policy=Policy((Route(use, name="*q_proj*"), Route(None))))
    model = models.tiny_llama()
    optimizer = optimize(model, policy=Policy((Route(use, name="*mlp*"), Route(None))))
    train(model, optimizer, 3)
    assert optimizer.state[model.model.layers[0].mlp.up_proj.weight]["exp_avg_sq"].shape == (64,), "64 of 128 rows"


def test_single_entries_belong_to_no_block():
    with pytest.raises(HybridOptError, match=r"parameter '[^']*q_proj.weight'.*single entries.*full='adamw'"):
        optimize(models.tiny_llama(), policy="frugal", full="adam_mini", split="randk")


def test_blocks_are_saved_and_checked_on_loading():
    rule = AdamMini(axis="columns", blocks=[[2, 8], [16, 1]], groups=2)
    assert rule.blocks == ((2, 8), (16, 1)) and unpack(json.loads(json.dumps(pack(rule))), "rules") == rule
    model = models.tiny_llama()
    optimizer = optimize(model)
    train(model, optimizer, 2)
    saved = optimizer.state_dict()
    by_rows = HybridOptimizer(models.tiny_llama().named_parameters(), policy="adam_mini")
    for other in (by_rows, optimize(models.tiny_llama(), heads=8)):
        with pytest.raises(HybridOptError, match="groups parameters otherwise|was trained as"):
            other.load_state_dict(saved)
    again = models.tiny_llama()
    again.load_state_dict(model.state_dict())
    resumed = optimize(again)
    resumed.load_state_dict(saved)
    train(model, optimizer, 2)
    train(again, resumed, 2)
    assert_same(dict(model.state_dict()), dict(again.state_dict()))


def test_given_blocks_replace_those_that_are_found():
    model = models.tiny_llama()
    rule = AdamMini(blocks=((16, 4),))
    policy = Policy((Route(Treatment(full=rule), name="*q_proj*"), Route(None)))
    optimizer = optimize(model, policy=policy)
    train(model, optimizer, 1)
    assert optimizer.state[model.model.layers[0].self_attn.q_proj.weight]["exp_avg_sq"].shape == (16,)
    with pytest.raises(
        HybridOptError, match=r"parameter 'model.*k_proj.weight' \(role 'linear'.*64 rows.*there are 32"
    ):
        optimize(model, policy=Policy((Route(Treatment(full=rule), name="*k_proj*"), Route(None))))


@pytest.mark.parametrize(
    "rule",
    [
        AdamMini(blocks=((3, 2), (2, 1)), groups=2),
        AdamMini(axis="columns"),
        AdamMini(axis="columns", blocks=((2, 4),)),
    ],
    ids=["heads in rows", "columns", "heads in columns"],
)
def test_slices_stacks_and_a_compiler_change_nothing(rule):
    grads = torch.randn(3, 2, 16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, kept = directions(rule, grads)
    cut, _ = directions(rule, grads, cuts=(3, 4, 11))
    torch.testing.assert_close(cut, whole)
    for i in range(2):
        one, state = directions(rule, grads[:, i])
        torch.testing.assert_close([x[i] for x in whole], one)
        torch.testing.assert_close({k: x[i] for k, x in kept.items()}, state)
    compiled = torch.compile(lambda g: directions(rule, g), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(grads)[0], whole)


def test_a_large_matrix_is_cut_into_slices(monkeypatch):
    monkeypatch.setattr("hybridopt.execution.slices.ELEMENTS", {"cpu": 100})
    shapes = {"a.q_proj.weight": (512, 256), "a.c_fc.weight": (512, 256)}
    weights = tensors(shapes)
    others = twin(weights)
    advance(_named(weights), weights, 3)
    monkeypatch.setattr("hybridopt.execution.slices.ELEMENTS", {"cpu": 1 << 30})
    advance(_named(others), others, 3)
    for name, p in weights.items():
        torch.testing.assert_close(p, others[name], rtol=1e-6, atol=1e-7)


def _named(weights):
    columns = Route(Treatment(full=AdamMini(axis="columns")), name="*c_fc*")
    policy = Policy((columns, Route(Treatment(full=AdamMini(heads=4)))))
    return HybridOptimizer(list(weights.items()), lr=LR, policy=policy)


def test_the_second_moment_stays_exact():
    """In bfloat16, as the package keeps it, v would never decay; and a codec leaves it alone."""
    model = models.tiny_llama().bfloat16()
    optimizer = optimize(model, codec="bf16")
    train(model, optimizer, 1)
    state = optimizer.state[model.model.layers[0].mlp.up_proj.weight]
    assert state["exp_avg_sq"].dtype == torch.float32 and state["exp_avg"].dtype == torch.bfloat16
    before = state["exp_avg_sq"].clone()
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(state["exp_avg_sq"], before * 0.999**3)


def test_adapters_have_rows_and_never_heads():
    model = get_peft_model(models.tiny_llama(), lora(r=6, target_modules=["q_proj"]))
    optimizer = optimize(model, heads=4)
    train(model, optimizer, 2)
    shapes = {n: tuple(optimizer.state[p]["exp_avg_sq"].shape) for n, p in model.named_parameters() if p.requires_grad}
    assert set(shapes.values()) == {(6,), (64,)} and len(shapes) == 4
    query = next(p for p in params(models.tiny_llama()) if p.name == QUERY)
    assert AdamMini().fit(query).blocks == ((4, 16),) and AdamMini().fit(replace(query, role="adapter")).blocks == ()
