"""What `wrap` cannot do is one clear error, before anything is changed."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn

import hybridopt
from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.model.roles import params
from support import quantization
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama
from support.saved import anatomy, bits

LORA = LoraConfig(r=4, target_modules="all-linear")


def lora(**changes):
    return {"peft_config": LoraConfig(**{"r": 4, "target_modules": "all-linear"} | changes)}


class Owner(nn.Module):
    """Has something named `hybrid` of its own."""

    def __init__(self, kind):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        if kind == "buffer":
            self.register_buffer("hybrid", torch.zeros(2))
        elif kind == "parameter":
            self.hybrid = nn.Parameter(torch.zeros(2))
        elif kind == "module":
            self.hybrid = nn.Linear(2, 2)
        else:
            self.hybrid = 5


class Owning(nn.Module):
    hybrid = property(lambda self: 5)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)


def quantized(scheme="nf4"):
    model = tiny_llama()
    quantization.quantize_(model, scheme, quantization.check(model, scheme, ["lm_head"]))
    return model.requires_grad_(False)


def with_complex():
    model = nn.Sequential(nn.Linear(3, 3))
    model.phase = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    return model


def with_nan():
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    return model


def with_hook():
    model = tiny_llama()
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    return model


CASES = {
    "unknown policy": (tiny_llama, {"policy": "frugle"}, "policy='frugle'.*did you mean 'frugal'.*badam.*galore"),
    "policy of another kind": (tiny_llama, {"policy": 5}, "policy=5 is not allowed; give a name, a Policy or a path"),
    "a policy class": (tiny_llama, {"policy": Policy}, "policy=.*not allowed"),
    "no such file": (tiny_llama, {"policy": "no/where.json"}, "no/where.json is missing"),
    "unknown option": (
        tiny_llama,
        {"desnity": 0.5},
        "no option 'desnity' .value 0.5.; did you mean 'density'.*free_lr_scale.*update_gap",
    ),
    "option of another policy": (tiny_llama, {"policy": "badam", "split": "rows"}, "badam has no option 'split'"),
    "options beside a Policy": (
        tiny_llama,
        {"policy": Policy((Route(Treatment()),)), "density": 0.5},
        r"\['density'\] belong to policies by name",
    ),
    "option out of range": (tiny_llama, {"density": 1.5}, r"density=1.5 is not allowed; give a number in \[0, 1\]"),
    "option of the wrong type": (
        tiny_llama,
        {"update_gap": 2.5},
        "update_gap=2.5 is not allowed; give a whole number",
    ),
    "unknown split": (tiny_llama, {"split": "diagonal"}, "split='diagonal'.*columns"),
    "unknown place": (tiny_llama, {"head": "half"}, "head='half'.*frozen, full|head.*half"),
    "seed": (tiny_llama, {"seed": "7"}, "seed='7' is not allowed; give a whole number"),
    "no route fits": (
        tiny_llama,
        {"policy": Policy((Route(Treatment(), role="linear"),))},
        "no route fits parameter 'model.embed_tokens.weight'.*role 'embedding'",
    ),
    "a route that fits nothing": (
        tiny_llama,
        {"policy": Policy((Route(None, name="*.wte.*"), Route(Treatment())))},
        r"route name='\*.wte.\*' matches no parameter.*model.embed_tokens.weight",
    ),
    "everything frozen": (tiny_llama, {"policy": Policy((Route(None),))}, "nothing to train"),
    "unknown quantization": (
        tiny_llama,
        {"quantization": "nf5"},
        "quantization='nf5'.*fp4, int8, .*nf4",
    ),
    "nothing to quantize": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1)), {"quantization": "nf4"}, "no linear layer"),
    "quantized already": (quantized, {"quantization": "int8"}, "already is quantized .nf4."),
    "quantized, nothing trainable": (quantized, {}, "nothing to train.*peft_config=LoraConfig"),
    "quantize, the rest frozen": (
        lambda: tiny_llama().requires_grad_(False),
        {"quantization": "nf4"},
        "nothing to train.*peft_config=LoraConfig",
    ),
    "quantize what is not finite": (with_nan, {"quantization": "nf4"}, "layers.1.mlp.up_proj.*nan"),
    "quantize what has hooks": (with_hook, {"quantization": "nf4"}, "up_proj has hooks"),
    "quantize below adapters": (
        lambda: get_peft_model(tiny_llama(), LORA),
        {"quantization": "nf4"},
        "adapter.*quantization",
    ),
    "targets that match nothing": (
        tiny_llama,
        lora(target_modules=["qq_proj"]),
        "'qq_proj'; did you mean 'q_proj'.*Its layers: down_proj",
    ),
    "nothing to keep of that name": (tiny_llama, lora(modules_to_save=["score"]), "no module 'score'"),
    "prefix tuning": (
        tiny_llama,
        {"peft_config": PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")},
        "prompt learning",
    ),
    "no config": (tiny_llama, {"peft_config": {"r": 4}}, "peft_config=.*PEFT config"),
    "adapters twice": (lambda: get_peft_model(tiny_llama(), LORA), {"peft_config": LORA}, "already has adapters"),
    "dora on int8": (tiny_llama, lora(use_dora=True) | {"quantization": "int8"}, "use_dora=True with int8.*nf4"),
    "pissa on nf4": (tiny_llama, lora(init_lora_weights="pissa") | {"quantization": "nf4"}, "pissa.*quantized"),
    "frozen adapters": (tiny_llama, lora() | {"adapters": "frozen"}, "nothing to train"),
    "wrapped already": (lambda: hybridopt.wrap(tiny_llama()), {}, r"wrapped already; call model.hybrid.unwrap\(\)"),
    "complex": (with_complex, {}, "'phase' is complex.*view_as_real"),
    "no parameters": (nn.ReLU, {}, "ReLU has no parameters"),
    "shapes not known yet": (lambda: nn.Sequential(nn.LazyLinear(4)), {}, "'0.weight' has no shape yet.*forward pass"),
    "on meta": (lambda: tiny_llama().to("meta"), {}, "is on meta and has no values; load the weights"),
    "scripted": (lambda: torch.jit.script(nn.Linear(3, 3)), {}, "ScriptModule.*wrap the nn.Module it was made from"),
    "traced": (lambda: torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3)), {}, "ScriptModule"),
    "own attribute": (lambda: Owner("attribute"), {}, "has a `hybrid`; rename"),
    "own buffer": (lambda: Owner("buffer"), {}, "has a `hybrid`; rename"),
    "own parameter": (lambda: Owner("parameter"), {}, "has a `hybrid`; rename"),
    "own module": (lambda: Owner("module"), {}, "has a `hybrid`; rename"),
    "own property": (Owning, {}, "has a `hybrid`; rename"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refused_before_anything_is_changed(name):
    make, options, text = CASES[name]
    model = make()
    known = name not in ("shapes not known yet", "on meta")
    before, build = bits(model) if known else {}, anatomy(model)
    state = torch.random.get_rng_state()
    with pytest.raises(HybridOptError, match=text):
        hybridopt.wrap(model, **options)
    assert anatomy(model) == build
    if known:
        torch.testing.assert_close(bits(model), before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("thing", [None, "tiny-llama", nn.Linear, [nn.Linear(2, 2)], torch.zeros(2)])
def test_what_is_no_module(thing):
    with pytest.raises(HybridOptError, match="give an nn.Module"):
        hybridopt.wrap(thing)


def test_a_refused_model_can_be_wrapped_after_the_cure():
    model = quantized()
    with pytest.raises(HybridOptError):
        hybridopt.wrap(model)
    model = hybridopt.wrap(model, peft_config=LORA)
    with pytest.raises(HybridOptError, match="unwrap"):
        hybridopt.wrap(model)
    hybridopt.wrap(model.hybrid.unwrap(), policy="adamw")


def test_the_callers_lora_config_is_left_alone():
    config = LoraConfig(r=4, target_modules="all-linear")
    before = config.to_dict()
    hybridopt.wrap(tiny_llama(), peft_config=config, quantization="nf4")
    assert config.to_dict() == before


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_bert])
def test_the_output_layer_is_not_quantized(make):
    model = make()
    head = next(p.name for p in params(model) if p.role == "head")
    hybridopt.wrap(model, quantization="nf4")
    assert dict(model.named_parameters())[head].is_floating_point()
    assert quantization.scheme_of(model) == "nf4"


def test_nothing_left_to_train_when_the_optimizer_is_made():
    model = hybridopt.wrap(tiny_llama()).requires_grad_(False)
    with pytest.raises(HybridOptError, match="nothing to train: every parameter is frozen"):
        model.hybrid.optimizer()


def test_an_unknown_way_of_release():
    with pytest.raises(HybridOptError, match="release='later'"):
        hybridopt.wrap(tiny_llama()).hybrid.optimizer(release="later")


@pytest.mark.parametrize("options", [{}, lora()])
def test_a_4_bit_model_that_an_evaluation_has_spoiled(options):
    model = quantized()
    layers = [m for m in model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.weight.quant_state.packing_format_for_cpu = True  # what bitsandbytes leaves on such CPUs
    with pytest.raises(HybridOptError, match=r"\(14 of 14 4-bit layers\).*Load the model again"):
        hybridopt.wrap(model, **options)
    assert "hybrid" not in vars(model) and not hasattr(model, "peft_config")


def test_a_4_bit_model_is_guarded_against_it():
    model = quantized()
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = True
    model = hybridopt.wrap(model, peft_config=LORA)
    assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in model.modules())
    before = quantization.fingerprint(model)
    model.eval()(**batch(model))
    assert quantization.fingerprint(model) == before
