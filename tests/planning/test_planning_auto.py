"""policy="auto": what is chosen, set up and refused."""

from functools import cache

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

import hybridopt
from benchmarks.plan_grid.measure import counted_step
from hybridopt import HybridOptError
from hybridopt.planning.ways.search import search
from support.models import tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("known")]

SIZE = {"seq_len": 32}


def searched(room, asked, **how):
    return search(tiny_llama().config, room, asked=asked, dtype="fp32", device="cpu", **SIZE, **how)


@cache
def peaks(**asked):
    return {c.way.title: c.estimate.peak_bytes for c in searched(1 << 40, asked)}


@pytest.mark.parametrize("room", [1 << 20, 900_000])
def test_who_asks_for_one_way_gets_the_first_of_all(room):
    """Also where gradients have to be freed for it to fit."""
    first, one = searched(room, {"chunk": None})[0], searched(room, {"chunk": None}, enough=1)[0]
    assert first.fits and first.request.release == "fused"
    assert (one.way, one.request, one.estimate) == (first.way, first.request, first.estimate)


def test_plenty_of_memory_gives_adamw_on_everything():
    model = tiny_llama()
    wrapped = hybridopt.wrap(model, policy="auto", memory="4GiB", **SIZE)
    assert wrapped is model and wrapped.hybrid.choice.way.title == "AdamW"
    optimizer = wrapped.hybrid.optimizer()
    assert set(wrapped.hybrid.tags.values()) == {"state-full"}
    assert optimizer.release == wrapped.hybrid.choice.request.release
    assert optimizer.param_groups[0]["lr"] == wrapped.hybrid.choice.lr == wrapped.hybrid.policy.start_from.full.value
    assert wrapped.hybrid.optimizer(lr=0.5, release="accumulate").param_groups[0]["lr"] == 0.5


def test_less_memory_gives_a_way_that_fits_and_trains():
    known = peaks()
    room = known["AdamW"] - 1
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory=room, margin=0, **SIZE)
    choice = model.hybrid.choice
    assert choice.fits and choice.estimate.peak_bytes <= room
    assert choice.request.checkpointing or choice.request.release == "fused" or choice.way.title != "AdamW"
    tokens = torch.arange(32).view(1, 32)
    optimizer = model.hybrid.optimizer()
    before = model(input_ids=tokens, labels=tokens).loss
    before.backward()
    optimizer.step()
    assert any(m.gradient_checkpointing for m in model.modules() if hasattr(m, "gradient_checkpointing")) == (
        choice.request.checkpointing
    )
    assert model(input_ids=tokens, labels=tokens).loss < before


def test_adapters_and_quantization_that_are_given_are_kept_to():
    lora = LoraConfig(r=3, target_modules=["q_proj", "v_proj"])
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory="4GiB", peft_config=lora, quantization="nf4", **SIZE)
    assert model.hybrid.choice.request.lora == 3 and model.hybrid.quantization == "nf4"
    assert {n.split(".")[-4] for n, tag in model.hybrid.tags.items() if tag != "frozen"} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"memory": "24"}, "unit"),
        ({"memory": None}, "memory=None"),
        ({"memory": -1}, "memory=-1"),
        ({"memory": "1KiB"}, "missing"),
        ({"memory": "rtx4091"}, "did you mean RTX 4090"),
        ({"memory": "4090", "margin": 1}, "margin=1 is not allowed"),
        ({"memory": "1GiB", "density": 0.5}, "no option 'density'"),
        ({"memory": "1GiB", "seq_len": 0}, "seq_len=0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_changed(options, say):
    model = tiny_llama()
    with pytest.raises(HybridOptError, match=say):
        hybridopt.wrap(model, policy="auto", **options)
    assert "hybrid" not in vars(model) and all(p.requires_grad for p in model.parameters())


def test_nothing_is_set_up_that_fits_only_into_the_margin():
    model, least = tiny_llama(), min(peaks(chunk=None).values())
    with pytest.raises(HybridOptError, match="within the margin that is kept free.*margin=0"):
        hybridopt.wrap(model, policy="auto", memory=least + 10, **SIZE)
    assert "hybrid" not in vars(model)


def test_adapters_are_chosen_and_made_in_the_dtype_that_is_asked_for():
    lora = LoraConfig(r=3, target_modules=["q_proj", "v_proj"])
    given = {"memory": "4GiB", "peft_config": lora, "adapter_dtype": torch.bfloat16}
    model = hybridopt.wrap(tiny_llama(), policy="auto", **given, **SIZE)
    assert model.hybrid.choice.request.adapter_dtype == "bfloat16"
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.bfloat16}


def test_only_transformers_models_can_be_planned():
    with pytest.raises(HybridOptError, match="name a policy"):
        hybridopt.wrap(nn.Linear(3, 3), policy="auto", memory="1GiB")


def test_the_live_plan_is_that_of_the_configuration():
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    from hybridopt.planning import Request, plan

    request = Request(policy="frugal", seq_len=32, dtype="fp32", device="cpu")
    assert model.hybrid.memory(seq_len=32).peak_bytes == plan(model.config, request).peak_bytes


