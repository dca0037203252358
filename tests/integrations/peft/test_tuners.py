"""Every tuner of the installed PEFT trains, saves and comes back, or is refused before anything is changed."""

import copy

import peft
import pytest
import torch

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.roles import params
from support.models import tiny_llama, tiny_moe
from support.saved import anatomy, bits, different
from support.tuners import REFUSED, TYPES, answers, base, config_of, steps


@pytest.fixture(autouse=True)
def compilers(monkeypatch):
    """Take back CC and CXX, which PEFT's BOFT leaves set where its own kernel cannot be compiled."""
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, "g++")


CURED = "LoraConfig|leave out|use_cache"


def wrapped(model, config, door, **options):
    if door == "get_peft_model":
        return hybridopt.wrap(peft.get_peft_model(model, config), **options)
    return hybridopt.wrap(model, peft_config=config, **options)


def tried(kind, door, tmp_path, config=None, base=base, **options):
    """Train, save, load and go on; return why it was refused, or None if all of it is equal to the last bit."""
    config, model = config or config_of(kind), base()
    given = config.to_dict()
    before, values = anatomy(model), bits(model)
    try:
        trained = wrapped(model, config, door, **options)
    except HybridOptError as error:
        if door == "peft_config":
            assert anatomy(model) == before and not different(bits(model), values)
        return str(error)
    if door == "peft_config":
        assert config.to_dict() == given
        assert [e.param for e in trained.hybrid._planned[0].entries] == params(trained)  # as it was foreseen
    names = list(trained.hybrid.tags)
    optimizer = trained.hybrid.optimizer(lr=1e-2)
    steps(trained, optimizer, kind)
    trained.hybrid.save_pretrained(tmp_path)
    state = copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(7)  # what PEFT draws anew must not matter
    again = hybridopt.from_pretrained(base(), tmp_path)
    assert list(again.hybrid.tags) == names and again.hybrid.tags == trained.hybrid.tags
    there, back = dict(trained.named_parameters()), dict(again.named_parameters())
    assert not different(there, back)
    assert {n: p.requires_grad for n, p in there.items()} == {n: p.requires_grad for n, p in back.items()}
    assert not different(dict(trained.named_buffers()), dict(again.named_buffers()))
    assert torch.equal(answers(again, kind), answers(trained, kind))
    resumed = again.hybrid.optimizer(lr=1e-2)
    resumed.load_state_dict(state)
    assert steps(again, resumed, kind, 2) == steps(trained, optimizer, kind, 2)
    return None


@pytest.mark.parametrize("door", ["peft_config", "get_peft_model"])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_works_or_is_refused_before_anything_is_changed(kind, door, tmp_path):
    if kind.name == "XLORA" and door == "get_peft_model":
        pytest.skip("PEFT itself makes no model of it without trained experts")
    why = tried(kind, door, tmp_path)
    assert (why is None) == (kind.name not in REFUSED), why
    if why is not None:
        assert type(config_of(kind)).__name__ in why and any(word in why for word in CURED.split("|"))


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.name not in REFUSED], ids=lambda kind: kind.name)
def test_every_type_on_quantized_weights_works_or_is_refused_before(kind, scheme, tmp_path):
    why = tried(kind, "peft_config", tmp_path, quantization=scheme)
    assert why is None or f"{type(config_of(kind)).__name__} on {scheme} weights" in why
    if kind.name in ("LORA", "IA3", "VERA", "OFT", "RANDLORA"):  # PEFT has layers of their own for these
        assert why is None
    if kind.name in ("GLORA", "TINYLORA", "HRA", "DEFT", "PEANUT"):  # refused by PEFT, or failing, or silently wrong
        assert "leave out quantization" in why


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.name not in REFUSED], ids=lambda kind: kind.name)
def test_every_type_in_bfloat16_works_or_is_refused_before(kind, tmp_path):
    why = tried(kind, "peft_config", tmp_path, adapter_dtype="bfloat16")
    assert (
        why is None or f"{type(config_of(kind)).__name__} in bfloat16: PEFT cannot train it" in why or "tried" in why
    )
    if kind.name in ("LORA", "LOHA", "LOKR", "VERA", "MISS"):
        assert why is None


def test_codes_that_are_taken_for_weights_are_seen(tmp_path):
    with pytest.raises(HybridOptError, match=r"HRAConfig on int8 weights: .*answers differ by \d+%"):
        hybridopt.wrap(base(), peft_config=config_of(peft.PeftType.HRA), quantization="int8")


def test_prompts_are_refused_by_the_automatic_choice_too():
    with pytest.raises(HybridOptError, match="PromptTuningConfig: PEFT loads prompt learning for inference only"):
        hybridopt.wrap(base(), "auto", memory="1GiB", peft_config=config_of(peft.PeftType.PROMPT_TUNING))


def test_what_peft_does_not_save_whole_is_refused():
    config = config_of(peft.PeftType.VBLORA, save_only_topk_weights=True)
    with pytest.raises(HybridOptError, match="VBLoRAConfig: PEFT does not save .*vblora_logits.* options with which"):
        hybridopt.wrap(base(), peft_config=config)


def test_models_of_several_tuners_are_refused():
    model = peft.get_peft_model(base(), config_of(peft.PeftType.LORA), mixed=True)
    with pytest.raises(HybridOptError, match="PeftMixedModel is no model with adapters itself"):
        hybridopt.wrap(model)


def tied():
    return tiny_llama(layers=1, tie=True)


def biased():
    return tiny_llama(layers=1, attention_bias=True)


def experts():
    return tiny_moe(layers=1)


VARIANTS = {
    "dora": ({"use_dora": True}, base),
    "rslora": ({"use_rslora": True}, base),
    "patterns": ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}}, base),
    "bias": ({"bias": "all"}, biased),
    "lora_bias": ({"lora_bias": True}, biased),
    "modules_to_save": ({"modules_to_save": ["embed_tokens", "lm_head"]}, base),
    "modules_to_save-tied": ({"modules_to_save": ["embed_tokens"]}, tied),
    "tokens": ({"trainable_token_indices": [4, 5]}, base),
    "tokens-tied": ({"trainable_token_indices": [4, 5]}, tied),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, tied),
    "replication": ({"layer_replication": [[0, 1], [0, 1]]}, base),
    "parameters": ({"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}, experts),
    "alora": ({"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}, base),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, base),
    "eva": ({"init_lora_weights": "eva"}, base),
}


@pytest.mark.parametrize("door", ["peft_config", "get_peft_model"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_lora_works(name, door, tmp_path):
    options, make = VARIANTS[name]
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"]} | options)
    assert tried(peft.PeftType.LORA, door, tmp_path, config, make) is None


def test_layers_that_are_repeated_in_another_order_are_refused():
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], layer_replication=[[1, 2], [0, 2]])
    with pytest.raises(HybridOptError, match="LoraConfig: PEFT keeps .* of the base under another name"):
        hybridopt.wrap(tiny_llama(), peft_config=config)
