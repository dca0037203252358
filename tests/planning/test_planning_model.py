"""Where a planned model comes from, what it is like, and what is refused."""

import json

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.roles import params
from hybridopt.planning import Request, plan
from hybridopt.planning.bytes.static import static, weights
from hybridopt.planning.subject import model as planned_model
from hybridopt.planning.subject.model import skeleton
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.ways.calls import calls
from hybridopt.policy.plan import Plan
from support.models import tiny_gpt2, tiny_llama

SMALL = {"seq_len": 8, "device": "cpu"}
CASES = [
    {},
    {"quantization": "int8-trainable"},
    {"lora": 4},
    {"lora": 4, "quantization": "nf4"},
    {"lora": 4, "quantization": "fp4"},
    {"lora": 4, "quantization": "int8"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_skeleton_is_what_wrap_makes(make, case):
    """The same parameters in the same roles, and the same bytes of weights, constants and state."""
    model = _bfloat16(make())
    request = Request(policy="adamw", **case, **SMALL)
    planned = skeleton(subject_of(model.config), request)
    lora = {"peft_config": LoraConfig(r=4, target_modules="all-linear")} if "lora" in case else {}
    real = hybridopt.wrap(model, policy="adamw", quantization=case.get("quantization"), **lora)
    assert params(planned) == params(real)
    one, other = (static(weights(m), Plan.of(params(m), request.ready)) for m in (planned, real))
    assert one == other
    assert one.weights + one.quantization == real.hybrid.report().totals.weight_bytes + sum(
        b.nbytes for b in model.buffers()
    )


def _bfloat16(model):
    """As transformers loads it: buffers stay as they are."""
    return type(model)._from_config(model.config, dtype=torch.bfloat16).train()


def test_a_config_file_and_a_folder_are_read(tmp_path):
    config = tiny_llama().config
    config.save_pretrained(tmp_path)
    request = Request(policy="adamw", **SMALL)
    whole, of_file = plan(tmp_path, request), plan(tmp_path / "config.json", request)
    assert whole.parts == of_file.parts == plan(config, request).parts


def test_what_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text(json.dumps({"lr": 1}))
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "strange.json").write_text(json.dumps({"model_type": "no_such_model"}))
    (tmp_path / "vision.json").write_text(json.dumps({"model_type": "vit"}))
    for name, text in {
        "empty": "folder without a config.json",
        "other.json": "no model configuration: it has no 'model_type'",
        "text.json": "not valid JSON",
        "strange.json": "model_type='no_such_model' is not known to transformers .*; load the model",
        "vision.json": "'vit' has no causal language model; name the class",
    }.items():
        with pytest.raises(HybridOptError, match=text):
            plan(tmp_path / name, Request(**SMALL))
    with pytest.raises(HybridOptError, match="model=7 is not allowed"):
        plan(7, Request())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"policy": "adam"}, "policy='adam' is not known"),
        ({"options": {"rho": 1}}, "frugal has no option 'rho'"),
        ({"lora": 0}, "lora=0 is not allowed"),
        ({"seq_len": 0}, "seq_len=0 is not allowed"),
        ({"batch": 1.5}, "batch=1.5 is not allowed"),
        ({"release": "late"}, "release='late' is not known"),
        ({"quantization": "int4"}, "quantization='int4' is not known"),
        ({"dtype": "fp8"}, "dtype='fp8' is not known"),
        ({"quantization": "int8-trainable", "lora": 4}, "LoRA freezes them"),
    ],
)
def test_impossible_options_are_refused(settings, text):
    with pytest.raises(HybridOptError, match=text):
        Request(**settings)


def test_a_policy_that_trains_nothing_is_refused():
    options = {name: "frozen" for name in ("embeddings", "norms", "head", "biases")}
    with pytest.raises(HybridOptError, match="nothing to train.*add LoRA"):
        plan(tiny_llama().config, Request(policy="frugal", options=options, quantization="nf4", **SMALL))


def test_random_state_and_default_dtype_are_left_alone():
    state = torch.get_rng_state()
    plan(tiny_llama().config, Request(lora=4, **SMALL))
    assert torch.equal(state, torch.get_rng_state()) and torch.get_default_dtype() == torch.float32


def test_models_with_values_that_are_made_meanwhile_have_them(monkeypatch):
    """Such as by another thread."""
    made, bare = [], planned_model._bare
    monkeypatch.setattr(
        planned_model, "_bare", lambda *a: made.append(torch.nn.Linear(3, 3, device="cpu")) or bare(*a)
    )
    skeleton(subject_of(tiny_llama().config), Request(policy="adamw", **SMALL))
    assert made[0].weight.std() > 0.1 and made[0].weight.abs().max() < 0.6  # 3 ** -0.5


@pytest.mark.parametrize(("dtype", "size"), [(None, 4), ("float32", 4), ("bfloat16", 2)])
def test_adapters_are_planned_in_their_dtype(dtype, size):
    source, request = subject_of(tiny_llama().config), Request(policy="adamw", lora=4, adapter_dtype=dtype, **SMALL)
    adapters = [p for p in skeleton(source, request).parameters() if p.requires_grad]
    real = hybridopt.wrap(
        tiny_llama().bfloat16(), peft_config=LoraConfig(r=4, target_modules="all-linear"), adapter_dtype=dtype
    )
    assert {p.element_size() for p in adapters} == {size}
    assert sum(p.nbytes for p in adapters) == sum(p.nbytes for p in real.parameters() if p.requires_grad)


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_adapters_on_codes_are_planned_in_their_dtype(scheme):
    request = Request(policy="adamw", lora=4, quantization=scheme, adapter_dtype="bfloat16", **SMALL)
    adapters = [p for p in skeleton(subject_of(tiny_llama().config), request).parameters() if p.requires_grad]
    assert {p.dtype for p in adapters} == {torch.bfloat16}


def test_other_dtypes_of_adapters_are_refused():
    with pytest.raises(HybridOptError, match="plan: adapter_dtype='int4'"):
        Request(lora=4, adapter_dtype="int4")


def test_the_lines_to_paste_say_the_dtype_of_adapters():
    request = Request(policy="adamw", lora=4, adapter_dtype="bfloat16", **SMALL)
    assert 'adapter_dtype="bfloat16"' in calls(request, 1e-3)