def test_plan_is_the_older_name_of_memory():
    hybrid = hybridopt.wrap(tiny_llama(), policy="frugal").hybrid
    for how in ({"seq_len": 32}, {"seq_len": 16, "release": "fused", "micro_batches": 2}):
        assert hybrid.plan(**how) == hybrid.memory(**how)
    batch = {"input_ids": torch.zeros(2, 24, dtype=torch.long), "labels": torch.zeros(2, 24, dtype=torch.long)}
    assert hybrid.plan(batch) == hybrid.memory(batch) != hybrid.memory(seq_len=32)
    assert "hybridopt.Plan" in type(hybrid).plan.__doc__


def test_the_report_ends_with_the_step_when_asked():
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    report, plan = model.hybrid.report(seq_len=32), model.hybrid.memory(seq_len=32)
    assert sum(report.step.values()) == plan.peak_bytes and report.as_dict()["step"]["activations"] > 0
    assert "peak of a step: " in str(report).splitlines()[-1] and "activations" in str(report)
    assert "peak of a step" not in str(model.hybrid.report())


def saved(folder, **options):
    tiny_llama().save_pretrained(folder)
    return hybridopt.load(folder, **options)


def adapters(**options):
    return LoraConfig(target_modules="all-linear", **options)


def measured(model, tokens):
    """Bytes of the larger of two steps."""
    optimizer = model.hybrid.optimizer()
    return max(counted_step(model.train(), optimizer, tokens, 1) for _ in range(2))


@pytest.mark.parametrize(
    "options",
    [
        {"peft_config": adapters(r=4, modules_to_save=["lm_head", "embed_tokens"])},
        {"peft_config": adapters(r=16, use_dora=True)},
        {"peft_config": LoraConfig(r=4, target_modules=["q_proj"])},
    ],
    ids=["modules_to_save", "dora", "q_proj"],
)
def test_own_adapters_are_planned_as_they_are(options):
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory="1GiB", batch=2, **options, **SIZE)
    found = measured(model, torch.zeros(2, 32, dtype=torch.long))
    assert model.hybrid.choice.estimate.peak_bytes == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("scheme", ["nf4", "int8-trainable"])
def test_a_model_that_is_quantized_stays_so(tmp_path, scheme):
    model = hybridopt.wrap(saved(tmp_path, quantization=scheme), policy="auto", memory="1GiB", batch=2, **SIZE)
    assert model.hybrid.choice.request.quantization == scheme
    found = measured(model, torch.zeros(2, 32, dtype=torch.long))
    assert model.hybrid.choice.estimate.peak_bytes == pytest.approx(found, rel=0.03)


def with_adapters(model):
    return get_peft_model(model, adapters(r=2))


def half_frozen(model):
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("change", "say"),
    [(with_adapters, "has some already"), (half_frozen, "requires_grad=False"), (nn.Module.double, "float64")],
)
def test_models_that_their_configuration_does_not_describe_are_refused(change, say):
    with pytest.raises(HybridOptError, match=say):
        hybridopt.wrap(change(tiny_llama()), policy="auto", memory="1GiB", **SIZE)


@pytest.mark.parametrize(("method", "say"), [("gptq", "plan its original"), ("bitsandbytes", "say which")])
def test_weights_that_are_stored_quantized_are_not_planned_as_others(method, say):
    from hybridopt.planning import Request, plan

    config = tiny_llama().config
    config.quantization_config = {"quant_method": method, "bits": 4}
    with pytest.raises(HybridOptError, match=say):
        plan(config, Request(seq_len=32))


def test_the_plan_afterwards_is_that_of_the_choice():
    """With the release that the optimizer takes."""
    room = next(peak for title, peak in peaks(release="fused").items() if title == "AdaLomo")
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory=room, margin=0, **SIZE)
    choice = model.hybrid.choice
    assert choice.request.release == "fused"
    assert model.hybrid.memory(**SIZE).peak_bytes == choice.estimate.peak_bytes


def test_the_class_of_the_model_is_planned_not_that_of_its_checkpoint():
    config = tiny_llama().config
    config.architectures, config.pad_token_id = ["LlamaForCausalLM"], 0
    model = AutoModelForSequenceClassification.from_config(config)
    model = hybridopt.wrap(model, policy="auto", memory="1GiB", **SIZE)
    assert model.hybrid.choice.estimate.peak_bytes == model.hybrid.memory(**SIZE).peak_bytes


def test_probes_fill_no_cache():
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory=peaks()["MeZO on LoRA, nf4 base"], margin=0, **SIZE)
    assert model.hybrid.choice.way.title.startswith("MeZO") and not model.config.use_cache
    assert "use_cache = False" in model.hybrid.choice.code
    assert model.hybrid.choice.estimate.peak_bytes == model.hybrid.memory(**SIZE).peak_bytes


@pytest.mark.parametrize("batch", [{}, {"input_ids": [1, 2]}])
def test_a_batch_is_tensors_by_name(batch):
    with pytest.raises(HybridOptError, match="give tensors by name"):
        hybridopt.wrap(tiny_llama(), policy="frugal").hybrid.memory(batch=batch)
